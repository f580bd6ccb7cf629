"""What the readers of images with a class share: splits that keep the shares of the classes, images held in memory.

Not a plug-in itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import DataInfo, Part, Sample
from bitfront.data.files import PARTS, Pair
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.record import content_id

__all__ = [
    "TEST_SHARE",
    "VAL_SHARE",
    "ArrayDataset",
    "ArrayPart",
    "check_share",
    "class_names",
    "divide",
    "held_out",
    "in_order",
    "split",
]

VAL_SHARE = 0.1
"""Share of the images that is set aside as val where the data has no val part."""
TEST_SHARE = 0.1
"""The same for test, where the data has no parts at all."""


# --- classes ---------------------------------------------------------------------------------------------------------
def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return different names sorted, numbers in them as numbers: ``2`` before ``10``."""

    def key(name: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", name.casefold())
        return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]

    return tuple(sorted(set(names), key=lambda name: (key(name), name)))


def class_names(found: Iterable[str], asked: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the classes: those asked for, else those found. Raises UsageError when ones are missing or too few."""
    there = in_order(found)
    names = tuple(asked) or there
    if missing := [name for name in there if name not in names]:
        raise UsageError(f"{where}: class '{missing[0]}' is not among the classes", hint=f"named: {', '.join(names)}")
    if len(names) < 2 or len(set(names)) != len(names):
        raise DataError(f"{where}: needs at least 2 different classes, has {', '.join(names) or 'none'}")
    return names


# --- splits ----------------------------------------------------------------------------------------------------------
def check_share(share: float, name: str) -> None:
    """Raise UsageError unless a share of the images lies from 0 to below 1."""
    if not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise UsageError(f"{name} must be a share from 0 to below 1, not {share!r}", hint=f"for example {name}=0.1")


def held_out(labels: Sequence[int], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose ``share`` of the images of every class (rounded; never all of a class), ``(n,)``; by ``seed`` alone."""
    classes = np.asarray(labels)
    chosen = np.zeros(len(classes), bool)
    rng = np.random.default_rng(seed)
    for label in np.unique(classes):
        places = rng.permutation(np.flatnonzero(classes == label))
        chosen[places[: min(round(share * len(places)), len(places) - 1)]] = True
    return chosen


def split(labels: Sequence[int], seed: int, val: float = VAL_SHARE, test: float = TEST_SHARE) -> dict[str, list[int]]:
    """Return positions by part, in order; parts without an image are left out."""
    places = np.arange(len(labels))
    is_test = held_out(labels, test, seed)
    rest = places[~is_test]
    is_val = held_out([labels[i] for i in rest], val / (1 - test), seed + 1)
    parts = {"train": rest[~is_val], "val": rest[is_val], "test": places[is_test]}
    return {name: found.tolist() for name, found in parts.items() if len(found)}


def divide(
    pairs: dict[str, list[Pair]], val: float, seed: int, *, part_less: bool
) -> tuple[dict[str, list[Pair]], tuple[str, ...]]:
    """Return pairs by part, with a val part (and, of data without parts, a test part) set aside; and what was done."""
    if part_less:
        whole = pairs[""]
        places = split([pair.label or 0 for pair in whole], seed, val, TEST_SHARE)
        note = f"no parts: {val:.0%} of the images are val, {TEST_SHARE:.0%} are test, chosen by seed {seed}"
        return {part: [whole[i] for i in chosen] for part, chosen in places.items()}, (note,)
    if "val" in pairs or "train" not in pairs:
        return pairs, ()
    whole = pairs["train"]
    places = split([pair.label or 0 for pair in whole], seed, val, 0.0)
    note = f"no val part: {val:.0%} of the train images are val, chosen by seed {seed}"
    return pairs | {part: [whole[i] for i in chosen] for part, chosen in places.items()}, (note,)


# --- images in memory ------------------------------------------------------------------------------------------------
class ArrayPart(Sequence[Sample]):
    """Grey images ``(n, h, w)`` uint8 and their classes ``(n,)`` as samples."""

    def __init__(self, name: str, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self.name, self.images, self.labels = name, images, labels

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.decode(index)[0]

    @property
    def identity(self) -> object:
        """Nothing beside the pixels gives the samples a meaning."""
        return None

    def decode(self, index: int) -> tuple[Sample, tuple[str, ...]]:
        """Return one sample; there is never anything to say of it."""
        index = range(len(self))[index]
        image = np.repeat(self.images[index][:, :, None], 3, axis=2)
        return Sample(f"{self.name}/{index:05d}", image, label=int(self.labels[index])), ()


@dataclass(eq=False)
class ArrayDataset:
    """Base of the readers that hold all images in memory."""

    info: DataInfo
    arrays: Mapping[str, ArrayPart]
    notes: tuple[str, ...] = ()
    """What was found or assumed on opening."""

    def parts(self) -> tuple[str, ...]:
        """Names of the parts that exist."""
        return tuple(name for name in PARTS if name in self.arrays)

    def part(self, name: str) -> Part:
        """Return one part. Raises DataError when it does not exist."""
        if name not in PARTS:
            raise unknown_name("part", name, PARTS)
        if name not in self.arrays:
            raise DataError(f"'{self.info.name}' has no part '{name}'", hint=f"it has {', '.join(self.parts())}")
        return self.arrays[name]

    def files(self, name: str) -> Sequence[tuple[Path, Path | None]]:
        """Return nothing: no sample has a file of its own."""
        self.part(name)
        return ()

    def digest(self, name: str) -> str:
        """Content id of a part: all pixels and classes."""
        self.part(name)
        found = self.arrays[name]
        return content_id(found.images, found.labels, self.info.classes)
