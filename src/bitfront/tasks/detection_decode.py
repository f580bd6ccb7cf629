"""Raw outputs of detectors ``(b, k, n)`` -> candidates: boxes with a class and a score, before suppression.

With ``t`` the raw numbers at a place, ``s`` the sigmoid, column ``i`` and row ``j`` of its cell, stride ``d`` and
anchor ``(a, b)`` (:class:`bitfront.contracts.Head` lists the order of the numbers):

``yolo_v5`` (Jocher 2020)
    x = (2 s(tx) - 0.5 + i) d, y alike with j; w = (2 s(tw))^2 a, h = (2 s(th))^2 b; score = s(objectness) s(class)
``yolo_v2`` (Redmon and Farhadi 2017, section 2)
    x = (s(tx) + i) d, y alike; w = exp(tw) a, h = exp(th) b; score = s(objectness) softmax(classes)
``ssd`` (Liu et al. 2016, equation 2, with the usual factors 10 and 5; centre ``(x, y)`` of the cell)
    x = tx a / 10 + centre, w = exp(tw / 5) a, y and h alike; score = s(class), the background left out
``decoded``, ``boxes``
    as they are, in the head's unit

Only places whose score can exceed the confidence are decoded, and of those the best :data:`MAX_CANDIDATES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import Head, InputContract, OutputContract
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.tasks.detection_places import places

__all__ = ["KINDS", "MAX_CANDIDATES", "Candidates", "candidates", "corners"]

MAX_CANDIDATES = 30_000
"""Boxes of an image that suppression looks at: those with the highest scores."""
LARGEST_EXPONENT = 20.0
"""exp() is not fed more: a box of e^20 anchors is the whole image."""
SSD_FACTORS = (10.0, 5.0)
"""Of centres and of sizes."""


class Candidates(NamedTuple):
    """Boxes of one image in pixels of the input."""

    boxes: NDArray[np.float32]
    """``(m, 4)`` x1 y1 x2 y2."""
    scores: NDArray[np.float32]
    """``(m,)``, all above the confidence."""
    labels: NDArray[np.int64]
    """``(m,)``."""


def candidates(
    outputs: NDArray[Any], output: OutputContract, fed: InputContract, confidence: float, multi_label: bool = True
) -> list[Candidates]:
    """Return the candidates of each image of a batch, in no order.

    ``outputs`` is ``(b, k, n)``, or what the head's layout says. With ``multi_label`` a place stands for
    every class above the confidence, else for its best one. Raises UsageError without a head, DataError for outputs
    that do not fit it.
    """
    if output.head is None:
        raise UsageError("a detector's output cannot be read without its head", hint="name the head's kind and anchors")
    head, size = output.head, (fed.height, fed.width)
    if head.kind not in KINDS:
        raise unknown_name("kind of head", head.kind, KINDS)
    raw = _ordered(np.asarray(outputs, np.float32), head)
    _check(raw, head, len(output.classes), size)
    return [KINDS[head.kind](one, head, size, confidence, multi_label) for one in raw]


def _ordered(raw: NDArray[np.float32], head: Head) -> NDArray[np.float32]:
    """Bring outputs of any layout to ``(b, k, n)``."""
    if head.layout == "bnk" and raw.ndim == 3:
        return raw.transpose(0, 2, 1)
    if head.layout == "maps" and raw.ndim == 4:
        b, numbers, rows, columns = raw.shape
        n_anchors = max(1, len(head.anchors[0]) if head.anchors else 1)
        each = raw[:, : numbers // n_anchors * n_anchors].reshape(b, n_anchors, -1, rows * columns)
        return each.transpose(0, 2, 3, 1).reshape(b, each.shape[2], -1)
    return raw


def corners(centers: NDArray[np.float32], sides: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centres x y and sides w h, ``(m, 2)`` each -> ``(m, 4)`` x1 y1 x2 y2."""
    return np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)


def _check(raw: NDArray[np.float32], head: Head, n_classes: int, size: tuple[int, int]) -> None:
    wanted = 6 if head.kind == "boxes" else 5 + n_classes
    n = places(head, size).n if head.kind in ("yolo_v5", "yolo_v2", "ssd") else raw.shape[-1]
    if raw.shape[1:] != (wanted, n):
        raise DataError(
            f"a head '{head.kind}' for {n_classes} classes at {size[0]}x{size[1]} gives {wanted} numbers at {n} "
            f"places, and this network {' x '.join(map(str, raw.shape[1:]))}",
            hint="check the classes, the input's size and the head's strides, anchors and layout",
        )


# --- kinds -----------------------------------------------------------------------------------------------------------
def _yolo_v5(raw: NDArray[np.float32], head: Head, size: tuple[int, int], least: float, multi: bool) -> Candidates:
    at = np.flatnonzero(raw[4] > _logit(least))
    t, grid = raw[:, at], places(head, size)
    found = _scored(_sigmoid(t[4]) * _sigmoid(t[5:]), least, multi)
    t, at = t[:, found.place], at[found.place]
    xy, wh = _sigmoid(t[:2].T), _sigmoid(t[2:4].T)
    return _candidates((2 * xy - 0.5 + grid.cells[at]) * grid.strides[at], (2 * wh) ** 2 * grid.anchors[at], found)


