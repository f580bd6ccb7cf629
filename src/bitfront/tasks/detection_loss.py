"""Training losses of detectors, in torch, by kind of head.

``yolo_v5`` (Jocher 2020)
    For each level, at the places that :func:`~bitfront.tasks.detection_assign.assign_yolo_v5` names: 1 - CIoU (Zheng et
    al. 2020, equations 9 to 11), mean, and binary cross-entropy of the classes, mean (none for a single class). At all
    places: binary cross-entropy of the objectness, mean, times the level's balance; its target is the CIoU of the box
    found there (0 at least, no gradient; the best one of a place with several boxes). The weighted sum over the terms,
    times the batch size.
``yolo_v2``
    The same with YOLOv2's coding and assignment (one anchor in one cell); the classes by softmax cross-entropy. The
    squared errors of the paper are not used.
``ssd`` (Liu et al. 2016, equations 1 to 3)
    Smooth L1 of the coded boxes, and binary cross-entropy of background and classes (scores are read as sigmoids) with
    the hardest negatives of each image, three for each positive; sums over the number of positives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import Head, OutputContract
from bitfront.errors import UsageError
from bitfront.tasks.detection_assign import Assigned, assign_ssd, assign_yolo_v2, assign_yolo_v5
from bitfront.tasks.detection_decode import LARGEST_EXPONENT, SSD_FACTORS
from bitfront.tasks.detection_places import places

if TYPE_CHECKING:
    import torch

__all__ = ["Gains", "detection_loss"]

NEGATIVES = 3
"""Negatives of SSD for each positive; an image without positives has as many as one positive."""


@dataclass(frozen=True, slots=True)
class Gains:
    """Weights of the terms of a YOLO's loss."""

    box: float
    objectness: float
    classes: float
    balance: tuple[float, ...]
    """Of the objectness of each level, from fine to coarse; missing ones are 1, and so is that of a single level."""
    anchor_ratio: float


class _Targets(NamedTuple):
    """The (place, true box) pairs of a batch, as tensors."""

    image: torch.Tensor
    """``(p,)``."""
    place: torch.Tensor
    """``(p,)``."""
    box: torch.Tensor
    """``(p, 4)``: centre x y, w, h in pixels of the input."""
    label: torch.Tensor
    """``(p,)``: class among the objects."""


def detection_loss(
    outputs: torch.Tensor,
    boxes: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int64]],
    *,
    size: tuple[int, int],
    output: OutputContract,
    gains: Gains,
) -> torch.Tensor:
    """Return the scalar loss of raw outputs ``(b, k, n)``.

    ``boxes`` and ``labels`` are those of each image: x1 y1 x2 y2 in pixels of the input of ``size`` (height, width),
    classes among the objects. Raises UsageError without a head, for heads that cannot be trained, and for outputs that
    do not fit.
    """
    head = output.head
    if head is None:
        raise UsageError("this network has no head that gives boxes", hint="choose a model that does detection")
    if head.kind not in _LOSSES:
        raise UsageError(
            f"a head '{head.kind}' cannot be trained: its outputs are decoded already",
            hint=f"train the network before its export; heads that can be: {', '.join(_LOSSES)}",
        )
    raw = (outputs.transpose(1, 2) if head.layout == "bnk" else outputs).float()
    n, numbers = places(head, size).n, 5 + len(output.classes)
    if raw.ndim != 3 or raw.shape[1:] != (numbers, n):
        raise UsageError(
            f"this head has {numbers} numbers at {n} places of {size[0]}x{size[1]}, and the network gives "
            f"{tuple(outputs.shape)}",
            hint="choose a model that does detection, for these classes",
        )
    assign, loss = _LOSSES[head.kind]
    pairs = [assign(_centered(own), head, size, gains) for own in boxes]
    return loss(raw.transpose(1, 2), _targets(pairs, boxes, labels, outputs), head, size, gains)


def _centered(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    corners = boxes.reshape(-1, 4)
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)


def _targets(
    pairs: Sequence[Assigned],
    boxes: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int64]],
    outputs: torch.Tensor,
) -> _Targets:
    import torch

    columns = (
        np.repeat(np.arange(len(pairs)), [len(p.place) for p in pairs]),
        np.concatenate([p.place for p in pairs]),
        np.concatenate([_centered(own)[p.box] for own, p in zip(boxes, pairs, strict=True)]).astype(np.float32),
        np.concatenate([own[p.box] for own, p in zip(labels, pairs, strict=True)]).astype(np.int64),
    )
    return _Targets(*(torch.from_numpy(column).to(outputs.device) for column in columns))


# --- YOLO ------------------------------------------------------------------------------------------------------------
def _yolo(raw: torch.Tensor, targets: _Targets, head: Head, size: tuple[int, int], gains: Gains) -> torch.Tensor:
    """Sum over levels, times the batch size; ``raw`` is ``(b, n, k)``."""
    import torch
    import torch.nn.functional as F

    levels = places(head, size).levels
    balance = (*gains.balance, *(1.0,) * len(levels)) if len(levels) > 1 else (1.0,)
    objectness, t = raw[:, :, 4], raw[targets.image, targets.place]
    overlap = _ciou(_decoded(t, targets.place, head, size), targets.box)
    flat = targets.image * raw.shape[1] + targets.place
    wanted = torch.zeros(objectness.numel(), device=raw.device)
    wanted = wanted.scatter_reduce(0, flat, overlap.detach().clamp(min=0), "amax").view_as(objectness)
    total = raw.new_zeros(())
    for level, weight in zip(levels, balance, strict=False):
        span = slice(level.start, level.start + level.n)
        total = total + gains.objectness * weight * F.binary_cross_entropy_with_logits(
            objectness[:, span], wanted[:, span]
        )
        own = (targets.place >= span.start) & (targets.place < span.stop)
        if own.any():
            classes = _class_loss(t[own, 5:], targets.label[own], head)
            total = total + gains.box * (1 - overlap[own]).mean() + gains.classes * classes
    return total * len(raw)


