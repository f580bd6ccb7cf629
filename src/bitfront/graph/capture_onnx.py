"""An ONNX file into a graph: shapes made static, shape arithmetic evaluated, operators translated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bitfront.errors import DataError, OperatorError, one_line
from bitfront.graph.builder import Builder
from bitfront.graph.capture_onnx_file import load
from bitfront.graph.capture_onnx_operators import OPERATORS, Call
from bitfront.graph.ir import Graph

__all__ = ["capture"]

ELEMENTWISE = frozenset(
    ["Add", "Sub", "Mul", "Div", "Pow", "Equal", "Less", "Greater", "And", "Or", "Where", "Mod", "Min", "Max", "Sum"]
)
FOLDABLE = ELEMENTWISE | frozenset(
    [
        "Abs",
        "Cast",
        "CastLike",
        "Ceil",
        "Concat",
        "ConstantOfShape",
        "Exp",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "Identity",
        "Neg",
        "Not",
        "Range",
        "Reciprocal",
        "ReduceProd",
        "Reshape",
        "Round",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ]
)
"""Operators that are evaluated when all their inputs are known."""
MAX_FOLDED = 2**26
"""Most values that an evaluated tensor may have."""


def capture(source: str | Path | bytes, size: tuple[int, int] | None = None) -> Graph:
    """Return the graph of an ONNX file or its bytes. See ``graph.capture.from_onnx``."""
    model = load(source)
    name = "the ONNX model" if isinstance(source, bytes) else f"'{source}'"
    _refuse_unknown(model, name)
    importer = _Importer(model, name)
    importer.input(size)
    try:
        return importer.graph()
    except RecursionError as error:
        raise DataError(f"{name} is nested too deeply", hint="export it again") from error


def _refuse_unknown(model: ModelProto, name: str) -> None:
    known = {*OPERATORS, *FOLDABLE, "Constant", "Shape", "Size"}
    unknown: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type not in known:
            unknown.setdefault(node.op_type, node.name or node.output[0])
    if unknown:
        quantized = unknown.keys() & {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"}
        ops = ", ".join(f"{op} (at '{where}')" for op, where in sorted(unknown.items()))
        text = f"{name} uses operators that the graph does not know: {ops}"
        if quantized:
            raise DataError(text, hint="the file is quantized already: start from its float model")
        raise OperatorError(text, hint="replace these layers, or let its runtime quantize it (bitfront quantize)")


class _Importer:
    """Walks the nodes; ``values`` maps tensor names of the file to names in the graph or, when known, to arrays."""

    def __init__(self, model: ModelProto, name: str) -> None:
        self.model, self.name = model, name
        self.builder = Builder()
        self.values: dict[str, str | NDArray[Any]] = {}
        self.initializers = {t.name: t for t in model.graph.initializer}
        for key, tensor in self.initializers.items():
            self.values[key] = numpy_helper.to_array(tensor)
        self.outputs = [o.name for o in model.graph.output]
        self.builder.reserve([o for n in model.graph.node for o in n.output])

    def input(self, size: tuple[int, int] | None) -> None:
        """Add the one input with a static shape."""
        inputs = [i for i in self.model.graph.input if i.name not in self.initializers]
        if len(inputs) != 1:
            raise DataError(f"{self.name} has {len(inputs)} inputs", hint="networks with one input image are known")
        kind = inputs[0].type.tensor_type
        if kind.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            raise DataError(f"{self.name}: input '{inputs[0].name}' is not float", hint="export a float model")
        shape = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim]
        self.values[inputs[0].name] = self.builder.input(inputs[0].name, self._static(shape, size))

    def _static(self, shape: list[int], size: tuple[int, int] | None) -> list[int]:
        if len(shape) != 4 or shape[0] > 1 or min(shape) < 0:
            raise DataError(
                f"{self.name}: its input {shape} is not one image (1, c, h, w)", hint="export it with batch 1"
            )
        if shape[1] == 0:
            raise DataError(f"{self.name} leaves its number of channels open", hint="export it with fixed channels")
        fixed = tuple(shape[2:])
        if size is None and 0 in fixed:
            raise DataError(f"{self.name} leaves its input size open", hint="give the size: height and width")
        for asked, has in zip(size or fixed, fixed, strict=True):
            if has not in (0, asked):
                raise DataError(
                    f"{self.name} works at {fixed[0]}x{fixed[1]} only, not at {'x'.join(map(str, size or ()))}",
                    hint="export it with free height and width",
                )
        return [1, shape[1], *(size or fixed)]

    def graph(self) -> Graph:
        """Import every node and return the graph."""
        for node in self.model.graph.node:
            try:
                self._add(node)
            except DataError:
                raise
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                reason = one_line(f"{type(error).__name__} {error}")[:160]
                raise self._refusal(node, f"cannot be read ({reason})") from error
        names = []
        for name in self.outputs:
            value = self.values.get(name)
            if not isinstance(value, str):
                raise DataError(f"{self.name}: output '{name}' is not computed from the input", hint="export it again")
            names.append(value)
        return self.builder.build(names)

    def _refusal(self, node: NodeProto, why: str) -> OperatorError:
        where = node.name or (node.output[0] if node.output else "")
        return OperatorError(f"{self.name}: node '{where}' ({node.op_type}) {why}", hint="replace this layer")

    def _add(self, node: NodeProto) -> None:
        known = [self.values[name] for name in node.input if name]
        if node.op_type in ("Shape", "Size"):
            self._measure(node)
        elif node.op_type == "Constant" or all(isinstance(v, np.ndarray) for v in known):
            self._fold(node)
        elif node.op_type in OPERATORS:
            results = OPERATORS[node.op_type](Call(self.builder, self.values, node, self.outputs, self.initializers))
            outputs = [o for o in node.output if o]
            self.values.update(zip(outputs, [results] if isinstance(results, str) else results, strict=True))
        else:
            raise self._refusal(node, "works on computed values")

    def _measure(self, node: NodeProto) -> None:
        value = self.values[node.input[0]]
        shape = value.shape if isinstance(value, np.ndarray) else self.builder.shape(value)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        part = shape[attributes.get("start", 0) : attributes.get("end", len(shape))]
        self.values[node.output[0]] = np.array(part if node.op_type == "Shape" else math.prod(shape), np.int64)

    def _fold(self, node: NodeProto) -> None:
        """Evaluate a node whose inputs are all known."""
        if node.op_type not in FOLDABLE and node.op_type != "Constant":
            raise self._refusal(node, "works on constants only")
        names = list(dict.fromkeys(name for name in node.input if name))
        feeds: dict[str, NDArray[Any]] = {n: v for n in names if isinstance(v := self.values[n], np.ndarray)}
        if _folded_size(node, [feeds[n] for n in node.input if n]) > MAX_FOLDED:
            raise self._refusal(node, "makes a constant that is too large")
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in feeds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "constant", inputs, outputs)
        opsets = [o for o in self.model.opset_import if o.domain in ("", "ai.onnx")]
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets))
        for output, value in zip(outputs, evaluator.run(None, feeds), strict=True):
            self.values[output.name] = np.asarray(value)


def _folded_size(node: NodeProto, inputs: Sequence[NDArray[Any]]) -> int:
    """About how many values an evaluated node makes."""
    if node.op_type == "ConstantOfShape":
        return math.prod(int(n) for n in inputs[0])
    if node.op_type == "Expand":
        return math.prod(np.broadcast_shapes(inputs[0].shape, tuple(int(n) for n in inputs[1])))
    if node.op_type == "Range":
        start, stop, step = (float(v) for v in inputs)
        return int(max(0.0, (stop - start) / step)) if step else MAX_FOLDED + 1
    if node.op_type in ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(v.shape for v in inputs)))
    if node.op_type == "Gather":
        return inputs[0].size * max(1, inputs[1].size)
    return sum(v.size for v in inputs)
