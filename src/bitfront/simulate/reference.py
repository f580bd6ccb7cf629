"""The reference: what a graph under a plan computes, in numpy. Exported files are verified against it.

A tensor with an integer format is held as int32 codes, one with Float16 as float16, all others as float32 values. The
arithmetic is that of ONNX's quantized operators as ONNX Runtime executes them; ``docs/numeric-reference.md`` has it in
one page.

``conv`` and ``dense`` whose input, weight and output have integer formats::

    acc    = sum (x - zx) (w - zw) + bias                exact; bias = saturate(rint(bias / (sx sw))), 32 bits
    y      = clip(rint(float32(acc) * m), lo - zy, hi - zy) + zy,    m = float32(float32(sx sw) / sy)

with all scales float32, rint half to even, and lo, hi the codes of the fused clip within the format. Padding is the
zero point.

Between fixed-point formats (Qmn) everything is exact before the one rounding, for accumulators of any size, and every
operator that :mod:`bitfront.simulate.fixed_point` lists works on codes.

``conv`` and ``dense`` of signs by signs (Binary formats) count exactly, multiply by the scale and add the bias, each
rounded to float32.

``max_pool``, ``slice``, ``reshape``, ``transpose``, ``argmax``, ``concat``, ``pad`` and nearest ``resize`` move codes
when all their formats are equal. ``add``, ``mul`` and ``average_pool`` between 8-bit formats follow
:mod:`bitfront.simulate.fused`. Everything else decodes to float32, computes as :mod:`bitfront.simulate.operators`
says, and encodes, except for the kernels of :mod:`bitfront.simulate.quantized` (``add``, ``mul``, average pools,
``softmax`` on 8 bits); ``conv`` and ``dense`` do so when one of the three formats is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DataError
from bitfront.graph.ir import Graph, Node
from bitfront.quant.formats import Affine, Binary, Format, Qmn, integer
from bitfront.quant.plan import Plan
from bitfront.simulate import fixed_point
from bitfront.simulate.fused import FUSED
from bitfront.simulate.operators import OPERATORS, clip, convolve, pad
from bitfront.simulate.quantized import KERNELS, applies

__all__ = ["bias_codes", "counts_signs", "is_fixed_point", "largest_sum", "moves", "run", "step", "values"]

Array = NDArray[Any]
MOVING = ("max_pool", "slice", "reshape", "transpose", "argmax", "concat", "resize", "identity", "pad")
"""Operators that pick codes and compute nothing, when formats are equal (``resize`` only in mode nearest)."""
EXACT_FLOAT32, EXACT_FLOAT64 = 2.0**24, 2.0**53


def run(
    graph: Graph, images: NDArray[np.float32], plan: Plan | None = None, keep: Collection[str] = ()
) -> dict[str, Array]:
    """Execute a graph on images (b, c, h, w), already normalized.

    Args:
        graph: any graph; operators that a plan quantizes should be prepared (``passes.prepare``).
        images: float32; any batch size.
        plan: formats of tensors; all float32 without one. ``options["dynamic"]``: inputs of ``conv`` and ``dense`` with
            integer weights are quantized on the fly to uint8, per tensor over the whole batch (ONNX
            DynamicQuantizeLinear).
        keep: names of inner tensors to return as well, or ``"*"`` for the input and every activation.

    Returns:
        Tensor name -> codes (int32, float16) where the plan has a format, else float32 values (int64 for argmax).

    Raises:
        DataError: the images do not fit the graph's input.
    """
    shape = graph.tensors[graph.inputs[0]].shape
    if images.ndim != len(shape) or images.shape[1:] != shape[1:]:
        raise DataError(
            f"images of shape {images.shape} do not fit the network's input {('b', *shape[1:])}",
            hint="resize the images, or capture the network at their size",
        )
    return _Run(graph, plan or Plan("float32"), keep).execute(np.asarray(images, np.float32))


def step(graph: Graph, plan: Plan | None, node: Node, held: Mapping[str, Array]) -> Array:
    """Return what one node makes of inputs that are held as :func:`run` returns them: to find who differs."""
    state = _Run(graph, plan or Plan("float32"), ())
    state.codes = dict(held)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        state.node(node)
    return state.codes[node.output]


def values(graph: Graph, plan: Plan | None, name: str, codes: Array) -> NDArray[np.float32]:
    """Return the float32 values of what :func:`run` returned for a tensor."""
    form = plan.formats.get(name) if plan else None
    decoded: NDArray[np.float32] = codes.astype(np.float32) if form is None else form.decode(codes)
    return decoded


def bias_codes(graph: Graph, plan: Plan, node: Node) -> NDArray[np.int64]:
    """Return the int32 bias codes (oc,) of a ``conv`` or ``dense`` with integer input and weight; exporters store them.

    Saturating rint(bias / (sx sw)) in float64 with the float32 product of the scales; a bias with a format of its own
    is rounded to it first; zeros without a bias.
    """
    x, w = _affine(plan, node.inputs[0]), _affine(plan, node.inputs[1])
    scale = np.broadcast_to(_product_scale(x, w), graph.tensors[node.inputs[1]].shape[0]).astype(np.float64)
    if len(node.inputs) < 3:
        return np.zeros(scale.shape, np.int64)
    codes = np.rint(_constant(graph, plan, node.inputs[2]).astype(np.float64) / scale)
    saturated: NDArray[np.int64] = np.clip(codes, -(2.0**31), 2.0**31 - 1).astype(np.int64)
    return saturated


def largest_sum(graph: Graph, plan: Plan, node: Node) -> float:
    """Return the bound of an accumulator of ``conv`` or ``dense`` between integer formats: sum |w| max |x| + |b|."""
    x, w = _affine(plan, node.inputs[0]), _affine(plan, node.inputs[1])
    weight = w.encode(graph.constants[node.inputs[1]])
    zero = x.zero_point[0]
    bias = bias_codes(graph, plan, node)
    return _largest_sum(weight - w.parameters(weight.ndim)[1], max(x.high - zero, zero - x.low), bias)


def _largest_sum(weight: Array, reach: int, bias: Array) -> float:
    return float((np.abs(weight).sum(axis=tuple(range(1, weight.ndim))) * reach + np.abs(bias)).max())


def is_fixed_point(plan: Plan, node: Node) -> bool:
    """Whether a ``conv`` or ``dense`` goes from Qmn to Qmn codes with weights that only shift."""
    x, w, y = (plan.formats.get(name) for name in (*node.inputs[:2], node.output))
    return isinstance(x, Qmn) and isinstance(y, Qmn) and fixed_point.exponents(w) is not None


def moves(plan: Plan, node: Node) -> bool:
    """Whether an operator only moves codes."""
    if node.op not in MOVING or node.attributes.get("mode") == "linear":
        return False
    forms = [plan.formats.get(i) for i in node.inputs]
    if integer(forms[0]) is None:
        return False
    return node.op == "argmax" or all(f == plan.formats.get(node.output) for f in forms)


def counts_signs(plan: Plan, node: Node) -> bool:
    """Whether a ``conv`` or ``dense`` takes binary inputs and weights and gives float values."""
    if node.op not in ("conv", "dense") or integer(plan.formats.get(node.output)) is not None:
        return False
    return all(isinstance(plan.formats.get(name), Binary) for name in node.inputs[:2])


def _affine(plan: Plan, name: str) -> Affine:
    """The integer format of a tensor known to have one."""
    form = integer(plan.formats[name])
    assert form is not None
    return form


def _product_scale(x: Affine, weight: Affine) -> NDArray[np.float32]:
    """Scale of the accumulator: one, or one per output channel."""
    return np.float32(x.scale[0]) * np.asarray(weight.scale, np.float32)


def _constant(graph: Graph, plan: Plan, name: str) -> NDArray[np.float32]:
    """Values of a constant after its format."""
    value, form = graph.constants[name], plan.formats.get(name)
    return value if form is None else form.decode(form.encode(value))  # type: ignore[arg-type]


class _Run:
    """One execution; ``codes`` holds what is alive."""

    def __init__(self, graph: Graph, plan: Plan, keep: Collection[str]) -> None:
        self.graph, self.plan, self.dynamic = graph, plan, bool(plan.options.get("dynamic"))
        everything = [*graph.inputs, *(n.output for n in graph.nodes)]
        self.rounding = fixed_point.rounding_of(plan)
        self.keep = {*graph.outputs, *(everything if keep == "*" else keep)}
        self.codes: dict[str, Array] = {}

    def format(self, name: str) -> Format | None:
        return self.plan.formats.get(name)

    def execute(self, images: NDArray[np.float32]) -> dict[str, Array]:
        last = {name: i for i, node in enumerate(self.graph.nodes) for name in node.inputs}
        self.store(self.graph.inputs[0], images)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for i, node in enumerate(self.graph.nodes):
                self.node(node)
                for name in node.inputs:
                    if last[name] == i and name not in self.keep:
                        self.codes.pop(name, None)
        return {name: self.codes[name] for name in self.codes if name in self.keep}

    def node(self, node: Node) -> None:
        form = integer(self.format(node.output))
        if node.op in ("conv", "dense") and integer(self.format(node.inputs[1])) is not None:
            if form is not None and integer(self.format(node.inputs[0])) is not None:
                self.codes[node.output] = self.convolution(node)
                return
            if self.dynamic and self.format(node.inputs[0]) is None:
                self.store(node.output, self.dynamic_convolution(node))
                return
        if counts_signs(self.plan, node):
            self.store(node.output, self.count_signs(node))
            return
        if moves(self.plan, node):
            self.codes[node.output] = self.move(node)
            return
        held = [self.format(name) for name in (*node.inputs, node.output)]
        if fixed_point.applies(node.op, held):
            inputs = [self.code(name) for name in node.inputs]
            *xs, y = (f for f in held if isinstance(f, Qmn))
            self.codes[node.output] = fixed_point.compute(node, inputs, xs, y, self.rounding)
            return
        if form is not None:
            forms = [integer(self.format(name)) for name in node.inputs]
            if applies(node.op, [*forms, form]):
                inputs = [self.code(name) for name in node.inputs]
                self.codes[node.output] = KERNELS[node.op](node, inputs, [f for f in forms if f], form)
                return
        if node.op in FUSED and not any(i in self.graph.constants for i in node.inputs):
            forms = [integer(self.format(i)) for i in (*node.inputs, node.output)]
            known = [f for f in forms if f is not None and f.bits <= 8]
            if len(known) == len(forms):
                fused = FUSED[node.op](node, [self.codes[i] for i in node.inputs], known)
                self.codes[node.output] = fused.astype(np.int32)
                return
        self.store(node.output, OPERATORS[node.op](node, *(self.value(i) for i in node.inputs)))

    def store(self, name: str, value: Array) -> None:
        """Keep values as what the plan says."""
        form = self.format(name)
        if form is None:
            self.codes[name] = value
            return
        codes = form.encode(value)
        self.codes[name] = codes.astype(np.int32) if integer(form) else codes

    def value(self, name: str) -> Array:
        """Return the float32 values of a tensor."""
        if name in self.graph.constants:
            return _constant(self.graph, self.plan, name)
        form = self.format(name)
        return self.codes[name] if form is None else form.decode(self.codes[name])

    def code(self, name: str) -> Array:
        """Return the codes of a tensor with an integer format."""
        if name in self.graph.constants:
            return _affine(self.plan, name).encode(self.graph.constants[name])
        return self.codes[name]

    def move(self, node: Node) -> Array:
        inputs = [self.codes[i] for i in node.inputs]
        if node.op != "pad":
            return OPERATORS[node.op](node, *inputs)
        form = self.format(node.output)
        value = form.encode(np.float32(node["value"]))  # type: ignore[union-attr, arg-type]
        return pad(inputs[0], node["pads"], int(value))

    def accumulate(self, node: Node, x: Array, form: Affine, bias: Array) -> tuple[Array, float]:
        """Return exact sums of codes ``x`` of format ``form``, float32 or float64, and the bound of their magnitude."""
        zero = form.zero_point[0]
        weight_form = _affine(self.plan, node.inputs[1])
        weight = weight_form.encode(self.graph.constants[node.inputs[1]])
        weight = weight - weight_form.parameters(weight.ndim)[1]
        reach = max(form.high - zero, zero - form.low)
        bound = _largest_sum(weight, reach, bias)
        if bound >= EXACT_FLOAT64:
            raise DataError(f"layer '{node.name}': its sums need more than 53 bits", hint="use fewer bits")
        dtype = np.float32 if bound < EXACT_FLOAT32 else np.float64
        centred = (x - zero if zero else x).astype(dtype)
        if node.op == "conv":
            centred = pad(centred, node["pads"], 0)
        sums = convolve(centred, weight.astype(dtype), node)
        sums += _per_channel(bias.astype(dtype), sums)
        return sums, bound

    def convolution(self, node: Node) -> Array:
        """``conv`` or ``dense`` from codes to codes."""
        x, w, y = (_affine(self.plan, name) for name in (*node.inputs[:2], node.output))
        sums, bound = self.accumulate(node, self.codes[node.inputs[0]], x, bias_codes(self.graph, self.plan, node))
        fixed = is_fixed_point(self.plan, node)
        if bound < EXACT_FLOAT32 or not fixed:
            sums = sums.astype(np.float32, copy=False)
        multiplier = _product_scale(x, w) / np.float32(y.scale[0])
        sums *= _per_channel(multiplier.astype(sums.dtype), sums)
        zero, low, high = y.zero_point[0], y.low, y.high
        if node["clip"] is not None:
            low, high = (int(c) for c in y.encode(np.asarray(node["clip"], np.float32)))
        fixed_point.rounding(sums, self.rounding if fixed else "half_even")
        np.clip(sums, sums.dtype.type(low - zero), sums.dtype.type(high - zero), out=sums)
        codes: Array = sums.astype(np.int32)
        codes += zero
        return codes

    def count_signs(self, node: Node) -> Array:
        """``conv`` or ``dense`` of signs by signs, to float32 values: the sum is exact, then scaled, then the bias."""
        x, w = (_affine(self.plan, name) for name in node.inputs[:2])
        signs = self.code(node.inputs[0]).astype(np.float32)
        if node.op == "conv":
            signs = pad(signs, node["pads"], 0)
        sums = convolve(signs, w.encode(self.graph.constants[node.inputs[1]]).astype(np.float32), node)
        sums *= _per_channel(_product_scale(x, w), sums)
        if len(node.inputs) == 3:
            sums += _per_channel(self.value(node.inputs[2]), sums)
        return clip(sums, node["clip"])

    def dynamic_convolution(self, node: Node) -> Array:
        """``conv`` or ``dense`` on an input quantized on the fly (ONNX DynamicQuantizeLinear), to float32 values."""
        values = self.value(node.inputs[0])
        low, high = min(np.float32(0), values.min()), max(np.float32(0), values.max())
        scale = (high - low) / np.float32(255) if high > low else np.float32(1)
        form = Affine(8, (float(scale),), (int(np.clip(np.rint(-low / scale), 0, 255)),), signed=False)
        sums, _ = self.accumulate(node, form.encode(values), form, np.zeros(1))
        sums = sums.astype(np.float32, copy=False)
        sums *= _per_channel(_product_scale(form, _affine(self.plan, node.inputs[1])), sums)
        if len(node.inputs) == 3:
            sums += _per_channel(self.value(node.inputs[2]), sums)
        return clip(sums, node["clip"])


def _per_channel(vector: Array, like: Array) -> Array:
    """Shape a vector (or one number) to broadcast along the channels of ``like``."""
    return vector.reshape(1, -1, *[1] * (like.ndim - 2))
