"""What each ATen operator becomes in a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfront.errors import DataError
from bitfront.graph.builder import Builder

if TYPE_CHECKING:
    import torch
    from torch import fx

__all__ = ["OPERATORS", "Call", "Constant"]

INFINITY = float("inf")


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A tensor known before the network runs."""

    name: str
    value: torch.Tensor
    kind: str = "buffer"

    def numpy(self) -> NDArray[np.float32]:
        """Return its values as float32."""
        array: NDArray[np.float32] = self.value.detach().cpu().float().numpy()
        return array


class Call:
    """One call of an ATen operator: its arguments by their names in the schema, and the means to add nodes for it."""

    def __init__(
        self,
        builder: Builder,
        tensor: Callable[..., str],
        values: Mapping[fx.Node, Any],
        node: fx.Node,
        name: str,
    ) -> None:
        self.builder, self.name, self.tensor, self._node, self._values = builder, name, tensor, node, values
        schema = node.target._schema.arguments
        self._args = {a.name: a.default_value if a.has_default_value() else None for a in schema}
        self._args.update(zip((a.name for a in schema), node.args, strict=False))
        self._args.update(node.kwargs)

    def __getitem__(self, key: str) -> Any:
        """Return an argument as written in the program."""
        return self._args.get(key)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs."""
        value = self._node.meta["val"]
        return [tuple(v.shape) for v in (value if isinstance(value, list | tuple) else [value])]

    def x(self, key: str = "self", kind: str = "") -> str:
        """Return the name of an argument's tensor; a plain number becomes a constant."""
        value = self[key]
        if isinstance(value, int | float):
            return self.constant(f"{self.name}.{key}", value)
        return self.tensor(value, kind)

    def shape(self, key: str = "self") -> tuple[int, ...]:
        """Return the shape of an argument."""
        return tuple(self[key].meta["val"].shape)

    def weight(self, key: str = "weight", kind: str = "weight") -> list[str]:
        """Return the name of a constant argument in a list; an empty list for None. Raises DataError otherwise."""
        if self[key] is None:
            return []
        if not isinstance(self._values[self[key]], Constant):
            raise self.refusal(f"its {key} is computed, not constant")
        return [self.x(key, kind)]

    def constant(self, name: str, value: ArrayLike, kind: str = "buffer") -> str:
        """Add a constant."""
        return self.builder.constant(name, value, kind)

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node."""
        return self.builder.node(op, self.name, inputs, **attributes)

    def refusal(self, why: str) -> DataError:
        """Return the error for a use of an operator that the graph cannot express."""
        return DataError(f"layer '{self.name}': {why}", hint="replace this layer")


def axis_of(axis: int, n_axes: int) -> int:
    """Return a non-negative axis."""
    return axis + n_axes if axis < 0 else axis


def pair(value: Any) -> list[int]:
    """Return two ints from one, a list of one or a list of two."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [int(v) for v in (values * 2 if len(values) == 1 else values)]


