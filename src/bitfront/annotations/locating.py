"""The image files that annotations speak of."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bitfront.annotations.pictures import Finder, free_name
from bitfront.annotations.shapes import Annotations, Picture
from bitfront.decode import Decoded, decode_image
from bitfront.errors import DataError, LabelError, UsageError

__all__ = ["Item", "image_of", "is_turned", "locate"]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A picture whose file was found."""

    stem: str
    """Path of its copies without ending, unique within its part."""
    picture: Picture
    path: Path


def locate(
    found: Annotations, source: Path, folder: Path | None, *, skip_missing: bool
) -> tuple[dict[str, list[Item]], tuple[str, ...]]:
    """Find the files of all pictures; return them by part, and notes.

    Raises UsageError, and DataError for pictures without a file and files that two items annotate.
    """
    if folder and not folder.is_dir():
        raise UsageError(f"--images: no folder '{folder}'", hint="give the folder that holds the images")
    finder = Finder([folder] if folder else _homes(source))
    files: dict[str, list[tuple[Picture, Path]]] = {}
    missing: list[Picture] = []
    seen: dict[Path, str] = {}
    for part, pictures in found.parts.items():
        for picture in pictures:
            path = finder.find(picture.name, picture.where)
            if path is None:
                missing.append(picture)
                continue
            if path in seen:
                raise DataError(f"{picture.where}: {path} is annotated there and in {seen[path]}", hint="remove one")
            seen[path] = picture.where
            files.setdefault(part, []).append((picture, path))
    if missing and not (skip_missing and seen):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(
            f"{missing[0].where}: no image file '{missing[0].name}'{more}",
            hint="give the folder with --images, or leave out what is missing with --skip-missing",
        )
    notes = (f"{len(missing)} pictures without an image file are left out",) if missing else ()
    return {part: _named(chosen) for part, chosen in files.items()}, notes


def _homes(source: Path) -> list[Path]:
    """Where pictures are looked for when nobody says: beside the annotations."""
    base = (source if source.is_dir() else source.parent).resolve()
    bases = [base, base.parent] if base.name.lower() in ("annotations", "labels") else [base]
    return [b / name for b in bases for name in ("", "images", "JPEGImages")]


def _named(files: list[tuple[Picture, Path]]) -> list[Item]:
    """Name copies by the path below the folder that holds all of them."""
    home = Path(os.path.commonpath([path.parent for _, path in files]))
    taken: set[str] = set()
    return [Item(free_name(path.relative_to(home).as_posix(), taken), picture, path) for picture, path in files]


def image_of(item: Item) -> Decoded:
    """Decode an image. Raises DataError, and LabelError when it has another size than the one that was annotated."""
    image = decode_image(item.path)
    height, width = image.pixels.shape[:2]
    stated = item.picture.size
    if stated is None or stated == (height, width):
        return image
    message = f"{item.picture.where}: was annotated at {stated[1]}x{stated[0]}, {item.path} is {width}x{height}"
    hint = "give the images that were annotated, not resized ones"
    if stated == (width, height) and is_turned(image):
        hint = "the tool did not turn the picture as its EXIF orientation says: turn the file itself, annotate again"
    elif stated == (width, height):
        hint = "height and width swapped? correct them"
    raise LabelError(message, hint=hint)


def is_turned(image: Decoded) -> bool:
    """Whether an image was turned as its EXIF orientation says."""
    return any(note.startswith("turned upright") for note in image.notes)
