"""Other people's ONNX files: fed and read by what their graph says, quantized by ONNX Runtime in a child process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitfront.contracts import DataInfo, InputContract
from bitfront.errors import DataError, UsageError
from bitfront.runtimes import onnx_foreign
from bitfront.runtimes.onnx_file import read_contract
from bitfront.runtimes.onnxruntime import OnnxRuntime

RUNTIME = OnnxRuntime()
H, W = 8, 12


def conv_file(
    path: Path, channels: int = 1, last: str = "", shape: tuple[int | str, ...] = (1, 3, H, W), opset: int = 11
) -> Path:
    """conv 3x3 to ``channels`` maps, behind an operator of ONNX that the graph does not hold (Erf), then ``last``."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32), "w")
    head = numpy_helper.from_array(rng.normal(0, 0.3, (channels, 8, 1, 1)).astype(np.float32), "h")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Erf", ["a"], ["e"]),
        helper.make_node("Conv", ["e", "h"], ["y" if not last else "c"]),
    ]
    if last == "ArgMax":
        nodes.append(helper.make_node("ArgMax", ["c"], ["y"], axis=1, keepdims=0))
    elif last == "GlobalAveragePool":
        nodes += [helper.make_node(last, ["c"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    elif last == "Transposed":
        nodes.append(helper.make_node("Transpose", ["c"], ["y"], perm=[0, 1, 3, 2]))
    elif last:
        nodes.append(helper.make_node(last, ["c"], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))]
    graph = helper.make_graph(nodes, "theirs", inputs, [helper.make_empty_tensor_value_info("y")], [weight, head])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6), path)
    return path


