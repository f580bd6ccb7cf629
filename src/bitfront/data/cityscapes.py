"""Cityscapes (Cordts et al. 2016): ``leftImg8bit/PART/CITY/*`` with ``gtFine/PART/CITY/*``, 19 scored classes.

Reads ``*_labelIds.png`` (34 ids, mapped to the 19 train ids; the others are ignored) or, where those are missing,
``*_labelTrainIds.png``.
"""

from __future__ import annotations

from pathlib import Path

from bitfront.contracts import IGNORE, DataInfo
from bitfront.data.files import PARTS, FileDataset, Labels, Pair, image_files, pair_by_stem, require_folder
from bitfront.errors import DataError, unknown_name

__all__ = ["CLASSES", "TRAIN_IDS", "Cityscapes"]

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Id in ``labelIds`` files -> class; all other ids up to 33 are ignored."""

KINDS = ("labelIds", "labelTrainIds")


class Cityscapes(FileDataset):
    """Street scenes with 19 classes."""

    @classmethod
    def open(cls, root: Path | None, *, labels: str = "") -> Cityscapes:
        """Open the data below ``root``; ``labels`` forces labelIds or labelTrainIds. Raises DataError, UsageError."""
        root = require_folder(root, "the Cityscapes reader")
        if labels not in ("", *KINDS):
            raise unknown_name("kind of Cityscapes labels", labels, KINDS)
        kind = labels or _kind(root / "gtFine")
        pairs = {part: _pairs(root, part, kind) for part in PARTS}
        if not any(pairs.values()):
            raise DataError(f"{root}: found no Cityscapes images with labels", hint="expected leftImg8bit/ and gtFine/")
        mapping = {} if kind == "labelTrainIds" else {i: TRAIN_IDS.get(i, IGNORE) for i in range(34)}
        info = DataInfo("cityscapes", CLASSES, palette=PALETTE)
        return cls(root, info, pairs, Labels.of(len(CLASSES), mapping), (f"labels: {kind}",))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Say whether there are folders leftImg8bit and gtFine."""
        return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()


def _kind(labels: Path) -> str:
    has_ids = next(labels.rglob("*_gtFine_labelIds.png"), None) is not None
    return KINDS[0] if has_ids else KINDS[1]


def _pairs(root: Path, part: str, kind: str) -> list[Pair]:
    images, masks = root / "leftImg8bit" / part, root / "gtFine" / part
    if not image_files(masks):  # the test part comes without labels
        return []
    return pair_by_stem(root, images, masks, image_end="_leftImg8bit", mask_ends=(f"_gtFine_{kind}",))
