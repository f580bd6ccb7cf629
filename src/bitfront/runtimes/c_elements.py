"""Operators element by element, and those that move codes, as calls of C kernels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DataError
from bitfront.graph.ir import Node
from bitfront.quant.formats import Qmn
from bitfront.runtimes.c_lowering import Lowering, broadcast_steps, overwritable, shift_of
from bitfront.runtimes.c_program import Call, Held, Place, Step
from bitfront.simulate import fixed_point
from bitfront.simulate.operators import OPERATORS

__all__ = [
    "TABLES",
    "lower_argmax",
    "lower_binary",
    "lower_concat",
    "lower_gather",
    "lower_pad",
    "lower_reshape",
    "lower_softmax",
    "lower_table",
    "lower_unary",
    "rescale",
]

TABLES = frozenset(["sigmoid", "tanh", "exp", "sqrt", "silu", "hard_swish", "hard_sigmoid", "leaky_relu"])
"""Functions of one code."""
CALL = {"add": "BF_ADD", "sub": "BF_SUB", "mul": "BF_MUL"}
NARROW = 2**31
MAX_SIZE = 65535
SOFTMAX_CODES = 256


def rescale(x: Held, y: Held, even: int) -> dict[str, int | str]:
    """Return the fields of a change of step from x to y."""
    assert x.form is not None
    assert y.form is not None
    shift = shift_of(x.form.frac_bits - y.form.frac_bits)
    return {"in_type": x.type, "out_type": y.type, "even": even, "shift": shift}


def _plain(x: Held, y: Held, fields: dict[str, int | str]) -> int:
    """Whether codes need not change: same step, and all of x's codes within the bounds of y."""
    assert x.form is not None
    same = x.type == y.type and fields["shift"] == 0 and not fields.get("negate")
    return int(same and int(fields["lo"]) <= x.form.low and x.form.high <= int(fields["hi"]))


# --- element by element ----------------------------------------------------------------------------------------------
def lower_binary(lowering: Lowering, node: Node) -> Step:
    """Lower ``add``, ``sub`` and ``mul``, with broadcasting. Raises DataError for addends too far apart."""
    (a, place_a), (b, place_b) = lowering.input(node, 0), lowering.input(node, 1)
    y = lowering.hold(node, lowering.form(node, node.output), order=a.order)
    if (a.order or b.order) and (a.shape != b.shape or a.order != b.order):
        raise lowering.unsupported(node, "one of its inputs was transposed")
    assert a.form is not None
    assert b.form is not None
    assert y.form is not None
    fields = _aligned(node, a.form, b.form, y.form)
    wide = bool(fields.pop("wide"))
    fields |= lowering.bounds(node, y.form) | _rows(lowering, node, a, b, y)
    fields |= {"op": CALL[node.op], "even": lowering.even}
    fields |= {"a_type": a.type, "b_type": b.type, "out_type": y.type}
    places = (place_a, place_b, Place("tensor", node.output))
    call = Call("bf_binary_wide" if wide else "bf_binary", "bf_binary_layer", lowering.check(node, fields), places)
    return Step(node, (call,), may_overwrite=overwritable(y, (a, place_a), (b, place_b)))


def _aligned(node: Node, a: Qmn, b: Qmn, y: Qmn) -> dict[str, int | str]:
    """Return the shifts of both inputs to the finer of their steps, that of the result, and whether to use 64 bits."""
    reach_a, reach_b = (max(form.high, -form.low) for form in (a, b))
    if node.op == "mul":
        left_a = left_b = 0
        shift, bound = a.frac_bits + b.frac_bits - y.frac_bits, reach_a * reach_b
    else:
        finest = max(a.frac_bits, b.frac_bits)
        fixed_point.check_spread(node, [y.frac_bits - a.frac_bits, y.frac_bits - b.frac_bits])
        left_a, left_b = finest - a.frac_bits, finest - b.frac_bits
        shift, bound = finest - y.frac_bits, (reach_a << left_a) + (reach_b << left_b)
        if shift < 0 and max(left_a, left_b) - shift < NARROW.bit_length() and bound << -shift < NARROW:
            left_a, left_b, bound, shift = left_a - shift, left_b - shift, bound << -shift, 0
    added = 1 << (min(shift, 31) - 1) if shift > 0 else 0
    wide = bound + added >= NARROW or max(left_a, left_b) > 30
    shift = max(-16, min(shift, 62)) if wide else shift_of(shift)
    return {"a_left": left_a, "b_left": left_b, "shift": shift, "wide": int(wide)}


