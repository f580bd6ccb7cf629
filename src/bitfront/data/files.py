"""What the readers of image and label files share: pairing, label tables, decoding on indexing, content ids.

Not a plug-in itself. A reader finds its files and says what their label values mean; this module does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitfront.contracts import IGNORE, DataInfo, Part, Sample
from bitfront.data.box_lines import read_boxes
from bitfront.decode import EXTENSIONS, color_table, decode_image, decode_mask, read_mask
from bitfront.errors import DataError, LabelError, UsageError, unknown_name
from bitfront.record import content_id, digest_file

__all__ = [
    "PARTS",
    "FileDataset",
    "FilePart",
    "Labels",
    "Pair",
    "binary_mapping",
    "holds_boxes",
    "image_files",
    "is_file",
    "is_folder",
    "label_values",
    "pair_by_stem",
    "pair_listed",
    "pair_unlabelled",
    "read_list",
    "require_folder",
    "with_boxes",
]

PARTS = ("train", "val", "test")

SAMPLED = 200
"""How many masks are looked at to find out which label values there are."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Image and label file of one sample."""

    id: str
    """Path of the image relative to the dataset's root, with forward slashes."""
    image: Path
    mask: Path | None
    wanted: str = ""
    """Where the label file was looked for when there is none."""
    label: int | None = None
    """Class of the whole image: there is no label file then."""
    boxes: Path | None = None
    """File of its boxes (:mod:`bitfront.data.box_lines`); an image without one has no object when ``has_boxes``."""
    has_boxes: bool = False
    """Whether the image is labelled with boxes."""


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What the values (or colours) of label files mean."""

    table: NDArray[np.int16]
    """``(256,)``: stored value -> class index, 255 (ignore) or -1 (an error)."""
    colors: NDArray[np.int16] | None = None
    """Of :func:`bitfront.decode.color_table`: colour -> *stored value*, for masks saved as RGB."""
    identity: object = None
    """Plain data that changes when the meaning changes; part of the dataset's content id."""

    @classmethod
    def of(
        cls, n_classes: int, mapping: Mapping[int, int] | None = None, colors: Mapping[tuple[int, int, int], int] = {}
    ) -> Labels:
        """Return the meaning "value ``v`` is class ``v``, 255 is ignored", changed by ``mapping`` (value -> label)."""
        table = np.full(256, -1, np.int16)
        table[:n_classes] = np.arange(n_classes)
        table[IGNORE] = IGNORE
        for value, label in (mapping or {}).items():
            table[value] = label
        identity = [table.tolist(), sorted((list(c), v) for c, v in colors.items())]
        return cls(table, color_table(colors) if colors else None, identity)

    def apply(self, mask: NDArray[np.uint8], path: Path, info: DataInfo) -> NDArray[np.uint8]:
        """Return class indices ``(h, w)``. Raises LabelError for values that mean nothing, with the likely cause."""
        counts = np.array(Image.fromarray(mask).histogram())
        wrong = np.flatnonzero((counts > 0) & (self.table < 0))
        if wrong.size:
            value = int(wrong[counts[wrong].argmax()])
            others = f" (and {wrong.size - 1} other such values)" if wrong.size > 1 else ""
            raise LabelError(
                f"{path}: label value {value} in {int(counts[value])} pixels{others}, "
                f"but the {len(info.classes)} classes are 0..{len(info.classes) - 1}",
                hint=_likely_cause(np.flatnonzero(counts), wrong, len(info.classes)),
            )
        seen = np.flatnonzero(counts)
        if (self.table[seen] == seen).all():
            return mask
        labels: NDArray[np.uint8] = np.take(self.table.astype(np.uint8), mask)
        return labels


def _likely_cause(values: NDArray[np.intp], wrong: NDArray[np.intp], n_classes: int) -> str:
    if set(values.tolist()) == {0, 255} or (wrong.tolist() == [255] and n_classes == 2):
        return "a 0/255 binary mask? map it with label_mapping: {255: 1} in a data YAML"
    if wrong.size > 8:
        return "so many values mean lossy compression (once a JPEG?) or resizing with interpolation: export it again"
    if wrong.size == 1 and wrong[0] >= 250:
        return f"an 'ignore' label? set ignore_label: {wrong[0]} in a data YAML"
    if values.size <= n_classes:
        return "palette converted to grey? save class indices, or map values with label_mapping in a data YAML"
    return "more classes than were named? name them all, or map values with label_mapping in a data YAML"


