"""The operators of a graph in numpy, on float32 values; convolution and dense also on float64 and on whole numbers.

Sums inside a matrix product have no stated order; everything else is elementwise float32 in the order written here.
All maps are (b, c, h, w).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from bitfront.graph.ir import Node

__all__ = ["OPERATORS", "clip", "convolve", "coordinates", "pad", "taps"]

Array = NDArray[Any]


def pad(x: Array, pads: Sequence[int], value: float) -> Array:
    """Return ``x`` with ``pads`` (top, left, bottom, right) more rows and columns of ``value``."""
    top, left, bottom, right = pads
    if not any(pads):
        return x
    n, c, h, w = x.shape
    out = np.full((n, c, h + top + bottom, w + left + right), value, x.dtype)
    out[:, :, top : top + h, left : left + w] = x
    return out


def clip(x: Array, bounds: Sequence[float] | None) -> Array:
    """Clip in place and return ``x``; ``None`` leaves it."""
    return x if bounds is None else np.clip(x, *np.asarray(bounds, x.dtype), out=x)


def _windows(x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """Return a read-only view (b, c, kh, kw, oh, ow) of all windows of a padded map."""
    n, c, h, w = x.shape
    oh = (h - dilations[0] * (kernel[0] - 1) - 1) // strides[0] + 1
    ow = (w - dilations[1] * (kernel[1] - 1) - 1) // strides[1] + 1
    sn, sc, sh, sw = x.strides
    steps = (sn, sc, sh * dilations[0], sw * dilations[1], sh * strides[0], sw * strides[1])
    return as_strided(x, (n, c, kernel[0], kernel[1], oh, ow), steps, writeable=False)


def convolve(x: Array, weight: Array, node: Node) -> Array:
    """Return the sums of products of a ``conv`` (b, oc, oh, ow) or ``dense`` (b, oc), without bias.

    ``x`` is a padded map of the same dtype as ``weight``. Sums of whole numbers are exact in any order while their
    absolute terms add up to less than 2**24 (float32) or 2**53 (float64).
    """
    if node.op == "dense":
        return x @ weight.T
    groups, strides, dilations = node["groups"], node["strides"], node["dilations"]
    oc, ic, *kernel = weight.shape
    if ic == 1 and groups > 1:
        return _depthwise(x, weight, strides, dilations)
    windows = _windows(x, kernel, strides, dilations)
    n, _, _, _, oh, ow = windows.shape
    out = np.empty((n, groups, oc // groups, oh * ow), x.dtype)
    matrix = weight.reshape(groups, oc // groups, -1)
    for i in range(n):
        columns = windows[i].reshape(groups, matrix.shape[2], oh * ow)
        np.matmul(matrix, columns, out=out[i])
    return out.reshape(n, oc, oh, ow)


def _depthwise(x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """One input channel a group: multiply and add, tap by tap in row order."""
    if len(weight) != x.shape[1]:
        x = np.repeat(x, len(weight) // x.shape[1], axis=1)
    windows = _windows(x, weight.shape[2:], strides, dilations)
    out = np.empty((len(x), len(weight), *windows.shape[4:]), x.dtype)
    product = np.empty(out.shape[1:], x.dtype)
    for i in range(len(x)):
        for k, (r, s) in enumerate(np.ndindex(weight.shape[2:])):
            taps = weight[:, 0, r, s, None, None]
            np.multiply(windows[i, :, r, s], taps, out=product if k else out[i])
            if k:
                out[i] += product
    return out


def _batch_norm(node: Node, x: Array, *parameters: Array) -> Array:
    gamma, beta, mean, variance = (p.reshape(1, -1, *[1] * (x.ndim - 2)) for p in parameters)
    value: Array = (x - mean) * (gamma / np.sqrt(variance + np.float32(node["epsilon"]))) + beta
    return value


def _max_pool(node: Node, x: Array) -> Array:
    low = -np.inf if np.issubdtype(x.dtype, np.floating) else np.iinfo(x.dtype).min
    windows = _windows(pad(x, node["pads"], low), node["kernel"], node["strides"], node["dilations"])
    return _reduce_windows(np.maximum, windows)


def _average_pool(node: Node, x: Array) -> Array:
    def total(values: Array) -> Array:
        windows = _windows(pad(values, node["pads"], 0), node["kernel"], node["strides"], (1, 1))
        return _reduce_windows(np.add, windows)

    if any(node["pads"]) and not node["count_include_pad"]:
        return total(x) / total(np.ones((1, 1, *x.shape[2:]), np.float32))
    return total(x) / np.float32(node["kernel"][0] * node["kernel"][1])


def _reduce_windows(function: np.ufunc, windows: Array) -> Array:
    """Combine the taps of every window in row order."""
    out = windows[:, :, 0, 0].copy()
    for r, s in list(np.ndindex(windows.shape[2:4]))[1:]:
        function(out, windows[:, :, r, s], out=out)
    return out


def _mean(x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    """Mean in float64, rounded once."""
    mean: Array = x.mean(axis=axes, keepdims=keepdims, dtype=np.float64).astype(np.float32)
    return mean


def coordinates(n_in: int, n_out: int, mode: str) -> NDArray[np.float32]:
    """Return the source position of every output pixel along one axis.

    Source: ONNX Resize, ``coordinate_transformation_mode``, in the order of ONNX Runtime's float32 operations.
    """
    i = np.arange(n_out, dtype=np.float32)
    scale = np.float32(n_out) / np.float32(n_in)
    if mode == "align_corners":
        return i * np.float32(n_in - 1) / np.float32(n_out - 1) if n_out > 1 else i
    if mode == "asymmetric":
        return i / scale
    if mode == "pytorch_half_pixel" and n_out == 1:
        return i
    return (i + np.float32(0.5)) / scale - np.float32(0.5)


def _resize(node: Node, x: Array) -> Array:
    size = node["size"]
    if x.shape[2:] == tuple(size):
        return x
    positions = [coordinates(n_in, n_out, node["coordinates"]) for n_in, n_out in zip(x.shape[2:], size, strict=True)]
    if node["mode"] == "linear":
        return _interpolate(x, *positions)
    for axis, position in enumerate(positions, 2):
        steps = np.ceil(position - np.float32(0.5)) if node["rounding"] == "round_prefer_floor" else np.floor(position)
        x = x.take(np.clip(steps, 0, x.shape[axis] - 1).astype(np.intp), axis)
    return x


def taps(position: NDArray[np.float32], n: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return the two source pixels of every output pixel along one axis, and their weights."""
    position = np.clip(position, 0, n - 1)
    first = position.astype(np.intp)
    second = np.minimum(first + 1, n - 1)
    upper = position - first.astype(np.float32)
    lower = second.astype(np.float32) - position
    edge = first == second
    upper[edge] = lower[edge] = 0.5
    return (first, second), (lower, upper)


