"""300 damaged images, masks and data YAMLs: a result or one line with a hint, never another exception."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/fuzz_inputs.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_inputs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_inputs"] = module
    spec.loader.exec_module(module)
    return module


def test_damaged_inputs(fuzz: ModuleType) -> None:
    found = fuzz.run(300, 100)
    assert found["tracebacks"] == []
    outcomes = found["outcomes"]
    assert outcomes["image"]["result"] >= 10  # the damage is not so heavy that nothing is ever read
    assert outcomes["mask"]["result"] >= 5
    assert outcomes["mask"]["LabelError"] >= 10
    assert outcomes["config"]["UsageError"] >= 30


def test_undamaged_inputs_are_read(fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "damage", lambda data, rng: data)
    monkeypatch.setattr(fuzz, "damage_text", lambda text, rng: text.encode())
    monkeypatch.setattr(fuzz, "unexpected", lambda rng: fuzz.sound_masks(rng)[0])
    found = fuzz.run(60, 0)
    assert {kind: dict(counts) for kind, counts in found["outcomes"].items()} == {
        kind: {"result": 20} for kind in ("image", "mask", "config")
    }
