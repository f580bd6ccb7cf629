"""What the scan found of the data, as tables for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitfront.report import tables
from bitfront.report.outline import outline
from bitfront.report.tables import Cell, Column, Table

__all__ = ["health_view"]

MAX_FAULTS = 50


def health_view(health: Mapping[str, Any]) -> dict[str, Any] | None:
    """Tables ``parts``, ``classes``, ``faults`` and a list of ``notes``; ``other`` holds what has another shape.

    ``health`` is :class:`bitfront.scan.Health` as JSON. ``None`` when there is nothing to say.
    """
    if not health:
        return None
    parts = health.get("parts")
    if not isinstance(parts, Mapping) or not all(isinstance(p, Mapping) and "n" in p for p in parts.values()):
        return {"parts": None, "classes": None, "faults": None, "notes": [], "other": outline(health)}
    return {
        "parts": tables.plain(_parts(parts)),
        "classes": _optional(_classes(parts)),
        "faults": _optional(_faults(parts)),
        "notes": _notes(health, parts),
        "other": [],
    }


def _optional(table: Table) -> dict[str, Any] | None:
    return tables.plain(table) if table.rows else None


def _parts(parts: Mapping[str, Any]) -> Table:
    columns = (
        Column("Part"),
        Column("images", numeric=True),
        Column("looked at", numeric=True),
        Column("left out", numeric=True),
        Column("sizes"),
    )
    rows = []
    for name, part in parts.items():
        sizes = part.get("sizes") or {}
        numbers = (part["n"], part.get("n_examined", part["n"]), len(part.get("faults") or ()))
        text = ", ".join(str(s) for s in list(sizes)[:4]) + (f" and {len(sizes) - 4} more" if len(sizes) > 4 else "")
        rows.append((Cell(str(name)), *(Cell(str(n), n) for n in numbers), Cell(text or tables.NONE)))
    return Table(columns, tuple(rows))


def _classes(parts: Mapping[str, Any]) -> Table:
    """Share of the labelled pixels (without masks: of the images) of each class, by part."""
    what = "pixels" if any(part.get("pixels") for part in parts.values()) else "images"
    counts = {str(name): part.get(what) or {} for name, part in parts.items()}
    counts = {name: found for name, found in counts.items() if isinstance(found, Mapping) and found}
    classes = list(dict.fromkeys(str(c) for pixels in counts.values() for c in pixels))
    rows = []
    for name in classes:
        cells = [Cell(name)]
        for pixels in counts.values():
            total, own = sum(pixels.values()), pixels.get(name, 0)
            share = own / total if total else None
            cells.append(Cell(tables.percent(share), share, "" if own else "bad", share))
        rows.append(tuple(cells))
    return Table((Column("Class"), *(Column(f"{n}, % of {what}", numeric=True) for n in counts)), tuple(rows))


def _faults(parts: Mapping[str, Any]) -> Table:
    rows = []
    for name, part in parts.items():
        for fault in list(part.get("faults") or ())[:MAX_FAULTS]:
            said = fault if isinstance(fault, Mapping) else {"reason": fault}
            rows.append((Cell(str(name)), Cell(str(said.get("reason", "")), note=str(said.get("hint", "")))))
    return Table((Column("Part"), Column("Left out")), tuple(rows))


def _notes(health: Mapping[str, Any], parts: Mapping[str, Any]) -> list[str]:
    found = [str(note) for note in health.get("notes") or ()]
    for name, part in parts.items():
        notes = part.get("notes") or {}
        if isinstance(notes, Mapping):
            found += [f"{name}: {n} images: {note}" for note, n in notes.items()]
        empty = part.get("empty_classes") or ()
        if empty and part.get("n_examined") == part["n"]:
            found.append(f"{name}: nothing of {', '.join(str(c) for c in empty)}; no score for them here")
    leaks = [leak for leak in health.get("leaks") or () if isinstance(leak, (list, tuple))]
    found += [
        f"The same image stands in {' and '.join(str(i) for i in leak)}: scores are too good" for leak in leaks[:20]
    ]
    return found + ([f"and {len(leaks) - 20} more images that stand in more than one part"] if len(leaks) > 20 else [])
