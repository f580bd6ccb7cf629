"""Scores of label maps, from pixel counts.

Everything follows from three counts of each class in each image: correct pixels, pixels of the class in the label, and
in the prediction. Pixels labelled 255 are never counted. The meter keeps one confusion matrix and these 3 K integers
an image, which give the scores of single images and the bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import IGNORE, DataInfo, Metrics, Prediction, Sample
from bitfront.errors import DataError, UsageError, unknown_name

__all__ = ["SCORES", "Score", "SegmentationMeter", "checked_score", "default_score", "score_of"]

Counts = NDArray[np.int64]
"""``(..., 3, K)``: correct, labelled and predicted pixels of each class."""
Floats = NDArray[np.float64]
"""NaN = undefined."""

LEFT_OUT = "pixels labelled 255 are left out"


@dataclass(frozen=True, slots=True)
class Score:
    """One number for a whole part."""

    of: Callable[[Counts, int | None], Floats]
    """Counts ``(..., 3, K)`` and the background class -> scores ``(...)``."""
    definition: str
    per_image: bool = False
    """Average the scores of the images (undefined ones left out) instead of scoring the sum of their counts."""
    needs_background: bool = False


def class_iou(counts: Counts) -> Floats:
    """``(..., K)``: correct / (labelled + predicted - correct)."""
    correct, labelled, predicted = np.moveaxis(counts, -2, 0)
    return _ratio(correct, labelled + predicted - correct)


def class_dice(counts: Counts) -> Floats:
    """``(..., K)``: 2 correct / (labelled + predicted)."""
    correct, labelled, predicted = np.moveaxis(counts, -2, 0)
    return _ratio(2 * correct, labelled + predicted)


def class_accuracy(counts: Counts) -> Floats:
    """``(..., K)``: correct / labelled."""
    return _ratio(counts[..., 0, :], counts[..., 1, :])


def _mean_iou(counts: Counts, background: int | None) -> Floats:
    return _mean(class_iou(counts))


def _mean_dice(counts: Counts, background: int | None) -> Floats:
    return _mean(class_dice(counts))


def _pixel_accuracy(counts: Counts, background: int | None) -> Floats:
    return _ratio(counts[..., 0, :].sum(-1), counts[..., 1, :].sum(-1))


def _foreground_iou(counts: Counts, background: int | None) -> Floats:
    if background is None:
        return np.full(counts.shape[:-2], np.nan)
    correct, labelled, predicted = np.moveaxis(counts[..., background], -1, 0)
    total = counts[..., 1, :].sum(-1)
    return _ratio(total - labelled - predicted + correct, total - correct)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    ratio: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
    return ratio


def _mean(values: Floats) -> Floats:
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0).sum(-1), defined.sum(-1))


_OVER_CLASSES = f"mean over classes; classes in neither label nor prediction are left out; {LEFT_OUT}"
_OBJECT = f"all classes but the background merged into one; {LEFT_OUT}"
SCORES: dict[str, Score] = {
    "miou": Score(_mean_iou, f"intersection over union, over the whole dataset, {_OVER_CLASSES}"),
    "miou_image": Score(
        _mean_iou, f"intersection over union of each image, {_OVER_CLASSES}; then mean over images", per_image=True
    ),
    "pixel_accuracy": Score(_pixel_accuracy, f"correct pixels / labelled pixels of the whole dataset; {LEFT_OUT}"),
    "foreground_iou": Score(
        _foreground_iou,
        f"intersection over union of object against background, over the whole dataset, {_OBJECT}",
        needs_background=True,
    ),
    "foreground_iou_image": Score(
        _foreground_iou,
        f"intersection over union of object against background in each image, {_OBJECT}; then mean over images; "
        "images with objects in neither label nor prediction are left out",
        per_image=True,
        needs_background=True,
    ),
    "dice": Score(_mean_dice, f"2 intersection / (labelled + predicted), over the whole dataset, {_OVER_CLASSES}"),
}


def score_of(score: Score, images: Counts, background: int | None) -> float | None:
    """Return a score of the counts ``(n, 3, K)`` of a part's images; ``None`` where it is undefined."""
    if score.per_image:
        return _optional(_mean(score.of(images, background)))
    return _optional(score.of(images.sum(0), background))