def _yolo_v2(raw: NDArray[np.float32], head: Head, size: tuple[int, int], least: float, multi: bool) -> Candidates:
    at = np.flatnonzero(raw[4] > _logit(least))
    t, grid = raw[:, at], places(head, size)
    powers = np.exp(t[5:] - t[5:].max(axis=0, initial=-np.inf))
    found = _scored(_sigmoid(t[4]) * (powers / powers.sum(axis=0)), least, multi)
    t, at = t[:, found.place], at[found.place]
    xy = (_sigmoid(t[:2].T) + grid.cells[at]) * grid.strides[at]
    return _candidates(xy, _exp(t[2:4].T) * grid.anchors[at], found)


def _ssd(raw: NDArray[np.float32], head: Head, size: tuple[int, int], least: float, multi: bool) -> Candidates:
    at = np.flatnonzero(raw[5:].max(axis=0) > _logit(least))
    t, grid = raw[:, at], places(head, size)
    found = _scored(_sigmoid(t[5:]), least, multi)
    t, at = t[:, found.place], at[found.place]
    xy = t[[1, 0]].T / SSD_FACTORS[0] * grid.anchors[at] + grid.centers[at]
    return _candidates(xy, _exp(t[[3, 2]].T / SSD_FACTORS[1]) * grid.anchors[at], found)


def _decoded(raw: NDArray[np.float32], head: Head, size: tuple[int, int], least: float, multi: bool) -> Candidates:
    v = raw[:, raw[4] > least]
    found = _scored(v[4] * v[5:], least, multi)
    pixels = v[:4, found.place].T * _pixels(head, size)
    return _candidates(pixels[:, :2], pixels[:, 2:], found)


def _boxes(raw: NDArray[np.float32], head: Head, size: tuple[int, int], least: float, multi: bool) -> Candidates:
    v = raw[:, (raw[4] > least) & (raw[5] >= 0) & np.isfinite(raw).all(axis=0)]
    labels = np.rint(v[5]).astype(np.int64)
    if head.ids:
        table = np.full(max(head.ids) + 2, -1, np.int64)
        table[list(head.ids)] = np.arange(len(head.ids))
        labels = table[np.minimum(labels, len(table) - 1)]
        v, labels = v[:, labels >= 0], labels[labels >= 0]
    return Candidates(v[:4].T * _pixels(head, size), v[4], labels)


Kind = Callable[[NDArray[np.float32], Head, tuple[int, int], float, bool], Candidates]
KINDS: Mapping[str, Kind] = {
    "yolo_v5": _yolo_v5,
    "yolo_v2": _yolo_v2,
    "ssd": _ssd,
    "decoded": _decoded,
    "boxes": _boxes,
}
"""Kind of head -> ``(k, n)`` numbers, head, input size, least score, many classes a place -> candidates."""


# --- parts -----------------------------------------------------------------------------------------------------------
class _Scored(NamedTuple):
    place: NDArray[np.intp]
    label: NDArray[np.int64]
    score: NDArray[np.float32]


def _scored(scores: NDArray[np.float32], least: float, multi: bool) -> _Scored:
    """Pick the classes of ``(K, m)`` scores above ``least``: all of a place, or its best (the lower on ties)."""
    if multi:
        label, place = np.nonzero(scores > least)
    else:
        label = scores.argmax(axis=0)
        place = np.flatnonzero(scores[label, np.arange(scores.shape[1])] > least)
        label = label[place]
    score = scores[label, place]
    if len(score) > MAX_CANDIDATES:
        best = np.sort(np.argpartition(-score, MAX_CANDIDATES)[:MAX_CANDIDATES])
        place, label, score = place[best], label[best], score[best]
    return _Scored(place, label.astype(np.int64), score)


def _candidates(centers: NDArray[np.float32], sides: NDArray[np.float32], found: _Scored) -> Candidates:
    boxes = corners(centers, sides)
    finite = np.isfinite(boxes).all(axis=1)
    if finite.all():
        return Candidates(boxes, found.score, found.label)
    return Candidates(boxes[finite], found.score[finite], found.label[finite])


def _pixels(head: Head, size: tuple[int, int]) -> NDArray[np.float32]:
    """What to multiply x y x y with."""
    return np.array([size[1], size[0]] * 2 if head.unit == 0 else [1 / head.unit] * 4, np.float32)


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.float32(1) / (np.float32(1) + np.exp(np.minimum(-x, np.float32(80))))


def _exp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.exp(np.minimum(x, np.float32(LARGEST_EXPONENT)))


def _logit(share: float) -> float:
    return float(np.log(share / (1 - share))) if 0 < share < 1 else float(np.copysign(np.inf, share - 0.5))
