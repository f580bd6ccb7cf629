"""What a plan costs: by hand on small graphs, monotone in bits, and the bound of a real network."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_landscapes import Landscape

from bitfront.errors import UsageError
from bitfront.graph import capture, passes
from bitfront.graph.builder import Builder
from bitfront.graph.count import count
from bitfront.graph.ir import Graph
from bitfront.quant.costs import NPU, PROCESSORS, Costs, Processor, bits_of
from bitfront.quant.formats import Float16, Qmn
from bitfront.quant.instructions import cores
from bitfront.quant.plan import Plan
from bitfront.search.evaluations import Cost, Evaluations, Limit
from bitfront.search.front import hypervolume
from bitfront.search.space import Gene, Space
from bitfront.search.surrogate import SurrogateOptions, surrogate

WINDOW = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "groups": 1, "clip": None}


def convolution(b: Builder, x: str, name: str, n: int, kernel: int = 1, value: float = 1.0, **options: object) -> str:
    groups = int(options.get("groups", 1))  # type: ignore[call-overload]
    weight = b.constant(f"{name}.w", np.full((n, b.shape(x)[1] // groups, kernel, kernel), value), "weight")
    return b.node("conv", name, [x, weight, b.constant(f"{name}.b", np.ones(n), "bias")], **{**WINDOW, **options})


def network() -> Graph:
    """x 3x8x8 - conv a 5x6x6 - sigmoid s - depthwise d 5x4x4 - linear resize r 5x8x8 - conv h 2x8x8."""
    b = Builder()
    a = convolution(b, b.input("x", (1, 3, 8, 8)), "a", 5, 3)
    d = convolution(b, b.node("sigmoid", "s", [a]), "d", 5, 3, groups=5)
    r = b.node("resize", "r", [d], mode="linear", size=[8, 8], coordinates="half_pixel")
    return b.build([convolution(b, r, "h", 2)])


def uniform(graph: Graph, bits: int) -> dict[str, int]:
    return {name: bits for name, tensor in graph.tensors.items() if tensor.kind != "bias"}


def test_flash_by_hand() -> None:
    graph = network()
    costs = Costs(graph)
    biases, resize = 4 * (5 + 5 + 2), 3 * (8 + 8)
    # rows: a 5 x 27 weights, d 5 x 9, h 2 x 5; the sigmoid's table has an entry a code
    assert costs.flash_bytes(uniform(graph, 8)) == 5 * 27 + 5 * 9 + 2 * 5 + biases + resize + 256
    assert costs.flash_bytes(uniform(graph, 4)) == 5 * 14 + 5 * 5 + 2 * 3 + biases + resize + 16
    assert costs.flash_bytes(uniform(graph, 3)) == 5 * 11 + 5 * 4 + 2 * 2 + biases + resize + 8
    assert costs.flash_bytes({}) == 4 * (135 + 45 + 10) + biases + resize
    assert costs.flash_bytes({"s": 16, "a": 6}) - costs.flash_bytes({}) == 64 * 2
    assert costs.flash_bytes({"a.b": 11}) - costs.flash_bytes({}) == 7 - 20  # 5 codes of 11 bits
    assert Costs(graph, per_channel=True).flash_bytes({}) - costs.flash_bytes({}) == 12


def test_ram_by_hand() -> None:
    graph = network()
    costs = Costs(graph)
    # a: 192 + 180; s: 180 + 180; d: 180 + 80; r: 80 + 320; h: 320 + 128
    assert costs.ram_bytes(uniform(graph, 8)) == 448
    assert costs.ram_bytes({**uniform(graph, 8), "x": 9}) == 2 * 192 + 180
    assert costs.ram_bytes({**uniform(graph, 4), "h": 16}) == 320 + 256
    assert costs.ram_bytes({}) == 4 * 448 == count(graph).peak_bytes


def reshaped(op: str = "reshape") -> Graph:
    """x 10 - y (the same 10 codes in another shape) - z 10; x is read once."""
    b = Builder()
    x = b.node("tanh", "x", [b.input("i", (1, 1, 1, 1))])
    x = b.node("concat", "wide", [x] * 10, axis=1)
    y = b.node("reshape", "y", [x], shape=[-1, 10]) if op == "reshape" else b.node("neg", "y", [x])
    return b.build([b.node("tanh", "z", [y])])


def test_a_reshape_takes_no_buffer() -> None:
    moved, computed = Costs(reshaped()), Costs(reshaped("neg"))
    bits = {"wide": 8, "y": 8, "z": 4}
    assert moved.ram_bytes(bits) == computed.ram_bytes(bits) == 20
    short = {"wide": 8, "y": 8}  # z float32: y and z
    assert moved.ram_bytes(short) == 50
    assert Costs(reshaped()).ram_bytes({"wide": 8, "z": 8}) == 20, "what is moved keeps its bits"
    b = Builder()
    x = b.input("x", (1, 10, 1, 1))
    graph = b.build([b.node("reshape", "y", [x], shape=[-1, 10])])
    assert Costs(graph).ram_bytes({"x": 8}) == 10
    assert Costs(graph).ram_bytes({"x": 8, "y": 16}) == 30, "another width is another buffer"


def test_a_class_index_takes_one_byte() -> None:
    b = Builder()
    x = b.input("x", (1, 4, 8, 8))
    graph = b.build([b.node("argmax", "y", [x], axis=1, keepdims=False)])
    assert Costs(graph).ram_bytes({"x": 4}) == 5 * 64


def test_cycles_by_hand() -> None:
    graph = network()
    a, d, h = 135 * 36, 45 * 16, 10 * 64
    costs = Costs(graph)
    at8 = uniform(graph, 8)
    assert costs.cycles(at8) == pytest.approx(0.91 * (a + h) + 9.0 * d)
    assert costs.latency_ms(at8, "stm32h7") == pytest.approx((0.91 * (a + h) + 9.0 * d) / 400e3)
    assert costs.cycles({**at8, "d.w": 4}) - costs.cycles(at8) == pytest.approx(4 * 45)
    # a channel's sum is 27 times the largest weight: 27 2^(16 - 1) 2^(16 - 1) takes int64, 5 2^30 too, 27 2^15 2^7 not
    assert costs.cycles({**at8, "x": 16}) == costs.cycles(at8)
    assert costs.cycles({**at8, "x": 16, "a.w": 16}) - costs.cycles(at8) == pytest.approx(2.9 * 0.91 * a)
    assert costs.cycles({**at8, "x": 12, "a.w": 16}) == costs.cycles(at8), "27 2^11 2^15 < 2^31"
    assert costs.cycles({**at8, "x": 13, "a.w": 16}) > costs.cycles(at8)
    plain = Processor(1, 1, 1, unpack=0, wide=1)
    assert costs.cycles({}, plain) == a + d + h == count(graph).conv_macs
    with pytest.raises(UsageError, match="unknown processor 'z80'"):
        costs.cycles({}, "z80")
    with pytest.raises(UsageError, match="unknown board 'z80'"):
        costs.latency_ms({}, "z80")


def test_published_models_are_those_of_the_findings() -> None:
    """ST's model zoo 2.0.0: 2.63 ms per MB of weights, 0.70 per MB moved; 0.91 and 9.0 cycles at 400 MHz."""
    assert (NPU.weight_ms, NPU.activation_ms, NPU.macs_per_ms) == (2.63, 0.70, 45e6)
    board = PROCESSORS["stm32h7"]
    assert (board.dense, board.depthwise, board.clock_hz) == (0.91, 9.0, 400e6)
    for known, error in ((NPU, "2.2 %"), (board, "4.6 %")):
        assert known.residual.startswith("modelled")
        assert error in known.residual
        assert "ST's model zoo" in known.source


