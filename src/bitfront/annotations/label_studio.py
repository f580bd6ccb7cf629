"""label-studio (labelstud.io): exports as JSON and JSON-MIN, with polygons, brush strokes, ellipses and boxes.

Polygons, ellipses and boxes are in per cent of the picture's width and height, brush strokes run lengths of its RGBA
bytes. Of several annotations of one task the last that was not cancelled counts; tasks without any are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np

from bitfront.annotations.documents import mapping, number, point_pairs, sequence, text, whole
from bitfront.annotations.polygons import Points
from bitfront.annotations.run_lengths import counts_of, decode_brush, encode_brush
from bitfront.annotations.shapes import Annotation, Annotations, Box, Picture, Region
from bitfront.errors import DataError

__all__ = ["compose", "configuration", "read", "recognises"]

LABELS = ("polygonlabels", "brushlabels", "rectanglelabels", "ellipselabels", "labels")
"""Keys of a region's value that may hold its label."""
N_CORNERS = 64
"""Corners of the polygon that stands for an ellipse."""
NOT_REGIONS = re.compile(r"choices|rating|textarea|taxonomy|number|datetime|relation|pairwise|ranker")


def recognises(content: object) -> bool:
    """Say whether JSON content looks like an export."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and bool(
        {"data", "annotations", "completions"} & set(first) or _picture_key(first, strict=True)
    )


def read(content: object, where: str, part: str) -> Annotations:
    """Read an export. Classes are sorted by name. Raises DataError."""
    pictures = []
    n_open = n_several = 0
    for position, value in enumerate(sequence(content, where)):
        place = f"{where}: task[{position}]"
        task = mapping(value, place)
        place += f" (id {task['id']})" if "id" in task else ""
        found = _annotated(task, place) if "data" in task else list(_minimal(task))
        if found is None:
            n_open += 1
            continue
        n_several += _n_finished(task) > 1
        annotations, size = _regions(found, place)
        pictures.append(Picture(_picture_name(task, place), place, size, tuple(annotations)))
    notes = []
    if n_open:
        notes.append(f"{n_open} tasks without an annotation are left out")
    if n_several:
        notes.append(f"{n_several} tasks have several annotations: the last one counts")
    labels = {a.label for p in pictures for a in p.annotations}
    return Annotations(tuple(sorted(labels)), {part: pictures}, tuple(notes))


# --- tasks -----------------------------------------------------------------------------------------------------------
def _finished(task: Mapping[str, Any]) -> list[Any]:
    given = task.get("annotations") or task.get("completions") or []
    return [a for a in given if isinstance(a, dict) and not a.get("was_cancelled")] if isinstance(given, list) else []


def _n_finished(task: Mapping[str, Any]) -> int:
    return len(_finished(task))


def _annotated(task: Mapping[str, Any], where: str) -> list[Any] | None:
    """The results of a task; ``None`` when nobody annotated it."""
    finished = _finished(task)
    if not finished:
        return None
    return list(sequence(finished[-1].get("result", []), f"{where}.annotations[{len(finished) - 1}].result"))


def _minimal(task: Mapping[str, Any]) -> Iterator[Any]:
    """The regions of a JSON-MIN task, in the form of the full export."""
    for value in task.values():
        for entry in value if isinstance(value, list) else ():
            if isinstance(entry, dict) and ("original_width" in entry or set(LABELS) & set(entry)):
                yield {**entry, "value": entry}


def _picture_key(fields: Mapping[str, Any], strict: bool = False) -> str:
    names = [k for k in ("image", "img", "url", "photo", "picture") if isinstance(fields.get(k), str)]
    if not names and not strict:
        names = [k for k, v in fields.items() if isinstance(v, str) and re.search(r"\.\w{3,4}($|\?)", v)]
    return names[0] if names else ""


def _picture_name(task: Mapping[str, Any], where: str) -> str:
    fields = mapping(task.get("data", task), f"{where}.data")
    key = _picture_key(fields)
    if not key:
        raise DataError(f"{where}: names no image", hint="expected data.image with a path or URL")
    return _local(text(fields[key], f"{where}.data.{key}"))


def _local(address: str) -> str:
    """The path in an address: of local files the one they are served from, else what follows the host."""
    if not re.match(r"\w+://|/data/", address):
        return address
    parts = urlsplit(address)
    served = parse_qs(parts.query).get("d")
    return served[0] if served else unquote(parts.path).removeprefix("/data/").lstrip("/")


# --- regions ---------------------------------------------------------------------------------------------------------
def _regions(results: Sequence[Any], where: str) -> tuple[list[Annotation], tuple[int, int] | None]:
    found: list[Annotation] = []
    size: tuple[int, int] | None = None
    elsewhere, labelled = _labels_by_id(results)
    for position, result in enumerate(results):
        place = f"{where}.result[{position}]"
        entry = mapping(result, place)
        kind = str(entry.get("type", ""))
        value = entry.get("value")
        if NOT_REGIONS.search(kind) or not isinstance(value, dict) or not _is_region(value):
            continue
        key = str(entry.get("id"))
        if not _labels(value) and key in labelled:
            continue  # the same region stands there again with its label
        labels = _labels(value) or elsewhere.get(key, [])
        if not labels:
            raise DataError(f"{place}: this region has no label", hint="label it, or remove it in label-studio")
        stated = (
            whole(entry.get("original_height"), f"{place}.original_height", 1),
            whole(entry.get("original_width"), f"{place}.original_width", 1),
        )
        if size not in (None, stated):
            raise DataError(f"{place}: the picture has two sizes, {size} and {stated}", hint="export it again")
        if entry.get("image_rotation"):
            raise DataError(
                f"{place}: was drawn on a picture turned by {entry['image_rotation']} degrees",
                hint="turn it back in label-studio, check the region, and export again",
            )
        size = stated
        found += [_annotation(value, text(name, f"{place}.labels"), place, size) for name in labels]
    return found, size


def _is_region(value: Mapping[str, Any]) -> bool:
    return "points" in value or "rle" in value or "radiusX" in value or {"x", "y", "width", "height"} <= set(value)


def _labels(value: Mapping[str, Any]) -> list[Any]:
    return next((value[key] for key in LABELS if isinstance(value.get(key), list) and value[key]), [])


def _labels_by_id(results: Sequence[Any]) -> tuple[dict[str, list[Any]], set[str]]:
    """Labels that stand apart from their region, by its id; and the ids of regions that have theirs with them."""
    apart: dict[str, list[Any]] = {}
    together: set[str] = set()
    for result in results:
        value = result.get("value") if isinstance(result, dict) else None
        if isinstance(value, dict) and _labels(value):
            if _is_region(value):
                together.add(str(result.get("id")))
            else:
                apart[str(result.get("id"))] = _labels(value)
    return apart, together


def _annotation(value: Mapping[str, Any], label: str, where: str, size: tuple[int, int]) -> Annotation:
    height, width = size
    scale = np.array([width, height]) / 100
    if "rle" in value:
        try:
            mask = decode_brush(sequence(value["rle"], f"{where}.rle"), size)
        except ValueError as error:
            raise DataError(f"{where}: {error}", hint="export it again, or remove this region") from None
        return Annotation(label, where, Region(counts=counts_of(mask)))
    if "points" in value:
        return Annotation(label, where, Region((point_pairs(value["points"], f"{where}.points") * scale,)))
    if "radiusX" in value:
        names = ("x", "y", "radiusX", "radiusY")
        x, y, across, down = (number(value.get(k), f"{where}.{k}") for k in names)
        centre, radii = np.array([x, y]) * scale, np.array([across, down]) * scale
        return Annotation(label, where, Region((_ellipse(centre, radii, _angle(value, where)),)))
    x, y, w, h = (number(value.get(k), f"{where}.{k}") for k in ("x", "y", "width", "height"))
    corner, extent = np.array([x, y]) * scale, np.array([w, h]) * scale
    return Annotation(label, where, box=_box(corner, extent, _angle(value, where)))


def _angle(value: Mapping[str, Any], where: str) -> float:
    return math.radians(number(value.get("rotation") or 0, f"{where}.rotation"))


def _turned(points: Points, angle: float) -> Points:
    """Turn points about the origin, clockwise as seen (y points down)."""
    cosine, sine = math.cos(angle), math.sin(angle)
    turned: Points = points @ np.array([[cosine, sine], [-sine, cosine]])
    return turned


def _ellipse(centre: Points, radii: Points, angle: float) -> Points:
    around = np.arange(N_CORNERS) * (2 * math.pi / N_CORNERS)
    return centre + _turned(np.stack([np.cos(around), np.sin(around)], axis=1) * radii, angle)


def _box(corner: Points, extent: Points, angle: float) -> Box:
    """The box around a rectangle, which label-studio turns about its first corner."""
    corners = corner + _turned(np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * extent, angle)
    (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return x1, y1, x2, y2


# --- writing ---------------------------------------------------------------------------------------------------------
def compose(pictures: Iterable[Picture], prefix: str) -> list[dict[str, Any]]:
    """Return tasks that label-studio imports; pictures are served as local files below ``prefix``."""
    tasks = []
    for picture in pictures:
        assert picture.size is not None
        results = [r for position, a in enumerate(picture.annotations) for r in _composed(a, picture.size, position)]
        address = f"/data/local-files/?d={quote(prefix + picture.name)}"
        tasks.append({"data": {"image": address}, "annotations": [{"result": results}]})
    return tasks


def _composed(annotation: Annotation, size: tuple[int, int], position: int) -> Iterator[dict[str, Any]]:
    height, width = size
    region = annotation.region
    values: list[tuple[str, dict[str, Any]]] = []
    if region is not None and region.counts is not None:
        values = [("brush", {"format": "rle", "rle": encode_brush(region.window(size)[2])})]
    elif region is not None:
        percent = 100 / np.array([width, height])
        values = [("polygon", {"points": (ring * percent).tolist(), "closed": True}) for ring in region.polygons]
    elif annotation.box is not None:
        x1, y1, x2, y2 = annotation.box
        extent = {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
        values = [("rectangle", {"x": 100 * x1 / width, "y": 100 * y1 / height, **extent, "rotation": 0})]
    for part, (kind, value) in enumerate(values):
        yield {
            "id": f"r{position}_{part}",
            "type": f"{kind}labels",
            "from_name": kind,
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {**value, f"{kind}labels": [annotation.label]},
        }


def configuration(classes: Sequence[str]) -> str:
    """Return the labelling interface, as label-studio's settings take it."""
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in classes)
    tools = "".join(
        f'  <{kind}Labels name="{kind.lower()}" toName="image">\n{labels}  </{kind}Labels>\n'
        for kind in ("Polygon", "Brush", "Rectangle")
    )
    return f'<View>\n  <Image name="image" value="$image" zoom="true"/>\n{tools}</View>\n'
