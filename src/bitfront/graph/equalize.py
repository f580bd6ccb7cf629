"""Cross-layer equalization: give the channels between layers equal weight ranges, without changing the network.

Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1.
Layers ``y = f(W1 x + b1)`` and ``W2 y`` compute the same as ``W1 / s``, ``b1 / s`` and ``W2 s``, per channel of ``y``,
for any ``s > 0`` when ``f(s y) = s f(y)``. One scale for a whole tensor then wastes fewer codes.

The paper treats plain chains. Here channels that an operator forces to have one scale (the summands of a residual sum,
a map read by several layers, both ends of a pool) share it: with ``r1`` the largest range that any producer gives a
channel and ``r2`` the largest that any reader does, each relative to the range of its whole tensor, every channel gets
``s = sqrt(r1 / r2)``. In a plain chain that is the paper's rule, but for one factor common to all channels.

A finite upper clip (ReLU6) is not homogeneous. Channels that never reach it may be scaled as long as they still do not;
where they are not known, the whole tensor stays as it is, as do inputs, outputs and whatever an operator reads that no
scale passes (sigmoid, products of two maps), and weights that layers share.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.channels import Channels
from bitfront.graph.ir import Graph, Node

__all__ = ["Group", "Side", "equalize", "groups", "scaled"]

LIMIT = 2.0**8
"""A channel is scaled by no more than this: one with hardly any weights has no range to balance, but it may have a
bias, which grows by the same factor."""
MAX_SWEEPS = 100
CONVERGED = 1e-4
"""Largest change of a logarithmic scale in the last sweep."""
HEADROOM = 1.1
"""Channels below a clip stay below it by this factor: calibration has not seen everything."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One layer at a group, and the scale of each of its output (or input) channels there: ``(c,)`` positions."""

    node: Node
    scales: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Tensors whose channels have common scales, the layers that compute them, and the layers that read them."""

    tensors: tuple[str, ...]
    floors: Floats
    """``(n,)`` how small each scale may become; 0: any. Not a number: it stays 1."""
    sources: tuple[Side, ...]
    targets: tuple[Side, ...]

    @property
    def free(self) -> NDArray[np.bool_]:
        """``(n,)`` which scales may change."""
        return np.isfinite(self.floors)


def groups(graph: Graph, peaks: Mapping[str, NDArray[Any]] | None = None) -> tuple[Group, ...]:
    """Return what can be equalized in a prepared graph, in execution order; ``peaks`` as for :func:`equalize`."""
    return _groups(graph, _tie(graph, peaks or {}))


def equalize(graph: Graph, peaks: Mapping[str, NDArray[Any]] | None = None) -> Graph:
    """Return a graph that computes the same, with equal weight ranges on both sides of every channel.

    Args:
        graph: one whose BatchNorm is folded.
        peaks: tensor with a finite upper clip -> ``(c,)`` the largest values of its channels before the clip, as
            :mod:`bitfront.quant.clips` finds them. Channels that stay below the clip are then equalized too.
    """
    found = groups(graph, peaks)
    sides = [side for group in found for side in (*group.sources, *group.targets)]
    reach = {side.node.name: _reach(side.node, graph) for side in sides}
    totals = [np.ones(group.floors.size) for group in found]
    for _ in range(MAX_SWEEPS):
        change = max((_balance(g, reach, total) for g, total in zip(found, totals, strict=True)), default=0.0)
        if change < CONVERGED:
            break
    return scaled(graph, found, totals)


# --- which channels have a scale of their own ------------------------------------------------------------------------
def _tie(graph: Graph, peaks: Mapping[str, NDArray[Any]]) -> Channels:
    uses = Counter(name for node in graph.nodes for name in node.inputs if name in graph.constants)
    channels = Channels(graph)
    for node in graph.nodes:
        if not _owns_weights(node, graph, uses) and node.op in ("conv", "dense"):
            channels.fix(node.inputs[0])
            channels.fix(node.output)
        clip = (node["lo"], node["hi"]) if node.op == "clip" else node.attributes.get("clip")
        if clip is None or _homogeneous(clip):
            continue
        peak = peaks.get(node.output)
        if clip[0] in (0, -math.inf) and peak is not None:
            channels.bound(node.output, HEADROOM * np.asarray(peak, np.float64) / clip[1])
        else:
            channels.fix(node.output)
    return channels


def _groups(graph: Graph, channels: Channels) -> tuple[Group, ...]:
    layers = [node for node in graph.nodes if node.op in ("conv", "dense") and node.inputs[1] in graph.constants]
    found = []
    for tensors in channels.components():
        scales, floors = channels.scales(tensors)
        sources = tuple(Side(n, scales[n.output]) for n in layers if n.output in scales)
        targets = tuple(Side(n, scales[n.inputs[0]]) for n in layers if n.inputs[0] in scales)
        for sides in (sources, targets):
            floors[np.setdiff1d(np.arange(floors.size), [i for side in sides for i in side.scales])] = np.nan
        if np.isfinite(floors).any():
            found.append(Group(tensors, floors, sources, targets))
    return tuple(found)


def _homogeneous(clip: Any) -> bool:
    return clip[0] in (0, -math.inf) and clip[1] == math.inf


def _owns_weights(node: Node, graph: Graph, uses: Counter[str]) -> bool:
    return node.op in ("conv", "dense") and all(n in graph.constants and uses[n] == 1 for n in node.inputs[1:])


# --- balancing -------------------------------------------------------------------------------------------------------
def _reach(node: Node, graph: Graph) -> Floats:
    """Return the largest absolute weight of every kernel: (groups, output channels, input channels of a group)."""
    reach: Floats = np.abs(_kernels(node, graph.constants[node.inputs[1]].astype(np.float64))).max(3)
    return reach


def _balance(group: Group, reach: Mapping[str, Floats], total: Floats) -> float:
    """Equalize one group in place; return the largest absolute log scale. ``total``: product of its scales so far."""
    made, read = np.zeros(total.size), np.zeros(total.size)
    for side in group.sources:
        np.maximum.at(made, side.scales, _relative(reach[side.node.name].max(2).ravel()))
    for side in group.targets:
        np.maximum.at(read, side.scales, _relative(reach[side.node.name].max(1).ravel()))
    alive = group.free & (made > 0) & (read > 0)
    scale = np.sqrt(np.where(alive, made, 1.0) / np.where(alive, read, 1.0))
    lowest = np.fmax(group.floors, 1 / LIMIT)
    scale = np.where(alive, np.clip(total * scale, lowest, LIMIT) / total, 1.0)
    total *= scale
    for side in group.sources:
        kernels = reach[side.node.name]
        kernels /= scale[side.scales].reshape(kernels.shape[0], -1, 1)
    for side in group.targets:
        kernels = reach[side.node.name]
        kernels *= scale[side.scales].reshape(kernels.shape[0], 1, -1)
    return float(np.abs(np.log(scale)).max())


def scaled(graph: Graph, found: Sequence[Group], scales: Sequence[Floats]) -> Graph:
    """Return the graph with the channels of every group divided by their ``scales`` ``(n,)``, and readers adapted."""
    sides = [side for group in found for side in (*group.sources, *group.targets)]
    values = {n: graph.constants[n].astype(np.float64) for side in sides for n in side.node.inputs[1:]}
    for group, scale in zip(found, scales, strict=True):
        for side in group.sources:
            for name in side.node.inputs[1:]:
                values[name] /= scale[side.scales].reshape(-1, *[1] * (values[name].ndim - 1))
        for side in group.targets:
            kernels = _kernels(side.node, values[side.node.inputs[1]])
            kernels *= scale[side.scales].reshape(kernels.shape[0], 1, -1, 1)  # a view: changes the weight itself
    return graph.with_constants({name: value.astype(np.float32) for name, value in values.items()})


def _relative(ranges: Floats) -> Floats:
    top = ranges.max(initial=0.0)
    return ranges / top if top > 0 else ranges


def _kernels(node: Node, weight: Floats) -> Floats:
    """View a weight as (groups, output channels of a group, input channels of a group, kernel)."""
    n_groups = int(node.attributes.get("groups", 1))
    return weight.reshape(n_groups, weight.shape[0] // n_groups, weight.shape[1], -1)