def _rows(lowering: Lowering, node: Node, a: Held, b: Held, y: Held) -> dict[str, int | str]:
    """Return how the rows of both inputs lie behind one another."""
    n_axes = max(3, len(y.sizes))
    if max(len(a.sizes), len(b.sizes), n_axes) > 3:
        raise lowering.unsupported(node, f"its inputs have {n_axes + 1} axes")
    sizes = [1] * (3 - len(y.sizes)) + list(y.sizes)
    steps_a, steps_b = (_steps(lowering, node, held, y, sizes) for held in (a, b))
    if a.sizes == b.sizes == y.sizes:  # one row
        sizes, steps_a, steps_b = [1, 1, y.n], [0, 0, 1], [0, 0, 1]
    return {
        "outer": sizes[0], "inner": sizes[1], "n": sizes[2],
        "a_outer": steps_a[0], "a_inner": steps_a[1], "a_step": steps_a[2],
        "b_outer": steps_b[0], "b_inner": steps_b[1], "b_step": steps_b[2],
    }  # fmt: skip


def _steps(lowering: Lowering, node: Node, held: Held, y: Held, sizes: Sequence[int]) -> list[int]:
    """Return an operand's steps along the output's axes of memory; numpy aligns shapes at their ends."""
    if len(held.shape) == len(y.shape) or held.n == 1:
        steps = broadcast_steps(held, sizes, 3) if held.n > 1 else [0, 0, 0]
        outer = [step if n > 1 else 0 for step, n in zip(steps, sizes, strict=True)]
        return [*outer[:2], min(steps[2], 1)]
    if len(y.shape) == 3 and len(held.shape) < 3 and all(n == 1 for n in held.shape[:-1]) and held.n == y.shape[2]:
        return [0, 1, 0]  # along the width
    raise lowering.unsupported(node, f"shapes {held.shape} and {y.shape} are broadcast")


def lower_unary(lowering: Lowering, node: Node) -> Step:
    """Lower ``clip``, ``neg`` and ``identity``."""
    x, _ = lowering.input(node)
    return _moved(lowering, node, lowering.hold(node, lowering.form(node, node.output), order=x.order))


def _moved(lowering: Lowering, node: Node, y: Held) -> Step:
    """Return what brings the codes of the input, as they lie, to the step of ``y``."""
    x, place = lowering.input(node)
    assert y.form is not None
    fields = lowering.bounds(node, y.form) | {"rows": 1, "n": y.n, "x_step": 0, "y_step": 0}
    fields |= rescale(x, y, lowering.even) | {"negate": int(node.op == "neg")}
    fields["plain"] = _plain(x, y, fields)
    if fields["plain"] and place.kind == "tensor":
        return Step(node, shares=place.name)
    call = Call("bf_move", "bf_move_layer", fields, (place, Place("tensor", node.output)))
    return Step(node, (call,), may_overwrite=overwritable(y, (x, place)))


def lower_table(lowering: Lowering, node: Node) -> Step:
    """Lower a function of one code: a table of what the reference computes for every code."""
    x, place = lowering.input(node)
    y = lowering.hold(node, lowering.form(node, node.output), order=x.order)
    assert x.form is not None
    assert y.form is not None
    codes = np.arange(x.form.low, x.form.high + 1)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        values = OPERATORS[node.op](node, x.form.decode(codes))
    table = y.form.encode(np.nan_to_num(values)).astype(y.dtype)  # NaN: of codes that no value has
    fields: dict[str, int | str] = {
        "table": lowering.array("t", table, f"{node.op} of {node.name}"),
        "n": y.n, "low": x.form.low, "in_type": x.type, "out_type": y.type,
    }  # fmt: skip
    call = Call("bf_table", "bf_table_layer", fields, (place, Place("tensor", node.output)))
    return Step(node, (call,), may_overwrite=overwritable(y, (x, place)))


