"""Static shapes: what comes out of an operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["output_shape"]

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]


def output_shape(op: str, attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    """Return the shape of an operator's output from the shapes of its inputs.

    Raises ValueError when the inputs do not fit the operator.
    """
    shape = _SHAPES.get(op, _same)(attributes, shapes)
    if any(n < 1 for n in shape):
        raise ValueError(f"{op} of {list(shapes)} leaves an empty tensor {shape}")
    return shape


def _same(_: Attributes, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _broadcast(_: Attributes, shapes: Sequence[Shape]) -> Shape:
    return np.broadcast_shapes(*shapes)


def _windows(attributes: Attributes, shape: Shape, kernel: Sequence[int]) -> Shape:
    """Spatial size after sliding a window over a padded map."""
    if len(shape) != 4:
        raise ValueError(f"a window needs (n, c, h, w), not {shape}")
    top, left, bottom, right = attributes["pads"]
    dilations = attributes.get("dilations", (1, 1))
    padded = (shape[2] + top + bottom, shape[3] + left + right)
    return tuple(
        (size - dilation * (k - 1) - 1) // stride + 1
        for size, k, stride, dilation in zip(padded, kernel, attributes["strides"], dilations, strict=True)
    )


def _conv(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    x, weight, *bias = shapes
    groups = attributes["groups"]
    if len(weight) != 4 or len(x) != 4 or x[1] != weight[1] * groups or weight[0] % groups:
        raise ValueError(f"weight {weight} with {groups} groups does not fit input {x}")
    if bias and bias[0] != weight[:1]:
        raise ValueError(f"bias {bias[0]} does not fit weight {weight}")
    return (x[0], weight[0], *_windows(attributes, x, weight[2:]))


def _dense(_: Attributes, shapes: Sequence[Shape]) -> Shape:
    x, weight, *bias = shapes
    if len(x) != 2 or len(weight) != 2 or x[1] != weight[1] or (bias and bias[0] != weight[:1]):
        raise ValueError(f"weight {weight} does not fit input {x}")
    return (x[0], weight[0])


def _pool(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    return (*shapes[0][:2], *_windows(attributes, shapes[0], attributes["kernel"]))


def _global_pool(_: Attributes, shapes: Sequence[Shape]) -> Shape:
    n, c, _h, _w = shapes[0]
    return (n, c, 1, 1)


def _reduce(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    axes = attributes["axes"] if "axes" in attributes else [attributes["axis"]]
    if attributes["keepdims"]:
        return tuple(1 if axis in axes else n for axis, n in enumerate(shapes[0]))
    return tuple(n for axis, n in enumerate(shapes[0]) if axis not in axes)


def _resize(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    n, c, _h, _w = shapes[0]
    return (n, c, *attributes["size"])


def _concat(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    axis = attributes["axis"]
    rest = {s[:axis] + s[axis + 1 :] for s in shapes}
    if len(rest) != 1:
        raise ValueError(f"shapes {list(shapes)} do not join on axis {axis}")
    return (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :])


def _pad(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    top, left, bottom, right = attributes["pads"]
    n, c, h, w = shapes[0]
    return (n, c, h + top + bottom, w + left + right)


def _slice(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    axis = attributes["axis"]
    n = len(range(attributes["start"], attributes["stop"], attributes["step"]))
    return (*shapes[0][:axis], n, *shapes[0][axis + 1 :])


def _reshape(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    rest = tuple(attributes["shape"][1:])
    n, left = divmod(math.prod(shapes[0]), math.prod(rest))
    if left:
        raise ValueError(f"{shapes[0]} does not reshape to {list(attributes['shape'])}")
    return (n, *rest)


def _transpose(attributes: Attributes, shapes: Sequence[Shape]) -> Shape:
    return tuple(shapes[0][axis] for axis in attributes["perm"])


_SHAPES: Mapping[str, Callable[[Attributes, Sequence[Shape]], Shape]] = {
    "conv": _conv,
    "dense": _dense,
    **dict.fromkeys(("add", "sub", "mul", "div"), _broadcast),
    **dict.fromkeys(("max_pool", "average_pool"), _pool),
    "global_average_pool": _global_pool,
    **dict.fromkeys(("reduce_mean", "argmax"), _reduce),
    "resize": _resize,
    "concat": _concat,
    "pad": _pad,
    "slice": _slice,
    "reshape": _reshape,
    "transpose": _transpose,
}
