"""Fixed point, exactly: operators whose inputs and output all have Qmn formats.

Every operator computes the exact number in units of the output's step, rounds it once, and saturates::

    y = clip(round(v), low, high)

    add, sub             v = a 2^(fy - fa) +- b 2^(fy - fb)
    mul                  v = a b 2^(fy - fa - fb)
    average_pool, global_average_pool, reduce_mean
                         v = sum(x) 2^(fy - fx) / n
    resize (linear)      v = sum(x wr wc) 2^(fy - fx - 14), weights of 7 bits per axis (:func:`interpolation`)
    clip, neg, and what only moves codes (concat, max_pool, nearest resize, pad, reshape, slice, transpose, identity)
                         v = +-x 2^(fy - fx)

``round`` is half to even, or half up (``floor(v + 1/2)``) when the plan's ``options["rounding"]`` says so. ``conv``
and ``dense`` follow the same rule in :mod:`bitfront.simulate.reference`. ``docs/numeric-contract.md`` has the whole
contract and how it looks in integer C.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DataError, unknown_name
from bitfront.graph.ir import Node
from bitfront.quant.formats import Affine, Format, Qmn
from bitfront.quant.plan import Plan
from bitfront.simulate.operators import OPERATORS

__all__ = [
    "MAX_SPREAD",
    "ROUNDINGS",
    "WEIGHT_BITS",
    "applies",
    "check_spread",
    "code_bounds",
    "compute",
    "exponents",
    "fits_float32",
    "interpolation",
    "interpolation_matrix",
    "rounding",
    "rounding_of",
]

Array = NDArray[Any]
ROUNDINGS = ("half_even", "half_up")
WEIGHT_BITS = 7
"""Bits of an interpolation weight along one axis: with 16-bit codes both axes fit 31 bits."""
EXACT_FLOAT32 = 2.0**24
"""Whole numbers below this are exact in float32."""
MAX_SPREAD = 36
"""Largest difference of the fractional bits of two addends: their sum takes 53 bits."""


def rounding_of(plan: Plan) -> str:
    """Return how a plan rounds. Raises UsageError for an unknown name."""
    name = str(plan.options.get("rounding", "half_even"))
    if name not in ROUNDINGS:
        raise unknown_name("rounding", name, ROUNDINGS)
    return name


def rounding(steps: Array, rule: str = "half_even") -> Array:
    """Round floats to whole numbers, in place: half to even, or half up."""
    if rule == "half_even":
        return np.rint(steps, out=steps)
    whole = np.floor(steps)
    np.add(whole, steps - whole >= 0.5, out=steps)
    return steps


def code_bounds(y: Qmn, clip: Sequence[float] | None) -> tuple[int, int]:
    """Return the smallest and largest code behind a fused clip; its bounds are rounded half to even."""
    if clip is None:
        return y.low, y.high
    low, high = y.encode(np.asarray(clip, np.float32))
    return int(low), int(high)


def exponents(form: Format | None) -> NDArray[np.int64] | None:
    """Return the fractional bits of a weight, one or one per channel; ``None`` if it is no fixed-point format.

    Shifts per channel are an ``Affine`` along axis 0 whose scales are powers of two and whose zero points are 0.
    """
    if isinstance(form, Qmn):
        return np.asarray([form.frac_bits])
    if not isinstance(form, Affine) or form.axis is None or any(form.zero_point):
        return None
    mantissa, exponent = np.frexp(np.asarray(form.scale, np.float64))
    return None if np.any(mantissa != 0.5) else 1 - exponent.astype(np.int64)


def interpolation(n_in: int, n_out: int, coordinates: str) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Return, for every output pixel along one axis, its first source pixel and the weight of the next one.

    ``(n_out,)`` both. The first has ``2**WEIGHT_BITS - weight``; where there is no next pixel the weight is 0.
    Positions are those of ONNX Resize as exact fractions; what is right of their point is rounded half to even to
    ``WEIGHT_BITS`` bits.
    """
    numerator, denominator = _positions(n_in, n_out, coordinates)
    numerator = np.clip(numerator, 0, denominator * (n_in - 1))
    first = numerator // denominator
    scaled = (numerator - first * denominator) << WEIGHT_BITS
    weight = scaled // denominator
    twice = 2 * (scaled - weight * denominator)
    weight += (twice > denominator) | ((twice == denominator) & (weight % 2 == 1))
    return first.astype(np.intp), weight


def _positions(n_in: int, n_out: int, coordinates: str) -> tuple[NDArray[np.int64], int]:
    """Source positions along one axis as numerators and their denominator."""
    i = np.arange(n_out, dtype=np.int64)
    if coordinates == "align_corners":
        return i * (n_in - 1), max(1, n_out - 1)
    if coordinates == "asymmetric" or (coordinates == "pytorch_half_pixel" and n_out == 1):
        return i * n_in, n_out
    return (2 * i + 1) * n_in - n_out, 2 * n_out


