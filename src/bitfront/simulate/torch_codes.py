"""Operators on codes in torch: the numbers of :mod:`bitfront.simulate.reference`, to the last bit.

A tensor with an integer format is *held* as float32 centred codes (code minus zero point), one in half precision as
float32 values that half precision has, all others as float32 values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bitfront.graph.ir import Node
from bitfront.graph.torch_operators import OPERATORS, convolve, pad
from bitfront.quant.formats import Affine, Float16, Format, Qmn, integer
from bitfront.simulate import fixed_point, operators, quantized
from bitfront.simulate.torch_linear import round_steps

__all__ = [
    "codes",
    "decode",
    "elementwise_table",
    "encode",
    "fixed_step",
    "hold",
    "kernel_step",
    "move_step",
    "table_step",
    "value_step",
]

Step = Callable[..., Tensor]
"""Held inputs -> held output."""
ELEMENTWISE = frozenset(
    ["clip", "leaky_relu", "sigmoid", "tanh", "exp", "sqrt", "neg", "silu", "hard_swish", "hard_sigmoid", "identity"]
)
"""Operators of one tensor whose codes can be looked up."""
TABLE_BITS = 16
EXACT_VALUES = frozenset(
    ["add", "sub", "mul", "div", "concat", "max_pool", "pad", "slice", "reshape", "transpose", "argmax"]
)
"""Operators whose float32 values are the same bits in numpy and torch."""


@dataclass(frozen=True, slots=True)
class _Parameters:
    """How codes of a format are held."""

    form: Affine
    scale: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, form: Affine, n_dims: int, device: torch.device) -> _Parameters:
        """Parameters shaped to broadcast against a tensor of ``n_dims`` axes."""
        scale, zero = (torch.from_numpy(np.array(p, np.float32)).to(device) for p in form.parameters(n_dims))
        return cls(form, scale, zero, form.low - zero, form.high - zero)


def encode(values: Tensor, form: Format | None) -> Tensor:
    """Hold float32 values; in an integer format, what is not a number becomes zero, as in the reference."""
    affine = integer(form)
    if affine is None:
        limit = torch.finfo(torch.float16).max
        return values.clamp(-limit, limit).half().float() if isinstance(form, Float16) else values
    held = _Parameters.of(affine, values.ndim, values.device)
    return (values / held.scale).round_().clamp_(held.low, held.high).nan_to_num_(0.0)


def decode(held: Tensor, form: Format | None) -> Tensor:
    """Return the float32 values of what is held."""
    affine = integer(form)
    return held if affine is None else held * _Parameters.of(affine, held.ndim, held.device).scale


def codes(held: Tensor, form: Format | None) -> NDArray[Any]:
    """Return what :func:`bitfront.simulate.reference.run` returns: int32 codes, float16, or values."""
    array: NDArray[Any] = held.cpu().numpy()
    affine = integer(form)
    if affine is None:
        return array.astype(np.float16) if isinstance(form, Float16) else array
    return np.asarray(array + affine.parameters(array.ndim)[1]).astype(np.int32)


def hold(array: NDArray[Any], form: Format | None) -> Tensor:
    """Hold what :func:`codes` returns."""
    affine = integer(form)
    if affine is not None:
        array = array - affine.parameters(array.ndim)[1]
    return torch.from_numpy(array if array.dtype == np.int64 and affine is None else array.astype(np.float32))


# --- nodes ---------------------------------------------------------------------------------------------------------
def move_step(node: Node, form: Format) -> Step:
    """An operator that picks codes."""
    affine = integer(form)
    if node.op == "pad" and affine is not None:
        value = int(affine.encode(np.float32(node["value"]))) - affine.zero_point[0]  # type: ignore[arg-type]
        return lambda x: pad(x, node["pads"], value)
    return lambda *xs: OPERATORS[node.op](node, *xs)


def elementwise_table(node: Node, x: Affine, y: Format) -> NDArray[np.float32] | None:
    """Return the held output for every code of the input, from the lowest; ``None`` where that cannot be tabulated."""
    affine = integer(y)
    if node.op not in ELEMENTWISE or x.bits > TABLE_BITS or x.axis is not None or affine is None:
        return None
    values = x.decode(np.arange(x.low, x.high + 1))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        results = y.encode(np.nan_to_num(operators.OPERATORS[node.op](node, values), posinf=np.inf, neginf=-np.inf))
    return (results - affine.parameters(1)[1]).astype(np.float32)


def table_step(table: NDArray[np.float32], x: Affine, device: torch.device) -> Step:
    """Look codes up."""
    entries, first = torch.from_numpy(table).to(device), x.low - x.zero_point[0]
    return lambda held: entries[(held - first).long()]


def fixed_step(node: Node, forms: Sequence[Qmn], y: Qmn, rule: str, shape: Sequence[int]) -> Step:
    """An operator between Qmn formats whose first input has ``shape``: see :mod:`bitfront.simulate.fixed_point`."""
    shifts = [y.frac_bits - form.frac_bits for form in forms]
    fixed_point.check_spread(node, shifts)
    if node.op == "mul":
        shifts = [shifts[0], -forms[1].frac_bits]
    dtype = torch.float32 if fixed_point.fits_float32(node, forms, y, shape) else torch.float64
    clip = (node["lo"], node["hi"]) if node.op == "clip" else node.attributes.get("clip")
    low, high = fixed_point.code_bounds(y, clip)
    compute = _FIXED.get(node.op, OPERATORS[node.op])
    if node.op == "resize" and node["mode"] == "linear":
        compute = _Interpolation(node)
    if node.op == "pad":
        value = float(y.encode(np.float32(node["value"])))  # type: ignore[arg-type]
        compute = lambda _, x: pad(x, node["pads"], value)  # noqa: E731

    def step(*held: Tensor) -> Tensor:
        aligned = [x.to(dtype) * 2.0**shift for x, shift in zip(held, shifts, strict=True)]
        return round_steps(compute(node, *aligned), rule).clamp_(low, high).float()

    return step


class _Interpolation:
    """Linear resize as two products with matrices of 7-bit weights, made for the first input."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.matrices: tuple[Tensor, Tensor] | None = None

    def __call__(self, _: Node, x: Tensor) -> Tensor:
        size = self.node["size"]
        if tuple(x.shape[2:]) == tuple(size):
            return x
        if self.matrices is None:
            rows, columns = (
                fixed_point.interpolation_matrix(n_in, n_out, self.node["coordinates"])
                for n_in, n_out in zip(x.shape[2:], size, strict=True)
            )
            ready = (torch.from_numpy(m.copy()).to(x.device, x.dtype) for m in (rows, columns.T))
            self.matrices = next(ready), next(ready)
        rows, columns = self.matrices
        lines = torch.matmul(x.contiguous(), columns)
        return torch.matmul(rows, lines).contiguous(memory_format=torch.channels_last)


