"""Recipes: a name -> the graph made ready and the format of every tensor.

Weights are symmetric and per output channel; activations are per tensor and asymmetric. Operators that only move values
pass their input's format on. Which recipe is good for a network and an engine is a matter of measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import UsageError, unknown_name
from bitfront.graph.equalize import equalize
from bitfront.graph.ir import Graph, Node
from bitfront.quant.correction import correct_biases
from bitfront.quant.formats import Affine, Float16, Format
from bitfront.quant.plan import Plan
from bitfront.stats.ranges import RULES, Observe, Range, Ranges, collect

__all__ = ["RECIPES", "Recipe", "build"]

FLOAT_BIAS_BITS = 30
"""A bias takes at most this many bits at the scale of its accumulator: int32 with room for the sum."""
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
_MOVING = frozenset(["max_pool", "slice", "reshape", "transpose", "identity"])


@dataclass(frozen=True, slots=True)
class Recipe:
    """How weights and activations are stored."""

    name: str
    description: str
    weights: str = "float32"
    """``float32``, ``float16`` or ``int8``."""
    activations: str = "float32"
    """``float32``, ``float16``, ``uint8`` or ``int8``."""
    weight_bits: int = 8
    """Bits in use of int8 weights."""

    @property
    def needs_ranges(self) -> bool:
        """Whether it must be calibrated."""
        return self.activations in ("uint8", "int8")


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe("float32", "single precision, nothing rounded"),
            Recipe("float16", "half precision weights and activations", "float16", "float16"),
            Recipe("dynamic", "8-bit weights; activations quantized as they come, at run time", "int8"),
            Recipe("int8", "8-bit weights per channel, unsigned 8-bit activations", "int8", "uint8"),
            Recipe("int8_s8s8", "8-bit weights per channel, signed 8-bit activations", "int8", "int8"),
            Recipe("int8_portable", "as int8 with 7-bit weights: the same on every CPU", "int8", "uint8", 7),
        )
    }
)


def build(
    name: str,
    graph: Graph,
    ranges: Ranges | None = None,
    batches: Iterable[NDArray[np.float32]] = (),
    *,
    rule: str = "mse",
    equalized: bool = False,
    bias_correction: bool = True,
    float_tail: bool = False,
    observe: Callable[[Graph], Observe] | None = None,
) -> tuple[Graph, Plan]:
    """Return the graph to export and its plan.

    Args:
        name: a key of ``RECIPES``.
        graph: a prepared graph (:func:`bitfront.graph.passes.prepare`).
        ranges: its calibrated ranges; without them, and for an equalized graph, they are collected from ``batches``.
        batches: float32 images ``(b, c, h, w)``, read only when ranges must be collected.
        rule: how activation ranges are chosen, see :meth:`bitfront.stats.ranges.Range.choose`.
        equalized: balance the channels of neighbouring layers first (:mod:`bitfront.graph.equalize`).
        bias_correction: take out the mean error of rounded weights (:mod:`bitfront.quant.correction`).
        float_tail: leave what comes behind the last layer (resizing logits, softmax) in float.
        observe: graph -> function that returns the values of its tensors; the reference executor by default.

    Raises:
        UsageError: unknown recipe or rule.
        DataError: nothing to calibrate on.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    if rule not in RULES:
        raise unknown_name("range rule", rule, RULES)
    recipe = RECIPES[name]
    if recipe.weights == "float32":
        return graph, Plan(name)
    if recipe.weights == "float16":
        halves = (t.name for kind in ("input", "activation", "weight", "bias", "constant") for t in graph.named(kind))
        return graph, Plan(name, {n: Float16() for n in halves if not _is_index(graph, n)})
    if any(node.op == "batch_norm" for node in graph.nodes):
        raise UsageError("the graph is not prepared: it has a batch_norm", hint="call bitfront.graph.passes.prepare")
    if equalized:
        graph, ranges = equalize(graph), None
    if ranges is None and recipe.needs_ranges:
        ranges = collect(graph, batches, observe(graph) if observe else None)
    formats: dict[str, Format] = {}
    if ranges is not None and recipe.needs_ranges:
        formats |= _activation_formats(graph, ranges, rule, recipe.activations == "int8", float_tail)
    formats |= _weight_formats(graph, formats, recipe.weight_bits)
    options: dict[str, str | int | float | bool] = {"rule": rule, "equalized": equalized, "corrected": bias_correction}
    plan = Plan(name, formats, options if recipe.needs_ranges else {"dynamic": True})
    if bias_correction and ranges is not None:
        graph = correct_biases(graph, plan, ranges)
    return graph, plan


