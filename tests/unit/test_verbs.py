"""Verbs: what the command line does, called as functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import bitfront
from bitfront.data.conveyor import Conveyor
from bitfront.verbs.data import convert


def with_unknown_operator(path: Path, rng: np.random.Generator) -> Path:
    """A small network with an operator that the graph does not know, trained by nobody."""
    weights = {"w": rng.normal(size=(4, 3, 3, 3)), "v": rng.normal(size=(4, 4, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Mish", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, 32, 32])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_operators_of_its_own_leave_a_file_without_reference(tmp_path: Path, rng: np.random.Generator) -> None:
    data = tmp_path / "data"
    convert(Conveyor(n_train=8, n_val=4, n_test=4, size=(32, 32)), data)
    net = with_unknown_operator(tmp_path / "net.onnx", rng)
    made = bitfront.quantize(str(net), str(data), tmp_path / "q.onnx", recipe="int8", n_calibrate=4)
    assert "no integer reference" in made.agreement.reference
    assert any("Mish" in note and "without an integer reference" in note for note in made.exported.notes)
    assert made.float_metrics.n == made.metrics.n == 4
    assert bitfront.evaluate(str(tmp_path / "q.onnx"), str(data)).metrics.n == 4