class FilePart(Sequence[Sample]):
    """Samples of one part, decoded on indexing.

    Indexing raises DataError for files that cannot be read and LabelError for labels that contradict their image.
    """

    def __init__(self, pairs: Sequence[Pair], labels: Labels, info: DataInfo) -> None:
        self.pairs = tuple(pairs)
        self.labels = labels
        self.info = info

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> FilePart: ...
    def __getitem__(self, index: int | slice) -> Sample | FilePart:
        if isinstance(index, slice):
            return FilePart(self.pairs[index], self.labels, self.info)
        return self.decode(index)[0]

    @property
    def identity(self) -> object:
        """Plain data that changes when the meaning of the label files, or the class of an image, changes."""
        more = [pair.label if pair.label is not None else _stamp(pair.boxes) for pair in self.pairs]
        return self.labels.identity if all(found is None for found in more) else [self.labels.identity, more]

    def decode(self, index: int) -> tuple[Sample, tuple[str, ...]]:
        """Return one sample and what had to be done to read it."""
        pair = self.pairs[index]
        image = decode_image(pair.image)
        if pair.label is not None:
            return Sample(pair.id, image.pixels, label=pair.label), image.notes
        boxes, labels = (
            read_boxes(pair.boxes, image.pixels.shape[:2], self.info.classes) if pair.has_boxes else (None, None)
        )
        if pair.mask is None and pair.has_boxes:
            return Sample(pair.id, image.pixels, boxes=boxes, labels=labels), image.notes
        if pair.mask is None:
            raise DataError(f"{pair.image}: has no label map", hint=f"expected {pair.wanted}")
        mask = decode_mask(pair.mask, colors=self.labels.colors)
        _check_size(pair, image.pixels.shape[:2], mask.pixels.shape, image.notes)
        classes = self.labels.apply(mask.pixels, pair.mask, self.info)
        sample = Sample(pair.id, image.pixels, classes, boxes, labels)
        return sample, (*image.notes, *(f"mask: {n}" for n in mask.notes))


def _check_size(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...], notes: Sequence[str]) -> None:
    if image == mask:
        return
    turned = any("EXIF" in note for note in notes)
    if image == mask[::-1] and turned:
        cause = "the image has an EXIF orientation and the mask was drawn on the unturned picture: turn the mask too"
    elif image == mask[::-1]:
        cause = "height and width are swapped (an EXIF orientation lost on the way?): turn one of them"
    else:
        cause = "export the mask at the size of its image"
    raise LabelError(f"{pair.mask}: mask is {mask[1]}x{mask[0]}, its image {image[1]}x{image[0]}", hint=cause)


