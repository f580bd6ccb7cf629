"""ADE20K scene parsing (Zhou et al. 2017): ``images/`` and ``annotations/``, 150 classes, label 0 is ignored."""

from __future__ import annotations

from pathlib import Path

from bitfront.contracts import IGNORE, DataInfo
from bitfront.data.files import FileDataset, Labels, pair_by_stem, require_folder
from bitfront.errors import DataError

__all__ = ["CLASSES", "Ade20k"]

CLASSES = tuple(
    """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
    seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
    counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
    pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
    countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel,
    light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel,
    pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt,
    canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball,
    food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood,
    sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator,
    glass, clock, flag""".replace("\n    ", " ").split(", ")
)
FOLDERS = {"train": "training", "val": "validation"}


class Ade20k(FileDataset):
    """Scenes with 150 classes; label files hold 1..150, and 0 for what is none of them."""

    @classmethod
    def open(cls, root: Path | None) -> Ade20k:
        """Open the data below ``root`` (the ``ADEChallengeData2016`` folder). Raises DataError."""
        root = require_folder(root, "the ADE20K reader")
        pairs = {
            part: pair_by_stem(root, root / "images" / folder, root / "annotations" / folder)
            for part, folder in FOLDERS.items()
        }
        if not any(pairs.values()):
            raise DataError(f"{root}: found no ADE20K images", hint="expected images/training, annotations/training")
        mapping = {0: IGNORE, **{i + 1: i for i in range(len(CLASSES))}}
        return cls(root, DataInfo("ade20k", CLASSES), pairs, Labels.of(len(CLASSES), mapping))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Say whether the folders training or validation stand below images and annotations."""
        return any((root / "images" / f).is_dir() and (root / "annotations" / f).is_dir() for f in FOLDERS.values())
