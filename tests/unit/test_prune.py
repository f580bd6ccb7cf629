from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitfront.errors import UsageError
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.graph.prune import SCOPES, prune_channels, prune_weights, zero_share
from bitfront.graph.shapes import output_shape
from bitfront.graph.tied_channels import TiedChannels
from bitfront.simulate import reference

RELU = [0.0, math.inf]


class Net(Builder):
    """Random layers, in few letters."""

    def __init__(self, rng: np.random.Generator, channels: int = 3, size: int = 6) -> None:
        super().__init__()
        self.rng = rng
        self.x = self.input("x", (1, channels, size, size))

    def weights(self, name: str, *shape: int) -> tuple[str, str]:
        weight = self.constant(f"{name}.weight", self.rng.normal(size=shape), "weight")
        return weight, self.constant(f"{name}.bias", self.rng.normal(size=shape[0]), "bias")

    def conv(self, name: str, x: str, n: int, groups: int = 1, kernel: int = 1, weights: Any = None) -> str:
        used = weights or self.weights(name, n, self.shape(x)[1] // groups, kernel, kernel)
        how: dict[str, Any] = {
            "strides": [1, 1],
            "pads": [kernel // 2] * 4,
            "dilations": [1, 1],
            "groups": groups,
            "clip": RELU,
        }
        return self.node("conv", name, [x, *used], **how)

    def dense(self, name: str, x: str, n: int) -> str:
        return self.node("dense", name, [x, *self.weights(name, n, self.shape(x)[1])], clip=None)

    def add(self, name: str, a: str, b: str) -> str:
        return self.node("add", name, [a, b], clip=None)


def run(graph: Graph) -> list[NDArray[np.float32]]:
    images = np.random.default_rng(0).normal(size=(2, *graph.tensors[graph.inputs[0]].shape[1:]))
    found = reference.run(graph, images.astype(np.float32))
    return [found[name] for name in graph.outputs]


def check(graph: Graph, share: float = 0.5, scope: str = "layer", multiple: int = 1) -> Graph:
    """Prune, and compare with the original whose channels are zero; return the smaller graph."""
    pruned = prune_channels(graph, share, scope, multiple)
    for node in pruned.graph.nodes:
        shapes = [pruned.graph.tensors[name].shape for name in node.inputs]
        assert output_shape(node.op, node.attributes, shapes) == pruned.graph.tensors[node.output].shape
    for name in (*graph.inputs, *graph.outputs):
        assert pruned.graph.tensors[name].shape == graph.tensors[name].shape
    for found, wanted in zip(run(pruned.graph), run(TiedChannels(graph).zeroed(pruned.removed)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * (np.abs(wanted).max() + 1e-6))
    return pruned.graph


def channels(graph: Graph, *tensors: str) -> list[int]:
    return [graph.tensors[name].shape[1] for name in tensors]


def test_a_chain_loses_the_channels_with_the_smallest_weights(rng: np.random.Generator) -> None:
    net = Net(rng)
    out = net.conv("b", net.conv("a", net.x, 4), 2)
    graph = net.build([out])
    weight = graph.constants["a.weight"].copy()
    weight[[1, 2]] /= 1000
    made = check(graph.with_constants({"a.weight": weight}))
    np.testing.assert_array_equal(made.constants["a.weight"], weight[[0, 3]])
    np.testing.assert_array_equal(made.constants["b.weight"], graph.constants["b.weight"][:, [0, 3]])
    assert made.constants["b.bias"].shape == (2,)  # an output stays


def test_zeroing_the_filters_alone_is_what_removal_does_where_zero_stays_zero(rng: np.random.Generator) -> None:
    net = Net(rng)
    graph = net.build([net.conv("b", net.conv("a", net.x, 8, kernel=3), 2)])
    pruned = prune_channels(graph, 0.5, "layer", multiple=1)
    gone = [i for i in range(8) if i not in _rows(pruned.graph.constants["a.weight"], graph.constants["a.weight"])]
    values = {name: graph.constants[name].copy() for name in ("a.weight", "a.bias")}
    for value in values.values():
        value[gone] = 0
    np.testing.assert_allclose(run(pruned.graph)[0], run(graph.with_constants(values))[0], rtol=1e-5, atol=1e-5)


def _rows(some: NDArray[np.float32], of: NDArray[np.float32]) -> list[int]:
    return [next(i for i in range(len(of)) if np.array_equal(of[i], row)) for row in some]


def test_a_residual_sum_takes_the_same_channels_from_both_sides(rng: np.random.Generator) -> None:
    net = Net(rng)
    a = net.conv("a", net.x, 6)
    total = net.add("sum", a, net.conv("b", net.conv("inner", a, 10), 6))
    made = check(net.build([net.conv("out", total, 2)]))
    assert channels(made, "a", "b", "sum", "inner") == [3, 3, 3, 5]


def test_a_concatenation_keeps_the_offsets_of_its_parts(rng: np.random.Generator) -> None:
    net = Net(rng)
    parts = [net.conv("a", net.x, 4), net.x, net.conv("b", net.x, 6)]
    joined = net.node("concat", "joined", parts, axis=1)
    made = check(net.build([net.conv("out", net.node("sigmoid", "s", [joined]), 2)]))
    assert channels(made, "a", "b", "joined") == [2, 3, 8]  # the three of the input stay


def test_depthwise_convolutions_follow_and_multiply(rng: np.random.Generator) -> None:
    net = Net(rng)
    a = net.conv("a", net.x, 6)
    twice = net.conv("twice", net.conv("same", a, 6, groups=6, kernel=3), 12, groups=6, kernel=3)
    made = check(net.build([net.conv("out", twice, 2)]))
    assert channels(made, "a", "same", "twice") == [3, 3, 6]
    assert [n["groups"] for n in made.nodes] == [1, 3, 3, 1]


def test_grouped_convolutions_stay_balanced(rng: np.random.Generator) -> None:
    net = Net(rng)
    grouped = net.conv("grouped", net.conv("a", net.x, 12), 8, groups=2, kernel=3)
    made = check(net.build([net.conv("out", grouped, 2)]))
    assert channels(made, "a", "grouped") == [6, 4]
    assert made.tensors["grouped.weight"].shape == (4, 3, 3, 3)
    assert [n["groups"] for n in made.nodes] == [1, 2, 1]


def test_depthwise_on_the_input_stays(rng: np.random.Generator) -> None:
    net = Net(rng)
    made = check(net.build([net.conv("out", net.conv("a", net.x, 6, groups=3, kernel=3), 2)]))
    assert channels(made, "a") == [6]


def test_dense_behind_a_flattened_map_loses_whole_maps(rng: np.random.Generator) -> None:
    net = Net(rng, size=4)
    flat = net.node("reshape", "flat", [net.conv("a", net.x, 4)], shape=[-1, 64])
    made = check(net.build([net.dense("out", net.dense("hidden", flat, 6), 3)]))
    assert channels(made, "a", "flat", "hidden", "out") == [2, 32, 3, 3]
    assert made.nodes[1]["shape"] == [-1, 32]


def test_flattening_behind_a_transpose_takes_every_position(rng: np.random.Generator) -> None:
    net = Net(rng, size=2)
    last = net.node("transpose", "last", [net.conv("a", net.x, 4)], perm=[0, 2, 3, 1])
    flat = net.node("reshape", "flat", [last], shape=[-1, 16])
    made = check(net.build([net.dense("out", flat, 3)]))
    assert channels(made, "a", "flat") == [2, 8]
    assert made.tensors["last"].shape == (1, 2, 2, 2)


def test_squeeze_and_excitation_and_attention_over_places(rng: np.random.Generator) -> None:
    net = Net(rng)
    a = net.conv("a", net.x, 8)
    gate = net.conv("gate", net.conv("squeeze", net.node("global_average_pool", "mean", [a]), 4), 8)
    scaled = net.node("mul", "scaled", [a, net.node("hard_sigmoid", "h", [gate], alpha=0.2, beta=0.5)])
    places = net.node("mul", "places", [net.conv("one", scaled, 1), scaled])
    made = check(net.build([net.conv("out", places, 2)]))
    assert channels(made, "a", "gate", "squeeze", "scaled", "places", "one") == [4, 4, 2, 4, 4, 1]


def test_a_split_by_slices_keeps_its_borders(rng: np.random.Generator) -> None:
    net = Net(rng)
    a = net.conv("a", net.x, 8)
    low = net.node("slice", "low", [a], axis=1, start=0, stop=3, step=1)
    high = net.node("slice", "high", [a], axis=1, start=3, stop=8, step=1)
    made = check(net.build([net.conv("out", net.node("concat", "back", [high, low], axis=1), 2)]))
    assert sum(channels(made, "low", "high")) == channels(made, "a")[0] == 4


def test_channels_that_are_shuffled(rng: np.random.Generator) -> None:
    net = Net(rng)
    a = net.conv("a", net.x, 8)
    split = net.node("reshape", "split", [a], shape=[-1, 2, 4, 6, 6])
    turned = net.node("transpose", "turned", [split], perm=[0, 2, 1, 3, 4])
    back = net.node("reshape", "back", [turned], shape=[-1, 8, 6, 6])
    made = check(net.build([net.conv("out", back, 2)]))
    assert channels(made, "a", "back") == [4, 4]
    assert made.tensors["split"].shape == (1, 2, 2, 6, 6)


def test_layers_that_share_weights_lose_the_same(rng: np.random.Generator) -> None:
    net = Net(rng)
    shared = net.weights("shared", 6, 4, 1, 1)
    first = net.conv("p", net.conv("a", net.x, 4), 6, weights=shared)
    second = net.conv("q", net.conv("b", net.x, 4), 6, weights=shared)
    made = check(net.build([net.conv("out1", first, 2), net.conv("out2", second, 2)]))
    assert channels(made, "a", "b", "p", "q") == [2, 2, 3, 3]


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("softmax", {"axis": 1}),
        ("reduce_mean", {"axes": [1], "keepdims": True}),
        ("argmax", {"axis": 1, "keepdims": True}),
    ],
)
def test_operators_across_channels_leave_what_they_read(
    rng: np.random.Generator, op: str, attributes: dict[str, Any]
) -> None:
    net = Net(rng)
    a = net.conv("a", net.conv("before", net.x, 6), 6)
    made = check(net.build([net.node(op, "mixed", [a], **attributes)]))
    assert channels(made, "a", "before") == [6, 3]


def test_a_share_of_zero_changes_nothing(rng: np.random.Generator) -> None:
    net = Net(rng)
    graph = net.build([net.conv("b", net.conv("a", net.x, 16), 2)])
    assert prune_channels(graph, 0.0).graph.id == graph.id
    assert prune_weights(graph, 0.0).id == graph.id


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0, math.nan])
def test_shares_without_sense_are_one_line(rng: np.random.Generator, share: float) -> None:
    net = Net(rng)
    graph = net.build([net.conv("b", net.conv("a", net.x, 4), 2)])
    for prune in (prune_channels, prune_weights):
        with pytest.raises(UsageError, match="cannot be pruned"):
            prune(graph, share)
    with pytest.raises(UsageError, match="scope"):
        prune_channels(graph, 0.1, "everywhere")
    with pytest.raises(UsageError, match="multiple"):
        prune_channels(graph, 0.1, multiple=0)


