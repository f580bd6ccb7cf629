"""The task's score on the part that drives the search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bitfront.record import Record

__all__ = ["Score"]


@dataclass(frozen=True, slots=True)
class Score:
    """Score on ``val``, in [0, 1]; more is better."""

    name: ClassVar[str] = "score"
    unit: ClassVar[str] = ""
    maximize: ClassVar[bool] = True

    def value(self, record: Record) -> float | None:
        """Return the score, or ``None`` when it was not measured or is undefined."""
        return None if record.val is None else record.val.values.get(record.val.score)
