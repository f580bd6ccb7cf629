"""Boxes as labelling tools export them: COCO instances, PASCAL VOC, label-studio, labelme, read where they lie.

What has a region but no box has the box around it. Crowds of COCO and difficult objects of VOC count neither as found
nor as missed. Without a val part a tenth of the train part is set aside; without any part a tenth each becomes val and
test. To train segmentation on such files, convert them first (``bitfront data convert``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

from bitfront.annotations.locating import Item, image_of, locate
from bitfront.annotations.opening import looks_annotated, open_annotations
from bitfront.annotations.shapes import IGNORED, Annotations, Region, boxes_of
from bitfront.contracts import DataInfo, Sample
from bitfront.data.files import PARTS, is_file, is_folder, require_folder
from bitfront.data.labelled import TEST_SHARE, VAL_SHARE, check_share
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.record import content_id, digest_file

__all__ = ["Annotated", "shares"]


@dataclass(eq=False)
class Annotated:
    """Pictures with boxes."""

    root: Path
    info: DataInfo
    items: Mapping[str, Sequence[Item]]
    notes: tuple[str, ...] = ()
    _hashes: dict[Path, str] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls,
        root: Path | None,
        *,
        classes: Sequence[str] = (),
        images: str = "",
        val: float = VAL_SHARE,
        seed: int = 0,
    ) -> Annotated:
        """Open annotations.

        Args:
            root: a folder with XML files (``Annotations/``), or JSON files (``annotations/``) and pictures; or a JSON
                file.
            classes: the classes and their order; by default all labels, in the file's order of classes or sorted.
            images: where the pictures are; by default beside the annotations.
            val: share of the images that is set aside where there is no val part.
            seed: chooses them.

        Raises:
            UsageError: options that do not fit.
            DataError: annotations that cannot be used, pictures without a file.
        """
        is_one = root is not None and root.suffix.lower() == ".json"
        if root is not None and is_one and not is_file(root):
            raise DataError(f"{root}: no such file", hint="check the path")
        source = root if root is not None and is_one else require_folder(root, "the reader of annotations")
        check_share(val, "val")
        opened = open_annotations(source)
        if opened is None:
            raise DataError(f"{source}: holds no annotations", hint="COCO, VOC, label-studio and labelme are read")
        found = opened[1]
        items, notes = locate(found, source, Path(images) if images else None, skip_missing=True)
        root = source if source.is_dir() else source.parent
        names = _names(found, classes, root)
        info = DataInfo(root.name or "annotated", names, tasks=("detection",), augment="detection")
        parts, more = shares({part: list(chosen) for part, chosen in items.items()}, val, seed)
        return cls(root, info, parts, (*found.notes, *notes, *more))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Say whether a folder holds annotations of boxes and nothing that another reader is for."""
        if not is_folder(root) or (root / "SegmentationClass").is_dir() or (root / "data.yaml").is_file():
            return False
        return looks_annotated(root)

    def parts(self) -> tuple[str, ...]:
        """Names of the parts that exist."""
        return tuple(name for name in PARTS if self.items.get(name))

    def part(self, name: str) -> AnnotatedPart:
        """Return one part. Raises DataError when it does not exist."""
        return AnnotatedPart(self.root, self._items(name), self.info)

    def files(self, name: str) -> Sequence[tuple[Path, Path | None]]:
        """Image of each sample of a part, in order; the annotations are inside one file or known by the part."""
        return [(item.path, None) for item in self._items(name)]

    def digest(self, name: str) -> str:
        """Content id of a part: its images and what is annotated in them."""
        part = self.part(name)
        return content_id([self._hash(item.path) for item in part.items], self.info.classes, part.identity)

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = digest_file(path)
        return self._hashes[path]

    def _items(self, name: str) -> Sequence[Item]:
        if name not in PARTS:
            raise unknown_name("part", name, PARTS)
        if name not in self.parts():
            raise DataError(f"{self.root}: there is no part '{name}'", hint=f"it has {', '.join(self.parts())}")
        return self.items[name]


class AnnotatedPart(Sequence[Sample]):
    """Samples with boxes, decoded on indexing. Indexing raises DataError, LabelError for pictures of another size."""

    def __init__(self, root: Path, items: Sequence[Item], info: DataInfo) -> None:
        self.root, self.items, self.info = root, tuple(items), info
        self._values = {name: i for i, name in enumerate(info.classes)}

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> AnnotatedPart: ...
    def __getitem__(self, index: int | slice) -> Sample | AnnotatedPart:
        if isinstance(index, slice):
            return AnnotatedPart(self.root, self.items[index], self.info)
        return self.decode(index)[0]

    @property
    def identity(self) -> object:
        """Plain data that changes when an annotation does."""
        return [
            [
                item.picture.name,
                [[a.label, a.box, a.crowd, a.difficult, _region(a.region)] for a in item.picture.annotations],
            ]
            for item in self.items
        ]

    def decode(self, index: int) -> tuple[Sample, tuple[str, ...]]:
        """Return one sample and what had to be done to read it."""
        item = self.items[index]
        image = image_of(item)
        height, width = image.pixels.shape[:2]
        rows = list(boxes_of(item.picture, (height, width), self._values, crowds=True))
        identity = item.path.resolve()
        home = self.root.resolve()
        name = identity.relative_to(home).as_posix() if identity.is_relative_to(home) else item.path.as_posix()
        sample = Sample(
            name,
            image.pixels,
            boxes=np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4),
            labels=np.array([label for label, _, _ in rows], np.int64),
            ignored=np.array([out for _, _, out in rows], bool),
        )
        return sample, image.notes


def shares(parts: dict[str, list[Item]], val: float, seed: int) -> tuple[dict[str, list[Item]], tuple[str, ...]]:
    """Set a share of the pictures aside where there is no val part (and of those a test part where all are one part).

    Returns the parts and a note on it; the same pictures for the same ``seed``.
    """
    if "val" in parts or not val or "train" not in parts:
        return parts, ()
    order = np.random.default_rng(seed).permutation(len(parts["train"])).tolist()
    wanted = {"val": val} if "test" in parts else {"val": val, "test": TEST_SHARE}
    found, begin = dict(parts), 0
    for name, share in wanted.items():
        chosen = sorted(order[begin : begin + max(1, round(share * len(order)))])
        begin += len(chosen)
        found[name] = [parts["train"][i] for i in chosen]
    found["train"] = [parts["train"][i] for i in sorted(order[begin:])]
    if not found["train"]:
        return parts, ()
    return found, (f"{' and '.join(f'{len(found[n])} images' for n in wanted)} set aside as {' and '.join(wanted)}",)


def _names(found: Annotations, asked: Sequence[str], root: Path) -> tuple[str, ...]:
    there = [name for name in found.classes if name != IGNORED]
    if missing := [name for name in asked if name not in there]:
        raise UsageError(f"{root}: no object has the label '{missing[0]}'", hint=f"there are {', '.join(there[:20])}")
    if not there:
        raise DataError(f"{root}: no object is annotated", hint="annotate some")
    return tuple(asked) or tuple(there)


def _region(region: Region | None) -> object:
    if region is None:
        return None
    polygons = [polygon.tolist() for polygon in region.polygons]
    return polygons if region.counts is None else [*polygons, region.counts.tolist()]
