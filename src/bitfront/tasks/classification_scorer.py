"""Scores of raw outputs on the same images: what the meter says of their predictions, without making these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import DataInfo, Sample
from bitfront.tasks.classification_meter import checked_score, counted, label_of, score_of

__all__ = ["ClassificationScorer"]

Read = Callable[[NDArray[Any]], tuple[NDArray[np.int64], NDArray[np.float32]]]
"""Raw outputs -> classes ``(b,)`` and logits ``(b, k)``."""


class ClassificationScorer:
    """See :class:`bitfront.contracts.Scorer`: counts are ``(3,)``, the rows that the meter keeps."""

    def __init__(self, samples: Sequence[Sample], info: DataInfo, score: str, *, read: Read) -> None:
        """Keep the classes of ``samples``. Raises UsageError for unknown scores, DataError without classes."""
        self._k, self._score, self._read = len(info.classes), checked_score(info, score), read
        self._labels = [label_of(sample, info) for sample in samples]

    def count(self, positions: Sequence[int], outputs: NDArray[Any]) -> list[NDArray[np.int64]]:
        """Return class, predicted class and whether the class is among the five largest logits, of each sample."""
        found = zip(positions, *self._read(outputs), strict=True)
        return [np.array(counted(self._labels[i], int(guess), logits), np.int64) for i, guess, logits in found]

    def score(self, counts: Sequence[NDArray[np.int64]]) -> float:
        """Return the score over all counted samples; NaN where it is undefined."""
        return score_of(self._score, np.stack(counts), self._k)
