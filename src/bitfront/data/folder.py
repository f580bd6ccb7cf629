"""A folder of images and a folder of masks, the plainest layout there is.

Understood: ``{train,val,test}/{images,masks}``, ``{images,masks}/{train,val,test}`` and ``{images,masks}`` (all of it
is then train). Any of the parts may be missing. A mask has the name of its image. Class names come from the argument
``classes`` or from ``classes.txt`` (one a line, the first is value 0); without either they are read off the masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bitfront.contracts import IGNORE, DataInfo
from bitfront.data.files import (
    PARTS,
    FileDataset,
    Labels,
    binary_mapping,
    label_values,
    pair_by_stem,
    read_list,
    require_folder,
)
from bitfront.errors import DataError, UsageError

__all__ = ["Folder"]


class Folder(FileDataset):
    """Images and masks in folders of these names."""

    @classmethod
    def open(cls, root: Path | None, *, classes: Sequence[str] = ()) -> Folder:
        """Open the data below ``root``. Raises DataError when there is none or its labels cannot be understood."""
        root = require_folder(root, "the folder reader")
        pairs = {part: pair_by_stem(root, images, masks) for part, images, masks in _folders(root)}
        pairs = {part: found for part, found in pairs.items() if found}
        if not pairs:
            raise DataError(
                f"{root}: found no images",
                hint="expected train/images and train/masks (or val/, test/), images/ and masks/, or a data YAML",
            )
        names = tuple(classes) or _read_classes(root / "classes.txt")
        mapping: dict[int, int] = {}
        if len(names) in (0, 2):
            values = label_values(pairs)
            mapping = binary_mapping(values)
            names = names or _invent(root, values, bool(mapping))
        notes = ("masks hold 0 and 255: 255 is read as class 1",) if mapping else ()
        background = 0 if names[0].lower() in ("background", "_background_", "bg") else None
        info = DataInfo(root.name or "folder", names, background=background)
        return cls(root, info, pairs, Labels.of(len(names), mapping), notes)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Say whether there are folders named images and masks."""
        return next(_folders(root), None) is not None


def _folders(root: Path) -> Iterator[tuple[str, Path, Path]]:
    """Part name, folder of images, folder of masks, for all that exist."""
    found = False
    for part in PARTS:
        for images, masks in (
            (root / part / "images", root / part / "masks"),
            (root / "images" / part, root / "masks" / part),
        ):
            if images.is_dir() and masks.is_dir():
                found = True
                yield part, images, masks
                break
    if not found and (root / "images").is_dir() and (root / "masks").is_dir():
        yield "train", root / "images", root / "masks"


def _read_classes(path: Path) -> tuple[str, ...]:
    names = tuple(read_list(path))
    if names and (len(set(names)) != len(names) or not 1 < len(names) < IGNORE):
        raise UsageError(f"{path}: needs 2 to 254 different class names, has {len(names)}", hint="one a line")
    return names


def _invent(root: Path, values: set[int], binary: bool) -> tuple[str, ...]:
    if binary or values <= {0, 1, IGNORE}:
        return ("background", "object")
    labels = sorted(values - {IGNORE})
    if labels[-1] >= 2 * len(labels):
        listed = ", ".join(map(str, labels[:12])) + (", ..." if len(labels) > 12 else "")
        raise DataError(
            f"{root}: the masks hold the values {listed}, which are no class indices",
            hint="palette or colours converted to grey, or a JPEG once? Map them with label_mapping in a data YAML",
        )
    return tuple(f"class_{i}" for i in range(labels[-1] + 1))
