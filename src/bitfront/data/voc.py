"""PASCAL VOC segmentation (Everingham et al. 2010): 20 classes and background, palette masks, 255 = border."""

from __future__ import annotations

from pathlib import Path

from bitfront.class_names import VOC_CLASSES
from bitfront.contracts import DataInfo
from bitfront.data.files import PARTS, FileDataset, Labels, Pair, is_file, read_list, require_folder
from bitfront.errors import DataError

__all__ = ["CLASSES", "Voc"]

CLASSES = ("background", *VOC_CLASSES)
LISTS = Path("ImageSets/Segmentation")


class Voc(FileDataset):
    """``JPEGImages`` and ``SegmentationClass``, with the parts listed in ``ImageSets/Segmentation``."""

    @classmethod
    def open(cls, root: Path | None) -> Voc:
        """Open a year's folder, or ``VOCdevkit`` with one year in it. Raises DataError."""
        home = _home(require_folder(root, "the VOC reader"))
        if home is None:
            raise DataError(f"{root}: found no {LISTS}", hint="expected JPEGImages, SegmentationClass and ImageSets")
        pairs = {}
        for part in PARTS:
            names = read_list(home / LISTS / f"{part}.txt")
            pairs[part] = [pair for pair in (_pair(home, name) for name in names) if part != "test" or pair.mask]
        if not any(pairs.values()):
            raise DataError(f"{home / LISTS}: train.txt, val.txt and test.txt are missing or empty", hint="check them")
        info = DataInfo("voc", CLASSES, palette=tuple(_color(i) for i in range(len(CLASSES))), background=0)
        return cls(home, info, pairs, Labels.of(len(CLASSES)))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Say whether ``root`` or its only VOC folder has the lists of the segmentation task."""
        return _home(root) is not None


def _home(root: Path) -> Path | None:
    years = sorted(root.glob("VOC20*")) + sorted(root.glob("VOCdevkit/VOC20*"))
    candidates = [root, *years[-1:]]
    return next((c for c in candidates if (c / LISTS).is_dir() and (c / "SegmentationClass").is_dir()), None)


def _pair(home: Path, name: str) -> Pair:
    image, mask = home / "JPEGImages" / f"{name}.jpg", home / "SegmentationClass" / f"{name}.png"
    found = is_file(mask)
    return Pair(f"JPEGImages/{name}.jpg", image, mask if found else None, "" if found else mask.as_posix())


def _color(index: int) -> tuple[int, int, int]:
    """The VOC colour map: bits 0, 1, 2 of the index go to the high bits of red, green, blue, then the next three."""
    red, green, blue = (
        sum(((index >> (3 * level + channel)) & 1) << (7 - level) for level in range(3)) for channel in range(3)
    )
    return red, green, blue
