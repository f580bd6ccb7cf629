"""Pictures in a folder for each class: ``train/CLASS/*.jpg``, or ``CLASS/*.jpg`` without parts.

Parts are called ``train``, ``val`` (``valid``, ``validation``) and ``test``. Without ``val``, a tenth of the train part
is set aside; without any part a tenth each becomes val and test: the same images for the same ``seed``, and the same
share of every class. Classes are the folders' names in order, or what ``classes`` or ``classes.txt`` says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bitfront.contracts import DataInfo
from bitfront.data.files import FileDataset, Labels, Pair, image_files, is_folder, read_list, require_folder
from bitfront.data.labelled import VAL_SHARE, check_share, class_names, divide
from bitfront.decode import EXTENSIONS
from bitfront.errors import DataError

__all__ = ["ClassFolder"]

FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
NO_CLASSES = frozenset(
    ["images", "imgs", "masks", "labels", "annotations", "jpegimages", "segmentationclass", "segmentationobject"]
)
"""Names of folders that belong to other layouts."""


class ClassFolder(FileDataset):
    """Pictures in a folder for each class."""

    @classmethod
    def open(
        cls, root: Path | None, *, classes: Sequence[str] = (), val: float = VAL_SHARE, seed: int = 0
    ) -> ClassFolder:
        """Open the data below ``root``; ``val`` is the share set aside where there is no such part.

        Raises DataError when there is none, UsageError for classes that do not fit.
        """
        root = require_folder(root, "the reader of class folders")
        check_share(val, "val")
        homes = _homes(root)
        folders = {part: _classes(home) for part, home in homes.items()}
        names = class_names(
            (folder.name for found in folders.values() for folder in found),
            classes or read_list(root / "classes.txt"),
            str(root),
        )
        pairs = {
            part: [
                Pair(path.relative_to(root).as_posix(), path, None, label=names.index(folder.name))
                for folder in found
                for path in image_files(folder)
            ]
            for part, found in folders.items()
        }
        if not any(pairs.values()):
            raise DataError(f"{root}: found no images", hint="expected train/CLASS/*.jpg, or CLASS/*.jpg")
        divided, notes = divide(
            {part: found for part, found in pairs.items() if found}, val, seed, part_less="" in pairs
        )
        info = DataInfo(root.name or "class_folder", names, tasks=("classification",))
        return cls(root, info, divided, Labels.of(min(len(names), 254)), notes)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Say whether folders of pictures stand side by side, in the folder or in its parts."""
        if not is_folder(root):
            return False
        found = [folder for home in _homes(root).values() for folder in _classes(home)]
        plain = [folder.name.lower() for folder in found]
        return len(set(plain)) > 1 and not NO_CLASSES & set(plain) and any(_has_image(folder) for folder in found)


def _homes(root: Path) -> dict[str, Path]:
    """Part -> the folder that holds its classes; the part is empty where there are none."""
    found = {
        part: next((root / name for name in names if (root / name).is_dir()), None) for part, names in FOLDERS.items()
    }
    return {part: home for part, home in found.items() if home is not None} or {"": root}


def _classes(home: Path) -> list[Path]:
    return sorted(path for path in home.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))


def _has_image(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(Path(entry.name).suffix.lower() in EXTENSIONS for entry in entries)
