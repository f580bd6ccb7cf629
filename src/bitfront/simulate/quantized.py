"""Operators that work on 8-bit codes directly, in the arithmetic of ONNX Runtime's kernels.

Each takes codes and formats and gives codes (int32). They apply when all inputs and the output have integer formats of
at most 8 bits and the same signedness; other formats are decoded, computed in float32 and encoded. With a, b, y codes,
z zero points, s scales, all float32, every operation rounded to float32 except inside fma, and rint half to even:

``add``                  y = rint(fma(a, ra, fma(b, rb, zy - fma(za, ra, zb rb)))), ra = sa / sy, rb = sb / sy; a and b
                         change places where a is one number along the innermost axis and b is not
``mul``                  y = rint((a - za)(b - zb) (sa sb / sy) + zy)
``average_pool``         y = rint(mean((x - zx) sx) / sy + zy)
``global_average_pool``  y = rint((sum x - n zx) (sx / (sy n))) + zy
``softmax``              y = floor((e c + floor(S / 2)) / S) + zy in whole numbers: e = round(K exp((x - max x) sx)),
                         S = sum e, c = floor(1 / sy), K = min((2**32 - 1) / n, 2**23 - 1)

Source: measured on ONNX Runtime 1.31 (QLinearAdd, QLinearMul, QLinearAveragePool, QLinearGlobalAveragePool,
QLinearSoftmax; x86-64 with fused multiply-add); ``tests/parity`` holds them to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Node
from bitfront.quant.formats import Affine
from bitfront.simulate.operators import OPERATORS

__all__ = ["KERNELS", "applies", "repeats", "saturate"]

Array = NDArray[Any]


def applies(op: str, forms: Sequence[Affine | None]) -> bool:
    """Whether an operator whose inputs and output have these formats works on codes."""
    known = [f for f in forms if f is not None]
    same = len({f.signed for f in known}) == 1 and all(f.bits <= 8 and f.axis is None for f in known)
    return op in KERNELS and len(known) == len(forms) and same


def saturate(steps: Array, form: Affine, bounds: Sequence[float] | None = None) -> Array:
    """Return int32 codes of whole float numbers, within the format and the codes of ``bounds`` (values)."""
    low, high = form.low, form.high
    if bounds is not None:
        low, high = (int(c) for c in form.encode(np.asarray(bounds, np.float32)))
    codes: Array = np.clip(steps, low, high).astype(np.int32)
    return codes


def _ratio(x: Affine, y: Affine) -> np.float32:
    return np.float32(x.scale[0]) / np.float32(y.scale[0])


def _add(node: Node, inputs: Sequence[Array], forms: Sequence[Affine], y: Affine) -> Array:
    (a, b), (form_a, form_b) = inputs, forms
    if repeats(a.shape, b.shape):
        (a, b), (form_a, form_b) = (b, a), (form_b, form_a)
    ratio_a, ratio_b = _ratio(form_a, y), _ratio(form_b, y)
    zero = _fused(ratio_b * np.float32(form_b.zero_point[0]), np.asarray(form_a.zero_point[0]), ratio_a)
    total = _fused(_fused(np.float32(y.zero_point[0]) - zero, b, ratio_b), a, ratio_a)
    return saturate(np.rint(total), y, node["clip"])


def repeats(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether shape ``a`` has one number along the innermost axis on which its broadcast with ``b`` has more."""
    shape = np.broadcast_shapes(tuple(a), tuple(b))
    inner = max((axis for axis, n in enumerate(shape) if n > 1), default=0)
    position = inner - len(shape) + len(a)
    return position < 0 or a[position] == 1


def _fused(addend: Array | np.float32, codes: Array, ratio: np.float32) -> Array:
    """Multiply and add with one rounding: the product of a code and a float32 is exact in float64."""
    total: Array = np.asarray(codes * np.float64(ratio) + addend).astype(np.float32)
    return total


def _mul(_: Node, inputs: Sequence[Array], forms: Sequence[Affine], y: Affine) -> Array:
    a, b = (codes - form.zero_point[0] for codes, form in zip(inputs, forms, strict=True))
    scale = np.float32(forms[0].scale[0]) * np.float32(forms[1].scale[0]) / np.float32(y.scale[0])
    return saturate(np.rint((a * b).astype(np.float32) * scale + np.float32(y.zero_point[0])), y)


def _average_pool(node: Node, inputs: Sequence[Array], forms: Sequence[Affine], y: Affine) -> Array:
    mean = OPERATORS["average_pool"](node, forms[0].decode(inputs[0]))
    return saturate(np.rint(mean / np.float32(y.scale[0]) + np.float32(y.zero_point[0])), y)


def _global_average_pool(_: Node, inputs: Sequence[Array], forms: Sequence[Affine], y: Affine) -> Array:
    x, form = inputs[0], forms[0]
    n = x.shape[2] * x.shape[3]
    total = x.sum(axis=(2, 3), keepdims=True, dtype=np.int64) - n * form.zero_point[0]
    scale = np.float32(form.scale[0]) / (np.float32(y.scale[0]) * np.float32(n))
    return saturate(np.rint(total.astype(np.float32) * scale) + y.zero_point[0], y)


def _softmax(node: Node, inputs: Sequence[Array], forms: Sequence[Affine], y: Affine) -> Array:
    x, axis = inputs[0], node["axis"]
    largest = min((2**32 - 1) / x.shape[axis], float(2**23 - 1))
    table = [math.floor(largest * math.exp(-i * float(np.float32(forms[0].scale[0]))) + 0.5) for i in range(256)]
    e = np.array(table, np.int64)[x.max(axis=axis, keepdims=True) - x]
    total = e.sum(axis=axis, keepdims=True)
    steps = math.floor(np.float32(1) / np.float32(y.scale[0]))
    return saturate((e * steps + total // 2) // total + y.zero_point[0], y)


KERNELS: Mapping[str, Callable[[Node, Sequence[Array], Sequence[Affine], Affine], Array]] = {
    "add": _add,
    "mul": _mul,
    "average_pool": _average_pool,
    "global_average_pool": _global_average_pool,
    "softmax": _softmax,
}
"""Operator -> function of the node, the codes and formats of its inputs, and the output's format."""
