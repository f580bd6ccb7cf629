"""Tensors in an ONNX file: their names, their formats, their constants.

Around a tensor ``t`` with an integer format stand ``t@float`` (what its operator computes), ``t@codes`` and ``t`` (the
value of the codes); one in half precision is ``t@half``, and ``t`` where single precision is asked for.

Signed fixed-point activations of up to 8 bits are stored as ``t@shifted``: unsigned, half their range added, the zero
point there. They stand for the same values, and ONNX Runtime's integer kernels on x86 want unsigned activations.

Constants of up to 4 or 2 bits are stored in 4 or 2, and cast to 8 where the file is opened: integer kernels take no
narrower weights, but the cast of a constant is done once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bitfront.contracts import InputContract
from bitfront.errors import UsageError
from bitfront.graph.ir import Graph, Node
from bitfront.quant.formats import Affine, Binary, Float16, Qmn, integer
from bitfront.quant.plan import Plan
from bitfront.simulate.reference import bias_codes

__all__ = ["TensorWriter", "code_bounds", "codes_name", "storage_notes", "stored_bits"]

PACKED = {2: TensorProto.INT2, 4: TensorProto.INT4}
"""Bits -> the type that holds signed constants, two or four codes a byte."""
PACKED_FROM = 256
"""Elements from which packing saves more bytes than the cast takes."""

_INPUT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
}


def codes_name(tensor: str) -> str:
    """Return the name that the codes of a tensor have in the file, as its plan has them."""
    return f"{tensor}@codes"


@dataclass(slots=True)
class TensorWriter:
    """The nodes and initializers written so far."""

    graph: Graph
    plan: Plan
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    narrowest: int = 8
    """Bits of the narrowest type among the initializers."""
    _written: set[str] = field(default_factory=set)
    _values: dict[str, str] = field(default_factory=dict)
    """Name in the file of a graph input's values, where that is not its own."""

    @property
    def wide(self) -> bool:
        """Whether any codes take more than 8 bits."""
        forms = (integer(form) for form in self.plan.formats.values())
        return any(form is not None and form.bits > 8 for form in forms)

    # --- pieces ------------------------------------------------------------------------------------------------------
    def emit(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append one ONNX node, named after its output; returns that name."""
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Store an initializer, once; returns its name."""
        if name not in self._written:
            self._written.add(name)
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def affine(self, tensor: str) -> Affine | None:
        """The integer format of a tensor in the file, ``None`` for floats."""
        form = integer(self.plan.formats.get(tensor))
        if form is None or not self.is_shifted(tensor):
            return form
        return replace(form, signed=False, zero_point=(-form.low,))

    def is_shifted(self, tensor: str) -> bool:
        """Whether the codes in the file are unsigned, half the range above those of the plan."""
        form = self.plan.formats.get(tensor)
        return isinstance(form, Qmn) and form.signed and form.bits <= 8 and tensor not in self.graph.constants

    def codes(self, tensor: str) -> str:
        """Name of a tensor's codes in the file."""
        return f"{tensor}@shifted" if self.is_shifted(tensor) else codes_name(tensor)

    def is_half(self, tensor: str) -> bool:
        """Whether a tensor is held in half precision."""
        return isinstance(self.plan.formats.get(tensor), Float16)

    def dtype(self, form: Affine, tensor: str) -> np.dtype[Any]:
        """The integer type that holds a format's codes. Raises UsageError above 16 bits."""
        if form.bits > 16:
            raise UsageError(f"tensor '{tensor}' has {form.bits}-bit codes", hint="ONNX Runtime takes 16 bits at most")
        bits = 8 if form.bits <= 8 else 16
        return np.dtype(f"{'int' if form.signed else 'uint'}{bits}")

    def parameters(self, form: Affine, tensor: str) -> tuple[str, str]:
        """Store scale and zero point of a format; returns their names."""
        scale = np.asarray(form.scale, np.float32)
        zero = np.broadcast_to(np.asarray(form.zero_point), scale.shape).astype(self.dtype(form, tensor))
        if form.axis is None:
            scale, zero = scale.reshape(()), zero.reshape(())
        return self.constant(f"{tensor}@scale", scale), self.constant(f"{tensor}@zero_point", zero)

    # --- reading tensors ---------------------------------------------------------------------------------------------
    def read(self, tensor: str, half: bool = False) -> str:
        """Return the name under which a tensor's values can be read in single or half precision."""
        if tensor in self.graph.constants:
            self._store(tensor)
        name = self._values.get(tensor, tensor)
        wanted, held = (f"{name}@half", name) if half else (name, f"{name}@half")
        if self.is_half(tensor) != half and wanted not in self._written:
            self._written.add(wanted)
            self.emit("Cast", [held], wanted, to=TensorProto.FLOAT16 if half else TensorProto.FLOAT)
        return wanted

    def _store(self, tensor: str) -> None:
        value, form = self.graph.constants[tensor], self.affine(tensor)
        if self.is_half(tensor):
            self.constant(f"{tensor}@half", Float16().encode(value))
        elif form is None:
            self.constant(tensor, value)
        elif tensor not in self._written:
            self._written.add(tensor)
            codes = self._store_codes(tensor, form.encode(value), form)
            axis = {} if form.axis is None else {"axis": form.axis}
            self.emit("DequantizeLinear", [codes, *self.parameters(form, tensor)], tensor, **axis)

    def signs(self, tensor: str) -> str:
        """Return the name of the codes of a binary constant as float values."""
        form, name = self.affine(tensor), f"{tensor}@signs"
        if form is not None and name not in self._written:
            self._written.add(name)
            codes = codes_name(tensor)
            if tensor not in self._written:
                codes = self._store_codes(tensor, form.encode(self.graph.constants[tensor]), form)
            self.emit("Cast", [codes], name, to=TensorProto.FLOAT)
        return name

    def _store_codes(self, tensor: str, codes: NDArray[np.int64], form: Affine) -> str:
        """Store the codes of a constant in the narrowest type; returns the name of their 8 or 16 bits."""
        name, bits = codes_name(tensor), stored_bits(form, codes.size)
        if bits not in PACKED:
            return self.constant(name, codes.astype(self.dtype(form, tensor)))
        self.narrowest = min(self.narrowest, bits)
        packed = codes.astype(helper.tensor_dtype_to_np_dtype(PACKED[bits]))
        return self.emit("Cast", [self.constant(f"{name}@packed", packed)], name, to=TensorProto.INT8)

    def read_bias(self, node: Node) -> str:
        """Return a bias: int32 codes at the accumulator's scale where input and weight are integers."""
        x, w = self.affine(node.inputs[0]), self.affine(node.inputs[1])
        if x is None or w is None or isinstance(w, Binary):
            return self.read(node.inputs[2], self.is_half(node.output))
        name = f"{node.output}@bias"
        scale = np.float32(x.scale[0]) * np.asarray(w.scale, np.float32)
        per_channel = w.axis is not None
        stored = self.constant(f"{name}@codes", bias_codes(self.graph, self.plan, node).astype(np.int32))
        stored_scale = self.constant(f"{name}@scale", scale if per_channel else scale.reshape(()))
        return self.emit("DequantizeLinear", [stored, stored_scale], name, **({"axis": 0} if per_channel else {}))

    # --- writing tensors ---------------------------------------------------------------------------------------------
    def raw(self, tensor: str, clipped: bool) -> str:
        """Name of what an operator computes, before activation and format."""
        if self.affine(tensor) is not None:
            return f"{tensor}@float"
        return f"{tensor}{'@half' if self.is_half(tensor) else ''}{'@unclipped' if clipped else ''}"

    def finish(self, tensor: str, raw: str, clip: Sequence[float] | None) -> None:
        """Give the computed ``raw`` its activation and its format; it can be read as ``tensor`` from here on."""
        form = self.affine(tensor)
        if form is not None:
            self._quantize(tensor, raw, form, clip)
        elif clip is not None:
            self._clip_values(raw, raw.removesuffix("@unclipped"), clip, self.is_half(tensor))

    def _quantize(self, tensor: str, raw: str, form: Affine, clip: Sequence[float] | None) -> None:
        if isinstance(form, Binary):
            self._sign(tensor, raw, form)
            return
        low, high = code_bounds(form, clip)
        dtype, name = self.dtype(form, tensor), self.codes(tensor)
        limits = np.iinfo(dtype)
        scale, zero = self.parameters(form, tensor)
        if (low, high) == (limits.min, limits.max):
            self.emit("QuantizeLinear", [raw, scale, zero], name)
        elif dtype.itemsize == 1:  # clipping bytes costs little; clipping floats would split the integer kernel
            self.emit("QuantizeLinear", [raw, scale, zero], f"{name}@unclipped")
            self.clip_codes(f"{name}@unclipped", tensor, low, high)
        else:
            values = form.decode(np.asarray([low, high]))
            self._clip_values(raw, f"{tensor}@clipped", (float(values[0]), float(values[1])), half=False)
            self.emit("QuantizeLinear", [f"{tensor}@clipped", scale, zero], name)
        self.dequantize(tensor)

    def _sign(self, tensor: str, raw: str, form: Binary) -> None:
        """Write ``tensor`` as the scale times the sign of ``raw``: ONNX quantizes to no codes -1 and 1."""
        ends = [
            self.constant(f"{tensor}@{e}", np.array(v * form.scale[0], np.float32))
            for e, v in (("plus", 1), ("minus", -1))
        ]
        zero = self.constant("@zero", np.array(0, np.float32))
        self.emit("GreaterOrEqual", [raw, zero], f"{tensor}@positive")
        self.emit("Where", [f"{tensor}@positive", *ends], tensor)

    def clip_codes(self, source: str, tensor: str, low: int, high: int) -> None:
        """Clip 8-bit codes; the result is the codes of ``tensor``."""
        form = self.affine(tensor)
        assert form is not None
        dtype = self.dtype(form, tensor)
        bounds = [self.constant(f"{tensor}@{end}", np.array(v, dtype)) for end, v in (("low", low), ("high", high))]
        self.emit("Clip", [source, *bounds], self.codes(tensor))

    def dequantize(self, tensor: str) -> None:
        """Make the values of a tensor whose codes are written."""
        form = self.affine(tensor)
        assert form is not None
        name = f"{tensor}@value" if tensor in self.graph.inputs else tensor
        self.emit("DequantizeLinear", [self.codes(tensor), *self.parameters(form, tensor)], name)

    def _clip_values(self, source: str, target: str, clip: Sequence[float], half: bool) -> None:
        low, high = clip
        if low == 0 and high == math.inf:
            self.emit("Relu", [source], target)
            return
        dtype = np.float16 if half else np.float32
        ends = (("low", low), ("high", high))
        bounds = ["" if math.isinf(v) else self.constant(f"{target}@{end}", np.array(v, dtype)) for end, v in ends]
        self.emit("Clip", [source, *bounds], target)

    # --- the ends of the graph ---------------------------------------------------------------------------------------
    def read_input(self, name: str, contract: InputContract, batch: int | None) -> onnx.ValueInfoProto:
        """Declare a graph input as the contract has it, and bring it to NCHW float32 and its format."""
        shape: list[int | str] = [batch or "batch", *self.graph.tensors[name].shape[1:]]
        held = name
        if contract.layout == "nhwc":
            shape = [shape[0], shape[2], shape[3], shape[1]]
            held = self.emit("Transpose", [held], f"{name}@nchw", perm=[0, 3, 1, 2])
        if contract.dtype in ("uint8", "int8"):
            scale = self.constant(f"{name}@input_scale", np.array(contract.scale, np.float32))
            zero = self.constant(f"{name}@input_zero_point", np.array(contract.zero_point, contract.dtype))
            held = self.emit("DequantizeLinear", [held, scale, zero], f"{name}@float")
        elif contract.dtype == "float16":
            held = self.emit("Cast", [held], f"{name}@float", to=TensorProto.FLOAT)
        form = self.affine(name)
        if form is not None:
            self._quantize(name, held, form, None)
            held = f"{name}@value"
        elif self.is_half(name):  # named as read() expects a half tensor
            self.emit("Cast", [held], f"{held}@half", to=TensorProto.FLOAT16)
        self._values[name] = held
        self._written.add(held)
        return helper.make_tensor_value_info(name, _INPUT_TYPES[contract.dtype], shape)

    def write_output(self, name: str, batch: int | None) -> onnx.ValueInfoProto:
        """Declare a graph output; floats leave in single precision."""
        shape: list[int | str] = [batch or "batch", *self.graph.tensors[name].shape[1:]]
        if self.is_half(name):
            self.read(name)
        producer = self.graph.producer(name)
        kind = TensorProto.INT64 if producer is not None and producer.op == "argmax" else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, shape)


