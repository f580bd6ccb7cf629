"""Time of one inference on a board that is not there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bitfront.record import Record

__all__ = ["ModelledLatency"]


@dataclass(frozen=True, slots=True)
class ModelledLatency:
    """Modelled milliseconds of one image on the run's device (:data:`bitfront.quant.costs.BOARDS`); fewer is better."""

    name: ClassVar[str] = "modelled_latency"
    unit: ClassVar[str] = "ms"
    maximize: ClassVar[bool] = False

    def value(self, record: Record) -> float | None:
        """Return the milliseconds, or ``None`` where nothing models the run's device."""
        return None if record.on_device is None else record.on_device.latency_ms
