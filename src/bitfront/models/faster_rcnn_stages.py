"""The parts of Faster R-CNN behind its feature extractor: pyramid, proposals, regions; each with its loss.

Ren et al. 2015, "Faster R-CNN", section 3; Lin et al. 2017, "Feature pyramid networks", section 4. Boxes are ``(n, 4)``
x1 y1 x2 y2 in pixels of the input, one tensor an image. What is drawn comes from torch's current generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from bitfront.models.faster_rcnn_boxes import (
    base_anchors,
    clipped,
    decode,
    encode,
    grid_anchors,
    match,
    nms,
    roi_align,
    sample,
)

__all__ = ["FeaturePyramid", "ProposalSettings", "Proposals", "RegionSettings", "Regions", "Truth"]

SMOOTH = 1 / 9
"""Below this error the loss of boxes is quadratic."""

Truth = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Boxes ``(n, 4)`` and classes of objects ``(n,)`` of every image."""

Levels = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]
"""Level by level logits ``(b, n)``, codes ``(b, n, 4)`` and anchors ``(n, 4)``."""


class FeaturePyramid(nn.Module):
    """Maps of several strides, with what the coarse ones know added to the fine ones, and one more of twice the stride.

    All come out with ``c`` channels.
    """

    def __init__(self, widths: Sequence[int], c: int) -> None:
        super().__init__()
        self.inner = nn.ModuleList(nn.Conv2d(wide, c, 1) for wide in widths)
        self.outer = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in widths)
        for layer in (*self.inner, *self.outer):
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the maps, the finest first."""
        last, found = None, []
        for inner, outer, x in reversed(list(zip(self.inner, self.outer, maps, strict=True))):
            y = inner(x)
            last = y if last is None else y + F.interpolate(last, size=y.shape[-2:], mode="nearest")
            found.append(outer(last))
        return [*reversed(found), F.max_pool2d(found[0], 1, 2)]


@dataclass(frozen=True, slots=True)
class ProposalSettings:
    """How regions are proposed."""

    sizes: tuple[tuple[float, ...], ...]
    """Sides of square anchors, one tuple a level."""
    confidence: float = 0.0
    """Regions less likely are dropped (not in training)."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    kept: int = 1000
    """Regions of a level, and of an image."""
    kept_in_training: int = 2000
    overlap: float = 0.7
    """Suppression."""
    background: float = 0.3
    """Anchors with less intersection over union than this are background, with ``overlap`` objects."""
    sampled: int = 256
    """Anchors of an image that have a loss; half of them objects, if there are so many."""


