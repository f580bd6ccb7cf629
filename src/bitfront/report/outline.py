"""Plain data of unknown shape (data health, environment) as nested lists and tables for the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bitfront.report import tables

__all__ = ["outline"]


def outline(value: Any, depth: int = 0) -> list[dict[str, Any]]:
    """Plain data as a nested list of ``{key, text, children, table}`` for the template."""
    pairs: Iterable[tuple[str, Any]]
    if isinstance(value, Mapping):
        pairs = ((str(k).replace("_", " "), v) for k, v in value.items())
    else:
        pairs = (("", v) for v in value)
    found = []
    for key, item in list(pairs)[:100]:
        entry: dict[str, Any] = {"key": key, "text": "", "children": [], "table": _grid(item)}
        if entry["table"] is None and depth < 4 and _is_nested(item):
            entry["children"] = outline(item, depth + 1)
        elif entry["table"] is None:
            entry["text"] = _text(item)
        found.append(entry)
    return found


def _grid(value: Any) -> dict[str, Any] | None:
    """Rows of equal keys as a table: ``{train: {images: 4}, val: {images: 2}}`` or a list of such mappings."""
    named = isinstance(value, Mapping)
    rows = list(value.items()) if isinstance(value, Mapping) else [("", v) for v in value] if _is_nested(value) else []
    if not rows or not all(isinstance(v, Mapping) and v.keys() == rows[0][1].keys() for _, v in rows):
        return None
    if any(_is_nested(cell) for _, row in rows for cell in row.values()):
        return None
    keys = list(rows[0][1])
    numeric = [all(isinstance(row[k], (int, float)) for _, row in rows) for k in keys]
    columns = [
        *([tables.Column("")] if named else []),
        *(tables.Column(str(k).replace("_", " "), n) for k, n in zip(keys, numeric, strict=True)),
    ]
    cells = [
        (*([tables.Cell(str(name))] if named else []), *(tables.Cell(_text(row[k])) for k in keys))
        for name, row in rows[:100]
    ]
    return tables.plain(tables.Table(tuple(columns), tuple(cells)))


def _is_nested(item: Any) -> bool:
    if isinstance(item, Mapping):
        return bool(item)
    return isinstance(item, (list, tuple)) and any(isinstance(i, (Mapping, list, tuple)) for i in item)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ({}, [], (), ""):
        return tables.NONE
    if isinstance(value, (list, tuple)):
        return ", ".join(str(v) for v in value[:200])
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:2000]
