"""labelme (github.com/wkentaro/labelme): one JSON file a picture, with polygons, circles and boxes in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitfront.annotations.documents import mapping, point_pairs, read_json, sequence, text, whole
from bitfront.annotations.shapes import Annotation, Annotations, Picture, Region
from bitfront.errors import DataError

__all__ = ["read", "recognises"]

N_CORNERS = 64
SHAPES = ("polygon", "rectangle", "circle")


def recognises(content: object) -> bool:
    """Say whether JSON content looks like labelme's."""
    return isinstance(content, dict) and "shapes" in content and "imagePath" in content


def read(files: Sequence[Path], part: str) -> Annotations:
    """Read one file for each picture. Classes are sorted by name. Raises DataError."""
    pictures, left_out = [], 0
    for path in files:
        content = mapping(read_json(path), str(path))
        name = text(content.get("imagePath"), f"{path}: imagePath").replace("\\", "/")
        size = None
        if content.get("imageHeight") and content.get("imageWidth"):
            sides = [whole(content[key], f"{path}: {key}", 1) for key in ("imageHeight", "imageWidth")]
            size = (sides[0], sides[1])
        shapes = [
            _shape(mapping(value, where), where)
            for position, value in enumerate(sequence(content.get("shapes"), f"{path}: shapes"))
            if (where := f"{path}: shapes[{position}]")
        ]
        pictures.append(Picture(name, str(path), size, tuple(s for s in shapes if s)))
        left_out += sum(s is None for s in shapes)
    notes = (f"{left_out} points and lines are left out",) if left_out else ()
    labels = {a.label for p in pictures for a in p.annotations}
    return Annotations(tuple(sorted(labels)), {part: pictures}, notes)


def _shape(entry: dict[str, Any] | Any, where: str) -> Annotation | None:
    kind = entry.get("shape_type") or "polygon"
    if kind not in SHAPES:
        if kind in ("point", "points", "line", "linestrip"):
            return None
        raise DataError(f"{where}: shapes of type '{kind}' are not known", hint=f"known: {', '.join(SHAPES)}")
    label = text(entry.get("label"), f"{where}.label")
    points = point_pairs(entry.get("points"), f"{where}.points")
    if kind == "polygon":
        return Annotation(label, where, Region((points,)))
    if len(points) != 2:
        raise DataError(f"{where}: a {kind} needs two points, has {len(points)}", hint="correct or remove it")
    if kind == "circle":
        radius = math.dist(points[0], points[1])
        around = np.arange(N_CORNERS) * (2 * math.pi / N_CORNERS)
        return Annotation(label, where, Region((points[0] + radius * np.stack([np.cos(around), np.sin(around)], 1),)))
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return Annotation(label, where, box=(x1, y1, x2, y2))
