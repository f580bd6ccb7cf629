"""Graph + plan -> TFLite file.

Operators between integer formats become LiteRT's integer kernels where these do what the plan says; where they would
not (a kernel that wants one scale for input and output, a function with a fixed output scale), the values are computed
in float32 between DEQUANTIZE and QUANTIZE. The same graph, plan and metadata give the same bytes.

Source of the formats: LiteRT's "8-bit quantization specification".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitfront.contracts import InputContract
from bitfront.errors import UsageError
from bitfront.graph.ir import Graph, Node
from bitfront.quant.formats import Affine, integer
from bitfront.quant.plan import Plan
from bitfront.runtimes.litert_shaped import ShapedWriter
from bitfront.runtimes.litert_tensors import SHIFT, nhwc_axis
from bitfront.simulate.reference import bias_codes

__all__ = ["Ends", "io_dtype", "write"]

VALID = 1
OHWI, DEPTHWISE = (0, 2, 3, 1), (1, 2, 3, 0)
_INT32_BIAS, _INT64_BIAS = "INT32", "INT64"
_FLOAT = {"sigmoid": "LOGISTIC", "tanh": "TANH", "exp": "EXP", "sqrt": "SQRT", "neg": "NEG"}
_OPTIONS = {"EXP": "ExpOptions", "NEG": "NegOptions"}
_BINARY = {"add": "AddOptions", "sub": "SubOptions", "mul": "MulOptions", "div": "DivOptions"}
_INPUT_TYPES = ("float32", "float16", "uint8", "int8", "int16")


@dataclass(frozen=True, slots=True)
class Ends:
    """What goes into a file and what comes out."""

    dtype: str
    scale: float = 1.0
    zero_point: int = 0


def io_dtype(plan: Plan, contract: InputContract) -> str:
    """Return the type of a file's input: as its recipe says, else as the contract does."""
    return str(plan.options.get("io", contract.dtype))


def write(graph: Graph, plan: Plan, contract: InputContract) -> tuple[_Writer, list[int], list[int], Ends]:
    """Write ``graph`` with the formats of ``plan``; returns the writer, inputs, outputs and what the input takes.

    ``writer.model.finish(inputs, outputs, metadata)`` gives the file. Raises UsageError naming what LiteRT has no
    operator or format for.
    """
    writer = _Writer(graph, plan)
    dtype = io_dtype(plan, contract)
    index, ends = writer.read_input(graph.inputs[0], contract, dtype)
    for node in graph.nodes:
        writer.add(node)
    outputs = [writer.write_output(name, dtype) for name in graph.outputs]
    return writer, [index], outputs, ends