def pixel_file(path: Path, kind: int, shape: tuple[int | str, ...]) -> Path:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    inputs = [helper.make_tensor_value_info("x", kind, list(shape))]
    graph = helper.make_graph(nodes, "theirs", inputs, [helper.make_empty_tensor_value_info("y")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("channels", "last", "readout", "threshold"),
    [(1, "", "threshold", 0.0), (1, "Sigmoid", "threshold", 0.5), (4, "", "argmax", 0.0), (4, "ArgMax", "labels", 0.0)],
)
def test_the_output_says_how_it_is_read(
    channels: int, last: str, readout: str, threshold: float, tmp_path: Path
) -> None:
    found = RUNTIME.describe(conv_file(tmp_path / "m.onnx", channels, last))
    assert (found.output.readout, found.output.threshold) == (readout, threshold)
    assert (found.input.height, found.input.width, found.input.layout) == (H, W, "nchw")
    assert not found.any_size


@pytest.mark.parametrize(
    ("preset", "black", "white"),
    [
        ("unit", 0.0, 1.0),
        ("signed", -1.0, 1.0),
        ("raw", 0.0, 255.0),
        ("imagenet", -2.1179, 2.2489),
        ("", -2.1179, 2.2489),
    ],
)
def test_presets_are_means_and_deviations(preset: str, black: float, white: float, tmp_path: Path) -> None:
    found = RUNTIME.describe(conv_file(tmp_path / "m.onnx"), preprocess=preset).input
    assert (0 - found.mean[0]) / found.std[0] == pytest.approx(black, abs=1e-4)
    assert (1 - found.mean[0]) / found.std[0] == pytest.approx(white, abs=1e-4)
    assert len(found.mean) == len(found.std) == 3


def test_the_choice_is_told(tmp_path: Path) -> None:
    path = conv_file(tmp_path / "m.onnx")
    assert "imagenet input (assumed" in RUNTIME.describe(path).notes[0]
    assert "raw input (as asked)" in RUNTIME.describe(path, preprocess="raw").notes[0]
    info = DataInfo("lab", ("a", "b"), preprocess={"mean": [0.1, 0.2, 0.3], "std": 0.5, "resize": "nearest"})
    found = RUNTIME.describe(path, info=info)
    assert (found.input.mean, found.input.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert found.input.resize == "nearest"
    assert "data's description" in found.notes[0]
    assert RUNTIME.describe(path, preprocess="unit", info=info).input.mean == (0.0, 0.0, 0.0)
    with pytest.raises(UsageError, match="unknown preprocessing 'caffe'"):
        RUNTIME.describe(path, preprocess="caffe")


@pytest.mark.parametrize(("kind", "offset"), [(TensorProto.UINT8, 0), (TensorProto.INT8, 128)])
def test_integer_inputs_get_the_pixels(kind: int, offset: int, tmp_path: Path) -> None:
    path = pixel_file(tmp_path / "m.onnx", kind, (1, H, W, 3))
    found = RUNTIME.describe(path, preprocess="imagenet").input
    assert found.layout == "nhwc"
    pixels = np.arange(3 * H * W).reshape(1, 3, H, W) % 256
    x = ((pixels / 255 - found.mean[0]) / found.std[0]).astype(np.float32)
    np.testing.assert_array_equal(RUNTIME.open(path).run(x), pixels.transpose(0, 2, 3, 1) - offset)


def test_free_sizes_get_a_default(tmp_path: Path) -> None:
    found = RUNTIME.describe(conv_file(tmp_path / "m.onnx", shape=("n", 3, "h", "w")))
    assert found.any_size
    assert (found.input.height, found.input.width) == (512, 512)
    assert "takes any size" in found.notes[1]


@pytest.mark.parametrize(("channels", "readout"), [(1, "threshold"), (4, "argmax")])
def test_an_answer_without_a_map_is_a_class(channels: int, readout: str, tmp_path: Path) -> None:
    found = RUNTIME.describe(conv_file(tmp_path / "m.onnx", channels, "GlobalAveragePool"))
    assert (found.task, found.output.readout) == ("classification", readout)
    assert RUNTIME.describe(conv_file(tmp_path / "n.onnx", channels)).task == "segmentation"


def test_what_answers_with_nothing_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gives \(1, 1, 12, 8\), neither a map nor a class"):
        RUNTIME.describe(conv_file(tmp_path / "m.onnx", last="Transposed"))
    with pytest.raises(DataError, match="takes 4 channels"):
        RUNTIME.describe(pixel_file(tmp_path / "m.onnx", TensorProto.FLOAT, (1, 4, H, W)))
    with pytest.raises(DataError, match=r"takes DOUBLE \[1, 3, 8, 12\], not images"):
        RUNTIME.describe(pixel_file(tmp_path / "m.onnx", TensorProto.DOUBLE, (1, 3, H, W)))


@pytest.mark.parametrize("recipe", ["float32", "dynamic", "int8"])
def test_unknown_operators_are_quantized_by_the_runtime(recipe: str, tmp_path: Path) -> None:
    """From opset 11, which knows no per-channel DequantizeLinear; the new file says how it is fed."""
    path = conv_file(tmp_path / "theirs.onnx", 3)
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (4, 3, H, W)).astype(np.float32)
    made = RUNTIME.export_foreign(path, recipe, [x[:2], x[2:]], tmp_path / recipe, preprocess="signed")
    wanted, got = RUNTIME.open(path).run(x), RUNTIME.open(made).run(x)
    assert np.abs(got - wanted).max() < (1e-6 if recipe == "float32" else 0.06 * np.ptp(wanted))
    known = read_contract(made)
    assert known is not None
    assert known[0] == InputContract(H, W, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert (known[2]["recipe"], known[2]["foreign"]) == (recipe, "theirs.onnx")
    operators = {node.op_type for node in onnx.load(made).graph.node}
    assert {"float32": "Conv", "dynamic": "DynamicQuantizeLinear", "int8": "QuantizeLinear"}[recipe] in operators


def test_what_cannot_be_quantized_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = conv_file(tmp_path / "theirs.onnx")
    with pytest.raises(UsageError, match="cannot be exported as float16"):
        RUNTIME.export_foreign(path, "float16", [], tmp_path / "out")
    with pytest.raises(DataError, match="nothing to calibrate"):
        RUNTIME.export_foreign(path, "int8", [], tmp_path / "out")
    pixels = pixel_file(tmp_path / "pixels.onnx", TensorProto.UINT8, (1, H, W, 3))
    with pytest.raises(DataError, match="takes uint8"):
        RUNTIME.export_foreign(pixels, "int8", [], tmp_path / "out")
    monkeypatch.setattr(onnx_foreign.sys, "executable", "/bin/false")
    with pytest.raises(DataError, match=r"quantizer fails on 'theirs\.onnx': exit status 1"):
        RUNTIME.export_foreign(path, "dynamic", [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_own_files_keep_their_contract(tmp_path: Path) -> None:
    path = conv_file(tmp_path / "theirs.onnx")
    made = RUNTIME.export_foreign(path, "float32", [], tmp_path / "out", preprocess="raw")
    found = RUNTIME.describe(made)
    assert found.input.std == (1 / 255,) * 3
    assert found.notes == ()
    assert "is not used" in RUNTIME.describe(made, preprocess="unit").notes[0]