def _exact_average_pool(node: Node, x: Tensor) -> Tensor:
    """Sums in any order, divided in float64."""

    def total(values: Tensor) -> Tensor:
        kernel, strides = tuple(node["kernel"]), tuple(node["strides"])
        return F.avg_pool2d(pad(values, node["pads"]), kernel, strides, divisor_override=1).double()

    if any(node["pads"]) and not node["count_include_pad"]:
        return total(x) / total(x.new_ones(1, 1, *x.shape[2:]))
    sums = total(x)
    return sums.div_(_number(node["kernel"][0] * node["kernel"][1], sums))


def _mean(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    sums = x.sum(axes, keepdim=keepdims).double()
    return sums.div_(_number(int(np.prod([x.shape[a] for a in axes])), sums))


def _number(value: float, like: Tensor) -> Tensor:
    """One number on the device of a tensor: there, division by a Python number may multiply by its reciprocal."""
    return torch.tensor(value, dtype=like.dtype, device=like.device)


_FIXED: Mapping[str, Callable[..., Tensor]] = {
    "add": lambda _, a, b: a + b,
    "clip": lambda _, x: x,
    "neg": lambda _, x: -x,
    "identity": lambda _, x: x.clone(),
    "average_pool": _exact_average_pool,
    "global_average_pool": lambda _, x: _mean(x, (2, 3), True),
    "reduce_mean": lambda n, x: _mean(x, tuple(n["axes"]), bool(n["keepdims"])),
}


def ordered_average_pool(node: Node, x: Tensor) -> Tensor:
    """Mean of every window, its taps added in row order."""

    def total(values: Tensor) -> Tensor:
        values = pad(values, node["pads"])
        kernel, strides = node["kernel"], node["strides"]
        rows, columns = ((n - k) // s for n, k, s in zip(values.shape[2:], kernel, strides, strict=True))
        out: Tensor | None = None
        for r in range(kernel[0]):
            for c in range(kernel[1]):
                tap = values[
                    :, :, r : r + rows * strides[0] + 1 : strides[0], c : c + columns * strides[1] + 1 : strides[1]
                ]
                out = tap.clone() if out is None else out.add_(tap)
        assert out is not None
        return out

    if any(node["pads"]) and not node["count_include_pad"]:
        return total(x) / total(x.new_ones(1, 1, *x.shape[2:]))
    return total(x) / _number(node["kernel"][0] * node["kernel"][1], x)


# --- 8-bit kernels of ONNX Runtime -----------------------------------------------------------------------------------
def kernel_step(node: Node, forms: Sequence[Affine], y: Affine) -> Step | None:
    """An operator of :mod:`bitfront.simulate.quantized`, or ``None`` where only numpy has it."""
    build = _KERNELS.get(node.op)
    return None if build is None else build(node, forms, y)


def _held_bounds(y: Affine, clip: Sequence[float] | None) -> tuple[int, int]:
    low, high = y.low, y.high
    if clip is not None:
        low, high = (int(c) for c in y.encode(np.asarray(clip, np.float32)))
    return low - y.zero_point[0], high - y.zero_point[0]


def _saturate(steps: Tensor, y: Affine, clip: Sequence[float] | None = None) -> Tensor:
    """Held codes of whole numbers that include the zero point."""
    return steps.sub_(y.zero_point[0]).clamp_(*_held_bounds(y, clip))


def _add(node: Node, forms: Sequence[Affine], y: Affine) -> Step:
    def ordered(a: Tensor, b: Tensor, form_a: Affine, form_b: Affine) -> Tensor:
        ratio_a, ratio_b = (float(np.float32(f.scale[0]) / np.float32(y.scale[0])) for f in (form_a, form_b))
        part_b = np.float32(ratio_b) * np.float32(form_b.zero_point[0])
        zero = np.float32(form_a.zero_point[0] * ratio_a + np.float64(part_b))
        first = float(np.float32(y.zero_point[0]) - zero)
        part = (b.double() + form_b.zero_point[0]).mul_(ratio_b).add_(first).float()
        total = (a.double() + form_a.zero_point[0]).mul_(ratio_a).add_(part).float()
        return _saturate(total.round_(), y, node["clip"])

    def step(a: Tensor, b: Tensor) -> Tensor:
        swap = quantized.repeats(a.shape, b.shape)
        return ordered(b, a, forms[1], forms[0]) if swap else ordered(a, b, *forms)

    return step


def _mul(_: Node, forms: Sequence[Affine], y: Affine) -> Step:
    scale = float(np.float32(forms[0].scale[0]) * np.float32(forms[1].scale[0]) / np.float32(y.scale[0]))
    return lambda a, b: _saturate((a * b).mul_(scale).add_(y.zero_point[0]).round_(), y)


def _average_pool(node: Node, forms: Sequence[Affine], y: Affine) -> Step:
    scale, y_scale = float(np.float32(forms[0].scale[0])), float(np.float32(y.scale[0]))

    def step(x: Tensor) -> Tensor:
        mean = ordered_average_pool(node, x * scale)
        return _saturate(mean.div_(_number(y_scale, mean)).add_(y.zero_point[0]).round_(), y)

    return step


def _global_average_pool(_: Node, forms: Sequence[Affine], y: Affine) -> Step:
    def step(x: Tensor) -> Tensor:
        n = np.float32(x.shape[2] * x.shape[3])
        scale = float(np.float32(forms[0].scale[0]) / (np.float32(y.scale[0]) * n))
        total = x.double().sum((2, 3), keepdim=True).float()
        return total.mul_(scale).round_().clamp_(*_held_bounds(y, None))

    return step


_KERNELS: Mapping[str, Callable[[Node, Sequence[Affine], Affine], Step]] = {
    "add": _add,
    "mul": _mul,
    "average_pool": _average_pool,
    "global_average_pool": _global_average_pool,
}


# --- values ----------------------------------------------------------------------------------------------------------
def value_step(node: Node, forms: Sequence[Format | None], y: Format | None) -> Step | None:
    """Decode, compute in float32, encode; ``None`` where torch would not give numpy's bits and they matter."""
    floats = integer(y) is None or all(integer(form) is None for form in forms)
    in_order = any(integer(form) is not None for form in (*forms, y))
    operator = (_IN_ORDER if in_order else _INFERENCE).get(node.op, OPERATORS[node.op])
    if not (floats or node.op in EXACT_VALUES):
        return None

    def step(*held: Tensor) -> Tensor:
        values = (decode(x, form) for x, form in zip(held, forms, strict=True))
        return encode(operator(node, *values), y)

    return step


def interpolate(node: Node, x: Tensor) -> Tensor:
    """Resize with the taps, weights and order of the reference."""
    if node["mode"] == "nearest" or tuple(x.shape[2:]) == tuple(node["size"]):
        return OPERATORS["resize"](node, x)
    axes = []
    for n_in, n_out in zip(x.shape[2:], node["size"], strict=True):
        places, weights = operators.taps(operators.coordinates(n_in, n_out, node["coordinates"]), n_in)
        axes.append([(torch.as_tensor(p), torch.as_tensor(w)) for p, w in zip(places, weights, strict=True)])
    out: Tensor | None = None
    for rows, row_weight in axes[0]:
        lines = x.index_select(2, rows.to(x.device))
        for columns, column_weight in axes[1]:
            weight = (row_weight[:, None] * column_weight).to(x.device)
            term = lines.index_select(3, columns.to(x.device)).mul_(weight)
            out = term if out is None else out.add_(term)
    assert out is not None
    return out


def _convolution(node: Node, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    out = convolve(node, x, weight, *bias)
    return out if node["clip"] is None else out.clamp_(*node["clip"])


_INFERENCE: Mapping[str, Callable[..., Tensor]] = {"conv": _convolution, "dense": _convolution}
"""Operators that here save memory."""
_IN_ORDER: Mapping[str, Callable[..., Tensor]] = {
    **_INFERENCE,
    "average_pool": ordered_average_pool,
    "resize": interpolate,
}
"""Operators whose sums must run in the order of the reference, where codes come of them."""
