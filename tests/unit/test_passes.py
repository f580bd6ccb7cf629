"""Rewrites by hand; that they preserve the function is shown on random networks in tests/parity."""

from __future__ import annotations

import numpy as np
import pytest

from bitfront.graph import passes
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.simulate import reference

WINDOW = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "groups": 1, "clip": None}
INF = float("inf")


def conv(draft: Builder, x: str, name: str, weight: object, **options: object) -> str:
    return draft.node("conv", name, [x, draft.constant(f"{name}.weight", weight, "weight")], **{**WINDOW, **options})


def norm(draft: Builder, x: str, name: str, channels: int = 2) -> str:
    values = {"gamma": 6.0, "beta": 0.5, "mean": 2.0, "variance": 8.0}
    parts = [draft.constant(f"{name}.{key}", np.full(channels, value)) for key, value in values.items()]
    return draft.node("batch_norm", name, [x, *parts], epsilon=1.0)


def same(before: Graph, after: Graph, rng: np.random.Generator) -> None:
    images = rng.normal(size=(2, *before.tensors[before.inputs[0]].shape[1:])).astype(np.float32)
    want, got = reference.run(before, images), reference.run(after, images)
    assert after.outputs == before.outputs
    for name in before.outputs:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def test_fold_by_hand(rng: np.random.Generator) -> None:
    draft = Builder()
    x = draft.input("x", (1, 1, 2, 2))
    y = norm(draft, conv(draft, x, "c", [[[[4.0]]], [[[-1.0]]]]), "bn")
    graph = draft.build([draft.node("clip", "relu", [y], lo=0.0, hi=INF)])
    ready = passes.prepare(graph)
    (node,) = ready.nodes  # scale 6 / sqrt(8 + 1) = 2, shift 0.5 - 2 * 2
    assert (node.name, node.op, node.output, node["clip"]) == ("c", "conv", "relu", [0.0, INF])
    assert ready.constants[node.inputs[1]].reshape(-1).tolist() == [8.0, -2.0]
    assert ready.constants[node.inputs[2]].tolist() == [-3.5, -3.5]
    assert set(ready.constants) == set(node.inputs[1:])
    same(graph, ready, rng)