def _activation_formats(graph: Graph, ranges: Ranges, rule: str, signed: bool, float_tail: bool) -> dict[str, Affine]:
    formats = {name: activation_format(ranges[name], "minmax", signed) for name in graph.inputs}
    tail = _tail(graph) if float_tail else frozenset()
    for node in graph.nodes:
        source = node.inputs[0]
        if node.output in tail or _is_index(graph, node.output):
            continue
        if _moves(node) and source in formats:
            formats[node.output] = formats[source]
        else:
            formats[node.output] = activation_format(ranges[node.output], rule, signed)
    return formats


def activation_format(seen: Range, rule: str = "minmax", signed: bool = False, bits: int = 8) -> Affine:
    """Return the per-tensor asymmetric format of a tensor that takes these values."""
    low, high = seen.choose(rule, bits)
    n_steps = 2**bits - 1
    scale = _positive(np.float32((high - low) / n_steps))
    zero = int(np.clip(np.rint(-low / scale), 0, n_steps)) - (2 ** (bits - 1) if signed else 0)
    return Affine(bits, (scale,), (zero,), signed)


def _weight_formats(graph: Graph, formats: Mapping[str, Format], bits: int) -> dict[str, Affine]:
    """Return the format of every layer's weight; one that several layers share gets the coarsest of its scales."""
    scales: dict[str, NDArray[np.float64]] = {}
    for node in graph.nodes:
        if node.op in ("conv", "dense") and node.inputs[1] in graph.constants:
            new = _weight_scales(graph, node, formats.get(node.inputs[0]), bits)
            scales[node.inputs[1]] = np.maximum(scales.get(node.inputs[1], 0.0), new)
    return {
        name: Affine(bits, tuple(_positive(s) for s in scale), (0,), axis=0, narrow=True)
        for name, scale in scales.items()
    }


def _weight_scales(graph: Graph, node: Node, form: Format | None, bits: int) -> NDArray[np.float64]:
    """Return ``(oc,)`` scales that reach the largest weight, and at which the bias fits its accumulator."""
    weight = graph.constants[node.inputs[1]].astype(np.float64)
    top = np.abs(weight).reshape(weight.shape[0], -1).max(1)
    scale: NDArray[np.float64] = np.where(top > 0, top, 1.0) / (2 ** (bits - 1) - 1)
    if isinstance(form, Affine) and len(node.inputs) > 2:
        bias = np.abs(graph.constants[node.inputs[2]]).astype(np.float64)
        scale = np.maximum(scale, bias / (form.scale[0] * 2.0**FLOAT_BIAS_BITS))
    return scale


def _positive(scale: float | np.floating) -> float:
    """Round a scale to float32, above zero and not subnormal."""
    return max(float(np.float32(scale)), SMALLEST_SCALE)


def _moves(node: Node) -> bool:
    """Whether an operator's outputs are some of its inputs, so that codes can be copied."""
    nearest = node.op == "resize" and node["mode"] == "nearest"
    return node.op in _MOVING or nearest or (node.op == "pad" and node["value"] == 0)


def _is_index(graph: Graph, tensor: str) -> bool:
    producer = graph.producer(tensor)
    return producer is not None and producer.op == "argmax"


def _tail(graph: Graph) -> frozenset[str]:
    """Return the tensors behind the last layer."""
    layers = [i for i, node in enumerate(graph.nodes) if node.op in ("conv", "dense")]
    return frozenset(node.output for node in graph.nodes[max(layers, default=-1) + 1 :])