@dataclass(eq=False)
class FileDataset:
    """Base of the readers: parts as lists of files, and one meaning of labels for all of them."""

    root: Path
    info: DataInfo
    pairs: Mapping[str, Sequence[Pair]]
    labels: Labels
    notes: tuple[str, ...] = ()
    """What was found or assumed on opening."""
    _hashes: dict[tuple[str, int, int], str] = field(default_factory=dict, repr=False)

    def parts(self) -> tuple[str, ...]:
        """Names of the parts that exist."""
        return tuple(name for name in PARTS if self.pairs.get(name))

    def part(self, name: str) -> Part:
        """Return one part. Raises DataError when it does not exist."""
        return FilePart(self._pairs(name), self.labels, self.info)

    def files(self, name: str) -> Sequence[tuple[Path, Path | None]]:
        """Image and label file of each sample of a part, in order."""
        return [(pair.image, pair.mask) for pair in self._pairs(name)]

    def digest(self, name: str) -> str:
        """Content id of a part: names and bytes of all its files, and the meaning of the labels."""
        files = [
            [
                pair.id,
                self._hash(pair.image),
                self._hash(pair.mask) if pair.mask else _class(pair),
                *([self._hash(pair.boxes)] if pair.boxes else []),
            ]
            for pair in self._pairs(name)
        ]
        return content_id(files, self.info.classes, self.labels.identity)

    def _pairs(self, name: str) -> Sequence[Pair]:
        if name not in self.parts():
            if name not in PARTS:
                raise unknown_name("part", name, PARTS)
            raise DataError(
                f"{self.root}: there is no part '{name}'", hint=f"it has {', '.join(self.parts()) or 'no part'}"
            )
        return self.pairs[name]

    def _hash(self, path: Path) -> str:
        try:
            status = path.stat()
            key = (str(path), status.st_mtime_ns, status.st_size)
            if key not in self._hashes:
                self._hashes[key] = digest_file(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read: {error}", hint="check the path") from error
        return self._hashes[key]


def _stamp(path: Path | None) -> object:
    """Plain data that changes when a file does; ``None`` without one."""
    try:
        return None if path is None else [path.name, path.stat().st_mtime_ns, path.stat().st_size]
    except (OSError, ValueError):
        return str(path)


def _class(pair: Pair) -> str:
    return "" if pair.label is None else f"class {pair.label}"


def require_folder(root: Path | None, what: str) -> Path:
    """Return ``root`` as an existing folder. Raises UsageError without one, DataError when it is not there."""
    if root is None:
        raise UsageError(f"{what} needs a folder", hint="give the folder that holds the data")
    if not is_folder(root):
        raise DataError(f"{root}: no such folder", hint="check the path")
    return root


def is_folder(path: Path) -> bool:
    """Say whether a path is a folder; impossible names (too long, with a zero byte) are none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Say whether a path is a file; impossible names are none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def image_files(folder: Path) -> list[Path]:
    """Return the images below a folder (by their endings; hidden files left out), sorted by their path."""
    if not is_folder(folder):
        return []
    found = [p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")]
    return sorted((p for p in found if p.is_file()), key=lambda p: p.relative_to(folder).as_posix())


def pair_by_stem(
    root: Path, images: Path, masks: Path, *, image_end: str = "", mask_ends: Sequence[str] = ()
) -> list[Pair]:
    """Pair the files of two folders whose paths are the same but for the file ending.

    The image's stem may have ``image_end`` more, the mask's one of ``mask_ends`` (default MASK_ENDS). Images without a
    mask are kept, to be reported. Raises DataError when two files claim one name, or when no image has a mask.
    """
    mask_ends = mask_ends or MASK_ENDS
    by_stem = _by_stem(masks, "")
    pairs = []
    for stem, path in _by_stem(images, image_end).items():
        mask = next((by_stem[stem + end] for end in mask_ends if stem + end in by_stem), None)
        wanted = "" if mask else f"{(masks / stem).as_posix()}{mask_ends[0]}.png"
        pairs.append(Pair(_relative(path, root), path, mask, wanted))
    if pairs and not any(pair.mask for pair in pairs):
        raise DataError(
            f"{masks}: none of the {len(pairs)} images in {images} has a mask there",
            hint=f"a mask has the name of its image: {pairs[0].wanted}",
        )
    return pairs


MASK_ENDS = ("", "_mask", "_label", "_labels", "_seg", "_L", "_gt")
"""Endings that the stem of a mask may have beyond its image's."""


def pair_listed(root: Path, images: Sequence[Path], mask_folders: Mapping[Path, Path]) -> list[Pair]:
    """Pair listed images with the masks in the folder that ``mask_folders`` gives for the image's own."""
    known = {folder: _by_stem(masks, "") for folder, masks in mask_folders.items()}
    pairs = []
    for path in images:
        masks = known.get(path.parent, {})
        mask = next((masks[path.stem + end] for end in MASK_ENDS if path.stem + end in masks), None)
        folder = mask_folders.get(path.parent)
        wanted = "" if mask or folder is None else (folder / f"{path.stem}.png").as_posix()
        pairs.append(Pair(_relative(path, root), path, mask, wanted))
    return pairs


def pair_unlabelled(root: Path, images: Path) -> list[Pair]:
    """Return the images below a folder, without labels."""
    return [Pair(_relative(path, root), path, None) for path in image_files(images)]


def holds_boxes(folder: Path) -> bool:
    """Say whether a folder holds text files, as those of boxes are: label maps are pictures."""
    return is_folder(folder) and next(folder.rglob("*.txt"), None) is not None


def with_boxes(pairs: Sequence[Pair], folders: Mapping[Path, Path]) -> list[Pair]:
    """Return pairs with the files of their boxes; ``folders``: folder of images -> folder of such files.

    An image without a file has no object. Raises DataError when no image below a folder has one.
    """
    found = []
    for images, labels in folders.items():
        own = [pair for pair in pairs if pair.image.is_relative_to(images)]
        files = [labels / pair.image.relative_to(images).with_suffix(".txt") for pair in own]
        there = [is_file(path) for path in files]
        if own and not any(there):
            raise DataError(
                f"{labels}: none of the {len(own)} images in {images} has boxes there",
                hint=f"a file of boxes has the name of its image: {files[0]}",
            )
        found += [
            replace(pair, boxes=path if exists else None, has_boxes=True)
            for pair, path, exists in zip(own, files, there, strict=True)
        ]
    boxed = {pair.image for pair in found}
    return [*found, *(pair for pair in pairs if pair.image not in boxed)]


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def read_list(path: Path) -> list[str]:
    """Return the lines of a list of names, without blank ones; a missing list is empty. Raises DataError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}", hint="one name a line, UTF-8") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def label_values(pairs: Mapping[str, Sequence[Pair]]) -> set[int]:
    """Return the values in up to SAMPLED masks spread over all parts.

    Unreadable ones are the scan's affair; raises DataError when none can be read.
    """
    masks = [pair.mask for part in pairs.values() for pair in part if pair.mask]
    chosen = [masks[i] for i in np.unique(np.linspace(0, len(masks) - 1, min(SAMPLED, len(masks))).astype(int))]
    seen = np.zeros(256, bool)
    errors = []
    for path in chosen:
        try:
            seen[read_mask(path)] = True
        except DataError as error:
            errors.append(error)
    if errors and len(errors) == len(chosen):
        raise errors[0]
    return {int(v) for v in np.flatnonzero(seen)}


def binary_mapping(values: set[int]) -> dict[int, int]:
    """Return ``{255: 1}`` when the masks of two classes hold only 0 and 255, which then cannot mean "ignore"."""
    return {IGNORE: 1} if values in ({0, IGNORE}, {IGNORE}) else {}


def _by_stem(folder: Path, end: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in image_files(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if not stem.endswith(end):
            continue
        stem = stem.removesuffix(end)
        if stem in found:
            raise DataError(
                f"{path}: has the same name as {found[stem].name}",
                hint="labels are found by name: rename or remove one",
            )
        found[stem] = path
    return found
