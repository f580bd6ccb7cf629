"""The reference: integer arithmetic against plain loops, mixed plans, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitfront.errors import DataError
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.quant.formats import Affine, Float16, Float32, Format, Qmn
from bitfront.quant.plan import Plan
from bitfront.simulate import reference


def conv_graph(rng: np.random.Generator, **o: Any) -> Graph:
    ic, oc, k, groups = o.get("ic", 2), o.get("oc", 4), o.get("k", 3), o.get("groups", 1)
    draft = Builder()
    x = draft.input("x", (1, ic, o.get("h", 5), o.get("w", 6)))
    weight = draft.constant("w", rng.normal(size=(oc, ic // groups, k, k)), "weight")
    inputs = [x, weight, *([draft.constant("b", rng.normal(size=oc), "bias")] if o.get("bias", True) else [])]
    window = {
        "strides": [o.get("stride", 1)] * 2,
        "pads": o.get("pads", [1, 0, 2, 1]),
        "dilations": [o.get("dilation", 1)] * 2,
    }
    return draft.build([draft.node("conv", "c", inputs, "y", **window, groups=groups, clip=o.get("clip"))])


def loops(graph: Graph, plan: Plan, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Accumulators of the only convolution, in int64, one product at a time."""
    node = graph.nodes[0]
    form_x, form_w = plan.formats["x"], plan.formats["w"]
    if isinstance(form_x, Qmn):
        form_x = form_x.affine()
    assert isinstance(form_x, Affine)
    w = form_w.encode(graph.constants["w"])
    top, left, bottom, right = node["pads"]
    x = np.pad(x - form_x.zero_point[0], ((0, 0), (0, 0), (top, bottom), (left, right)))
    (s, _), (d, _), groups = node["strides"], node["dilations"], node["groups"]
    _, oc, oh, ow = (len(x), *graph.tensors["y"].shape[1:])
    out = np.zeros((len(x), oc, oh, ow), np.int64)
    per = oc // groups
    for n, c, i, j in np.ndindex(out.shape):
        for ci, r, q in np.ndindex(w.shape[1:]):
            out[n, c, i, j] += x[n, c // per * w.shape[1] + ci, i * s + r * d, j * s + q * d] * w[c, ci, r, q]
    return out + reference.bias_codes(graph, plan, node).reshape(1, -1, 1, 1)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    k=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    bits=st.sampled_from([(2, 8), (8, 8), (4, 16), (16, 16)]),
    clip=st.sampled_from([None, [0.0, float("inf")], [0.0, 3.0], [-1.0, 1.0]]),
)
def test_convolution_equals_plain_loops(
    seed: int, k: int, stride: int, dilation: int, groups: int, bits: tuple[int, int], clip: list[float] | None
) -> None:
    rng = np.random.default_rng(seed)
    graph = conv_graph(rng, ic=4, oc=4, k=k, stride=stride, dilation=dilation, groups=groups, clip=clip)
    x_form = Affine(bits[1], (0.03,), (int(rng.integers(0, 200)),), signed=False)
    w_form = Affine(bits[0], tuple(np.float32(rng.uniform(0.01, 1, 4)).tolist()), (0,), axis=0)
    y_form = Affine(8, (0.11,), (-7,))
    plan = Plan("int8", {"x": x_form, "w": w_form, "y": y_form})
    images = rng.normal(0, 2, (2, 4, 5, 6)).astype(np.float32)
    kept = reference.run(graph, images, plan, keep=["x"])
    acc = loops(graph, plan, kept["x"].astype(np.int64))
    m = (np.float32(0.03) * np.asarray(w_form.scale, np.float32) / np.float32(0.11)).reshape(1, -1, 1, 1)
    low, high = (-128, 127) if clip is None else y_form.encode(np.array(clip, np.float32))
    want = np.clip(np.rint(acc.astype(np.float32) * m).astype(np.int64) - 7, low, high)
    np.testing.assert_array_equal(kept["y"], want)
    assert kept["y"].dtype == np.int32


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.integers(1, 20))
def test_fixed_point_rounds_half_even_however_large(seed: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    graph = conv_graph(rng, ic=2, oc=3, k=3, bias=False)
    forms: dict[str, Format] = {"x": Qmn(16, 12), "w": Qmn(16, 13), "y": Qmn(32, 25 - shift)}
    plan = Plan("qmn", forms)
    images = rng.uniform(-8, 8, (1, 2, 5, 6)).astype(np.float32)
    got = reference.run(graph, images, plan, keep=["x"])
    acc = loops(graph, plan, got["x"].astype(np.int64))
    quotient, rest = acc >> shift, acc & ((1 << shift) - 1)
    half = 1 << (shift - 1)
    quotient = quotient + ((rest > half) | ((rest == half) & (quotient & 1 == 1)))
    np.testing.assert_array_equal(got["y"], np.clip(quotient, -(2**31), 2**31 - 1))
    assert np.abs(acc).max() >= 2**24  # beyond what float32 holds


def test_sums_beyond_float64_are_refused(rng: np.random.Generator) -> None:
    graph = conv_graph(rng)
    forms: dict[str, Format] = {"x": Qmn(32, 8), "w": Qmn(32, 20), "y": Qmn(16, 8)}
    with pytest.raises(DataError, match="layer 'c': its sums need more than 53 bits"):
        reference.run(graph, np.ones((1, 2, 5, 6), np.float32), Plan("wide", forms))


def test_bias_codes() -> None:
    draft = Builder()
    x = draft.input("x", (1, 1, 1, 1))
    w, b = draft.constant("w", np.ones((3, 1, 1, 1)), "weight"), draft.constant("b", [0.3, -1e9, 2.0], "bias")
    window = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "groups": 1, "clip": None}
    graph = draft.build([draft.node("conv", "c", [x, w, b], **window)])
    forms: dict[str, Format] = {"x": Affine(8, (0.5,)), "w": Affine(8, (0.25, 0.125, 1.0), (0,), axis=0)}
    plan = Plan("int8", forms)
    assert reference.bias_codes(graph, plan, graph.nodes[0]).tolist() == [2, -(2**31), 4]
    coarse = Plan("int8", {**forms, "b": Qmn(8, 0)})
    assert reference.bias_codes(graph, coarse, graph.nodes[0]).tolist() == [0, -2048, 4]
    bare = replace(graph, nodes=(replace(graph.nodes[0], inputs=("x", "w")),))
    assert reference.bias_codes(bare, plan, bare.nodes[0]).tolist() == [0, 0, 0]


