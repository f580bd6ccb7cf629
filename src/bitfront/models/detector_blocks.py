"""What one-stage detectors share: raw numbers of every place, one tensor for all levels.

:class:`bitfront.contracts.Head` says what the numbers mean and in which order the places lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["join_levels"]


def join_levels(maps: Sequence[torch.Tensor], numbers: int) -> torch.Tensor:
    """Return ``(b, numbers, n)`` from one map ``(b, anchors * numbers, h, w)`` per level.

    Channels are anchor-major; places are ordered by level, row, column and anchor.
    """
    levels = []
    for x in maps:
        b, c, h, w = x.shape
        anchors = c // numbers
        places = x.reshape(b, anchors, numbers, h * w).permute(0, 2, 3, 1)
        levels.append(places.reshape(b, numbers, h * w * anchors))
    return torch.cat(levels, 2)
