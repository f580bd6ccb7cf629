"""Recipes: a name -> the graph made ready and the format of every tensor.

Weights are symmetric, activations asymmetric with one scale per tensor. Operators that only move values pass their
input's format on. Which recipe is good for a network and an engine is a matter of measuring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import UsageError, unknown_name
from bitfront.graph.equalize import equalize
from bitfront.graph.ir import Graph, Node
from bitfront.quant.correction import correct_biases
from bitfront.quant.fixed_point_formats import even_out, fixed_point_formats
from bitfront.quant.formats import Affine, Float16
from bitfront.quant.plan import Plan
from bitfront.stats.ranges import RULES, Observe, Range, Ranges, collect

__all__ = ["RECIPES", "Recipe", "activation_format", "build", "moves_values", "weight_scales"]

FLOAT_BIAS_BITS = 30
"""A bias takes at most this many bits at the scale of its accumulator: int32 with room for the sum."""
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
SMALL_MAP = 64
"""A map with this fraction of the input's positions is small."""
_REARRANGING = frozenset(["reshape", "transpose", "concat", "identity"])
_ONE_SCALE = ("resize", "average_pool")
_MOVING = frozenset(["max_pool", "slice", "reshape", "transpose", "identity"])


@dataclass(frozen=True, slots=True)
class Recipe:
    """How weights and activations are stored."""

    name: str
    description: str
    weights: str = "float32"
    """``float32``, ``float16``, ``int8`` or ``qmn``: fixed point, with steps that are powers of two."""
    activations: str = "float32"
    """``float32``, ``float16``, ``uint8``, ``int8``, ``int16`` (around zero) or ``qmn8``."""
    weight_bits: int = 8
    """Bits in use of int8 weights."""
    per_channel: bool = True
    """One scale for each output channel of a weight, or one for all."""
    equalized: bool = False
    """Balance the channels of neighbouring layers first (:mod:`bitfront.graph.equalize`)."""
    float_head: bool = False
    """Leave the first layers in float, up to the one that brings maps to 1/8 of the input's size."""
    float_tail: bool = False
    """Leave what comes behind the last layer (resizing logits, softmax) in float."""
    one_scale: bool = False
    """Let resized and averaged maps keep their input's format, as integer-only kernels have it."""
    io: str = ""
    """Type of the file's input and output; empty: float32, or as the model's input contract says."""

    @property
    def bits(self) -> int:
        """Bits that a weight takes in a file."""
        return {"float32": 32, "float16": 16}.get(self.weights, self.weight_bits)

    @property
    def needs_ranges(self) -> bool:
        """Whether it must be calibrated."""
        return self.activations in ("uint8", "int8", "int16", "qmn8")


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe("float32", "single precision, nothing rounded"),
            Recipe("float16", "half precision weights and activations", "float16", "float16"),
            Recipe("dynamic", "8-bit weights; activations quantized as they come, at run time", "int8"),
            Recipe("int8", "8-bit weights per channel, unsigned 8-bit activations", "int8", "uint8"),
            Recipe(
                "int8_mixed",
                "int8, but float where 8 bits cost time: large maps of few channels, what follows the last layer",
                "int8",
                "uint8",
                float_head=True,
                float_tail=True,
            ),
            Recipe(
                "int8_compact",
                "int8 with one scale per weight, after equalization: fewer bytes in small networks",
                "int8",
                "uint8",
                per_channel=False,
                equalized=True,
            ),
            Recipe("int8_s8s8", "8-bit weights per channel, signed 8-bit activations", "int8", "int8"),
            Recipe("int8_portable", "as int8 with 7-bit weights: the same on every CPU", "int8", "uint8", 7),
            Recipe(
                "int8_full",
                "8-bit integers from input to output: int8 in and out, one scale through resizing and pooling",
                "int8",
                "int8",
                one_scale=True,
                io="int8",
            ),
            Recipe("int8_full_u8", "as int8_full with uint8 in and out", "int8", "int8", one_scale=True, io="uint8"),
            Recipe("int16x8", "8-bit weights per channel, signed 16-bit activations around zero", "int8", "int16"),
            Recipe(
                "qmn8",
                "8-bit fixed point with steps that are powers of two: integer C, and the same codes elsewhere",
                "qmn",
                "qmn8",
                equalized=True,
            ),
            Recipe("int4", "4-bit weights per channel, unsigned 8-bit activations", "int8", "uint8", 4),
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
    equalized: bool | None = None,
    bias_correction: bool = True,
    observe: Callable[[Graph], Observe] | None = None,
) -> tuple[Graph, Plan]:
    """Return the graph to export and its plan.

    Args:
        name: a key of ``RECIPES``.
        graph: a prepared graph (:func:`bitfront.graph.passes.prepare`).
        ranges: its calibrated ranges; without them, and for an equalized graph, they are collected from ``batches``.
        batches: float32 images ``(b, c, h, w)``, read only when ranges must be collected.
        rule: how activation ranges are chosen, see :meth:`bitfront.stats.ranges.Range.choose`.
        equalized: balance the channels of neighbouring layers first; by default as the recipe says.
        bias_correction: take out the mean error of rounded weights (:mod:`bitfront.quant.correction`).
        observe: graph -> function that returns the values of its tensors; the reference executor by default.

    Raises:
        UsageError: unknown recipe or rule, or a graph that is not prepared.
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
        return graph, Plan(name, dict.fromkeys(_floats(graph), Float16()))
    if any(node.op == "batch_norm" for node in graph.nodes):
        raise UsageError("the graph is not prepared: it has a batch_norm", hint="call bitfront.graph.passes.prepare")
    if recipe.weights == "qmn":
        return _fixed_point(recipe, graph, ranges, list(batches), equalized, bias_correction, observe)
    if recipe.equalized if equalized is None else equalized:
        graph, ranges = equalize(graph), None
    if ranges is None and recipe.needs_ranges:
        ranges = collect(graph, batches, observe(graph) if observe else None)
    plan = _integer_plan(recipe, graph, ranges, rule)
    if bias_correction and ranges is not None:
        graph = correct_biases(graph, plan, ranges)
    return graph, plan


def _fixed_point(  # noqa: PLR0917
    recipe: Recipe,
    graph: Graph,
    ranges: Ranges | None,
    batches: list[NDArray[np.float32]],
    equalized: bool | None,
    bias_correction: bool,
    observe: Callable[[Graph], Observe] | None,
) -> tuple[Graph, Plan]:
    if equalized is not False:
        graph, ranges = even_out(graph, batches, observe), None
    if ranges is None:
        ranges = collect(graph, batches, observe(graph) if observe else None)
    formats = fixed_point_formats(graph, ranges, recipe.weight_bits, 8, moves_values)
    plan = Plan(recipe.name, formats, {"rounding": "half_even", "rule": "mse"})
    return correct_biases(graph, plan, ranges) if bias_correction else graph, plan


def _integer_plan(recipe: Recipe, graph: Graph, ranges: Ranges | None, rule: str) -> Plan:
    if ranges is None or not recipe.needs_ranges:
        return Plan(recipe.name, _weight_formats(graph, {}, recipe, frozenset()), {"dynamic": True})
    head = _head(graph) if recipe.float_head else frozenset()
    left_float = _only_read_by(graph, head) | (_tail(graph) if recipe.float_tail else frozenset())
    left_float |= frozenset() if recipe.io else _scores(graph)
    formats = _activation_formats(graph, ranges, rule, recipe, left_float)
    options = {"rule": rule, **({"io": recipe.io} if recipe.io else {})}
    return Plan(recipe.name, formats | _weight_formats(graph, formats, recipe, head), options)


def _activation_formats(
    graph: Graph, ranges: Ranges, rule: str, recipe: Recipe, left_float: frozenset[str]
) -> dict[str, Affine]:
    def form(tensor: str, by: str) -> Affine:
        if recipe.activations == "int16":
            return _around_zero(ranges[tensor], by, 16)
        return activation_format(ranges[tensor], by, recipe.activations == "int8")

    inputs = [name for name in graph.inputs if name not in left_float]
    formats = {name: form(name, "minmax") for name in inputs}
    for node in graph.nodes:
        if node.output in left_float or node.op == "argmax":
            continue
        source = formats.get(node.inputs[0])
        keeps = moves_values(node) or (recipe.one_scale and node.op in _ONE_SCALE)
        formats[node.output] = source if source is not None and keeps else form(node.output, rule)
    return formats


def _around_zero(seen: Range, rule: str, bits: int) -> Affine:
    """Return the per-tensor symmetric format of a tensor that takes these values."""
    low, high = seen.choose(rule, bits)
    return Affine(bits, (_positive(max(-low, high) / (2 ** (bits - 1) - 1)),))


def activation_format(seen: Range, rule: str = "minmax", signed: bool = False, bits: int = 8) -> Affine:
    """Return the per-tensor asymmetric format of a tensor that takes these values."""
    low, high = seen.choose(rule, bits)
    n_steps = 2**bits - 1
    scale = _positive(np.float32((high - low) / n_steps))
    zero = int(np.clip(np.rint(-low / scale), 0, n_steps)) - (2 ** (bits - 1) if signed else 0)
    return Affine(bits, (scale,), (zero,), signed)


def _weight_formats(
    graph: Graph, formats: Mapping[str, Affine], recipe: Recipe, head: frozenset[str]
) -> dict[str, Affine]:
    """Return the formats of all weights outside the ``head``; one that layers share gets the largest of its scales."""
    scales: dict[str, NDArray[np.float64]] = {}
    for node in graph.nodes:
        if _is_layer(node) and node.name not in head and node.inputs[1] in graph.constants:
            new = weight_scales(graph, node, formats.get(node.inputs[0]), recipe.weight_bits)
            scales[node.inputs[1]] = np.maximum(scales.get(node.inputs[1], 0.0), new)
    if not recipe.per_channel:
        scales = {name: scale.max(keepdims=True) for name, scale in scales.items()}
    axis = 0 if recipe.per_channel else None
    return {
        name: Affine(recipe.weight_bits, tuple(_positive(s) for s in scale), (0,), axis=axis, narrow=True)
        for name, scale in scales.items()
    }


def weight_scales(graph: Graph, node: Node, form: Affine | None, bits: int) -> NDArray[np.float64]:
    """Return ``(oc,)`` positive scales that reach a layer's largest weight, and at which its bias fits its accumulator.

    ``form`` is the format of the layer's input, ``None`` where the bias has no accumulator to fit.
    """
    weight = graph.constants[node.inputs[1]].astype(np.float64)
    top = np.abs(weight).reshape(weight.shape[0], -1).max(1)
    scale: NDArray[np.float64] = np.where(top > 0, top, 1.0) / (2 ** (bits - 1) - 1)
    if form is not None and len(node.inputs) > 2:
        bias = np.abs(graph.constants[node.inputs[2]]).astype(np.float64)
        scale = np.maximum(scale, bias / (form.scale[0] * 2.0**FLOAT_BIAS_BITS))
    return np.maximum(scale.astype(np.float32), np.float32(SMALLEST_SCALE)).astype(np.float64)


def _positive(scale: float | np.floating) -> float:
    """Round a scale to float32, above zero and not subnormal."""
    return max(float(np.float32(scale)), SMALLEST_SCALE)


def moves_values(node: Node) -> bool:
    """Whether an operator's outputs are some of its inputs, so that codes can be copied."""
    nearest = node.op == "resize" and node["mode"] == "nearest"
    return node.op in _MOVING or nearest or (node.op == "pad" and node["value"] == 0)


