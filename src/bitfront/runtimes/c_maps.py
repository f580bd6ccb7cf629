"""Pooling and resizing as calls of C kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Node
from bitfront.runtimes.c_elements import rescale
from bitfront.runtimes.c_lowering import Lowering, overwritable, shift_of
from bitfront.runtimes.c_program import Call, Held, Place, Step
from bitfront.simulate import fixed_point
from bitfront.simulate.operators import OPERATORS

__all__ = ["lower_mean", "lower_pool", "lower_resize"]

MAX_MEAN_SHIFT = 40
"""Sums of up to 2**20 codes of 16 bits, shifted so far, are compared exactly in 63 bits, less what rounding takes."""
MAX_WINDOW = 2**20


def lower_pool(lowering: Lowering, node: Node) -> Step:
    """Lower ``max_pool`` and ``average_pool``."""
    kernel, strides, pads = node["kernel"], node["strides"], node["pads"]
    dilations = node.attributes.get("dilations", (1, 1))
    counted = int(bool(node.attributes.get("count_include_pad", False)) or not any(pads))
    fields: dict[str, int | str] = {
        "kernel_h": kernel[0], "kernel_w": kernel[1], "stride_h": strides[0], "stride_w": strides[1],
        "pad_top": pads[0], "pad_left": pads[1], "dilation_h": dilations[0], "dilation_w": dilations[1],
        "count_padding": counted,
    }  # fmt: skip
    return _pooled(lowering, node, fields, kernel[0] * kernel[1])


def lower_mean(lowering: Lowering, node: Node) -> Step:
    """Lower ``global_average_pool``, and ``reduce_mean`` over a whole map."""
    shape = lowering.graph.tensors[node.inputs[0]].shape
    if len(shape) != 4 or (node.op == "reduce_mean" and sorted(node["axes"]) != [2, 3]):
        raise lowering.unsupported(node, f"it takes means over the axes {list(node['axes'])}")
    h, w = shape[2:]
    fields: dict[str, int | str] = {
        "kernel_h": h, "kernel_w": w, "stride_h": 1, "stride_w": 1, "pad_top": 0, "pad_left": 0,
        "dilation_h": 1, "dilation_w": 1, "count_padding": 1,
    }  # fmt: skip
    return _pooled(lowering, node, fields, h * w)


def _pooled(lowering: Lowering, node: Node, window: dict[str, int | str], n: int) -> Step:
    x, place = lowering.input(node)
    y = lowering.hold(node, lowering.form(node, node.output))
    assert x.form is not None
    assert y.form is not None
    c, h, w = x.shape
    oh, ow = y.shape[1:] if len(y.shape) == 3 else (1, 1)
    sizes: dict[str, int | str] = {"in_h": h, "in_w": w, "channels": c, "out_h": oh, "out_w": ow}
    fields = lowering.bounds(node, y.form) | sizes | window | rescale(x, y, lowering.even)
    up = y.form.frac_bits - x.form.frac_bits
    if node.op != "max_pool" and (abs(up) > MAX_MEAN_SHIFT - 16 or n > MAX_WINDOW):
        raise lowering.unsupported(node, f"its steps are {abs(up)} bits apart, its window has {n} pixels")
    fields |= {"left": max(up, 0) if node.op != "max_pool" else 0, "right": max(-up, 0) if node.op != "max_pool" else 0}
    kernel = "bf_max_pool" if node.op == "max_pool" else "bf_average_pool"
    limits = {k: v for k, v in fields.items() if not k.startswith(("kernel", "stride"))}
    lowering.check(node, limits)
    return Step(node, (Call(kernel, "bf_pool_layer", fields, (place, Place("tensor", node.output))),))


def lower_resize(lowering: Lowering, node: Node) -> Step:
    """Lower ``resize``: tables of source pixels, and of weights of 7 bits."""
    x, place = lowering.input(node)
    y = lowering.hold(node, lowering.form(node, node.output))
    assert x.form is not None
    assert y.form is not None
    fields = lowering.bounds(node, y.form) | _sizes(x, y)
    places = (place, Place("tensor", node.output))
    if node["mode"] == "nearest" or x.shape == y.shape:
        rows, columns = (_sources(node, n, axis) for axis, n in enumerate(x.shape[1:]))
        fields |= _tables(lowering, node, rows, columns) | {"row_weights": "NULL", "column_weights": "NULL"}
        fields |= rescale(x, y, lowering.even) | {"block": 0}
        fits = int(fields["lo"]) <= x.form.low and x.form.high <= int(fields["hi"])
        fields["plain"] = int(fields["shift"] == 0 and x.type == y.type and fits)
        if x.shape == y.shape and fields["plain"] and place.kind == "tensor":
            return Step(node, shares=place.name)
        call = Call("bf_resize_nearest", "bf_resize_layer", lowering.check(node, fields), places)
        return Step(node, (call,), may_overwrite=overwritable(y, (x, place)) if x.shape == y.shape else ())
    (rows, upper), (columns, right) = (
        fixed_point.interpolation(n_in, n_out, node["coordinates"])
        for n_in, n_out in zip(x.shape[1:], y.shape[1:], strict=True)
    )
    block = max(1, min(x.shape[0], lowering.budget(node) // (4 * (x.shape[2] + 1))))
    shift = 2 * fixed_point.WEIGHT_BITS + x.form.frac_bits - y.form.frac_bits
    fields |= _tables(lowering, node, rows, columns) | {
        "row_weights": lowering.array("i", upper.astype(np.uint8), f"weights of rows of {node.name}"),
        "column_weights": lowering.array("i", right.astype(np.uint8), f"weights of columns of {node.name}"),
        "block": block, "in_type": x.type, "out_type": y.type, "even": lowering.even, "plain": 0,
        "shift": shift_of(shift),
    }  # fmt: skip
    call = Call("bf_resize_linear", "bf_resize_layer", lowering.check(node, fields), (*places, Place("scratch")))
    return Step(node, (call,), 4 * block * (x.shape[2] + 1))


def _sizes(x: Held, y: Held) -> dict[str, int | str]:
    return {
        "in_h": x.shape[1], "in_w": x.shape[2], "channels": x.shape[0], "out_h": y.shape[1], "out_w": y.shape[2],
    }  # fmt: skip


def _sources(node: Node, n: int, axis: int) -> NDArray[np.intp]:
    """Return the source pixel of every output pixel along one axis, as the reference takes them."""
    pixels = np.arange(n, dtype=np.int64).reshape(1, 1, n, 1)
    size = node["size"][axis]
    along = Node(
        node.name, node.op, node.inputs, node.output, {**node.attributes, "size": [size, 1], "mode": "nearest"}
    )
    rounding = {"rounding": "floor", **along.attributes}
    found = OPERATORS["resize"](Node(along.name, along.op, along.inputs, along.output, rounding), pixels)
    return np.asarray(found, np.intp).ravel()


def _tables(lowering: Lowering, node: Node, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> dict[str, int | str]:
    return {
        "rows": lowering.array("i", rows.astype(np.uint16), f"rows of {node.name}"),
        "columns": lowering.array("i", columns.astype(np.uint16), f"columns of {node.name}"),
    }
