"""COCO instances (Lin et al. 2014; the data format at cocodataset.org): polygons, run lengths, crowds, boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitfront.annotations.documents import mapping, number, read_json, sequence, text, whole
from bitfront.annotations.run_lengths import compress_counts, counts_of, expand_counts
from bitfront.annotations.shapes import IGNORED, Annotation, Annotations, Box, Picture, Region
from bitfront.errors import DataError

__all__ = ["compose", "read", "recognises"]


def recognises(content: object) -> bool:
    """Say whether JSON content looks like COCO."""
    return isinstance(content, dict) and "images" in content and "annotations" in content


def read(files: Mapping[str, Path]) -> Annotations:
    """Read one file for each part. Classes are in the order of the categories' ids. Raises DataError."""
    parts: dict[str, Sequence[Picture]] = {}
    classes: dict[int, str] = {}
    for part, path in files.items():
        content = mapping(read_json(path), str(path))
        found = _categories(content, path)
        if classes and found != classes:
            raise DataError(f"{path}: has other categories than the files before it", hint="convert them one by one")
        classes = found
        parts[part] = _pictures(content, path, classes)
    ordered = tuple(classes[key] for key in sorted(classes))
    return Annotations(ordered, parts)


def _categories(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for position, value in enumerate(sequence(content.get("categories"), f"{path}: categories")):
        where = f"{path}: categories[{position}]"
        entry = mapping(value, where)
        key, name = whole(entry.get("id"), f"{where}.id"), text(entry.get("name"), f"{where}.name")
        if key in found or name in found.values():
            raise DataError(f"{where}: id {key} or name '{name}' stands there twice", hint="rename or remove one")
        found[key] = name
    return found


def _pictures(content: Mapping[str, Any], path: Path, classes: Mapping[int, str]) -> list[Picture]:
    known: dict[int, tuple[str, str, tuple[int, int]]] = {}
    for position, value in enumerate(sequence(content.get("images"), f"{path}: images")):
        where = f"{path}: images[{position}]"
        entry = mapping(value, where)
        key = whole(entry.get("id"), f"{where}.id")
        where += f" (id {key})"
        if key in known:
            raise DataError(f"{where}: {known[key][1]} has the same id", hint="ids must differ: correct or remove one")
        name = text(entry.get("file_name"), f"{where}.file_name")
        size = (whole(entry.get("height"), f"{where}.height", 1), whole(entry.get("width"), f"{where}.width", 1))
        known[key] = (name, where, size)
    items: dict[int, list[Annotation]] = {key: [] for key in known}
    for position, value in enumerate(sequence(content.get("annotations"), f"{path}: annotations")):
        where = f"{path}: annotations[{position}]"
        entry = mapping(value, where)
        where += f" (id {entry.get('id')})"
        key = whole(entry.get("image_id"), f"{where}.image_id")
        if key not in known:
            raise DataError(f"{where}: there is no image with id {key}", hint="add the image, or remove this item")
        items[key].append(_annotation(entry, where, classes, known[key][2]))
    return [Picture(name, where, size, tuple(items[key])) for key, (name, where, size) in known.items()]


def _annotation(entry: Mapping[str, Any], where: str, classes: Mapping[int, str], size: tuple[int, int]) -> Annotation:
    category = whole(entry.get("category_id"), f"{where}.category_id")
    if category not in classes:
        raise DataError(f"{where}: there is no category with id {category}", hint="add it to categories")
    given = entry.get("segmentation")
    region = _region(given, f"{where}.segmentation", size) if given else None
    box = _box(entry["bbox"], f"{where}.bbox") if entry.get("bbox") else None
    if region is None and box is None:
        raise DataError(f"{where}: has neither segmentation nor bbox", hint="remove this item")
    return Annotation(classes[category], where, region, box, crowd=bool(entry.get("iscrowd", 0)))


def _box(value: object, where: str) -> Box:
    numbers = [number(v, where) for v in sequence(value, where)]
    if len(numbers) != 4 or numbers[2] < 0 or numbers[3] < 0:
        raise DataError(f"{where}: must be x, y, width, height", hint="correct or remove this item")
    x, y, width, height = numbers
    return x, y, x + width, y + height


def _region(value: object, where: str, size: tuple[int, int]) -> Region:
    if isinstance(value, dict):
        return _run_lengths(value, where, size)
    polygons = []
    for ring in sequence(value, where):
        numbers = [number(v, where) for v in sequence(ring, where)]
        if len(numbers) % 2:
            raise DataError(f"{where}: a polygon has {len(numbers)} numbers", hint="it needs x and y for each corner")
        polygons.append(np.array(numbers, float).reshape(-1, 2))
    return Region(tuple(polygons))


def _run_lengths(value: Mapping[str, Any], where: str, size: tuple[int, int]) -> Region:
    stated = [whole(v, f"{where}.size") for v in sequence(value.get("size"), f"{where}.size")]
    if stated != list(size):
        raise DataError(f"{where}: size {stated} is not the image's {list(size)}", hint="height and width swapped?")
    counts = value.get("counts")
    try:
        lengths = (
            expand_counts(counts)
            if isinstance(counts, str)
            else np.array([whole(v, f"{where}.counts") for v in sequence(counts, f"{where}.counts")], np.int64)
        )
    except ValueError as error:
        raise DataError(f"{where}: {error}", hint="export it again, or remove this item") from None
    if int(lengths.sum()) != size[0] * size[1] or (lengths < 0).any():
        raise DataError(f"{where}: the run lengths do not fill {size[1]}x{size[0]} pixels", hint="export it again")
    return Region(counts=lengths)


# --- writing ---------------------------------------------------------------------------------------------------------
def compose(pictures: Iterable[Picture], classes: Sequence[str]) -> dict[str, Any]:
    """Return the content of a file; every picture needs its size, ids count from 1."""
    ids = {name: position for position, name in enumerate(classes, 1)}
    images: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    for number_, picture in enumerate(pictures, 1):
        assert picture.size is not None
        height, width = picture.size
        images.append({"id": number_, "file_name": picture.name, "width": width, "height": height})
        for annotation in picture.annotations:
            entry = _composed(annotation, picture.size)
            items.append({"id": len(items) + 1, "image_id": number_, "category_id": ids[annotation.label], **entry})
    used = {item["category_id"] for item in items}
    kept = {name: key for name, key in ids.items() if name != IGNORED or key in used}
    categories = [{"id": key, "name": name, "supercategory": ""} for name, key in kept.items()]
    return {"images": images, "annotations": items, "categories": categories}


def _composed(annotation: Annotation, size: tuple[int, int]) -> dict[str, Any]:
    region = annotation.region
    segmentation: object = []
    area, box = 0.0, annotation.box
    if region is not None:
        top, left, inside = region.window(size)
        area = float(inside.sum())
        if region.counts is not None or annotation.crowd:
            whole_picture = np.zeros(size, bool)
            whole_picture[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
            segmentation = {"size": list(size), "counts": compress_counts(counts_of(whole_picture))}
        else:
            segmentation = [[plain(v) for v in ring.ravel()] for ring in region.polygons]
        if box is None:
            rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            if rows.size:
                box = (left + columns[0], top + rows[0], left + columns[-1] + 1.0, top + rows[-1] + 1.0)
    x1, y1, x2, y2 = box or (0.0, 0.0, 0.0, 0.0)
    return {
        "segmentation": segmentation,
        "area": area or float((x2 - x1) * (y2 - y1)),
        "bbox": [plain(v) for v in (x1, y1, x2 - x1, y2 - y1)],
        "iscrowd": int(annotation.crowd),
    }


def plain(value: float) -> int | float:
    """Return a coordinate as a whole number where it is one."""
    return int(value) if value == int(value) else float(value)
