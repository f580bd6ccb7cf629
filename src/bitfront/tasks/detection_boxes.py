"""Boxes as arrays: overlaps, the way back from a network's input to its image, and the truth of a sample.

Boxes are ``(n, 4)`` x1 y1 x2 y2. Not a plug-in itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront import images
from bitfront.contracts import DataInfo, InputContract, Sample
from bitfront.errors import DataError

__all__ = ["areas", "intersections", "restored", "truth_of"]

Boxes = NDArray[Any]
Truth = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]
"""Boxes ``(n, 4)``, the class of each among the objects, and whether it is ignored."""


def areas(boxes: Boxes) -> NDArray[Any]:
    """Area of each box ``(..., 4)``, in the boxes' dtype; 0 for inverted ones."""
    area: NDArray[Any] = np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(boxes[..., 3] - boxes[..., 1], 0)
    return area


def intersections(a: Boxes, b: Boxes) -> NDArray[Any]:
    """Area that each of ``a`` ``(n, 4)`` shares with each of ``b`` ``(m, 4)``: ``(n, m)``."""
    width = np.minimum(a[:, None, 2], b[:, 2]) - np.maximum(a[:, None, 0], b[:, 0])
    height = np.minimum(a[:, None, 3], b[:, 3]) - np.maximum(a[:, None, 1], b[:, 1])
    shared: NDArray[Any] = np.maximum(width, 0) * np.maximum(height, 0)
    return shared


def restored(boxes: Boxes, size: tuple[int, int], fed: InputContract) -> NDArray[np.float32]:
    """Boxes in pixels of the input -> pixels of the image of ``size`` (height, width), clipped to it."""
    height, width, top, left = fed.height, fed.width, 0, 0
    if fed.fit == "letterbox":
        height, width, top, left = images.letterbox(size, (fed.height, fed.width))
    factors = np.array([size[1] / width, size[0] / height] * 2)
    moved = (boxes.astype(np.float64) - [left, top, left, top]) * factors
    clipped: NDArray[np.float32] = np.clip(moved, 0, [size[1], size[0]] * 2).astype(np.float32)
    return clipped


def truth_of(sample: Sample, info: DataInfo) -> Truth:
    """Return a sample's boxes. Raises DataError without any, or for a class that is no object."""
    if sample.boxes is None or sample.labels is None:
        raise DataError(f"{sample.id}: no boxes to compare with", hint="use data whose images have boxes")
    labels = info.among_objects(sample.labels)
    if (labels < 0).any():
        wrong = int(sample.labels[labels < 0][0])
        names = ", ".join(info.classes[i] for i in info.objects)
        raise DataError(f"{sample.id}: a box of class {wrong}, which is none of the objects", hint=f"objects: {names}")
    ignored = np.zeros(len(labels), np.bool_) if sample.ignored is None else sample.ignored
    return sample.boxes.astype(np.float64).reshape(-1, 4), labels, ignored
