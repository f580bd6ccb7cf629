"""Which of many predicted candidates are worth an evaluation: those that promise the most hypervolume, one by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose", "gains"]

Points = NDArray[np.float64]
N_PROBES = 4096
"""Random points that stand for the volume where there are more than two objectives."""


def choose(candidates: Points, front: Points, reference: Points, n: int, rng: np.random.Generator) -> list[int]:
    """Return up to ``n`` candidates, each the one that adds most hypervolume to ``front`` and those before it.

    All points are costs ``(.., m)``, minimised; the volume ends at ``reference`` ``(m,)``. Exact for two objectives;
    for more, volumes are counted with random points. Candidates that add nothing are not chosen.
    """
    if candidates.shape[1] == 2:
        return _choose_exactly(candidates, front, reference, n)
    return _choose_by_probes(candidates, front, reference, n, rng)


def gains(candidates: Points, front: Points, reference: Points) -> NDArray[np.float64]:
    """Return the area ``(n,)`` that each candidate alone would add to a front of two objectives."""
    inside = front[(front < reference).all(1)]
    inside = inside[np.lexsort((inside[:, 1], inside[:, 0]))]
    left = np.concatenate(([-np.inf], inside[:, 0]))
    right = np.concatenate((inside[:, 0], [reference[0]]))
    height = np.minimum.accumulate(np.concatenate(([reference[1]], inside[:, 1])))
    widths = np.maximum(0.0, right - np.maximum(left, candidates[:, :1]))
    areas: NDArray[np.float64] = (widths * np.maximum(0.0, height - candidates[:, 1:])).sum(1)
    return areas


def _choose_exactly(candidates: Points, front: Points, reference: Points, n: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(min(n, len(candidates))):
        areas = gains(candidates, np.concatenate((front, candidates[chosen])), reference)
        best = int(np.argmax(areas))
        if areas[best] <= 0:
            break
        chosen.append(best)
    return chosen


def _choose_by_probes(
    candidates: Points, front: Points, reference: Points, n: int, rng: np.random.Generator
) -> list[int]:
    known = np.concatenate((front, candidates))
    low = np.minimum(known.min(0), reference)
    probes = low + rng.random((N_PROBES, len(reference))) * (reference - low)
    free = ~_covered(front, probes).any(0)
    covers = _covered(candidates, probes[free])
    left = np.ones(covers.shape[1], np.bool_)
    chosen: list[int] = []
    for _ in range(min(n, len(candidates))):
        counts = (covers & left).sum(1)
        best = int(np.argmax(counts))
        if counts[best] == 0:
            break
        chosen.append(best)
        left &= ~covers[best]
    return chosen


def _covered(points: Points, probes: Points) -> NDArray[np.bool_]:
    """Return ``(points, probes)``: the point is nowhere worse."""
    result = np.ones((len(points), len(probes)), np.bool_)
    for column in range(probes.shape[1]):
        result &= points[:, column, None] <= probes[None, :, column]
    return result
