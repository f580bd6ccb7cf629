"""Memory that the constants of an artifact take in integer C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bitfront.record import Record

__all__ = ["Flash"]


@dataclass(frozen=True, slots=True)
class Flash:
    """Bytes of weights, biases and tables packed at the bits of the artifact's plan; fewer is better.

    Counted on the graph (:meth:`bitfront.quant.costs.Costs.flash_bytes`): unlike ``size``, the bytes of the file, it
    knows no names, no padding to 4 or 8 bits and no description of the graph. In a run for a microcontroller it is what
    the C takes, program included.
    """

    name: ClassVar[str] = "flash"
    unit: ClassVar[str] = "bytes"
    maximize: ClassVar[bool] = False

    def value(self, record: Record) -> float | None:
        """Return the bytes, or ``None`` when there is no graph."""
        if record.on_device is not None:
            return float(record.on_device.flash_bytes)
        return None if record.flash_bytes is None else float(record.flash_bytes)
