"""A picture in, an answer out, and how long each part of that takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import InputContract, OutputContract, Prediction, Session, Task
from bitfront.errors import UsageError
from bitfront.images import preprocess

__all__ = ["FOR_PICTURES", "Laps", "Spread", "Times", "Told", "answered", "times_of", "with_thresholds"]

FOR_PICTURES: Mapping[str, Any] = {"confidence": 0.25, "iou": 0.45, "multi_label": False}
"""How a detector is read where pictures are looked at, and not every doubtful box counts."""
Clock = Callable[[], float]
LIMITS = {"confidence": (0.0, 1.0), "iou": (0.0, 1.0), "max_boxes": (1, 100_000)}


class Told(Protocol):
    """What is known of a model: a :class:`bitfront.sources.Source`, or what a runtime says of a file."""

    @property
    def input(self) -> InputContract:
        """How it is fed."""

    @property
    def output(self) -> OutputContract:
        """How it is read."""


class Laps(NamedTuple):
    """Seconds of one picture; wall time where nothing else is said."""

    preprocess: float
    inference: float
    postprocess: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds."""

    mean: float
    median: float
    p90: float


@dataclass(frozen=True, slots=True)
class Times:
    """What the parts of an answer take, over all pictures: from decoded pixels to boxes, masks or classes."""

    preprocess_ms: Spread
    inference_ms: Spread
    postprocess_ms: Spread
    fps: float
    """Pictures a second: the inverse of the three means' sum."""
    inference_fps: float
    """The inverse of the inference's mean."""
    n: int
    """Pictures that were timed."""


def answered(
    session: Session, task: Task, told: Told, image: NDArray[np.uint8], clock: Clock = time.perf_counter
) -> tuple[Prediction, Laps]:
    """Return a model's answer to uint8 ``(h, w, 3)``, and the time that each part took."""
    start = clock()
    fed = preprocess(image, told.input)[None]
    ready = clock()
    outputs = session.run(fed)
    done = clock()
    (prediction,) = task.predict(outputs, told.output, [(image.shape[0], image.shape[1])], told.input)
    return prediction, Laps(ready - start, done - ready, clock() - done)


def times_of(laps: Sequence[Laps]) -> Times | None:
    """Return the times over all pictures; ``None`` without any."""
    if not laps:
        return None
    table = 1000 * np.asarray(laps, np.float64)
    means = table.mean(axis=0)
    middle, late = np.percentile(table, [50, 90], axis=0)
    before, network, after = (
        Spread(float(mean), float(median), float(p90)) for mean, median, p90 in zip(means, middle, late, strict=True)
    )
    return Times(before, network, after, float(1000 / means.sum()), float(1000 / means[1]), len(laps))


def with_thresholds(task: Task, given: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> Task:
    """Return a task read with ``given`` thresholds, and ``usual`` options where it has them.

    Raises UsageError for thresholds that the task does not have, or that are out of range.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    known = {f.name for f in fields(task)} if is_dataclass(task) else set[str]()
    for name, value in asked.items():
        option = f"--{name.replace('_', '-')}"
        if name not in known:
            raise UsageError(f"{option} is for detection, and this is {task.name}", hint="leave it out")
        low, high = LIMITS[name]
        if not low <= value <= high:
            raise UsageError(f"{option}: {value} does not lie between {low:g} and {high:g}", hint="for example 0.25")
    chosen = {name: value for name, value in {**(usual or {}), **asked}.items() if name in known}
    return replace(task, **chosen) if chosen else task  # type: ignore[type-var]
