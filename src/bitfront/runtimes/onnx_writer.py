"""Graph + plan -> ONNX model.

Every tensor keeps its name. Integer formats become QuantizeLinear / DequantizeLinear pairs in the places where ONNX
Runtime fuses them to integer kernels; weights and biases are stored as codes, so the file is as small as the plan says.
The same graph, plan and metadata give the same bytes.

Source of the pattern: ONNX Runtime's documentation, "Quantize ONNX models", QDQ format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from bitfront.contracts import InputContract
from bitfront.errors import UsageError
from bitfront.graph.ir import Graph, Node
from bitfront.quant.plan import Plan
from bitfront.runtimes.onnx_tensors import TensorWriter, code_bounds, codes_name
from bitfront.simulate import fixed_point
from bitfront.simulate.reference import counts_signs

__all__ = ["write"]

OPSET, IR_VERSION = 18, 8
"""Resize with ``axes``, beside a free batch."""
OPSET_WIDE, IR_VERSION_WIDE = 21, 10
"""16-bit QuantizeLinear."""
VERSIONS = {2: (25, 13), 4: (21, 10), 8: (18, 8)}
"""Bits of the narrowest initializer -> opset and version of the file that know them."""
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
_CLIPPED = ("conv", "dense", "add")


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
    opset, ir_version = next(v for bits, v in VERSIONS.items() if bits >= writer.narrowest)
    if writer.wide:
        opset, ir_version = max(opset, OPSET_WIDE), max(ir_version, IR_VERSION_WIDE)
    proto = helper.make_graph(writer.nodes, "bitfront", inputs, outputs, initializer=writer.initializers)
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=ir_version,
        producer_name="bitfront",
    )
    for key in sorted(metadata):
        model.metadata_props.add(key=key, value=metadata[key])
    return model


class _Writer(TensorWriter):
    """Operators on top of tensors."""

    def add(self, node: Node) -> None:
        """Write one node."""
        if node.op == "clip":
            self._add_clip(node)
            return
        clip = node.attributes.get("clip") if node.op in _CLIPPED else None
        raw = self.raw(node.output, clip is not None)
        if self._is_dynamic(node):
            self._add_dynamic(node, raw)
        elif counts_signs(self.plan, node) and not self.is_half(node.output):
            self._add_counts(node, raw)
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
            self.clip_codes(self.codes(source), target, *code_bounds(form, clip))
            self.dequantize(target)
        else:  # an idle Clip of the codes: without it ONNX Runtime merges the two formats into one
            dtype, raw = self.dtype(held, source), f"{target}@float"
            ends = [
                self.constant(f"{raw}@{e}", np.array(v, dtype)) for e, v in (("low", held.low), ("high", held.high))
            ]
            idle = self.emit("Clip", [self.codes(source), *ends], f"{raw}@source")
            self.emit("DequantizeLinear", [idle, *self.parameters(held, source)], raw)
            self._quantize(target, raw, form, clip)

    def _add_counts(self, node: Node, raw: str) -> None:
        """Count signs exactly, then scale, then add the bias; a sum of one term keeps the scale out of the weights."""
        x, w = (self.affine(name) for name in node.inputs[:2])
        assert x is not None
        assert w is not None
        n_axes = len(self.graph.tensors[node.output].shape)
        inputs = [self.read(node.inputs[0]), self.signs(node.inputs[1])]
        if node.op == "conv":
            self.emit("Conv", inputs, f"{raw}@count", **conv_attributes(node))
        else:
            self.emit("Gemm", inputs, f"{raw}@count", transB=1)
        self.emit("Sum", [f"{raw}@count"], f"{raw}@kept")
        scale = np.float32(x.scale[0]) * np.asarray(w.scale, np.float32)
        shape = (1, -1, *[1] * (n_axes - 2))
        factor = self.constant(f"{node.output}@scale", scale.reshape(shape))
        has_bias = len(node.inputs) > 2
        product = self.emit("Mul", [f"{raw}@kept", factor], f"{raw}@product" if has_bias else raw)
        if has_bias:
            bias = self.graph.constants[node.inputs[2]].reshape(shape)
            self.emit("Add", [product, self.constant(f"{node.output}@bias", bias)], raw)

    def _add_linear(self, node: Node, raw: str) -> None:
        half = self.is_half(node.output)
        inputs = [self.read(name, half) for name in node.inputs[:2]]
        if len(node.inputs) > 2:
            inputs.append(self.read_bias(node))
        x, weight, y = (self.affine(name) is not None for name in (*node.inputs[:2], node.output))
        target = f"{raw}@kept" if x and y and not weight else raw
        if node.op == "conv":
            self.emit("Conv", inputs, target, **conv_attributes(node))
        else:
            self.emit("Gemm", inputs, target, transB=1)
        if target != raw:  # a sum of one term keeps ONNX Runtime from quantizing the weight on its own
            self.emit("Sum", [target], raw)

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
        if self._is_exact_mean(node):
            axes = self.constant(f"{node.output}@axes", np.asarray([2, 3], np.int64))
            self.emit("ReduceMean", [*inputs, axes], raw, keepdims=1)
        elif op in _ELEMENTWISE:
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

    def _is_fixed_point(self, node: Node) -> bool:
        forms = [self.plan.formats.get(name) for name in (*node.inputs, node.output)]
        return fixed_point.applies(node.op, forms)

    def _is_exact_mean(self, node: Node) -> bool:
        """Whether a mean over a whole map must divide: ONNX Runtime's quantized pools multiply by 1 / n there."""
        size = self.graph.tensors[node.inputs[0]].shape[2:]
        whole = node.op == "average_pool" and tuple(node["kernel"]) == size and not any(node["pads"])
        return (whole or node.op == "global_average_pool") and self._is_fixed_point(node)

    def _add_interpolation(self, node: Node, source: str, raw: str) -> None:
        """Both axes as products with matrices of 7-bit weights: exact in single precision, as the contract has it."""
        _, _, *size = self.graph.tensors[node.inputs[0]].shape
        rows, columns = (
            self._interpolation_matrix(a, b, node["coordinates"]) for a, b in zip(size, node["size"], strict=True)
        )
        if f"{columns}@transposed" not in self._written:
            self._written.add(self.emit("Transpose", [columns], f"{columns}@transposed", perm=[1, 0]))
        lines = self.emit("MatMul", [rows, source], f"{raw}@lines")
        self.emit("MatMul", [lines, f"{columns}@transposed"], raw)

    def _interpolation_matrix(self, n_in: int, n_out: int, coordinates: str) -> str:
        """Matrix ``(n_out, n_in)`` of weights: max(0, 1 - |position - pixel|), exact, and made once, on opening.

        Stored in full, two matrices would take more bytes than the weights of a small network.
        """
        name = f"@{coordinates}_{n_in}_{n_out}"
        if name not in self._written:
            self._written.add(name)
            first, weight = fixed_point.interpolation(n_in, n_out, coordinates)
            positions = (first + weight / 2**fixed_point.WEIGHT_BITS).astype(np.float32).reshape(-1, 1)
            pixels = self.constant(f"@pixels_{n_in}", np.arange(n_in, dtype=np.float32).reshape(1, -1))
            one = self.constant("@one", np.array(1, np.float32))
            self.emit("Sub", [self.constant(f"{name}@positions", positions), pixels], f"{name}@offsets")
            self.emit("Abs", [f"{name}@offsets"], f"{name}@distances")
            self.emit("Sub", [one, f"{name}@distances"], f"{name}@signed")
            self.emit("Relu", [f"{name}@signed"], name)
        return name

    def _add_resize(self, node: Node, source: str, raw: str) -> None:
        if node["mode"] == "linear" and self._is_fixed_point(node):
            self._add_interpolation(node, source, raw)
            return
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


def resize_scale(size: int, wanted: int) -> float:
    """Return the float32 scale from which ONNX computes exactly the wanted size: floor(size * scale)."""
    scale = np.float32(wanted / size)
    while int(np.float32(size) * scale) < wanted:
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)