class _Writer(ShapedWriter):
    """Operators that compute, on top of those that move values."""

    def add(self, node: Node) -> None:
        """Write one node."""
        if node.op in ("conv", "dense"):
            self._add_linear(node)
        elif node.op in _BINARY:
            self._add_binary(node)
        elif node.op == "clip":
            self._add_clip(node)
        elif not self.add_moving(node):
            self._add_function(node)

    # --- the ends of the graph ---------------------------------------------------------------------------------------
    def read_input(self, name: str, contract: InputContract, dtype: str) -> tuple[int, Ends]:
        """Declare the file's input, and bring it to its format."""
        if dtype not in _INPUT_TYPES:
            raise UsageError(f"LiteRT takes no {dtype} input", hint=f"it takes {', '.join(_INPUT_TYPES)}")
        form, shape = self.form(name), self.shape(name)
        codes = f"{name}@shifted" if self.is_shifted(name) else f"{name}@codes"
        if dtype in ("float32", "float16"):
            index = held = self.model.tensor(name, shape, dtype.upper())
            if dtype == "float16":
                held = self.emit("DEQUANTIZE", [index], self.scratch(f"{name}@value", shape), "DequantizeOptions")
            if form is not None:
                held = self.emit("QUANTIZE", [held], self.scratch(codes, shape, form), "QuantizeOptions")
            self.hold(name, held)
            return index, Ends(dtype)
        wide = dtype == "int16"
        if form is None or (form.bits > 8) != wide:
            if wide:
                raise UsageError("an int16 input needs 16-bit codes of the input", hint="choose the recipe int16x8")
            fed = Affine(8, (float(np.float32(contract.scale)),), (contract.zero_point,), dtype == "int8")
            index = self.scratch(name, shape, fed, dtype.upper())
            value = self.emit("DEQUANTIZE", [index], self.scratch(f"{name}@value", shape), "DequantizeOptions")
            if form is not None:
                value = self.emit("QUANTIZE", [value], self.scratch(codes, shape, form), "QuantizeOptions")
            self.hold(name, value)
            return index, Ends(dtype, fed.scale[0], fed.zero_point[0])
        if dtype != "uint8":
            index = self.scratch(codes, shape, form)
            self.hold(name, index)
            return index, Ends(dtype, form.scale[0], form.zero_point[0])
        zero = form.zero_point[0] + SHIFT
        index = self.model.tensor(name, shape, "UINT8", scale=form.scale, zero_point=[zero])
        self.hold(name, self.emit("QUANTIZE", [index], self.scratch(codes, shape, form), "QuantizeOptions"))
        return index, Ends(dtype, form.scale[0], zero)

    def write_output(self, name: str, dtype: str) -> int:
        """Return the tensor that leaves: codes where the input takes codes, else float32 (class indices int32)."""
        form = self.form(name)
        if form is None:
            return self.held(name)
        if dtype == "uint8" and form.bits <= 8:
            zero = form.zero_point[0] + SHIFT
            index = self.model.tensor(f"{name}@uint8", self.shape(name), "UINT8", scale=form.scale, zero_point=[zero])
            return self.emit("QUANTIZE", [self.held(name)], index, "QuantizeOptions")
        return self.held(name) if dtype in ("int8", "int16") else self.value(name)

    # --- conv and dense ----------------------------------------------------------------------------------------------
    def _add_linear(self, node: Node) -> None:
        x, y = self.form(node.inputs[0]), self.form(node.output)
        w = integer(self.plan.formats.get(node.inputs[1]))
        if x is not None and y is not None and w is not None and w.bits <= 8:
            if self.width(node.inputs[0]) == self.width(node.output) == 8:
                source = self.held(node.inputs[0])
                bias = self._bias(node, x, w, _INT32_BIAS)
                self.compute(node, lambda out, act: self._linear(node, source, bias, out, act, x))
                return
            if not any(x.zero_point) and not any(y.zero_point):
                self._add_wide(node, x, w, y)
                return
        if x is None and w is not None and self.plan.options.get("dynamic"):
            source, bias = self.value(node.inputs[0]), self._float_bias(node)
            self.compute_float(node, lambda out, act: self._linear(node, source, bias, out, act, None))
            return
        source, bias = self.value(node.inputs[0]), self._float_bias(node)
        weight = self.constant(node.inputs[1], rank=2, order=self._order(node))
        self.compute_float(node, lambda out, act: self._linear(node, source, bias, out, act, None, weight))

    def _add_wide(self, node: Node, x: Affine, w: Affine, y: Affine) -> None:
        """16-bit activations: where input or output have 8 bits, the same codes are taken in 16."""
        x16, y16 = (Affine(16, form.scale) for form in (x, y))
        source, bias = self.codes(node.inputs[0], x16), self._bias(node, x, w, _INT64_BIAS)
        if y.bits > 8:
            self.compute(node, lambda out, act: self._linear(node, source, bias, out, act, x16))
            return
        raw = self.scratch(f"{node.output}@wide", self.shape(node.output), y16)
        self._linear(node, source, bias, raw, 0, x16)
        self.quantize(node.output, raw, node["clip"])

    def _linear(  # noqa: PLR0917
        self, node: Node, x: int, bias: int, out: int, activation: int, form: Affine | None, weight: int = -1
    ) -> None:
        order = self._order(node)
        if weight < 0:
            weight = self.weight(node.inputs[1], order)
        if node.op == "dense":
            self.emit(
                "FULLY_CONNECTED", [x, weight, bias], out, "FullyConnectedOptions",
                fusedActivationFunction=activation, asymmetricQuantizeInputs=form is None,
            )  # fmt: skip
            return
        name = node.inputs[0]
        kernel = self.graph.tensors[node.inputs[1]].shape[2:]
        padding = self.padding(node, self.graph.tensors[name].shape[2:], kernel)
        if padding is None:
            x, padding = self.padded(x, name, node["pads"], form), VALID
        fields = {
            "padding": padding, "strideH": node["strides"][0], "strideW": node["strides"][1],
            "dilationHFactor": node["dilations"][0], "dilationWFactor": node["dilations"][1],
            "fusedActivationFunction": activation,
        }  # fmt: skip
        if order == DEPTHWISE:
            fields["depthMultiplier"] = self.graph.tensors[node.inputs[1]].shape[0] // node["groups"]
            self.emit("DEPTHWISE_CONV_2D", [x, weight, bias], out, "DepthwiseConv2DOptions", **fields)
        else:
            self.emit("CONV_2D", [x, weight, bias], out, "Conv2DOptions", **fields)

    def _order(self, node: Node) -> Sequence[int]:
        if node.op == "dense":
            return ()
        shape = self.graph.tensors[node.inputs[1]].shape
        return DEPTHWISE if shape[1] == 1 and node["groups"] > 1 else OHWI

    def _bias(self, node: Node, x: Affine, w: Affine, dtype: str) -> int:
        """Store the codes of a bias at the accumulator's scale."""
        codes = bias_codes(self.graph, self.plan, node).astype(dtype.lower())
        scale = np.float32(x.scale[0]) * np.asarray(w.scale, np.float32)
        zeros = [0] * len(scale)
        return self.model.tensor("", codes.shape, dtype, data=codes, scale=scale.tolist(), zero_point=zeros)

    def _float_bias(self, node: Node) -> int:
        if len(node.inputs) > 2:
            return self.constant(node.inputs[2], rank=1)
        return self.floats(np.zeros(self.graph.tensors[node.inputs[1]].shape[0]))

    # --- elementwise -------------------------------------------------------------------------------------------------
    def _add_binary(self, node: Node) -> None:
        op, forms = node.op.upper(), [self.form(name) for name in (*node.inputs, node.output)]
        constants = [name for name in node.inputs if name in self.graph.constants]
        widths = {self.width(name) for name in (*node.inputs, node.output) if name not in self.graph.constants}
        rest = {"potScaleInt16": False} if node.op in ("add", "sub") else {}
        rank = self.rank(node.output)
        if any(self.rank(name) not in (rank, 0) for name in node.inputs if name not in constants) and rank == 4:
            raise UsageError(f"node '{node.name}' ({node.op}): LiteRT needs both inputs with the axes of the output")
        if node.op != "div" and all(forms) and not constants and len(widths) == 1:
            inputs = [self.held(name) for name in node.inputs]
            self.compute(
                node, lambda out, act: self.emit(op, inputs, out, _BINARY[node.op], fusedActivationFunction=act, **rest)
            )
            return
        inputs = [self.constant(n, rank) if n in constants else self.value(n) for n in node.inputs]
        self.compute_float(
            node, lambda out, act: self.emit(op, inputs, out, _BINARY[node.op], fusedActivationFunction=act, **rest)
        )

    def _add_clip(self, node: Node) -> None:
        source, target, bounds = node.inputs[0], node.output, (node["lo"], node["hi"])
        y = self.form(target)
        if y is None:
            self.clip(target, self.value(source), bounds, own=False)
        elif self.form(source) is None:
            self.quantize(target, self.value(source), bounds)
        else:
            self.clip(target, self.codes(source, y), bounds, own=False)

    def _add_function(self, node: Node) -> None:
        x, shape = self.value(node.inputs[0]), self.shape(node.output)

        def temporary(tag: str) -> int:
            return self.scratch(f"{node.output}@{tag}", shape)

        if node.op in _FLOAT:
            op = _FLOAT[node.op]
            self.compute_float(node, lambda out, _: self.emit(op, [x], out, _OPTIONS.get(op, "")))
        elif node.op == "silu":
            gate = self.emit("LOGISTIC", [x], temporary("sigmoid"))
            self.compute_float(node, lambda out, _: self.emit("MUL", [x, gate], out, "MulOptions"))
        elif node.op == "hard_swish":
            self.compute_float(node, lambda out, _: self.emit("HARD_SWISH", [x], out, "HardSwishOptions"))
        elif node.op == "leaky_relu":
            alpha = float(node["alpha"])
            self.compute_float(node, lambda out, _: self.emit("LEAKY_RELU", [x], out, "LeakyReluOptions", alpha=alpha))
        elif node.op == "hard_sigmoid":
            scaled = self.emit("MUL", [x, self.floats(node["alpha"])], temporary("scaled"), "MulOptions")
            moved = self.emit(
                "ADD", [scaled, self.floats(node["beta"])], temporary("moved"), "AddOptions", fusedActivationFunction=1
            )
            one = self.floats(1.0)
            self.compute_float(node, lambda out, _: self.emit("MINIMUM", [moved, one], out, "MaximumMinimumOptions"))
        elif node.op == "batch_norm":
            self._add_batch_norm(node, x)
        elif node.op == "softmax":
            axis, rank = nhwc_axis(node["axis"], self.rank(node.inputs[0])), self.rank(node.inputs[0])
            if axis != rank - 1:
                raise UsageError(f"node '{node.name}' (softmax): LiteRT has it along channels only")
            self.compute_float(node, lambda out, _: self.emit("SOFTMAX", [x], out, "SoftmaxOptions", beta=1.0))
        else:
            raise UsageError(f"node '{node.name}': LiteRT has no operator for '{node.op}'")

    def _add_batch_norm(self, node: Node, x: int) -> None:
        gamma, beta, mean, variance = (self.graph.constants[name].astype(np.float32) for name in node.inputs[1:])
        factor = gamma / np.sqrt(variance + np.float32(node["epsilon"]))
        raw = self.scratch(f"{node.output}@scaled", self.shape(node.output))
        self.emit("MUL", [x, self.floats(factor)], raw, "MulOptions")
        offset = self.floats(beta - mean * factor)
        self.compute_float(node, lambda out, _: self.emit("ADD", [raw, offset], out, "AddOptions"))
