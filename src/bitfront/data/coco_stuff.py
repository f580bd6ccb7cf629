"""COCO-Stuff (Caesar et al. 2018): COCO images with pixel maps of 80 things and 91 stuffs, or a subset of both.

``images/{train2017,val2017}/*.jpg`` (or the two folders at the root) with ``stuffthingmaps/{train2017,val2017}/*.png``
(or ``annotations/``, the place that the authors' own scripts use). A map holds the COCO id minus 1: 0..90 are things
(11 of these ids are never used), 91..181 stuffs, 255 is what nobody labelled and stays ignored.

The options make it the data of one application: ``keep`` names the classes, ``other`` a class that takes in all the
rest (an open set), ``shows`` and ``min_share`` choose the images; ``subset`` stands for a ready choice of the four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitfront.contracts import IGNORE, DataInfo
from bitfront.data.files import FileDataset, Labels, Pair, pair_by_stem, require_folder
from bitfront.decode import read_mask
from bitfront.errors import DataError, UsageError, unknown_name

__all__ = ["CLASSES", "NAMES", "SUBSETS", "CocoStuff", "Subset"]

NAMES = tuple(
    """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign,
    stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat, backpack,
    umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
    baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon, bowl,
    banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
    mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
    toaster, sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush,
    banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other,
    ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble,
    floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel,
    ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper,
    pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug,
    salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
    tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone,
    wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood""".replace("\n    ", " ").split(
        ", "
    )
)
"""Name of every value in the maps, 0..181."""
UNUSED = frozenset(
    ["street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender", "hair brush"]
)
CLASSES = tuple(name for name in NAMES if name not in UNUSED)
"""The 171 classes that occur."""

FOLDERS = {"train": "train2017", "val": "val2017"}
IMAGES = ("images", ".")
MAPS = ("stuffthingmaps", "annotations", "annotations/stuffthingmaps")
N_THREADS = 8


@dataclass(frozen=True, slots=True)
class Subset:
    """Which classes and which images."""

    keep: tuple[str, ...] = ()
    """Classes, in order. A name stands for the class of that name and for those that refine it (``wall``:
    ``wall-brick``, ``wall-tile``, ...). Empty: all 171."""
    other: str = ""
    """Name of one more class, the last, for all that is labelled but not kept; empty: that is ignored."""
    shows: tuple[str, ...] = ()
    """Images must show at least one of these; empty: all images do."""
    min_share: float = 0.0
    """Share of the pixels that the kept classes must cover."""


SUBSETS: Mapping[str, Subset] = {
    "office": Subset(
        keep=(
            "wall", "floor", "ceiling", "window", "door", "desk", "table", "cabinet", "shelf", "chair", "couch",
            "person", "tv", "laptop", "keyboard", "mouse", "book", "paper", "potted plant",
        ),
        other="other",
        shows=("desk", "laptop", "keyboard", "mouse"),
        min_share=0.5,
    ),
}  # fmt: skip
"""``office``: indoor offices, 19 classes and an open set. The thesis that uses such a subset (6,350 and 280 images, 20
classes) lists neither its classes nor its rule; these are ours."""


@dataclass(eq=False)
class CocoStuff(FileDataset):
    """Photographs of everyday scenes; 171 classes, or a subset of classes and images."""

    subset: Subset = Subset()
    _chosen: dict[str, Sequence[Pair]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls,
        root: Path | None,
        *,
        subset: str = "",
        keep: Sequence[str] = (),
        other: str = "",
        shows: Sequence[str] = (),
        min_share: float = 0.0,
    ) -> CocoStuff:
        """Open the data below ``root``. Raises DataError, and UsageError for options without sense.

        ``subset`` is a key of SUBSETS; the other options are the fields of :class:`Subset` and go before its own.
        Images are chosen when a part is first used, which reads all its maps: ``bitfront data convert`` keeps the
        choice.
        """
        root = require_folder(root, "the COCO-Stuff reader")
        if subset and subset not in SUBSETS:
            raise unknown_name("COCO-Stuff subset", subset, SUBSETS)
        ready = SUBSETS.get(subset, Subset())
        chosen = Subset(
            tuple(keep) or ready.keep, other or ready.other, tuple(shows) or ready.shows, min_share or ready.min_share
        )
        classes, mapping = _meaning(chosen)
        pairs = {part: pair_by_stem(root, images, maps) for part, images, maps in _folders(root)}
        if not any(pairs.values()):
            raise DataError(f"{root}: found no COCO-Stuff images", hint="expected images/train2017 and stuffthingmaps/")
        notes = (f"subset: {len(classes)} classes",) if chosen != Subset() else ()
        name = f"coco_stuff_{subset}" if subset else "coco_stuff"
        return cls(root, DataInfo(name, classes), pairs, Labels.of(0, mapping), notes, subset=chosen)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Say whether train2017 or val2017 stand below the images and the maps."""
        return bool(_folders(root))

    def _pairs(self, name: str) -> Sequence[Pair]:
        """The pairs of a part that the subset takes, decided once."""
        pairs = super()._pairs(name)
        if not self.subset.shows and not self.subset.min_share:
            return pairs
        if name not in self._chosen:
            with ThreadPoolExecutor(N_THREADS) as pool:
                taken = list(pool.map(self._takes, pairs))
            self._chosen[name] = [pair for pair, yes in zip(pairs, taken, strict=True) if yes]
        if not self._chosen[name]:
            raise DataError(
                f"{self.root}: none of the {len(pairs)} images of '{name}' is in the subset",
                hint="loosen shows or min_share",
            )
        return self._chosen[name]

    def _takes(self, pair: Pair) -> bool:
        """Whether an image is in the subset; what cannot be read is, so that it is reported."""
        try:
            counts = np.array(Image.fromarray(read_mask(pair.mask)).histogram()) if pair.mask else None
        except DataError:
            counts = None
        if counts is None:
            return True
        shown = [value for name in self.subset.shows for value in _values(name)]
        if shown and not counts[shown].any():
            return False
        return bool(counts[self._kept()].sum() >= self.subset.min_share * counts.sum())

    def _kept(self) -> NDArray[np.intp]:
        """The values of the kept classes."""
        n_kept = len(self.info.classes) - bool(self.subset.other)
        return np.flatnonzero((self.labels.table >= 0) & (self.labels.table < n_kept))


