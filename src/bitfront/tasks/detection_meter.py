"""Scores of found boxes: what is counted, and every score's definition.

Average precisions are those of COCO's own evaluation (faster-coco-eval); the operating point, the curves, single images
and the bootstrap interval come from :mod:`bitfront.tasks.detection_matching`, which follows the same rules. Not a
plug-in itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import DataInfo, Metrics, Prediction, Sample
from bitfront.errors import DataError, unknown_name
from bitfront.tasks.detection_boxes import Truth, truth_of
from bitfront.tasks.detection_coco import coco_average_precision
from bitfront.tasks.detection_matching import (
    MAX_FOUND,
    Found,
    Matches,
    Operating,
    Rows,
    average_precision,
    match,
    operating,
    precision_recall,
)

__all__ = ["SCORES", "DetectionMeter", "checked_score", "found_of", "score_of"]

_MATCHED = (
    "a box is right when it overlaps a box of its class that no better scored one has taken; "
    f"ignored boxes (crowds) count for nothing; the {MAX_FOUND} best boxes of a class in an image count"
)
_AP = f"precision at 101 recalls, averaged, mean over the classes that have boxes (COCO); {_MATCHED}"
_BEST = f"at intersection over union 0.5 and the confidence with the best F1, all classes together; {_MATCHED}"
SCORES = {
    "map50": f"mean average precision at intersection over union 0.5: {_AP}",
    "map": f"mean average precision, mean over intersections over union 0.5, 0.55 .. 0.95: {_AP}",
    "precision": f"right boxes / found boxes, {_BEST}",
    "recall": f"right boxes / true boxes, {_BEST}",
    "f1": f"2 right boxes / (found boxes + true boxes), {_BEST}",
}
"""Name -> definition. ``map50`` is the default: with few images the stricter thresholds measure mostly chance."""

MAX_BOOTSTRAPPED = 3e8
"""Boxes times resamplings of an interval; of more boxes fewer resamplings are drawn, :data:`MIN_DRAWS` at least."""
MIN_DRAWS = 100
DIGITS = 12
"""Decimals of a mean average precision: sums in another order agree to these."""
_CHUNK = 4_000_000
"""Boxes times resamplings that are worked at once."""
CURVE_POINTS = 200
"""Points of a curve at most."""


def checked_score(score: str = "") -> str:
    """Return a score's name, ``map50`` for ``""``. Raises UsageError for one that does not exist."""
    name = score or "map50"
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
    return name


def found_of(prediction: Prediction, name: str, n_classes: int) -> Found:
    """Return the boxes found in the image ``name``. Raises DataError without any, or for unknown classes."""
    boxes, scores, labels = prediction.boxes, prediction.scores, prediction.labels
    if boxes is None or scores is None or labels is None:
        raise DataError(f"{name}: the network gives no boxes", hint="choose a model that does detection")
    if labels.size and not 0 <= labels.min() <= labels.max() < n_classes:
        wrong = int(labels.max() if labels.max() >= n_classes else labels.min())
        raise DataError(
            f"{name}: the network finds class {wrong}, but there are {n_classes} (0..{n_classes - 1})",
            hint="choose data with the classes that it was trained on",
        )
    return boxes, scores, labels


def score_of(name: str, rows: Rows) -> float:
    """Return a score of matched images; NaN where it is undefined."""
    if name in ("map50", "map"):
        return _mean(average_precision(rows, _thresholds(name)))[0]
    return float(getattr(operating(rows), name))


def _thresholds(name: str) -> Sequence[int]:
    return range(1) if name == "map50" else range(10)


def _mean(precisions: NDArray[np.float64]) -> list[float]:
    """``(draws, thresholds, K)`` -> mean over the classes that are there, of each draw."""
    there = np.isfinite(precisions)
    total, n = np.where(there, precisions, 0).sum(axis=(1, 2)), there.sum(axis=(1, 2))
    return [round(float(t / m), DIGITS) if m else math.nan for t, m in zip(total, n, strict=True)]


