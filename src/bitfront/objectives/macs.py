"""Multiply-accumulate operations of one inference: a cost without noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bitfront.record import Record

__all__ = ["Macs"]


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of one image, counted on the graph; fewer is better."""

    name: ClassVar[str] = "macs"
    unit: ClassVar[str] = "MAC"
    maximize: ClassVar[bool] = False

    def value(self, record: Record) -> float | None:
        """Return the count, or ``None`` when there is no graph."""
        return None if record.macs is None else float(record.macs)