@pytest.mark.parametrize("pads", [[0] * 4, [1] * 4])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_norm_before_a_convolution(pads: list[int], groups: int, rng: np.random.Generator) -> None:
    draft = Builder()
    x = norm(draft, draft.input("x", (1, 4, 5, 5)), "bn", 4)
    graph = draft.build([conv(draft, x, "c", rng.normal(size=(4, 4 // groups, 3, 3)), pads=pads, groups=groups)])
    ready = passes.prepare(graph)
    assert [n.op for n in ready.nodes] == (["conv", "conv"] if any(pads) else ["conv"])  # zeros are not shifted
    same(graph, ready, rng)


def test_a_shared_weight_is_folded_for_each_layer(rng: np.random.Generator) -> None:
    draft = Builder()
    x = draft.input("x", (1, 2, 3, 3))
    weight = rng.normal(size=(2, 2, 1, 1))
    first = norm(draft, conv(draft, x, "c", weight), "bn")
    second = draft.node("conv", "d", [first, "c.weight"], **WINDOW)
    graph = draft.build([second])
    same(graph, passes.prepare(graph), rng)


def test_what_others_read_is_not_fused(rng: np.random.Generator) -> None:
    draft = Builder()
    x = draft.input("x", (1, 2, 3, 3))
    y = conv(draft, x, "c", rng.normal(size=(2, 2, 1, 1)))
    z = draft.node("clip", "relu", [norm(draft, y, "bn")], lo=0.0, hi=INF)
    graph = draft.build([draft.node("add", "sum", [y, z], clip=None), y])
    ready = passes.prepare(graph)
    assert [n.op for n in ready.nodes] == ["conv", "conv", "add"]  # the norm alone is a depthwise convolution
    assert ready.nodes[1]["groups"] == 2
    same(graph, ready, rng)


def test_clips_are_composed(rng: np.random.Generator) -> None:
    draft = Builder()
    x = draft.input("x", (1, 2, 3, 3))
    y = draft.node("add", "a", [x, x], clip=[-1.0, INF])
    y = draft.node("clip", "b", [draft.node("clip", "c", [y], lo=-INF, hi=0.5)], lo=0.0, hi=6.0)
    graph = draft.build([y])
    ready = passes.prepare(graph)
    assert [(n.op, n["clip"]) for n in ready.nodes] == [("add", [0.0, 0.5])]
    same(graph, ready, rng)


def test_dead_nodes_go_and_outputs_keep_their_names(rng: np.random.Generator) -> None:
    draft = Builder()
    x = draft.input("x", (1, 2, 4, 4))
    draft.node("neg", "unused", [x])
    draft.constant("spare", np.ones(7), "constant")
    y = draft.node("neg", "n", [draft.node("identity", "i", [x])])
    y = draft.node("pad", "p", [y], pads=[0] * 4, value=1.0)
    y = draft.node("reshape", "r", [y], shape=[-1, 2, 4, 4])
    y = draft.node("average_pool", "v", [y], kernel=[1, 1], strides=[1, 1], pads=[0] * 4, count_include_pad=False)
    y = draft.node("resize", "z", [y], mode="linear", size=[4, 4], coordinates="half_pixel")
    graph = draft.build([draft.node("transpose", "out", [y], perm=[0, 1, 2, 3])])
    ready = passes.prepare(graph)
    assert [(n.name, n.inputs, n.output) for n in ready.nodes] == [("n", ("x",), "out")]
    assert not ready.constants
    same(graph, ready, rng)


def test_an_input_given_back_keeps_both_names() -> None:
    draft = Builder()
    graph = draft.build([draft.node("identity", "y", [draft.input("x", (1, 1, 2, 2))])])
    assert passes.prepare(graph).outputs == ("y",)


def test_prepare_is_idempotent(rng: np.random.Generator) -> None:
    draft = Builder()
    x = draft.input("x", (1, 2, 5, 5))
    y = draft.node(
        "clip", "relu", [norm(draft, conv(draft, x, "c", rng.normal(size=(2, 2, 3, 3))), "bn")], lo=0.0, hi=6.0
    )
    ready = passes.prepare(draft.build([y]))
    assert passes.prepare(ready).id == ready.id


def doubled(draft: Builder, x: str, times: tuple[int, int] = (2, 2), axes: tuple[int, int] = (4, 3)) -> str:
    """Nearest-neighbour enlargement in reshapes and concatenations, as a network made for fixed point spells it."""
    (_, c, h, w), (n, m) = draft.shape(x), times
    y = draft.node("reshape", "a", [x], shape=[-1, c, h, w, 1])
    y = draft.node("concat", "b", [y] * m, axis=axes[0])
    y = draft.node("reshape", "c", [y], shape=[-1, c, h, m * w])
    y = draft.node("concat", "d", [y] * n, axis=axes[1])
    return draft.node("reshape", "e", [y], shape=[-1, c, n * h, m * w])


@pytest.mark.parametrize("times", [(2, 2), (3, 2), (2, 5)])
def test_an_enlargement_in_reshapes_becomes_one_resize(times: tuple[int, int], rng: np.random.Generator) -> None:
    draft = Builder()
    y = doubled(draft, draft.input("x", (1, 3, 2, 4)), times)
    graph = draft.build([conv(draft, y, "f", rng.normal(size=(2, 3, 1, 1)))])
    ready = passes.prepare(graph)
    assert [n.op for n in ready.nodes] == ["resize", "conv"]
    images = rng.normal(size=(2, 3, 2, 4)).astype(np.float32)
    kept = ready.nodes[0].output
    want = reference.run(graph, images, keep=(kept,))[kept]
    assert np.array_equal(reference.run(ready, images, keep=(kept,))[kept], want)
    same(graph, ready, rng)


def test_an_enlargement_whose_steps_are_seen_stays(rng: np.random.Generator) -> None:
    for axes, seen in (((4, 3), True), ((4, 2), False), ((3, 3), False)):
        draft = Builder()
        y = doubled(draft, draft.input("x", (1, 2, 2, 2)), axes=axes)
        graph = draft.build([y, "c"] if seen else [y])
        ready = passes.prepare(graph)
        assert "resize" not in {n.op for n in ready.nodes}
        same(graph, ready, rng)


@pytest.mark.parametrize(("value", "n_nodes"), [(0.0, 1), (1.0, 2)])
def test_zeros_around_a_map_are_the_convolutions_own(value: float, n_nodes: int, rng: np.random.Generator) -> None:
    draft = Builder()
    x = draft.node("pad", "p", [draft.input("x", (1, 2, 4, 4))], pads=[0, 0, 1, 1], value=value)
    weight = rng.normal(size=(2, 2, 3, 3))
    graph = draft.build([conv(draft, x, "c", weight, strides=[2, 2], pads=[1, 0, 0, 0])])
    ready = passes.prepare(graph)
    assert len(ready.nodes) == n_nodes
    assert ready.nodes[-1]["pads"] == ([1, 0, 1, 1] if value == 0 else [1, 0, 0, 0])
    same(graph, ready, rng)


def test_a_padded_map_that_others_read_stays(rng: np.random.Generator) -> None:
    draft = Builder()
    x = draft.node("pad", "p", [draft.input("x", (1, 1, 3, 3))], pads=[1] * 4, value=0.0)
    graph = draft.build([conv(draft, x, "c", rng.normal(size=(1, 1, 1, 1))), x])
    ready = passes.prepare(graph)
    assert [n.op for n in ready.nodes] == ["pad", "conv"]
    same(graph, ready, rng)
