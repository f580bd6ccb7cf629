"""Polygons and masks: filling, tracing, simplifying.

Coordinates are continuous: pixel ``(row, column)`` is the square from ``(x, y) = (column, row)`` to ``(column + 1,
row + 1)``, as in COCO. The rule of filling: a pixel is inside when its centre is, by even and odd crossings; a centre
on an edge belongs to what lies right of it or below. So polygons that share an edge share no pixel and leave none out,
and a mask that was traced along its pixels is filled again to the bit. (Pillow's ``ImageDraw.polygon`` also fills the
pixels that the outline touches: its areas are about half a perimeter larger.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Component", "Points", "components", "fill", "joined", "simplify", "trace"]

Points = NDArray[np.float64]
"""Corners of a ring, ``(n, 2)``: x, y in pixels."""


def fill(ring: Points, size: tuple[int, int]) -> tuple[int, int, NDArray[np.bool_]]:
    """Return top, left and the window ``(h, w)`` of the pixels inside a ring, within a picture of ``size``.

    The window is empty when no pixel centre lies inside.
    """
    height, width = size
    start, end = ring, np.roll(ring, -1, axis=0)
    upward = start[:, 1] > end[:, 1]
    above, below = np.where(upward[:, None], end, start), np.where(upward[:, None], start, end)
    first = np.clip(np.ceil(above[:, 1] - 0.5), 0, height).astype(np.intp)
    n_rows = np.clip(np.ceil(below[:, 1] - 0.5), 0, height).astype(np.intp) - first
    edge = np.repeat(np.arange(len(ring)), n_rows)
    if not edge.size:
        return 0, 0, np.zeros((0, 0), bool)
    row = first[edge] + np.arange(edge.size) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    (x, y), (x_end, y_end) = above[edge].T, below[edge].T
    crossing = x + (row + 0.5 - y) * ((x_end - x) / (y_end - y))
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.intp)
    top, left = int(row.min()), int(column.min())
    shape = (int(row.max()) - top + 1, int(column.max()) - left + 1)
    crossed = np.bincount((row - top) * shape[1] + column - left, minlength=shape[0] * shape[1]).reshape(shape)
    inside = np.bitwise_xor.accumulate((crossed & 1).astype(bool), axis=1)
    return top, left, inside[:, :-1]


# --- tracing ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """Pixels of one value that hang together by their sides."""

    value: int
    top: int
    left: int
    window: NDArray[np.bool_]


def components(mask: NDArray[np.uint8]) -> Iterator[Component]:
    """Split a label map ``(h, w)`` into its connected components, in reading order of their first pixels."""
    height, width = mask.shape
    if not mask.size:
        return
    begins = np.ones(mask.shape, bool)
    begins[:, 1:] = mask[:, 1:] != mask[:, :-1]
    run = (np.cumsum(begins) - 1).reshape(mask.shape)
    root = _united(run, mask, int(run[-1, -1]) + 1)
    start = np.flatnonzero(begins)
    stop = np.append(start[1:], mask.size) - 1
    row, left, right = start // width, start % width, stop % width + 1
    names, member = np.unique(root, return_inverse=True)
    tops, bottoms = np.full(len(names), height), np.zeros(len(names), np.intp)
    lefts, rights = np.full(len(names), width), np.zeros(len(names), np.intp)
    np.minimum.at(tops, member, row)
    np.maximum.at(bottoms, member, row + 1)
    np.minimum.at(lefts, member, left)
    np.maximum.at(rights, member, right)
    for at in range(len(names)):
        area = np.s_[tops[at] : bottoms[at], lefts[at] : rights[at]]
        value = int(mask.flat[start[names[at]]])
        yield Component(value, int(tops[at]), int(lefts[at]), member[run[area]] == at)


def _united(run: NDArray[np.intp], mask: NDArray[np.uint8], n: int) -> NDArray[np.intp]:
    """The first run of the component that each horizontal run of pixels belongs to."""
    above, below = run[:-1], run[1:]
    touching = mask[:-1] == mask[1:]
    touching[:, 1:] &= (above[:, 1:] != above[:, :-1]) | (below[:, 1:] != below[:, :-1]) | ~touching[:, :-1]
    parent = list(range(n))

    def find(a: int) -> int:
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        return a

    for a, b in zip(above[touching].tolist(), below[touching].tolist(), strict=True):
        first, second = sorted((find(a), find(b)))
        parent[second] = first
    return np.array([find(a) for a in range(n)])


SIDES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Row and column steps to the neighbours above, right, below, left; the side of a pixel towards each is its edge."""
CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1))
"""x, y from a pixel to where each of its edges begins, going round clockwise."""