@pytest.mark.parametrize(("n", "share", "left"), [(64, 0.3, 48), (64, 0.99, 8), (8, 0.5, 8), (20, 0.5, 8), (4, 0.9, 4)])
def test_what_is_left_is_a_multiple(rng: np.random.Generator, n: int, share: float, left: int) -> None:
    net = Net(rng)
    assert channels(check(net.build([net.conv("b", net.conv("a", net.x, n), 2)]), share, multiple=8), "a") == [left]


def test_a_global_ranking_takes_more_from_what_matters_less(rng: np.random.Generator) -> None:
    net = Net(rng)
    graph = net.build([net.conv("out", net.conv("b", net.conv("a", net.x, 20), 20), 2)])
    even, uneven = np.ones((20, 3, 1, 1)), np.ones((20, 20, 1, 1))
    uneven[:15] = 1e-3
    graph = graph.with_constants({"a.weight": even.astype(np.float32), "b.weight": uneven.astype(np.float32)})
    made = check(graph, 0.3, "global")
    assert channels(made, "a", "b")[0] > channels(made, "a", "b")[1]


def test_weights_become_zero_layer_by_layer_and_over_all(rng: np.random.Generator) -> None:
    net = Net(rng)
    graph = net.build([net.conv("out", net.conv("a", net.x, 20), 10)])
    graph = graph.with_constants({"a.weight": graph.constants["a.weight"] * 100})
    each, over_all = prune_weights(graph, 0.4), prune_weights(graph, 0.4, "global")
    assert [float((each.constants[n] == 0).mean()) for n in ("a.weight", "out.weight")] == pytest.approx([0.4, 0.4])
    assert zero_share(over_all) == pytest.approx(0.4)
    assert (over_all.constants["a.weight"] != 0).mean() > 0.9
    kept = each.constants["out.weight"] != 0
    np.testing.assert_array_equal(each.constants["out.weight"][kept], graph.constants["out.weight"][kept])
    assert np.abs(graph.constants["out.weight"][~kept]).max() <= np.abs(graph.constants["out.weight"][kept]).min()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.5, 0.9]), st.sampled_from(SCOPES), st.sampled_from([1, 4]))
