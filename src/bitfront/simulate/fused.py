"""Operators that ONNX Runtime fuses from 8-bit codes to 8-bit codes, with the roundings of its kernels.

All in float32, rint half to even, results clipped to the format. The zero point is added *before* rounding, so ties go
to the even code. Found by experiment on ONNX Runtime 1.31 (x86-64 with FMA) and exact on every random network of the
parity tests; ``docs/numeric-reference.md`` has them in one table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Node
from bitfront.quant.formats import Affine
from bitfront.simulate.operators import OPERATORS

__all__ = ["FUSED"]

Array = NDArray[Any]


def _scale(form: Affine) -> np.float32:
    return np.float32(form.scale[0])


def _zero(form: Affine) -> np.float32:
    return np.float32(form.zero_point[0])


def _add(node: Node, codes: Sequence[Array], forms: Sequence[Affine]) -> Array:
    """QLinearAdd: two fused multiply-adds, each rounded once."""
    a, b, y = forms
    ratio_a, ratio_b = _scale(a) / _scale(y), _scale(b) / _scale(y)
    fixed = _zero(y) - (ratio_a * _zero(a) + ratio_b * _zero(b))
    part = (codes[1] * np.float64(ratio_b) + np.float64(fixed)).astype(np.float32)
    total = np.rint((codes[0] * np.float64(ratio_a) + part).astype(np.float32))
    low, high = y.low, y.high
    if node["clip"] is not None:
        low, high = (int(c) for c in y.encode(np.asarray(node["clip"], np.float32)))
    return np.clip(total, low, high)


def _mul(node: Node, codes: Sequence[Array], forms: Sequence[Affine]) -> Array:
    """QLinearMul: the exact product of the centred codes, scaled."""
    a, b, y = forms
    product = ((codes[0] - a.zero_point[0]) * (codes[1] - b.zero_point[0])).astype(np.float32)
    out: Array = np.clip(np.rint(product * (_scale(a) * _scale(b) / _scale(y)) + _zero(y)), y.low, y.high)
    return out


def _average_pool(node: Node, codes: Sequence[Array], forms: Sequence[Affine]) -> Array:
    """QLinearAveragePool: the mean of the values, scaled back."""
    x, y = forms
    mean = OPERATORS["average_pool"](node, x.decode(codes[0]))
    return np.clip(np.rint(mean / _scale(y) + _zero(y)), y.low, y.high)


FUSED: Mapping[str, Callable[[Node, Sequence[Array], Sequence[Affine]], Array]] = {
    "add": _add,
    "mul": _mul,
    "average_pool": _average_pool,
}
"""Operator -> function of the node, the codes of its inputs and the formats of inputs and output, to codes."""
