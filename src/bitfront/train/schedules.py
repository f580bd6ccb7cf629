"""Learning rates over a training, as functions of the fraction of epochs done."""

from __future__ import annotations

import math
from collections.abc import Callable

from bitfront.errors import UsageError, unknown_name

__all__ = ["SCHEDULES", "rate"]


def polynomial(epoch: float, epochs: int, start: float, end: float, power: float) -> float:
    """``(start - end) (1 - e / E) ** power + end`` (Chen et al. 2017, DeepLab, section 4.1, with a floor)."""
    return float((start - end) * max(0.0, 1 - epoch / epochs) ** power + end)


def cosine(epoch: float, epochs: int, start: float, end: float, power: float) -> float:
    """Half a cosine from ``start`` to ``end`` (Loshchilov and Hutter 2017, SGDR, equation 5, no restarts)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, epoch / epochs))) / 2


def step(epoch: float, epochs: int, start: float, end: float, power: float) -> float:
    """Divide by 1.5 every two epochs, down to ``end``."""
    return max(min(start, end), start / 1.5 ** (int(epoch) // 2))


def constant(epoch: float, epochs: int, start: float, end: float, power: float) -> float:
    """``start`` throughout."""
    return start


SCHEDULES: dict[str, Callable[[float, int, float, float, float], float]] = {
    "polynomial": polynomial,
    "cosine": cosine,
    "step": step,
    "constant": constant,
}


def rate(name: str, epoch: float, epochs: int, *, start: float, end: float, power: float = 0.9) -> float:
    """Return the rate of schedule ``name`` after ``epoch`` (may be fractional) of ``epochs`` epochs.

    ``end`` is the floor (for ``step`` the thesis value is 6e-6), ``power`` the exponent of ``polynomial``. Raises
    UsageError for an unknown name or no epochs.
    """
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    if epochs < 1:
        raise UsageError(f"a training needs at least one epoch, not {epochs}")
    return SCHEDULES[name](epoch, epochs, start, end, power)
