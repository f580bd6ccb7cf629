"""Where LiteRT's kernels may round otherwise than the reference.

XNNPACK's convolutions and dense layers on 8-bit codes compute what the reference computes, to the bit: whole sums in 32
bits, times a float32 scale, rounded half to even. Everything else that computes on codes works with fixed-point
multipliers, or passes through float32, and may give the neighbouring code.

With dynamic quantization XNNPACK gives every pixel a scale of its own in 1x1 convolutions, where the reference and the
built-in kernels take one for the whole map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Graph, Node
from bitfront.quant.formats import Affine, Float16, integer
from bitfront.quant.plan import Plan
from bitfront.runtimes.litert_engine import XNNPACK
from bitfront.runtimes.litert_tensors import PACKED_FROM
from bitfront.simulate import reference
from bitfront.simulate.operators import clip

__all__ = ["expected", "looseness"]

MULTIPLIERS = "fixed-point multipliers of LiteRT's kernels"
BUILTIN_SUMS = "convolutions in LiteRT's built-in kernels, whose multipliers are fixed-point"
_LAYERS = ("conv", "dense")
HALF_STEP, HALF_TINY = 2.0**-11, 2.0**-24
"""Half a unit in the last place of half precision, relative and of the smallest numbers."""
HALF_SUMS = 8
"""Such steps, times the length of a weight vector and the largest input, that a sum in half precision may be off."""
FLIPS = 4
"""Codes of an input quantized on the fly that a sum may have otherwise: rounded, or cut off at an end of the range."""


def looseness(graph: Graph, plan: Plan, node: Node, kernels: str) -> str:
    """Why a layer with an integer output may round otherwise; empty when there is no such reason.

    ``kernels``: what computes, as :class:`bitfront.runtimes.litert_engine.Engine` has it.
    """
    y = integer(plan.formats.get(node.output))
    if y is None or node.op == "argmax" or (reference.moves(plan, node) and node.op != "pad"):
        return ""
    if node.op not in _LAYERS:
        return MULTIPLIERS
    x, w = (integer(plan.formats.get(name)) for name in node.inputs[:2])
    if x is None or w is None:
        return MULTIPLIERS
    packed = w.bits <= 4 and math.prod(graph.tensors[node.inputs[1]].shape) >= PACKED_FROM
    grouped = node.op == "conv" and node["groups"] > 1 and graph.tensors[node.inputs[1]].shape[1] > 1
    exact = kernels == XNNPACK and x.bits <= 8 and y.bits <= 8 and w.bits <= 8 and not packed and not grouped
    return "" if exact else BUILTIN_SUMS


def expected(
    graph: Graph, plan: Plan, node: Node, held: Mapping[str, NDArray[Any]], kernels: str
) -> tuple[NDArray[Any], float] | None:
    """Return what a layer is to give and by how much more than usual it may be off.

    That is said of layers with dynamic quantization, and of plans in half precision; ``None`` for all others.
    """
    if any(isinstance(form, Float16) for form in plan.formats.values()):
        return reference.step(graph, plan, node, held), _half_error(graph, plan, node, held)
    weight = integer(plan.formats.get(node.inputs[1])) if node.op in _LAYERS else None
    if not plan.options.get("dynamic") or weight is None or plan.formats.get(node.inputs[0]) is not None:
        return None
    x = np.asarray(held[node.inputs[0]], np.float32)
    step = float(max(x.max(initial=0), 0) - min(x.min(initial=0), 0)) / 255
    off = FLIPS * step * float(np.abs(graph.constants[node.inputs[1]]).max())
    shape = graph.tensors[node.inputs[1]].shape
    pointwise = node.op == "conv" and shape[2:] == (1, 1) and node["groups"] == 1
    if kernels == XNNPACK and pointwise and tuple(node["strides"]) == (1, 1) and not any(node["pads"]):
        return _pixel_by_pixel(graph, node, x, weight), off
    return reference.step(graph, plan, node, held), off


def _half_error(graph: Graph, plan: Plan, node: Node, held: Mapping[str, NDArray[Any]]) -> float:
    """How far a layer may be off where a CPU with half-precision arithmetic sums in it; others sum in single."""
    largest = max(float(np.abs(reference.values(graph, plan, n, v)).max(initial=0)) for n, v in held.items())
    if node.op not in _LAYERS:
        return HALF_STEP * 2 * largest + HALF_TINY
    weight = graph.constants[node.inputs[1]]
    norm = float(np.sqrt((weight.astype(np.float64) ** 2).reshape(len(weight), -1).sum(1)).max())
    return HALF_STEP * HALF_SUMS * norm * largest + HALF_TINY


def _pixel_by_pixel(graph: Graph, node: Node, x: NDArray[np.float32], weight: Affine) -> NDArray[np.float32]:
    """A 1x1 convolution of ``(b, c, h, w)`` whose input has a scale and a zero point at every pixel."""
    low, high = np.minimum(x.min(1, keepdims=True), 0), np.maximum(x.max(1, keepdims=True), 0)
    scale = np.where(high > low, (high - low) / np.float32(255), np.float32(1))
    zero = np.rint(-low / scale)
    codes = np.clip(np.rint(x / scale) + zero, 0, 255) - zero
    stored = weight.encode(graph.constants[node.inputs[1]])[:, :, 0, 0].astype(np.float32)
    sums = np.einsum("oc,bchw->bohw", stored, codes)
    out: NDArray[np.float32] = sums * scale * np.asarray(weight.scale, np.float32).reshape(1, -1, 1, 1)
    if len(node.inputs) > 2:
        out = out + graph.constants[node.inputs[2]].astype(np.float32).reshape(1, -1, 1, 1)
    result: NDArray[np.float32] = clip(out, node["clip"])
    return result