# --- moving ----------------------------------------------------------------------------------------------------------
def lower_concat(lowering: Lowering, node: Node) -> Step:
    """Lower ``concat`` along any axis but the batch: a call for every input."""
    axis, orders = node["axis"] - 1, {lowering.input(node, i)[0].order for i in range(len(node.inputs))}
    if axis < 0 or len(orders) > 1:
        raise lowering.unsupported(node, "it joins images" if axis < 0 else "some of its inputs were transposed")
    y = lowering.hold(node, lowering.form(node, node.output), order=orders.pop())
    assert y.form is not None
    at = y.axes.index(axis)
    inside = math.prod(y.sizes[at + 1 :])
    calls, offset = [], 0
    for position in range(len(node.inputs)):
        x, place = lowering.input(node, position)
        n = x.sizes[at] * inside
        fields = lowering.bounds(node, y.form) | rescale(x, y, lowering.even)
        fields |= {"rows": math.prod(y.sizes[:at]), "n": n, "x_step": n, "y_step": y.sizes[at] * inside, "negate": 0}
        fields["plain"] = _plain(x, y, fields)
        target = Place("tensor", node.output, offset * y.dtype.itemsize)
        calls.append(Call("bf_move", "bf_move_layer", fields, (place, target)))
        offset += n
    return Step(node, tuple(calls))


def lower_pad(lowering: Lowering, node: Node) -> Step:
    """Lower ``pad``: fill, then copy rows."""
    x, place = lowering.input(node)
    y = lowering.hold(node, lowering.form(node, node.output))
    assert y.form is not None
    (c, h, w), (_, _, wide), (top, left, _, _) = x.shape, y.shape, node["pads"]
    value = int(y.form.encode(np.float32(node["value"])))  # type: ignore[arg-type]
    fields = lowering.bounds(node, y.form) | rescale(x, y, lowering.even)
    fields |= {"rows": h, "n": w * c, "x_step": w * c, "y_step": wide * c, "negate": 0}
    fields["plain"] = _plain(x, y, fields)
    inside = Place("tensor", node.output, (top * wide + left) * c * y.dtype.itemsize)
    filled = Call("bf_fill", "", {"type": y.type, "n": y.n, "code": value}, (Place("tensor", node.output),))
    return Step(node, (filled, Call("bf_move", "bf_move_layer", fields, (place, inside))))


def lower_gather(lowering: Lowering, node: Node) -> Step:
    """Lower ``transpose`` and ``slice``: steps through memory."""
    x, _ = lowering.input(node)
    y = lowering.hold(node, lowering.form(node, node.output))
    steps, first = list(x.steps), 0
    if node.op == "transpose":
        if node["perm"][0] != 0:
            raise lowering.unsupported(node, "it moves the axis of the batch")
        perm = [axis - 1 for axis in node["perm"][1:]]
        kept = _order(lowering, node, tuple(perm.index(axis) for axis in x.axes))
        if kept is not None:
            return _moved(lowering, node, kept)
        steps = [steps[axis] for axis in perm]
    else:
        axis = node["axis"] - 1
        if axis < 0:
            raise lowering.unsupported(node, "it leaves out images")
        start = range(*slice(node["start"], node["stop"], node["step"]).indices(x.shape[axis]))[0]
        first = start * steps[axis]
        steps[axis] *= node["step"]
    return _gathered(lowering, node, y, y.sizes, [steps[axis] for axis in y.axes], first)


def _gathered(  # noqa: PLR0917
    lowering: Lowering, node: Node, y: Held, sizes: Sequence[int], steps: Sequence[int], first: int = 0
) -> Step:
    """Return the call that writes ``x[first + i . steps]`` for every place ``i`` within ``sizes``, in order."""
    x, place = lowering.input(node)
    assert y.form is not None
    more = 4 - len(sizes)
    if more < 0 or max(sizes) > MAX_SIZE:
        raise lowering.unsupported(node, f"its output has the shape {y.shape}")
    fields: dict[str, int | str] = lowering.bounds(node, y.form) | rescale(x, y, lowering.even)
    fields |= {"first": first, "steps": _listed([0] * more + list(steps)), "sizes": _listed([1] * more + list(sizes))}
    return Step(node, (Call("bf_gather", "bf_gather_layer", fields, (place, Place("tensor", node.output))),))


def _listed(values: Sequence[int]) -> str:
    return "{" + ", ".join(str(v) for v in values) + "}"