def _conv(c: Call) -> str:
    weight = c.weight()
    kernel, stride, dilation = c.shape("weight")[2:], pair(c["stride"]), pair(c["dilation"])
    if len(kernel) != 2 or c["transposed"]:
        raise c.refusal("only two-dimensional convolutions, not transposed, are known")
    if isinstance(c["padding"], str):  # "same": the extra row goes to the bottom
        total = [d * (k - 1) if c["padding"] == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        pads = [total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2]
    else:
        pads = pair(c["padding"]) * 2
    inputs = [c.x("input"), *weight, *c.weight("bias", "bias")]
    return c.add("conv", inputs, strides=stride, pads=pads, dilations=dilation, groups=c["groups"], clip=None)


def _linear(c: Call) -> str:
    x, shape = c.x("input"), c.shape("input")
    inputs = [*c.weight(), *c.weight("bias", "bias")]
    if len(shape) == 2:
        return c.add("dense", [x, *inputs], clip=None)
    x = c.add("reshape", [x], shape=[-1, shape[-1]])
    y = c.add("dense", [x, *inputs], clip=None)
    return c.add("reshape", [y], shape=[-1, *c.shapes[0][1:]])


def _batch_norm(c: Call) -> str:
    n = c.shape("input")[1]
    inputs = [
        *(c.weight("weight", "") or [c.constant(f"{c.name}.weight", np.ones(n))]),
        *(c.weight("bias", "") or [c.constant(f"{c.name}.bias", np.zeros(n))]),
        *c.weight("running_mean", ""),
        *c.weight("running_var", ""),
    ]
    return c.add("batch_norm", [c.x("input"), *inputs], epsilon=float(c["eps"]))


def _binary(op: str) -> Callable[[Call], str]:
    def convert(c: Call) -> str:
        if c["rounding_mode"] is not None:
            raise c.refusal("integer division")
        a, b = c.x(), c.x("other")
        if c["alpha"] not in (None, 1):
            b = c.add("mul", [b, c.constant(f"{c.name}.alpha", c["alpha"])])
        return c.add(op, [a, b], **({"clip": None} if op == "add" else {}))

    return convert


def _rsub(c: Call) -> str:
    return c.add("sub", [c.x("other"), c.x()])


def _pow(c: Call) -> str:
    if c["exponent"] == 2:
        return c.add("mul", [c.x(), c.x()])
    if c["exponent"] == 0.5:
        return c.add("sqrt", [c.x()])
    raise c.refusal("only squares and square roots are known as powers")


def _unary(op: str, **attributes: Any) -> Callable[[Call], str]:
    return lambda c: c.add(op, [c.x()], **attributes)


def _clip(low: str, high: str) -> Callable[[Call], str]:
    def convert(c: Call) -> str:
        lo = -INFINITY if c[low] is None else float(c[low])
        hi = INFINITY if c[high] is None else float(c[high])
        return c.add("clip", [c.x()], lo=lo, hi=hi)

    return convert


def _softmax(c: Call) -> str:
    return c.add("softmax", [c.x()], axis=axis_of(c["dim"], len(c.shape())))


def _pool_window(c: Call, count_pads: bool) -> dict[str, Any]:
    kernel = pair(c["kernel_size"])
    strides, pads = pair(c["stride"] or kernel), pair(c["padding"]) * 2
    dilations = pair(c["dilation"] or 1)
    if c["ceil_mode"]:  # the last window may begin before the end and reach beyond it
        for i, (size, out) in enumerate(zip(c.shape()[2:], c.shapes[0][2:], strict=True)):
            more = (out - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 - size - 2 * pads[i]
            if more > 0 and count_pads:
                raise c.refusal("ceil_mode with count_include_pad")
            pads[2 + i] += max(more, 0)
    return {"kernel": kernel, "strides": strides, "pads": pads}


def _max_pool(c: Call) -> str:
    return c.add("max_pool", [c.x()], **_pool_window(c, False), dilations=pair(c["dilation"]))


def _average_pool(c: Call) -> str:
    if c["divisor_override"] is not None:
        raise c.refusal("divisor_override")
    count = bool(c["count_include_pad"])
    window = _pool_window(c, count)
    return c.add("average_pool", [c.x()], **window, count_include_pad=count and any(window["pads"]))


def _adaptive_average_pool(c: Call) -> str:
    _, channels, height, width = c.shape()
    h, w = c.shapes[0][2:]
    if (h, w) == (1, 1):
        return c.add("global_average_pool", [c.x()])
    if height % h == 0 and width % w == 0:
        kernel = [height // h, width // w]
        return c.add("average_pool", [c.x()], kernel=kernel, strides=kernel, pads=[0] * 4, count_include_pad=False)
    weight = np.kron(_bins(height, h), _bins(width, w))  # windows of unequal size: one matrix for all channels
    x = c.add("reshape", [c.x()], shape=[-1, height * width])
    y = c.add("dense", [x, c.constant(f"{c.name}.windows", weight)], clip=None)
    return c.add("reshape", [y], shape=[-1, channels, h, w])


def _bins(size: int, n: int) -> NDArray[np.float64]:
    """Return (n, size): row i averages floor(i size / n) up to ceil((i + 1) size / n)."""
    matrix = np.zeros((n, size))
    for i in range(n):
        start, stop = i * size // n, -(-(i + 1) * size // n)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def _mean(c: Call) -> str:
    n = len(c.shape())
    axes = sorted(axis_of(a, n) for a in (c["dim"] or range(n)))
    if 0 in axes:
        raise c.refusal("a mean over the batch")
    if axes == [2, 3] and n == 4 and c["keepdim"]:
        return c.add("global_average_pool", [c.x()])
    return c.add("reduce_mean", [c.x()], axes=axes, keepdims=bool(c["keepdim"]))


def _resize(mode: str) -> Callable[[Call], str]:
    def convert(c: Call) -> str:
        size = list(c.shapes[0][2:])
        scales = c["scale_factors"] or [c["scales_h"], c["scales_w"]]
        aligned = mode == "linear" and bool(c["align_corners"])
        for scale, before, after in zip(scales, c.shape("self" if c["self"] else "input")[2:], size, strict=True):
            if scale and not aligned and abs(scale * before - after) > 1e-6 * after:
                raise c.refusal(f"scale {scale:g} of {before} pixels is not a whole number: give the size instead")
        coordinates = "align_corners" if aligned else "half_pixel" if mode == "linear" else "asymmetric"
        rounding = {"rounding": "floor"} if mode == "nearest" else {}
        x = c.x("self" if c["self"] else "input")
        return c.add("resize", [x], mode=mode, size=size, coordinates=coordinates, **rounding)

    return convert


def _concat(c: Call) -> str:
    tensors = [c.tensor(t) for t in c["tensors"]]
    axis = axis_of(c["dim"], len(c.shapes[0]))
    if axis == 0:
        raise c.refusal("a concatenation of the batch")
    return tensors[0] if len(tensors) == 1 else c.add("concat", tensors, axis=axis)


def _pad(c: Call) -> str:
    pads = [*c["pad"], 0, 0, 0, 0][: max(4, len(c["pad"]))]
    if c["mode"] not in (None, "constant") or any(pads[4:]) or min(pads) < 0 or len(c.shape()) != 4:
        raise c.refusal("only padding of height and width with a constant is known")
    left, right, top, bottom = pads[:4]
    return c.add("pad", [c.x()], pads=[top, left, bottom, right], value=float(c["value"] or 0))


def _sliced(c: Call, axis: int, start: int, stop: int, step: int = 1) -> str:
    if (start, stop, step) == (0, c.shape()[axis], 1):
        return c.x()
    if axis == 0:
        raise c.refusal("a slice of the batch")
    return c.add("slice", [c.x()], axis=axis, start=start, stop=stop, step=step)


def _slice(c: Call) -> str:
    axis = axis_of(c["dim"], len(c.shape()))
    start, stop, _ = slice(c["start"], c["end"]).indices(c.shape()[axis])
    return _sliced(c, axis, start, stop, c["step"])


def _select(c: Call) -> str:
    axis = axis_of(c["dim"], len(c.shape()))
    index = axis_of(c["index"], c.shape()[axis])
    if axis == 0:
        raise c.refusal("a slice of the batch")
    return c.add("reshape", [_sliced(c, axis, index, index + 1)], shape=[-1, *c.shapes[0][1:]])


def _split(c: Call) -> list[str]:
    axis = axis_of(c["dim"], len(c.shape()))
    stops = np.cumsum([s[axis] for s in c.shapes]).tolist()
    return [_sliced(c, axis, start, stop) for start, stop in zip([0, *stops], stops, strict=False)]


def _reshape(c: Call) -> str:
    if c.shapes[0] == c.shape():
        return c.x()
    return c.add("reshape", [c.x()], shape=[-1, *c.shapes[0][1:]])


def _transpose(c: Call) -> str:
    n = len(c.shape())
    perm = [axis_of(d, n) for d in c["dims"]] if c["dims"] is not None else list(range(n))
    if c["dims"] is None:
        a, b = axis_of(c["dim0"] or 0, n), axis_of(c["dim1"] if c["dim1"] is not None else 1, n)
        perm[a], perm[b] = perm[b], perm[a]
    if perm[0] != 0:
        raise c.refusal("a transposition of the batch")
    return c.add("transpose", [c.x()], perm=perm)


def _argmax(c: Call) -> str:
    if not c["dim"]:
        raise c.refusal("argmax over the batch or over everything")
    return c.add("argmax", [c.x()], axis=axis_of(c["dim"], len(c.shape())), keepdims=bool(c["keepdim"]))


def _same(c: Call) -> str:
    return c.x("self" if c["self"] is not None else "input")


OPERATORS: Mapping[str, Callable[[Call], Any]] = {
    "conv2d": _conv,
    "convolution": _conv,
    "linear": _linear,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "batch_norm": _batch_norm,
    **{op: _binary(op) for op in ("add", "sub", "mul", "div")},
    "rsub": _rsub,
    "pow": _pow,
    "relu": _unary("clip", lo=0.0, hi=INFINITY),
    "relu6": _unary("clip", lo=0.0, hi=6.0),
    "hardtanh": _clip("min_val", "max_val"),
    "clamp": _clip("min", "max"),
    "clamp_min": _clip("min", ""),
    "clamp_max": _clip("", "max"),
    "leaky_relu": lambda c: c.add("leaky_relu", [c.x()], alpha=float(c["negative_slope"])),
    **{op: _unary(op) for op in ("sigmoid", "tanh", "exp", "sqrt", "neg", "silu")},
    "hardswish": _unary("hard_swish"),
    "hardsigmoid": _unary("hard_sigmoid", alpha=1 / 6, beta=0.5),
    "softmax": _softmax,
    "_softmax": _softmax,
    "max_pool2d": _max_pool,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive_average_pool,
    "mean": _mean,
    "upsample_bilinear2d": _resize("linear"),
    "upsample_nearest2d": _resize("nearest"),
    "cat": _concat,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "slice": _slice,
    "select": _select,
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze", "unflatten"), _reshape),
    **dict.fromkeys(("permute", "transpose", "t"), _transpose),
    "argmax": _argmax,
    **dict.fromkeys(("dropout", "clone", "contiguous", "detach", "alias", "lift_fresh_copy", "_to_copy", "to"), _same),
}
