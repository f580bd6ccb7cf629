"""The ONNX writer: bytes that repeat, names that stay, codes on disk, patterns that ONNX Runtime fuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import DataError, UsageError
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.quant.formats import Affine, Float16, Qmn
from bitfront.quant.plan import Plan
from bitfront.record import digest_file
from bitfront.runtimes.onnx_file import read_contract
from bitfront.runtimes.onnx_session import options
from bitfront.runtimes.onnx_writer import resize_scale
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.simulate import reference

SIZE = 8
CONTRACT, OUTPUT = InputContract(SIZE, SIZE), OutputContract(classes=("belt", "box"))
RUNTIME = OnnxRuntime(full_names=True)
RELU = [0.0, float("inf")]
U8 = Affine(8, (0.02,), (128,), signed=False)
W8 = Affine(8, (0.01,), (0,))


def conv(b: Builder, x: str, name: str, n: int, kernel: int = 3, **options: object) -> str:
    rng = np.random.default_rng(len(name))
    weight = b.constant(f"{name}.w", rng.normal(0, 0.3, (n, b.shape(x)[1], kernel, kernel)), "weight")
    bias = b.constant(f"{name}.b", rng.normal(0, 0.3, n), "bias")
    rest = {"strides": [1, 1], "pads": [kernel // 2] * 4, "dilations": [1, 1], "groups": 1, "clip": None, **options}
    return b.node("conv", name, [x, weight, bias], **rest)


def network() -> Graph:
    b = Builder()
    x = conv(b, b.input("image", (1, 3, SIZE, SIZE)), "/stem/conv", 4, clip=RELU)
    pooled = b.node("average_pool", "pool", [x], kernel=[2, 2], strides=[2, 2], pads=[0] * 4, count_include_pad=True)
    up = b.node("resize", "up", [pooled], mode="linear", size=[SIZE, SIZE], coordinates="align_corners")
    x = conv(b, b.node("concat", "cat", [x, up], axis=1), "mix", 4, clip=[0.0, 6.0])
    return b.build([conv(b, x, "head", 2, 1)])


def int8(graph: Graph, form: Affine = U8) -> Plan:
    names = [*graph.inputs, *(n.output for n in graph.nodes)]
    weights = [n.inputs[1] for n in graph.nodes if n.op == "conv"]
    return Plan("int8", {**dict.fromkeys(names, form), **dict.fromkeys(weights, W8)})


def images(rng: np.random.Generator, n: int = 2) -> np.ndarray:
    return rng.normal(0, 1, (n, 3, SIZE, SIZE)).astype(np.float32)


def agree(
    graph: Graph, plan: Plan, folder: Path, x: np.ndarray, contract: InputContract = CONTRACT, atol: float = 1e-5
) -> onnx.ModelProto:
    """Export and check against the reference; returns the written model."""
    path = RUNTIME.export(graph, plan, folder, contract, OUTPUT)
    name = graph.outputs[0]
    wanted = reference.values(graph, plan, name, reference.run(graph, x, plan)[name])
    np.testing.assert_allclose(RUNTIME.open(path).run(x), wanted, rtol=0, atol=atol)
    return onnx.load(path)


def fused(path: Path) -> Counter[str]:
    """What ONNX Runtime makes of a file: operator -> how many."""
    target = path.with_name("optimized.onnx")
    chosen = options(1)
    chosen.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(target).graph.node)


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    graph = network()
    digests = {digest_file(RUNTIME.export(graph, int8(graph), tmp_path / n, CONTRACT, OUTPUT)) for n in "ab"}
    assert len(digests) == 1
    assert digest_file(RUNTIME.export(graph, Plan("float32"), tmp_path / "c", CONTRACT, OUTPUT)) not in digests


def test_names_stay(tmp_path: Path) -> None:
    graph = network()
    model = onnx.load(RUNTIME.export(graph, int8(graph), tmp_path, CONTRACT, OUTPUT))
    onnx.checker.check_model(model, full_check=True)
    made = {name for node in model.graph.node for name in node.output}
    assert {n.output for n in graph.nodes} <= made
    assert [v.name for v in model.graph.input] == ["image"]
    assert [v.name for v in model.graph.output] == ["head"]
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 8, 8]
    assert model.opset_import[0].version == 18


def test_the_file_describes_itself(tmp_path: Path) -> None:
    graph, plan = network(), Plan("float32")
    contract = InputContract(SIZE, SIZE, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.25))
    path = RUNTIME.export(graph, plan, tmp_path, contract, OUTPUT)
    found = read_contract(path)
    assert found is not None
    assert found[:2] == (contract, OUTPUT)
    assert found[2]["recipe"] == "float32"
    assert found[2]["plan"] == plan.id
    assert found[2]["graph"] == graph.id
    assert found[2]["tool"].startswith("bitfront ")
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    assert read_contract(path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "damaged"), ('{"schema": 99, "input": {}, "output": {}}', "damaged"), ("[1]", "damaged")],
)
def test_a_damaged_description_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = RUNTIME.export(network(), Plan("float32"), tmp_path, CONTRACT, OUTPUT)
    model = onnx.load(path)
    model.metadata_props[0].value = text
    onnx.save(model, path)
    with pytest.raises(DataError, match=message):
        read_contract(path)


def test_a_newer_description_is_refused(tmp_path: Path) -> None:
    path = RUNTIME.export(network(), Plan("float32"), tmp_path, CONTRACT, OUTPUT)
    model = onnx.load(path)
    model.metadata_props[0].value = model.metadata_props[0].value.replace('"schema":1', '"schema":2')
    onnx.save(model, path)
    with pytest.raises(DataError, match="newer bitfront"):
        read_contract(path)


def test_weights_are_stored_as_codes(tmp_path: Path) -> None:
    graph = network()
    plan = int8(graph)
    model = onnx.load(RUNTIME.export(graph, plan, tmp_path, CONTRACT, OUTPUT))
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert not set(stored) & set(graph.constants)
    node = graph.nodes[0]
    np.testing.assert_array_equal(stored["/stem/conv.w@codes"], W8.encode(graph.constants["/stem/conv.w"]))
    assert stored["/stem/conv.w@codes"].dtype == np.int8
    np.testing.assert_array_equal(stored["/stem/conv@bias@codes"], reference.bias_codes(graph, plan, node))
    assert stored["/stem/conv@bias@codes"].dtype == np.int32


def test_onnx_runtime_computes_in_integers(tmp_path: Path) -> None:
    """The fused activations of all layers vanish or become a clip of bytes; nothing is left to float convolution."""
    graph = network()
    found = fused(RUNTIME.export(graph, int8(graph), tmp_path, CONTRACT, OUTPUT))
    assert found["QLinearConv"] == 3
    assert found["QLinearAveragePool"] == found["QLinearConcat"] == 1
    assert found["Conv"] == found["Relu"] == 0


def test_thin_resizes_stay_off_the_blocked_kernel(tmp_path: Path) -> None:
    """Padding one channel to sixteen made a 512x512 network 1.6 times slower."""
    b = Builder()
    x = conv(b, b.input("image", (1, 3, SIZE, SIZE)), "stem", 1)
    graph = b.build([b.node("resize", "up", [x], mode="linear", size=[32, 32], coordinates="align_corners")])
    assert fused(RUNTIME.export(graph, Plan("float32"), tmp_path, CONTRACT, OUTPUT))["Upsample"] == 0


@pytest.mark.parametrize("clip", [[0.0, float("inf")], [0.0, 0.7], [-0.5, 0.5], [-9.0, 9.0]])
def test_clips_act_on_codes(clip: list[float], tmp_path: Path, rng: np.random.Generator) -> None:
    b = Builder()
    x = conv(b, b.input("image", (1, 3, SIZE, SIZE)), "a", 4, clip=clip)
    y = b.node("clip", "c", [conv(b, x, "bb", 4)], lo=clip[0], hi=clip[1])
    graph = b.build([b.node("add", "sum", [x, y], clip=clip)])
    model = agree(graph, int8(graph), tmp_path, images(rng))
    assert not any(node.op_type == "Relu" for node in model.graph.node)
    other = int8(graph)
    other = Plan("int8", {**other.formats, "c": Affine(8, (0.013,), (100,), signed=False)})
    agree(graph, other, tmp_path, images(rng))  # a lone clip into another format


@pytest.mark.parametrize("bits", [4, 7, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_narrow_formats_saturate_in_their_own_bits(
    bits: int, signed: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    graph = network()
    form = Affine(bits, (4.0 / 2**bits,), (0 if signed else 2 ** (bits - 1),), signed)
    agree(graph, int8(graph, form), tmp_path, images(rng))


def test_sixteen_bits_take_opset_21(tmp_path: Path, rng: np.random.Generator) -> None:
    graph = network()
    wide = Affine(16, (1e-4,), (0,))
    model = agree(graph, int8(graph, wide), tmp_path, images(rng) / 2, atol=1.1e-4)  # sums in float32: one code
    assert model.opset_import[0].version == 21
    narrow = Plan("q", {**int8(graph).formats, "mix": Affine(12, (2e-3,), (0,))})
    agree(graph, narrow, tmp_path, images(rng), atol=U8.scale[0] + 1e-5)


def test_fixed_point_formats(tmp_path: Path, rng: np.random.Generator) -> None:
    graph = network()
    names = [*graph.inputs, *(n.output for n in graph.nodes)]
    weights = [n.inputs[1] for n in graph.nodes if n.op == "conv"]
    plan = Plan("fixed", {**dict.fromkeys(names, Qmn(8, 5)), **dict.fromkeys(weights, Qmn(8, 7))})
    agree(graph, plan, tmp_path, images(rng))


def test_too_many_bits_are_refused(tmp_path: Path) -> None:
    graph = network()
    with pytest.raises(UsageError, match="'pool' has 17-bit codes"):
        RUNTIME.export(graph, Plan("q", {"pool": Affine(17, (1.0,))}), tmp_path, CONTRACT, OUTPUT)


def test_half_precision_has_single_precision_ends(tmp_path: Path, rng: np.random.Generator) -> None:
    graph = network()
    path = RUNTIME.export(graph, Plan("float16", dict.fromkeys(graph.tensors, Float16())), tmp_path, CONTRACT, OUTPUT)
    model = onnx.load(path)
    assert {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert all(t.name.endswith("@scales") for t in floats)
    assert RUNTIME.open(path).run(images(rng)).dtype == np.float32
    weights = Plan("float16", dict.fromkeys(graph.constants, Float16()))
    agree(graph, weights, tmp_path, images(rng))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8"])
@pytest.mark.parametrize("recipe", ["float32", "int8"])
def test_inputs_are_fed_as_the_contract_says(layout: str, dtype: str, recipe: str, tmp_path: Path) -> None:
    """Images of whole codes, so that every kind of input carries the same numbers."""
    graph = network()
    rng = np.random.default_rng(1)
    x = (rng.integers(-60, 60, (2, 3, SIZE, SIZE)) / 32).astype(np.float32)
    zero = {"uint8": 128, "int8": 3}.get(dtype, 0)
    contract = InputContract(SIZE, SIZE, layout=layout, dtype=dtype, scale=1 / 32, zero_point=zero)
    plan = int8(graph) if recipe == "int8" else Plan("float32")
    model = agree(graph, plan, tmp_path, x, contract)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    assert shape == ([3, SIZE, SIZE] if layout == "nchw" else [SIZE, SIZE, 3])


def test_dynamic_files_take_one_image_at_a_time(tmp_path: Path, rng: np.random.Generator) -> None:
    """So that a scale does not depend on who shares a batch."""
    graph = network()
    weights = [n.inputs[1] for n in graph.nodes if n.op == "conv"]
    plan = Plan("dynamic", dict.fromkeys(weights, W8), {"dynamic": True})
    session = RUNTIME.open(RUNTIME.export(graph, plan, tmp_path, CONTRACT, OUTPUT))
    x = images(rng, 3) * np.array([1, 5, 0.1], np.float32).reshape(3, 1, 1, 1)
    together, alone = session.run(x), [session.run(x[i : i + 1]) for i in range(3)]
    np.testing.assert_array_equal(together, np.concatenate(alone))
    wanted = [reference.run(graph, x[i : i + 1], plan)["head"] for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(wanted), atol=0.02)
    skewed = Plan("dynamic", dict.fromkeys(weights, Affine(8, (0.01,), (3,))), {"dynamic": True})
    with pytest.raises(UsageError, match="has a zero point"):
        RUNTIME.export(graph, skewed, tmp_path, CONTRACT, OUTPUT)


def test_a_float_weight_between_codes_stays_float(tmp_path: Path, rng: np.random.Generator) -> None:
    """ONNX Runtime would quantize it on its own, per tensor."""
    graph = network()
    forms = {name: form for name, form in int8(graph).formats.items() if name != "mix.w"}
    agree(graph, Plan("int8", forms), tmp_path, images(rng))


def other_operators() -> Graph:
    b = Builder()
    x = conv(b, b.input("image", (1, 3, SIZE, SIZE)), "stem", 6)
    mean = b.constant("mean", np.linspace(-1, 1, 6))
    statistics = [b.constant(n, np.linspace(0.5, 2, 6)) for n in ("gamma", "beta")]
    x = b.node("batch_norm", "bn", [x, *statistics, mean, b.constant("var", np.linspace(0.5, 2, 6))], epsilon=1e-3)
    x = b.node("leaky_relu", "leaky", [x], alpha=0.1)
    x = b.node("pad", "padded", [x], pads=[1, 0, 2, 1], value=0.5)
    x = b.node("slice", "cut", [x], axis=2, start=1, stop=9, step=2)
    x = b.node("transpose", "turned", [x], perm=[0, 1, 3, 2])
    for op in ("tanh", "silu", "hard_swish", "neg"):
        x = b.node(op, op, [x])
    x = b.node("hard_sigmoid", "hs", [x], alpha=0.2, beta=0.5)
    x = b.node("sqrt", "root", [b.node("exp", "e", [x])])
    x = b.node(
        "div", "d", [b.node("sub", "s", [x, b.constant("half", np.float32(0.5))]), b.constant("two", np.float32(2))]
    )
    x = b.node("reduce_mean", "rows", [x], axes=[3], keepdims=True)
    x = b.node("reshape", "flat", [x], shape=[-1, int(np.prod(b.shape(x)[1:]))])
    weight = b.constant("dense.w", np.random.default_rng(0).normal(0, 0.3, (5, b.shape(x)[1])), "weight")
    x = b.node("dense", "fc", [x, weight, b.constant("dense.b", np.ones(5), "bias")], clip=RELU)
    return b.build([b.node("softmax", "probabilities", [x], axis=1)])


@pytest.mark.parametrize("recipe", ["float32", "dynamic", "int8", "wide"])
def test_the_other_operators(recipe: str, tmp_path: Path, rng: np.random.Generator) -> None:
    graph = other_operators()
    weights = {"stem.w": W8, "dense.w": W8}
    plan = {
        "float32": Plan("float32"),
        "dynamic": Plan("dynamic", weights, {"dynamic": True}),
        "int8": Plan("int8", {**weights, "image": U8, "stem": U8, "flat": U8, "fc": U8, "rows": U8}),
        "wide": Plan("wide", {"rows": Affine(16, (1e-4,))}),
    }[recipe]
    for x in images(rng):
        agree(graph, plan, tmp_path, x[None])


def test_argmax_in_the_graph(tmp_path: Path, rng: np.random.Generator) -> None:
    b = Builder()
    x = conv(b, b.input("image", (1, 3, SIZE, SIZE)), "stem", 5)
    graph = b.build([b.node("argmax", "labels", [x], axis=1, keepdims=False)])
    path = RUNTIME.export(graph, Plan("float32"), tmp_path, CONTRACT, OutputContract("labels"))
    x = images(rng)
    np.testing.assert_array_equal(RUNTIME.open(path).run(x), reference.run(graph, x)["labels"])


@given(st.integers(1, 2048), st.integers(1, 2048))
@settings(max_examples=25, deadline=None)
def test_resize_scales_give_exactly_the_wanted_size(size: int, wanted: int) -> None:
    scale = np.float32(resize_scale(size, wanted))
    assert int(np.floor(np.float32(size) * scale)) == wanted
    assert abs(float(scale) * size / wanted - 1) < 1e-5
