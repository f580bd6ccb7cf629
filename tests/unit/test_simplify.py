from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitfront import cli
from bitfront.contracts import InputContract
from bitfront.registry import load
from bitfront.verbs import simplifying
from bitfront.verbs.simplifying import simplify

CONTRACT = InputContract(channels=3, height=8, width=8)


@pytest.fixture
def redundant(tmp_path: Path) -> Path:
    """A network with a chain of nodes that do nothing and a constant that is computed."""
    nodes = [helper.make_node("Identity", ["x"], ["i0"])]
    nodes += [helper.make_node("Identity", [f"i{k}"], [f"i{k + 1}"]) for k in range(30)]
    nodes += [helper.make_node("Conv", ["i30", "w"], ["y"], pads=[0, 0, 0, 0])]
    weight = np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32)
    maps = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 8, 8]) for n, c in (("x", 3), ("y", 2))]
    graph = helper.make_graph(nodes, "net", maps[:1], maps[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return path


def test_a_file_with_idle_nodes_gets_smaller_and_answers_the_same(redundant: Path) -> None:
    engine = load("runtime", "onnxruntime")()
    image = np.ones((1, 3, 8, 8), np.float32)
    wanted, size = simplifying._answers(engine, redundant, image), redundant.stat().st_size
    note = simplify(redundant, engine, CONTRACT)
    assert note.startswith("simplified by onnxslim"), note
    assert redundant.stat().st_size < size
    np.testing.assert_allclose(simplifying._answers(engine, redundant, image), wanted, rtol=1e-6)


@pytest.mark.parametrize("fate", ["slow", "failing", "otherwise", "larger", "missing"])
def test_a_file_that_cannot_be_simplified_stays(redundant: Path, fate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, before = load("runtime", "onnxruntime")(), redundant.read_bytes()
    other = helper.make_node("Neg", ["x"], ["y"])
    maps = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in "xy"]
    graph = helper.make_graph([other], "net", maps[:1], maps[1:])
    negated = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    written = {"otherwise": negated, "larger": before + b"0" * 99}

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if fate == "slow":
            raise subprocess.TimeoutExpired(command, 1)
        Path(command[-1]).write_bytes(written.get(fate, b""))
        return subprocess.CompletedProcess(command, int(fate == "failing"), "", "ValueError: a reason")

    monkeypatch.setattr(simplifying.subprocess, "run", run)  # type: ignore[attr-defined]
    if fate == "missing":
        monkeypatch.setattr(simplifying.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    note = simplify(redundant, engine, CONTRACT)
    says = {"slow": "longer", "failing": "a reason", "otherwise": "otherwise", "larger": "no smaller"}
    assert says.get(fate, "not installed") in note
    assert redundant.read_bytes() == before


def test_export_says_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.onnx"
    code = cli.main(["export", "tiny", "--out", str(out), "--set", "resolution=32", "--simplify"])
    assert code == 0
    assert "simplified" in capsys.readouterr().err
    assert cli.main(["verify", str(out)]) == 0
