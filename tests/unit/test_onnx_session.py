"""ONNX Runtime sessions: what is fed, what comes back, what is refused; looking inside."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import DataError
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.runtimes import onnx_session
from bitfront.runtimes.onnx_file import layout
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.simulate import reference

RUNTIME = OnnxRuntime(full_names=True)
CONTRACT, OUTPUT = InputContract(8, 8), OutputContract()


def network() -> Graph:
    b = Builder()
    x = b.input("image", (1, 3, 8, 8))
    weight = b.constant("w", np.linspace(-1, 1, 4 * 27).reshape(4, 3, 3, 3), "weight")
    x = b.node("conv", "conv", [x, weight], strides=[2, 2], pads=[1] * 4, dilations=[1, 1], groups=1, clip=[0.0, 6.0])
    return b.build([b.node("sigmoid", "out", [x])])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return RUNTIME.export(network(), Plan("float32"), tmp_path, CONTRACT, OUTPUT)


def image_file(path: Path, shape: list[int | str], kind: int = TensorProto.FLOAT, scale: float = 2.0) -> Path:
    """A foreign file: output = scale * input, as float32."""
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), helper.make_node("Mul", ["f", "s"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.float32(scale), "s")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_it_is_there() -> None:
    assert RUNTIME.missing() == ""
    assert RUNTIME.version().startswith("1.")


def test_any_batch_runs(path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(0, 1, (5, 3, 8, 8)).astype(np.float32)
    session = RUNTIME.open(path)
    together = session.run(x)
    assert together.shape == (5, 4, 4, 4)
    np.testing.assert_allclose(together, np.concatenate([session.run(x[i : i + 1]) for i in range(5)]), atol=1e-6)


def test_fixed_batches_are_split(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(0, 1, (3, 3, 4, 4)).astype(np.float32)
    session = RUNTIME.open(image_file(tmp_path / "one.onnx", [1, 3, 4, 4]))
    np.testing.assert_array_equal(session.run(x), 2 * x)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [(TensorProto.UINT8, 0, 255), (TensorProto.INT8, -128, 127), (TensorProto.FLOAT16, -999, 999)],
)
def test_foreign_inputs_are_cast_and_transposed(kind: int, low: float, high: float, tmp_path: Path) -> None:
    x = np.linspace(-300, 300, 2 * 3 * 6 * 5).reshape(2, 3, 6, 5).astype(np.float16).astype(np.float32)
    session = RUNTIME.open(image_file(tmp_path / "model.onnx", ["n", 6, 5, 3], kind))
    wanted = np.clip(x if kind == TensorProto.FLOAT16 else np.rint(x), low, high)
    np.testing.assert_array_equal(session.run(x), 2 * wanted.transpose(0, 2, 3, 1))


def test_layouts() -> None:
    assert [layout(s) for s in ([1, 3, 8, 8], [1, 8, 8, 3], ["n", 1, 8, 8], [1, "h", "w", 3], [1, 3, 3, 3])] == [
        "nchw", "nhwc", "nchw", "nhwc", "nchw",
    ]  # fmt: skip


def test_what_does_not_fit_is_one_clear_error(path: Path, tmp_path: Path) -> None:
    session = RUNTIME.open(path)
    with pytest.raises(DataError, match=r"cannot run .* on float32 \(1, 3, 9, 9\)"):
        session.run(np.zeros((1, 3, 9, 9), np.float32))
    session.close()
    with pytest.raises(DataError, match="is closed"):
        session.run(np.zeros((1, 3, 8, 8), np.float32))
    for shape, kind in (([1, 8], TensorProto.FLOAT), ([1, 3, 8, 8], TensorProto.DOUBLE)):
        with pytest.raises(DataError, match="not images"):
            RUNTIME.open(image_file(tmp_path / "odd.onnx", shape, kind))


def test_damaged_files_are_refused(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    broken = tmp_path / "broken.onnx"
    for content in (b"", b"not a model", data[: len(data) // 2], data.replace(b"Sigmoid", b"Sigmoit")):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=r"broken\.onnx") as found:
            RUNTIME.open(broken)
        assert found.value.hint
    with pytest.raises(DataError, match="cannot read"):
        RUNTIME.open(tmp_path / "gone.onnx")
    with pytest.raises(DataError, match="cannot read"):
        RUNTIME.open(tmp_path)


def test_weights_elsewhere_are_refused(path: Path, tmp_path: Path) -> None:
    model = onnx.load(path)
    target = tmp_path / "external.onnx"
    onnx.save(model, target, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert os.path.lexists(tmp_path / "weights.bin")
    with pytest.raises(DataError, match="another file"):
        RUNTIME.open(target)


def test_traces_name_the_tensors_of_the_graph(path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(0, 1, (2, 3, 8, 8)).astype(np.float32)
    wanted = reference.run(network(), x, keep="*")
    for optimized in (True, False):
        found = RUNTIME.open(path).trace(x, optimized)
        assert set(found) == {"conv", "out"}
        for name, values in found.items():
            np.testing.assert_allclose(values, wanted[name], atol=1e-5)


def test_observing_gives_every_tensor(rng: np.random.Generator) -> None:
    x = rng.normal(0, 1, (2, 3, 8, 8)).astype(np.float32)
    wanted, found = reference.run(network(), x, keep="*"), RUNTIME.observe(network())(x)
    assert set(found) == set(wanted) == {"image", "conv", "out"}
    for name, values in found.items():
        np.testing.assert_allclose(values, wanted[name], atol=1e-5)


def test_one_thread_that_does_not_spin() -> None:
    chosen = onnx_session.options(1)
    assert (chosen.intra_op_num_threads, chosen.inter_op_num_threads) == (1, 1)
    assert chosen.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert chosen.use_deterministic_compute
