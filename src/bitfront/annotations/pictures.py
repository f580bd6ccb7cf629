"""Find the files of pictures by the names that annotations give them, and the names that copies get.

A name may be a path of another machine, a URL, or have the eight characters in front that label-studio adds on upload.
It is looked up below one folder only: as a path, then by its last part; nothing outside that folder is opened and
nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from bitfront.decode import EXTENSIONS
from bitfront.errors import DataError

__all__ = ["RECORD", "Finder", "free_name"]

RECORD = "convert.json"
"""File in a converted folder that says where it came from and by which rules."""

UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")


class Finder:
    """Files of pictures below some folders, the first one that has a name first."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(dict.fromkeys(f.resolve() for f in folders if f.is_dir()))
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, name: str, where: str) -> Path | None:
        """Return the file of a picture, or ``None``. Raises DataError when several files could be meant."""
        plain = _plain(name)
        for folder in self.folders:
            last = plain.rpartition("/")[2]
            for candidate in (plain, last, UPLOADED.sub("", last)):
                found = _inside(folder, candidate)
                if found is not None:
                    return found
        return self._anywhere(plain, where)

    def _anywhere(self, name: str, where: str) -> Path | None:
        """Look for the last part of a name in all subfolders, also without what label-studio puts in front."""
        known = self._known()
        last = _normal(name.rpartition("/")[2])
        for key in (last, UPLOADED.sub("", last)):
            files = known.get(key, [])
            ending = [p for p in files if _normal(p.as_posix()).endswith("/" + _normal(name))]
            if len(ending) == 1 or len(files) == 1:
                return (ending or files)[0]
            if files:
                raise DataError(
                    f"{where}: '{name}' could be {files[0]} or {files[1]}", hint="give the one folder with --images"
                )
        return None

    def _known(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = {}
            for path in sorted({path for folder in self.folders for path in _images(folder)}):
                self._by_name.setdefault(_normal(path.name), []).append(path)
        return self._by_name


def _images(folder: Path) -> Iterator[Path]:
    """The image files below a folder, but not those in folders that a conversion made."""
    for place, folders, names in os.walk(folder):
        if RECORD in names and Path(place) != folder:
            folders.clear()
            continue
        yield from (Path(place, name) for name in names if Path(name).suffix.lower() in EXTENSIONS)


def _plain(name: str) -> str:
    """A name as a relative path with forward slashes."""
    name = re.sub(r"^\w+://[^/]*/", "", name).replace("\\", "/")
    return PurePosixPath(re.sub(r"^(\w:)?/+", "", name)).as_posix()


def _normal(name: str) -> str:
    """Equal for names that look equal: some file systems store accents as separate characters."""
    return unicodedata.normalize("NFC", name)


def _inside(folder: Path, name: str) -> Path | None:
    try:
        path = (folder / name).resolve()
        return path if path.is_file() and path.is_relative_to(folder) else None
    except (OSError, ValueError):  # impossible names: too long, with a zero byte
        return None


def free_name(name: str, taken: set[str]) -> str:
    """Return a relative path without its ending that no other file of ``taken`` has, and add it there.

    Labels are found by name, so two names must differ by more than their endings, and by more than capitals.
    """
    parts = [p for p in PurePosixPath(name).with_suffix("").parts if p not in ("/", "..", ".")]
    parts = ["".join("_" if c in '<>:"|?*' or not c.isprintable() else c for c in p).strip(". ")[:100] for p in parts]
    stem = "/".join(p for p in parts if p) or "image"
    number, found = 1, stem
    while _normal(found).casefold() in taken:
        number += 1
        found = f"{stem}_{number}"
    taken.add(_normal(found).casefold())
    return found
