"""What an engine that computes in float32 can be held to, layer by layer, and what it did where it cannot.

Integer kernels are exact, and so are float32 ones while every number on the way takes at most 24 bits. Beyond that,
and where codes are made of float values, an engine may round to the neighbouring code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Graph, Node
from bitfront.quant.formats import Affine, Qmn, integer
from bitfront.quant.plan import Plan
from bitfront.simulate import fixed_point, reference

__all__ = ["Loose", "is_exact", "looseness"]

_LAYERS = ("conv", "dense")
FLOAT_SUMS = "codes of float sums"
WIDE_SUMS = "sums of more than 24 bits in float32"
HALF_UP = "ties that the plan rounds up and ONNX rounds to even"
FLOAT_FUNCTIONS = "functions computed in float32"


def is_exact(graph: Graph, plan: Plan, node: Node) -> bool:
    """Whether a layer with an integer output is promised to the bit."""
    if looseness(graph, plan, node):
        return False
    integers = all(integer(plan.formats.get(name)) is not None for name in (*node.inputs[:2], node.output))
    return node.op == "argmax" or _is_fixed_point(plan, node) or (node.op in _LAYERS and integers)


def looseness(graph: Graph, plan: Plan, node: Node) -> str:
    """Why a layer may round otherwise than the reference; empty when there is no such reason.

    Of affine plans only what leaves float and what takes more than 8 bits is named: how their other operators round is
    part of their definition (``docs/numeric-reference.md``).
    """
    y = plan.formats.get(node.output)
    if integer(y) is None or node.op == "argmax":
        return ""
    inputs = [name for name in node.inputs if name not in graph.constants]
    if any(integer(plan.formats.get(name)) is None for name in inputs):
        return FLOAT_SUMS
    if (
        isinstance(y, Affine)
        and max(form.bits for form in _affines(plan, node, y)) > 8
        and not reference.moves(plan, node)
    ):
        return WIDE_SUMS if node.op in _LAYERS else FLOAT_FUNCTIONS
    if not isinstance(y, Qmn) or not all(isinstance(plan.formats.get(name), Qmn) for name in inputs):
        return ""
    if not _is_fixed_point(plan, node):
        return FLOAT_FUNCTIONS
    if not _fits(graph, plan, node, y):
        return WIDE_SUMS
    half_up = fixed_point.rounding_of(plan) == "half_up" and _rounds(graph, plan, node, y)
    return HALF_UP if half_up else ""


def _is_fixed_point(plan: Plan, node: Node) -> bool:
    if node.op in _LAYERS:
        return reference.is_fixed_point(plan, node)
    return fixed_point.applies(node.op, [plan.formats.get(name) for name in (*node.inputs, node.output)])


def _affines(plan: Plan, node: Node, y: Affine) -> list[Affine]:
    return [y, *(form for name in node.inputs if isinstance(form := plan.formats.get(name), Affine))]


def _forms(plan: Plan, node: Node) -> list[Qmn]:
    return [form for name in node.inputs if isinstance(form := plan.formats.get(name), Qmn)]


def _fits(graph: Graph, plan: Plan, node: Node, y: Qmn) -> bool:
    if node.op in _LAYERS:
        return reference.largest_sum(graph, plan, node) < fixed_point.EXACT_FLOAT32
    return fixed_point.fits_float32(node, _forms(plan, node), y, graph.tensors[node.inputs[0]].shape)


def _rounds(graph: Graph, plan: Plan, node: Node, y: Qmn) -> bool:
    """Whether anything is shifted out or divided, so that there can be ties."""
    if node.op in _LAYERS:
        weight = fixed_point.exponents(plan.formats[node.inputs[1]])
        x = plan.formats[node.inputs[0]]
        assert isinstance(x, Qmn)
        assert weight is not None
        return bool((x.frac_bits + weight > y.frac_bits).any())
    fractions = [form.frac_bits for form in _forms(plan, node)]
    if node.op == "mul":
        return sum(fractions) > y.frac_bits
    divides = node.op in ("average_pool", "global_average_pool", "reduce_mean")
    interpolates = node.op == "resize" and node["mode"] == "linear"
    return divides or interpolates or max(fractions) > y.frac_bits


@dataclass(slots=True)
class _Count:
    codes: int = 0
    differing: int = 0
    largest: int = 0


@dataclass(slots=True)
class Loose:
    """The layers of a graph that may round otherwise, and what they did."""

    graph: Graph
    plan: Plan
    engine: Callable[[Graph, Plan, Node], str] | None = None
    """What an engine says of its own kernels, in the manner of :func:`looseness`; asked where that has no reason."""
    reasons: dict[str, str] = field(init=False)
    """Tensor -> reason."""
    _counts: dict[str, _Count] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = {node.output: self._reason(node) for node in self.graph.nodes}
        self.reasons = {name: reason for name, reason in found.items() if reason}

    def _reason(self, node: Node) -> str:
        known = looseness(self.graph, self.plan, node)
        return known or (self.engine(self.graph, self.plan, node) if self.engine is not None else "")

    def count(self, tensor: str, wanted: NDArray[Any], got: NDArray[Any]) -> None:
        """Add what a layer computed from the same inputs."""
        count = self._counts.setdefault(tensor, _Count())
        steps = np.abs(got.astype(np.int64) - wanted)
        count.codes += steps.size
        count.differing += int((steps > 0).sum())
        count.largest = max(count.largest, int(steps.max(initial=0)))

    def lines(self, *, traced: bool) -> tuple[str, ...]:
        """Say for every reason how many codes of how many tensors differed; or that nobody looked."""
        found = []
        for reason in dict.fromkeys(self.reasons.values()):
            names = [name for name, why in self.reasons.items() if why == reason]
            counts = [self._counts[name] for name in names if name in self._counts]
            where = f"{len(names)} tensors, first '{names[0]}'" if len(names) > 1 else f"tensor '{names[0]}'"
            if not traced:
                found.append(f"{reason} ({where}): not counted, the runtime does not show inner tensors")
                continue
            differing, codes = sum(c.differing for c in counts), sum(c.codes for c in counts)
            by = f", by at most {max(c.largest for c in counts)}" if differing else ""
            found.append(f"{reason} ({where}): {differing:,} of {codes:,} codes differ{by}")
        return tuple(found)
