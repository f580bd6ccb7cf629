"""Memory that the activations of an artifact take on a device without an operating system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bitfront.record import Record

__all__ = ["Ram"]


@dataclass(frozen=True, slots=True)
class Ram:
    """Bytes of the activations alive at once, as the artifact's plan stores them; fewer is better.

    Counted on the graph (:meth:`bitfront.quant.costs.Costs.ram_bytes`), so that it is known of every candidate, has no
    noise and means the same on every device. What a process takes that runs the file here, engine included, is
    ``Record.ram_bytes``: it is measured of the front only and tells engines apart rather than plans. In a run for a
    microcontroller it is the arena of the C and the stack.
    """

    name: ClassVar[str] = "ram"
    unit: ClassVar[str] = "bytes"
    maximize: ClassVar[bool] = False

    def value(self, record: Record) -> float | None:
        """Return the bytes, or ``None`` when there is no graph."""
        if record.on_device is not None:
            return float(record.on_device.ram_bytes)
        return None if record.peak_bytes is None else float(record.peak_bytes)
