"""Weights for a network, cut from a trained one of its family that expands more or repeats more blocks.

Of every layer the most important output channels stay, and the layers that read them keep the same ones; a block that
is not repeated is left out, which its shortcut allows. The importance of a channel is the size of its BatchNorm factor,
or without one the sum of its weights' sizes.

Sources: Li et al. 2017, "Pruning filters for efficient ConvNets", section 3.1 (sums of sizes); Liu et al. 2017,
"Learning efficient convolutional networks through network slimming", section 3 (BatchNorm factors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Graph, Node

__all__ = ["cut", "is_parent"]

State = Mapping[str, NDArray[Any]]
LARGER = ("expansion", "repeats", "channels")
"""Options in which a parent may have more than its child. Not the width: measured, weights cut from a wider network are
a worse start than fresh ones (``benchmarks/inheritance.py``)."""


def is_parent(parent: Mapping[str, Any], child: Mapping[str, Any]) -> bool:
    """Whether a network has all that another one of its family has, and more, and is a good start for it.

    Parts that are on or off do not count: a child may have one that its parent lacks, and begins it afresh.
    """
    more = [key for key in LARGER if parent.get(key, 0) > child.get(key, 0)]
    others = [k for k, value in {**parent, **child}.items() if k not in more and not isinstance(value, bool)]
    return bool(more) and all(parent.get(k) == child.get(k) for k in others)


def cut(graph: Graph, state: State, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Return the weights of ``shapes`` that can be cut from a parent's.

    Args:
        graph: the parent, captured and not prepared: its constants have the names of ``state``.
        state: the parent's state dict.
        shapes: the child's state dict, key -> shape.

    Returns:
        Key -> array of the child's shape. Keys that the parent does not have, or has with fewer channels, are missing.
    """
    layers = _Layers(graph)
    chosen = {block: layers.chosen(block, shapes) for block in layers.blocks}
    found = {}
    for key, shape in shapes.items():
        if key not in state:
            continue
        value = _grey(state[key], shape) if key in layers.first else state[key]
        for axis, blocks in enumerate(layers.axes.get(key, ())):
            if axis < len(shape) and value.shape[axis] != shape[axis]:
                value = value.take(_positions(blocks, chosen, value.shape[axis], shape[axis]), axis=axis)
        if value.shape == shape:
            found[key] = value
    return found


def _positions(
    blocks: Sequence[_Block] | None, chosen: Mapping[_Block, NDArray[np.int64]], n_parent: int, n_child: int
) -> NDArray[np.int64]:
    """Return which entries of an axis stay: the chosen ones of its blocks, else the leading ones."""
    if blocks is not None and sum(b.n for b in blocks) == n_parent:
        offsets = np.cumsum([0, *(b.n for b in blocks)])
        kept = np.concatenate([chosen[b] + o for b, o in zip(blocks, offsets, strict=False)])
        if kept.size == n_child:
            return kept
    return np.arange(min(n_parent, n_child))


def _grey(value: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Sum the weights of the colours where the child sees luma alone."""
    if value.ndim == len(shape) == 4 and shape[1] == 1:
        summed: NDArray[Any] = value.sum(axis=1, keepdims=True)
        return summed
    return value


@dataclass(eq=False, slots=True)
class _Block:
    """Channels that are kept or cut together, wherever they are read."""

    n: int
    producers: list[str] = field(default_factory=list)
    """Weights with these output channels."""
    importance: NDArray[np.float64] | None = None


class _Layers:
    """Which channels every weight makes and reads."""

    def __init__(self, graph: Graph) -> None:
        self.axes: dict[str, tuple[tuple[_Block, ...] | None, ...]] = {}
        self.first: set[str] = set()
        """Weights that read the input."""
        self._same: dict[_Block, _Block] = {}
        self._graph = graph
        self._maps: dict[str, tuple[_Block, ...] | None] = dict.fromkeys(graph.inputs)
        for node in graph.nodes:
            self._maps[node.output] = self._through(node)
        self.axes = {
            key: tuple(None if blocks is None else tuple(map(self._root, blocks)) for blocks in axes)
            for key, axes in self.axes.items()
        }
        self.blocks = list(dict.fromkeys(b for axes in self.axes.values() for blocks in axes for b in blocks or ()))

    def chosen(self, block: _Block, shapes: Mapping[str, tuple[int, ...]]) -> NDArray[np.int64]:
        """Return the channels of a block that stay, in their order: the most important of them."""
        n = next((shapes[key][0] for key in block.producers if key in shapes), block.n)
        if n >= block.n or block.importance is None:
            return np.arange(block.n)
        return np.sort(np.argsort(-block.importance, kind="stable")[:n])

    def _root(self, block: _Block) -> _Block:
        while block in self._same:
            block = self._same[block]
        return block

    def _join(self, a: _Block, b: _Block) -> None:
        a, b = self._root(a), self._root(b)
        if a is not b and a.n == b.n:
            self._same[b] = a
            a.producers += b.producers
            a.importance = _sum(a.importance, b.importance)

    def _through(self, node: Node) -> tuple[_Block, ...] | None:
        """Note the axes of a node's weights; return the blocks of its output, ``None`` where they are unknown."""
        maps = [name for name in node.inputs if name in self._maps]
        if node.op in ("conv", "dense") and maps == [node.inputs[0]]:
            return self._layer(node)
        blocks = [self._maps[name] for name in maps]
        known = [b for b in blocks if b is not None]
        if len(known) < len(blocks) or not known:
            return None
        if node.op == "concat":
            return tuple(b for part in known for b in part) if node["axis"] == 1 else None
        if node.op in ("reshape", "transpose", "slice", "argmax"):
            return None
        if node.op == "batch_norm":
            self._normed(node, known[0])
        widest = max(known, key=lambda part: sum(b.n for b in part))
        for other in known:
            if [b.n for b in other] == [b.n for b in widest]:
                for a, b in zip(widest, other, strict=True):
                    self._join(a, b)
        return widest

    def _layer(self, node: Node) -> tuple[_Block, ...]:
        key, reads = node.inputs[1], self._maps[node.inputs[0]]
        weight = self._graph.constants[key]
        if node.inputs[0] in self._graph.inputs:
            self.first.add(key)
        if node.op == "conv" and node["groups"] > 1:
            depthwise = reads is not None and weight.shape[:2] == (sum(b.n for b in reads), 1)
            makes = reads if depthwise and reads is not None else (_Block(weight.shape[0], [key]),)
            reads = None
        else:
            makes = (_Block(weight.shape[0], [key]),)
            makes[0].importance = np.abs(weight.astype(np.float64)).reshape(weight.shape[0], -1).sum(axis=1)
            makes[0].importance /= max(makes[0].importance.max(), 1e-12)
        self.axes[key] = (makes, reads)
        for bias in node.inputs[2:]:
            self.axes[bias] = (makes,)
        return makes

    def _normed(self, node: Node, blocks: tuple[_Block, ...]) -> None:
        """A BatchNorm right after its layer says what the layer's channels count for."""
        for name in node.inputs[1:]:
            self.axes[name] = (blocks,)
        producer = self._graph.producer(node.inputs[0])
        if len(blocks) == 1 and producer is not None and producer.inputs[1] in blocks[0].producers:
            sizes = np.abs(self._graph.constants[node.inputs[1]].astype(np.float64))
            blocks[0].importance = sizes / max(float(sizes.max()), 1e-12)


def _sum(a: NDArray[np.float64] | None, b: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    return b if a is None else a if b is None else a + b