def code_bounds(form: Affine, clip: Sequence[float] | None) -> tuple[int, int]:
    """Return the smallest and largest code that a tensor of this format can hold behind an activation."""
    if clip is None:
        return form.low, form.high
    codes = form.encode(np.asarray(clip, np.float32))
    return int(codes[0]), int(codes[1])


def stored_bits(form: Affine, size: int) -> int:
    """Return the bits that each of a constant's ``size`` codes takes in the file."""
    packed = next((bits for bits in PACKED if form.bits <= bits), 0)
    if packed and form.signed and size >= PACKED_FROM:
        return packed
    return 8 if form.bits <= 8 else 16


def storage_notes(graph: Graph, plan: Plan) -> tuple[str, ...]:
    """Say which widths of a plan a file holds in wider types, a line for each kind of tensor."""
    wider: dict[str, dict[tuple[int, int], int]] = {}
    for name, given in plan.formats.items():
        form, tensor = integer(given), graph.tensors.get(name)
        if form is None or tensor is None:
            continue
        bits = 8 if form.bits <= 8 else 16
        if name in graph.constants:
            bits = 32 if tensor.kind == "bias" else stored_bits(form, graph.constants[name].size)
        kind = {"weight": "weights", "bias": "biases", "activation": "activations"}.get(tensor.kind, tensor.kind + "s")
        if bits != form.bits:
            counts = wider.setdefault(kind, {})
            counts[form.bits, bits] = counts.get((form.bits, bits), 0) + 1
    return tuple(
        f"{kind} in wider types: "
        + ", ".join(f"{n} of {own} bits in {held}" for (own, held), n in sorted(found.items()))
        for kind, found in wider.items()
    )
