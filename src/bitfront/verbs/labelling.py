"""Label maps and annotations -> what labelling tools read: COCO, label-studio, PASCAL VOC."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.annotations import coco, label_studio, voc
from bitfront.annotations.locating import image_of, is_turned, locate
from bitfront.annotations.opening import open_annotations
from bitfront.annotations.pictures import RECORD, free_name
from bitfront.annotations.polygons import components, joined, simplify, trace
from bitfront.annotations.run_lengths import counts_of
from bitfront.annotations.shapes import IGNORED, Annotation, Picture, Region
from bitfront.contracts import IGNORE, DataInfo, Dataset
from bitfront.decode import Decoded, decode_image
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.store import atomic_json, new_folder, write_file
from bitfront.verbs.converting import write_image
from bitfront.verbs.data import Converted, Progress

__all__ = ["FORMATS", "Tracing", "from_data", "reformat"]

FORMATS = ("coco", "label_studio", "voc")
"""Formats of annotations that can be written."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """How label maps become objects: one for each connected component of each class but the background."""

    shapes: str = "polygons"
    """``polygons``, or ``rle`` (run lengths; COCO and label-studio)."""
    tolerance: float = 0.0
    """Pixels by which a polygon may leave the mask's outline, to have fewer corners; 0 keeps it to the bit."""

    def __post_init__(self) -> None:
        """Check every value. Raises UsageError."""
        if self.shapes not in ("polygons", "rle"):
            raise unknown_name("--shapes", self.shapes, ("polygons", "rle"))
        if not 0 <= self.tolerance <= 100:
            raise UsageError(f"--tolerance must be 0 to 100 pixels, not {self.tolerance:g}")


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """One picture on its way: its name without ending, what it shows, its pixels, its file where there is one."""

    stem: str
    picture: Picture
    image: Decoded
    path: Path | None


@dataclass(frozen=True, slots=True, eq=False)
class _Content:
    """All that is to be written, made one picture after the other."""

    n_images: Mapping[str, int]
    """Part -> number of pictures."""
    entries: Callable[[str], Iterator[_Entry]]
    labels: Sequence[str]
    source: str
    kind: str