def trace(component: Component) -> tuple[Points, list[Points]]:
    """Return the outer ring of a component and the rings of its holes, along the sides of its pixels.

    Only corners are kept; the outer ring goes clockwise (y points down), holes the other way. Pixels that only touch at
    a corner are not connected.
    """
    inside = np.pad(component.window, 1)
    stride = inside.shape[1]
    flat = inside.ravel()
    step = [rows * stride + columns for rows, columns in SIDES]
    pixels = np.flatnonzero(flat)
    is_edge = [np.zeros(flat.size, bool) for _ in SIDES]
    for side, there in enumerate(is_edge):
        there[pixels] = ~flat[pixels + step[side]]
    following: dict[int, int] = {}
    for side in range(4):
        at = pixels[is_edge[side][pixels]]
        turn = (side + 1) % 4
        ahead = at + step[turn]
        beyond = ahead + step[side]
        straight = is_edge[side][np.minimum(ahead, flat.size - 1)]
        after = np.where(straight, 4 * ahead + side, 4 * beyond + (side + 3) % 4)
        after = np.where(is_edge[turn][at], 4 * at + turn, after)
        following.update(zip((4 * at + side).tolist(), after.tolist(), strict=True))
    origin = np.array([component.left - 1, component.top - 1], float)
    rings = []
    for first in (4 * pixels[is_edge[0][pixels]]).tolist():
        if first in following:
            rings.append(_corners(_round(following, first), stride) + origin)
    return rings[0], rings[1:]


def _round(following: dict[int, int], first: int) -> list[int]:
    """The edges of one ring that go another way than the one before, taken out of ``following``."""
    turns = []
    edge = first
    while edge in following:
        after = following.pop(edge)
        if (after ^ edge) & 3:
            turns.append(after)
        edge = after
    return turns


def _corners(edges: Sequence[int], stride: int) -> Points:
    pixel, side = np.divmod(np.array(edges), 4)
    corners: Points = np.stack([pixel % stride, pixel // stride], axis=1) + np.array(CORNERS, float)[side]
    return corners


def joined(outer: Points, holes: Sequence[Points]) -> Points:
    """Return one ring for a shape with holes: each hole is reached by a slit without width, so nothing else changes.

    For formats without holes (COCO, label-studio, VOC). Filled by even and odd crossings it gives the same pixels.
    """
    ring = outer
    for hole in sorted(holes, key=lambda h: float(h[:, 0].min())):
        leftmost = int(hole[:, 0].argmin())
        nearest = int(((ring - hole[leftmost]) ** 2).sum(axis=1).argmin())
        around = np.roll(hole, -leftmost, axis=0)
        ring = np.concatenate([ring[: nearest + 1], around, around[:1], ring[nearest:]])
    return ring


def simplify(ring: Points, tolerance: float) -> Points:
    """Return a ring with fewer corners, none of those left out farther than ``tolerance`` pixels from it.

    Douglas and Peucker 1973, from the first corner and the one farthest from it. Less than three corners may be left.
    """
    if tolerance <= 0 or len(ring) < 4:
        return ring
    far = int(((ring - ring[0]) ** 2).sum(axis=1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, far]] = True
    spans = [(0, far), (far, len(ring))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        away = _distances(closed[first + 1 : last], closed[first], closed[last])
        worst = int(away.argmax())
        if away[worst] > tolerance:
            middle = first + 1 + worst
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    kept: Points = closed[:-1][keep[:-1]]
    return kept


def _distances(points: Points, start: Points, end: Points) -> NDArray[np.float64]:
    """Distance of each point from the segment between two."""
    along = end - start
    length = float(along @ along)
    share = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    distance: NDArray[np.float64] = np.hypot(*(points - start - share[:, None] * along).T)
    return distance
