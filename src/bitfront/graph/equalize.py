"""Cross-layer equalization: give the channels between two layers equal weight ranges, without changing the network.

Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1.
Layers ``y = f(W1 x + b1)`` and ``W2 y`` compute the same as ``W1 / s``, ``b1 / s`` and ``W2 s``, per channel of ``y``,
for any ``s > 0`` when ``f(s y) = s f(y)``. With ``s_i = sqrt(r1_i / r2_i)``, where r is the largest absolute weight of
the channel in each layer, both become ``sqrt(r1_i r2_i)``: one scale for a whole tensor then wastes the fewest codes.

A finite upper clip (ReLU6) is not homogeneous, and a clip per channel is no operator of the graph: such links are left
alone, as are tensors with a reader that is neither a convolution nor a dense layer (residual sums, concatenations),
and layers that share a weight.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Graph, Node

__all__ = ["Link", "equalize", "links"]

LIMIT = 2.0**8
"""A channel is scaled by no more than this: one with hardly any weights has no range to balance, but it may have a
bias, which grows by the same factor."""
MAX_SWEEPS = 100
CONVERGED = 1e-4
"""Largest change of a logarithmic scale in the last sweep."""

_PER_CHANNEL = frozenset(["average_pool", "max_pool", "global_average_pool", "resize", "leaky_relu", "identity"])
"""Operators that commute with a positive scale per channel."""


@dataclass(frozen=True, slots=True)
class Link:
    """A layer and the layers that alone read its channels."""

    source: Node
    targets: tuple[Node, ...]


def links(graph: Graph) -> tuple[Link, ...]:
    """Return the links of a prepared graph that can be equalized, in execution order."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    uses = Counter(name for node in graph.nodes for name in node.inputs if name in graph.constants)
    found = []
    for node in graph.nodes:
        if _owns_weights(node, graph, uses) and _homogeneous(node.attributes.get("clip")):
            targets = _targets(node.output, readers, graph)
            if targets and all(_owns_weights(t, graph, uses) for t in targets):
                found.append(Link(node, tuple(targets)))
    return tuple(found)


def equalize(graph: Graph) -> Graph:
    """Return a graph that computes the same, with equal weight ranges on both sides of every link.

    ``graph`` has its BatchNorm folded. Sweeps over all links until no scale changes.
    """
    chain = links(graph)
    names = {n for link in chain for node in (link.source, *link.targets) for n in node.inputs[1:]}
    weights = {n: graph.constants[n].astype(np.float64) for n in names}
    totals = [np.ones(graph.constants[link.source.inputs[1]].shape[0]) for link in chain]
    for _ in range(MAX_SWEEPS):
        change = max((_balance(link, weights, total) for link, total in zip(chain, totals, strict=True)), default=0.0)
        if change < CONVERGED:
            break
    return graph.with_constants({n: w.astype(np.float32) for n, w in weights.items()})


def _targets(tensor: str, readers: Mapping[str, list[Node]], graph: Graph) -> list[Node]:
    """Return the layers that read ``tensor``, through operators that let a scale pass; empty if anything else does."""
    if tensor in graph.outputs:
        return []
    found: list[Node] = []
    for node in readers.get(tensor, []):
        if node.op in ("conv", "dense") and tensor == node.inputs[0]:
            found.append(node)
            continue
        passes = node.op in _PER_CHANNEL or (node.op == "clip" and _homogeneous((node["lo"], node["hi"])))
        further = _targets(node.output, readers, graph) if passes else []
        if not further:
            return []
        found += further
    return found


def _homogeneous(clip: Any) -> bool:
    return clip is None or (clip[0] in (0, -math.inf) and clip[1] == math.inf)


def _owns_weights(node: Node, graph: Graph, uses: Counter[str]) -> bool:
    return node.op in ("conv", "dense") and all(n in graph.constants and uses[n] == 1 for n in node.inputs[1:])


def _balance(link: Link, weights: dict[str, NDArray[np.float64]], total: NDArray[np.float64]) -> float:
    """Equalize one link in place; return the largest absolute log scale. ``total``: product of its scales so far."""
    source = link.source
    first = np.abs(_rows(weights[source.inputs[1]])).max(1)
    second = np.max([np.abs(_columns(t, weights[t.inputs[1]])).max((1, 3)).ravel() for t in link.targets], axis=0)
    alive = (first > 0) & (second > 0)
    scale = np.sqrt(np.where(alive, first, 1.0) / np.where(alive, second, 1.0))
    scale = np.clip(total * scale, 1 / LIMIT, LIMIT) / total
    total *= scale
    for name in source.inputs[1:]:
        weights[name] /= scale.reshape(-1, *[1] * (weights[name].ndim - 1))
    for target in link.targets:
        columns = _columns(target, weights[target.inputs[1]])
        columns *= scale.reshape(columns.shape[0], 1, -1, 1)  # a view: changes the weight itself
    return float(np.abs(np.log(scale)).max())


def _rows(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """View a weight as (output channels, the rest)."""
    return weight.reshape(weight.shape[0], -1)


def _columns(node: Node, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """View a weight as (groups, output channels of a group, input channels of a group, kernel)."""
    groups = int(node.attributes.get("groups", 1))
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
