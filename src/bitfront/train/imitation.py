"""Feature imitation: which cells a student imitates, through which layer, and what that costs it.

Wang et al. 2019, "Distilling Object Detectors with Fine-grained Feature Imitation", section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitfront.errors import UsageError
from bitfront.graph.ir import Graph
from bitfront.graph.module import GraphModule

__all__ = ["Seen", "adapter", "anchor_mask", "imitation_loss", "usual_part", "watching"]

INPUT = ":in"
"""Behind a part's name: what goes in, not what comes out."""
NEAR_ZERO = 1e-4
"""Standard deviation that the weights of an adaptation layer are drawn with."""

Seen = list[Tensor]


# --- where -----------------------------------------------------------------------------------------------------------
def anchor_mask(
    boxes: NDArray[np.float32],
    anchors: NDArray[np.float32],
    grid: tuple[int, int],
    stride: tuple[float, float],
    threshold: float = 0.5,
) -> NDArray[np.bool_]:
    """Return the cells where some anchor overlaps some box more than ``threshold`` times that box's best overlap.

    Args:
        boxes: ``(m, 4)`` x1 y1 x2 y2 in pixels of the input.
        anchors: ``(a, 2)`` width and height in cells; they stand in the middle of every cell.
        grid: rows and columns.
        stride: pixels of a cell, vertically and horizontally.
        threshold: share of the largest intersection over union with a box.

    Returns:
        ``(rows, columns)``.
    """
    mask = np.zeros(grid, np.bool_)
    places = [np.arange(n)[:, None] + 0.5 for n in grid]
    for box in np.asarray(boxes, np.float64).reshape(-1, 4) / [stride[1], stride[0], stride[1], stride[0]]:
        rows, columns = (
            np.maximum(np.minimum(at + side / 2, high) - np.maximum(at - side / 2, low), 0)
            for at, side, low, high in zip(places, anchors[:, ::-1].T, box[[1, 0]], box[[3, 2]], strict=True)
        )
        shared = rows[:, None] * columns  # (rows, columns, anchors)
        area = max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
        overlap = shared / (anchors.prod(axis=1) + area - shared)
        mask |= (overlap > threshold * overlap.max()).any(axis=2)
    return mask


# --- what ------------------------------------------------------------------------------------------------------------
def imitation_loss(student: Tensor, teacher: Tensor, mask: Tensor, mean_over: str = "image") -> Tensor:
    """Half the squared difference of features, summed over channels and masked cells, over the number of such cells.

    ``student`` (adapted) and ``teacher`` are ``(b, c, h, w)``, ``mask`` is ``(b, h, w)`` of 0 and 1. Returns ``(b,)``;
    an image without such cells has 0. With ``mean_over="batch"`` the number is that of the whole batch, times its
    share: the sum is then ``b`` times the batch's mean.
    """
    difference = ((student.float() - teacher.float()).square().sum(dim=1) * mask).sum(dim=(1, 2))
    n = mask.sum(dim=(1, 2))
    if mean_over == "batch":
        n = n.sum() / len(mask)
    return difference / (2 * n.clamp(min=1e-9))


def adapter(c_student: int, c_teacher: int, *, trained: bool, seed: int) -> nn.Sequential:
    """Return the layer between a student's feature and its teacher's: a 3x3 convolution and a ReLU.

    Weights near zero where it is trained (as the paper's), else torch's usual random ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        conv = nn.Conv2d(c_student, c_teacher, 3, padding=1)
        if trained:
            nn.init.trunc_normal_(conv.weight, std=NEAR_ZERO, a=-2 * NEAR_ZERO, b=2 * NEAR_ZERO)
            nn.init.zeros_(conv.bias)
    layer = nn.Sequential(conv, nn.ReLU())
    return layer.requires_grad_(trained)


# --- whose -----------------------------------------------------------------------------------------------------------
def usual_part(module: nn.Module) -> str:
    """Return the part that a family says is imitated: ``imitated_part``, or the end of its feature extractor.

    Empty for a family that has neither, and for a graph.
    """
    if isinstance(module, GraphModule):
        return ""
    parts = getattr(module, "backbone_parts", ("backbone",))
    usual = parts[-1] if hasattr(module, parts[-1]) else ""
    return str(getattr(module, "imitated_part", usual))


@contextmanager
def watching(module: nn.Module, part: str) -> Iterator[Seen]:
    """Give a list that holds what ``part`` computed (``part:in``: what went into it) after every call of the module.

    A :class:`GraphModule` has tensors, by name, and the tensors of the parts it was captured from.
    Raises UsageError for a part that the module does not have.
    """
    seen: Seen = []
    if isinstance(module, GraphModule):
        name = _tensor(module.source, part)
        module.watched[name] = seen
        try:
            yield seen
        finally:
            del module.watched[name]
        return
    handle = _hooked(module, part, seen)
    try:
        yield seen
    finally:
        handle.remove()


def _hooked(module: nn.Module, part: str, seen: Seen) -> torch.utils.hooks.RemovableHandle:
    name = part.removesuffix(INPUT)
    try:
        found = module.get_submodule(name)
    except AttributeError:
        raise _no_part(part, [name for name, _ in module.named_children()]) from None

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[:] = inputs[:1]

    def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[:] = [output]

    return found.register_forward_pre_hook(before) if part.endswith(INPUT) else found.register_forward_hook(after)


def _tensor(graph: Graph, part: str) -> str:
    name = part.removesuffix(INPUT)
    if any(node.output == part for node in graph.nodes):
        return part
    nodes = [node for node in graph.nodes if node.output.startswith(f"{name}.")]
    if not nodes:
        raise _no_part(part, list(dict.fromkeys(node.output.partition(".")[0] for node in graph.nodes)))
    return nodes[0].inputs[0] if part.endswith(INPUT) else nodes[-1].output


def _no_part(part: str, known: Sequence[str]) -> UsageError:
    return UsageError(
        f"no part '{part}' to imitate", hint=f"parts begin with {', '.join(known[:8])}; PART:in is what goes into one"
    )
