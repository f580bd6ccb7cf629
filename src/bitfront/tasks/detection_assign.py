"""Which place of a head answers for which true box in training: arrays of one row for each (place, box) pair.

Truth comes as ``(m, 4)`` centre x, centre y, width, height in pixels of the input. Not a plug-in itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import Head
from bitfront.tasks.detection_boxes import areas, intersections
from bitfront.tasks.detection_decode import corners
from bitfront.tasks.detection_places import Level, places

__all__ = ["Assigned", "assign_ssd", "assign_yolo_v2", "assign_yolo_v5"]

SSD_OVERLAP = 0.5
"""Intersection over union from which an anchor answers for a box (Liu et al. 2016, section 2.2)."""


class Assigned(NamedTuple):
    """Pairs of places and true boxes."""

    place: NDArray[np.int64]
    """``(p,)``."""
    box: NDArray[np.int64]
    """``(p,)``: position in the truth."""


def assign_yolo_v5(boxes: NDArray[np.float32], head: Head, size: tuple[int, int], anchor_ratio: float) -> Assigned:
    """Every level and anchor whose sides differ less than ``anchor_ratio`` times from the box's answers for it.

    It does so in the cell of the box's centre and in the nearest neighbour cells to the sides, above and below that
    lie in the grid (one of each pair): Jocher 2020.
    """
    pairs = [_on_level(boxes, level, anchor_ratio) for level in places(head, size).levels]
    return Assigned(np.concatenate([p.place for p in pairs]), np.concatenate([p.box for p in pairs]))


def _on_level(boxes: NDArray[np.float32], level: Level, anchor_ratio: float) -> Assigned:
    ratio = boxes[:, None, 2:] / level.anchors
    fits = np.maximum(ratio, 1 / np.maximum(ratio, 1e-9)).max(axis=2, initial=0) < anchor_ratio
    box, anchor = np.nonzero(fits)
    grid = np.array([level.columns, level.rows])
    at = boxes[box, :2] / level.stride
    cell = np.clip(np.floor(at), 0, grid - 1).astype(np.int64)
    side = np.sign(at - cell - 0.5).astype(np.int64)
    steps = [np.zeros_like(side), side * [1, 0], side * [0, 1]]
    cells = np.concatenate([cell + step for step in steps])
    new = np.concatenate([np.ones(len(box), np.bool_), side[:, 0] != 0, side[:, 1] != 0])
    keep = new & ((cells >= 0) & (cells < grid)).all(axis=1)
    box, anchor = np.tile(box, 3), np.tile(anchor, 3)
    place = level.start + (cells[:, 1] * level.columns + cells[:, 0]) * len(level.anchors) + anchor
    return Assigned(place[keep].astype(np.int64), box[keep].astype(np.int64))


def assign_yolo_v2(boxes: NDArray[np.float32], head: Head, size: tuple[int, int]) -> Assigned:
    """The anchor of the most similar shape answers, in the cell of the box's centre (Redmon and Farhadi 2017)."""
    found = places(head, size)
    shapes = np.concatenate([level.anchors for level in found.levels])
    shared = np.minimum(boxes[:, None, 2:], shapes).prod(axis=2)
    best = (shared / (boxes[:, None, 2:].prod(axis=2) + shapes.prod(axis=1) - shared)).argmax(axis=1)
    place = np.zeros(len(boxes), np.int64)
    first = 0
    for level in found.levels:
        own = (best >= first) & (best < first + len(level.anchors))
        cell = np.floor(boxes[own, :2] / level.stride).astype(np.int64)
        column, row = np.clip(cell, 0, [level.columns - 1, level.rows - 1]).T
        place[own] = level.start + (row * level.columns + column) * len(level.anchors) + best[own] - first
        first += len(level.anchors)
    return Assigned(place, np.arange(len(boxes)))


def assign_ssd(boxes: NDArray[np.float32], head: Head, size: tuple[int, int]) -> Assigned:
    """Every anchor answers for the box it overlaps most, from SSD_OVERLAP on; every box has its best anchor.

    ``boxes`` are those of one image: Liu et al. 2016, section 2.2.
    """
    if not len(boxes):
        return Assigned(np.zeros(0, np.int64), np.zeros(0, np.int64))
    found = places(head, size)
    anchors, true = corners(found.centers, found.anchors), corners(boxes[:, :2], boxes[:, 2:])
    shared = intersections(anchors, true)
    overlap = shared / (areas(anchors)[:, None] + areas(true) - shared)
    answers, reach = overlap.argmax(axis=1), overlap.max(axis=1)
    best = overlap.argmax(axis=0)
    answers[best], reach[best] = np.arange(len(boxes)), 1.0
    place = np.flatnonzero(reach >= SSD_OVERLAP)
    return Assigned(place, answers[place])
