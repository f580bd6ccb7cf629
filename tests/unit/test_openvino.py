"""OpenVINO reads what ONNX Runtime reads, layer by layer; NNCF quantizes what the graph cannot hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_onnx_foreign import conv_file

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import DataError, UsageError
from bitfront.graph import capture
from bitfront.graph.ir import Graph
from bitfront.graph.passes import prepare
from bitfront.measure import verify
from bitfront.measure.profile import by_kind
from bitfront.models.fast_scnn import FastScnn
from bitfront.quant import recipes
from bitfront.quant.plan import Plan
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.runtimes.openvino import OpenVino

SIZE = 32
CONTRACT, OUTPUT = InputContract(SIZE, SIZE), OutputContract()

if OpenVino().missing():
    pytest.skip(OpenVino().missing(), allow_module_level=True)


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(3, 3, SIZE, SIZE)).astype(np.float32)


@pytest.fixture
def quantized(images: np.ndarray) -> tuple[Graph, Plan]:
    """A network with residual additions, which OpenVINO fuses."""
    graph = prepare(capture.from_module(FastScnn(width=0.125, repeats=2).build().eval(), (1, 3, SIZE, SIZE)))
    return recipes.build("int8", graph, batches=[images])


def test_every_layer_is_verified_and_what_is_fused_is_stated(
    quantized: tuple[Graph, Plan], images: np.ndarray, tmp_path: Path
) -> None:
    path = OpenVino().export(*quantized, tmp_path, CONTRACT, OUTPUT)
    found = verify.compare(OpenVino(), path, *quantized, CONTRACT, OUTPUT, images)
    assert found.verified
    assert found.first_difference is None
    assert found.tolerance == OpenVino.end_tolerance_codes > OpenVino.tolerance_codes
    assert "scales in single precision" in found.exceptions[0]
    assert path.read_bytes() == OnnxRuntime().export(*quantized, tmp_path / "ort", CONTRACT, OUTPUT).read_bytes()


def test_a_changed_weight_is_found_in_its_layer(
    quantized: tuple[Graph, Plan], images: np.ndarray, tmp_path: Path
) -> None:
    graph, plan = quantized
    node = next(n for n in graph.nodes if n.op == "conv" and n["groups"] == 1 and "features.1" in n.output)
    weight = graph.constants[node.inputs[1]].copy()
    weight.reshape(-1)[np.abs(weight).argmax()] *= -1
    path = OpenVino().export(graph.with_constants({node.inputs[1]: weight}), plan, tmp_path, CONTRACT, OUTPUT)
    found = verify.compare(OpenVino(), path, graph, plan, CONTRACT, OUTPUT, images)
    assert (found.verified, found.first_difference) == (False, node.output)


def test_an_output_beyond_the_tolerance_is_not_verified(
    quantized: tuple[Graph, Plan], images: np.ndarray, tmp_path: Path
) -> None:
    class Strict(OpenVino):
        end_tolerance_codes = -1

    path = OpenVino().export(*quantized, tmp_path, CONTRACT, OUTPUT)
    found = verify.compare(Strict(), path, *quantized, CONTRACT, OUTPUT, images)
    assert (found.verified, found.tolerance) == (False, -1)


def test_nncf_quantizes_files_that_the_graph_cannot_hold(images: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed")
    source = conv_file(tmp_path / "m.onnx", shape=(1, 3, SIZE, SIZE), opset=17)
    made = OpenVino().export_foreign(source, "int8", [images], tmp_path / "int8", "unit")
    sessions = [OpenVino().open(path) for path in (source, made)]
    first, second = (session.run(images) for session in sessions)
    assert not np.array_equal(first, second)
    assert np.abs(first - second).max() < 0.1 * np.ptp(first)
    described = OpenVino().describe(made)
    assert described.input == replace(OpenVino().describe(source, preprocess="unit").input)
    with pytest.raises(UsageError, match="cannot be exported as dynamic"):
        OpenVino().export_foreign(source, "dynamic", [images], tmp_path / "d")


def test_what_cannot_be_run_is_one_line(quantized: tuple[Graph, Plan], tmp_path: Path) -> None:
    path = OpenVino().export(*quantized, tmp_path, CONTRACT, OUTPUT)
    session = OpenVino().open(path)
    with pytest.raises(DataError, match="OpenVINO cannot run") as found:
        session.run(np.zeros((1, 4, SIZE, SIZE), np.float32))
    assert "\n" not in str(found.value)
    session.close()
    with pytest.raises(DataError, match="is closed"):
        session.run(np.zeros((1, 3, SIZE, SIZE), np.float32))


def test_openvino_says_where_its_time_goes(quantized: tuple[Graph, Plan], images: np.ndarray, tmp_path: Path) -> None:
    path = OpenVino().export(*quantized, tmp_path, CONTRACT, OUTPUT)
    times = OpenVino().profile(path, images, n_runs=2)
    assert "convolutions" in by_kind(times)
    assert {t.dtype for t in times} & {"uint8", "int8"}
