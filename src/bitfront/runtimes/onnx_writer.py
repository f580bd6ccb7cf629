"""Graph + plan -> ONNX model.

Every tensor keeps its name. Integer formats become QuantizeLinear / DequantizeLinear pairs in the places where ONNX
Runtime fuses them to integer kernels; weights and biases are stored as codes, so the file is as small as the plan says.
Around a tensor ``t`` with an integer format stand ``t@float`` (what its operator computes), ``t@codes`` and ``t`` (the
value of the codes). The same graph, plan and metadata give the same bytes.

Source of the pattern: ONNX Runtime's documentation, "Quantize ONNX models", QDQ format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bitfront.contracts import InputContract
from bitfront.errors import UsageError
from bitfront.graph.ir import Graph, Node
from bitfront.quant.formats import Affine, Float16, integer
from bitfront.quant.plan import Plan
from bitfront.simulate.reference import bias_codes

__all__ = ["codes_name", "write"]

OPSET, IR_VERSION = 18, 8
"""Resize with ``axes``, beside a free batch."""
OPSET_WIDE, IR_VERSION_WIDE = 21, 10
"""16-bit QuantizeLinear."""
BLOCK = 16
"""Channels that ONNX Runtime's blocked kernels (NCHWc) take together; fewer are padded, at up to 16 times the cost."""

_ELEMENTWISE = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "exp": "Exp",
    "sqrt": "Sqrt",
    "neg": "Neg",
    "hard_swish": "HardSwish",
    "global_average_pool": "GlobalAveragePool",
    "identity": "Identity",
}
_INPUT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
}
_CLIPPED = ("conv", "dense", "add")


def codes_name(tensor: str) -> str:
    """Return the name that the codes of a tensor have in the file."""
    return f"{tensor}@codes"


def write(
    graph: Graph,
    plan: Plan,
    contract: InputContract,
    *,
    metadata: Mapping[str, str],
    batch: int | None = None,
) -> onnx.ModelProto:
    """Return ``graph`` with the formats of ``plan`` as an ONNX model.

    The batch axis is free, or fixed to ``batch``. Raises UsageError for formats that ONNX Runtime has no kernels for.
    """
    writer = _Writer(graph, plan)
    inputs = [writer.read_input(name, contract, batch) for name in graph.inputs]
    for node in graph.nodes:
        writer.add(node)
    outputs = [writer.write_output(name, batch) for name in graph.outputs]
    proto = helper.make_graph(writer.nodes, "bitfront", inputs, outputs, initializer=writer.initializers)
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET_WIDE if writer.wide else OPSET)],
        ir_version=IR_VERSION_WIDE if writer.wide else IR_VERSION,
        producer_name="bitfront",
    )
    for key in sorted(metadata):
        model.metadata_props.add(key=key, value=metadata[key])
    return model


