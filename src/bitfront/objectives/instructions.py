"""Instructions of one inference on a microcontroller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bitfront.record import Record

__all__ = ["Instructions"]


@dataclass(frozen=True, slots=True)
class Instructions:
    """Modelled instructions of one image on the run's device (:mod:`bitfront.quant.instructions`); fewer is better.

    The model is known of every candidate and has no noise; the emulator counts those of the front beside it.
    """

    name: ClassVar[str] = "instructions"
    unit: ClassVar[str] = "instructions"
    maximize: ClassVar[bool] = False

    def value(self, record: Record) -> float | None:
        """Return the count, or ``None`` where the run is for no microcontroller."""
        return None if record.on_device is None else record.on_device.instructions
