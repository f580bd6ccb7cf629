"""The model of instructions: what every node does, by hand; and how its prices add up."""

from __future__ import annotations

import numpy as np
import pytest

from bitfront.errors import UsageError
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.measure.emulated import CORES
from bitfront.quant import instructions
from bitfront.quant.costs import Costs
from bitfront.quant.instructions import Operation, Prices, operations, prices, work

WINDOW = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "groups": 1, "clip": None}


def network() -> Graph:
    """x 3x8x8 - conv 8x6x6 - depthwise 8x4x4 - pointwise 4x4x4 - mean 4 - dense 10."""
    b = Builder()

    def conv(x: str, n: int, kernel: int, groups: int = 1) -> str:
        weight = b.constant("w", np.ones((n, b.shape(x)[1] // groups, kernel, kernel)), "weight")
        return b.node("conv", "conv", [x, weight], **{**WINDOW, "groups": groups})

    x = conv(conv(b.input("x", (1, 3, 8, 8)), 8, 3), 8, 3, 8)
    x = b.node("reshape", "flat", [b.node("global_average_pool", "mean", [conv(x, 4, 1)])], shape=[-1, 4])
    weight = b.constant("dw", np.ones((10, 4)), "weight")
    return b.build([b.node("dense", "dense", [x, weight], clip=None)])


def test_what_nodes_do() -> None:
    kinds = [done.kind for done in operations(network())]
    assert kinds == ["conv", "depthwise", "pointwise", "average_pool", "", "dense"]
    first, depthwise, pointwise, mean, nothing, dense = operations(network())
    assert first == Operation("conv", 8 * 36, 3 * 64, 27, 3, 8, 216)
    assert (depthwise.window, pointwise.window, mean.window, dense.window) == (9, 8, 16, 4)
    assert work(nothing) == {}
    assert work(mean) == {
        "average_pool_8.nodes": 1, "average_pool_8.outputs": 4, "average_pool_8.looked_at": 64,
        "average_pool_8.inputs": 64,
    }  # fmt: skip
    done = work(first, "16", 4)
    assert done["conv_16.products"] == 36 * 8 * 27
    assert done["conv_16.patches"] == 36 * 27
    assert done["conv_16.vectors"] == 36 * 8 * 2, "27 numbers are two vectors of 16"
    assert done["unpacked.4"] == 216
    assert done["conv_16.even"] == 8 * 36
    assert work(first, even=False)["conv_8.even"] == 0


def test_prices_add_up() -> None:
    known = Prices(
        "mine", {"conv_8.products": 2.0, "unpacked.4": 5.0, "dense_8.nodes": 100.0}, 0.01, 0.02, 0.3, 1000, "q"
    )
    table = instructions.table(network(), known, even=True)
    assert table.shape == (6, 3, 17)
    assert table[0, 0, 8] == 2 * 36 * 8 * 27
    assert table[0, 0, 4] - table[0, 0, 8] == 5 * 216
    assert table[0, 1, 8] == 0, "codes of 16 bits have their own prices"
    assert table[5, 0, 8] == 100
    assert known.residual.endswith("mean error 1.0 %, 2.0 % at most, with activations of 16 bits 30 %")


@pytest.mark.parametrize("core", instructions.cores())
def test_every_core_that_is_priced_can_be_emulated(core: str) -> None:
    known = prices(core)
    assert core in CORES
    assert 0 < known.mean_error < 0.15
    assert known.mean_error <= known.largest_error < 0.35
    assert known.largest_error_16 < 1
    assert 4_000 < known.program_bytes < 40_000
    assert all(value > 0 for value in known.each.values())
    assert known.residual.startswith("modelled")
    assert "qemu" in known.counted_with


@pytest.mark.parametrize("core", instructions.cores())
def test_prices_are_of_the_right_size(core: str) -> None:
    """A product takes between a tenth of an instruction (vectors) and four; 64-bit sums cost more, unpacking costs."""
    b = Builder()
    weight = b.constant("w", np.random.default_rng(0).normal(size=(32, 32, 3, 3)), "weight")
    graph = b.build([b.node("conv", "c", [b.input("x", (1, 32, 18, 18)), weight], **WINDOW)])
    costs, products = Costs(graph), 16 * 16 * 32 * 288
    at8 = float(costs.instructions({"x": 8, "w": 8, "c": 8}, core))
    assert 0.1 < at8 / products < 4
    assert costs.instructions({"x": 8, "w": 3, "c": 8}, core) > at8
    assert costs.instructions({"x": 16, "w": 16, "c": 16}, core) > at8
    assert costs.instructions({"x": 8, "w": 8, "c": 8}, core, rounding="half_up") <= at8


def test_unknown_cores() -> None:
    with pytest.raises(UsageError, match="unknown core 'z80'"):
        Costs(network()).instructions({}, "z80")