def _meaning(subset: Subset) -> tuple[tuple[str, ...], dict[int, int]]:
    """Return the classes of a subset, and value -> label. Raises UsageError."""
    for name in subset.shows:
        _values(name)
    if not 0 <= subset.min_share <= 1:
        raise UsageError(f"min_share must lie between 0 and 1, not {subset.min_share}")
    names = subset.keep or CLASSES
    mapping = dict.fromkeys(range(len(NAMES)), len(names) if subset.other else IGNORE)
    taken: dict[int, str] = {}
    for label, name in enumerate(names):
        for value in _values(name) if subset.keep else (NAMES.index(name),):
            if value in taken:
                raise UsageError(f"'{name}' and '{taken[value]}' both hold '{NAMES[value]}'", hint="keep one of them")
            taken[value] = name
            mapping[value] = label
    classes = (*names, subset.other) if subset.other else names
    if not 1 < len(set(classes)) == len(classes):
        raise UsageError(f"needs at least two classes of different names, not {', '.join(classes)}")
    return classes, mapping


def _values(name: str) -> tuple[int, ...]:
    """Return the values of a class and of those that refine it. Raises UsageError for unknown names."""
    found = tuple(i for i, known in enumerate(NAMES) if known == name or known.startswith(f"{name}-"))
    if not found:
        raise unknown_name("COCO-Stuff class", name, NAMES)
    return found


def _folders(root: Path) -> list[tuple[str, Path, Path]]:
    """Part name, folder of images, folder of maps, for all that exist."""
    found = []
    for part, folder in FOLDERS.items():
        images = next((root / place / folder for place in IMAGES if (root / place / folder).is_dir()), None)
        maps = next((root / place / folder for place in MAPS if (root / place / folder).is_dir()), None)
        if images is not None and maps is not None:
            found.append((part, images, maps))
    return found
