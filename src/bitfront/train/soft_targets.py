"""Losses between a student's outputs and its teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bitfront.contracts import Head
from bitfront.train.distill_options import DistillOptions

__all__ = ["CODINGS", "detector_loss", "temperature_loss"]

BOX, CLASSES = 4, 5
"""Numbers of a box; the first number of the classes, behind the objectness."""
CODINGS = ("yolo_v5", "yolo_v2")
"""Kinds of heads that have an objectness."""
LARGEST_EXPONENT = 20.0


def temperature_loss(student: Tensor, teacher: Tensor, temperature: float, keep: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence of softened classes, times T^2 (Hinton et al. 2015, section 2.1).

    ``student`` and ``teacher`` are logits ``(b, k, ...)``; with one channel the two classes are its sigmoid and the
    rest. The mean is over images and places, of ``keep`` ``(b, ...)`` where it is given (0 when none is kept).
    """
    s, t = student.float() / temperature, teacher.float() / temperature
    if s.shape[1] == 1:
        s, t = (torch.cat([torch.zeros_like(z), z], dim=1) for z in (s, t))
    log_s, log_t = s.log_softmax(dim=1), t.log_softmax(dim=1)
    divergence = (log_t.exp() * (log_t - log_s)).sum(dim=1)
    if keep is None:
        return temperature**2 * divergence.mean()
    kept = keep.to(divergence.dtype)
    return temperature**2 * (divergence * kept).sum() / kept.sum().clamp(min=1)


def detector_loss(
    student: Tensor, teacher: Tensor, head: Head, size: tuple[int, int], options: DistillOptions
) -> Tensor:
    """Objectness-scaled distillation (Mehta and Ozturk 2018, as in the code beside thesis 004).

    With raw numbers z, the teacher's T, its objectness s = sigmoid(T_obj), means over all elements of a level:

        b * factor * sum over levels of 0.05 mean((z_box - T_box)^2 s) + mean((z_obj - T_obj)^2 s)
            + 0.5 mean((z_cls - T_cls)^2 s)

    Args:
        student: raw ``(b, 5 + K, n)``.
        teacher: the same of the teacher, without gradient.
        head: a head with objectness (CODINGS), of both.
        size: (height, width) of the input.
        options: gains, and the variants ``objectness``, ``boxes`` and ``suppress``.
    """
    z, t = student.float(), teacher.float()
    scale = t[:, BOX].sigmoid()
    if options.suppress:
        kept = torch.cat([_surest(t[:, :, own.span], own, options.suppress) for own in _levels(head, size)], dim=1)
        scale = scale * kept
    of_objects = scale if options.objectness == "scaled" else torch.ones_like(scale)
    box, objects, classes = options.gains
    own_boxes, its_boxes = (_boxes(v, head.kind) if options.boxes == "decoded" else v[:, :BOX] for v in (z, t))
    losses = (
        box * (own_boxes - its_boxes).square() * scale[:, None],
        objects * (z[:, BOX : BOX + 1] - t[:, BOX : BOX + 1]).square() * of_objects[:, None],
        classes * (z[:, CLASSES:] - t[:, CLASSES:]).square() * scale[:, None],
    )
    total = z.new_zeros(())
    for level in _levels(head, size):
        for loss in losses:
            if loss.shape[1]:
                total = total + loss[:, :, level.span].mean()
    return len(z) * options.factor * total


@dataclass(frozen=True, slots=True)
class _Level:
    span: slice
    rows: int
    columns: int
    anchors: int


def _levels(head: Head, size: tuple[int, int]) -> Iterator[_Level]:
    start = 0
    for stride, anchors in zip(head.strides, head.anchors, strict=True):
        rows, columns = (-(-side // stride) for side in size)
        n = rows * columns * len(anchors)
        yield _Level(slice(start, start + n), rows, columns, len(anchors))
        start += n


def _boxes(raw: Tensor, kind: str) -> Tensor:
    """Centres in cells (but for the cell itself, which is the same for both) and sizes in anchors, ``(b, 4, n)``."""
    if kind == "yolo_v5":
        s = raw[:, :BOX].sigmoid()
        return torch.cat([2 * s[:, :2], (2 * s[:, 2:]).square()], dim=1)
    return torch.cat([raw[:, :2].sigmoid(), raw[:, 2:BOX].clamp(max=LARGEST_EXPONENT).exp()], dim=1)


def _surest(raw: Tensor, level: _Level, size: int) -> Tensor:
    """1 where no place of the same class within ``size`` x ``size`` cells has a higher objectness: ``(b, n)``."""
    b, numbers, n = raw.shape
    objectness, k = raw[:, BOX].sigmoid(), max(numbers - CLASSES, 1)
    label = raw[:, CLASSES:].argmax(dim=1) if numbers > CLASSES else torch.zeros_like(objectness, dtype=torch.long)
    maps = F.one_hot(label, k) * objectness[:, :, None]
    maps = maps.view(b, level.rows, level.columns, level.anchors, k).amax(dim=3).permute(0, 3, 1, 2)
    best = F.max_pool2d(maps, size, 1, size // 2).permute(0, 2, 3, 1)
    best = best[:, :, :, None].expand(-1, -1, -1, level.anchors, -1).reshape(b, n, k)
    return (objectness >= best.gather(2, label[:, :, None])[:, :, 0]).to(raw.dtype)
