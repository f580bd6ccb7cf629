"""Upper clips (ReLU6) that stand in the way of equalization: drop those that hardly act.

A clip at 6 bars equalization (:mod:`bitfront.graph.equalize`), for its channels cannot be scaled one by one. Nagel et
al. 2019 (section 5.1.1) replace every ReLU6 by ReLU and accept what that does. Here calibration decides: clips are
dropped in the order of what they cut off, as many as change the network's outputs by no more than a given distortion.
Where a clip stays, the largest values before it tell which channels never reach it; those can still be equalized.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Graph, Node
from bitfront.stats.ranges import Observe

__all__ = ["TOLERANCE", "Clip", "Relaxed", "relax_clips"]

TOLERANCE = 5e-3
"""Squared change of the outputs in their mean square. Weights of 4 bits cost two to four times as much."""


@dataclass(frozen=True, slots=True)
class Clip:
    """What one upper clip does on the calibration images."""

    tensor: str
    upper: float
    acting: float
    """Fraction of the channels that reach it."""
    clipped: float
    """Fraction of the values beyond it."""
    excess: float
    """Mean square of what it cuts off, in the mean square of the tensor."""
    dropped: bool


@dataclass(frozen=True, slots=True, eq=False)
class Relaxed:
    """A graph with fewer clips."""

    graph: Graph
    clips: tuple[Clip, ...]
    """All upper clips that there were, in execution order."""
    peaks: Mapping[str, NDArray[np.float64]]
    """Tensors whose clip stayed -> ``(c,)`` largest value of each channel before it, for ``equalize``."""
    distortion: float
    """Squared change of the outputs in their mean square."""


def relax_clips(
    graph: Graph,
    batches: Sequence[NDArray[np.float32]],
    tolerance: float = TOLERANCE,
    observe: Callable[[Graph], Observe] | None = None,
) -> Relaxed:
    """Drop the upper clips that matter least.

    Args:
        graph: a prepared graph.
        batches: calibration images ``(b, c, h, w)``; read about ten times.
        tolerance: the largest distortion of the outputs.
        observe: graph -> function that returns the values of its tensors; the reference executor by default.
    """
    found = [node for node in graph.nodes if _upper(node) < math.inf]
    if not found:
        return Relaxed(graph, (), {}, 0.0)
    watch = observe or _reference
    seen = _Seen({node.output: _upper(node) for node in found})
    outputs = [seen.add(watch(_exposed(graph, seen.uppers))(images), graph) for images in batches]
    order = sorted(seen.uppers, key=lambda name: seen.excess(name))

    def distortion(n: int) -> float:
        run = watch(_dropped(graph, order[:n]))
        return _distortion(outputs, [run(images) for images in batches], graph)

    n, least = _most(distortion, sum(seen.excess(name) == 0 for name in order), len(order), tolerance)
    gone = frozenset(order[:n])
    peaks = {name: seen.peaks[name] for name in order[n:]}
    return Relaxed(_dropped(graph, gone), tuple(seen.clip(name, name in gone) for name in seen.uppers), peaks, least)


def _most(distortion: Callable[[int], float], low: int, high: int, tolerance: float) -> tuple[int, float]:
    """Return how many can be dropped, at least ``low``, and what that costs; all first, then by bisection."""
    best, n = 0.0, high
    while low < high:
        cost = distortion(n)
        if cost <= tolerance:
            low, best = n, cost
        else:
            high = n - 1
        n = (low + high + 1) // 2
    return low, best


class _Seen:
    """What was observed before the clips."""

    def __init__(self, uppers: Mapping[str, float]) -> None:
        self.uppers = uppers
        self.peaks: dict[str, NDArray[np.float64]] = {}
        self._sums = {name: np.zeros(4) for name in uppers}  # values, beyond, squares, squares of the excess

    def add(self, values: Mapping[str, NDArray[np.float32]], graph: Graph) -> Mapping[str, NDArray[np.float32]]:
        """Take in the values of an exposed graph; return its outputs."""
        for name, upper in self.uppers.items():
            x = values[_before(name)]
            peak = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).max(1).astype(np.float64)
            self.peaks[name] = np.maximum(peak, self.peaks[name]) if name in self.peaks else peak
            beyond = np.maximum(x - upper, 0, dtype=np.float64)
            self._sums[name] += x.size, (beyond > 0).sum(), np.square(x, dtype=np.float64).sum(), (beyond**2).sum()
        return {name: values[name] for name in graph.outputs}

    def excess(self, name: str) -> float:
        _, _, squares, excess = self._sums[name]
        return float(excess / squares) if squares else 0.0

    def clip(self, name: str, dropped: bool) -> Clip:
        n, beyond, _, _ = self._sums[name]
        upper = self.uppers[name]
        acting = float((self.peaks[name] > upper).mean())
        return Clip(name, upper, acting, float(beyond / n), self.excess(name), dropped)


def _distortion(
    outputs: Sequence[Mapping[str, NDArray[np.float32]]],
    others: Sequence[Mapping[str, NDArray[np.float32]]],
    graph: Graph,
) -> float:
    """Return the largest over the outputs."""
    worst = 0.0
    for name in graph.outputs:
        a = np.concatenate([batch[name] for batch in outputs]).astype(np.float64)
        b = np.concatenate([batch[name] for batch in others]).astype(np.float64)
        worst = max(worst, float(np.mean((a - b) ** 2) / max(float(np.mean(a**2)), 1e-30)))
    return worst


def _reference(graph: Graph) -> Observe:
    from bitfront.simulate import reference

    return lambda images: reference.run(graph, images, keep="*")


# --- graphs ----------------------------------------------------------------------------------------------------------
def _upper(node: Node) -> float:
    """Return the upper end of a node's clip where only that bars scaling; else infinity."""
    low, high = (node["lo"], node["hi"]) if node.op == "clip" else node.attributes.get("clip") or (0, math.inf)
    return float(high) if low in (0, -math.inf) and high > 0 else math.inf


def _open(node: Node) -> Node:
    """Return the node without its upper clip."""
    low = node["lo"] if node.op == "clip" else node["clip"][0]
    ends = {"hi": math.inf} if node.op == "clip" else {"clip": [low, math.inf]}
    return replace(node, attributes={**node.attributes, **ends})


def _dropped(graph: Graph, names: Collection[str]) -> Graph:
    return replace(graph, nodes=tuple(_open(node) if node.output in names else node for node in graph.nodes))


def _exposed(graph: Graph, names: Collection[str]) -> Graph:
    """Return the same function with a tensor of its own before every upper clip."""
    nodes: list[Node] = []
    tensors = dict(graph.tensors)
    for node in graph.nodes:
        if node.output not in names:
            nodes.append(node)
            continue
        before = _before(node.output)
        tensors[before] = replace(tensors[node.output], name=before)
        clip = {"lo": -math.inf, "hi": _upper(node)}
        nodes += [replace(_open(node), output=before), Node(before, "clip", (before,), node.output, clip)]
    return replace(graph, nodes=tuple(nodes), tensors=tensors)


def _before(tensor: str) -> str:
    return f"{tensor}/unclipped"
