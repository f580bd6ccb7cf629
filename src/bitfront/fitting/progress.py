"""Where a run is and how long it still takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Clock", "Progress"]

TRUSTED = 0.05
"""Share of the work from which the pace so far is trusted more than the forecast."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is."""

    stage: str
    """``scan``, ``forecast``, ``train``, ``candidates``, ``time``, ``front``, ``test`` or ``report``."""
    text: str
    done: float
    """Finished part of the whole run, in [0, 1]."""
    seconds_left: float | None
    """``None`` while there is no forecast."""


class Clock:
    """Turns finished work into a share of the whole and the time left."""

    def __init__(self, report: Callable[[Progress], None] | None, now: Callable[[], float] = time.monotonic) -> None:
        self._report, self._now = report, now
        self._total = self._done = self._current = 0.0
        self._start = now()

    def plan(self, total_s: float) -> None:
        """Set the forecast of all work that follows."""
        self._total, self._start = total_s, self._now()

    def extend(self, more_s: float) -> None:
        """Add work that the forecast did not know of."""
        self._total += more_s

    def begin(self, cost_s: float) -> None:
        """Begin a piece of work that is forecast to take so long; the one before is finished."""
        self.end()
        self._current = cost_s

    def end(self) -> None:
        """The current piece of work is finished."""
        self._done += self._current
        self._current = 0.0

    def finish(self) -> None:
        """All work is done."""
        self._done, self._current = self._total, 0.0

    def tell(self, stage: str, text: str, share: float = 0.0) -> None:
        """Report where the current piece of work is."""
        if self._report is None:
            return
        if not self._total:
            self._report(Progress(stage, text, 0.0, None))
            return
        done = min(self._total, self._done + self._current * min(1.0, share))
        pace = (self._now() - self._start) / done if done > TRUSTED * self._total else 1.0
        self._report(Progress(stage, text, done / self._total, (self._total - done) * pace))