def _decoded(t: torch.Tensor, place: torch.Tensor, head: Head, size: tuple[int, int]) -> torch.Tensor:
    """``(p, 5 + K)`` raw numbers at places -> ``(p, 4)`` centre x y, w, h, as the read-out has them."""
    import torch

    found = places(head, size)
    at = place.cpu().numpy()
    cells, strides, anchors = (
        torch.from_numpy(v[at]).to(t.device) for v in (found.cells, found.strides, found.anchors)
    )
    if head.kind == "yolo_v5":
        s = t[:, :4].sigmoid()
        return torch.cat([(2 * s[:, :2] - 0.5 + cells) * strides, (2 * s[:, 2:]) ** 2 * anchors], dim=1)
    return torch.cat(
        [(t[:, :2].sigmoid() + cells) * strides, t[:, 2:4].clamp(max=LARGEST_EXPONENT).exp() * anchors], dim=1
    )


def _class_loss(logits: torch.Tensor, label: torch.Tensor, head: Head) -> torch.Tensor:
    import torch.nn.functional as F

    if logits.shape[1] == 1:
        return logits.new_zeros(())
    if head.kind == "yolo_v2":
        return F.cross_entropy(logits, label)
    return F.binary_cross_entropy_with_logits(logits, F.one_hot(label, logits.shape[1]).to(logits.dtype))


def _ciou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Complete IoU of boxes ``(p, 4)`` centre x y, w, h, pair by pair: IoU - distance - shape (Zheng et al. 2020)."""
    import torch

    low = torch.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = torch.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    shared = (high - low).clamp(min=0).prod(dim=1)
    iou = shared / (a[:, 2:].prod(dim=1) + b[:, 2:].prod(dim=1) - shared + 1e-7)
    hull = torch.maximum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2) - torch.minimum(
        a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2
    )
    distance = (a[:, :2] - b[:, :2]).square().sum(dim=1) / (hull.square().sum(dim=1) + 1e-7)
    angles = [torch.atan(v[:, 2] / (v[:, 3] + 1e-7)) for v in (a, b)]
    shape = 4 / math.pi**2 * (angles[1] - angles[0]).square()
    with torch.no_grad():
        weight = shape / (1 - iou + shape + 1e-7)
    return iou - distance - weight * shape


# --- SSD -------------------------------------------------------------------------------------------------------------
def _ssd(raw: torch.Tensor, targets: _Targets, head: Head, size: tuple[int, int], gains: Gains) -> torch.Tensor:
    """``raw`` is ``(b, n, k)``: y x h w, background, classes."""
    import torch
    import torch.nn.functional as F

    boxes = F.smooth_l1_loss(raw[targets.image, targets.place, :4], _coded(targets, head, size), reduction="sum")
    truth = torch.zeros(raw.shape[:2], dtype=torch.long, device=raw.device)  # 0 = background
    truth[targets.image, targets.place] = targets.label + 1
    wanted = F.one_hot(truth, raw.shape[2] - 4).to(raw.dtype)
    losses = F.binary_cross_entropy_with_logits(raw[:, :, 4:], wanted, reduction="none").sum(dim=2)
    positive = truth > 0
    with torch.no_grad():
        rank = losses.masked_fill(positive, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
        hard = rank < NEGATIVES * positive.sum(dim=1, keepdim=True).clamp(min=1)
    return (boxes + losses[positive | hard].sum()) / positive.sum().clamp(min=1)


def _coded(targets: _Targets, head: Head, size: tuple[int, int]) -> torch.Tensor:
    """True boxes as a head should give them, y x h w ``(p, 4)``: equation 2, times the usual factors."""
    import torch

    found, at = places(head, size), targets.place.cpu().numpy()
    centers, anchors = (torch.from_numpy(v[at]).to(targets.box.device) for v in (found.centers, found.anchors))
    xy = (targets.box[:, :2] - centers) / anchors * SSD_FACTORS[0]
    wh = (targets.box[:, 2:].clamp(min=1e-3) / anchors).log() * SSD_FACTORS[1]
    return torch.cat([xy.flip(1), wh.flip(1)], dim=1)


_Assign = Callable[[NDArray[np.float32], Head, tuple[int, int], Gains], Assigned]
_Loss = Callable[["torch.Tensor", _Targets, Head, tuple[int, int], Gains], "torch.Tensor"]
_LOSSES: Mapping[str, tuple[_Assign, _Loss]] = {
    "yolo_v5": (lambda boxes, head, size, gains: assign_yolo_v5(boxes, head, size, gains.anchor_ratio), _yolo),
    "yolo_v2": (lambda boxes, head, size, gains: assign_yolo_v2(boxes, head, size), _yolo),
    "ssd": (lambda boxes, head, size, gains: assign_ssd(boxes, head, size), _ssd),
}
"""Kind of head -> assignment of one image's boxes (centre x y, w, h), loss."""
