"""Greedy non-maximum suppression: of boxes that overlap too much, the one with the highest score stays.

Going down the scores (the lower index first on ties), a box is kept unless a kept one of its class has an intersection
over union with it above the limit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitfront.tasks.detection_boxes import areas, intersections

__all__ = ["nms"]

_BLOCK = 256
"""Boxes that are compared with each other in one step."""


def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    iou: float,
    max_boxes: int = 300,
) -> NDArray[np.intp]:
    """Return the positions of the boxes of one image that stay, the highest score first, ``max_boxes`` at most.

    ``boxes`` ``(n, 4)``, ``scores`` and ``labels`` ``(n,)``; without labels boxes of all classes suppress each other.
    """
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(0, np.intp)
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        block = block[~_overlapping(boxes, labels, kept, block, iou).any(axis=0)]
        kept = np.concatenate([kept, block[_greedy(_overlapping(boxes, labels, block, block, iou))]])
        if len(kept) >= max_boxes:
            break
    return kept[:max_boxes]


def _overlapping(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    a: NDArray[np.intp],
    b: NDArray[np.intp],
    iou: float,
) -> NDArray[np.bool_]:
    """Whether each of ``a`` suppresses each of ``b`` when it is kept: ``(len(a), len(b))``."""
    shared = intersections(boxes[a], boxes[b])
    union = areas(boxes[a])[:, None] + areas(boxes[b]) - shared
    over: NDArray[np.bool_] = shared > np.float32(iou) * union
    return over if labels is None else over & (labels[a][:, None] == labels[b])


def _greedy(over: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of ``n`` boxes in order stay, given who would suppress whom ``(n, n)``."""
    alive = np.ones(len(over), np.bool_)
    for i in np.flatnonzero(np.triu(over, 1).any(axis=1)):
        if alive[i]:
            alive[i + 1 :] &= ~over[i, i + 1 :]
    return alive
