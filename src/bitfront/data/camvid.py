"""CamVid (Brostow et al. 2009): street scenes, in the layout of the SegNet tutorial or with the original colours.

``train/`` beside ``trainannot/`` (or ``train_labels/``), same for ``val`` and ``test``. Label maps hold indices 0..11
(11 = Unlabelled = ignored) or the 32 colours of the original, which are merged to the usual 11 classes (the grouping of
Badrinarayanan et al., "SegNet", 2017).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bitfront.contracts import IGNORE, DataInfo
from bitfront.data.files import PARTS, FileDataset, Labels, pair_by_stem, require_folder
from bitfront.errors import DataError

__all__ = ["CLASSES", "COLORS", "CamVid"]

CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
UNLABELLED = 11
ENDINGS = ("annot", "_labels", "labels")
"""What the name of a part's label folder adds to the part's name."""

COLORS: dict[tuple[int, int, int], int] = {
    (128, 128, 128): 0,  # Sky
    (192, 0, 128): 1,  # Archway
    (0, 128, 64): 1,  # Bridge
    (128, 0, 0): 1,  # Building
    (64, 0, 64): 1,  # Tunnel
    (64, 192, 0): 1,  # Wall
    (192, 192, 128): 2,  # Column_Pole
    (0, 0, 64): 2,  # TrafficCone
    (128, 64, 128): 3,  # Road
    (128, 0, 192): 3,  # LaneMkgsDriv
    (192, 0, 64): 3,  # LaneMkgsNonDriv
    (0, 0, 192): 4,  # Sidewalk
    (64, 192, 128): 4,  # ParkingBlock
    (128, 128, 192): 4,  # RoadShoulder
    (60, 40, 222): 4,  # Pavement, in the colours of SegNet's own pictures
    (128, 128, 0): 5,  # Tree
    (192, 192, 0): 5,  # VegetationMisc
    (192, 128, 128): 6,  # SignSymbol
    (128, 128, 64): 6,  # Misc_Text
    (0, 64, 64): 6,  # TrafficLight
    (64, 64, 128): 7,  # Fence
    (64, 0, 128): 8,  # Car
    (64, 128, 192): 8,  # SUVPickupTruck
    (192, 128, 192): 8,  # Truck_Bus
    (192, 64, 128): 8,  # Train
    (128, 64, 64): 8,  # OtherMoving
    (64, 64, 0): 9,  # Pedestrian
    (192, 128, 64): 9,  # Child
    (64, 0, 192): 9,  # CartLuggagePram
    (64, 128, 64): 9,  # Animal
    (0, 128, 192): 10,  # Bicyclist
    (192, 0, 192): 10,  # MotorcycleScooter
    (0, 0, 0): UNLABELLED,  # Void
}


class CamVid(FileDataset):
    """Street scenes with 11 classes."""

    @classmethod
    def open(cls, root: Path | None) -> CamVid:
        """Open the data below ``root``. Raises DataError when its folders are not there."""
        root = require_folder(root, "the CamVid reader")
        pairs = {part: pair_by_stem(root, images, masks) for part, images, masks in _folders(root)}
        if not any(pairs.values()):
            raise DataError(f"{root}: found no CamVid images", hint="expected train/ beside trainannot/ (or val, test)")
        labels = Labels.of(len(CLASSES), {UNLABELLED: IGNORE}, COLORS)
        return cls(root, DataInfo("camvid", CLASSES, palette=PALETTE), pairs, labels)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Say whether a part stands beside its label folder."""
        return next(_folders(root), None) is not None


def _folders(root: Path) -> Iterator[tuple[str, Path, Path]]:
    for part in PARTS:
        for ending in ENDINGS:
            if (root / part).is_dir() and (root / (part + ending)).is_dir():
                yield part, root / part, root / (part + ending)
                break