class Proposals(nn.Module):
    """Regions that may hold an object, from every anchor of every level."""

    def __init__(self, c: int, settings: ProposalSettings) -> None:
        super().__init__()
        self.settings = settings
        n = len(settings.sizes[0]) * len(settings.ratios)
        self.conv = nn.Conv2d(c, c, 3, padding=1)
        self.objectness = nn.Conv2d(c, n, 1)
        self.box = nn.Conv2d(c, 4 * n, 1)
        for layer in (self.conv, self.objectness, self.box):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[torch.Tensor], size: tuple[int, int]) -> Levels:
        """Return what every anchor says."""
        logits, codes, anchors = [], [], []
        for x, sizes in zip(maps, self.settings.sizes, strict=True):
            b, _, h, w = x.shape
            y = F.relu(self.conv(x))
            logits.append(self.objectness(y).permute(0, 2, 3, 1).reshape(b, -1))
            codes.append(self.box(y).reshape(b, -1, 4, h, w).permute(0, 3, 4, 1, 2).reshape(b, -1, 4))
            base = base_anchors(sizes, self.settings.ratios).to(x.device)
            anchors.append(grid_anchors(base, (h, w), (size[0] // h, size[1] // w)))
        return logits, codes, anchors

    def propose(self, found: Levels, size: tuple[int, int], *, training: bool) -> list[torch.Tensor]:
        """Return the regions of every image, the likeliest first; no gradient goes through them."""
        with torch.no_grad():
            return [self._of_image(found, i, size, training) for i in range(len(found[0][0]))]

    def _of_image(self, found: Levels, i: int, size: tuple[int, int], training: bool) -> torch.Tensor:
        kept = self.settings.kept_in_training if training else self.settings.kept
        confidence = 0.0 if training else self.settings.confidence
        boxes, scores = [], []
        for logits, codes, anchors in zip(*found, strict=True):
            top = logits[i].topk(min(kept, logits.shape[1])).indices
            region = clipped(decode(codes[i, top], anchors[top], (1.0, 1.0)), *size)
            score = logits[i, top].sigmoid()
            good = _large(region, 1e-3) & (score >= confidence)
            chosen = nms(region[good], score[good], self.settings.overlap)
            boxes.append(region[good][chosen])
            scores.append(score[good][chosen])
        order = torch.cat(scores).argsort(descending=True, stable=True)[:kept]
        return torch.cat(boxes)[order]

    def loss(self, found: Levels, truth: Truth) -> torch.Tensor:
        """Return the loss of sampled anchors: object or not, and where."""
        logits, codes, anchors = torch.cat(found[0], 1), torch.cat(found[1], 1), torch.cat(found[2])
        scores, wanted, errors, n = [], [], [codes.new_zeros(())], 0
        for i, (boxes, _) in enumerate(truth):
            matches = match(boxes, anchors, self.settings.background, self.settings.overlap, best=True)
            chosen = sample(matches, self.settings.sampled, 0.5)
            scores.append(logits[i, chosen])
            wanted.append((matches[chosen] >= 0).to(logits.dtype))
            objects = chosen[matches[chosen] >= 0]
            target = encode(boxes[matches[objects]], anchors[objects], (1.0, 1.0))
            errors.append(_box_loss(codes[i, objects], target))
            n += len(chosen)
        objectness = F.binary_cross_entropy_with_logits(torch.cat(scores), torch.cat(wanted))
        return objectness + torch.stack(errors).sum() / max(n, 1)


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """How regions become boxes of classes."""

    strides: tuple[int, ...]
    """Of the levels that regions are pooled from, the finest first."""
    pooled: int = 7
    weights: tuple[float, float] = (10.0, 5.0)
    """Of coded centres and sizes."""
    confidence: float = 0.05
    overlap: float = 0.5
    """Suppression within a class; in training, what makes a region an object's."""
    kept: int = 100
    """Boxes of an image."""
    sampled: int = 512
    """Regions of an image that have a loss; a quarter of them objects, if there are so many."""


class Regions(nn.Module):
    """Class and box of every region: pooled to 7x7, two dense layers, a score and a box for every class."""

    def __init__(self, c: int, hidden: int, classes: int, settings: RegionSettings) -> None:
        super().__init__()
        self.settings, self.classes = settings, 1 + classes
        self.first = nn.Linear(c * settings.pooled**2, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.label = nn.Linear(hidden, self.classes)
        self.box = nn.Linear(hidden, 4 * self.classes)

    def forward(self, maps: Sequence[torch.Tensor], regions: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits ``(n, 1 + classes)`` and codes ``(n, 1 + classes, 4)`` of all images' regions together."""
        x = F.relu(self.first(self._pool(maps, regions).flatten(1)))
        x = F.relu(self.second(x))
        return self.label(x), self.box(x).reshape(-1, self.classes, 4)

    def _pool(self, maps: Sequence[torch.Tensor], regions: list[torch.Tensor]) -> torch.Tensor:
        """Pool every region from the level of its size (Lin et al. 2017, equation 1): ``(n, c, 7, 7)``."""
        boxes = torch.cat(regions)
        image = torch.cat([torch.full((len(r),), i, device=boxes.device) for i, r in enumerate(regions)])
        strides, size = self.settings.strides, self.settings.pooled
        side = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
        first, last = math.log2(strides[0]), math.log2(strides[-1])
        level = (torch.floor(4 + torch.log2(side / 224 + 1e-6)).clamp(first, last) - first).long()
        pooled = boxes.new_zeros((len(boxes), maps[0].shape[1], size, size))
        for i, stride in enumerate(strides):
            of_level = (level == i).nonzero()[:, 0]
            part = roi_align(maps[i], boxes[of_level], image[of_level], 1 / stride, size)
            pooled = pooled.index_put((of_level,), part)
        return pooled

    def detect(self, maps: Sequence[torch.Tensor], regions: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Return ``(b, 6, kept)``: x1 y1 x2 y2, score and class of objects; the rest is zero."""
        logits, codes = self(maps, regions)
        out = logits.new_zeros((len(regions), 6, self.settings.kept))
        counts = [len(r) for r in regions]
        parts = zip(regions, logits.softmax(1).split(counts), codes.split(counts), strict=True)
        for i, (boxes, scores, code) in enumerate(parts):
            found = self._suppressed(boxes, scores, code, size)
            out[i, :, : len(found)] = found.T
        return out

    def _suppressed(
        self, regions: torch.Tensor, scores: torch.Tensor, codes: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        """Return the boxes of one image ``(n, 6)``, the highest score first."""
        found = [regions.new_zeros((0, 6))]
        for label in range(1, self.classes):
            good = scores[:, label] > self.settings.confidence
            boxes = clipped(decode(codes[good, label], regions[good], self.settings.weights), *size)
            score = scores[good, label]
            large = _large(boxes, 1e-2)
            boxes, score = boxes[large], score[large]
            kept = nms(boxes, score, self.settings.overlap)
            names = torch.full_like(score[kept], label - 1)
            found.append(torch.cat([boxes[kept], score[kept, None], names[:, None]], 1))
        every = torch.cat(found)
        return every[every[:, 4].argsort(descending=True, stable=True)[: self.settings.kept]]

    def loss(self, maps: Sequence[torch.Tensor], regions: list[torch.Tensor], truth: Truth) -> torch.Tensor:
        """Return the loss of sampled regions, the true boxes among them: which class, and where."""
        chosen, labels, targets = [], [], []
        for proposed, (boxes, names) in zip(regions, truth, strict=True):
            candidates = torch.cat([proposed, boxes])
            matches = match(boxes, candidates, self.settings.overlap, self.settings.overlap, best=False)
            picked = sample(matches, self.settings.sampled, 0.25)
            matches, candidates = matches[picked], candidates[picked]
            objects = matches >= 0
            label, target = torch.zeros_like(matches), torch.zeros_like(candidates)
            label[objects] = 1 + names[matches[objects]]
            target[objects] = encode(boxes[matches[objects]], candidates[objects], self.settings.weights)
            chosen.append(candidates)
            labels.append(label)
            targets.append(target)
        logits, codes = self(maps, chosen)
        label, target = torch.cat(labels), torch.cat(targets)
        objects = (label > 0).nonzero()[:, 0]
        error = _box_loss(codes[objects, label[objects]], target[objects])
        return F.cross_entropy(logits, label) + error / max(len(label), 1)


def _large(boxes: torch.Tensor, side: float) -> torch.Tensor:
    return (boxes[:, 2:] - boxes[:, :2] >= side).all(1)


def _box_loss(codes: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.smooth_l1_loss(codes, target, beta=SMOOTH, reduction="sum")
