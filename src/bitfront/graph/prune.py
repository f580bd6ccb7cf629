"""Pruning: single weights set to zero, or whole channels removed from the graph.

Channels are removed in the sets of :class:`bitfront.graph.tied_channels.TiedChannels`, so what is left is a smaller
graph that computes what the original computes with the weights of those channels set to zero. Weights that are zero
one by one make no file smaller and no dense engine faster: that is for engines with sparse kernels, and for files that
are compressed afterwards.

Importance: the L1 norm of a channel's weights (Li et al. 2017, "Pruning filters for efficient ConvNets"), relative to
the mean of its layer, averaged over all layers that make or read the channels of a set (the norm of a group in Fang et
al. 2023, "DepGraph").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import UsageError, unknown_name
from bitfront.graph.channels import Ids, Sets
from bitfront.graph.ir import Graph
from bitfront.graph.tied_channels import TiedChannels

__all__ = ["MULTIPLE", "SCOPES", "Pruned", "check_share", "prune_channels", "prune_weights", "zero_share"]

SCOPES = ("layer", "global")
MULTIPLE = 8
"""Engines pad channels to blocks of so many: what lies between two multiples costs as much as the upper one."""
FEWEST = 0.1
"""A global ranking leaves at least this share of every layer's channels."""


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """A graph without some of its channels."""

    graph: Graph
    removed: frozenset[int]
    """Sets of :class:`TiedChannels` of the graph before."""
    left: Mapping[str, Ids]
    """Tensor -> the channels of the graph before that it still has; all, where a tensor is not named."""
    n_removed: int
    """Output channels of layers that are gone."""
    n_channels: int
    """Output channels of all layers before, those included that have to stay."""


def check_share(share: float) -> None:
    """Raise UsageError for a share that cannot be pruned."""
    if not 0 <= share < 1:
        raise UsageError(f"a share of {share:g} cannot be pruned", hint="a number from 0 to below 1, e.g. 0.3")


def prune_channels(graph: Graph, share: float, scope: str = "global", multiple: int = MULTIPLE) -> Pruned:
    """Remove the least important channels of a prepared graph.

    Args:
        graph: one whose BatchNorm is folded.
        share: of the channels, in [0, 1): of every group of layers whose channels go together (``layer``), or of all
            (``global``: groups of little importance lose more, none more than nine tenths).
        scope: one of ``SCOPES``.
        multiple: the channels left of each layer are rounded to a multiple of this; layers of no more keep theirs.

    Raises UsageError.
    """
    check_share(share)
    if scope not in SCOPES:
        raise unknown_name("scope", scope, SCOPES)
    if multiple < 1:
        raise UsageError(f"channels cannot be a multiple of {multiple}", hint="1 or more, e.g. 8")
    tied = TiedChannels(graph)
    n_channels = sum(ids.size for ids in tied.made)
    if share == 0:
        return Pruned(graph, frozenset(), {}, 0, n_channels)
    importance = _importance(tied)
    groups = _groups(tied)
    order = sorted(importance, key=lambda root: (importance[root], root))
    lowest = frozenset(order[: round(share * len(order))])
    removed = set[int]()
    for members in groups:
        wanted = len(members) * (1 - share) if scope == "layer" else sum(m not in lowest for m in members)
        n_kept = _rounded(max(wanted, FEWEST * len(members)), len(members), _channels_of_set(tied, members), multiple)
        ranked = sorted(members, key=lambda root: (importance[root], root))
        removed.update(ranked[: len(members) - n_kept])
    _leave_one(tied, removed, importance)
    n_removed = sum(int(np.isin(tied.roots(ids), list(removed)).sum()) for ids in tied.made)
    made = tied.without(removed) if removed else graph
    return Pruned(made, frozenset(removed), tied.left(removed), n_removed, n_channels)


def prune_weights(graph: Graph, share: float, scope: str = "layer") -> Graph:
    """Set the smallest weights of convolutions and dense layers to zero: of each, or of all together (``global``).

    Exactly ``round(share n)`` of ``n``; those that are zero already count. Raises UsageError.
    """
    check_share(share)
    if scope not in SCOPES:
        raise unknown_name("scope", scope, SCOPES)
    names = _weights(graph)
    parts = [names] if scope == "global" else [[name] for name in names]
    values: dict[str, NDArray[np.float32]] = {}
    for part in parts:
        sizes = [graph.constants[name].size for name in part]
        flat = np.concatenate([graph.constants[name].ravel() for name in part]) if part else np.zeros(0, np.float32)
        flat[np.argsort(np.abs(flat), kind="stable")[: round(share * flat.size)]] = 0
        for name, piece in zip(part, np.split(flat, np.cumsum(sizes)[:-1]), strict=True):
            values[name] = piece.reshape(graph.tensors[name].shape)
    return graph.with_constants(values)


def zero_share(graph: Graph) -> float:
    """Return the share of zeros among the weights of convolutions and dense layers."""
    weights = [graph.constants[name] for name in _weights(graph)]
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.size for w in weights))


def _weights(graph: Graph) -> list[str]:
    layers = [node for node in graph.nodes if node.op in ("conv", "dense")]
    return list(dict.fromkeys(node.inputs[1] for node in layers if node.inputs[1] in graph.constants))


def _importance(tied: TiedChannels) -> dict[int, float]:
    """Return the importance of every set that can go."""
    sums, counts = dict[int, float](), dict[int, int]()
    for name, axes in tied.cuts.items():
        if tied.graph.tensors[name].kind != "weight":
            continue
        value = np.abs(tied.graph.constants[name].astype(np.float64))
        for axis, ids in axes.items():
            norms = np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1).sum(1)
            mean = norms.mean() or 1.0
            for root, norm in zip(tied.roots(ids).tolist(), norms.tolist(), strict=True):
                if root:
                    sums[root] = sums.get(root, 0.0) + norm / mean
                    counts[root] = counts.get(root, 0) + 1
    return {root: total / counts[root] for root, total in sums.items()}


def _groups(tied: TiedChannels) -> list[list[int]]:
    """Return the sets that can go, in groups: those of one layer, and of layers that share some."""
    made = [sorted(set(tied.roots(ids).tolist()) - {0}) for ids in tied.made]
    roots = sorted({root for members in made for root in members})
    position = {root: i for i, root in enumerate(roots)}
    sets = Sets(len(roots))
    for members in made:
        for root in members[1:]:
            sets.join(position[members[0]], position[root])
    groups: dict[int, list[int]] = {}
    for root in roots:
        groups.setdefault(sets.root(position[root]), []).append(root)
    return list(groups.values())


def _channels_of_set(tied: TiedChannels, members: list[int]) -> int:
    """Return how many channels of a layer each set of a group takes: several in grouped convolutions."""
    n = max(int(np.isin(tied.roots(ids), members).sum()) for ids in tied.made)
    return max(1, n // len(members))


def _rounded(wanted: float, n_sets: int, n_channels: int, multiple: int) -> int:
    """Return how many of a group's sets stay: the nearest count whose channels are a multiple."""
    step = multiple // math.gcd(multiple, n_channels)
    return min(n_sets, max(1, step * max(1, round(wanted / step))))


def _leave_one(tied: TiedChannels, removed: set[int], importance: Mapping[int, float]) -> None:
    """Take back the most important set of every map that would have no channel left."""
    for roots in tied.tensors().values():
        members = set(roots.tolist())
        if members <= removed:
            removed.discard(max(members, key=lambda root: (importance[root], -root)))
