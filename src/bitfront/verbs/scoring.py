"""evaluate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitfront import batches
from bitfront.contracts import (
    IGNORE,
    DataInfo,
    Dataset,
    Metrics,
    Part,
    Prediction,
    Runtime,
    Sample,
    Session,
    Task,
)
from bitfront.decode import read_image, read_mask
from bitfront.errors import DataError, UsageError
from bitfront.sources import Source
from bitfront.verbs.answering import Laps, Times, answered, times_of, with_thresholds
from bitfront.verbs.opening import Opened, Progress, choose_part, open_both, open_session, untrained, usable_part
from bitfront.verbs.run_report import answer_of, report_of, write

__all__ = ["Evaluation", "chosen", "evaluate", "few_or_all", "score_file", "score_session"]

BATCH_SIZE = 4


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's scores and how they came about."""

    metrics: Metrics
    model: str
    data: str
    part: str
    runtime: str
    """``torch`` or the runtime that ran the file."""
    resolution: tuple[int, int]
    """Height and width at which the network ran."""
    seconds: float
    notes: tuple[str, ...] = ()
    """Choices that were made for the user, one line each."""


def evaluate(
    model: str,
    data: str | None = None,
    *,
    part: str = "",
    image: Path | str | None = None,
    mask: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
    labels: str = "",
    decoder: str = "",
    confidence: float | None = None,
    iou: float | None = None,
    max_boxes: int | None = None,
    score: str = "",
    limit: int | None = None,
    seed: int | None = None,
    report: Path | str | None = None,
    csv: Path | str | None = None,
    threads: int = 1,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a model on a part of a dataset, or on one image and its mask.

    Torch networks run in torch, ``.onnx`` files in ONNX Runtime, ``.tflite`` files in LiteRT (without torch).

    Args:
        model: catalogue name, checkpoint, ``.onnx`` file or ``package.module:factory``.
        data: catalogue name, folder or data YAML; may be left out with ``image`` and ``mask``.
        part: ``train``, ``val`` or ``test``; by default the last of them that exists.
        image: one image instead of a part.
        mask: its label map.
        settings: knobs, e.g. ``{"resolution": (256, 256)}``.
        weights: checkpoint for catalogue models and factories.
        preprocess: how a file that does not say it wants to be fed: ``imagenet``, ``unit``, ``signed`` or ``raw``.
        reader: reader of the data folder, when it is not recognised.
        task: what is asked of the network.
        labels: names of classes for ``image`` and ``mask``: ``coco``, ``voc``, a file with one name a line, ``a,b,c``.
        decoder: how another's detector is read, where its outputs do not say.
        confidence: boxes with a score above it are found (detection; 0.001).
        iou: boxes of a class that overlap a better one more than this are dropped (0.6).
        max_boxes: boxes of an image at most (300).
        score: metric that drives (default: the task's).
        limit: score at most so many images, evenly apart.
        seed: chooses the images of ``limit`` at random.
        report: JSON file of scores, times, the computer and every answer; images then go through one by one.
        csv: table to which a line of this is added.
        threads: threads of the runtime.
        cache: folder that remembers which files were found whole.
        progress: called with a stage, what is done and what there is.

    Raises:
        UsageError: wrong names or options.
        DataError: data or model files that cannot be used.
    """
    if (image is None) != (mask is None):
        raise UsageError("--image and --mask belong together", hint="give both, or neither")
    if data is None and image is None:
        raise UsageError("what is the model to be scored on?", hint="give DATA, or --image and --mask")
    start = time.monotonic()
    opened = open_both(
        model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights, labels=labels,
        decoder=decoder,
    )  # fmt: skip
    given = {"confidence": confidence, "iou": iou, "max_boxes": max_boxes}
    opened = replace(opened, task=with_thresholds(opened.task, given))
    samples: Part
    name, notes = "", [*opened.source.notes, *untrained(opened.source)]
    if image is not None and mask is not None:
        if opened.task.name != "segmentation":
            raise UsageError(f"--mask is a label map, and this is {opened.task.name}", hint="give DATA instead")
        samples = _one(Path(image), Path(mask), opened.info)
    else:
        assert opened.dataset is not None
        name, note = choose_part(opened.dataset, part)
        samples, warnings = few_or_all(opened.dataset, name, limit, cache, progress, seed)
        notes += [*([note] if note else []), *warnings]
    session = open_session(opened.source, threads)
    notes += getattr(session, "notes", ())
    try:
        if report is None and csv is None:
            metrics = score_session(session, opened, samples, score=score, progress=progress)
        else:
            metrics, times, found = _each(session, opened, samples, score, progress)
            what = f"{data or image}{':' + name if name else ''}"
            write(report_of(opened, model, what, threads, times, found, metrics), report, csv)
    finally:
        session.close()
    source = opened.source
    return Evaluation(
        metrics,
        model,
        data or str(image),
        name,
        source.runtime or "torch",
        (source.input.height, source.input.width),
        time.monotonic() - start,
        tuple(notes),
    )


def _each(
    session: Session, opened: Opened, samples: Part, score: str, progress: Progress | None
) -> tuple[Metrics, Times | None, list[dict[str, Any]]]:
    """Score samples one by one; returns the scores, the times after a first answer that warms up, and the answers."""
    meter = opened.task.meter(opened.info, score)
    laps: list[Laps] = []
    found: list[dict[str, Any]] = []
    for index in range(len(samples)):
        sample = samples[index]
        if not index:
            answered(session, opened.task, opened.source, sample.image)
        prediction, spent = answered(session, opened.task, opened.source, sample.image)
        meter.add(prediction, sample)
        laps.append(spent)
        found.append(answer_of(sample.id, prediction, opened.info))
        if progress:
            progress("evaluate", index + 1, len(samples))
    if not found:
        raise DataError(f"'{opened.info.name}' holds no images", hint="`bitfront data check` says what there is")
    return meter.result(), times_of(laps), found


def score_session(
    session: Session,
    opened: Opened,
    samples: Part,
    *,
    score: str = "",
    source: Source | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Metrics:
    """Score an opened model on samples, each at its own size. Raises DataError for no samples, UsageError."""
    if not len(samples):
        raise DataError(f"'{opened.info.name}' holds no images", hint="`bitfront data check` says what there is")
    source = source or opened.source
    meter = opened.task.meter(opened.info, score)
    done = 0
    for batch, originals in batches.evaluation(samples, source.input, batch_size):
        outputs = session.run(batch.images)
        for prediction, sample in zip(_read(opened.task, outputs, source, originals), originals, strict=True):
            meter.add(prediction, sample)
        done += len(originals)
        if progress:
            progress("evaluate", done, len(samples))
    return meter.result()


def score_file(
    runtime: Runtime,
    path: Path,
    opened: Opened,
    samples: Part,
    *,
    score: str = "",
    threads: int = 1,
    progress: Progress | None = None,
) -> Metrics:
    """Score an artifact's file in its runtime. Raises as :func:`score_session`."""
    session = runtime.open(path, threads)
    try:
        return score_session(session, opened, samples, score=score, progress=progress)
    finally:
        session.close()


def _read(task: Task, outputs: Any, source: Source, samples: list[Sample]) -> list[Prediction]:
    sizes = [(s.image.shape[0], s.image.shape[1]) for s in samples]
    return task.predict(outputs, source.output, sizes, source.input)


def few_or_all(  # noqa: PLR0917
    dataset: Dataset,
    name: str,
    limit: int | None,
    cache: Path | None = None,
    progress: Progress | None = None,
    seed: int | None = None,
) -> tuple[Part, tuple[str, ...]]:
    """Return ``limit`` samples of a part, as :func:`chosen`, or all that are usable, and notes. Raises DataError."""
    if limit is None:
        return usable_part(dataset, name, cache=cache, progress=progress)
    part = dataset.part(name)
    return [part[i] for i in chosen(len(part), limit, seed)], ()


def chosen(n: int, limit: int | None, seed: int | None = None) -> list[int]:
    """Return which ``limit`` of ``n`` are taken, in order: evenly apart so that no scene is favoured; with a seed, at
    random.
    """
    if limit is None or limit >= n:
        return list(range(n))
    if seed is not None:
        return sorted(int(i) for i in np.random.default_rng(seed).choice(n, limit, replace=False))
    return [int(i) for i in np.unique(np.linspace(0, n - 1, limit).astype(int))]


def _one(image: Path, mask: Path, info: DataInfo) -> list[Sample]:
    """One picture and its label map; in a binary mask 255 is the object."""
    for path in (image, mask):
        if not path.is_file():
            raise UsageError(f"no file '{path}'", hint="check the path")
    pixels, labels = read_image(image), read_mask(mask)
    if pixels.shape[:2] != labels.shape:
        size = "x".join(map(str, pixels.shape[:2]))
        raise DataError(
            f"{mask} is {labels.shape[0]}x{labels.shape[1]}, its image {size}", hint="they must have the same size"
        )
    values = np.unique(labels)
    if len(info.classes) == 2 and set(values.tolist()) <= {0, IGNORE}:
        labels = (labels == IGNORE).astype(np.uint8)
    elif wrong := [int(v) for v in values if v >= len(info.classes) and v != IGNORE]:
        raise DataError(
            f"{mask} holds the value {wrong[0]}, and there are {len(info.classes)} classes",
            hint="masks hold class indices, 255 = ignore; give DATA for a model that does not name its classes",
        )
    return [Sample(image.name, pixels, mask=labels)]
