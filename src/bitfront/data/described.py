"""Data described by a YAML file, a superset of the Ultralytics form.

::

    path: .                      # root, relative to this file
    train: train/images          # a folder, a .txt list of images, or a list of folders
    val: val/images
    names: [background, carton]  # or {0: background, 1: carton}; coco for the 80 classes of COCO
    masks_dir: masks             # the mask of .../images/a.jpg is .../masks/a.png
    labels_dir: labels           # boxes: .../labels/a.txt, one a line: class, centre x y, width, height (shares);
                                 # an image without such a file has no object
    label_mapping: {7: 0, 8: ignore_label}   # value in the masks -> class; values not named keep their meaning
    ignore_label: 255            # value in the masks that is not scored
    background: 0                # the class that is not an object
    mean: [0.485, 0.456, 0.406]  # of pixels in [0, 1]
    std: [0.229, 0.224, 0.225]
    resize: bilinear

``nc`` (the number of names) and ``download`` of the Ultralytics form may stand there; nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitfront.class_names import COCO_CLASSES
from bitfront.contracts import IGNORE, DataInfo
from bitfront.data.files import (
    PARTS,
    FileDataset,
    Labels,
    Pair,
    binary_mapping,
    holds_boxes,
    is_folder,
    label_values,
    pair_by_stem,
    pair_listed,
    pair_unlabelled,
    read_list,
    with_boxes,
)
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.images import KERNELS
from bitfront.safeyaml import Document, read

__all__ = ["Described"]

KEYS = (
    "path", *PARTS, "names", "nc", "masks_dir", "labels_dir", "label_mapping", "ignore_label", "background",
    "mean", "std", "resize", "download",
)  # fmt: skip
FILES = ("data.yaml", "data.yml", "dataset.yaml")


class Described(FileDataset):
    """Images and masks where a data YAML says."""

    @classmethod
    def open(cls, root: Path | None) -> Described:
        """Open a data YAML, or the folder that holds one. Raises UsageError naming file, line and key, DataError."""
        description = _Description(read(_file(root)))
        names = description.names()
        mapping = description.mapping(len(names))
        home = description.home()
        pairs = {part: description.pairs(home, part) for part in PARTS}
        if not any(pairs.values()):
            raise DataError(f"{description.at()}: describes no images", hint="add train: or val: with a folder")
        every = [pair for found in pairs.values() for pair in found]
        tasks = [
            *(["segmentation"] if any(pair.mask for pair in every) else []),
            *(["detection"] if any(pair.has_boxes for pair in every) else []),
        ] or ["segmentation"]
        if "segmentation" in tasks and len(names) < 2:
            raise UsageError(
                f"{description.at('names')}: label maps need at least 2 classes", hint="name the background"
            )
        notes: tuple[str, ...] = ()
        if "segmentation" in tasks and len(names) == 2 and mapping.get(IGNORE, IGNORE) == IGNORE:
            binary = binary_mapping(label_values(pairs))
            notes = ("masks hold 0 and 255: 255 is read as class 1",) if binary else ()
            mapping = {**mapping, **binary}
        info = DataInfo(
            description.document.path.stem,
            names,
            tasks=tuple(tasks),
            background=description.background(names),
            preprocess=description.preprocess(),
            augment="detection" if tasks == ["detection"] else "light",
        )
        return cls(home, info, pairs, Labels.of(len(names), mapping), notes)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Say whether ``root`` is a YAML file or a folder with a data.yaml."""
        return root.suffix.lower() in (".yaml", ".yml") or any((root / name).is_file() for name in FILES)


def _file(root: Path | None) -> Path:
    if root is None:
        raise UsageError("the data YAML is missing", hint="give the file, for example data.yaml")
    if root.is_dir():
        return next((root / name for name in FILES if (root / name).is_file()), root / FILES[0])
    return root


