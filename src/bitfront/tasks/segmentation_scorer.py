"""Scores of label maps at the network's size, exactly those of the images' own size.

A label map is brought to its image's size by nearest neighbour, so every pixel of the map stands for a fixed set of the
image's pixels. How many of them carry which label is counted once; scoring a candidate then needs no resizing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront import images
from bitfront.contracts import IGNORE, DataInfo, Sample
from bitfront.errors import DataError
from bitfront.tasks.segmentation_meter import SCORES, checked_score, score_of

__all__ = ["SegmentationScorer"]

EXACT = 1 << 24
"""Whole numbers below this are exact in float32, and so are their sums."""
Read = Callable[[NDArray[Any]], NDArray[np.uint8]]
"""Raw outputs ``(b, k, h, w)`` -> label maps ``(b, h, w)``."""


@dataclass(frozen=True, slots=True, eq=False)
class _Labels:
    """The labels of one image under the pixels of a map; a pixel that stands for two labels occurs twice."""

    pixel: NDArray[np.int32]
    """Positions in the flat map, ascending."""
    row: NDArray[np.int32]
    """Label times the number of classes."""
    count: NDArray[np.float32]
    """Pixels of the image."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """The same of two classes."""

    pixels: NDArray[np.float32]
    """``(2, h * w)``: pixels of the image with each label."""
    total: NDArray[np.float64]
    """``(2,)``: all of them."""

    def counts(self, guess: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return ``(3, 2)``, see :meth:`SegmentationScorer.count`."""
        false, true = self.pixels @ guess.ravel().astype(np.float32)
        background, labelled = self.total
        return np.array(
            [
                [background - false, true],
                [background, labelled],
                [background + labelled - false - true, false + true],
            ],
            np.int64,
        )


class SegmentationScorer:
    """See :class:`bitfront.contracts.Scorer`: counts are ``(3, K)``, as the meter has them."""

    def __init__(self, samples: Sequence[Sample], info: DataInfo, score: str, *, read: Read) -> None:
        """Keep the labels of ``samples``. Raises UsageError for unknown scores, DataError without labels."""
        self._info, self._score, self._read = info, checked_score(info, score), read
        self._masks = [_mask(sample, len(info.classes)) for sample in samples]
        self._labels: dict[tuple[int, tuple[int, int]], _Labels | _Pair] = {}

    def count(self, positions: Sequence[int], outputs: NDArray[Any]) -> list[NDArray[np.int64]]:
        """Return ``(3, K)`` correct, labelled and predicted pixels of each sample, at its own size."""
        return [self._count(i, guess) for i, guess in zip(positions, self._read(outputs), strict=True)]

    def score(self, counts: Sequence[NDArray[np.int64]]) -> float:
        """Return the score over all counted samples; NaN where it is undefined."""
        value = score_of(SCORES[self._score], np.stack(counts), self._info.background)
        return math.nan if value is None else value

    def _count(self, position: int, guess: NDArray[np.uint8]) -> NDArray[np.int64]:
        k = len(self._info.classes)
        known = self._labels_of(position, (guess.shape[0], guess.shape[1]))
        if isinstance(known, _Pair):
            return known.counts(guess)
        cells = known.row + guess.ravel()[known.pixel]
        confusion = np.bincount(cells, known.count, k * k).reshape(k, k)
        return np.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)]).astype(np.int64)

    def _labels_of(self, position: int, size: tuple[int, int]) -> _Labels | _Pair:
        key = (position, size)
        if key not in self._labels:
            self._labels[key] = _under(self._masks[position], size, len(self._info.classes))
        return self._labels[key]


def _mask(sample: Sample, n_classes: int) -> NDArray[np.uint8]:
    if sample.mask is None:
        raise DataError(f"{sample.id}: no label map to compare with", hint="search on data that has masks")
    labels = sample.mask[sample.mask != IGNORE]
    if labels.size and labels.max() >= n_classes:
        raise DataError(f"{sample.id}: label holds {labels.max()}, but there are {n_classes} classes")
    return sample.mask


def _under(mask: NDArray[np.uint8], size: tuple[int, int], n_classes: int) -> _Labels | _Pair:
    """Count the labels of ``mask`` under every pixel of a map of ``size`` that is resized to it.

    Of two classes, a product with the prediction, exact in float32, is quicker than a lookup.
    """
    rows, columns = (_source(n, wanted) for n, wanted in zip(size, mask.shape, strict=True))
    pixel = rows[:, None] * size[1] + columns[None, :]
    keep = mask != IGNORE
    found = np.bincount(pixel[keep] * n_classes + mask[keep], minlength=size[0] * size[1] * n_classes)
    if n_classes == 2 and mask.size < EXACT:
        pixels = np.ascontiguousarray(found.reshape(-1, 2).T, np.float32)
        return _Pair(pixels, pixels.sum(1, dtype=np.float64))
    cells = np.flatnonzero(found)
    return _Labels(
        (cells // n_classes).astype(np.int32),
        (cells % n_classes * n_classes).astype(np.int32),
        found[cells].astype(np.float32),
    )


def _source(n: int, wanted: int) -> NDArray[np.int64]:
    """Return which of ``n`` rows each of ``wanted`` rows is taken from, as predictions are resized."""
    ramp = np.arange(n)
    parts = (images.resize((ramp >> shift & 255).astype(np.uint8)[:, None], (wanted, 1), "nearest") for shift in (0, 8))
    low, high = (part[:, 0].astype(np.int64) for part in parts)
    return low + (high << 8)