def from_data(
    dataset: Dataset,
    to: str,
    out: Path | str,
    *,
    parts: Sequence[str] = (),
    tracing: Tracing | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write a dataset's label maps as annotations with copies of its images.

    ``coco``: ``images/PART`` and ``annotations/instances_PART.json``; ``label_studio``: ``images/PART``, ``PART.json``
    to import and ``config.xml`` for the labelling interface; ``voc``: ``JPEGImages``, ``Annotations`` and
    ``ImageSets/Segmentation``. The background has no objects; where there is one, ignored pixels become objects with
    the label ``ignore``, and where there is none, they are the pixels of no object.

    Raises UsageError, DataError, SpaceError; nothing is left behind then.
    """
    rules = tracing or Tracing()
    if to == "voc" and rules.shapes == "rle":
        raise UsageError("VOC has no run lengths", hint="leave --shapes out")
    info = dataset.info
    if IGNORED in info.classes:
        raise UsageError(f"a class named '{IGNORED}' cannot be told from ignored pixels", hint="rename it")
    labels = tuple(name for i, name in enumerate(info.classes) if i != info.background)
    if info.background is not None:
        labels = (*labels, IGNORED)

    def entries(part: str) -> Iterator[_Entry]:
        samples, files = dataset.part(part), dataset.files(part)
        taken: set[str] = set()
        home = _home([path for path, _ in files])
        for index in range(len(samples)):
            sample = samples[index]
            if sample.mask is None:
                raise DataError(f"{sample.id}: has no label map", hint="only data with label maps can be written")
            path = files[index][0] if files else None
            image = decode_image(path) if path else Decoded(sample.image)
            name = path.relative_to(home).as_posix() if path and home else sample.id
            size = (sample.mask.shape[0], sample.mask.shape[1])
            objects = tuple(_objects(sample.mask, info, rules, sample.id))
            yield _Entry(free_name(name, taken), Picture("", sample.id, size, objects), image, path)

    n_images = {part: len(dataset.part(part)) for part in parts or dataset.parts()}
    content = _Content(n_images, entries, labels, info.name, "data")
    converted = _write(content, to, Path(out), overwrite=overwrite, progress=progress)
    return replace(converted, notes=(*converted.notes, f"read it back with: {_way_back(info, to, out)}"))


def reformat(
    source: Path | str,
    to: str,
    out: Path | str,
    *,
    kind: str = "",
    folder: Path | None = None,
    part: str = "",
    skip_missing: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write annotations in another format, their shapes as they are (VOC: run lengths as polygons along the pixels).

    Arguments as in :func:`bitfront.verbs.converting.from_annotations`; folders as in :func:`from_data`. Raises
    UsageError, DataError, SpaceError; nothing is left behind then.
    """
    source = Path(source)
    opened = open_annotations(source, kind, part)
    if opened is None:
        raise UsageError(f"'{source}' holds no annotations")
    found = opened[1]
    items, notes = locate(found, source, folder, skip_missing=skip_missing)

    def entries(part: str) -> Iterator[_Entry]:
        for item in items[part]:
            image = image_of(item)
            size = (image.pixels.shape[0], image.pixels.shape[1])
            objects = tuple(_with_polygons(a, size) if to == "voc" else a for a in item.picture.annotations)
            yield _Entry(item.stem, replace(item.picture, size=size, annotations=objects), image, item.path)

    n_images = {part: len(chosen) for part, chosen in items.items()}
    content = _Content(n_images, entries, found.classes, str(source), opened[0])
    converted = _write(content, to, Path(out), overwrite=overwrite, progress=progress)
    return replace(converted, notes=(*found.notes, *notes, *converted.notes))


def _home(paths: Sequence[Path]) -> Path | None:
    return Path(os.path.commonpath([path.parent for path in paths])) if paths else None


# --- objects ---------------------------------------------------------------------------------------------------------
def _objects(mask: NDArray[np.uint8], info: DataInfo, rules: Tracing, where: str) -> Iterator[Annotation]:
    for component in components(mask):
        value = component.value
        if value == info.background or (value == IGNORE and info.background is None):
            continue
        label = IGNORED if value == IGNORE else info.classes[value]
        if rules.shapes == "rle":
            whole = np.zeros(mask.shape, bool)
            height, width = component.window.shape
            whole[component.top : component.top + height, component.left : component.left + width] = component.window
            yield Annotation(label, where, Region(counts=counts_of(whole)))
            continue
        outer, holes = trace(component)
        rings = [simplify(ring, rules.tolerance) for ring in (outer, *holes)]
        if len(rings[0]) >= 3:
            yield Annotation(label, where, Region((joined(rings[0], [r for r in rings[1:] if len(r) >= 3]),)))


def _with_polygons(annotation: Annotation, size: tuple[int, int]) -> Annotation:
    """An object of run lengths as polygons, one for each component."""
    if annotation.region is None or annotation.region.counts is None:
        return annotation
    mask = annotation.region.window(size)[2].astype(np.uint8)
    rings = tuple(joined(*trace(component)) for component in components(mask) if component.value)
    return replace(annotation, region=Region(rings)) if rings else replace(annotation, region=None)


# --- writing ---------------------------------------------------------------------------------------------------------
def _write(content: _Content, to: str, out: Path, *, overwrite: bool, progress: Progress | None) -> Converted:
    if to not in FORMATS:
        raise unknown_name("format", to, ("masks", *FORMATS))
    taken: set[str] = set()
    n_turned = 0
    with new_folder(out, replaceable=RECORD if overwrite else "") as place:
        home = place / ("JPEGImages" if to == "voc" else "images")

        def written(part: str) -> Iterator[Picture]:
            nonlocal n_turned
            for done, entry in enumerate(content.entries(part), 1):
                n_turned += is_turned(entry.image)
                stem = free_name(entry.stem.replace("/", "_"), taken) if to == "voc" else f"{part}/{entry.stem}"
                path = write_image(home / stem, entry.path, entry.image)
                yield replace(entry.picture, name=path.relative_to(home).as_posix())
                if progress:
                    progress(f"write {part}", done, content.n_images[part])

        for part in content.n_images:
            _write_part(place, part, written(part), content.labels, to)
        if to == "label_studio":
            write_file(place / "config.xml", label_studio.configuration(content.labels).encode())
        atomic_json(place / RECORD, {"source": content.source, "from": content.kind, "to": to})
    notes = (f"{n_turned} images with an EXIF orientation are written upright, as PNG",) if n_turned else ()
    return Converted(out, dict(content.n_images), notes)


def _write_part(place: Path, part: str, pictures: Iterable[Picture], labels: Sequence[str], to: str) -> None:
    if to == "coco":
        _write_json(place / "annotations" / f"instances_{part}.json", coco.compose(pictures, labels))
    elif to == "label_studio":
        _write_json(place / f"{part}.json", label_studio.compose(pictures, "images/"))
    else:
        names = []
        for picture in pictures:
            name = picture.name.rpartition(".")[0]
            write_file(place / "Annotations" / f"{name}.xml", voc.compose(picture))
            names.append(name)
        write_file(place / voc.LISTS[0] / f"{part}.txt", "".join(f"{name}\n" for name in names).encode())


def _write_json(path: Path, content: Any) -> None:
    write_file(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())


def _way_back(info: DataInfo, to: str, out: Path | str) -> str:
    """The command that gives the same label maps again."""
    unlabelled = IGNORED if info.background is None else info.classes[info.background]
    tokens = ["bitfront", "data", "convert", str(out)]
    labels = [name for i, name in enumerate(info.classes) if i != info.background]
    if info.background not in (None, 0) or (to != "coco" and labels):
        tokens += ["--classes", ",".join(info.classes)]
    if unlabelled != "background":
        tokens += ["--unlabelled", unlabelled]
    return shlex.join([*tokens, "--out", "FOLDER"])
