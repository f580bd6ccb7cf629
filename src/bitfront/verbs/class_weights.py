"""Weights of classes in the loss: given, or by how rare a class is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import IGNORE, Part, Sample
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.verbs.opening import Opened

__all__ = ["median_frequency", "weighted"]

RULES = ("median",)


def weighted(opened: Opened, class_weights: Sequence[float] | str, part: Part) -> Opened:
    """Return the same with a task whose loss weights the classes.

    Args:
        opened: what is trained.
        class_weights: one of each class, in the data's order, or ``median``; empty: as the task does.
        part: labels that frequencies are counted in.

    Raises:
        UsageError: weights that do not fit, or a task without.
        DataError: a class that no label has.
    """
    if not class_weights:
        return opened
    task, classes = opened.task, opened.info.classes
    if not is_dataclass(task) or "class_weights" not in {f.name for f in fields(task)}:
        raise UsageError(f"the loss of {task.name} has no class weights", hint="leave out --class-weights")
    if isinstance(class_weights, str):
        if class_weights not in RULES:
            raise unknown_name("class weights", class_weights, RULES)
        chosen = median_frequency(part, classes)
    else:
        chosen = tuple(map(float, class_weights))
    wrong = [w for w in chosen if not (math.isfinite(w) and w >= 0)]
    if len(chosen) != len(classes) or wrong or not any(chosen):
        names = ", ".join(classes[:6]) + ("" if len(classes) <= 6 else ", ...")
        raise UsageError(
            f"class weights {', '.join(f'{w:g}' for w in chosen)} do not fit the {len(classes)} classes of "
            f"'{opened.info.name}'",
            hint=f"one number of at least 0 for each of: {names}",
        )
    return replace(opened, task=replace(task, class_weights=chosen))


def median_frequency(part: Part, classes: Sequence[str]) -> tuple[float, ...]:
    """Return the median frequency over each class's: its pixels over all labelled ones of the images that show it.

    (Eigen and Fergus 2015, "Predicting depth, surface normals and semantic labels with a common multi-scale
    convolutional architecture".) An image with a label as a whole counts as one pixel.

    Raises DataError for a class that no label has.
    """
    own, there = np.zeros(len(classes)), np.zeros(len(classes))
    for sample in part:
        counts = _counts(sample, len(classes))
        own += counts
        there += counts.sum() * (counts > 0) if sample.mask is not None else counts.sum()
    if not own.all():
        missing = classes[int(np.argmin(own > 0))]
        raise DataError(f"no label of the train part is '{missing}'", hint="give the weights as numbers")
    frequencies = own / there
    return tuple(float(w) for w in np.median(frequencies) / frequencies)


def _counts(sample: Sample, n: int) -> NDArray[np.int64]:
    """Return how often each class occurs in a sample's labels."""
    labels = sample.mask if sample.mask is not None else np.array([IGNORE if sample.label is None else sample.label])
    counts: NDArray[np.int64] = np.bincount(labels[labels < n].ravel(), minlength=n)[:n]
    return counts