def interpolation_matrix(n_in: int, n_out: int, coordinates: str) -> NDArray[np.float32]:
    """Return ``(n_out, n_in)`` the weights of :func:`interpolation` as multiples of ``2**-WEIGHT_BITS``."""
    first, weight = interpolation(n_in, n_out, coordinates)
    matrix, rows = np.zeros((n_out, n_in), np.float32), np.arange(n_out)
    matrix[rows, first] = 2**WEIGHT_BITS - weight
    matrix[rows, np.minimum(first + 1, n_in - 1)] += weight
    return matrix / np.float32(2**WEIGHT_BITS)


def _resize(node: Node, x: Array) -> Array:
    """Both axes exactly in float64."""
    if node["mode"] == "nearest" or x.shape[2:] == tuple(node["size"]):
        return OPERATORS["resize"](node, x)
    for axis, n_out in zip((2, 3), node["size"], strict=True):
        first, weight = interpolation(x.shape[axis], n_out, node["coordinates"])
        upper = (weight / 2.0**WEIGHT_BITS).reshape([-1 if a == axis else 1 for a in range(4)])
        second = np.minimum(first + 1, x.shape[axis] - 1)
        x = x.take(first, axis) * (1 - upper) + x.take(second, axis) * upper
    return x


def _mean(x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    mean: Array = x.sum(axes, keepdims=keepdims) / np.prod([x.shape[a] for a in axes])
    return mean


def _moving(op: str) -> Callable[..., Array]:
    return lambda node, *xs: OPERATORS[op](node, *xs)


_STEPS: Mapping[str, Callable[..., Array]] = {
    "add": lambda _, a, b: a + b,
    "sub": lambda _, a, b: a - b,
    "mul": lambda _, a, b: a * b,
    "neg": lambda _, x: -x,
    "clip": lambda _, x: x,
    "average_pool": _moving("average_pool"),
    "global_average_pool": lambda _, x: _mean(x, (2, 3), True),
    "reduce_mean": lambda n, x: _mean(x, tuple(n["axes"]), n["keepdims"]),
    "resize": _resize,
    **{op: _moving(op) for op in ("max_pool", "concat", "pad", "slice", "reshape", "transpose", "identity")},
}
"""Operator -> function of the node and its inputs in units of the output's step (float64), to the exact result."""


def applies(op: str, forms: Sequence[Format | None]) -> bool:
    """Whether an operator whose inputs and output have these formats computes in fixed point."""
    return op in _STEPS and all(isinstance(form, Qmn) for form in forms)


def fits_float32(node: Node, forms: Sequence[Qmn], y: Qmn, shape: Sequence[int]) -> bool:
    """Whether float32 holds every number on the way to the exact result: 24 bits.

    ``shape`` is that of the first input. A mean takes one bit more, so that its quotient is on the right side of a tie.
    """
    largest = [float(2 ** (form.bits - form.signed)) for form in forms]
    if not all(abs(y.frac_bits - form.frac_bits) <= 60 for form in forms):
        return False
    finest = max(form.frac_bits for form in forms)
    if node.op in ("add", "sub"):
        return sum(m * 2.0 ** (finest - f.frac_bits) for m, f in zip(largest, forms, strict=True)) < EXACT_FLOAT32
    if node.op == "mul":
        return largest[0] * largest[1] < EXACT_FLOAT32
    if node.op == "resize" and node["mode"] == "linear":
        return largest[0] * 2.0 ** (2 * WEIGHT_BITS) < EXACT_FLOAT32
    if node.op in ("average_pool", "global_average_pool", "reduce_mean"):
        return 2 * max(largest[0], 2.0**y.bits) * _n_averaged(node, shape) < EXACT_FLOAT32
    return True


def _n_averaged(node: Node, shape: Sequence[int]) -> int:
    if node.op == "average_pool":
        return int(np.prod(node["kernel"]))
    return int(np.prod([shape[a] for a in (node["axes"] if node.op == "reduce_mean" else (2, 3))]))


def check_spread(node: Node, shifts: Sequence[int]) -> None:
    """Raise DataError when the addends of a node are too far apart for an exact sum."""
    if node.op in ("add", "sub") and max(shifts) - min(shifts) > MAX_SPREAD:
        raise DataError(
            f"node '{node.name}': the steps of its inputs are more than {MAX_SPREAD} bits apart",
            hint="give them formats with closer fractional bits",
        )


def compute(node: Node, inputs: Sequence[Array], forms: Sequence[Qmn], y: Qmn, rule: str) -> Array:
    """Return the int32 codes of a node from those of its inputs. Raises DataError for addends too far apart."""
    shifts = [y.frac_bits - form.frac_bits for form in forms]
    check_spread(node, shifts)
    if node.op == "mul":
        shifts = [shifts[0], -forms[1].frac_bits]
    if node.op == "pad":  # the value in codes of the output, encoded as any other constant
        node = Node(
            node.name,
            node.op,
            node.inputs,
            node.output,
            {**node.attributes, "value": float(y.encode(np.float32(node["value"])))},  # type: ignore[arg-type]
        )
    aligned = [np.ldexp(codes.astype(np.float64), shift) for codes, shift in zip(inputs, shifts, strict=True)]
    clip = (node["lo"], node["hi"]) if node.op == "clip" else node.attributes.get("clip")
    steps = rounding(np.array(_STEPS[node.op](node, *aligned)), rule)
    codes: Array = np.clip(steps, *code_bounds(y, clip)).astype(np.int32)
    return codes