def lower_reshape(lowering: Lowering, node: Node) -> Step:
    """Lower ``reshape``: nothing to do where codes lie in order, or dense layers alone read them; else a copy."""
    x, place = lowering.input(node)
    form, readers = lowering.form(node, node.output), lowering.graph.consumers(node.output)
    y = lowering.hold(node, form)
    inner = readers and node.output not in lowering.graph.outputs and all(r.op == "dense" for r in readers)
    if form == x.form and place.kind == "tensor" and len(x.shape) == 3 and len(y.shape) == 1 and inner:
        lowering.hold(node, form, flattened=x.shape)
        return Step(node, shares=place.name)
    for order in (y.axes, *itertools.permutations(range(len(y.shape)))):
        kept = _order(lowering, node, order)
        if kept is not None and np.array_equal(_places(x), _places(kept)):
            return _moved(lowering, node, kept)
    y = lowering.hold(node, form)
    if len(y.shape) != 3:
        return _gathered(lowering, node, y, x.shape, x.steps)
    if len(x.shape) != 3 and len(y.shape) == 3 and not x.order:
        _, h, w = y.shape
        return _gathered(lowering, node, y, y.sizes, [w, 1, h * w])
    raise lowering.unsupported(node, f"from {x.shape} to {y.shape}")


_ORDERED = TABLES | {"concat", "transpose", "slice", "reshape", "clip", "neg", "identity", "argmax", "softmax"}
"""Operators that take tensors of any order in memory."""


def _order(lowering: Lowering, node: Node, order: tuple[int, ...]) -> Held | None:
    """Hold a node's output with its axes in memory so; ``None`` where a reader needs them otherwise.

    Heads of detectors reshape and transpose maps so that the places come last; in memory, where the channels of a place
    lie together, all these are the same.
    """
    y = lowering.hold(node, lowering.form(node, node.output))
    if order == y.axes:
        return y
    needed = _ORDERED if len(order) == 2 else ("transpose",)
    if any(reader.op not in needed for reader in lowering.graph.consumers(node.output)):
        return None
    if len(order) > 2 and node.output in lowering.graph.outputs:
        return None
    return lowering.hold(node, y.form, order=order)


def _places(held: Held) -> NDArray[np.int32]:
    """Return which element lies at every place of memory."""
    return held.to_memory(np.arange(held.n, dtype=np.int32), np.dtype(np.int32))


# --- along an axis ---------------------------------------------------------------------------------------------------
def _along(x: Held, axis: int) -> dict[str, int | str]:
    at = x.axes.index(axis - 1)
    outer, inner = math.prod(x.sizes[:at]), math.prod(x.sizes[at + 1 :])
    return {"n": x.sizes[at], "outer": outer, "inner": inner}


def lower_argmax(lowering: Lowering, node: Node) -> Step:
    """Lower ``argmax``."""
    x, place = lowering.input(node)
    if node["axis"] == 0:
        raise lowering.unsupported(node, "it looks along images")
    n = x.shape[node["axis"] - 1]
    held = lowering.hold(node, None, n_classes=n)
    if not node["keepdims"] and len(x.shape) == 3 and node["axis"] != 1:
        raise lowering.unsupported(node, "it leaves out rows or columns")
    if n > 65536:
        raise lowering.unsupported(node, f"there are {n} classes")
    fields = _along(x, node["axis"]) | {"in_type": x.type, "out_type": held.type}
    return Step(node, (Call("bf_argmax", "bf_along_layer", fields, (place, Place("tensor", node.output))),))


def lower_softmax(lowering: Lowering, node: Node) -> Step:
    """Lower ``softmax`` on 8-bit codes; source as :mod:`bitfront.simulate.quantized`."""
    x, place = lowering.input(node)
    y = lowering.hold(node, lowering.form(node, node.output), order=x.order)
    assert x.form is not None
    assert y.form is not None
    if x.form.bits > 8 or y.form.bits > 8 or x.form.signed != y.form.signed:
        raise lowering.unsupported(node, "softmax takes codes of at most 8 bits, both signed or both unsigned")
    largest = min((2**32 - 1) / x.shape[node["axis"] - 1], float(2**23 - 1))
    step = float(np.float32(x.form.step))
    table = [math.floor(largest * math.exp(-i * step) + 0.5) for i in range(SOFTMAX_CODES)]
    fields = _along(x, node["axis"]) | lowering.bounds(node, y.form)
    fields |= {
        "exponentials": lowering.array("e", np.array(table, np.uint32), f"softmax of {node.name}"),
        "steps_of_one": math.floor(np.float32(1) / np.float32(y.form.step)),
        "in_type": x.type, "out_type": y.type,
    }  # fmt: skip
    if int(fields["steps_of_one"]) >= NARROW:
        raise DataError(f"node '{node.name}': its step is too small", hint="use fewer fractional bits")
    call = Call("bf_softmax", "bf_along_layer", fields, (place, Place("tensor", node.output)))
    return Step(node, (call,), may_overwrite=overwritable(y, (x, place)))