def test_npu_by_hand() -> None:
    graph = network()
    b = 190 / 1e6 * 2.63 + 0.70 * (192 + 2 * 180 + 2 * 180 + 2 * 80 + 2 * 320 + 128) / 1e6
    assert (
        Costs(graph).npu_ms(uniform(graph, 8))
        == Costs(graph).latency_ms(uniform(graph, 8), "stm32n6")
        == pytest.approx(b)
    )
    assert Costs(graph).npu_ms(uniform(graph, 4)) == pytest.approx(b / 2)
    big = Builder()
    x = convolution(big, big.input("x", (1, 64, 32, 32)), "a", 64, 3, pads=[1] * 4)
    assert Costs(big.build([x])).npu_ms({"a.w": 8, "x": 8, "a": 8}) == pytest.approx(64 * 64 * 9 * 1024 / 45e6)


def test_a_plan_has_bits() -> None:
    assert bits_of(Plan("p", {"a": Qmn(4, 2), "b": Float16()})) == {"a": 4, "b": 16}


GRAPH = network()
GENES = ("x", "a.w", "a.b", "a", "s", "d.w", "d", "r", "h.w", "h")
COSTS = Costs(GRAPH, GENES)
GENOMES = st.lists(st.sampled_from((2, 3, 4, 6, 8, 11, 16, 32)), min_size=len(GENES), max_size=len(GENES))


def all_costs(bits: object) -> list[np.ndarray]:
    costs = [COSTS.flash_bytes(bits), COSTS.ram_bytes(bits), COSTS.npu_ms(bits)]  # type: ignore[arg-type]
    costs += [COSTS.cycles(bits, name) for name in PROCESSORS]  # type: ignore[arg-type]
    return costs + [COSTS.instructions(bits, name) for name in cores()]  # type: ignore[arg-type]


