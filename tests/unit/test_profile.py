from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import DataError
from bitfront.graph import capture
from bitfront.graph.passes import prepare
from bitfront.measure.profile import OperatorTime, by_kind, explain
from bitfront.models.tiny import Tiny
from bitfront.quant import recipes
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.stats import ranges

FLOAT = [
    OperatorTime("a", "Conv", 1.0, "float32"),
    OperatorTime("b", "Resize", 0.2, "float32"),
    OperatorTime("c", "Odd", 0.1, "float32"),
]


def test_times_add_up_by_kind_of_work() -> None:
    assert by_kind([*FLOAT, OperatorTime("d", "FusedConv", 0.5)]) == {
        "convolutions": 1.5,
        "resizing": 0.2,
        "the rest": 0.1,
    }


def test_what_takes_longer_is_named_first_and_what_stayed_float_is_counted() -> None:
    own = [
        OperatorTime("q", "QuantizeLinear", 0.4, "uint8"),
        OperatorTime("a", "QLinearConv", 1.2, "uint8"),
        OperatorTime("b", "Resize", 0.2, "float32"),
    ]
    assert explain(own, FLOAT, "int8", "float32") == (
        "int8 is 1.38x slower than float32 by its operators (1.8 against 1.3 ms): "
        "conversions between types 0 -> 0.4 ms; convolutions 1 -> 1.2 ms; one operator stays float (Resize; 0.2 ms)"
    )
    assert explain(FLOAT, own, "float32", "int8").startswith("float32 is 1.38x faster than int8")
    assert explain([], own, "float32", "int8") == "float32: the engine does not say where the time goes"
    alike = [OperatorTime("a", "Conv", 1.001, "float32"), *FLOAT[1:]]
    assert "no kind of work stands out" in explain(alike, FLOAT, "float16", "float32")


def test_onnx_runtime_says_where_its_time_goes(tmp_path: Path) -> None:
    graph = prepare(capture.from_module(Tiny().build().eval(), (1, 3, 32, 32)))
    _, plan = recipes.build("float32", graph, ranges.Ranges({}), [])
    path = OnnxRuntime().export(graph, plan, tmp_path, InputContract(32, 32), OutputContract())
    times = OnnxRuntime().profile(path, np.zeros((1, 3, 32, 32), np.float32), n_runs=3)
    assert "convolutions" in by_kind(times)
    assert all(t.ms >= 0 and t.dtype == "float32" for t in times)
    with pytest.raises(DataError, match="ONNX Runtime cannot run"):
        OnnxRuntime().profile(path, np.zeros((1, 4, 32, 32), np.float32))
