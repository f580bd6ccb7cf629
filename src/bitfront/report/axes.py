"""The costs that scores are shown against: those that a run measured."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from bitfront.record import Budget, Record
from bitfront.report.data import latency_ms, score_of

__all__ = ["AXES", "Axis", "available", "cost", "limit"]


@dataclass(frozen=True, slots=True)
class Axis:
    """A cost to plot the score against."""

    name: str
    unit: str
    title: str
    label: str
    """On a switch."""


AXES = {
    "latency": Axis("latency", "ms", "Latency", "Latency"),
    "size": Axis("size", "kB", "File size", "Size"),
    "flash": Axis("flash", "kB", "Flash", "Flash"),
    "ram": Axis("ram", "kB", "RAM, activations", "RAM"),
}


def available(records: Iterable[Record]) -> tuple[str, ...]:
    """Return the keys of :data:`AXES` that records with a score can be placed on, the most telling first.

    Latency and file size where any record has one; flash where there are plans, whose files do not show it; the
    activations' peak where it is not the same everywhere.
    """
    known = [r for r in records if (y := score_of(r)) is not None and math.isfinite(y)]
    values = {axis: {x for r in known if (x := cost(r, axis)) is not None} for axis in AXES}
    shown = {
        "latency": bool(values["latency"]),
        "size": bool(values["size"]),
        "flash": any(r.candidate.plan and r.flash_bytes is not None for r in known),
        "ram": len(values["ram"]) > 1,
    }
    return tuple(axis for axis in AXES if shown[axis])


def cost(record: Record, axis: str) -> float | None:
    """A record's place on an axis: ms or kB (1000 bytes); ``None`` when not measured."""
    if axis == "latency":
        return latency_ms(record)
    size_bytes = {
        "size": None if record.artifact is None else record.artifact.size_bytes,
        "flash": record.flash_bytes,
        "ram": record.peak_bytes,
    }[axis]
    return None if size_bytes is None else size_bytes / 1000


def limit(budget: Budget, axis: str) -> float | None:
    """The budget's limit on an axis, in its unit; ``None`` when there is none."""
    if axis == "latency":
        return budget.max_latency_ms
    return budget.max_size_bytes / 1000 if axis == "size" and budget.max_size_bytes is not None else None
