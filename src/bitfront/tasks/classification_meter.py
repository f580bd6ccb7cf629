"""Scores of classified images: what is counted, and every score's definition.

Counted of each image are its class, the class that was predicted, and whether the class is among the five largest
logits. Not a plug-in itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import DataInfo, Metrics, Prediction, Sample
from bitfront.errors import DataError, UsageError, unknown_name

__all__ = ["SCORES", "ClassificationMeter", "checked_score", "counted", "label_of", "score_of"]

TOP = 5
MAX_CONFUSION = 200
"""Classes above which the confusion matrix is left out."""

SCORES = {
    "accuracy": "images whose class was predicted / images",
    "top5": "images whose class is among the five largest logits (ties: the lower index first) / images",
    "macro_f1": "2 correct / (images + predictions) of each class, mean over the classes that have either",
    "balanced_accuracy": "correct / images of each class, mean over the classes that have images",
}
"""Name -> definition; ``top5`` is there for more than five classes."""

Rows = NDArray[np.int64]
"""``(n, 3)``: class, predicted class, whether the class is among the five largest logits."""


def checked_score(info: DataInfo, score: str = "") -> str:
    """Return a score's name, ``accuracy`` for ``""``. Raises UsageError for one that does not exist for ``info``."""
    name = score or "accuracy"
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
    if name not in _defined(info):
        raise UsageError(f"score '{name}' needs more than {TOP} classes", hint="use accuracy")
    return name


def label_of(sample: Sample, info: DataInfo) -> int:
    """Return the class of a sample. Raises DataError without one, or for one that does not exist."""
    if sample.label is None:
        raise DataError(f"{sample.id}: no class to compare with", hint="use data whose images have a class")
    if not 0 <= sample.label < len(info.classes):
        k = len(info.classes)
        raise DataError(f"{sample.id}: class {sample.label}, but there are {k} classes (0..{k - 1})")
    return sample.label


def counted(label: int, guess: int, logits: NDArray[np.floating] | None) -> tuple[int, int, int]:
    """Return a row of what is counted of one image; without logits only the prediction is a hit."""
    if logits is None or not logits.size:
        return label, guess, int(label == guess)
    own = logits[label]
    before = int((logits > own).sum()) + int((logits[:label] == own).sum())
    return label, guess, int(before < TOP)


def score_of(name: str, rows: Rows, n_classes: int, weights: NDArray[np.floating] | None = None) -> float:
    """Return a score of rows ``(n, 3)``, each counted ``weights`` ``(n,)`` times; NaN where it is undefined."""
    total = len(rows) if weights is None else float(weights.sum())
    if not total:
        return math.nan
    if name in ("accuracy", "top5"):
        hits = rows[:, 0] == rows[:, 1] if name == "accuracy" else rows[:, 2]
        return float(np.average(hits, weights=weights))
    correct, labelled, predicted = _by_class(rows, n_classes, weights)
    whole = labelled if name == "balanced_accuracy" else (labelled + predicted) / 2
    there = whole > 0
    return float((correct[there] / whole[there]).mean())


def _by_class(rows: Rows, n_classes: int, weights: NDArray[np.floating] | None = None) -> NDArray[np.float64]:
    """``(3, k)``: correct, labelled and predicted images of each class."""
    hit = rows[:, 0] == rows[:, 1]
    chosen = ((rows[hit, 0], hit), (rows[:, 0], slice(None)), (rows[:, 1], slice(None)))
    return np.stack(
        [np.bincount(c, None if weights is None else weights[at], n_classes).astype(np.float64) for c, at in chosen]
    )


def _defined(info: DataInfo) -> tuple[str, ...]:
    return tuple(name for name in SCORES if name != "top5" or len(info.classes) > TOP)


class ClassificationMeter:
    """Counts classes; see the module."""

    def __init__(self, info: DataInfo, score: str = "", *, bootstrap: int = 1000, seed: int = 0) -> None:
        self.score = checked_score(info, score)
        self._info, self._bootstrap, self._seed = info, bootstrap, seed
        self._ids: list[str] = []
        self._rows: list[tuple[int, int, int]] = []

    def add(self, prediction: Prediction, sample: Sample) -> None:
        """Count one image. Raises DataError when it has no class, or for a class that does not exist."""
        label, k = label_of(sample, self._info), len(self._info.classes)
        if prediction.label is None or not 0 <= prediction.label < k:
            raise DataError(
                f"{sample.id}: the network answers {prediction.label}, but there are {k} classes (0..{k - 1})",
                hint="choose data with the classes that it was trained on",
            )
        self._rows.append(counted(label, prediction.label, prediction.scores))
        self._ids.append(sample.id)

    def result(self) -> Metrics:
        """Return all scores of what was added."""
        rows, k = np.array(self._rows, np.int64).reshape(-1, 3), len(self._info.classes)
        names = _defined(self._info)
        return Metrics(
            score=self.score,
            values={name: _optional(score_of(name, rows, k)) for name in names},
            definitions={name: SCORES[name] for name in names},
            per_class=_per_class(rows, self._info.classes),
            n=len(rows),
            interval=self._interval(rows),
            confusion=_confusion(rows, k) if k <= MAX_CONFUSION else (),
            per_sample={name: float(row[0] == row[1]) for name, row in zip(self._ids, self._rows, strict=True)},
        )

    def _interval(self, rows: Rows) -> tuple[float, float] | None:
        """Percentile bootstrap over images (Efron and Tibshirani 1993, section 13.3)."""
        n, k = len(rows), len(self._info.classes)
        if n < 2 or not self._bootstrap:
            return None
        rng = np.random.default_rng(self._seed)
        draws = (rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64) for _ in range(self._bootstrap))
        low, high = np.percentile([score_of(self.score, rows, k, weights) for weights in draws], [2.5, 97.5])
        return float(low), float(high)


def _per_class(rows: Rows, classes: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """F1, precision and recall; a class without images, without predictions or without either has ``None``."""
    correct, labelled, predicted = _by_class(rows, len(classes))
    wholes = {"f1": (labelled + predicted) / 2, "precision": predicted, "recall": labelled}
    return {
        name: {c: _optional(a / b if b else math.nan) for c, a, b in zip(classes, correct, whole, strict=True)}
        for name, whole in wholes.items()
    }


def _confusion(rows: Rows, k: int) -> tuple[tuple[int, ...], ...]:
    counts = np.bincount(rows[:, 0] * k + rows[:, 1], minlength=k * k).reshape(k, k)
    return tuple(tuple(int(n) for n in row) for row in counts)


def _optional(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