def _interpolate(x: Array, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Array:
    """Bilinear interpolation: four taps, each times the product of its two weights, added in row order."""
    row_places, row_weights = taps(rows, x.shape[2])
    column_places, column_weights = taps(columns, x.shape[3])
    out: Array | None = None
    for lines_read, row_weight in zip(row_places, row_weights, strict=True):
        lines = x.take(lines_read, 2)
        for places, column_weight in zip(column_places, column_weights, strict=True):
            term = lines.take(places, 3)
            term *= row_weight[:, None] * column_weight
            out = term if out is None else np.add(out, term, out=out)
    assert out is not None
    return out


def _sigmoid(x: Array) -> Array:
    value: Array = np.float32(1) / (np.float32(1) + np.exp(-x))
    return value


def _softmax(node: Node, x: Array) -> Array:
    e: Array = np.exp(x - x.max(axis=node["axis"], keepdims=True))
    e /= e.sum(axis=node["axis"], keepdims=True)
    return e


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    value: Array = np.clip(x * np.float32(alpha) + np.float32(beta), np.float32(0), np.float32(1))
    return value


def _slice(node: Node, x: Array) -> Array:
    index: list[slice] = [slice(None)] * x.ndim
    index[node["axis"]] = slice(node["start"], node["stop"], node["step"])
    return x[tuple(index)]


def _argmax(node: Node, x: Array) -> Array:
    index: Array = np.argmax(x, axis=node["axis"], keepdims=node["keepdims"]).astype(np.int64)
    return index


def _convolution(node: Node, x: Array, weight: Array, *bias: Array) -> Array:
    out = convolve(pad(x, node["pads"], 0) if node.op == "conv" else x, weight, node)
    if bias:
        out += bias[0].reshape(1, -1, *[1] * (out.ndim - 2))
    return clip(out, node["clip"])


OPERATORS: Mapping[str, Callable[..., Array]] = {
    "conv": _convolution,
    "dense": _convolution,
    "batch_norm": _batch_norm,
    "add": lambda n, a, b: clip(np.asarray(a + b), n["clip"]),
    "sub": lambda _, a, b: a - b,
    "mul": lambda _, a, b: a * b,
    "div": lambda _, a, b: a / b,
    "clip": lambda n, x: np.clip(x, np.float32(n["lo"]), np.float32(n["hi"])),
    "leaky_relu": lambda n, x: np.where(x >= 0, x, x * np.float32(n["alpha"])),
    "sigmoid": lambda _, x: _sigmoid(x),
    "tanh": lambda _, x: np.tanh(x),
    "exp": lambda _, x: np.exp(x),
    "sqrt": lambda _, x: np.sqrt(x),
    "neg": lambda _, x: -x,
    "silu": lambda _, x: x * _sigmoid(x),
    "hard_swish": lambda _, x: x * _hard_sigmoid(x, 1 / 6, 0.5),
    "hard_sigmoid": lambda n, x: _hard_sigmoid(x, n["alpha"], n["beta"]),
    "softmax": _softmax,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "global_average_pool": lambda _, x: _mean(x, (2, 3), True),
    "reduce_mean": lambda n, x: _mean(x, tuple(n["axes"]), n["keepdims"]),
    "resize": _resize,
    "concat": lambda n, *xs: np.concatenate(xs, axis=n["axis"]),
    "pad": lambda n, x: pad(x, n["pads"], n["value"]),
    "slice": _slice,
    "reshape": lambda n, x: x.reshape(n["shape"]),
    "transpose": lambda n, x: x.transpose(n["perm"]),
    "argmax": _argmax,
    "identity": lambda _, x: x,
}
"""Operator -> function of the node and the values of its inputs."""
