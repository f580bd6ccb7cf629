from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitfront.errors import DataError, UsageError
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.quant.correction import correct_biases, mean_shift
from bitfront.quant.formats import Affine, Float16, Qmn
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import FLOAT_BIAS_BITS, RECIPES, activation_format, build
from bitfront.simulate import reference
from bitfront.stats.ranges import Range, Ranges, collect

Array = NDArray[np.float32]
RELU = [0.0, math.inf]
INTEGER = [name for name, recipe in RECIPES.items() if recipe.needs_ranges and recipe.weights != "qmn"]


def conv(
    b: Builder, rng: np.random.Generator, x: str, channels: int, kernel: int = 3, groups: int = 1, stride: int = 1
) -> str:
    shape = (channels, b.shape(x)[1] // groups, kernel, kernel)
    name = f"layer{len(b._nodes)}"
    uneven = 2.0 ** rng.integers(-2, 3, (channels, 1, 1, 1))
    w = b.constant(f"{name}.weight", rng.normal(size=shape) * uneven / math.sqrt(np.prod(shape[1:])), "weight")
    bias = b.constant(f"{name}.bias", rng.normal(size=channels) * 0.1, "bias")
    window = {"strides": [stride] * 2, "pads": [kernel // 2] * 4, "dilations": [1, 1], "groups": groups}
    return b.node("conv", name, (x, w, bias), clip=RELU, **window)


@pytest.fixture
def graph(rng: np.random.Generator) -> Graph:
    """Stem, depthwise, pooling and nearest resizing (which move values), concatenation, head, linear resizing."""
    b = Builder()
    stem = conv(b, rng, b.input("image", (1, 3, 16, 16)), 8, stride=2)
    deep = conv(b, rng, conv(b, rng, stem, 8, groups=8), 12, kernel=1)
    pooled = b.node("max_pool", "pool", (deep,), kernel=[2, 2], strides=[2, 2], pads=[0] * 4, dilations=[1, 1])
    near = b.node("resize", "near", (pooled,), mode="nearest", size=[8, 8], coordinates="asymmetric", rounding="floor")
    head = conv(b, rng, b.node("concat", "join", (near, stem), axis=1), 4, kernel=1)
    logits = b.node("resize", "logits", (head,), mode="linear", size=[16, 16], coordinates="half_pixel")
    return b.build((logits,))


@pytest.fixture
def images(rng: np.random.Generator) -> list[Array]:
    return [rng.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(3)]


def noise_ratio(graph: Graph, made: Graph, plan: Plan, images: list[Array]) -> float:
    """Power of the error over the power of the output."""
    name = graph.outputs[0]
    wanted = [reference.run(graph, x)[name] for x in images]
    got = [reference.values(made, plan, name, reference.run(made, x, plan)[name]) for x in images]
    return float(np.mean((np.array(got) - np.array(wanted)) ** 2) / np.mean(np.array(wanted) ** 2))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("rule", ["minmax", "percentile", "mse"])
def test_every_recipe_stays_close_to_float(name: str, rule: str, graph: Graph, images: list[Array]) -> None:
    ranges = collect(graph, images)
    made, plan = build(name, graph, ranges, images, rule=rule)
    assert plan.recipe == name
    assert [n.name for n in made.nodes] == [n.name for n in graph.nodes]
    assert set(plan.formats) <= set(made.tensors)
    limit = {"float32": 0.0, "float16": 1e-5, "int4": 0.3}.get(name, 1e-2)
    assert noise_ratio(graph, made, plan, images) <= limit


@pytest.mark.parametrize("name", INTEGER)
def test_formats_of_integer_recipes(name: str, graph: Graph, images: list[Array]) -> None:
    recipe = RECIPES[name]
    made, plan = build(name, graph, collect(graph, images), images)
    for tensor in made.named("weight"):
        form = plan.formats.get(tensor.name)
        if form is None:
            assert recipe.float_head
            continue
        assert isinstance(form, Affine)
        assert (form.bits, form.signed, form.narrow, form.zero_point) == (recipe.weight_bits, True, True, (0,))
        assert form.axis == (0 if recipe.per_channel else None)
        assert len(form.scale) == (tensor.shape[0] if recipe.per_channel else 1)
        codes = form.encode(made.constants[tensor.name])
        per = np.abs(codes).reshape(tensor.shape[0], -1).max(1) if recipe.per_channel else np.abs(codes).max()
        assert np.all(per == form.high)
    for tensor in made.named("activation"):
        form = plan.formats.get(tensor.name)
        if form is None:
            assert recipe.float_head or recipe.float_tail
            continue
        assert isinstance(form, Affine)
        bits = 16 if recipe.activations == "int16" else 8
        assert (form.bits, form.signed, form.axis) == (bits, recipe.activations != "uint8", None)
        assert bits == 8 or form.zero_point == (0,)
        assert form.decode(form.encode(np.zeros(1)))[0] == 0
    assert not any(t.name in plan.formats for t in made.named("bias"))


def test_formats_of_fixed_point(graph: Graph, images: list[Array]) -> None:
    made, plan = build("qmn8", graph, collect(graph, images), images)
    assert all(isinstance(form, Qmn) and form.bits == 8 for form in plan.formats.values())
    held = {t.name for t in made.tensors.values() if t.kind != "bias"}
    assert set(plan.formats) == held
    assert plan.formats["near"] == plan.formats["pool"], "nothing is rounded twice"
    assert plan.options["rounding"] == "half_even"
    even, _ = build("qmn8", graph, collect(graph, images), images, equalized=False)
    assert not np.array_equal(made.constants["layer0.weight"], even.constants["layer0.weight"])
    assert np.array_equal(graph.constants["layer0.weight"], even.constants["layer0.weight"])


def test_moving_operators_pass_their_format_on(graph: Graph, images: list[Array]) -> None:
    _, plan = build("int8", graph, collect(graph, images))
    nodes = {node.name: node for node in graph.nodes}
    for name in ("pool", "near"):
        assert plan.formats[nodes[name].output] == plan.formats[nodes[name].inputs[0]]
    assert plan.formats["logits"] != plan.formats[nodes["logits"].inputs[0]]


def test_a_slice_keeps_the_format_of_the_whole() -> None:
    b = Builder()
    x = b.input("image", (1, 3, 2, 2))
    part = b.node("slice", "part", (x,), axis=1, start=0, stop=1, step=1)
    padded = b.node("pad", "padded", (part,), pads=[1] * 4, value=0.0)
    other = b.node("pad", "other", (part,), pads=[1] * 4, value=-9.0)
    graph = b.build((padded, other))
    image = np.float32([0.1, 1.0, 8.0]).reshape(1, 3, 1, 1) * np.ones((1, 1, 2, 2), np.float32)
    _, plan = build("int8", graph, batches=[image])
    assert plan.formats["part"] == plan.formats["padded"] == plan.formats["image"]
    assert plan.formats["other"] != plan.formats["image"]


def test_mixed_leaves_the_ends_in_float(rng: np.random.Generator) -> None:
    b = Builder()
    x = b.input("image", (1, 3, 32, 32))
    a = conv(b, rng, x, 8, stride=2)
    skip = conv(b, rng, a, 8, stride=2)
    small = conv(b, rng, skip, 8, groups=8, stride=2)
    for _ in range(5):
        last = small = conv(b, rng, small, 8)
    up = b.node("resize", "up", (last,), mode="linear", size=[8, 8], coordinates="half_pixel")
    joined = conv(b, rng, b.node("concat", "join", (up, skip), axis=1), 2)
    logits = b.node("resize", "logits", (joined,), mode="linear", size=[32, 32], coordinates="half_pixel")
    graph = b.build((logits,))
    image = rng.normal(size=(1, 3, 32, 32)).astype(np.float32)
    made, plan = build("int8_mixed", graph, batches=[image])
    layers = [node for node in graph.nodes if node.op == "conv"]
    assert [layer.inputs[1] in plan.formats for layer in layers] == [False] * 3 + [True] * 6
    left_float = {t.name for k in ("input", "activation") for t in graph.named(k)} - set(plan.formats)
    assert left_float == {x, a, logits}  # the concatenation reads ``skip`` as well
    assert noise_ratio(graph, made, plan, [image]) < 1e-2


def test_mixed_quantizes_most_layers_of_any_network(graph: Graph, images: list[Array]) -> None:
    _, plan = build("int8_mixed", graph, collect(graph, images))
    assert [node.inputs[1] in plan.formats for node in graph.nodes if node.op == "conv"] == [False, True, True, True]


def test_compact_stores_one_scale_a_weight_and_loses_little(graph: Graph, images: list[Array]) -> None:
    ranges = collect(graph, images)
    made, plan = build("int8_compact", graph, ranges, images)
    plain = build("int8_compact", graph, ranges, images, equalized=False)
    assert noise_ratio(graph, made, plan, images) < noise_ratio(graph, *plain, images)


def test_float16_and_dynamic_need_no_images(graph: Graph) -> None:
    _, half = build("float16", graph)
    assert set(half.formats) == set(graph.tensors)
    assert set(half.formats.values()) == {Float16()}
    _, dynamic = build("dynamic", graph)
    assert dynamic.options["dynamic"] is True
    assert {graph.tensors[n].kind for n in dynamic.formats} == {"weight"}
    assert build("float32", graph)[1].formats == {}


def test_argmax_keeps_its_indices(rng: np.random.Generator, images: list[Array]) -> None:
    b = Builder()
    logits = conv(b, rng, b.input("image", (1, 3, 16, 16)), 4)
    graph = b.build((b.node("argmax", "labels", (logits,), axis=1, keepdims=False),))
    for name in RECIPES:
        made, plan = build(name, graph, batches=images)
        assert "labels" not in plan.formats
        labels = reference.run(made, images[0], plan)["labels"]
        assert np.mean(labels == reference.run(graph, images[0])["labels"]) > 0.9


def test_ranges_are_collected_when_missing(graph: Graph, images: list[Array]) -> None:
    seen: list[str] = []

    def observe(g: Graph) -> Any:
        seen.append(g.id)
        return lambda x: reference.run(g, x, keep="*")

    made, plan = build("int8", graph, batches=images, observe=observe)
    again, same = build("int8", graph, collect(graph, images))
    assert (made.id, plan.id) == (again.id, same.id)
    assert seen == [graph.id]
    with pytest.raises(DataError, match="no images to calibrate on"):
        build("int8", graph)


def test_wrong_names_are_refused(graph: Graph) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'int9'"):
        build("int9", graph)
    with pytest.raises(UsageError, match="unknown range rule 'max'"):
        build("int8", graph, rule="max")


def test_a_graph_must_be_prepared(rng: np.random.Generator, images: list[Array]) -> None:
    b = Builder()
    x = b.input("image", (1, 3, 16, 16))
    ones = [b.constant(f"c{i}", np.ones(3), "constant") for i in range(4)]
    graph = b.build((b.node("batch_norm", "bn", (x, *ones), epsilon=1e-5),))
    with pytest.raises(UsageError, match="not prepared"):
        build("int8", graph, batches=images)


# --- formats ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "values", [[-1.0, 3.0], [0.0, 6.0], [-5.0, 0.0], [2.0, 3.0], [0.0, 0.0], [1e-44, 1e-44], [-3e38, 3e38]]
)
def test_activation_formats_cover_their_range(values: list[float], signed: bool) -> None:
    form = activation_format(Range.of(np.float32([values])), signed=signed)
    assert 0 < np.float32(form.scale[0]) < np.inf
    assert form.low <= form.zero_point[0] <= form.high
    back = form.decode(form.encode(np.float32(values)))
    assert np.all(np.abs(back.astype(np.float64) - np.float32(values)) <= form.scale[0] * 0.501)


def test_dead_channels_with_a_large_bias_do_not_overflow(rng: np.random.Generator, images: list[Array]) -> None:
    b = Builder()
    out = conv(b, rng, b.input("image", (1, 3, 16, 16)), 4)
    graph = b.build((out,))
    weight, bias = graph.constants["layer0.weight"].copy(), graph.constants["layer0.bias"].copy()
    weight[0], weight[1], bias[:2] = 0.0, 1e-12, 2.5
    graph = graph.with_constants({"layer0.weight": weight, "layer0.bias": bias})
    made, plan = build("int8", graph, batches=images)
    x, w = plan.formats["image"], plan.formats["layer0.weight"]
    assert isinstance(x, Affine)
    assert isinstance(w, Affine)
    codes = np.abs(made.constants["layer0.bias"]) / (x.scale[0] * np.asarray(w.scale))
    assert codes.max() <= 2.0**FLOAT_BIAS_BITS * 1.001
    assert noise_ratio(graph, made, plan, images) < 1e-3


# --- bias correction -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kernel", "groups", "stride"), [(3, 1, 1), (3, 1, 2), (5, 4, 1), (1, 1, 1), (3, 2, 2)])
def test_bias_correction_removes_the_mean_error(
    kernel: int, groups: int, stride: int, rng: np.random.Generator
) -> None:
    b = Builder()
    out = conv(b, rng, b.input("image", (1, 4, 12, 12)), 8, kernel, groups, stride)
    graph = b.build((out,))
    node = graph.nodes[0]
    graph = Graph(
        (node.__class__(node.name, "conv", node.inputs, node.output, {**node.attributes, "clip": None}),),
        graph.tensors,
        graph.constants,
        graph.inputs,
        graph.outputs,
    )
    # constant channels: their mean is all there is to know, so the correction is exact, padding included
    image = np.broadcast_to(rng.normal(size=(1, 4, 1, 1)), (1, 4, 12, 12)).astype(np.float32)
    ranges = Ranges({"image": Range.of(image)})
    plan = Plan("int8", {"layer0.weight": Affine(3, (0.4,), narrow=True)})
    form = plan.formats["layer0.weight"]
    rounded = graph.with_constants({"layer0.weight": form.decode(form.encode(graph.constants["layer0.weight"]))})
    expected = reference.run(graph, image)[out].mean((0, 2, 3))
    wrong = reference.run(rounded, image)[out].mean((0, 2, 3))
    assert np.abs(wrong - expected).max() > 1e-2
    assert np.allclose(wrong - expected, mean_shift(graph, plan, graph.nodes[0], ranges["image"].means), atol=1e-5)
    bias = correct_biases(graph, plan, ranges).constants["layer0.bias"]
    corrected = reference.run(rounded.with_constants({"layer0.bias": bias}), image)[out].mean((0, 2, 3))
    assert np.allclose(corrected, expected, atol=1e-5)


def test_bias_correction_of_dense_layers_and_shared_biases(rng: np.random.Generator) -> None:
    b = Builder()
    x = b.input("x", (1, 6))
    w = b.constant("w", rng.normal(size=(6, 6)), "weight")
    shared = b.constant("b", rng.normal(size=6), "bias")
    first = b.node("dense", "first", (x, w, shared), clip=None)
    second = b.node("dense", "second", (first, w, shared), clip=None)
    own = b.constant("own", rng.normal(size=6), "bias")
    last = b.node("dense", "last", (second, w, own), clip=None)
    graph = b.build((last,))
    data = rng.normal(size=(50, 6)).astype(np.float32)
    ranges = collect(graph, [data])
    plan = Plan("int8", {"w": Affine(3, (0.5,), narrow=True)})
    after = correct_biases(graph, plan, ranges)
    assert np.array_equal(after.constants["b"], graph.constants["b"])
    values = reference.run(graph, data, keep="*")[second]
    error = plan.formats["w"].decode(plan.formats["w"].encode(graph.constants["w"])) - graph.constants["w"]
    assert np.allclose(graph.constants["own"] - after.constants["own"], (values @ error.T).mean(0), atol=1e-4)


@pytest.mark.shared
def test_int8_keeps_a_trained_network(shared: Path, tmp_path: Path) -> None:
    from PIL import Image

    from bitfront.contracts import InputContract, OutputContract
    from bitfront.graph import capture, passes
    from bitfront.registry import load

    graph = passes.prepare(
        capture.from_onnx(shared / "models/fastscnn_packages/onnx" / "fastscnn_96a0.125t2r1pp0.onnx")
    )
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    size = graph.tensors[graph.inputs[0]].shape[2:]

    def read(path: Path) -> Array:
        pixels = np.asarray(Image.open(path).convert("RGB").resize(size[::-1]), np.float32)
        return ((pixels / 255 - mean) / std).transpose(2, 0, 1)[None]

    photos = sorted((shared / "data/packages/val/images").iterdir())
    train = [read(p) for p in sorted((shared / "data/packages/train/images").iterdir())[::40]]
    runtime = load("runtime", "onnxruntime")()
    made, plan = build("int8", graph, batches=train)
    contract = InputContract(*size)
    file = runtime.export(made, plan, tmp_path, contract, OutputContract("threshold"))
    session = runtime.open(file)
    same = [
        np.mean((session.run(x) > 0) == (reference.run(graph, x)[graph.outputs[0]] > 0)) for x in map(read, photos[:8])
    ]
    session.close()
    assert np.mean(same) > 0.99
