"""Time of one inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bitfront.record import Record

__all__ = ["Latency"]


@dataclass(frozen=True, slots=True)
class Latency:
    """Median milliseconds of one image, as :mod:`bitfront.measure.timing` measured them; fewer is better."""

    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "ms"
    maximize: ClassVar[bool] = False

    def value(self, record: Record) -> float | None:
        """Return the milliseconds, or ``None`` when nothing was timed."""
        return None if record.latency is None else record.latency.value
