"""The places of a detector's head: which cell and which anchor each column of its output belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import Head
from bitfront.errors import UsageError

__all__ = ["Level", "Places", "places"]


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One grid of places."""

    start: int
    """Position of its first place."""
    rows: int
    columns: int
    stride: int
    anchors: NDArray[np.float32]
    """``(a, 2)``: width and height, pixels of the input."""

    @property
    def n(self) -> int:
        """Number of places."""
        return self.rows * self.columns * len(self.anchors)


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """All places in order: level, row, column, anchor."""

    levels: tuple[Level, ...]
    cells: NDArray[np.float32]
    """``(n, 2)``: column and row."""
    strides: NDArray[np.float32]
    """``(n, 1)``: pixels of the input."""
    anchors: NDArray[np.float32]
    """``(n, 2)``: width and height, pixels of the input."""
    centers: NDArray[np.float32]
    """``(n, 2)``: x and y of the middle of the cell, pixels of the input; the input is divided evenly."""

    @property
    def n(self) -> int:
        """Number of places."""
        return len(self.cells)


@lru_cache(maxsize=32)
def places(head: Head, size: tuple[int, int]) -> Places:
    """Return the places of a head at an input of ``size`` (height, width). Raises UsageError for a head without."""
    if not head.anchors or len(head.anchors) != len(head.strides):
        raise UsageError(
            f"a head with {len(head.strides)} strides and the anchors of {len(head.anchors)} levels has no places",
            hint="give one stride and one set of anchors for each level",
        )
    unit = np.array([size[1], size[0]] if head.kind == "ssd" else [1, 1], np.float32)
    levels: list[Level] = []
    start = 0
    for stride, anchors in zip(head.strides, head.anchors, strict=True):
        table = np.array(anchors, np.float32).reshape(-1, 2) * unit
        levels.append(Level(start, -(-size[0] // stride), -(-size[1] // stride), stride, table))
        start += levels[-1].n
    cells, grids = zip(*(_cells(level) for level in levels), strict=True)
    return Places(
        tuple(levels),
        np.concatenate(cells),
        np.concatenate([np.full((level.n, 1), level.stride, np.float32) for level in levels]),
        np.concatenate([np.tile(level.anchors, (level.rows * level.columns, 1)) for level in levels]),
        ((np.concatenate(cells) + 0.5) / np.concatenate(grids) * [size[1], size[0]]).astype(np.float32),
    )


def _cells(level: Level) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row of each place, and how many columns and rows there are: ``(n, 2)`` both."""
    rows, columns = np.divmod(np.arange(level.rows * level.columns), level.columns)
    cells = np.repeat(np.stack([columns, rows], axis=1), len(level.anchors), axis=0).astype(np.float32)
    return cells, np.broadcast_to(np.array([level.columns, level.rows], np.float32), cells.shape)
