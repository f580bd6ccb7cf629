"""A file or folder of annotations -> what it says, whatever the format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bitfront.annotations import coco, label_studio, labelme, voc
from bitfront.annotations.documents import read_json
from bitfront.annotations.pictures import RECORD
from bitfront.annotations.shapes import Annotations
from bitfront.errors import DataError, UsageError, unknown_name

__all__ = ["SOURCES", "looks_annotated", "open_annotations"]

SOURCES = ("coco", "label_studio", "voc", "labelme")
"""Formats of annotations that can be read."""
PARTS = ("train", "val", "test")


def open_annotations(source: Path, kind: str = "", part: str = "") -> tuple[str, Annotations] | None:
    """Return the format and content of a file or folder of annotations; ``None`` when it is none.

    ``kind`` is one of SOURCES, or empty to find out. ``part`` is the part that the pictures are where the source does
    not say; empty for what the file's name tells, else train. Raises DataError, UsageError.
    """
    if kind and kind not in SOURCES:
        raise unknown_name("format", kind, SOURCES)
    if part and part not in PARTS:
        raise unknown_name("part", part, PARTS)
    if source.is_dir():
        found = _folder(source, kind, part)
    elif source.suffix.lower() == ".json":
        found = _json(source, kind, part)
    else:
        return None
    if found is None and kind:
        raise DataError(f"{source}: holds no {kind} annotations", hint="give the exported file or its folder")
    if found and not any(found[1].parts.values()):
        raise DataError(f"{source}: holds no annotated pictures", hint="annotate some and export again")
    return found


def looks_annotated(source: Path) -> bool:
    """Say whether a path could be annotations, by names only."""
    if source.is_dir():
        return bool(voc.files(source) or _json_files(source))
    return source.suffix.lower() == ".json"


def _json_files(folder: Path) -> list[Path]:
    places = (folder, folder / "annotations")
    return [path for place in places for path in sorted(place.glob("*.json")) if path.name != RECORD]


def _json(path: Path, kind: str, part: str) -> tuple[str, Annotations] | None:
    content = read_json(path)
    part = part or _part_of(path) or "train"
    kinds = {"coco": coco.recognises, "label_studio": label_studio.recognises, "labelme": labelme.recognises}
    kind = kind or next((name for name, recognises in kinds.items() if recognises(content)), "")
    if kind == "coco":
        return kind, coco.read({part: path})
    if kind == "label_studio":
        return kind, label_studio.read(content, str(path), part)
    if kind == "labelme":
        return kind, labelme.read([path], part)
    raise DataError(
        f"{path}: is neither COCO nor an export of label-studio or labelme",
        hint="export as JSON, or choose with --from",
    )


def _folder(folder: Path, kind: str, part: str) -> tuple[str, Annotations] | None:
    if kind in ("", "voc") and voc.files(folder):
        return "voc", voc.read(folder, part or "train")
    files = _json_files(folder)
    if not files or kind == "voc":
        return None
    if kind == "labelme" or (not kind and labelme.recognises(read_json(files[0]))):
        return "labelme", labelme.read(files, part or "train")
    if len(files) == 1:
        return _json(files[0], kind, part)
    if kind == "label_studio" or (not kind and label_studio.recognises(read_json(files[0]))):
        return _several(files)
    return "coco", coco.read(_by_part(files))


def _several(files: Sequence[Path]) -> tuple[str, Annotations]:
    """Several label-studio exports, one for each part."""
    found = {part: label_studio.read(read_json(path), str(path), part) for part, path in _by_part(files).items()}
    classes = tuple(sorted({name for a in found.values() for name in a.classes}))
    notes = tuple(note for a in found.values() for note in a.notes)
    return "label_studio", Annotations(classes, {part: a.parts[part] for part, a in found.items()}, notes)


def _part_of(path: Path) -> str:
    """The part that a file's name tells, or nothing."""
    told = re.search(rf"(?<![a-z])({'|'.join(PARTS)})", path.stem.lower())
    return told[1] if told else ""


def _by_part(files: Sequence[Path]) -> dict[str, Path]:
    """Files by the part that their names tell. Raises UsageError."""
    found: dict[str, Path] = {}
    for path in files:
        part = _part_of(path)
        if not part or part in found:
            raise UsageError(
                f"{path}: cannot tell which part this file is", hint="give one file, and its part with --part"
            )
        found[part] = path
    return found
