"""PASCAL VOC annotations (Everingham et al. 2010): one XML file a picture, boxes, and polygons as tools add them.

Boxes count pixels from 1 and include the last one, as the VOC development kit says: xmin = ymin = 1 is the first pixel.
Polygons are read as Roboflow (``x1 y1 x2 y2 ...``) and LabelMe (``pt/x``, ``pt/y``) write them, in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from bitfront.annotations.documents import number, read_xml, text, whole
from bitfront.annotations.polygons import Points
from bitfront.annotations.shapes import Annotation, Annotations, Box, Picture, Region
from bitfront.errors import DataError

__all__ = ["compose", "files", "read"]

PARTS = ("train", "val", "test")
LISTS = ("ImageSets/Segmentation", "ImageSets/Main")


def files(folder: Path) -> list[Path]:
    """Return the XML files of a folder: all below Annotations, or the annotations that lie in it."""
    home = folder / "Annotations"
    if home.is_dir():
        return sorted(home.rglob("*.xml"))
    return [path for path in sorted(folder.glob("*.xml")) if _is_annotation(path)]


def _is_annotation(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"<annotation" in file.read(1000)
    except OSError:
        return False


def read(folder: Path, part: str) -> Annotations:
    """Read a folder with XML files; its lists give the parts, else all is ``part``. Raises DataError."""
    home = folder / "Annotations"
    home = home if home.is_dir() else folder
    pictures = {path.relative_to(home).with_suffix("").as_posix(): _picture(path) for path in files(folder)}
    listed = _lists(folder)
    parts: dict[str, list[Picture]] = {}
    for name, names in listed.items():
        missing = [n for n in names if n not in pictures]
        if missing:
            raise DataError(
                f"{folder}: '{missing[0]}' of the {name} list has no XML file", hint="add it, or shorten the list"
            )
        parts[name] = [pictures[n] for n in names]
    n_left = len(pictures) - sum(map(len, parts.values()))
    notes = (f"{n_left} XML files that stand in no list are left out",) if listed and n_left else ()
    if not listed:
        parts[part] = list(pictures.values())
    labels = {a.label for p in parts.values() for picture in p for a in picture.annotations}
    return Annotations(tuple(sorted(labels)), parts, notes)


def _lists(folder: Path) -> Mapping[str, list[str]]:
    for home in LISTS:
        found = {part: _names(folder / home / f"{part}.txt") for part in PARTS}
        found = {part: names for part, names in found.items() if names}
        if found:
            return found
    return {}


def _names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}", hint="one name a line, UTF-8") from error
    return [line.strip() for line in lines if line.strip()]


def _picture(path: Path) -> Picture:
    root = read_xml(path)
    if root.tag != "annotation":
        raise DataError(f"{path}: is no VOC annotation but '{root.tag}'", hint="expected <annotation>")
    name = root.findtext("filename", "").strip() or path.stem
    sides = [root.find(f"size/{side}") for side in ("height", "width")]
    size = None
    if all(side is not None and (side.text or "").strip() not in ("", "0") for side in sides):
        height, width = (whole(side.text, f"{path}: size/{side.tag}", 1) for side in sides if side is not None)
        size = (height, width)
    return Picture(name, str(path), size, tuple(_objects(root, path)))


def _objects(root: Element, path: Path) -> Iterator[Annotation]:
    for position, entry in enumerate(root.findall("object")):
        where = f"{path}: object[{position}]"
        if entry.findtext("deleted", "0").strip() == "1":
            continue
        label = text(entry.findtext("name"), f"{where}/name")
        rings = tuple(_ring(polygon, f"{where}/polygon") for polygon in entry.findall("polygon"))
        given = entry.find("bndbox")
        box = _box(given, f"{where}/bndbox") if given is not None else None
        if not rings and box is None:
            raise DataError(f"{where}: has neither bndbox nor polygon", hint="remove this object")
        difficult = entry.findtext("difficult", "0").strip() == "1"
        yield Annotation(label, where, Region(rings) if rings else None, box, difficult=difficult)


def _box(entry: Element, where: str) -> Box:
    x1, y1, x2, y2 = (number(entry.findtext(k), f"{where}/{k}") for k in ("xmin", "ymin", "xmax", "ymax"))
    if x2 < x1 or y2 < y1:
        raise DataError(f"{where}: ends before it begins", hint="correct it, or remove this object")
    return x1 - 1, y1 - 1, x2, y2


def _ring(entry: Element, where: str) -> Points:
    points = entry.findall("pt")
    if points:
        pairs = [(point.findtext("x"), point.findtext("y")) for point in points]
    else:
        given = {child.tag: child.text for child in entry}
        n = sum(1 for tag in given if re.fullmatch(r"x[1-9][0-9]*", tag))
        pairs = [(given.get(f"x{i}"), given.get(f"y{i}")) for i in range(1, n + 1)]
    return np.array([[number(v, where) for v in pair] for pair in pairs], float).reshape(-1, 2)


# --- writing ---------------------------------------------------------------------------------------------------------
def compose(picture: Picture) -> bytes:
    """Return the XML of one picture; polygons as ``x1 y1 x2 y2 ...``."""
    assert picture.size is not None
    root = Element("annotation")
    _texts(root, {"folder": "JPEGImages", "filename": picture.name})
    size = SubElement(root, "size")
    _texts(size, {"width": picture.size[1], "height": picture.size[0], "depth": 3})
    _texts(root, {"segmented": int(any(a.region for a in picture.annotations))})
    for annotation in picture.annotations:
        entry = SubElement(root, "object")
        _texts(entry, {"name": annotation.label, "pose": "Unspecified", "truncated": 0})
        _texts(entry, {"difficult": int(annotation.difficult)})
        polygons: Sequence[Points] = annotation.region.polygons if annotation.region else ()
        box = annotation.box or _around(polygons)
        x1, y1, x2, y2 = box
        _texts(SubElement(entry, "bndbox"), {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2})
        for ring in polygons:
            corners = [(f"{axis}{i}", v) for i, point in enumerate(ring.tolist(), 1) for axis, v in zip("xy", point, strict=True)]  # fmt: skip  # noqa: E501
            _texts(SubElement(entry, "polygon"), dict(corners))
    ElementTree.indent(root)
    found: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return found + b"\n"


def _texts(parent: Element, values: Mapping[str, object]) -> None:
    for tag, value in values.items():
        whole_ = isinstance(value, float) and value == int(value)
        SubElement(parent, tag).text = str(int(value) if whole_ else value)  # type: ignore[call-overload]


def _around(polygons: Sequence[Points]) -> Box:
    corners = np.concatenate(polygons)
    (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return x1, y1, x2, y2