@dataclass(slots=True)
class _Writer:
    """The nodes and initializers written so far."""

    graph: Graph
    plan: Plan
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
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
        """The integer format of a tensor, ``None`` for floats."""
        return integer(self.plan.formats.get(tensor))

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
            codes = self.constant(codes_name(tensor), form.encode(value).astype(self.dtype(form, tensor)))
            axis = {} if form.axis is None else {"axis": form.axis}
            self.emit("DequantizeLinear", [codes, *self.parameters(form, tensor)], tensor, **axis)

    def read_bias(self, node: Node) -> str:
        """Return a bias: int32 codes at the accumulator's scale where input and weight are integers."""
        x, w = self.affine(node.inputs[0]), self.affine(node.inputs[1])
        if x is None or w is None:
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
        low, high = code_bounds(form, clip)
        dtype, name = self.dtype(form, tensor), codes_name(tensor)
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

    def clip_codes(self, source: str, tensor: str, low: int, high: int) -> None:
        """Clip 8-bit codes; the result is the codes of ``tensor``."""
        form = self.affine(tensor)
        assert form is not None
        dtype = self.dtype(form, tensor)
        bounds = [self.constant(f"{tensor}@{end}", np.array(v, dtype)) for end, v in (("low", low), ("high", high))]
        self.emit("Clip", [source, *bounds], codes_name(tensor))

    def dequantize(self, tensor: str) -> None:
        """Make the values of a tensor whose codes are written."""
        form = self.affine(tensor)
        assert form is not None
        name = f"{tensor}@value" if tensor in self.graph.inputs else tensor
        self.emit("DequantizeLinear", [codes_name(tensor), *self.parameters(form, tensor)], name)

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

    # --- operators ---------------------------------------------------------------------------------------------------
    def add(self, node: Node) -> None:
        """Write one node."""
        if node.op == "clip":
            self._add_clip(node)
            return
        clip = node.attributes.get("clip") if node.op in _CLIPPED else None
        raw = self.raw(node.output, clip is not None)
        if self._is_dynamic(node):
            self._add_dynamic(node, raw)
        elif node.op in ("conv", "dense"):
            self._add_linear(node, raw)
        else:
            half = self.is_half(node.output)
            inputs = [self.read(name, half) for name in node.inputs]
            self._add_other(node, inputs, raw)
        self.finish(node.output, raw, clip)

    def _add_clip(self, node: Node) -> None:
        source, target, clip = node.inputs[0], node.output, (node["lo"], node["hi"])
        form, half = self.affine(target), self.is_half(target)
        if form is None:
            self._clip_values(self.read(source, half), f"{target}@half" if half else target, clip, half)
            return
        held = self.affine(source)
        if held is None or held.bits > 8 or source in self.graph.constants:
            self._quantize(target, self.read(source), form, clip)
        elif form == held:
            self.clip_codes(codes_name(source), target, *code_bounds(form, clip))
            self.dequantize(target)
        else:  # an idle Clip of the codes: without it ONNX Runtime merges the two formats into one
            dtype, raw = self.dtype(held, source), f"{target}@float"
            ends = [
                self.constant(f"{raw}@{e}", np.array(v, dtype)) for e, v in (("low", held.low), ("high", held.high))
            ]
            idle = self.emit("Clip", [codes_name(source), *ends], f"{raw}@source")
            self.emit("DequantizeLinear", [idle, *self.parameters(held, source)], raw)
            self._quantize(target, raw, form, clip)

    def _add_linear(self, node: Node, raw: str) -> None:
        half = self.is_half(node.output)
        inputs = [self.read(name, half) for name in node.inputs[:2]]
        if len(node.inputs) > 2:
            inputs.append(self.read_bias(node))
        if node.op == "conv":
            self.emit("Conv", inputs, raw, **conv_attributes(node))
        else:
            self.emit("Gemm", inputs, raw, transB=1)

    def _is_dynamic(self, node: Node) -> bool:
        return (
            bool(self.plan.options.get("dynamic"))
            and node.op in ("conv", "dense")
            and self.affine(node.inputs[1]) is not None
            and self.affine(node.inputs[0]) is None
        )

    def _add_dynamic(self, node: Node, raw: str) -> None:
        """Quantize the input as it comes, multiply in integers, scale back: ONNX's DynamicQuantizeLinear."""
        x, w, tensor = node.inputs[0], node.inputs[1], node.output
        form = self.affine(w)
        assert form is not None
        if any(form.zero_point):
            raise UsageError(f"weight '{w}' has a zero point", hint="dynamic quantization takes symmetric weights")
        codes, scale, zero = (f"{x}@dynamic_{part}" for part in ("codes", "scale", "zero_point"))
        if codes not in self._written:
            self._written.add(codes)
            parts = [codes, scale, zero]
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [self.read(x)], parts, name=codes))
        weight = form.encode(self.graph.constants[w]).astype(self.dtype(form, w))
        w_scale = np.asarray(form.scale, np.float32)
        if node.op == "conv":
            stored = self.constant(codes_name(w), weight)
            self.emit("ConvInteger", [codes, stored, zero], f"{tensor}@sum", **conv_attributes(node))
            w_scale = w_scale.reshape(1, -1, 1, 1)
        else:
            stored = self.constant(codes_name(w), weight.T)
            self.emit("MatMulInteger", [codes, stored, zero], f"{tensor}@sum")
        self.emit("Cast", [f"{tensor}@sum"], f"{tensor}@sum_float", to=TensorProto.FLOAT)
        self.emit("Mul", [scale, self.constant(f"{w}@scale", w_scale)], f"{tensor}@scale_product")
        has_bias = len(node.inputs) > 2
        product = f"{tensor}@product" if has_bias else raw
        self.emit("Mul", [f"{tensor}@sum_float", f"{tensor}@scale_product"], product)
        if has_bias:
            bias = self.graph.constants[node.inputs[2]]
            shaped = bias.reshape(1, -1, 1, 1) if node.op == "conv" else bias
            self.emit("Add", [product, self.constant(node.inputs[2], shaped)], raw)

    def _add_other(self, node: Node, inputs: list[str], raw: str) -> None:
        op, get = node.op, node.attributes.get
        if op in _ELEMENTWISE:
            self.emit(_ELEMENTWISE[op], inputs, raw)
        elif op == "batch_norm":
            self.emit("BatchNormalization", inputs, raw, epsilon=node["epsilon"])
        elif op == "leaky_relu":
            self.emit("LeakyRelu", inputs, raw, alpha=node["alpha"])
        elif op == "hard_sigmoid":
            self.emit("HardSigmoid", inputs, raw, alpha=node["alpha"], beta=node["beta"])
        elif op == "silu":
            self.emit("Sigmoid", inputs, f"{raw}@sigmoid")
            self.emit("Mul", [inputs[0], f"{raw}@sigmoid"], raw)
        elif op in ("softmax", "concat"):
            self.emit(op.title(), inputs, raw, axis=node["axis"])
        elif op == "argmax":
            self.emit("ArgMax", inputs, raw, axis=node["axis"], keepdims=int(node["keepdims"]))
        elif op in ("max_pool", "average_pool"):
            attributes = {
                "kernel_shape": list(node["kernel"]),
                "strides": list(node["strides"]),
                "pads": list(node["pads"]),
            }
            if op == "max_pool":
                self.emit("MaxPool", inputs, raw, dilations=list(get("dilations", (1, 1))), **attributes)
            else:
                self.emit("AveragePool", inputs, raw, count_include_pad=int(node["count_include_pad"]), **attributes)
        else:
            self._add_shaped(node, inputs[0], raw)

    def _add_shaped(self, node: Node, source: str, raw: str) -> None:
        op, name = node.op, node.output
        half = self.is_half(name)

        def integers(what: str, values: Sequence[int]) -> str:
            return self.constant(f"{name}@{what}", np.asarray(values, np.int64))

        if op == "transpose":
            self.emit("Transpose", [source], raw, perm=list(node["perm"]))
        elif op == "reshape":
            self.emit("Reshape", [source, integers("shape", node["shape"])], raw)
        elif op == "reduce_mean":
            axes = integers("axes", node["axes"])
            self.emit("ReduceMean", [source, axes], raw, keepdims=int(node["keepdims"]))
        elif op == "slice":
            parts = [integers(part, [node[part]]) for part in ("start", "stop", "axis", "step")]
            self.emit("Slice", [source, *parts], raw)
        elif op == "pad":
            top, left, bottom, right = node["pads"]
            value = self.constant(f"{name}@pad_value", np.array(node["value"], np.float16 if half else np.float32))
            pads = integers("pads", [0, 0, top, left, 0, 0, bottom, right])
            self.emit("Pad", [source, pads, value], raw)
        elif op == "resize":
            self._add_resize(node, source, raw)
        else:
            raise UsageError(f"node '{node.name}': ONNX Runtime has no operator for '{op}'")

    def _add_resize(self, node: Node, source: str, raw: str) -> None:
        attributes = {"mode": node["mode"], "coordinate_transformation_mode": node["coordinates"]}
        if node["mode"] == "nearest":
            attributes["nearest_mode"] = node["rounding"]
        _, channels, *size = self.graph.tensors[node.inputs[0]].shape
        if channels < BLOCK and self.affine(node.output) is None:  # keeps it off the blocked kernel
            wanted = self.constant(f"{node.output}@size", np.asarray(node["size"], np.int64))
            self.emit("Resize", [source, "", "", wanted], raw, axes=[2, 3], **attributes)
        else:  # ONNX Runtime breaks ``axes`` when it moves a quantized Resize to integers
            scales = [1.0, 1.0, *(resize_scale(a, b) for a, b in zip(size, node["size"], strict=True))]
            wanted = self.constant(f"{node.output}@scales", np.asarray(scales, np.float32))
            self.emit("Resize", [source, "", wanted], raw, **attributes)


def conv_attributes(node: Node) -> dict[str, Any]:
    """Return the ONNX attributes of a ``conv`` node."""
    return {
        "strides": list(node["strides"]),
        "pads": list(node["pads"]),
        "dilations": list(node["dilations"]),
        "group": node["groups"],
    }


def code_bounds(form: Affine, clip: Sequence[float] | None) -> tuple[int, int]:
    """Return the smallest and largest code that a tensor of this format can hold behind an activation."""
    if clip is None:
        return form.low, form.high
    codes = form.encode(np.asarray(clip, np.float32))
    return int(codes[0]), int(codes[1])


def resize_scale(size: int, wanted: int) -> float:
    """Return the float32 scale from which ONNX computes exactly the wanted size: floor(size * scale)."""
    scale = np.float32(wanted / size)
    while int(np.float32(size) * scale) < wanted:
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)
