"""What is trained, in which order, and with which options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitfront.fitting.config import Config
from bitfront.fitting.inheritance import is_parent
from bitfront.fitting.space import EFFORTS, Architecture
from bitfront.fitting.training import Training
from bitfront.sources import Source

__all__ = ["Job", "distance", "nearest", "schedule", "train_options", "usual_epochs"]

SEEN_IMAGES = {"detection": 16000}
USUAL_SEEN = 8000
"""Training images, repeats counted, that a training from scratch looks at when nothing is said, by task and else."""
MIN_EPOCHS, MAX_EPOCHS = 6, 100
FINE_SHARE = 0.4
"""Epochs of a training that starts from weights, relative to one from scratch; the more the further their size is,
from ``NEAR`` on."""
NEAR = math.log(4)
N_VALIDATIONS = 8
RATE = 5e-3
"""First learning rate, also from weights: at another size than theirs 2e-3 costs two points (packages, 20 epochs)."""
BATCH_SIZE = 8


@dataclass(frozen=True, slots=True)
class Job:
    """One architecture and how much it is trained."""

    architecture: Architecture
    share: float
    """Epochs relative to a training from scratch; 0 to use the weights as they are given."""


def schedule(source: Source, architectures: Sequence[Architecture], retrain: str) -> list[Job]:
    """Return all architectures in the order of work.

    Given weights are used as they are at the size they were trained at, and trained further at others (unless
    ``retrain`` says otherwise); such a family goes away from that size, so that each training starts at the nearest one
    there is, and lasts the longer the further away that is. Fresh families are trained from scratch at their smallest
    size, which costs least, and go on from there; cheap networks come before costly ones, so that a costly one can be
    given up in their light.
    """
    smallest: dict[str, tuple[int, int]] = {}
    for a in sorted(architectures, key=lambda a: (a.size[0] * a.size[1], a.size)):
        smallest.setdefault(a.family, a.size)

    def job(a: Architecture) -> tuple[tuple[Any, ...], Job]:
        native = _native(source, a)
        if source.kind == "onnx" or retrain == "never" or (retrain == "auto" and native == a.size):
            return (0, 0.0, a.id), Job(a, 0.0)
        if native is not None:
            return (1, distance(native, a.size), a.id), Job(a, FINE_SHARE)
        cost = math.prod(a.size) * float(a.options.get("width", 1.0) or 1.0) ** 2
        return (2, cost, a.id), Job(a, 1.0 if a.size == smallest[a.family] else FINE_SHARE)

    jobs = [found for _, found in sorted((job(a) for a in architectures), key=lambda pair: pair[0])]
    return _stretched(source, jobs)


def _stretched(source: Source, jobs: Sequence[Job]) -> list[Job]:
    """Return jobs, those that go far from the given weights' size, and from the sizes of the jobs before, longer."""
    sizes: dict[str, list[tuple[int, int]]] = {}
    found = []
    for job in jobs:
        a = job.architecture
        if (native := _native(source, a)) is not None and job.share:
            begun = sizes.setdefault(a.family, [native])
            stretch = min(distance(size, a.size) for size in begun) / NEAR
            job = replace(job, share=min(1.0, job.share * max(1.0, stretch)))
            begun.append(a.size)
        found.append(job)
    return found


def _native(source: Source, architecture: Architecture) -> tuple[int, int] | None:
    """The size at which the given weights were trained; ``None`` without weights."""
    given = source.weights_for(architecture.options, architecture.size)
    return None if given is None else source.trained_size(given)


def nearest(
    architecture: Architecture, trained: Sequence[tuple[Architecture, Training]], source: Source
) -> tuple[Architecture, Training] | None:
    """Return the training to start from: of the same family at the nearest size, else the smallest parent of this size.

    Without either ``None``: the source's own weights, or fresh ones.
    """
    kin = [pair for pair in trained if pair[0].family == architecture.family]
    if kin or source.weights_for(architecture.options, architecture.size) is not None:
        return min(kin, key=lambda pair: (distance(pair[0].size, architecture.size), pair[1].id), default=None)
    whole = source.whole(architecture.options)
    parents = [p for p in trained if p[0].size == architecture.size and is_parent(source.whole(p[0].options), whole)]
    return min(parents, key=lambda pair: (pair[1].parameters, pair[1].id), default=None)


def distance(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Return how far two sizes are apart: the logarithm of the ratio of their pixels."""
    return abs(math.log(a[0] * a[1] / (b[0] * b[1])))


def usual_epochs(config: Config, n_train: int, task: str = "") -> int:
    """Return the epochs of a training from scratch; boxes take more of them than label maps."""
    seen = SEEN_IMAGES.get(task, USUAL_SEEN) * EFFORTS[config.effort].epochs
    return config.epochs or int(np.clip(round(seen / max(n_train, 1)), MIN_EPOCHS, MAX_EPOCHS))


def train_options(config: Config, n_train: int, epochs: int, *, augment: str = "light", task: str = "") -> Any:
    """Return the :class:`bitfront.train.options.TrainOptions` of one training.

    ``augment`` is what suits the data; a ``task`` may have a preset of its own.
    """
    from bitfront.train.options import PRESETS, TrainOptions

    usual = PRESETS.get(task, TrainOptions(rate=RATE))
    return replace(
        usual,
        epochs=epochs,
        batch_size=min(config.batch_size or BATCH_SIZE, max(1, n_train)),
        rate=config.learning_rate or usual.rate,
        validate_every=max(1, epochs // N_VALIDATIONS),
        augment=config.augment or usual.augment or augment,
        score=config.score,
    )
