"""Found boxes against true ones, and average precision: Lin et al. 2014 (COCO), by its reference's rules.

In each image and class, going down the scores, a found box takes the free true box that it overlaps most, if their
intersection over union reaches the threshold. An ignored true box (crowd) is taken when no other can be, by any number
of found boxes, which then count for nothing; its overlap is the intersection over the *found* box's area. Only the
``MAX_FOUND`` best boxes of a class in an image count.

All thresholds are worked at once; only found boxes that reach one are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitfront.tasks.detection_boxes import Truth, areas, intersections

__all__ = [
    "MAX_FOUND",
    "THRESHOLDS",
    "Found",
    "Matches",
    "Operating",
    "Rows",
    "average_precision",
    "match",
    "operating",
    "precision_recall",
]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Intersections over union."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""Recalls at which precision is read."""
MAX_FOUND = 100
"""Boxes that count of an image and class."""

Found = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.integer]]
"""Boxes ``(n, 4)``, scores and classes ``(n,)``."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """What is to be known of one image."""

    labels: NDArray[np.int64]
    """``(n,)``: class of each found box that counts."""
    scores: NDArray[np.float64]
    """``(n,)``."""
    hit: NDArray[np.bool_]
    """``(T, n)``: it is one of the objects, by the thresholds."""
    ignored: NDArray[np.bool_]
    """``(T, n)``: it counts for nothing."""
    truths: NDArray[np.int64]
    """``(K,)``: true boxes of each class, without ignored ones."""


def match(truth: Truth, found: Found, n_classes: int, thresholds: NDArray[np.float64] = THRESHOLDS) -> Matches:
    """Match the boxes of one image."""
    boxes, scores, labels = found[0], found[1].astype(np.float64), found[2].astype(np.int64)
    order = np.argsort(-scores, kind="stable")
    hit, ignored = (np.zeros((len(thresholds), len(order)), np.bool_) for _ in range(2))
    counted = np.zeros(len(order), np.bool_)
    for c in np.unique(labels):
        at = order[labels[order] == c][:MAX_FOUND]
        counted[at] = True
        own = truth[1] == c
        if own.any():
            hit[:, at], ignored[:, at] = _of_class(truth[0][own], truth[2][own], boxes[at], thresholds)
    keep = order[counted[order]]
    truths = np.bincount(truth[1][~truth[2]], minlength=n_classes)
    return Matches(labels[keep], scores[keep], hit[:, keep], ignored[:, keep], truths)


def _of_class(
    true: NDArray[np.float64],
    crowd: NDArray[np.bool_],
    found: NDArray[np.floating],
    thresholds: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Hits and ignored ``(T, n)`` of found boxes in order, of one class."""
    found = found.astype(np.float64)
    shared, area = intersections(found, true), areas(found)[:, None]
    whole = np.where(crowd, area, area + areas(true) - shared)
    overlap = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    least = np.minimum(thresholds, 1 - 1e-10)[:, None]
    hit = np.zeros((len(thresholds), len(found)), np.bool_)
    free = np.ones((len(thresholds), int((~crowd).sum())), np.bool_)
    plain, crowded = overlap[:, ~crowd], overlap[:, crowd].max(axis=1, initial=0.0)
    for i in np.flatnonzero(plain.max(axis=1, initial=0.0) >= least[0]):
        reached = np.where(free & (plain[i] >= least), plain[i], -1.0)
        best = reached.shape[1] - 1 - reached[:, ::-1].argmax(axis=1)  # the last on ties
        took = np.flatnonzero(reached[np.arange(len(least)), best] >= 0)
        hit[took, i] = True
        free[took, best[took]] = False
    return hit, ~hit & (crowded >= least)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The matches of many images, the highest score first."""

    images: NDArray[np.intp]
    """``(n,)``: which image a found box is in."""
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    hit: NDArray[np.bool_]
    """``(T, n)``."""
    ignored: NDArray[np.bool_]
    """``(T, n)``."""
    truths: NDArray[np.int64]
    """``(images, K)``."""

    @classmethod
    def of(cls, matches: Sequence[Matches]) -> Rows:
        """Merge the matches of at least one image."""
        scores = np.concatenate([m.scores for m in matches])
        order = np.argsort(-scores, kind="stable")
        return cls(
            np.repeat(np.arange(len(matches)), [len(m.scores) for m in matches])[order],
            np.concatenate([m.labels for m in matches])[order],
            scores[order],
            np.concatenate([m.hit for m in matches], axis=1)[:, order],
            np.concatenate([m.ignored for m in matches], axis=1)[:, order],
            np.stack([m.truths for m in matches]),
        )


def average_precision(
    rows: Rows, thresholds: Sequence[int] = range(len(THRESHOLDS)), weights: NDArray[np.number] | None = None
) -> NDArray[np.float64]:
    """Precision at 101 recalls, averaged: ``(draws, thresholds, K)``; NaN for classes without true boxes.

    ``thresholds`` are positions in THRESHOLDS; ``weights`` ``(draws, images)`` say how often each image counts.
    """
    weights = np.ones((1, len(rows.truths))) if weights is None else weights
    k = rows.truths.shape[1]
    result = np.full((len(weights), len(thresholds), k), np.nan)
    truths = weights @ rows.truths
    for c in np.flatnonzero(rows.truths.sum(axis=0)):
        own = np.flatnonzero(rows.labels == c)
        for position, t in enumerate(thresholds):
            at = own[~rows.ignored[t, own]]
            curve = precision_recall(rows.hit[t, at], weights[:, rows.images[at]], truths[:, c])
            result[:, position, c] = _read(*curve).mean(axis=1)
        result[truths[:, c] == 0, :, c] = np.nan
    return result


def precision_recall(
    hit: NDArray[np.bool_], weights: NDArray[np.number], truths: NDArray[np.number]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision ``(draws, hits)`` where a box is found; precision is the best at that recall or above.

    ``hit`` ``(n,)`` in order of the scores, ``weights`` ``(draws, n)``, ``truths`` ``(draws,)``.
    """
    last = int(np.flatnonzero(hit)[-1]) + 1 if hit.any() else 0
    at = np.flatnonzero(hit)
    right = np.cumsum(weights[:, at], axis=1, dtype=np.float64)
    all_found = np.cumsum(weights[:, :last], axis=1, dtype=np.float64)[:, at]
    precision = right / (all_found + np.spacing(1.0))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return right / np.maximum(truths, 1e-12)[:, None], best


