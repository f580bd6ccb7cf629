"""Convolutions and dense layers as calls of C kernels: packed weights, biases, proven sums."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import UsageError
from bitfront.graph.ir import Node
from bitfront.quant.formats import Affine, Qmn, integer
from bitfront.runtimes.c_lowering import MAX_LEFT, MAX_RIGHT, Lowering
from bitfront.runtimes.c_pack import pack, signed_bits
from bitfront.runtimes.c_program import Call, Held, Place, Step
from bitfront.simulate import fixed_point, reference

__all__ = ["lower_layer"]

MAX_BIAS_SHIFT = 30
MAX_FLAT = 65535
NARROW_SUM, WIDE_SHIFT = 2.0**31, 62


def lower_layer(lowering: Lowering, node: Node) -> Step:
    """Lower ``conv`` or ``dense``. Raises UsageError for formats that are not fixed point."""
    x, place = lowering.input(node)
    y = lowering.hold(node, lowering.form(node, node.output))
    codes, fields = _weight(lowering, node, x)
    streamed = lowering.streamed and node.inputs[0] == lowering.graph.inputs[0]
    shape = _shape(node, x, y, codes.shape, whole=not streamed)
    wide, shifts = _sums(lowering, node, x, y)
    kind = _kernel(shape, codes.shape, x, wide)
    n = int(np.prod(codes.shape[1:]))
    block, scratch = _scratch(kind, shape, n, _weight_bytes(kind, shape, x, n, fields), lowering.budget(node))
    fields |= _shifts(lowering, node, shifts)
    assert y.form is not None
    fields |= lowering.bounds(node, y.form) | shape
    fields |= {"block": block, "in_type": x.type, "out_type": y.type, "even": lowering.even}
    places: tuple[Place, ...] = (place, Place("tensor", node.output), Place("scratch"))
    if streamed:
        places = (Place("text", kind), Place("text", "fetch"), Place("text", "context"), *places)
        kind = "bf_stream"
    return Step(node, (Call(kind, "bf_layer", lowering.check(node, fields), places),), scratch)


def _weight(lowering: Lowering, node: Node, x: Held) -> tuple[NDArray[np.int64], dict[str, int | str]]:
    """Return the codes of the weight, rows as they lie in memory (oc, kh, kw, ic), and the fields that tell of it."""
    graph, name = lowering.graph, node.inputs[1]
    form = lowering.plan.formats.get(name)
    if name not in graph.constants or fixed_point.exponents(form) is None:
        raise UsageError(
            f"c_fixed cannot write node '{node.name}' ({node.op}): its weight '{name}' has no fixed-point format",
            hint="every tensor must be Qmn of at most 16 bits: use the recipe qmn8 or a searched plan",
        )
    assert isinstance(form, Qmn | Affine)
    codes = form.encode(graph.constants[name])
    if node.op == "conv":
        codes = codes.transpose(0, 2, 3, 1)
    elif x.flattened is not None:
        codes = codes.reshape(len(codes), *x.flattened).transpose(0, 2, 3, 1)
    bits = max(form.bits, signed_bits(codes)) if integer(form) else form.bits
    if bits > 16:
        raise lowering.unsupported(node, f"its weights take {bits} bits")
    packed = pack(codes.reshape(len(codes), -1), bits)
    fields: dict[str, int | str] = {"weight": lowering.array("w", packed, f"{name}: {bits} bits, {codes.shape}")}
    fields["weight_bits"] = bits
    return codes, fields | _bias(lowering, node)


def _bias(lowering: Lowering, node: Node) -> dict[str, int | str]:
    """Return where the bias lies: at the fewest bits that hold it, without zeros that all its numbers end with."""
    bias = reference.bias_codes(lowering.graph, lowering.plan, node)
    if not bias.any():
        return {"bias": "NULL", "bias_bits": 0, "bias_shift": 0}
    together = int(np.bitwise_or.reduce(np.abs(bias)))
    shift = min(MAX_BIAS_SHIFT, (together & -together).bit_length() - 1)
    codes = bias >> shift
    bits = signed_bits(codes)
    packed = pack(codes[None], bits)
    name = lowering.array("b", packed, f"bias of {node.name}: {len(bias)} of {bits} bits")
    return {"bias": name, "bias_bits": bits, "bias_shift": shift}


def _shape(node: Node, x: Held, y: Held, weight: tuple[int, ...], *, whole: bool) -> dict[str, int | str]:
    """Return the fields of sizes; on a whole map, what is a dense layer or walks single pixels is told as such."""
    if node.op == "dense":
        return _sizes((1, 1, x.n), (1, 1, weight[0]))
    c, h, w = x.shape
    oc, oh, ow = y.shape
    kernel, plain = weight[1:3], whole and node["groups"] == 1 and not any(node["pads"])
    if plain and kernel == (h, w) and (oh, ow) == (1, 1) and tuple(node["dilations"]) == (1, 1):
        return _sizes((1, 1, c * h * w), (1, 1, oc))
    if plain and kernel == (1, 1) and tuple(node["strides"]) == (1, 1) and h * w <= MAX_FLAT:
        return _sizes((1, h * w, c), (1, oh * ow, oc))
    top, left = node["pads"][:2]
    return _sizes((h, w, c), (oh, ow, oc)) | {
        "groups": node["groups"], "pad_top": top, "pad_left": left,
        "kernel_h": kernel[0], "kernel_w": kernel[1],
        "stride_h": node["strides"][0], "stride_w": node["strides"][1],
        "dilation_h": node["dilations"][0], "dilation_w": node["dilations"][1],
    }  # fmt: skip


def _sizes(x: tuple[int, int, int], y: tuple[int, int, int]) -> dict[str, int | str]:
    names = ("in_h", "in_w", "in_c", "out_h", "out_w", "out_c")
    ones = ("groups", "kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w")
    sizes: dict[str, int | str] = dict(zip(names, (*x, *y), strict=True))
    return sizes | dict.fromkeys(ones, 1) | {"pad_top": 0, "pad_left": 0}


def _sums(lowering: Lowering, node: Node, x: Held, y: Held) -> tuple[bool, NDArray[np.int64]]:
    """Return whether sums, with what rounding adds, need 64 bits, and the shift of every output channel."""
    assert x.form is not None
    assert y.form is not None
    weight = fixed_point.exponents(lowering.plan.formats[node.inputs[1]])
    assert weight is not None
    shifts = x.form.frac_bits + weight - y.form.frac_bits
    bound = reference.largest_sum(lowering.graph, lowering.plan, node)
    if bound >= fixed_point.EXACT_FLOAT32**2 * 32:  # 2**53, as the reference
        raise UsageError(f"layer '{node.name}': its sums need more than 53 bits", hint="use fewer bits")
    largest = int(min(shifts.max(), MAX_RIGHT))
    added = 2.0 ** (largest - 1) if largest > 0 else 0.0
    wide = bound + added >= NARROW_SUM
    shifts = np.clip(shifts, -MAX_LEFT, WIDE_SHIFT if wide else MAX_RIGHT)
    return wide, shifts


def _shifts(lowering: Lowering, node: Node, shifts: NDArray[np.int64]) -> dict[str, int | str]:
    if len(set(shifts.tolist())) == 1:
        return {"shifts": "NULL", "shift": int(shifts[0])}
    name = lowering.array("s", shifts.astype(np.int8), f"shifts of {node.name}")
    return {"shifts": name, "shift": 0}


def _kernel(shape: dict[str, int | str], weight: tuple[int, ...], x: Held, wide: bool) -> str:
    """Return the name of the kernel."""
    depthwise = shape["groups"] == shape["in_c"] == shape["out_c"] and math.prod(weight[3:]) == 1
    if depthwise and shape["groups"] != 1:
        return f"bf_depthwise_{('i8', 'u8', 'i16', 'u16')[x.type]}{'_wide' if wide else ''}"
    one = ("in_h", "in_w", "out_h", "out_w", "kernel_h", "kernel_w", "groups")
    family = "bf_dense" if all(shape[key] == 1 for key in one) else "bf_conv"
    if x.type == 3:
        return f"{family}_x32"
    return f"{family}_wide" if wide else family


def _weight_bytes(kernel: str, shape: dict[str, int | str], x: Held, n: int, fields: dict[str, int | str]) -> int:
    """Return the bytes that an unpacked weight takes in scratch; 0: it is read in flash. As ``bf_layer.h`` says."""
    bits = int(fields["weight_bits"])
    if kernel != "bf_conv" or x.type > 1 or bits > 8:
        return 2
    return int(bits < 8 or n // int(shape["kernel_h"]) % 4 != 0)


def _scratch(kernel: str, shape: dict[str, int | str], n: int, weight_bytes: int, budget: int) -> tuple[int, int]:
    """Return the output channels of a block and the bytes of scratch; ``n``: weights of a row."""
    patch = 4 if kernel.endswith("_x32") else 2
    if kernel.startswith("bf_dense"):
        n = int(shape["in_c"])
        return 1, _up(n, 2) * (patch + 2)
    channels = int(shape["out_c"]) // (1 if kernel.startswith("bf_depthwise") else int(shape["groups"]))
    if kernel.startswith("bf_depthwise"):
        fixed, weights, unit = 2 * n, 2 * n, 4
    else:
        line = _up(n // int(shape["kernel_h"]), 4)
        row = line * int(shape["kernel_h"])
        fixed, weights, unit = 2 * patch * row, weight_bytes * row, 2
    block = min(max(unit, (budget - fixed) // (4 + weights) // unit * unit), channels)
    return block, fixed + weights * _up(block, unit) + 4 * _up(block, 2)


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
