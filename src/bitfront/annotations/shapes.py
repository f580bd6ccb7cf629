"""What labelling tools say of pictures, whatever their format; and how it becomes a label map.

The pixels of an object are polygons (their union) or COCO run lengths. Where objects overlap, the smaller one is on top
(of equal ones the later), or the later one when asked so. What only has a box is not painted: nobody knows which of its
pixels are the object, so those that no other object covers are ignored in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitfront.annotations.polygons import Points, fill
from bitfront.annotations.run_lengths import mask_of
from bitfront.contracts import IGNORE

__all__ = ["IGNORED", "Annotation", "Annotations", "Box", "Painted", "Picture", "Region", "Window", "boxes_of", "paint"]

IGNORED = "ignore"
"""The label of regions that no loss and no metric counts, in every format."""

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels, continuous."""
Window = tuple[int, int, NDArray[np.bool_]]
"""Top, left and the pixels of a part of a picture."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """The pixels of one object."""

    polygons: tuple[Points, ...] = ()
    counts: NDArray[np.int64] | None = None
    """COCO run lengths, for the whole picture."""

    def window(self, size: tuple[int, int]) -> Window:
        """Return the pixels in a picture of ``size``. Raises ValueError for run lengths of another size."""
        if self.counts is not None:
            return 0, 0, mask_of(self.counts, size)
        parts = [fill(polygon, size) for polygon in self.polygons]
        parts = [(top, left, inside) for top, left, inside in parts if inside.size]
        if len(parts) < 2:
            return parts[0] if parts else (0, 0, np.zeros((0, 0), bool))
        top, left = min(p[0] for p in parts), min(p[1] for p in parts)
        bottom = max(t + inside.shape[0] for t, _, inside in parts)
        right = max(x + inside.shape[1] for _, x, inside in parts)
        union = np.zeros((bottom - top, right - left), bool)
        for t, x, inside in parts:
            union[t - top : t - top + inside.shape[0], x - left : x - left + inside.shape[1]] |= inside
        return top, left, union


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """One labelled object."""

    label: str
    where: str
    """File and item, for messages."""
    region: Region | None = None
    """``None`` when there is only a box."""
    box: Box | None = None
    crowd: bool = False
    """A group that nobody took apart: its pixels count, its box does not."""
    difficult: bool = False
    """An object that need not be found (VOC): its box counts neither as found nor as missed."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture and its objects, in the order of the file."""

    name: str
    """As the file names it."""
    where: str
    size: tuple[int, int] | None
    """Height and width that the file states."""
    annotations: tuple[Annotation, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """All that one source says."""

    classes: tuple[str, ...]
    """All labels: in the order of a list of classes where the format has one, else sorted."""
    parts: Mapping[str, Sequence[Picture]]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Painted:
    """A label map and what happened in painting it."""

    mask: NDArray[np.uint8]
    n_labelled: int = 0
    """Pixels that an object covers."""
    n_covered: int = 0
    """Pixels on which an object hides one of another class."""
    n_empty: int = 0
    """Objects without a pixel centre in the picture."""


def paint(
    picture: Picture,
    size: tuple[int, int],
    values: Mapping[str, int],
    *,
    unlabelled: int = 0,
    smaller_on_top: bool = True,
    fill_boxes: bool = False,
) -> Painted:
    """Return the label map ``(h, w)`` of a picture of ``size``.

    ``values`` gives the value of every label; objects with other labels are left out. ``fill_boxes`` takes boxes for
    the objects themselves. Raises ValueError with file and item when run lengths do not fit the picture.
    """
    found = Painted(np.full(size, unlabelled, np.uint8))
    covered = np.zeros(size, bool)
    layers: list[tuple[int, Window]] = []
    for annotation in picture.annotations:
        if annotation.label not in values:
            continue
        region = annotation.region
        if region is None and annotation.box is not None:
            box = Region((_rectangle(annotation.box),))
            if not fill_boxes:
                _set(found.mask, box.window(size), IGNORE)
                continue
            region = box
        try:
            window = region.window(size) if region else (0, 0, np.zeros((0, 0), bool))
        except ValueError as error:
            raise ValueError(f"{annotation.where}: {error}") from None
        found.n_empty += not window[2].any()
        layers.append((values[annotation.label], window))
    if smaller_on_top:
        layers.sort(key=lambda layer: -int(layer[1][2].sum()))  # stable: of equal areas the later one is on top
    for value, window in layers:
        top, left, inside = window
        area = np.s_[top : top + inside.shape[0], left : left + inside.shape[1]]
        found.n_covered += int((inside & covered[area] & (found.mask[area] != value)).sum())
        _set(found.mask, window, value)
        covered[area] |= inside
    found.n_labelled = int(covered.sum())
    return found


def _set(mask: NDArray[np.uint8], window: Window, value: int) -> None:
    top, left, inside = window
    mask[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = value


def _rectangle(box: Box) -> Points:
    x1, y1, x2, y2 = box
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float)


def boxes_of(
    picture: Picture, size: tuple[int, int], values: Mapping[str, int], *, crowds: bool = False
) -> Iterator[tuple[int, Box, bool]]:
    """Yield class and box, cut at the picture's border, of every object that has an area there.

    An object without a box has the one around its pixels. Regions labelled to be ignored have none, crowds only when
    they are asked for. The third value says that a box counts neither as found nor as missed: crowds, difficult ones.
    """
    for annotation in picture.annotations:
        if (annotation.crowd and not crowds) or annotation.label == IGNORED or annotation.label not in values:
            continue
        box = annotation.box or (_around(annotation.region.window(size)) if annotation.region else None)
        if box is None:
            continue
        height, width = size
        x1, x2 = (min(max(x, 0.0), float(width)) for x in (box[0], box[2]))
        y1, y2 = (min(max(y, 0.0), float(height)) for y in (box[1], box[3]))
        if x2 > x1 and y2 > y1:
            yield values[annotation.label], (x1, y1, x2, y2), annotation.crowd or annotation.difficult


def _around(window: Window) -> Box | None:
    top, left, inside = window
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        return None
    return float(left + columns[0]), float(top + rows[0]), float(left + columns[-1] + 1), float(top + rows[-1] + 1)
