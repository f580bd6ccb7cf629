"""How many instructions a network in fixed-point C takes on a Cortex-M: a model that costs nothing to ask.

Every node is priced by what its kernel does: products, numbers copied to patches, outputs rounded, weights unpacked.
The prices are fitted to what QEMU counted on networks made for it (``benchmarks/instructions.py``); they lie in
``instructions.json`` with how far the model is off on networks that it was not fitted to. Instructions are no cycles.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import unknown_name
from bitfront.graph.ir import Graph, Node

__all__ = ["WAYS", "Operation", "Prices", "Work", "cores", "operations", "prices", "work"]

Work = dict[str, float]
"""What is done -> how often."""

BLOCK_BYTES = 2048
"""Scratch of a layer; weights beyond it are unpacked, and patches copied, block by block."""
VECTOR = 16
"""Numbers that a vector of bytes holds."""
WAYS = ("8", "16", "wide")
"""How a node is computed: codes of up to 8 bits, of up to 16, a layer's sums of 64 bits."""

_MOVES = frozenset(["concat", "pad", "transpose", "slice", "clip", "neg", "identity"])
_TABLES = frozenset(["sigmoid", "tanh", "exp", "sqrt", "silu", "hard_swish", "hard_sigmoid", "leaky_relu"])
_KINDS: Mapping[str, str] = {
    **dict.fromkeys(_MOVES, "move"),
    **dict.fromkeys(_TABLES, "table"),
    **dict.fromkeys(("add", "sub", "mul"), "binary"),
    **dict.fromkeys(("global_average_pool", "reduce_mean"), "average_pool"),
    "reshape": "",
}
"""Operator -> the kernel's name; empty: nothing is done."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a node does at batch 1, whatever its bits."""

    kind: str
    """``conv``, ``pointwise``, ``dense``, ``depthwise`` or another kernel's name; empty: nothing is done."""
    outputs: int
    inputs: int
    window: int = 1
    """Products of an output; numbers that a pool looks at."""
    rows: int = 1
    """Of a window."""
    channels: int = 1
    """Of the output."""
    weights: int = 0


def operations(graph: Graph) -> Iterator[Operation]:
    """Yield what every node does, in order."""
    for node in graph.nodes:
        yield _operation(graph, node)