def test_random_networks_equal_the_original_with_those_channels_zero(
    seed: int, share: float, scope: str, multiple: int
) -> None:
    check(random_network(np.random.default_rng(seed)), share, scope, multiple)


def random_network(rng: np.random.Generator) -> Graph:
    """Layers, sums, products, concatenations, slices, pools and resizes of whatever fits."""
    net = Net(rng, size=4)
    maps = [net.conv("first", net.x, 8)]
    for i in range(int(rng.integers(4, 12))):
        a = maps[int(rng.integers(len(maps)))]
        n, same = net.shape(a)[1], [m for m in maps if net.shape(m) == net.shape(a)]
        b, name = same[int(rng.integers(len(same)))], f"n{i}"
        match int(rng.integers(8)):
            case 0:
                maps.append(net.conv(name, a, n, groups=n, kernel=3))
            case 1:
                maps.append(net.add(name, a, b))
            case 2:
                maps.append(net.node("mul", name, [a, b]))
            case 3:
                maps.append(net.node("concat", name, [a, maps[0]], axis=1))
            case 4:
                maps.append(net.node("slice", name, [a], axis=1, start=n // 3, stop=n, step=1))
            case 5 if n % 2 == 0:
                maps.append(net.conv(name, a, 6, groups=2))
            case 6:
                maps.append(net.node("silu", name, [a]))
            case _:
                maps.append(net.conv(name, a, int(rng.integers(3, 10)), kernel=3))
    flat = net.node("reshape", "flat", [maps[-1]], shape=[-1, math.prod(net.shape(maps[-1])[1:])])
    return net.build([net.dense("scores", flat, 3), net.conv("map", maps[len(maps) // 2], 2)])


def test_zeros_stay_zero_in_training(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    from bitfront.graph.module import GraphModule

    net = Net(rng)
    graph = prune_weights(net.build([net.conv("out", net.conv("a", net.x, 8), 2)]), 0.5)
    module = GraphModule(graph)
    module.keep_zeros()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.ones(1, 3, 6, 6)).square().mean().backward()
        optimizer.step()
    trained = module.graph().constants["a.weight"]
    before = graph.constants["a.weight"]
    np.testing.assert_array_equal(trained == 0, before == 0)
    assert not np.array_equal(trained, before)


def test_statistics_are_restored_layer_by_layer(rng: np.random.Generator) -> None:
    pytest.importorskip("torch")
    from bitfront.graph.restore import restore_statistics

    net = Net(rng)
    hidden = net.conv("b", net.conv("a", net.x, 12), 12, kernel=3)
    graph = net.build([net.conv("out", hidden, 3)])
    last = graph.nodes[-1]
    images = [rng.normal(size=(4, 3, 6, 6)).astype(np.float32)]
    pruned = prune_channels(graph, 0.5, "layer", multiple=1)
    restored = restore_statistics(graph, pruned.graph, pruned.left, images)
    assert last["clip"] == RELU
    # the clip follows the statistics, so they are compared where it does not act
    free = [_without_clip(g) for g in (graph, pruned.graph, restored)]
    before, without, after = (reference.run(g, images[0])["out"] for g in free)
    for moment in (np.mean, np.std):
        wanted = moment(before, axis=(0, 2, 3))
        np.testing.assert_allclose(moment(after, axis=(0, 2, 3)), wanted, rtol=1e-3, atol=1e-3)
        assert not np.allclose(moment(without, axis=(0, 2, 3)), wanted, rtol=1e-2)
    same = restore_statistics(graph, graph, {}, images)
    np.testing.assert_allclose(run(same)[0], run(graph)[0], rtol=1e-3, atol=1e-3)


def _without_clip(graph: Graph) -> Graph:
    *others, last = graph.nodes
    bare = replace(last, attributes={**last.attributes, "clip": None})
    return replace(graph, nodes=(*others, bare))