def checked_score(info: DataInfo, score: str = "") -> str:
    """Return a score's name, the default one for ``""``. Raises UsageError for one that does not exist for ``info``."""
    name = score or default_score(info)
    if name not in SCORES:
        raise unknown_name("score", name, SCORES)
    if SCORES[name].needs_background and info.background is None:
        raise UsageError(
            f"score '{name}' needs a background class, and '{info.name}' has none",
            hint="use miou, or name the background in the data's description",
        )
    return name


def default_score(info: DataInfo) -> str:
    """``foreground_iou`` for one class of objects on a background, else ``miou``."""
    return "foreground_iou" if len(info.classes) == 2 and info.background is not None else "miou"


class SegmentationMeter:
    """Counts label maps; see the module."""

    def __init__(self, info: DataInfo, score: str = "", *, bootstrap: int = 1000, seed: int = 0) -> None:
        self.score = checked_score(info, score)
        self._info, self._bootstrap, self._seed = info, bootstrap, seed
        k = len(info.classes)
        self._confusion = np.zeros((k, k), np.int64)
        self._ids: list[str] = []
        self._counts: list[Counts] = []

    def add(self, prediction: Prediction, sample: Sample) -> None:
        """Count one image; the prediction has the size of the label.

        Raises DataError when there is no label or a class that does not exist, ValueError when sizes differ.
        """
        if sample.mask is None or prediction.mask is None:
            raise DataError(f"{sample.id}: no label map to compare with", hint="evaluate on data that has masks")
        if sample.mask.shape != prediction.mask.shape:
            raise ValueError(
                f"{sample.id}: prediction {prediction.mask.shape} is not at the label's {sample.mask.shape}"
            )
        k = len(self._info.classes)
        keep = sample.mask != IGNORE
        truth, guess = sample.mask[keep].astype(np.intp), prediction.mask[keep]
        for what, values in (("label", truth), ("prediction", guess)):
            if values.size and values.max() >= k:
                raise DataError(f"{sample.id}: {what} holds {values.max()}, but there are {k} classes (0..{k - 1})")
        confusion = np.bincount(truth * k + guess, minlength=k * k).reshape(k, k)
        self._confusion += confusion
        self._counts.append(np.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)]))
        self._ids.append(sample.id)

    def result(self) -> Metrics:
        """Return all scores of what was added."""
        images = np.stack(self._counts) if self._counts else np.zeros((0, 3, len(self._info.classes)), np.int64)
        total = images.sum(0)
        defined = {k: s for k, s in SCORES.items() if self._info.background is not None or not s.needs_background}
        alone = SCORES[self.score].of(images, self._info.background)
        return Metrics(
            score=self.score,
            values={name: score_of(score, images, self._info.background) for name, score in defined.items()},
            definitions={name: score.definition for name, score in defined.items()},
            per_class={
                name: dict(zip(self._info.classes, map(_optional, of(total)), strict=True))
                for name, of in (("iou", class_iou), ("accuracy", class_accuracy), ("dice", class_dice))
            },
            n=len(images),
            interval=self._interval(images),
            confusion=tuple(tuple(int(n) for n in row) for row in self._confusion),
            per_sample={k: float(v) for k, v in zip(self._ids, alone, strict=True) if np.isfinite(v)},
        )

    def _interval(self, images: Counts) -> tuple[float, float] | None:
        """Percentile bootstrap over images (Efron and Tibshirani 1993, section 13.3)."""
        n, score, background = len(images), SCORES[self.score], self._info.background
        if n < 2 or not self._bootstrap:
            return None
        draws = np.random.default_rng(self._seed).multinomial(n, np.full(n, 1 / n), size=self._bootstrap)
        if score.per_image:
            alone = score.of(images, background)
            defined = np.isfinite(alone)
            values = _ratio(draws @ np.where(defined, alone, 0), draws @ defined)
        else:
            values = score.of(np.einsum("bn,n...->b...", draws, images, optimize=True), background)
        values = values[np.isfinite(values)]
        if not values.size:
            return None
        low, high = np.percentile(values, [2.5, 97.5])
        return float(low), float(high)


def _optional(value: Floats | float) -> float | None:
    return float(value) if np.isfinite(value) else None