def _operation(graph: Graph, node: Node) -> Operation:
    x, y = (graph.tensors[name].shape[1:] for name in (node.inputs[0], node.output))
    outputs, inputs = math.prod(y), math.prod(x)
    if node.op in ("conv", "dense"):
        shape = graph.tensors[node.inputs[1]].shape
        window, rows = math.prod(shape[1:]), shape[2] if len(shape) > 2 else 1
        return Operation(_layer(node, x, y, shape), outputs, inputs, window, rows, shape[0], math.prod(shape))
    kind = _KINDS.get(node.op, node.op)
    if node.op == "resize":
        kind = "" if x == y else f"resize_{node['mode']}"
    if kind == "average_pool" and "kernel" not in node.attributes:
        return Operation(kind, outputs, inputs, inputs // max(outputs, 1))
    if kind in ("max_pool", "average_pool"):
        return Operation(kind, outputs, inputs, math.prod(node["kernel"]), node["kernel"][0])
    return Operation(kind, outputs, inputs)


def _layer(node: Node, x: Sequence[int], y: Sequence[int], shape: Sequence[int]) -> str:
    """Return which kernel computes a layer."""
    if node.op == "dense":
        return "dense"
    plain = node["groups"] == 1 and not any(node["pads"])
    if plain and tuple(shape[2:]) == tuple(x[1:]) and math.prod(y[1:]) == 1:
        return "dense"
    if plain and tuple(shape[2:]) == (1, 1) and tuple(node["strides"]) == (1, 1):
        return "pointwise"
    return "depthwise" if node["groups"] == x[0] == y[0] and x[0] > 1 else "conv"


def work(done: Operation, way: str = "8", weight_bits: int = 8, *, even: bool = True) -> Work:
    """Return what is done for a node.

    Args:
        done: the node.
        way: of :data:`WAYS`.
        weight_bits: of a layer's weights.
        even: whether halves are rounded to even.
    """
    if not done.kind:
        return {}
    name = f"{done.kind}_{way}"
    if not done.weights:
        own = {"nodes": 1.0, "outputs": done.outputs, "looked_at": done.outputs * done.window, "inputs": done.inputs}
        return {f"{name}.{what}": float(n) for what, n in own.items()}
    n, pixels = done.window, done.outputs / done.channels
    found: Work = {f"{name}.products": done.outputs * n, f"{name}.outputs": done.outputs, f"{name}.nodes": 1.0}
    if done.kind == "depthwise":
        found[f"{name}.vectors"] = pixels * n * math.ceil(done.channels / VECTOR)
        found[f"{name}.pixels"] = pixels * math.ceil(done.channels / 4) * done.rows
    else:
        found[f"{name}.vectors"] = done.outputs * math.ceil(n / VECTOR)
        blocks = 1 if done.kind == "dense" else math.ceil(done.channels * 2 * n / BLOCK_BYTES)
        found[f"{name}.patches"] = pixels * n * blocks
        found[f"{name}.rows"] = pixels * done.rows * blocks
    found[f"{name}.even"] = done.outputs * even
    packed = {8: "8", 4: "4", 16: "16"}.get(weight_bits, "other")
    found[f"unpacked.{packed}"] = done.weights
    found["unpacked.rows"] = done.channels
    return {what: float(n) for what, n in found.items()}


# --- prices ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Prices:
    """Instructions of one core."""

    core: str
    each: Mapping[str, float]
    """What is done -> instructions each time."""
    mean_error: float
    """Of whole networks with activations of 8 bits that it was not fitted to, relative."""
    largest_error: float
    largest_error_16: float
    """The same with activations of 16 bits."""
    program_bytes: int
    """Flash that the program takes beside the constants: the most of all networks that were measured, with ``-O2``."""
    counted_with: str
    """Compiler and emulator."""

    @property
    def residual(self) -> str:
        """How well the model is known, in words."""
        return (
            f"modelled from QEMU's counts; networks it was not fitted to: mean error {100 * self.mean_error:.1f} %, "
            f"{100 * self.largest_error:.1f} % at most, with activations of 16 bits {100 * self.largest_error_16:.0f} %"
        )

    def of(self, work: Work) -> float:
        """Return the instructions of some work."""
        return sum(n * self.each.get(what, 0.0) for what, n in work.items())


def cores() -> tuple[str, ...]:
    """Return the names of the cores that there are prices for."""
    return tuple(_stored())


@functools.cache
def prices(core: str) -> Prices:
    """Return the prices of a core. Raises UsageError for unknown ones."""
    stored = _stored()
    if core not in stored:
        raise unknown_name("core", core, stored)
    return Prices(core, **stored[core])


@functools.cache
def _stored() -> Mapping[str, Any]:
    text = (resources.files("bitfront.quant") / "instructions.json").read_text(encoding="utf-8")
    found: Mapping[str, Any] = json.loads(text)["cores"]
    return found


def table(graph: Graph, known: Prices, *, even: bool) -> NDArray[np.float64]:
    """Return instructions ``(nodes, ways, widths)`` of every node, way of :data:`WAYS` and width of its weights.

    Widths are 0..16; :class:`bitfront.quant.costs.Costs` looks up in it.
    """
    found = np.zeros((len(graph.nodes), len(WAYS), 17))
    for i, done in enumerate(operations(graph)):
        for k, way in enumerate(WAYS):
            by_class = {bits: known.of(work(done, way, bits, even=even)) for bits in (8, 4, 16, 2)}
            found[i, k] = [by_class.get(bits, by_class[2]) for bits in range(17)]
    return found
