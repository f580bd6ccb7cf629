"""What each ONNX operator (set 18 and newer) becomes in a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import NodeProto, TensorProto, helper

from bitfront.errors import DataError
from bitfront.graph.builder import Builder

__all__ = ["OPERATORS", "Call"]

INFINITY = float("inf")
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


class Call:
    """One ONNX node: its inputs and attributes, and the means to add nodes for it."""

    def __init__(
        self,
        builder: Builder,
        values: Mapping[str, str | NDArray[Any]],
        node: NodeProto,
        outputs: Collection[str],
        learned: Collection[str],
    ) -> None:
        self.builder, self.node, self._values, self._outputs, self._learned = builder, node, values, outputs, learned
        self.name = node.name or node.output[0]
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute; text as ``str``."""
        value = self.attributes.get(key, default)
        return value.decode() if isinstance(value, bytes) else value

    def given(self, i: int) -> bool:
        """Whether the optional input ``i`` is there."""
        return len(self.node.input) > i and bool(self.node.input[i])

    def x(self, i: int = 0) -> str:
        """Return the graph's name of input ``i``; a known array becomes a constant."""
        name = self.node.input[i]
        value = self._values[name]
        if isinstance(value, str):
            return value
        learned = name in self._learned and value.size > 1
        return self.constant(name, value, "constant" if learned else "buffer")

    def known(self, i: int) -> NDArray[Any]:
        """Return the array of input ``i``. Raises DataError when it is computed."""
        value = self._values[self.node.input[i]]
        if isinstance(value, str):
            raise self.refusal(f"input {i} is computed, not constant")
        return value

    def integers(self, i: int) -> list[int]:
        """Return the known input ``i`` as a list of whole numbers."""
        return [int(v) for v in self.known(i).reshape(-1)]

    def constant(self, name: str, value: ArrayLike, kind: str = "buffer") -> str:
        """Add a constant."""
        return self.builder.constant(name, value, kind)

    def shape(self, i: int = 0) -> tuple[int, ...]:
        """Return the shape of input ``i``."""
        value = self._values[self.node.input[i]]
        return self.builder.shape(value) if isinstance(value, str) else value.shape

    def axis(self, value: int, n_axes: int | None = None) -> int:
        """Return a non-negative axis, not the batch's."""
        n = len(self.shape()) if n_axes is None else n_axes
        axis = int(value) + n if value < 0 else int(value)
        if not 0 < axis < n:
            raise self.refusal(f"axis {value} is the batch or does not exist")
        return axis

    def add(self, op: str, inputs: Sequence[str], *, last: bool = True, **attributes: Any) -> str:
        """Add a node; the ``last`` one carries the name of the file's output tensor."""
        return self.builder.node(op, self.name, inputs, self.node.output[0] if last else "", **attributes)

    def same(self, x: str) -> str:
        """Return a tensor as this node's output; a graph's output keeps its own name."""
        return self.add("identity", [x]) if self.node.output[0] in self._outputs else x

    def refusal(self, why: str) -> DataError:
        """Return the error for a use of an operator that the graph cannot express."""
        return DataError(f"node '{self.name}' ({self.node.op_type}): {why}", hint="replace this layer")


