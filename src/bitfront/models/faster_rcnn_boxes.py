"""The geometry of detectors of two stages: anchors, coding of boxes, matching, suppression, pooling of regions.

Boxes are float32 ``(n, 4)``: x1 y1 x2 y2 in pixels of the input. Sources: Ren et al. 2015, "Faster R-CNN" (3.1); He et
al. 2017, "Mask R-CNN" (3: RoIAlign).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

__all__ = ["base_anchors", "clipped", "decode", "encode", "grid_anchors", "iou", "match", "nms", "roi_align", "sample"]

MAX_LOG_SCALE = math.log(1000 / 16)
"""No box becomes larger than so many anchors."""
BLOCK = 256
"""Boxes that are compared with each other in one step."""


def base_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> torch.Tensor:
    """Return anchors around the origin, rounded to pixels: ``(ratios * sizes, 4)``, ratio (height over width) first."""
    roots = torch.tensor(ratios).sqrt()
    widths = (1 / roots[:, None] * torch.tensor(sizes)).flatten()
    heights = (roots[:, None] * torch.tensor(sizes)).flatten()
    return (torch.stack([-widths, -heights, widths, heights], 1) / 2).round()


def grid_anchors(base: torch.Tensor, grid: tuple[int, int], stride: tuple[int, int]) -> torch.Tensor:
    """Return the anchors of a level, ordered by row, column and anchor: ``(rows * columns * len(base), 4)``."""
    ys = torch.arange(grid[0], device=base.device) * stride[0]
    xs = torch.arange(grid[1], device=base.device) * stride[1]
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    corners = torch.stack([x, y, x, y], 2).reshape(-1, 1, 4)
    return (corners + base).reshape(-1, 4)


def _centered(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + sides / 2, sides


def encode(boxes: torch.Tensor, anchors: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Code each box relative to its anchor (Ren et al. 2015, equation 2), centres and sizes times ``weights``."""
    (center, sides), (origin, unit) = _centered(boxes), _centered(anchors)
    return torch.cat([(center - origin) / unit * weights[0], (sides / unit).log() * weights[1]], 1)


def decode(codes: torch.Tensor, anchors: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Invert :func:`encode`, sizes limited."""
    origin, unit = _centered(anchors)
    center = codes[:, :2] / weights[0] * unit + origin
    half = (codes[:, 2:] / weights[1]).clamp(max=MAX_LOG_SCALE).exp() * unit / 2
    return torch.cat([center - half, center + half], 1)


def clipped(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return the boxes cut at the image's border."""
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of all pairs: ``(len(a), len(b))``; 0 for boxes without area."""
    shared = _shared(a[:, 0::2], b[:, 0::2]) * _shared(a[:, 1::2], b[:, 1::2])
    areas = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b)]
    return shared / (areas[0][:, None] + areas[1] - shared).clamp(min=1e-9)


def _shared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Length that intervals ``(n, 2)`` share: ``(len(a), len(b))``."""
    return (torch.minimum(a[:, 1:], b[:, 1]) - torch.maximum(a[:, :1], b[:, 0])).clamp(min=0)


def nms(boxes: torch.Tensor, scores: torch.Tensor, limit: float) -> torch.Tensor:
    """Return the positions of the boxes that greedy suppression keeps, the highest score first.

    A box stays when no kept box with a higher score overlaps it by more than ``limit``.
    """
    order = scores.argsort(descending=True, stable=True)
    kept = order[:0]
    for block in order.split(BLOCK):
        free = block[~(iou(boxes[kept], boxes[block]) > limit).any(0)]
        kept = torch.cat([kept, free[_undisturbed((iou(boxes[free], boxes[free]) > limit).triu(1))]])
    return kept


def _undisturbed(over: torch.Tensor) -> torch.Tensor:
    """Which of ``n`` boxes in order stay, given who would suppress whom ``(n, n)``.

    Found as the fixed point of that sentence, all boxes at once (Zheng et al. 2021, "Enhancing geometric factors in
    model learning and inference", section 3.4).
    """
    kept = torch.ones(len(over), dtype=torch.bool, device=over.device)
    while True:
        again = ~(over & kept[:, None]).any(0)
        if torch.equal(again, kept):
            return kept
        kept = again


def match(truth: torch.Tensor, boxes: torch.Tensor, low: float, high: float, *, best: bool) -> torch.Tensor:
    """Return for every box the index of its true one, -1 for background, -2 for neither: ``(len(boxes),)``.

    A box belongs to the true one it overlaps most, if by ``high`` at least, and to the background if by less than
    ``low``. With ``best`` those that overlap a true box most belong to theirs in any case.
    """
    if not len(truth):
        return torch.full((len(boxes),), -1, device=boxes.device)
    overlaps = iou(truth, boxes)
    value, index = overlaps.max(0)
    found = torch.where(value >= high, index, torch.where(value < low, -1, -2))
    if best:
        most = overlaps.max(1, keepdim=True).values
        lifted = ((overlaps == most) & (most > 0)).any(0)
        found = torch.where(lifted, index, found)
    return found


def sample(matches: torch.Tensor, n: int, share: float) -> torch.Tensor:
    """Draw ``n`` positions at most, up to ``share`` of them objects, the rest background."""
    objects, background = (matches >= 0).nonzero()[:, 0], (matches == -1).nonzero()[:, 0]
    objects = objects[torch.randperm(len(objects), device=objects.device)[: int(n * share)]]
    background = background[torch.randperm(len(background), device=objects.device)[: n - len(objects)]]
    return torch.cat([objects, background])


def roi_align(maps: torch.Tensor, boxes: torch.Tensor, image: torch.Tensor, scale: float, size: int) -> torch.Tensor:
    """Pool regions of maps ``(b, c, h, w)`` to ``(n, c, size, size)``: means of 2x2 bilinear samples a bin.

    ``image`` ``(n,)`` says whose map a box lies on, ``scale`` how many cells a pixel is. A region is at least one cell
    wide and high; samples more than one cell outside the map are 0. Every bin is a weighted sum of sixteen cells.
    """
    _, c, height, width = maps.shape
    x_cells, x_weights = _samples(boxes[:, 0] * scale, boxes[:, 2] * scale, size, width)
    y_cells, y_weights = _samples(boxes[:, 1] * scale, boxes[:, 3] * scale, size, height)
    rows = (image[:, None, None] * height + y_cells) * width
    cells = rows[:, :, None, :, None] + x_cells[:, None, :, None, :]
    weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
    table = maps.permute(0, 2, 3, 1).reshape(-1, c)
    n_cells = cells.shape[3] * cells.shape[4]
    bags = F.embedding_bag(
        cells.reshape(-1, n_cells), table, mode="sum", per_sample_weights=weights.reshape(-1, n_cells)
    )
    return bags.reshape(len(boxes), size, size, c).permute(0, 3, 1, 2)


def _samples(low: torch.Tensor, high: torch.Tensor, size: int, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cells that each bin of one axis reads, and their weights: ``(n, size, 4)`` each."""
    step = (high - low).clamp(min=1) / (2 * size)
    at = low[:, None] + (torch.arange(2 * size, device=low.device) + 0.5) * step[:, None]
    inside = (at >= -1) & (at <= cells)
    at = at.clamp(0, cells - 1)
    first = at.floor()
    share = at - first
    near = torch.stack([first, (first + 1).clamp(max=cells - 1)], 2).long()
    weights = torch.stack([1 - share, share], 2) * inside[:, :, None] / 2
    return near.reshape(-1, size, 4), weights.reshape(-1, size, 4)
