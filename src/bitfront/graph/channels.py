"""Which channels of a graph must be scaled together: a positive scale per channel, followed through the operators."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Graph, Node

__all__ = ["Channels", "Ids", "Sets"]

FIXED = 0
"""The channel that all channels without a scale of their own are tied to."""

_KEEPING = frozenset(
    ["average_pool", "max_pool", "global_average_pool", "resize", "leaky_relu", "identity", "neg", "clip"]
)
"""Operators on one map whose output channels have the scales of its input channels (clips: see the class)."""

Ids = NDArray[np.int64]


class Channels:
    """The channels (axis 1) of every activation, joined where an operator asks for equal scales.

    Layers begin new channels; operators that no scale passes fix the channels that they read and make, and so do the
    ends of the graph. Every clip counts as passing: :meth:`fix` or :meth:`bound` those that do not.
    """

    def __init__(self, graph: Graph) -> None:
        """Follow the channels through ``graph``."""
        self.graph = graph
        self._sets = Sets(1)
        self._floors: dict[int, float] = {}
        self._ids = {name: self._fixed(name) for name in graph.inputs}
        for node in graph.nodes:
            self._ids[node.output] = self._through(node)
        for name in graph.outputs:
            self.fix(name)

    def fix(self, tensor: str) -> None:
        """Let no channel of a tensor be scaled."""
        for i in self._ids[tensor].tolist():
            self._sets.join(i, FIXED)

    def bound(self, tensor: str, floors: NDArray[np.float64]) -> None:
        """Let the channels of a tensor be scaled by no less than ``floors`` ``(c,)``; those above 1 not at all."""
        for i, floor in zip(self._ids[tensor].tolist(), floors.tolist(), strict=True):
            if floor > 1:
                self._sets.join(i, FIXED)
            else:
                self._floors[i] = max(floor, self._floors.get(i, 0.0))

    def components(self) -> list[tuple[str, ...]]:
        """Return the tensors in sets that have free channels in common, in execution order."""
        tensors, first, sets = list(self._ids), dict[int, int](), Sets(len(self._ids))
        free = [self._roots(name) - {FIXED} for name in tensors]
        for i, roots in enumerate(free):
            for root in roots:
                sets.join(i, first.setdefault(root, i))
        members: dict[int, list[str]] = {}
        for i, name in enumerate(tensors):
            if free[i]:
                members.setdefault(sets.root(i), []).append(name)
        return [tuple(names) for names in members.values()]

    def scales(self, tensors: Iterable[str]) -> tuple[dict[str, Ids], NDArray[np.float64]]:
        """Return for each tensor the number ``(c,)`` of each channel's scale, and the floor of each; NaN: fixed."""
        roots = {name: [self._sets.root(i) for i in self._ids[name].tolist()] for name in tensors}
        distinct = np.unique(np.concatenate(list(roots.values())))
        floors = np.where(distinct == FIXED, np.nan, 0.0)
        for i, floor in self._floors.items():
            at = np.flatnonzero(distinct == self._sets.root(i))
            floors[at] = np.maximum(floors[at], floor)  # NaN stays
        return {name: np.searchsorted(distinct, r) for name, r in roots.items()}, floors

    # --- operators ---------------------------------------------------------------------------------------------------
    def _through(self, node: Node) -> Ids:
        """Return the channels of a node's output."""
        maps = [name for name in node.inputs if name in self._ids]
        if node.op in ("conv", "dense") and maps == [node.inputs[0]]:
            return self._sets.more(self._n_channels(node.output))
        found = self._passed(node, maps) if len(maps) == len(node.inputs) else self._with_constant(node, maps)
        if found is not None:
            return found
        for name in maps:
            self.fix(name)
        return self._fixed(node.output)

    def _passed(self, node: Node, maps: list[str]) -> Ids | None:
        """Return the channels of the output if scales pass the node, joining those that it forces to be equal."""
        ids, axis = self._ids[maps[0]], node.attributes.get("axis")
        match node.op:
            case "pad":
                return ids if node["value"] == 0 else None
            case "reduce_mean":
                return ids if all(a > 1 for a in node["axes"]) else None
            case "transpose":
                return ids if list(node["perm"][:2]) == [0, 1] else None
            case "slice":
                return ids[slice(node["start"], node["stop"], node["step"])] if axis == 1 else ids
            case "reshape":
                return self._reshaped(node)
            case "concat" if axis == 1:
                return np.concatenate([self._ids[name] for name in maps])
            case "add" | "sub" | "concat":
                return self._joined(maps)
        return ids if node.op in _KEEPING else None

    def _with_constant(self, node: Node, maps: list[str]) -> Ids | None:
        """Products with a constant, and quotients by one, let scales pass; sums with one do not."""
        linear = node.op == "mul" or (node.op == "div" and node.inputs[0] in self._ids)
        if not linear or not maps or self._axes(maps[0]) != self._axes(node.output):
            return None
        ids = self._ids[maps[0]]
        return ids if ids.size == self._n_channels(node.output) else None

    def _reshaped(self, node: Node) -> Ids | None:
        """Join the channels whose elements end up in one output channel."""
        if self._axes(node.output) < 2:
            return None
        n_elements = math.prod(self.graph.tensors[node.inputs[0]].shape[2:])
        elements = np.repeat(self._ids[node.inputs[0]], n_elements).reshape(self._n_channels(node.output), -1)
        pairs = np.stack([np.broadcast_to(elements[:, :1], elements.shape), elements], axis=-1)
        for a, b in np.unique(pairs.reshape(-1, 2), axis=0).tolist():
            self._sets.join(a, b)
        return elements[:, 0].copy()

    def _joined(self, maps: list[str]) -> Ids | None:
        first, *rest = (self._ids[name] for name in maps)
        if any(other.size != first.size for other in rest) or len({self._axes(name) for name in maps}) > 1:
            return None
        for other in rest:
            for a, b in zip(first.tolist(), other.tolist(), strict=True):
                self._sets.join(a, b)
        return first

    def _axes(self, tensor: str) -> int:
        return len(self.graph.tensors[tensor].shape)

    def _n_channels(self, tensor: str) -> int:
        shape = self.graph.tensors[tensor].shape
        return shape[1] if len(shape) > 1 else 1

    def _fixed(self, tensor: str) -> Ids:
        return np.full(self._n_channels(tensor), FIXED, np.int64)

    def _roots(self, tensor: str) -> set[int]:
        return {self._sets.root(i) for i in self._ids[tensor].tolist()}


class Sets:
    """Disjoint sets of the numbers 0..n-1; the smallest of a set stands for it."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def more(self, n: int) -> Ids:
        """Add ``n`` numbers, each a set of its own."""
        first = len(self._parent)
        self._parent += range(first, first + n)
        return np.arange(first, first + n)

    def root(self, i: int) -> int:
        """Return the number that stands for the set of ``i``."""
        while self._parent[i] != i:
            self._parent[i] = i = self._parent[self._parent[i]]
        return i

    def join(self, a: int, b: int) -> None:
        """Make one of two sets."""
        a, b = self.root(a), self.root(b)
        self._parent[max(a, b)] = min(a, b)
