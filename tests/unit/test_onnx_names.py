"""Short names in ONNX files: smaller, the same numbers, and the long ones come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bitfront.contracts import InputContract, OutputContract
from bitfront.graph import capture
from bitfront.graph.onnx_names import expand
from bitfront.graph.passes import prepare
from bitfront.models.fast_scnn import FastScnn
from bitfront.quant import recipes
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.stats import ranges

SIZE = 32
CONTRACT, OUTPUT = InputContract(SIZE, SIZE), OutputContract()


@pytest.mark.parametrize("recipe", ["float32", "float16", "dynamic", "int8"])
def test_short_names_change_bytes_and_nothing_else(recipe: str, tmp_path: Path, rng: np.random.Generator) -> None:
    graph = prepare(capture.from_module(FastScnn(width=0.125, repeats=1).build().eval(), (1, 3, SIZE, SIZE)))
    batches = [rng.normal(size=(1, 3, SIZE, SIZE)).astype(np.float32) for _ in range(2)]
    graph, plan = recipes.build(recipe, graph, ranges.collect(graph, batches), batches)
    full = OnnxRuntime(full_names=True).export(graph, plan, tmp_path / "full", CONTRACT, OUTPUT)
    short = OnnxRuntime().export(graph, plan, tmp_path / "short", CONTRACT, OUTPUT)
    assert short.stat().st_size < (0.65 if recipe == "int8" else 0.95) * full.stat().st_size

    sessions = [OnnxRuntime().open(path) for path in (full, short)]
    np.testing.assert_array_equal(*(session.run(batches[0]) for session in sessions))
    traces = [session.trace(batches[0]) for session in sessions]
    assert list(traces[0]) == list(traces[1])
    for name, value in traces[0].items():
        np.testing.assert_array_equal(value, traces[1][name], err_msg=name)

    model = onnx.load(short)
    onnx.checker.check_model(model, full_check=True)
    expand(model)
    onnx.checker.check_model(model, full_check=True)
    made = {name for node in model.graph.node for name in node.output}
    assert {node.output for node in graph.nodes if recipe != "float16"} <= made


def test_a_float_file_comes_back_with_its_names(tmp_path: Path) -> None:
    graph = prepare(capture.from_module(FastScnn(width=0.125, repeats=1).build().eval(), (1, 3, SIZE, SIZE)))
    _, plan = recipes.build("float32", graph, ranges.Ranges({}), [])
    again = capture.from_onnx(OnnxRuntime().export(graph, plan, tmp_path, CONTRACT, OUTPUT))
    assert [node.output for node in prepare(again).nodes] == [node.output for node in graph.nodes]
    assert not [name for name in again.tensors if name.startswith("@")]
