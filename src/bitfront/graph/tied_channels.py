"""Which channels of a graph can be removed, and which must go together.

Every map has one axis of channels; each channel has the number of a set. Layers begin new sets; residual sums and
products of maps join the sets of their operands, concatenations put theirs one behind the other, depthwise
convolutions pass them on, grouped ones join the same place of every group, flattening repeats them. Operators whose
answer for one channel depends on others (softmax over channels, means over channels, shapes that mix channels) keep
what they read, and so do inputs and outputs of the graph. The dependency graph of Fang et al. 2023, "DepGraph: towards
any structural pruning", section 3.2, kept per channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.channels import FIXED, Ids, Sets
from bitfront.graph.ir import Graph, Node

__all__ = ["TiedChannels"]

_WINDOWS = frozenset(["max_pool", "average_pool", "global_average_pool", "resize", "pad"])
"""Operators on each map of (n, c, h, w) by itself."""
_ELEMENTWISE = frozenset(
    ["clip", "leaky_relu", "sigmoid", "tanh", "exp", "silu", "hard_swish", "sqrt", "neg", "hard_sigmoid", "identity"]
)
_BINARY = frozenset(["add", "sub", "mul", "div"])


class TiedChannels:
    """The sets of channels of a prepared graph.

    ``made``: for every layer that begins channels the set of each. ``cuts``: for every constant, axis by axis, the set
    that each slice belongs to. Set 0 stays; numbers are only comparable through :meth:`roots`.
    """

    def __init__(self, graph: Graph) -> None:
        """Follow the channels through ``graph``."""
        self.graph = graph
        self.made: list[Ids] = []
        self.cuts: dict[str, dict[int, Ids]] = {}
        self._sets = Sets(1)
        self._at = {name: self._fixed(name) for name in (*graph.inputs, *graph.constants)}
        for node in graph.nodes:
            self._at[node.output] = self._through(node)
        for name in graph.outputs:
            self._fix(name)

    def roots(self, ids: Ids) -> Ids:
        """Return the set of each channel; 0 of those that stay."""
        found = {i: self._sets.root(i) for i in set(ids.tolist())}
        return np.array([found[i] for i in ids.tolist()], np.int64)

    def tensors(self) -> dict[str, Ids]:
        """Return the sets of the channels of every map that has some that can go."""
        found = {name: self.roots(ids) for name, (_, ids) in self._at.items() if name not in self.graph.constants}
        return {name: roots for name, roots in found.items() if roots.any()}

    def left(self, removed: Iterable[int]) -> dict[str, Ids]:
        """Return which channels of every map stay when some sets are removed."""
        gone = np.fromiter(removed, np.int64)
        return {name: np.flatnonzero(~np.isin(roots, gone)) for name, roots in self.tensors().items()}

    def without(self, removed: Iterable[int]) -> Graph:
        """Return the graph without the channels of some sets. Raises ValueError where a map would have none left."""
        gone = np.fromiter(removed, np.int64)
        cut = _Cut(self, lambda ids: ~np.isin(self.roots(ids), gone))
        return cut.graph()

    def zeroed(self, removed: Iterable[int]) -> Graph:
        """Return the graph of the same size with the weights and biases of some sets' channels set to zero."""
        gone = np.fromiter(removed, np.int64)
        values: dict[str, NDArray[Any]] = {}
        for name, axes in self.cuts.items():
            if self.graph.tensors[name].kind not in ("weight", "bias"):
                continue
            value = self.graph.constants[name].copy()
            for axis, ids in axes.items():
                np.moveaxis(value, axis, 0)[np.isin(self.roots(ids), gone)] = 0
            values[name] = value
        return self.graph.with_constants(values)

    # --- sets --------------------------------------------------------------------------------------------------------
    def _shape(self, tensor: str) -> tuple[int, ...]:
        return self.graph.tensors[tensor].shape

    def _fixed(self, tensor: str) -> tuple[int, Ids]:
        shape = self._shape(tensor)
        axis = 1 if len(shape) > 1 else 0
        return axis, np.full(shape[axis] if shape else 1, FIXED, np.int64)

    def _is_free(self, tensor: str) -> bool:
        return bool(self.roots(self._at[tensor][1]).any())

    def _join(self, a: Ids, b: Ids) -> None:
        for i, j in zip(a.tolist(), b.tolist(), strict=True):
            self._sets.join(i, j)

    def _fix(self, tensor: str) -> None:
        for i in self._at[tensor][1].tolist():
            self._sets.join(i, FIXED)

    def _on(self, tensor: str, axis: int) -> Ids:
        """Return the channels of a map along an axis; where it has them along another they stay."""
        own, ids = self._at[tensor]
        if own == axis and tensor not in self.graph.constants:
            return ids
        self._fix(tensor)
        return np.full(self._shape(tensor)[axis], FIXED, np.int64)

    def _tie(self, tensor: str, axis: int, ids: Ids) -> None:
        """Let the slices of a map or a constant along an axis belong to ``ids``."""
        if tensor not in self.graph.constants:
            self._join(self._on(tensor, axis), ids)
        elif axis in self.cuts.setdefault(tensor, {}):
            self._join(self.cuts[tensor][axis], ids)  # read by several nodes
        else:
            self.cuts[tensor][axis] = ids

    def _kept(self, node: Node) -> tuple[int, Ids]:
        """Channels stay, of what a node reads and of what it makes."""
        for name in node.inputs:
            self._fix(name)
        return self._fixed(node.output)

    # --- operators ---------------------------------------------------------------------------------------------------
    def _through(self, node: Node) -> tuple[int, Ids]:
        """Return the axis and the sets of a node's output."""
        constants = self.graph.constants
        x = node.inputs[0]
        if node.op in _BINARY:
            return self._broadcast(node)
        if node.op == "concat":
            return self._concatenated(node)
        if x in constants or any(name not in constants for name in node.inputs[1:]):
            return self._kept(node)
        if node.op in ("conv", "dense"):
            return 1, self._layer(node)
        if node.op == "batch_norm":
            ids = self._on(x, 1)
            for name in node.inputs[1:]:
                self._tie(name, 0, ids)
            return 1, ids
        if node.op in _WINDOWS:
            return 1, self._on(x, 1)
        return self._moved(node)

    def _moved(self, node: Node) -> tuple[int, Ids]:
        """Operators on one map of any shape."""
        axis, ids = self._at[node.inputs[0]]
        match node.op:
            case op if op in _ELEMENTWISE:
                return axis, ids
            case "softmax" if node["axis"] != axis:
                return axis, ids
            case "transpose":
                return list(node["perm"]).index(axis), ids
            case "slice" if node["axis"] != axis:
                return axis, ids
            case "slice" if node["step"] == 1:
                return axis, ids[node["start"] : node["stop"]]
            case "reduce_mean" if axis not in node["axes"]:
                return axis if node["keepdims"] else axis - sum(a < axis for a in node["axes"]), ids
            case "reshape":
                return self._reshaped(node, axis, ids) or self._kept(node)
        return self._kept(node)

    def _layer(self, node: Node) -> Ids:
        """Return the sets that a convolution or dense layer makes or, depthwise, passes on."""
        n_groups, weight = int(node.attributes.get("groups", 1)), node.inputs[1]
        n_out, n_in = self._shape(weight)[:2]
        ids = self._on(node.inputs[0], 1)
        if n_groups > 1 and n_in == 1:
            made = np.repeat(ids, n_out // n_groups)
            self._tie(weight, 0, made)
        else:
            made = self._sets.more(n_out)
            for groups in (ids.reshape(n_groups, -1), made.reshape(n_groups, -1)):
                for other in groups[1:]:
                    self._join(groups[0], other)
            self._tie(weight, 0, made)
            self._tie(weight, 1, ids.reshape(n_groups, -1)[0])
            self.made.append(made)
        for bias in node.inputs[2:]:
            self._tie(bias, 0, made)
        return made

    def _broadcast(self, node: Node) -> tuple[int, Ids]:
        """Sums and products: operands of full size have the same sets."""
        out = self._shape(node.output)
        behind = {name: len(out) - len(self._shape(name)) for name in node.inputs}
        free = [name for name in node.inputs if name not in self.graph.constants and self._is_free(name)]
        axes = {self._at[name][0] + behind[name] for name in free}
        full = [name for name in free if self._at[name][1].size == out[self._at[name][0] + behind[name]]]
        if len(axes) != 1 or not full:
            return self._kept(node)
        axis, ids = axes.pop(), self._at[full[0]][1]
        for name in node.inputs:
            own = axis - behind[name]
            if own >= 0 and self._shape(name)[own] == ids.size:
                self._tie(name, own, ids)
            elif name not in self.graph.constants:
                self._fix(name)
        return axis, ids

    def _concatenated(self, node: Node) -> tuple[int, Ids]:
        along = node["axis"]
        maps = [name for name in node.inputs if name not in self.graph.constants and self._is_free(name)]
        axes = {self._at[name][0] for name in maps}
        if along in axes:
            return along, np.concatenate([self._on(name, along) for name in node.inputs])
        if len(axes) != 1:
            return self._kept(node)
        axis = axes.pop()
        ids = self._at[maps[0]][1]
        for name in node.inputs:
            self._tie(name, axis, ids)
        return axis, ids

    def _reshaped(self, node: Node, axis: int, ids: Ids) -> tuple[int, Ids] | None:
        """Channels that keep an axis, are flattened into one, or are split in two."""
        before, after = self._shape(node.inputs[0]), self._shape(node.output)
        outer = math.prod(before[:axis])
        for b, size in enumerate(after):
            above = math.prod(after[:b])
            if b and size == ids.size and above == outer:
                return b, ids
            if b and outer % above == 0 and size % (outer // above * ids.size) == 0:
                return b, np.tile(np.repeat(ids, size * above // (outer * ids.size)), outer // above)
        return self._split(after, outer, ids)

    def _split(self, after: tuple[int, ...], outer: int, ids: Ids) -> tuple[int, Ids] | None:
        """Channels split into (a, b): as many of every a stay, or of every b, of which there are more."""
        for b in range(1, len(after) - 1):
            if math.prod(after[:b]) == outer and after[b] * after[b + 1] == ids.size:
                table = ids.reshape(after[b], after[b + 1])
                table = table if after[b + 1] >= after[b] else table.T
                for other in table[1:]:
                    self._join(table[0], other)
                return (b + 1 if after[b + 1] >= after[b] else b), table[0]
        return None


class _Cut:
    """A graph without the channels that ``keeps`` does not keep."""

    def __init__(self, tied: TiedChannels, keeps: Callable[[Ids], NDArray[np.bool_]]) -> None:
        self.source, self._keeps = tied.graph, keeps
        self._masks = {
            name: (axis, keeps(ids)) for name, (axis, ids) in tied._at.items() if name not in tied.graph.constants
        }
        self._cuts = tied.cuts

    def graph(self) -> Graph:
        constants = {name: self._constant(name) for name in self.source.constants}
        shapes = {name: value.shape for name, value in constants.items()}
        for name, (axis, mask) in self._masks.items():
            if not mask.any():
                raise ValueError(f"tensor '{name}' would have no channels left")
            shape = list(self.source.tensors[name].shape)
            if shape:
                shape[axis] = int(mask.sum())
            shapes[name] = tuple(shape)
        tensors = {name: replace(t, shape=shapes.get(name, t.shape)) for name, t in self.source.tensors.items()}
        nodes = tuple(self._node(node, shapes) for node in self.source.nodes)
        return Graph(nodes, tensors, constants, self.source.inputs, self.source.outputs)

    def _constant(self, name: str) -> NDArray[Any]:
        value = self.source.constants[name]
        for axis, ids in self._cuts.get(name, {}).items():
            value = np.compress(self._keeps(ids), value, axis)
        return value

    def _node(self, node: Node, shapes: Mapping[str, tuple[int, ...]]) -> Node:
        changed: dict[str, Any] = {}
        if node.op == "conv" and node["groups"] > 1 and self.source.tensors[node.inputs[1]].shape[1] == 1:
            changed = {"groups": shapes[node.inputs[0]][1]}
        elif node.op == "reshape":
            changed = {"shape": [node["shape"][0], *shapes[node.output][1:]]}
        elif node.op == "slice":
            axis, mask = self._masks[node.inputs[0]]
            if axis == node["axis"] and not mask.all():
                start = int(mask[: node["start"]].sum())
                changed = {"start": start, "stop": start + shapes[node.output][axis]}
        return replace(node, attributes={**node.attributes, **changed}) if changed else node
