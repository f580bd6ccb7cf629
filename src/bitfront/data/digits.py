"""Handwritten digits of 8x8 pixels that come with scikit-learn: real data for a start, without files.

1797 grey images of 16 levels (Alpaydin and Kaynak 1998, the test part of UCI's "Optical recognition of handwritten
digits"); 15 % each are val and test, chosen by ``seed``, the same share of every class.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitfront.contracts import DataInfo
from bitfront.data.labelled import ArrayDataset, ArrayPart, split
from bitfront.errors import UsageError

__all__ = ["Digits"]

SHARE = 0.15
LEVELS = 16


class Digits(ArrayDataset):
    """The digits of scikit-learn."""

    @classmethod
    def open(cls, root: Path | None = None, *, seed: int = 0) -> Digits:
        """Return the dataset. Raises UsageError for a folder, or without scikit-learn."""
        if root is not None:
            raise UsageError(f"digits come with scikit-learn: nothing is read from {root}", hint="leave the folder out")
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UsageError(
                "digits come with scikit-learn, which is not installed", hint="pip install 'bitfront[digits]'"
            ) from error
        found = load_digits()
        images = np.rint(found.images * (255 / LEVELS)).astype(np.uint8)
        labels = found.target.astype(np.int64)
        places = split(labels.tolist(), seed, SHARE, SHARE)
        info = DataInfo("digits", tuple("0123456789"), tasks=("classification",), augment="none")
        return cls(info, {part: ArrayPart(part, images[chosen], labels[chosen]) for part, chosen in places.items()})

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """No folder holds them."""
        return False