class DetectionMeter:
    """Counts boxes; see the module. Keeps the boxes of all images (a few kilobytes each)."""

    def __init__(self, info: DataInfo, score: str = "", *, bootstrap: int = 1000, seed: int = 0) -> None:
        self.score = checked_score(score)
        self._info, self._bootstrap, self._seed = info, bootstrap, seed
        self._classes = tuple(info.classes[i] for i in info.objects)
        self._ids: list[str] = []
        self._truths: list[Truth] = []
        self._found: list[Found] = []
        self._matches: list[Matches] = []

    def add(self, prediction: Prediction, sample: Sample) -> None:
        """Count one image. Raises DataError when it has no boxes to compare with, or for unknown classes."""
        truth, found = truth_of(sample, self._info), found_of(prediction, sample.id, len(self._classes))
        self._truths.append(truth)
        self._found.append(found)
        self._matches.append(match(truth, found, len(self._classes)))
        self._ids.append(sample.id)

    def result(self) -> Metrics:
        """Return all scores of what was added."""
        if not self._matches:
            return Metrics(self.score, dict.fromkeys(SCORES), SCORES)
        rows = Rows.of(self._matches)
        point, precisions = operating(rows), coco_average_precision(self._truths, self._found, len(self._classes))
        values = {
            "map50": _mean(precisions[None, :1])[0],
            "map": _mean(precisions[None])[0],
            **{name: getattr(point, name) for name in ("precision", "recall", "f1")},
        }
        return Metrics(
            score=self.score,
            values={name: _optional(values[name]) for name in SCORES},
            definitions=SCORES,
            per_class=self._per_class(rows, point, precisions),
            n=len(self._matches),
            interval=self._interval(rows),
            per_sample_name="f1",
            per_sample=_per_sample(self._ids, self._matches, point),
            curves={"precision_recall": self._curves(rows)},
        )

    def _per_class(
        self, rows: Rows, point: Operating, precisions: NDArray[np.float64]
    ) -> Mapping[str, Mapping[str, float | None]]:
        kept = ~rows.ignored[0] & (rows.scores >= point.confidence)
        k = len(self._classes)
        right = np.bincount(rows.labels[kept & rows.hit[0]], minlength=k)
        found, true = np.bincount(rows.labels[kept], minlength=k), rows.truths.sum(axis=0)
        columns = {
            "ap50": precisions[0],
            "ap": precisions.mean(axis=0),
            "precision": _ratio(right, found),
            "recall": _ratio(right, true),
            "f1": _ratio(2 * right, found + true),
        }
        return {
            name: {c: _optional(float(v)) for c, v in zip(self._classes, column, strict=True)}
            for name, column in columns.items()
        }

    def _curves(self, rows: Rows) -> Mapping[str, tuple[tuple[float, float], ...]]:
        """Recall and interpolated precision at intersection over union 0.5 of each class that has boxes."""
        curves = {}
        for c in np.flatnonzero(rows.truths.sum(axis=0)):
            hit = rows.hit[0, (rows.labels == c) & ~rows.ignored[0]]
            recall, best = precision_recall(hit, np.ones((1, len(hit))), rows.truths[:, c].sum()[None])
            at = np.unique(np.linspace(0, max(0, recall.size - 1), CURVE_POINTS).astype(int))[: recall.size]
            points = zip(recall[0, at], best[0, at], strict=True)
            curves[self._classes[c]] = tuple((round(float(x), 5), round(float(y), 5)) for x, y in points)
        return curves

    def _interval(self, rows: Rows) -> tuple[float, float] | None:
        """Percentile bootstrap over images (Efron and Tibshirani 1993, section 13.3)."""
        n = len(rows.truths)
        if n < 2 or not self._bootstrap:
            return None
        cost = max(1, len(rows.scores)) * (len(_thresholds(self.score)) if self.score.startswith("map") else 1)
        n_draws = int(min(self._bootstrap, max(MIN_DRAWS, MAX_BOOTSTRAPPED / cost)))
        draws = np.random.default_rng(self._seed).multinomial(n, np.full(n, 1 / n), size=n_draws)
        step = max(1, _CHUNK // max(1, len(rows.scores)))
        scores = [s for at in range(0, n_draws, step) for s in self._drawn(rows, draws[at : at + step])]
        defined = [s for s in scores if math.isfinite(s)]
        if not defined:
            return None
        low, high = np.percentile(defined, [2.5, 97.5])
        return float(low), float(high)

    def _drawn(self, rows: Rows, draws: NDArray[np.int64]) -> list[float]:
        """The score when image ``i`` counts ``draws[d, i]`` times, of each draw."""
        if self.score in ("map50", "map"):
            return _mean(average_precision(rows, _thresholds(self.score), draws))
        return [float(getattr(operating(rows, weights=weights), self.score)) for weights in draws]


def _per_sample(ids: Sequence[str], matches: Sequence[Matches], point: Operating) -> dict[str, float]:
    """F1 of each image at the operating point; images with neither true nor found boxes are left out."""
    scores = {}
    for name, m in zip(ids, matches, strict=True):
        kept = ~m.ignored[0] & (m.scores >= point.confidence)
        whole = int(kept.sum() + m.truths.sum())
        if whole:
            scores[name] = 2 * int((kept & m.hit[0]).sum()) / whole
    return scores


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return ratio


def _optional(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