def test_padding_is_the_zero_point() -> None:
    draft = Builder()
    x = draft.input("x", (1, 1, 2, 2))
    y = draft.node("pad", "p", [x], "y", pads=[1, 0, 0, 1], value=0.0)
    form = Affine(8, (0.1,), (-20,))
    got = reference.run(draft.build([y]), np.ones((1, 1, 2, 2), np.float32), Plan("p", {"x": form, "y": form}))["y"]
    assert got[0, 0].tolist() == [[-20] * 3, [-10, -10, -20], [-10, -10, -20]]


def test_moving_needs_equal_formats() -> None:
    draft = Builder()
    x = draft.input("x", (1, 1, 2, 2))
    y = draft.node("max_pool", "m", [x], "y", kernel=[2, 2], strides=[2, 2], pads=[0] * 4, dilations=[1, 1])
    graph = draft.build([y])
    images = np.array([[[[0.0, 1.0], [0.52, 0.2]]]], np.float32)
    a, b = Affine(8, (0.02,)), Affine(8, (0.5,), (3,))
    assert reference.run(graph, images, Plan("p", {"x": a, "y": a}))["y"].item() == 50
    assert reference.run(graph, images, Plan("p", {"x": a, "y": b}))["y"].item() == 5
    values = reference.run(graph, images, Plan("p", {"x": a}))["y"]
    assert values.dtype == np.float32
    assert values.item() == 1.0


def test_nearest_and_argmax_on_codes() -> None:
    draft = Builder()
    x = draft.input("x", (1, 3, 1, 2))
    big = draft.node("resize", "r", [x], "big", mode="nearest", size=[2, 4], coordinates="asymmetric", rounding="floor")
    top = draft.node("argmax", "a", [big], "top", axis=1, keepdims=False)
    form = Affine(8, (0.1,), (0,))
    images = np.array([[[[1, 2]], [[1, 3]], [[0, 3]]]], np.float32)
    got = reference.run(draft.build([top]), images, Plan("p", {"x": form, "big": form}), keep="*")
    assert got["top"][0].tolist() == [[0, 0, 1, 1]] * 2  # of equals, the first
    assert got["top"].dtype == np.int64
    assert got["big"].shape == (1, 3, 2, 4)