def _read(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Precision at RECALLS, 0 where they are not reached: ``(draws, 101)``."""
    at = np.stack([np.searchsorted(row, RECALLS, side="left") for row in recall])
    padded = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)
    read: NDArray[np.float64] = np.take_along_axis(padded, at, axis=1)
    return read


@dataclass(frozen=True, slots=True)
class Operating:
    """The confidence with the best F1 at a threshold, all classes together; NaN where it is undefined."""

    confidence: float
    precision: float
    recall: float
    f1: float


def operating(rows: Rows, threshold: int = 0, weights: NDArray[np.integer] | None = None) -> Operating:
    """Return the operating point: boxes with at least its confidence are kept (the highest of equally good ones).

    ``weights`` ``(images,)`` say how often each image counts.
    """
    at = np.flatnonzero(~rows.ignored[threshold])
    weights = np.ones(len(rows.truths), np.int64) if weights is None else weights
    scores, often = rows.scores[at], weights[rows.images[at]]
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(at) else at
    right, kept = np.cumsum(often * rows.hit[threshold, at])[ends], np.cumsum(often)[ends]
    truths = int(weights @ rows.truths.sum(axis=1))
    if not truths or not kept.any():
        return Operating(math.inf, math.nan, 0.0 if truths else math.nan, 0.0 if truths else math.nan)
    f1 = 2 * right / (kept + truths)
    best = int(f1.argmax())
    precision = right[best] / kept[best] if kept[best] else math.nan
    return Operating(float(scores[ends[best]]), float(precision), float(right[best] / truths), float(f1[best]))
