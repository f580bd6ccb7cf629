"""Damaged model files: a result or one clear line, and never the end of the process."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/fuzz_models.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_models", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("kind", "n"), [("tflite", 18), ("onnx", 30)])
def test_damaged_files(kind: str, n: int, fuzz: ModuleType) -> None:
    if kind == "tflite":
        pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    found = fuzz.run(kind, n, 7, [])
    assert found["problems"] == []
    assert found["outcomes"]["DataError"] >= n / 3
    assert found["outcomes"].get("result", 0) >= 1, "the damage is not so heavy that nothing is ever read"
