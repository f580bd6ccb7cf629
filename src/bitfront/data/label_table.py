"""A table of pictures and their classes: a CSV file with the header ``path,label``, and ``part`` where there are parts.

Paths are relative to the file. DATA is the file, or a folder with ``labels.csv`` or with ``train.csv``, ``val.csv`` and
``test.csv``. Without parts, val and test are set aside as in class folders. Classes are the labels in order, or what
``classes`` or ``classes.txt`` says. Fields are divided by commas, semicolons or tabs.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from bitfront.contracts import DataInfo
from bitfront.data.files import PARTS, FileDataset, Labels, Pair, is_file, read_list
from bitfront.data.labelled import VAL_SHARE, check_share, class_names, divide
from bitfront.errors import DataError, LabelError, UsageError

__all__ = ["LabelTable"]

MAX_BYTES = 256 << 20
HINT = "the first line is path,label (and part, where there are parts)"

Row = tuple[str, str, str]
"""Part, path, label."""


class LabelTable(FileDataset):
    """Pictures that a CSV file names, each with its class."""

    @classmethod
    def open(
        cls, root: Path | None, *, classes: Sequence[str] = (), val: float = VAL_SHARE, seed: int = 0
    ) -> LabelTable:
        """Open a CSV file or a folder that holds one. Raises DataError naming file and line, UsageError."""
        if root is None:
            raise UsageError("the CSV file is missing", hint="give the file, for example labels.csv")
        check_share(val, "val")
        tables = _tables(root)
        home = next(iter(tables.values())).parent
        rows = [row for part, path in tables.items() for row in _rows(path, part)]
        _check(rows, root)
        names = class_names((label for _, _, label in rows), classes or read_list(home / "classes.txt"), str(root))
        number = {name: i for i, name in enumerate(names)}
        pairs: dict[str, list[Pair]] = {}
        for part, path, label in rows:
            pairs.setdefault(part, []).append(Pair(path, home / path, None, label=number[label]))
        divided, notes = divide(pairs, val, seed, part_less="" in pairs)
        info = DataInfo(home.name or "csv", names, tasks=("classification",))
        return cls(home, info, divided, Labels.of(min(len(names), 254)), notes)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Say whether ``root`` is a CSV file or a folder with one of these names."""
        if root.suffix.lower() == ".csv":
            return is_file(root)
        return any(is_file(root / f"{name}.csv") for name in ("labels", *PARTS))


def _tables(root: Path) -> dict[str, Path]:
    """Part -> file; the part is empty where the file itself has to say it."""
    if is_file(root):
        return {"": root}
    found = {name: root / f"{name}.csv" for name in PARTS if is_file(root / f"{name}.csv")}
    if not found and is_file(root / "labels.csv"):
        found = {"": root / "labels.csv"}
    if not found:
        raise DataError(f"{root}: no such file, and no folder with labels.csv or train.csv", hint="check the path")
    return found


def _rows(path: Path, part: str) -> list[Row]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES >> 20} MiB", hint="is it a table of paths and labels?")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        reader = csv.reader(lines, delimiter=_delimiter(lines[0] if lines else ""), strict=True)
        table = [(reader.line_num, [field.strip() for field in fields]) for fields in reader if any(fields)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}", hint=HINT) from error
    header = [name.lower() for name in table[0][1]] if table else []
    if "path" not in header or "label" not in header:
        raise DataError(f"{path}:1: has no columns path and label, but {', '.join(header) or 'nothing'}", hint=HINT)
    places = (header.index("part") if "part" in header and not part else -1, *map(header.index, ("path", "label")))
    return [_row(path, line, fields, part, places, len(header)) for line, fields in table[1:]]


def _row(  # noqa: PLR0917
    path: Path, line: int, fields: list[str], part: str, places: tuple[int, ...], n: int
) -> Row:
    if len(fields) != n:
        raise DataError(f"{path}:{line}: has {len(fields)} fields, the header {n}", hint="quote fields with commas")
    own = part or (fields[places[0]].lower() if places[0] >= 0 else "")
    file, label = fields[places[1]], fields[places[2]]
    if places[0] >= 0 and own not in PARTS:
        raise DataError(f"{path}:{line}: '{own}' is no part", hint=f"one of {', '.join(PARTS)}")
    if not file or not label or "\0" in file:
        raise DataError(f"{path}:{line}: path or label is empty", hint=HINT)
    return own, file.replace("\\", "/"), label


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _check(rows: Sequence[Row], root: Path) -> None:
    if not rows:
        raise DataError(f"{root}: names no images", hint=HINT)
    seen: dict[str, str] = {}
    for _, path, label in rows:
        if seen.setdefault(path, label) != label:
            raise LabelError(f"{root}: '{path}' is both '{seen[path]}' and '{label}'", hint="name every image once")
    if len(seen) != len(rows):
        raise DataError(f"{root}: names {len(rows) - len(seen)} images more than once", hint="name every image once")
