"""A torch module into a graph, through ``torch.export``."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bitfront.errors import DataError, one_line
from bitfront.graph.builder import Builder
from bitfront.graph.capture_torch_operators import OPERATORS, Call, Constant
from bitfront.graph.ir import Graph

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

__all__ = ["capture"]

FRESH = frozenset(["conv2d", "linear", "batch_norm", "add", "sub", "mul", "div", "cat", "upsample_bilinear2d"])
"""Operators whose output shares no memory with their inputs."""


def capture(module: nn.Module, shape: Sequence[int]) -> Graph:
    """Return the graph of a module for inputs of ``shape`` (1, c, h, w). See ``graph.capture.from_module``."""
    if why := getattr(module, "torch_only", ""):
        raise DataError(
            f"{getattr(module, 'name', type(module).__name__)} has no graph: {why}",
            hint="it is trained and evaluated in torch; models of one stage can be exported and quantized",
        )
    importer = _Importer(_export(module, shape), tuple(getattr(module, "training_only", ())))
    importer.refuse_unknown()
    return importer.graph()


def _export(module: nn.Module, shape: Sequence[int]) -> torch.export.ExportedProgram:
    import torch

    modes = {m: m.training for m in module.modules()}
    weight = next(module.parameters(), torch.zeros(0))
    image = torch.zeros(tuple(shape), dtype=weight.dtype, device=weight.device)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(module.eval(), (image,))
            return program if _is_functional(program) else program.run_decompositions({})
    except Exception as error:
        reason = one_line(str(error).strip().split("\n")[0])[:200]
        raise DataError(
            f"torch.export cannot capture {type(module).__name__} at input {tuple(shape)}: {reason}",
            hint="check the input size; the forward method takes one image batch and must not branch on values",
        ) from error
    finally:
        for child, training in modes.items():
            child.training = training


def _is_functional(program: torch.export.ExportedProgram) -> bool:
    """Whether every in-place operator changes a fresh tensor that nothing else reads (making it functional is slow)."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not str(getattr(node.target, "_opname", "")).endswith("_"):
            continue
        source = node.args[0]
        if len(source.users) != 1 or source.op != "call_function" or _op(source) not in FRESH:
            return False
    return True


def _op(node: fx.Node) -> str:
    """Name without overload and without the underscore of in-place: ``aten.conv2d.padding`` -> ``conv2d``."""
    return str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.target))).rstrip("_")


def _path(node: fx.Node) -> str:
    """Return ``features.conv`` for a node of that torch layer, ``features.add`` for one of that module's own code."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    if str(kind).startswith("torch.nn.modules.") and path:
        return str(path)
    return f"{path}.{_op(node)}" if path else _op(node)


class _Importer:
    """Walks an exported program; ``values`` maps its nodes to tensor names, constants or lists of tensor names."""

    def __init__(self, program: torch.export.ExportedProgram, left_out: tuple[str, ...] = ()) -> None:
        self.builder = Builder()
        self.left_out = left_out
        self.program = program
        self.nodes = list(program.graph.nodes)
        self.values: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)

    def _placeholder(self, node: fx.Node) -> str | Constant:
        for spec in self.program.graph_signature.input_specs:
            if spec.arg.name != node.name:
                continue
            if spec.target is None:
                break
            kind = "constant" if spec.kind.name == "PARAMETER" else "buffer"
            state: Mapping[str, Any] = self.program.state_dict
            value = state[spec.target] if spec.target in state else self.program.constants[spec.target]
            return Constant(spec.target, value, kind)
        return self.builder.input("input", tuple(node.meta["val"].shape))

    def refuse_unknown(self) -> None:
        """Raise DataError with all operators that the graph does not know."""
        constant = {n for n, v in self.values.items() if isinstance(v, Constant)}
        unknown: dict[str, str] = {}
        for node in self.nodes:
            if node.op != "call_function" or node.target is operator.getitem or not node.users:
                continue
            if all(n in constant for n in node.all_input_nodes):
                constant.add(node)
            elif _op(node) not in OPERATORS:
                unknown.setdefault(_op(node), _path(node))
        if unknown:
            names = ", ".join(f"{op} (at '{path}')" for op, path in sorted(unknown.items()))
            raise DataError(f"operators that the graph does not know: {names}", hint="replace these layers")

    def graph(self) -> Graph:
        """Import every node and return the graph."""
        outputs: list[str] = []
        for node in self.nodes:
            if node.op == "call_function" and node.users:
                self.values[node] = self._call(node)
            elif node.op == "output":
                outputs = [self.tensor(n) for n in _flat(node.args)]
        for value in self.values.values():  # parameters that nothing uses are counted until they are dropped
            if isinstance(value, Constant) and value.kind == "constant" and not value.name.startswith(self.left_out):
                self.builder.constant(value.name, value.numpy(), value.kind)
        return self.builder.build(list(dict.fromkeys(outputs)))

    def _call(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            source = self.values[node.args[0]]
            return source[node.args[1]] if isinstance(source, list) else source
        if all(isinstance(self.values[n], Constant) for n in node.all_input_nodes):
            return self._fold(node)
        return OPERATORS[_op(node)](Call(self.builder, self.tensor, self.values, node, _path(node)))

    def _fold(self, node: fx.Node) -> Constant:
        from torch import fx

        def real(value: Any) -> Any:
            return self.values[value].value if isinstance(value, fx.Node) else value

        args = [[real(v) for v in a] if isinstance(a, list | tuple) else real(a) for a in node.args]
        return Constant(node.name, node.target(*args, **node.kwargs))

    def tensor(self, node: fx.Node, kind: str = "") -> str:
        """Return the name of a node's tensor; constants are added to the graph on first use."""
        value = self.values[node]
        if isinstance(value, Constant):
            return self.builder.constant(value.name, value.numpy(), kind or value.kind)
        return str(value)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    return [leaf for v in value for leaf in _flat(v)] if isinstance(value, list | tuple) else [value]