@dataclass(frozen=True, slots=True)
class _Description:
    """The checked content of a data YAML; every method raises UsageError that names file, line and key."""

    document: Document

    def __post_init__(self) -> None:
        for key in self.document.values:
            if key not in KEYS:
                raise UsageError(f"{self.at(key)}: unknown key", hint=unknown_name("key", key, KEYS).hint)

    def at(self, *keys: str | int) -> str:
        return self.document.where(*keys)

    def value(self, key: str, default: Any = None) -> Any:
        value = self.document.values.get(key)
        return default if value is None else value

    def home(self) -> Path:
        path = self.value("path", ".")
        if not isinstance(path, str):
            raise UsageError(f"{self.at('path')}: must be a folder", hint="write path: . for this file's own folder")
        home = self.document.path.parent / Path(path).expanduser()
        if not is_folder(home):
            raise DataError(f"{self.at('path')}: no such folder: {home}", hint="it is relative to the YAML file")
        return home

    def names(self) -> tuple[str, ...]:
        names = self.value("names")
        if names == "coco":
            return COCO_CLASSES
        if isinstance(names, Mapping):
            if sorted(map(str, names)) != sorted(str(i) for i in range(len(names))):
                raise UsageError(
                    f"{self.at('names')}: the numbers must be 0 to {len(names) - 1}", hint="number them so"
                )
            names = [names[key] for key in sorted(names, key=int)]
        hint = "for example names: [background, carton]"
        if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(n, str) for n in names):
            raise UsageError(f"{self.at('names')}: needs a list of class names as text", hint=hint)
        if not 1 <= len(names) <= 254 or len(set(names)) != len(names) or not all(n.strip() for n in names):
            raise UsageError(f"{self.at('names')}: needs 1 to 254 different names, has {len(names)}", hint=hint)
        if self.value("nc", len(names)) != len(names):
            raise UsageError(f"{self.at('nc')}: says {self.value('nc')}, but there are {len(names)} names", hint=hint)
        return tuple(names)

    def background(self, names: Sequence[str]) -> int | None:
        value = self.value("background")
        if value is None:
            return 0 if names[0].lower() in ("background", "_background_", "bg") else None
        if value in names:
            return names.index(value)
        if _is_whole(value) and 0 <= value < len(names):
            return int(value)
        raise UsageError(f"{self.at('background')}: '{value}' is no class", hint=f"one of {', '.join(names[:8])}")

    def mapping(self, n_classes: int) -> dict[int, int]:
        ignore = self.value("ignore_label", IGNORE)
        if not _is_whole(ignore) or not -1 <= ignore <= 255:
            raise UsageError(f"{self.at('ignore_label')}: must be a whole number from 0 to 255", hint="usually 255")
        given = self.value("label_mapping", {})
        if not isinstance(given, Mapping):
            raise UsageError(f"{self.at('label_mapping')}: must be pairs of numbers", hint="for example {7: 0, 8: 1}")
        mapping = {IGNORE: -1} if 0 <= ignore != IGNORE else {}
        for value, label in [(ignore, IGNORE), *given.items()]:
            label = IGNORE if label == "ignore_label" else label
            where = self.at("label_mapping", str(value))
            if not _is_whole(value) or not -1 <= value <= 255:
                raise UsageError(f"{where}: '{value}' is no label value", hint="whole numbers from 0 to 255")
            if not _is_whole(label) or not (0 <= label < n_classes or label == IGNORE):
                raise UsageError(f"{where}: '{label}' is no class", hint=f"0 to {n_classes - 1}, or ignore_label")
            if value >= 0:  # -1 cannot stand in an 8-bit file
                mapping[value] = label
        return mapping

    def preprocess(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key in ("mean", "std"):
            values = self.value(key)
            if values is None:
                continue
            values = [values] if isinstance(values, (int, float)) else values
            if not isinstance(values, Sequence) or len(values) not in (1, 3) or not all(map(_is_number, values)):
                raise UsageError(f"{self.at(key)}: needs one or three numbers", hint=f"{key}: [0.5, 0.5, 0.5]")
            if key == "std" and min(values) <= 0:
                raise UsageError(f"{self.at(key)}: must be above 0", hint="the spread of pixels in [0, 1]")
            if max(map(abs, values)) > 3:
                raise UsageError(f"{self.at(key)}: is meant for pixels in [0, 1]", hint="divide by 255")
            found[key] = tuple(float(v) for v in values)
        kernel = self.value("resize")
        if kernel is not None:
            if kernel not in tuple(KERNELS):
                raise UsageError(f"{self.at('resize')}: unknown kernel '{kernel}'", hint=f"known: {', '.join(KERNELS)}")
            found["resize"] = kernel
        return found

    def pairs(self, home: Path, part: str) -> list[Pair]:
        given = self.value(part, [])
        sources = [given] if isinstance(given, str) else given
        if not isinstance(sources, Sequence) or not all(isinstance(s, str) and s for s in sources):
            raise UsageError(f"{self.at(part)}: must be a folder, a .txt list, or a list of both", hint="train: images")
        beside = (self._folder("masks_dir", "masks"), self._folder("labels_dir", "labels"))
        pairs = [pair for source in sources for pair in self._source(home, part, source, beside)]
        if len({pair.image for pair in pairs}) != len(pairs):
            raise UsageError(f"{self.at(part)}: names the same image more than once", hint="list every image once")
        return pairs

    def _folder(self, key: str, default: str) -> str:
        name = self.value(key, default)
        if not isinstance(name, str) or not name or ".." in Path(name).parts:
            raise UsageError(f"{self.at(key)}: must be the name of a folder", hint=f"{key}: {default}")
        return name

    def _source(self, home: Path, part: str, source: str, beside: tuple[str, str]) -> list[Pair]:
        path = home / source
        if path.suffix.lower() == ".txt":
            images = [home / line for line in read_list(path)]
            if not images:
                raise DataError(f"{self.at(part)}: {path} is missing or empty", hint="one image a line")
            folders = {image.parent for image in images}
            masks, boxes = ({folder: self._beside(part, folder, name) for folder in folders} for name in beside)
            boxes = {folder: place for folder, place in boxes.items() if holds_boxes(place)}
            there = any(is_folder(place) for place in masks.values()) or not boxes
            return with_boxes(pair_listed(home, images, masks if there else {}), boxes)
        if not is_folder(path):
            raise DataError(f"{self.at(part)}: no such folder: {path}", hint=f"it is relative to {home}")
        mask_folder, box_folder = (self._beside(part, path, name) for name in beside)
        boxed = holds_boxes(box_folder)
        masked = is_folder(mask_folder) or not boxed
        pairs = pair_by_stem(home, path, mask_folder) if masked else pair_unlabelled(home, path)
        if not pairs:
            raise DataError(f"{self.at(part)}: no images in {path}", hint="JPEG, PNG, BMP, TIFF or WebP")
        return with_boxes(pairs, {path: box_folder}) if boxed else pairs

    def _beside(self, part: str, images: Path, name: str) -> Path:
        """The folder of labels: the last component ``images`` of the path replaced."""
        components = images.parts
        for position in range(len(components) - 1, -1, -1):
            if components[position] == "images":
                return Path(*components[:position], name, *components[position + 1 :])
        raise UsageError(
            f"{self.at(part)}: '{images}' has no folder 'images' in it, so its labels cannot be found",
            hint=f"put images into .../images and labels into .../{name}",
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6
