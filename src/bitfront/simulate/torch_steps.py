"""Plan -> one torch function per node, each made once per combination of formats."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitfront.graph.ir import Graph, Node
from bitfront.quant.formats import Affine, Format, Qmn, integer
from bitfront.quant.plan import Plan
from bitfront.simulate import fixed_point, quantized, reference, torch_codes
from bitfront.simulate.cache import Cache
from bitfront.simulate.fused import FUSED
from bitfront.simulate.torch_linear import Linear

__all__ = ["Steps", "Variants"]

Variants = Mapping[tuple[str, Format], NDArray[np.float32]]
CACHE_BYTES = 256 << 20
SMALL_STEP = 1 << 10
"""Bytes charged for a step without weights."""


class Steps:
    """The functions of a graph's nodes, from held activations to the held output."""

    def __init__(self, graph: Graph, device: torch.device, variants: Variants | None = None) -> None:
        """Make ready. ``variants``: (weight or bias, format of its layer's weight) -> the values it then has."""
        self.graph, self.device = graph, device
        self.variants = variants or {}
        self.n_built = 0
        self._weights: Cache[NDArray[np.int32]] = Cache(CACHE_BYTES)
        self._steps: Cache[torch_codes.Step] = Cache(CACHE_BYTES)
        self._ids: dict[Hashable, int] = {}

    def of(self, plan: Plan) -> tuple[list[torch_codes.Step], list[int]]:
        """Return the step of every node, and for the input and every node a number that stands for its formats."""
        rule = fixed_point.rounding_of(plan)
        steps, numbers = [], [self._number(("input", *(plan.formats.get(name) for name in self.graph.inputs)))]
        for i, node in enumerate(self.graph.nodes):
            key = (i, rule, *(plan.formats.get(name) for name in (*node.inputs, node.output)))
            step = self._steps.get(key)
            if step is None:
                step = self._build(self._graph_of(node, plan), node, plan, rule)
                self.n_built += 1
                self._steps.put(key, step, step.n_bytes if isinstance(step, Linear) else SMALL_STEP)
            steps.append(step)
            numbers.append(self._number(key))
        return steps, numbers

    def _number(self, key: Hashable) -> int:
        return self._ids.setdefault(key, len(self._ids))

    def _graph_of(self, node: Node, plan: Plan) -> Graph:
        """Return the graph with the constants that the node has under the plan."""
        form = plan.formats.get(node.inputs[1]) if len(node.inputs) == 3 else None
        changed = {name: self.variants[name, form] for name in node.inputs if form and (name, form) in self.variants}
        return self.graph.with_constants(changed) if changed else self.graph

    def _build(self, graph: Graph, node: Node, plan: Plan, rule: str) -> torch_codes.Step:
        """Return the step of a node: held activations in, held output out."""
        forms = [plan.formats.get(name) for name in node.inputs]
        y = plan.formats.get(node.output)
        if node.op in ("conv", "dense") and all(integer(form) is not None for form in (*forms[:2], y)):
            return self._linear(graph, node, plan, rule)
        step = self._codes_step(node, plan, rule)
        constants = {k: graph.constants[name] for k, name in enumerate(node.inputs) if name in graph.constants}
        if step is not None:
            return _bound(
                step, {k: self._constant(v, plan.formats.get(node.inputs[k])) for k, v in constants.items()}, len(forms)
            )
        step = (
            None
            if _is_fused(node, plan)
            else torch_codes.value_step(node, [None if k in constants else form for k, form in enumerate(forms)], y)
        )
        if step is None:
            return self._numpy_step(graph, node, plan)
        values = {k: self._value(v, plan.formats.get(node.inputs[k])) for k, v in constants.items()}
        return _bound(step, values, len(forms))

    def _codes_step(self, node: Node, plan: Plan, rule: str) -> torch_codes.Step | None:
        """Return a step that works on codes, if there is one; in the order in which the reference chooses."""
        forms, y = [plan.formats.get(name) for name in node.inputs], plan.formats.get(node.output)
        if reference.moves(plan, node) and forms[0] is not None:
            return torch_codes.move_step(node, forms[0])
        if fixed_point.applies(node.op, [*forms, y]):
            *xs, target = (form for form in (*forms, y) if isinstance(form, Qmn))
            return torch_codes.fixed_step(node, xs, target, rule, self.graph.tensors[node.inputs[0]].shape)
        known, out = [form for form in map(integer, forms) if form is not None], integer(y)
        if out is not None and len(known) == len(forms) and quantized.applies(node.op, [*known, out]):
            return torch_codes.kernel_step(node, known, out)
        if y is None or len(known) != 1 or len(forms) != 1:
            return None
        table = torch_codes.elementwise_table(node, known[0], y)
        return None if table is None else torch_codes.table_step(table, known[0], self.device)

    def _linear(self, graph: Graph, node: Node, plan: Plan, rule: str) -> torch_codes.Step:
        x, w, y = (_affine(plan, name) for name in (*node.inputs[:2], node.output))
        low, high = (y.low, y.high) if node["clip"] is None else y.encode(np.asarray(node["clip"], np.float32)).tolist()
        fixed = reference.is_fixed_point(plan, node)
        product = np.float32(x.scale[0]) * np.asarray(w.scale, np.float32)
        return Linear.prepare(
            node,
            self._codes(graph, node.inputs[1], w),
            reference.bias_codes(graph, plan, node),
            multiplier=product / np.float32(y.scale[0]),
            reach=max(x.high - x.zero_point[0], x.zero_point[0] - x.low),
            bounds=(low - y.zero_point[0], high - y.zero_point[0]),
            fixed=fixed,
            rule=rule if fixed else "half_even",
            device=self.device,
        )

    def _codes(self, graph: Graph, name: str, form: Affine) -> NDArray[np.int64]:
        """Centred codes of a weight."""
        found = self._weights.get((name, form))
        if found is None:
            value = graph.constants[name]
            found = (form.encode(value) - form.parameters(value.ndim)[1]).astype(np.int32)
            self._weights.put((name, form), found, found.nbytes)
        return found.astype(np.int64)

    def _constant(self, value: NDArray[Any], form: Format | None) -> Tensor:
        """A constant as its format holds it."""
        return torch_codes.encode(torch.from_numpy(np.array(value, np.float32)).to(self.device), form)

    def _value(self, value: NDArray[Any], form: Format | None) -> Tensor:
        """The values of a constant after its format."""
        if form is not None:
            value = form.decode(form.encode(value))  # type: ignore[arg-type]
        tensor = torch.from_numpy(np.array(value, np.float32)).to(self.device)
        return tensor.contiguous(memory_format=torch.channels_last if tensor.ndim == 4 else torch.contiguous_format)

    def _numpy_step(self, graph: Graph, node: Node, plan: Plan) -> torch_codes.Step:
        """The reference itself, for what torch does not compute to the same bits."""
        names = [name for name in node.inputs if name not in graph.constants]

        def step(*held: Tensor) -> Tensor:
            codes = {n: torch_codes.codes(x, plan.formats.get(n)) for n, x in zip(names, held, strict=True)}
            return torch_codes.hold(reference.step(graph, plan, node, codes), plan.formats.get(node.output)).to(
                self.device
            )

        return step


def _bound(step: torch_codes.Step, constants: Mapping[int, Tensor], n: int) -> torch_codes.Step:
    """Fill in the constant inputs of a step."""
    if not constants:
        return step

    def bound(*held: Tensor) -> Tensor:
        rest = iter(held)
        return step(*(constants[k] if k in constants else next(rest) for k in range(n)))

    return bound


def _is_fused(node: Node, plan: Plan) -> bool:
    forms = [integer(plan.formats.get(name)) for name in (*node.inputs, node.output)]
    return node.op in FUSED and all(form is not None and form.bits <= 8 for form in forms)


def _affine(plan: Plan, name: str) -> Affine:
    form = integer(plan.formats[name])
    assert form is not None
    return form
