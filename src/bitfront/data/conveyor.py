"""Generated pictures of packages on a conveyor, with masks, boxes and class labels: data for a start, without files.

Cartons, padded mailers and tubes of varied size, pose and print, seen from above or from the side, in uneven light.
Every sample is drawn on its own from (seed, part, index), so any of them can be had again in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from bitfront.contracts import DataInfo, Part, Sample
from bitfront.data.belts import belt_textures
from bitfront.data.scene import Stage, draw_scene
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.record import content_id

__all__ = ["Conveyor"]

VERSION = 1
"""Raise when the drawing changes: it is part of the content id."""

PARTS = ("train", "val", "test")
NOISE = (1.0, 2.0, 3.0, 4.5)
"""Standard deviations of the sensor noise, grey levels."""

MIN_PIXELS = 12
"""A package that shows fewer pixels gets no box."""

INFO = DataInfo(
    "conveyor",
    ("background", "carton", "mailer", "tube"),
    tasks=("segmentation", "detection", "classification"),
    palette=((0, 0, 0), (230, 140, 40), (60, 160, 250), (235, 70, 160)),
    background=0,
)


@dataclass(frozen=True)
class Conveyor:
    """Packages on a belt; boxes carry the labels of ``info.classes``, an image that of the package it shows most of."""

    size: tuple[int, int] = (256, 256)
    """Height and width, pixels."""
    n_train: int = 400
    n_val: int = 80
    n_test: int = 80
    seed: int = 0
    info: DataInfo = field(default=INFO, repr=False)

    @classmethod
    def open(
        cls,
        root: Path | None = None,
        *,
        size: int | Sequence[int] = (256, 256),
        n_train: int = 400,
        n_val: int = 80,
        n_test: int = 80,
        seed: int = 0,
        **unknown: Any,
    ) -> Conveyor:
        """Return the dataset; ``size`` may be one number for square pictures. Raises UsageError."""
        if root is not None:
            raise UsageError(f"the conveyor is generated and reads nothing from {root}", hint="leave the folder out")
        for name in unknown:
            raise unknown_name("option of conveyor", name, ("size", "n_train", "n_val", "n_test", "seed"))
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2 or not all(isinstance(n, int) and 32 <= n <= 2048 for n in sides):
            raise UsageError(f"conveyor pictures are 32 to 2048 pixels high and wide, not {sides}")
        for name, value in (("n_train", n_train), ("n_val", n_val), ("n_test", n_test), ("seed", seed)):
            if not isinstance(value, int) or value < 0:
                raise UsageError(f"{name} must be a whole number >= 0, not {value!r}")
        return cls((sides[0], sides[1]), n_train, n_val, n_test, seed)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """No folder is a conveyor."""
        return False

    def parts(self) -> tuple[str, ...]:
        """Names of the parts that have samples."""
        return tuple(name for name in PARTS if self._counts[name])

    def part(self, name: str) -> Part:
        """Return one part. Raises DataError when it has no samples."""
        self._check(name)
        return _Drawn(self, name)

    def files(self, name: str) -> Sequence[tuple[Path, Path | None]]:
        """Return nothing: there are no files."""
        self._check(name)
        return ()

    def digest(self, name: str) -> str:
        """Content id of a part."""
        self._check(name)
        return content_id("conveyor", VERSION, self.size, self._counts[name], self.seed, name)

    def draw(self, part: str, index: int) -> Sample:
        """Draw one sample."""
        seed = np.random.SeedSequence([self.seed, PARTS.index(part), index])
        scene = draw_scene(self.size, self._stage, np.random.default_rng(seed))
        kinds = np.array([0, *scene.kinds], np.uint8)
        visible = np.bincount(scene.owner.ravel(), minlength=len(kinds))[1:]
        shown = np.flatnonzero(visible >= MIN_PIXELS)
        boxes = np.array([_hull(scene.owner == number + 1) for number in shown], np.float32).reshape(-1, 4)
        largest = int(kinds[1 + visible.argmax()])
        labels = kinds[1 + shown].astype(np.int64)
        return Sample(f"{part}/{index:05d}", scene.image, kinds[scene.owner], boxes, labels, largest)

    @property
    def _counts(self) -> Mapping[str, int]:
        return {"train": self.n_train, "val": self.n_val, "test": self.n_test}

    @cached_property
    def _stage(self) -> Stage:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, len(PARTS)]))
        noise = rng.standard_normal((self.size[0] + 64, self.size[1] + 64, 3)).astype(np.float32)
        sheets = np.stack([np.rint(noise * sigma).clip(-60, 60).astype(np.int8) for sigma in NOISE])
        return Stage(belt_textures(15, rng), sheets)

    def _check(self, name: str) -> None:
        if name not in PARTS:
            raise unknown_name("part", name, PARTS)
        if not self._counts[name]:
            raise DataError(f"the conveyor's part '{name}' is empty", hint=f"set n_{name} above 0")


def _hull(owned: Any) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(owned.any(1)), np.flatnonzero(owned.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class _Drawn(Sequence[Sample]):
    def __init__(self, dataset: Conveyor, name: str) -> None:
        self.dataset = dataset
        self.name = name

    def __len__(self) -> int:
        return self.dataset._counts[self.name]

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.dataset.draw(self.name, range(len(self))[index])