def _window(c: Call, kernel: Sequence[int]) -> dict[str, Any]:
    """Strides, pads (top, left, bottom, right) and dilations of a convolution or a pool."""
    if len(kernel) != 2 or len(c.shape()) != 4:
        raise c.refusal("only two-dimensional maps are known")
    strides, dilations = list(c.get("strides", [1, 1])), list(c.get("dilations", [1, 1]))
    pads = [int(p) for p in c.get("pads", [0, 0, 0, 0])]
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    automatic = c.get("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        for i, size in enumerate(c.shape()[2:]):
            total = max(0, (-(-size // strides[i]) - 1) * strides[i] + reach[i] - size)
            small, large = total // 2, total - total // 2
            pads[i], pads[2 + i] = (small, large) if automatic == "SAME_UPPER" else (large, small)
    elif automatic == "VALID":
        pads = [0, 0, 0, 0]
    return {"strides": strides, "pads": pads, "dilations": dilations}


def _pool_window(c: Call) -> dict[str, Any]:
    kernel = list(c.get("kernel_shape"))
    window = _window(c, kernel)
    pads, strides = window["pads"], window["strides"]
    if c.get("ceil_mode", 0):  # the last window may reach beyond the padding, but must begin before it ends
        for i, size in enumerate(c.shape()[2:]):
            reach = window["dilations"][i] * (kernel[i] - 1) + 1
            n = -(-(size + pads[i] + pads[2 + i] - reach) // strides[i]) + 1
            n -= (n - 1) * strides[i] >= size + pads[i]
            more = (n - 1) * strides[i] + reach - size - pads[i] - pads[2 + i]
            if more > 0 and c.get("count_include_pad", 0):
                raise c.refusal("ceil_mode with count_include_pad")
            pads[2 + i] += max(0, more)
    return {"kernel": kernel, **window}


def _conv(c: Call) -> str:
    weight = c.known(1)
    window = _window(c, weight.shape[2:])
    inputs = [c.x(), c.constant(c.node.input[1], weight, "weight")]
    if c.given(2):
        inputs.append(c.constant(c.node.input[2], c.known(2), "bias"))
    return c.add("conv", inputs, **window, groups=int(c.get("group", 1)), clip=None)


def _dense(c: Call, weight: NDArray[Any], bias: NDArray[Any] | None) -> str:
    inputs = [c.constant(c.node.input[1], weight, "weight")]
    if bias is not None:
        inputs.append(c.constant(c.node.input[2], bias, "bias"))
    shape = c.shape()
    if len(shape) == 2:
        return c.add("dense", [c.x(), *inputs], clip=None)
    x = c.add("reshape", [c.x()], last=False, shape=[-1, shape[-1]])
    y = c.add("dense", [x, *inputs], last=False, clip=None)
    return c.add("reshape", [y], shape=[-1, *shape[1:-1], len(weight)])


def _gemm(c: Call) -> str:
    if c.get("transA", 0):
        raise c.refusal("transA")
    weight = c.known(1) if c.get("transB", 0) else c.known(1).T
    bias = np.broadcast_to(c.known(2), (1, len(weight)))[0] * c.get("beta", 1.0) if c.given(2) else None
    return _dense(c, weight * c.get("alpha", 1.0), bias)


def _matmul(c: Call) -> str:
    weight = c.known(1)
    if weight.ndim != 2:
        raise c.refusal("only products with a constant matrix are known")
    return _dense(c, weight.T, None)


def _batch_norm(c: Call) -> str:
    kinds = ("constant", "constant", "buffer", "buffer")
    parameters = [c.constant(c.node.input[i], c.known(i), kind) for i, kind in enumerate(kinds, 1)]
    if c.get("training_mode", 0):
        raise c.refusal("training mode")
    return c.add("batch_norm", [c.x(), *parameters], epsilon=float(c.get("epsilon", 1e-5)))


def _binary(op: str) -> Callable[[Call], str]:
    extra: dict[str, Any] = {"clip": None} if op == "add" else {}
    return lambda c: c.add(op, [c.x(0), c.x(1)], **extra)


def _sum(c: Call) -> str:
    total = c.x()
    n = len(c.node.input)
    for i in range(1, n):
        total = c.add("add", [total, c.x(i)], last=i == n - 1, clip=None)
    return total if n > 1 else c.same(total)


def _pow(c: Call) -> str:
    exponent = float(c.known(1).reshape(-1)[0]) if c.known(1).size == 1 else 0.0
    if exponent == 2:
        return c.add("mul", [c.x(), c.x()])
    if exponent == 0.5:
        return c.add("sqrt", [c.x()])
    raise c.refusal("only squares and square roots are known as powers")


def _unary(op: str, **defaults: float) -> Callable[[Call], str]:
    def convert(c: Call) -> str:
        attributes: dict[str, Any] = {key: float(c.get(key, value)) for key, value in defaults.items()}
        return c.add(op, [c.x()], **attributes)

    return convert


def _clip(c: Call) -> str:
    lo = float(c.known(1)) if c.given(1) else -INFINITY
    hi = float(c.known(2)) if c.given(2) else INFINITY
    return c.add("clip", [c.x()], lo=lo, hi=hi)


def _softmax(c: Call) -> str:
    return c.add("softmax", [c.x()], axis=c.axis(c.get("axis", -1)))


def _max_pool(c: Call) -> str:
    if len(c.node.output) > 1 and c.node.output[1]:
        raise c.refusal("indices of a maximum")
    return c.add("max_pool", [c.x()], **_pool_window(c))


def _average_pool(c: Call) -> str:
    window = _pool_window(c)
    if any(d != 1 for d in window.pop("dilations")):
        raise c.refusal("dilations")
    count = bool(c.get("count_include_pad", 0)) and any(window["pads"])
    return c.add("average_pool", [c.x()], **window, count_include_pad=count)


def _mean(c: Call) -> str:
    listed = c.integers(1) if c.given(1) else list(c.get("axes", ()))
    if not listed:
        if c.get("noop_with_empty_axes", 0):
            return c.same(c.x())
        raise c.refusal("a mean over the batch")
    axes = sorted(c.axis(a) for a in listed)
    keepdims = bool(c.get("keepdims", 1))
    if axes == [2, 3] and len(c.shape()) == 4 and keepdims:
        return c.add("global_average_pool", [c.x()])
    return c.add("reduce_mean", [c.x()], axes=axes, keepdims=keepdims)


def _resize(c: Call) -> str:
    mode, coordinates = c.get("mode", "nearest"), c.get("coordinate_transformation_mode", "half_pixel")
    rounding = c.get("nearest_mode", "round_prefer_floor")
    if mode not in ("nearest", "linear") or c.get("antialias", 0) or len(c.shape()) != 4:
        raise c.refusal("only plain nearest and linear resizing of maps is known")
    if coordinates not in ("align_corners", "half_pixel", "pytorch_half_pixel", "asymmetric"):
        raise c.refusal(f"coordinates '{coordinates}'")
    if mode == "nearest" and rounding not in ("floor", "round_prefer_floor"):
        raise c.refusal(f"rounding '{rounding}'")
    extra = {"rounding": rounding} if mode == "nearest" else {}
    size = _resized(c, coordinates == "align_corners")
    return c.add("resize", [c.x()], mode=mode, size=size, coordinates=coordinates, **extra)


def _resized(c: Call, any_scale: bool) -> list[int]:
    """Height and width after a Resize; a scale must lead to whole pixels unless corners are aligned."""
    axes = [a % 4 for a in c.get("axes", range(4))]
    full = list(c.shape())
    if c.given(3) and c.known(3).size:
        if c.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise c.refusal("keep_aspect_ratio_policy")
        for axis, n in zip(axes, c.integers(3), strict=True):
            full[axis] = n
    else:
        for axis, scale in zip(axes, c.known(2).reshape(-1).tolist(), strict=True):
            exact = full[axis] * scale
            full[axis] = math.floor(exact + 1e-4)
            if not any_scale and abs(exact - full[axis]) > 1e-3:
                raise c.refusal(f"scale {scale:g} does not lead to whole pixels")
    if tuple(full[:2]) != c.shape()[:2]:
        raise c.refusal("resizing of channels")
    return full[2:]


def _concat(c: Call) -> str:
    tensors = [c.x(i) for i in range(len(c.node.input))]
    axis = c.axis(c.get("axis"), len(c.builder.shape(tensors[0])))
    return c.same(tensors[0]) if len(tensors) == 1 else c.add("concat", tensors, axis=axis)


def _pad(c: Call) -> str:
    n = len(c.shape())
    axes = [a % n for a in c.integers(3)] if c.given(3) else list(range(n))
    pads = c.integers(1)
    before, after = [0] * n, [0] * n
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    value = float(c.known(2).reshape(-1)[0]) if c.given(2) and c.known(2).size else 0.0
    if not any(pads):
        return c.same(c.x())
    if n != 4 or c.get("mode", "constant") != "constant" or any((*before[:2], *after[:2])) or min(pads) < 0:
        raise c.refusal("only padding of height and width with a constant is known")
    return c.add("pad", [c.x()], pads=[*before[2:], *after[2:]], value=value)


def _slice(c: Call) -> str:
    starts, stops = c.integers(1), c.integers(2)
    n = len(c.shape())
    axes = [a % n for a in c.integers(3)] if c.given(3) else list(range(len(starts)))
    steps = c.integers(4) if c.given(4) else [1] * len(starts)
    parts = []
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        if step < 1:
            raise c.refusal("a step below 1")
        bounds = slice(start, stop, step).indices(c.shape()[axis])
        if bounds != (0, c.shape()[axis], 1):
            parts.append((c.axis(axis), *bounds))
    x = c.x()
    for i, (axis, start, stop, step) in enumerate(parts):
        x = c.add("slice", [x], last=i == len(parts) - 1, axis=axis, start=start, stop=stop, step=step)
    return x if parts else c.same(x)


def _split(c: Call) -> list[str]:
    axis = c.axis(c.get("axis", 0))
    size, n = c.shape()[axis], len(c.node.output)
    step = -(-size // n)
    sizes = c.integers(1) if c.given(1) else [min(step, size - i * step) for i in range(n)]
    if len(sizes) != n or sum(sizes) != size:
        raise c.refusal(f"parts {sizes} of {size}")
    parts, start = [], 0
    for output, length in zip(c.node.output, sizes, strict=True):
        bounds = {"axis": axis, "start": start, "stop": start + length, "step": 1}
        parts.append(c.builder.node("slice", c.name, [c.x()], output, **bounds))
        start += length
    return parts


def _to_shape(c: Call, shape: Sequence[int]) -> str:
    return c.same(c.x()) if tuple(shape) == c.shape() else c.add("reshape", [c.x()], shape=[-1, *shape[1:]])


def _reshape(c: Call) -> str:
    asked, total = c.integers(1), math.prod(c.shape())
    shape = [c.shape()[i] if n == 0 and not c.get("allowzero", 0) else n for i, n in enumerate(asked)]
    if -1 in shape:
        shape[shape.index(-1)] = total // -math.prod(shape)
    return _to_shape(c, shape)


def _flatten(c: Call) -> str:
    axis = c.get("axis", 1) % len(c.shape())
    return _to_shape(c, [math.prod(c.shape()[:axis]), math.prod(c.shape()[axis:])])


def _squeeze(c: Call) -> str:
    n = len(c.shape())
    axes = [a % n for a in c.integers(1)] if c.given(1) else [i for i in range(1, n) if c.shape()[i] == 1]
    if 0 in axes:
        raise c.refusal("squeezing the batch")
    return _to_shape(c, [size for axis, size in enumerate(c.shape()) if axis not in axes])


def _unsqueeze(c: Call) -> str:
    n = len(c.shape()) + len(c.integers(1))
    axes = {a % n for a in c.integers(1)}
    sizes = iter(c.shape())
    return _to_shape(c, [1 if axis in axes else next(sizes) for axis in range(n)])


def _transpose(c: Call) -> str:
    perm = list(c.get("perm", range(len(c.shape()))[::-1]))
    if perm[0] != 0:
        raise c.refusal("a transposition of the batch")
    return c.add("transpose", [c.x()], perm=perm)


def _argmax(c: Call) -> str:
    if c.get("select_last_index", 0):
        raise c.refusal("select_last_index")
    return c.add("argmax", [c.x()], axis=c.axis(c.get("axis", 0)), keepdims=bool(c.get("keepdims", 1)))


def _cast(c: Call) -> str:
    if c.get("to") in FLOATS or c.builder.is_index(c.x()):
        return c.same(c.x())
    raise c.refusal("a cast of computed values to whole numbers")


OPERATORS: Mapping[str, Callable[[Call], str | list[str]]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    **{op: _binary(op.lower()) for op in ("Add", "Sub", "Mul", "Div")},
    "Sum": _sum,
    "Pow": _pow,
    "Relu": lambda c: c.add("clip", [c.x()], lo=0.0, hi=INFINITY),
    "Clip": _clip,
    "LeakyRelu": _unary("leaky_relu", alpha=0.01),
    "HardSigmoid": _unary("hard_sigmoid", alpha=0.2, beta=0.5),
    "HardSwish": _unary("hard_swish"),
    **{op: _unary(op.lower()) for op in ("Sigmoid", "Tanh", "Exp", "Sqrt", "Neg")},
    "Softmax": _softmax,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda c: c.add("global_average_pool", [c.x()]),
    "ReduceMean": _mean,
    "Resize": _resize,
    "Concat": _concat,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "ArgMax": _argmax,
    "Cast": _cast,
    "Identity": lambda c: c.same(c.x()),
    "Dropout": lambda c: c.same(c.x()),
}