def _is_layer(node: Node) -> bool:
    return node.op in ("conv", "dense")


def _floats(graph: Graph) -> list[str]:
    """Return all tensors but indices."""
    indices = {node.output for node in graph.nodes if node.op == "argmax"}
    return [name for name in graph.tensors if name not in indices]


def _head(graph: Graph) -> frozenset[str]:
    """Return the first layers, up to the one whose map is 1/8 of the input's size; a third of all layers at most.

    Measured with ONNX Runtime on AVX-512: on large maps of few channels its float convolutions beat its 8-bit ones, and
    the change to 8 bits is cheap where maps are small (benchmarks of Fast-SCNN, all widths).
    """
    layers = [node for node in graph.nodes if _is_layer(node)]
    area = _area(graph, graph.inputs[0]) / SMALL_MAP
    n = next((i + 1 for i, node in enumerate(layers) if _area(graph, node.output) <= area), len(layers))
    return frozenset(node.name for node in layers[: min(n, len(layers) // 3)])


def _area(graph: Graph, tensor: str) -> int:
    """Return the positions of a map; 1 of a vector."""
    return math.prod(graph.tensors[tensor].shape[2:])


def _only_read_by(graph: Graph, head: frozenset[str]) -> frozenset[str]:
    """Return the tensors that nothing but the layers of ``head``, and operators before them, read."""
    found = set[str]()
    for tensor in reversed([*graph.inputs, *(node.output for node in graph.nodes)]):
        readers = graph.consumers(tensor)
        if readers and tensor not in graph.outputs and all(r.name in head or r.output in found for r in readers):
            found.add(tensor)
    return frozenset(found)


def _tail(graph: Graph) -> frozenset[str]:
    """Return the tensors behind the last layer."""
    layers = [i for i, node in enumerate(graph.nodes) if _is_layer(node)]
    return frozenset(node.output for node in graph.nodes[max(layers, default=-1) + 1 :])


def _scores(graph: Graph) -> frozenset[str]:
    """Return the tensors from the layers that a network's answers come from, where each is a number of its own.

    These are the scores of classes that a dense layer ends with, and the boxes of a detector, which only reshaping and
    joining follow: their sums keep apart what 8-bit codes would tie, and boxes of all sizes share no range.
    """
    found = set[str]()
    for name in graph.outputs:
        node = graph.producer(name)
        if node is not None and (node.op == "dense" or node.op in _REARRANGING):
            found |= _back_to_layers(graph, node) or set()
    return frozenset(found)


def _back_to_layers(graph: Graph, node: Node) -> set[str] | None:
    """Return what a node and those before it give, back to layers; ``None`` where anything else computes before."""
    if _is_layer(node):
        return {node.output}
    if node.op not in _REARRANGING:
        return None
    found = {node.output}
    for name in node.inputs:
        before = graph.producer(name)
        own = _back_to_layers(graph, before) if before is not None and len(graph.consumers(name)) == 1 else None
        if own is None:
            return None
        found |= own
    return found
