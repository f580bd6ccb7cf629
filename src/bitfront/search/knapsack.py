"""The best sum of distortions for every total cost: the multiple-choice knapsack, by dynamic programming.

Partial sums that another one beats in both cost and distortion are dropped gene by gene, so the result is exact as long
as no more than ``max_points`` remain; beyond that, one per equal slice of cost is kept, and a total may exceed the
optimum by at most one slice per gene. Only differences and orders of distortions matter, never their magnitude.
Source: Kellerer, Pferschy, Pisinger 2004, "Knapsack Problems", chapters 3.4 and 11.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitfront.search.space import Genome, Space, Table

__all__ = ["Sums", "knapsack", "linear_costs"]

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """The front of all genomes under additive costs and distortions, cheapest first."""

    costs: Values
    """``(n,)``, strictly ascending."""
    distortions: Values
    """``(n,)``, strictly descending."""
    bits: NDArray[np.int64]
    """``(n, genes)``."""

    def __len__(self) -> int:
        return len(self.costs)

    def genome(self, i: int) -> Genome:
        """Return the ``i``-th genome."""
        return tuple(int(b) for b in self.bits[i])


def knapsack(space: Space, distortions: Table, costs: Table, max_points: int = 16384) -> Sums:
    """Return the front of (sum of costs, sum of distortions) over all genomes of ``space``."""
    cost, distortion = np.zeros(1), np.zeros(1)
    steps = []
    for d, c in zip(distortions, costs, strict=True):
        cost, distortion, parent, choice = _extended(cost, distortion, c, d, max_points)
        steps.append((parent, choice))
    bits = np.zeros((len(cost), len(space.genes)), np.int64)
    at = np.arange(len(cost))
    for i in reversed(range(len(steps))):
        parent, choice = steps[i]
        bits[:, i] = np.array(space.genes[i].widths)[choice[at]]
        at = parent[at]
    return Sums(cost, distortion, bits)


def _extended(
    cost: Values, distortion: Values, c: Values, d: Values, max_points: int
) -> tuple[Values, Values, NDArray[np.int64], NDArray[np.int64]]:
    """Return the front after one more gene, and where each of its points came from."""
    all_costs, all_distortions = (cost + c[:, None]).ravel(), (distortion + d[:, None]).ravel()
    order = np.lexsort((all_distortions, all_costs))
    sums = all_distortions[order]
    best_before = np.minimum.accumulate(np.concatenate(([np.inf], sums[:-1])))
    keep = order[sums < best_before]
    if len(keep) > max_points:
        keep = keep[_thinned(all_costs[keep], max_points)]
    return all_costs[keep], all_distortions[keep], keep % len(cost), keep // len(cost)


def _thinned(costs: Values, n: int) -> NDArray[np.int64]:
    """Return the positions of the cheapest point and of the last one (least distortion) in every slice of cost."""
    span = costs[-1] - costs[0]
    slices = np.floor((costs - costs[0]) / span * (n - 2)).astype(np.int64)
    last = np.flatnonzero(np.diff(slices, append=-1))
    return np.unique(np.concatenate(([0], last)))


def linear_costs(space: Space, cost: Callable[[Genome], float]) -> Table:
    """Return what each width of each gene adds to ``cost``, from genomes that differ from the largest in one gene.

    Exact for sums over tensors (sizes, cycles); an approximation for anything else, such as a peak of memory. Scaled so
    that the step from the largest to the smallest genome is 1, unless it costs nothing.
    """
    top = space.largest
    whole = cost(top)
    scale = abs(whole - cost(space.smallest)) or 1.0
    return tuple(
        np.array([(cost((*top[:i], b, *top[i + 1 :])) - whole) / scale for b in gene.widths])
        for i, gene in enumerate(space.genes)
    )
