"""The operators of a graph in torch, on float values: differentiable, on any device.

The same functions as :mod:`bitfront.simulate.operators` has in numpy. What only adds, multiplies, divides or picks
gives the same bits; sums over windows and channels, interpolation and exponentials agree to float rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bitfront.graph.ir import Node

__all__ = ["OPERATORS", "convolve", "max_pool", "nearest_pixels", "pad"]


def pad(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """Return ``x`` with ``pads`` (top, left, bottom, right) more rows and columns of ``value``."""
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


def convolve(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``conv`` or ``dense`` without its clip."""
    if node.op == "dense":
        return F.linear(x, weight, bias)
    top, left, bottom, right = node["pads"]
    padding = (top, left) if (top, left) == (bottom, right) else (0, 0)
    if padding == (0, 0):
        x = pad(x, node["pads"])
    return F.conv2d(x, weight, bias, tuple(node["strides"]), padding, tuple(node["dilations"]), node["groups"])


def _clip(x: Tensor, bounds: Sequence[float] | None) -> Tensor:
    if bounds is None:
        return x
    low, high = bounds
    return F.relu(x) if (low, high) == (0.0, float("inf")) else x.clamp(low, high)


def _convolution(node: Node, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    return _clip(convolve(node, x, weight, *bias), node["clip"])


def _batch_norm(node: Node, x: Tensor, *parameters: Tensor) -> Tensor:
    gamma, beta, mean, variance = (p.reshape(1, -1, *[1] * (x.ndim - 2)) for p in parameters)
    return (x - mean) * (gamma / torch.sqrt(variance + node["epsilon"])) + beta


def max_pool(node: Node, x: Tensor) -> Tensor:
    """Return the maxima of all windows; padding never wins."""
    padded = pad(x, node["pads"], -torch.inf)
    return F.max_pool2d(padded, tuple(node["kernel"]), tuple(node["strides"]), 0, tuple(node["dilations"]))


def _average_pool(node: Node, x: Tensor) -> Tensor:
    def total(values: Tensor) -> Tensor:
        return F.avg_pool2d(
            pad(values, node["pads"]), tuple(node["kernel"]), tuple(node["strides"]), divisor_override=1
        )

    if any(node["pads"]) and not node["count_include_pad"]:
        return total(x) / total(x.new_ones(1, 1, *x.shape[2:]))
    return total(x) / float(node["kernel"][0] * node["kernel"][1])


def _positions(n_in: int, n_out: int, mode: str, device: torch.device) -> Tensor:
    """Source position of every output pixel along one axis: ONNX Resize, in float32."""
    i = torch.arange(n_out, dtype=torch.float32, device=device)
    scale = torch.tensor(n_out, dtype=torch.float32, device=device) / n_in
    if mode == "align_corners":
        return i * (n_in - 1) / (n_out - 1) if n_out > 1 else i
    if mode == "asymmetric":
        return i / scale
    if mode == "pytorch_half_pixel" and n_out == 1:
        return i
    return (i + 0.5) / scale - 0.5


def nearest_pixels(node: Node, n_in: int, n_out: int, device: torch.device) -> Tensor:
    """Return ``(n_out,)`` the source pixels of a nearest ``resize`` along one axis."""
    position = _positions(n_in, n_out, node["coordinates"], device)
    steps = torch.ceil(position - 0.5) if node["rounding"] == "round_prefer_floor" else torch.floor(position)
    return steps.clamp(0, n_in - 1).long()


def _resize(node: Node, x: Tensor) -> Tensor:
    size = tuple(node["size"])
    if tuple(x.shape[2:]) == size:
        return x
    if node["mode"] == "nearest":
        for axis, n_out in zip((2, 3), size, strict=True):
            x = x.index_select(axis, nearest_pixels(node, x.shape[axis], n_out, x.device))
        return x
    if node["coordinates"] == "align_corners":
        return F.interpolate(x, size, mode="bilinear", align_corners=True)
    if node["coordinates"] == "half_pixel":
        return F.interpolate(x, size, mode="bilinear", align_corners=False)
    for axis, n_out in zip((2, 3), size, strict=True):
        n_in = x.shape[axis]
        position = _positions(n_in, n_out, node["coordinates"], x.device).clamp(0, n_in - 1)
        first = position.long()
        upper = (position - first).reshape([-1 if a == axis else 1 for a in range(4)])
        second = (first + 1).clamp(max=n_in - 1)
        x = x.index_select(axis, first) * (1 - upper) + x.index_select(axis, second) * upper
    return x


def _slice(node: Node, x: Tensor) -> Tensor:
    start, stop, step = slice(node["start"], node["stop"], node["step"]).indices(x.shape[node["axis"]])
    return x.index_select(node["axis"], torch.arange(start, stop, step, device=x.device))


OPERATORS: Mapping[str, Callable[..., Tensor]] = {
    "conv": _convolution,
    "dense": _convolution,
    "batch_norm": _batch_norm,
    "add": lambda n, a, b: _clip(a + b, n["clip"]),
    "sub": lambda _, a, b: a - b,
    "mul": lambda _, a, b: a * b,
    "div": lambda _, a, b: a / b,
    "clip": lambda n, x: _clip(x, (n["lo"], n["hi"])),
    "leaky_relu": lambda n, x: torch.where(x >= 0, x, x * n["alpha"]),
    "sigmoid": lambda _, x: torch.sigmoid(x),
    "tanh": lambda _, x: torch.tanh(x),
    "exp": lambda _, x: torch.exp(x),
    "sqrt": lambda _, x: torch.sqrt(x),
    "neg": lambda _, x: -x,
    "silu": lambda _, x: F.silu(x),
    "hard_swish": lambda _, x: F.hardswish(x),
    "hard_sigmoid": lambda n, x: (x * n["alpha"] + n["beta"]).clamp(0, 1),
    "softmax": lambda n, x: torch.softmax(x, n["axis"]),
    "max_pool": max_pool,
    "average_pool": _average_pool,
    "global_average_pool": lambda _, x: x.mean((2, 3), keepdim=True),
    "reduce_mean": lambda n, x: x.mean(tuple(n["axes"]), keepdim=bool(n["keepdims"])),
    "resize": _resize,
    "concat": lambda n, *xs: torch.cat(xs, n["axis"]),
    "pad": lambda n, x: pad(x, n["pads"], n["value"]),
    "slice": _slice,
    "reshape": lambda n, x: x.reshape(tuple(n["shape"])),
    "transpose": lambda n, x: x.permute(tuple(n["perm"])),
    "argmax": lambda n, x: x.argmax(n["axis"], keepdim=bool(n["keepdims"])),
    "identity": lambda _, x: x,
}
"""Operator -> function of the node and the values of its inputs."""
