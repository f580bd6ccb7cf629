"""TFLite operators that move, pool or resize: all that do not multiply by weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import UsageError
from bitfront.graph.ir import Node
from bitfront.quant.formats import Affine
from bitfront.runtimes.litert_tensors import TensorWriter, nhwc, nhwc_axis
from bitfront.simulate.operators import coordinates

__all__ = ["ShapedWriter"]

SAME, VALID = 0, 1
TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
RESIZE_RATIO = 1.9
"""A map is resized in its own codes, and these brought to another format, where that costs less than two codes: an
input code of up to so many output codes."""
MAX_ONES = 1 << 14
"""Bytes of a kernel of ones, at most."""
_CORNERS = {"align_corners": (True, False), "half_pixel": (False, True), "asymmetric": (False, False)}
"""Coordinates -> ``alignCorners`` and ``halfPixelCenters``."""


class ShapedWriter(TensorWriter):
    """Operators whose outputs are inputs, or means of inputs."""

    def add_moving(self, node: Node) -> bool:
        """Write a node if it is one of these."""
        write = getattr(self, f"_add_{node.op}", None)
        if write is None:
            return False
        write(node)
        return True

    # --- padding -----------------------------------------------------------------------------------------------------
    def padding(self, node: Node, size: Sequence[int], kernel: Sequence[int]) -> int | None:
        """Return the schema's padding that is the node's own; ``None`` where it must be written out."""
        top, left, bottom, right = node["pads"]
        if not any(node["pads"]):
            return VALID
        for n, k, stride, dilation, before, after in zip(
            size, kernel, node["strides"], node.attributes.get("dilations", (1, 1)), (top, left), (bottom, right),
            strict=True,
        ):  # fmt: skip
            total = max((-(-n // stride) - 1) * stride + (k - 1) * dilation + 1 - n, 0)
            if (total // 2, total - total // 2) != (before, after):
                return None
        return SAME

    def padded(  # noqa: PLR0917
        self, source: int, name: str, pads: Sequence[int], form: Affine | None, value: float = 0.0, out: int = -1
    ) -> int:
        """Pad a map; ``value`` is a float, or a code where ``form`` is not 0."""
        top, left, bottom, right = pads
        n, c, h, w = self.graph.tensors[name].shape
        shape = (n, h + top + bottom, w + left + right, c)
        if out < 0:
            out = self.scratch(f"{name}@padded", shape, form)
        amounts = self.indices([[0, 0], [top, bottom], [left, right], [0, 0]])
        if value == 0 and form is None:
            return self.emit("PAD", [source, amounts], out, "PadOptions")
        if form is not None and value in (0, form.zero_point[0]):
            return self.emit("PAD", [source, amounts], out, "PadOptions")
        return self.emit("PADV2", [source, amounts, self._bound(value, form)], out, "PadV2Options")

    def _add_pad(self, node: Node) -> None:
        form, value = self.form(node.output), float(node["value"])
        if form is not None and self.form(node.inputs[0]) is not None:
            source = self.codes(node.inputs[0], form)
            code = float(form.encode(np.asarray(value, np.float32)))
            self.compute(node, lambda out, _: self.padded(source, node.inputs[0], node["pads"], form, code, out))
            return
        source = self.value(node.inputs[0])
        self.compute_float(node, lambda out, _: self.padded(source, node.inputs[0], node["pads"], None, value, out))

    # --- moving ------------------------------------------------------------------------------------------------------
    def _move(self, node: Node, emit: Any) -> None:
        """Write an operator that picks values: on codes in the input's format, brought to the output's where needed."""
        x, y = self.form(node.inputs[0]), self.form(node.output)
        source = self.held(node.inputs[0]) if x is not None else self.value(node.inputs[0])
        if x == y:
            self.compute(node, lambda out, _: emit(source, out))
            return
        if x is not None and y is None:
            emit(self.value(node.inputs[0]), self.declare(node.output))
            return
        raw = self.scratch(f"{node.output}@moved", self.shape(node.output), x)
        emit(source, raw)
        self.quantize(node.output, raw)

    def _add_identity(self, node: Node) -> None:
        shape = self.indices(self.shape(node.output))
        self._move(node, lambda x, out: self.emit("RESHAPE", [x, shape], out, "ReshapeOptions"))

    def _add_reshape(self, node: Node) -> None:
        source, target = (self.graph.tensors[name].shape for name in (node.inputs[0], node.output))
        before = len(source) == 4 and source[1] > 1 and source[2] * source[3] > 1
        after = len(target) == 4 and target[1] > 1 and target[2] * target[3] > 1

        def emit(x: int, out: int) -> None:
            form = self.form(node.inputs[0])
            if before:
                x = self._transposed(x, TO_NCHW, self.scratch(f"{node.output}@nchw", source, form))
            place = self.scratch(f"{node.output}@reshaped", target, form) if after else out
            shape = target if after else nhwc(target)
            self.emit("RESHAPE", [x, self.indices(shape)], place, "ReshapeOptions")
            if after:
                self._transposed(place, TO_NHWC, out)

        self._move(node, emit)

    def _transposed(self, source: int, order: Sequence[int], out: int) -> int:
        return self.emit("TRANSPOSE", [source, self.indices(order)], out, "TransposeOptions")

    def _add_transpose(self, node: Node) -> None:
        order = list(node["perm"])
        if len(order) == 4:  # of the axes in the file
            order = [nhwc_axis(node["perm"][axis], 4) for axis in TO_NHWC]
        self._move(node, lambda x, out: self._transposed(x, order, out))

    def _add_slice(self, node: Node) -> None:
        shape = self.shape(node.inputs[0])
        axis = nhwc_axis(node["axis"], len(shape))
        begin, end, step = [0] * len(shape), list(shape), [1] * len(shape)
        places = range(shape[axis])[node["start"] : node["stop"] : node["step"]]
        if node["step"] < 1:
            raise UsageError(f"node '{node.name}' (slice): LiteRT slices forwards only here")
        begin[axis], end[axis], step[axis] = places[0], places[-1] + 1, node["step"]
        parts = [self.indices(part) for part in (begin, end, step)]
        self._move(node, lambda x, out: self.emit("STRIDED_SLICE", [x, *parts], out, "StridedSliceOptions"))

    def _add_concat(self, node: Node) -> None:
        axis, form = nhwc_axis(node["axis"], self.rank(node.output)), self.form(node.output)
        if form is not None and all(self.form(name) is not None for name in node.inputs):
            inputs = [self.codes(name, form) for name in node.inputs]
            self.compute(
                node, lambda out, _: self.emit("CONCATENATION", inputs, out, "ConcatenationOptions", axis=axis)
            )
            return
        rank = self.rank(node.output)
        inputs = [self.constant(n, rank) if n in self.graph.constants else self.value(n) for n in node.inputs]
        self.compute_float(
            node, lambda out, _: self.emit("CONCATENATION", inputs, out, "ConcatenationOptions", axis=axis)
        )

    def _add_argmax(self, node: Node) -> None:
        name = node.inputs[0]
        source = self.held(name) if self.width(name) == 8 else self.value(name)
        axis = nhwc_axis(node["axis"], self.rank(name))

        def emit(out: int) -> None:
            where = self.indices(axis)
            self.emit("ARG_MAX", [source, where], out, "ArgMaxOptions", outputType=self._index_type)

        self._reduced(node, [axis], emit, "INT32")

    @property
    def _index_type(self) -> int:
        from bitfront.runtimes.litert_model import schema

        return int(schema().TensorType.INT32)

    def _reduced(self, node: Node, axes: Sequence[int], emit: Any, dtype: str) -> None:
        """Write an operator that drops axes, and bring what is left to the output's shape."""
        shape = self.shape(node.inputs[0])
        left = [axis for axis in range(len(shape)) if axis not in axes]
        place = self.model.tensor(node.output, self.shape(node.output), dtype)
        self.hold(node.output, place)
        reduced = [shape[axis] for axis in left]
        order = sorted(left, key=lambda axis: TO_NHWC[axis]) if len(shape) == 4 else left
        turned = not node["keepdims"] and order != left
        if not node["keepdims"] and not turned:
            emit(place)
            return
        raw = self.model.tensor(f"{node.output}@reduced", reduced, dtype)
        emit(raw)
        if turned:
            self._transposed(raw, [left.index(axis) for axis in order], place)
        else:
            self.emit("RESHAPE", [raw, self.indices(self.shape(node.output))], place, "ReshapeOptions")

    # --- pooling -----------------------------------------------------------------------------------------------------
    def _pool(  # noqa: PLR0917
        self, node: Node, op: str, x: int, out: int, form: Affine | None, value: float
    ) -> None:
        name = node.inputs[0]
        padding = self.padding(node, self.graph.tensors[name].shape[2:], node["kernel"])
        counts_pads = bool(node.attributes.get("count_include_pad"))
        if padding is None or (padding == SAME and op == "AVERAGE_POOL_2D" and counts_pads):
            if op == "AVERAGE_POOL_2D" and not counts_pads:
                raise UsageError(
                    f"node '{node.name}' (average_pool): LiteRT does not leave out this padding {list(node['pads'])}"
                )
            x, padding = self.padded(x, name, node["pads"], form, value), VALID
        (kh, kw), (sh, sw) = node["kernel"], node["strides"]
        self.emit(
            op, [x], out, "Pool2DOptions",
            padding=padding, filterHeight=kh, filterWidth=kw, strideH=sh, strideW=sw,
        )  # fmt: skip

    def _add_max_pool(self, node: Node) -> None:
        if any(d != 1 for d in node.attributes.get("dilations", (1, 1))):
            raise UsageError(f"node '{node.name}' (max_pool): LiteRT has no dilation here")
        form = self.form(node.inputs[0])
        low = float(np.finfo(np.float32).min)
        if form is not None:
            low = float(np.iinfo(np.int8 if form.bits <= 8 else np.int16).min)
        self._move(node, lambda x, out: self._pool(node, "MAX_POOL_2D", x, out, form, low))

    def _add_average_pool(self, node: Node) -> None:
        size = self.graph.tensors[node.inputs[0]].shape[2:]
        if tuple(node["kernel"]) == tuple(size) and not any(node["pads"]):
            self._mean(node, (2, 3), True)
            return
        x, y = self.form(node.inputs[0]), self.form(node.output)
        if x is not None and y is not None and self._is_sum(node):
            self._summed(node, x)
            return
        if x is not None and x == y:
            zero = float(x.zero_point[0])
            source = self.held(node.inputs[0])
            self.compute(node, lambda out, _: self._pool(node, "AVERAGE_POOL_2D", source, out, x, zero))
            return
        source = self.value(node.inputs[0])
        self.compute_float(node, lambda out, _: self._pool(node, "AVERAGE_POOL_2D", source, out, None, 0.0))

    def _is_sum(self, node: Node) -> bool:
        """Whether a pool on 8-bit codes is written as a depthwise convolution with ones.

        XNNPACK has no average of codes, but such a sum, between any two formats and exactly.
        """
        counts_all = not any(node["pads"]) or bool(node["count_include_pad"])
        channels = self.graph.tensors[node.output].shape[1]
        narrow = self.width(node.inputs[0]) == self.width(node.output) == 8
        return narrow and counts_all and math.prod(node["kernel"]) * channels <= MAX_ONES

    def _summed(self, node: Node, x: Affine) -> None:
        n, channels = math.prod(node["kernel"]), self.graph.tensors[node.output].shape[1]
        scale = float(np.float32(1 / n))
        ones = self.model.tensor(
            "", (1, *node["kernel"], channels), "INT8",
            data=np.ones((1, *node["kernel"], channels), np.int8), scale=[scale] * channels,
            zero_point=[0] * channels, axis=3,
        )  # fmt: skip
        product = float(np.float32(x.scale[0]) * np.float32(scale))
        none = self.model.tensor(
            "", (channels,), "INT32", data=np.zeros(channels, np.int32), scale=[product] * channels,
            zero_point=[0] * channels,
        )  # fmt: skip
        source, padding = self.held(node.inputs[0]), VALID
        if any(node["pads"]):
            source = self.padded(source, node.inputs[0], node["pads"], x, float(x.zero_point[0]))
        self.compute(
            node,
            lambda out, _: self.emit(
                "DEPTHWISE_CONV_2D", [source, ones, none], out, "DepthwiseConv2DOptions", padding=padding,
                strideH=node["strides"][0], strideW=node["strides"][1], depthMultiplier=1,
            ),
        )  # fmt: skip

    def _add_global_average_pool(self, node: Node) -> None:
        self._mean(node, (2, 3), True)

    def _add_reduce_mean(self, node: Node) -> None:
        self._mean(node, tuple(node["axes"]), bool(node["keepdims"]))

    def _mean(self, node: Node, axes: Sequence[int], keepdims: bool) -> None:
        rank = self.rank(node.inputs[0])
        places = [nhwc_axis(axis, rank) for axis in axes]
        left = [axis for axis in range(rank) if axis not in places]
        if not keepdims and rank == 4 and left != sorted(left, key=lambda axis: TO_NHWC[axis]):
            raise UsageError(f"node '{node.name}' ({node.op}): LiteRT would leave its axes in another order")
        where = self.indices(sorted(places))
        emit: Any = lambda x, out: self.emit("MEAN", [x, where], out, "ReducerOptions", keepDims=keepdims)  # noqa: E731
        if self.form(node.output) is not None and self.width(node.inputs[0]) == self.width(node.output):
            source = self.held(node.inputs[0])
            self.compute(node, lambda out, _: emit(source, out))
            return
        value = self.value(node.inputs[0])
        self.compute_float(node, lambda out, _: emit(value, out))

    # --- resizing ----------------------------------------------------------------------------------------------------
    def _add_resize(self, node: Node) -> None:
        alone = self.graph.tensors[node.inputs[0]].shape[2:] == (1, 1)
        if alone:  # one pixel everywhere: XNNPACK has no other operator for it
            self._move(node, lambda x, out: self._bilinear(node, x, out, (False, False)))
            return
        if node["mode"] == "nearest":
            self._move(node, lambda x, out: self._nearest(node, x, out))
            return
        x, y = self.form(node.inputs[0]), self.form(node.output)
        # weights of interpolation have 10 bits: enough for 8-bit codes only
        if x is not None and y is not None and self.width(node.inputs[0]) == self.width(node.output) == 8:
            source = self.held(node.inputs[0])
            if x == y:
                self.compute(node, lambda out, _: self._linear_resize(node, source, out))
                return
            if x.scale[0] <= RESIZE_RATIO * y.scale[0]:
                raw = self._linear_resize(
                    node, source, self.scratch(f"{node.output}@resized", self.shape(node.output), x)
                )
                self.quantize(node.output, raw)
                return
        value = self.value(node.inputs[0])
        self.compute_float(node, lambda out, _: self._linear_resize(node, value, out))

    def _linear_resize(self, node: Node, source: int, out: int) -> int:
        mode, size = node["coordinates"], self.graph.tensors[node.inputs[0]].shape[2:]
        if mode == "pytorch_half_pixel" and all(b > 1 or a == 1 for a, b in zip(size, node["size"], strict=True)):
            mode = "half_pixel"
        if mode not in _CORNERS:
            raise UsageError(f"node '{node.name}' (resize): LiteRT has no {mode} coordinates to one row or column")
        return self._bilinear(node, source, out, _CORNERS[mode])

    def _bilinear(self, node: Node, source: int, out: int, kind: tuple[bool, bool]) -> int:
        corners, centers = kind
        return self.emit(
            "RESIZE_BILINEAR", [source, self.indices(node["size"])], out, "ResizeBilinearOptions",
            alignCorners=corners, halfPixelCenters=centers,
        )  # fmt: skip

    def _nearest(self, node: Node, source: int, out: int) -> None:
        """LiteRT's operator where it picks the same pixels, else two GATHERs."""
        sizes = list(zip(self.graph.tensors[node.inputs[0]].shape[2:], node["size"], strict=True))
        wanted = [_picked(a, b, node) for a, b in sizes]
        for corners, centers in _CORNERS.values():
            if all(
                np.array_equal(w, _nearest(a, b, corners, centers)) for w, (a, b) in zip(wanted, sizes, strict=True)
            ):
                self.emit(
                    "RESIZE_NEAREST_NEIGHBOR", [source, self.indices(node["size"])], out,
                    "ResizeNearestNeighborOptions", alignCorners=corners, halfPixelCenters=centers,
                )  # fmt: skip
                return
        n, height, _, c = self.shape(node.output)
        width = sizes[1][0]
        rows = self.scratch(f"{node.output}@rows", (n, height, width, c), self.form(node.inputs[0]))
        self.emit("GATHER", [source, self.indices(wanted[0])], rows, "GatherOptions", axis=1)
        self.emit("GATHER", [rows, self.indices(wanted[1])], out, "GatherOptions", axis=2)


def _picked(n_in: int, n_out: int, node: Node) -> NDArray[np.intp]:
    """Return the pixels that the graph's operator picks along one axis; as :mod:`bitfront.simulate.operators`."""
    position = coordinates(n_in, n_out, node["coordinates"])
    steps = np.ceil(position - np.float32(0.5)) if node["rounding"] == "round_prefer_floor" else np.floor(position)
    picked: NDArray[np.intp] = np.clip(steps, 0, n_in - 1).astype(np.intp)
    return picked


def _nearest(n_in: int, n_out: int, corners: bool, centers: bool) -> NDArray[np.intp]:
    """Return the pixels that LiteRT picks (``GetNearestNeighbor`` of its reference kernels), in float32."""
    scale = (
        np.float32(n_in - 1) / np.float32(n_out - 1) if corners and n_out > 1 else np.float32(n_in) / np.float32(n_out)
    )
    position = (np.arange(n_out, dtype=np.float32) + np.float32(0.5 if centers else 0)) * scale
    steps = np.floor(position + np.float32(0.5)) if corners else np.floor(position)
    picked: NDArray[np.intp] = np.clip(steps, 0, n_in - 1).astype(np.intp)
    return picked