@given(st.lists(GENOMES, min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_arrays_of_genomes_and_mappings_agree(genomes: list[list[int]]) -> None:
    for together, *alone in zip(
        all_costs(genomes), *(all_costs(dict(zip(GENES, g, strict=True))) for g in genomes), strict=True
    ):
        assert together.shape == (len(genomes),)
        np.testing.assert_allclose(together, alone, rtol=1e-12)


@given(GENOMES, st.integers(0, len(GENES) - 1), st.sampled_from((2, 4, 8, 16)))
@settings(max_examples=25, deadline=None)
def test_more_bits_never_cost_less(genome: list[int], i: int, bits: int) -> None:
    low, high = sorted((genome[i], bits))
    pair = [[*genome[:i], b, *genome[i + 1 :]] for b in (low, high)]
    if high != 32:  # a float tensor needs no table
        assert np.diff(COSTS.flash_bytes(pair)) >= 0
    assert np.diff(COSTS.ram_bytes(pair)) >= 0
    assert np.diff(COSTS.npu_ms(pair)) >= 0


def test_flash_of_weights_is_a_sum_over_genes() -> None:
    """So that one-gene probes tell the cost of every genome (``search.knapsack.linear_costs``)."""
    weights = ("a.w", "a.b", "d.w", "h.w")
    costs = Costs(GRAPH, weights)
    rng = np.random.default_rng(0)
    genomes = rng.choice((2, 3, 4, 6, 8, 16), (20, 4))
    top = np.full(4, 16)
    alone = [
        [float(costs.flash_bytes([*top[:i], b, *top[i + 1 :]]) - costs.flash_bytes(top)) for i, b in enumerate(g)]
        for g in genomes
    ]
    np.testing.assert_array_equal(costs.flash_bytes(genomes), float(costs.flash_bytes(top)) + np.sum(alone, 1))


def test_bits_must_fit() -> None:
    with pytest.raises(UsageError, match="no tensor 'nose'"):
        Costs(GRAPH, ["nose"])
    with pytest.raises(UsageError, match=r"bits of shape \(3,\) for 10 genes"):
        COSTS.flash_bytes([8, 8, 8])


@pytest.mark.shared
def test_the_planner_bound_of_a_real_network(shared: Path) -> None:
    """36,864 bytes at best, 79,308 without sharing: a planner of intervals reached the bound in integer C."""
    path = shared / "models" / "fastscnn_packages" / "onnx" / "fastscnn_96a0.125t2r1pp0.onnx"
    graph = passes.prepare(capture.from_onnx(path))
    costs, bits = Costs(graph), uniform(graph, 8)
    assert costs.ram_bytes(bits) == 36_864
    naive = count(graph).activation_bytes // 4 + 3 * 96 * 96
    assert naive == 79_308
    parameters = sum(graph.constants[n.inputs[1]].size for n in graph.nodes if n.op == "conv")
    biases = sum(graph.constants[n.inputs[2]].size for n in graph.nodes if n.op == "conv")
    resizing = sum(3 * sum(n["size"]) for n in graph.nodes if n.op == "resize")
    assert costs.flash_bytes(bits) == parameters + 4 * biases + resizing


def test_the_default_search_takes_a_peak_of_memory() -> None:
    """Score, flash and RAM together: against the exact front of all 2,187 genomes."""
    free = [*(("weight", name) for name in ("a.w", "d.w", "h.w")), *(("activation", name) for name in "xadr")]
    genes = [Gene(name, kind, (4, 8, 16), int(np.prod(GRAPH.tensors[name].shape))) for kind, name in free]
    space = Space(tuple(genes))
    costs = Costs(GRAPH, [gene.name for gene in genes])
    landscape = Landscape(space, seed=3, interaction=0.2, unequal=0.5, n_samples=4)
    named = (
        Cost("flash", lambda g: float(costs.flash_bytes(g))),
        Cost("ram", lambda g: float(costs.ram_bytes(g))),
    )
    everything = np.array(list(itertools.product((4, 8, 16), repeat=len(genes))))
    scores = np.array([landscape.score(g) for g in everything.tolist()])
    points = np.stack([-scores, costs.flash_bytes(everything), costs.ram_bytes(everything)], 1)
    corner = [-0.5, *points[:, 1:].max(0)]
    low = points.min(0)
    best = hypervolume((points - low) / (corner - low), (1, 1, 1))
    evaluations = Evaluations(space, landscape, landscape.n_samples, named, limit=Limit(100))
    surrogate(evaluations, 0, SurrogateOptions(n_screened=200))
    found = hypervolume((evaluations.points(evaluations.front()) - low) / (corner - low), (1, 1, 1))
    assert 0.99 * best < found <= best + 1e-12
