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
    "modelled_latency": Axis("modelled_latency", "ms", "Latency, modelled", "Modelled latency"),
    "instructions": Axis("instructions", "M", "Instructions of an image, modelled", "Instructions"),
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
        "modelled_latency": bool(values["modelled_latency"]),
        "instructions": bool(values["instructions"]),
        "size": bool(values["size"]),
        "flash": any((r.candidate.plan or r.on_device) and r.flash_bytes is not None for r in known),
        "ram": len(values["ram"]) > 1,
    }
    return tuple(axis for axis in AXES if shown[axis])


def cost(record: Record, axis: str) -> float | None:
    """A record's place on an axis: ms, kB (1000 bytes) or millions; ``None`` when not measured."""
    there = record.on_device
    if axis == "latency":
        return latency_ms(record)
    if axis == "modelled_latency":
        return there.latency_ms if there else None
    if axis == "instructions":
        return there.instructions / 1e6 if there and there.instructions is not None else None
    size_bytes = {
        "size": None if record.artifact is None else record.artifact.size_bytes,
        "flash": there.flash_bytes if there else record.flash_bytes,
        "ram": there.ram_bytes if there else record.peak_bytes,
    }[axis]
    return None if size_bytes is None else size_bytes / 1000


def limit(budget: Budget, axis: str) -> float | None:
    """The budget's limit on an axis, in its unit; ``None`` when there is none."""
    if axis == "latency":
        return budget.max_latency_ms
    limits = {"size": budget.max_size_bytes, "ram": budget.max_ram_bytes}
    n_bytes = limits.get(axis)
    return None if n_bytes is None else n_bytes / 1000
