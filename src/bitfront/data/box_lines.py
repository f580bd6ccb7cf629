"""Boxes in text files, one file an image: class, centre x y, width, height as shares of the image's, one box a line.

The form of Darknet (Redmon et al. 2016) and its successors. A line with the corners of a polygon (class, x y, x y, ...)
gives the box around it. Not a plug-in itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DataError, LabelError

__all__ = ["read_boxes"]

SLACK = 0.01
"""How far outside the image a box may reach, as a share of its side; it is cut there."""


def read_boxes(
    path: Path | None, size: tuple[int, int], classes: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return boxes ``(n, 4)``, x1 y1 x2 y2 in pixels of an image of ``size``, and their classes ``(n,)``.

    ``None`` is an image without objects. Raises DataError for files that cannot be read, LabelError naming file and
    line for what makes no sense.
    """
    if path is None:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}", hint="text, one box a line") from error
    rows = [_row(line, f"{path}:{n}", classes) for n, line in enumerate(lines, 1) if line.strip()]
    labels = np.array([label for label, _ in rows], np.int64)
    shares = np.array([box for _, box in rows], np.float64).reshape(-1, 4)
    boxes = np.clip(shares, 0, 1) * np.array([size[1], size[0]] * 2)
    there = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[there].astype(np.float32), labels[there]


def _row(line: str, where: str, classes: Sequence[str]) -> tuple[int, tuple[float, float, float, float]]:
    try:
        label, *values = (float(word) for word in line.split())
    except ValueError:
        raise LabelError(f"{where}: '{line.strip()[:60]}' is not all numbers", hint="class x y width height") from None
    if label != int(label) or not 0 <= label < len(classes):
        raise LabelError(
            f"{where}: class {label:g}, but there are {len(classes)} classes (0..{len(classes) - 1})",
            hint="name all classes, or correct the line",
        )
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise LabelError(
            f"{where}: has {len(values) + 1} numbers", hint="class x y width height, or a polygon's corners"
        )
    if not all(-SLACK <= v <= 1 + SLACK for v in values):
        raise LabelError(
            f"{where}: {max(values, key=abs):g} is no share of the image's sides",
            hint="divide x and width by the image's width, y and height by its height",
        )
    if len(values) == 4:
        x, y, width, height = values
        return int(label), (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return int(label), (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