@pytest.mark.parametrize("held", [("x", "w"), ("w", "y"), ("x", "y"), ("x",), ("w",), ("y",)])
def test_mixed_plans_stay_near_float(rng: np.random.Generator, held: tuple[str, ...]) -> None:
    graph = conv_graph(rng)
    images = rng.normal(size=(1, 2, 5, 6)).astype(np.float32)
    exact = reference.run(graph, images)["y"]
    every: dict[str, Format] = {"x": Affine(8, (0.03,), (3,)), "w": Affine(8, (0.03,)), "y": Affine(8, (0.1,), (5,))}
    plan = Plan("mixed", {name: every[name] for name in held})
    got = reference.run(graph, images, plan)["y"]
    assert got.dtype == (np.int32 if "y" in held else np.float32)
    np.testing.assert_allclose(reference.values(graph, plan, "y", got), exact, atol=0.4)


def test_dynamic_quantization_by_hand() -> None:
    draft = Builder()
    x = draft.input("x", (1, 2))
    w, b = draft.constant("w", [[1.0, -0.5]], "weight"), draft.constant("b", [0.25], "bias")
    graph = draft.build([draft.node("dense", "d", [x, w, b], "y", clip=None)])
    plan = Plan("dynamic", {"w": Affine(8, (0.5,), (0,), axis=0)}, {"dynamic": True})
    images = np.array([[-1.0, 4.1], [0.0, 0.013]], np.float32)  # scale 5.1 / 255 = 0.02, zero point 50
    got = reference.run(graph, images, plan)["y"]
    np.testing.assert_allclose(got, [[(-50 * 2 - 205) * 0.01 + 0.25], [-0.01 + 0.25]], rtol=1e-6)
    still = reference.run(graph, np.zeros((1, 2), np.float32), plan)["y"]
    assert still.item() == 0.25


def test_float16_rounds_every_tensor(rng: np.random.Generator) -> None:
    graph = conv_graph(rng)
    images = rng.normal(size=(1, 2, 5, 6)).astype(np.float32)
    plan = Plan("float16", dict.fromkeys(("x", "w", "b", "y"), Float16()))
    got = reference.run(graph, images, plan, keep="*")
    assert got["x"].dtype == got["y"].dtype == np.float16
    half = {name: value.astype(np.float16).astype(np.float32) for name, value in graph.constants.items()}
    rounded = images.astype(np.float16).astype(np.float32)
    want = reference.run(graph.with_constants(half), rounded)["y"].astype(np.float16)
    np.testing.assert_array_equal(got["y"], want)


def test_float32_format_changes_nothing(rng: np.random.Generator) -> None:
    graph = conv_graph(rng)
    images = rng.normal(size=(3, 2, 5, 6)).astype(np.float32)
    plan = Plan("float32", dict.fromkeys(("x", "w", "y"), Float32()))
    np.testing.assert_array_equal(reference.run(graph, images, plan)["y"], reference.run(graph, images)["y"])


def test_what_is_kept(rng: np.random.Generator) -> None:
    draft = Builder()
    x = draft.input("x", (1, 1, 2, 2))
    a = draft.node("clip", "a", [x], lo=0.0, hi=1.0)
    b = draft.node("add", "b", [a, x], clip=None)
    graph = draft.build([draft.node("neg", "c", [b])])
    images = rng.normal(size=(1, 1, 2, 2)).astype(np.float32)
    before = images.copy()
    assert set(reference.run(graph, images)) == {"c"}
    assert set(reference.run(graph, images, keep=["a"])) == {"a", "c"}
    assert set(reference.run(graph, images, keep="*")) == {"x", "a", "b", "c"}
    np.testing.assert_array_equal(images, before)


def test_wrong_size_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match=r"images of shape \(1, 2, 9, 9\) do not fit .* \('b', 2, 5, 6\)"):
        reference.run(conv_graph(rng), np.zeros((1, 2, 9, 9), np.float32))


def test_batches_equal_single_images(rng: np.random.Generator) -> None:
    graph = conv_graph(rng)
    plan = Plan("int8", {"x": Affine(8, (0.03,), (3,)), "w": Affine(8, (0.03,)), "y": Affine(8, (0.1,), (5,))})
    images = rng.normal(size=(4, 2, 5, 6)).astype(np.float32)
    together = reference.run(graph, images, plan)["y"]
    apart = [reference.run(graph, images[i : i + 1], plan)["y"] for i in range(4)]
    np.testing.assert_array_equal(together, np.concatenate(apart))
