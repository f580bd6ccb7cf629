"""Curves, parameters and files sent to experiment trackers. Whatever a tracker does, the work goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitfront.contracts import Tracker
from bitfront.errors import UsageError, one_line
from bitfront.registry import load, names

__all__ = ["FOLDER", "Tracking", "require", "tracking"]

log = logging.getLogger(__name__)

FOLDER = "tracking"
"""Folder of all trackers, beside the runs: they compare runs, so runs share it."""


class Tracking:
    """Trackers that all get the same. One that fails is named once and not asked again."""

    def __init__(self, trackers: Mapping[str, Tracker] = {}, note: Callable[[str], None] = log.warning) -> None:
        self._trackers, self._note = dict(trackers), note

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Give what the work was asked for; nested mappings become ``outer.inner``, other values their text."""
        flat = dict(_flat(values))
        self._each(lambda tracker: tracker.parameters(flat))

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Give numbers of one step; ``None`` is left out."""
        numbers = {name: float(value) for name, value in values.items() if value is not None}
        self._each(lambda tracker: tracker.log(numbers, step))

    def epoch(self, epoch: Any, prefix: str = "") -> None:
        """Give the numbers of a :class:`bitfront.train.options.Epoch`; its step is its number, from 1."""
        values = {name: getattr(epoch, name) for name in ("loss", "score", "rate", "seconds")}
        self.log({f"{prefix}{name}": value for name, value in values.items()}, epoch.index + 1)

    def curve(self, curve: Sequence[Mapping[str, Any]], prefix: str = "") -> None:
        """Give the epochs of a training that went on elsewhere: ``epoch, loss, score, rate, seconds`` of each."""
        for row in curve:
            self.log({f"{prefix}{name}": row[name] for name in ("loss", "score", "rate", "seconds")}, row["epoch"])

    def following(self, on_epoch: Callable[[Any], str | None] | None) -> Callable[[Any], str | None]:
        """Return an ``on_epoch`` that also gives every epoch."""

        def follow(epoch: Any) -> str | None:
            self.epoch(epoch)
            return on_epoch(epoch) if on_epoch else None

        return follow

    def artifact(self, path: Path, name: str) -> None:
        """Give a file that the work made, under a name with forward slashes."""
        self._each(lambda tracker: tracker.artifact(path, name))

    def close(self) -> None:
        """Flush and close all."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:  # other people's code: anything
                del self._trackers[name]
                self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> None:
        log.debug("tracker %s", name, exc_info=error)
        self._note(one_line(f"tracker '{name}' failed and is left out: {type(error).__name__}: {error}"))


@contextmanager
def tracking(
    chosen: Sequence[str], folder: Path, run: str, note: Callable[[str], None] = log.warning
) -> Iterator[Tracking]:
    """Open trackers by name for the run named ``run``, everything below ``folder``; close them at the end.

    What cannot be opened is noted and left out; :func:`require` says so before the work begins.
    """
    found = Tracking({}, note)
    for name in chosen:
        try:
            found._trackers[name] = load("tracker", name).open(folder, run)
        except Exception as error:  # other people's code: anything
            found._failed(name, error)
    try:
        yield found
    finally:
        found.close()


def require(chosen: Sequence[str]) -> None:
    """Raise UsageError for trackers that do not exist or whose package is missing."""
    for name in chosen:
        missing = load("tracker", name).missing()
        if missing:
            raise UsageError(
                f"tracker '{name}' cannot be used: {missing}", hint=f"install it, or leave --track out; "
                f"there are {', '.join(names('tracker'))}",
            )  # fmt: skip


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, (bool, int, float, str)):
            yield f"{prefix}{key}", value
        else:
            yield f"{prefix}{key}", str(value)
