"""Bytes of the artifact's file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bitfront.record import Record

__all__ = ["Size"]


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes on disk; fewer is better."""

    name: ClassVar[str] = "size"
    unit: ClassVar[str] = "bytes"
    maximize: ClassVar[bool] = False

    def value(self, record: Record) -> float | None:
        """Return the bytes, or ``None`` when nothing was exported."""
        return None if record.artifact is None else float(record.artifact.size_bytes)
