"""Scores of raw outputs on the same images: what the meter says of their predictions, by our own matching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from bitfront.contracts import DataInfo, Prediction, Sample
from bitfront.tasks.detection_boxes import truth_of
from bitfront.tasks.detection_matching import Matches, Rows, match
from bitfront.tasks.detection_meter import checked_score, found_of, score_of

__all__ = ["DetectionScorer"]

Read = Callable[[NDArray[Any], Sequence[tuple[int, int]]], list[Prediction]]
"""Raw outputs and the (height, width) of their images -> predictions."""


class DetectionScorer:
    """See :class:`bitfront.contracts.Scorer`: counts are the matches of each image."""

    def __init__(self, samples: Sequence[Sample], info: DataInfo, score: str, *, read: Read) -> None:
        """Keep the boxes of ``samples``. Raises UsageError for unknown scores, DataError without boxes."""
        self._score, self._read, self._n_classes = checked_score(score), read, len(info.objects)
        self._truths = [truth_of(sample, info) for sample in samples]
        self._sizes = [(sample.image.shape[0], sample.image.shape[1]) for sample in samples]
        self._ids = [sample.id for sample in samples]

    def count(self, positions: Sequence[int], outputs: NDArray[Any]) -> list[Matches]:
        """Return the matches of each sample at ``positions``."""
        predictions = self._read(outputs, [self._sizes[i] for i in positions])
        return [
            match(self._truths[i], found_of(prediction, self._ids[i], self._n_classes), self._n_classes)
            for i, prediction in zip(positions, predictions, strict=True)
        ]

    def score(self, counts: Sequence[Matches]) -> float:
        """Return the score over the counted samples; NaN where it is undefined."""
        return score_of(self._score, Rows.of(counts))
