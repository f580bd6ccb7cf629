"""evaluate and predict."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
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
from bitfront.decode import EXTENSIONS, read_image, read_mask
from bitfront.errors import DataError, UsageError
from bitfront.images import jpeg, png
from bitfront.sources import Source
from bitfront.store import atomic_write
from bitfront.verbs.opening import Opened, Progress, choose_part, open_both, open_session, untrained, usable_part

__all__ = ["Evaluation", "Pictures", "evaluate", "few_or_all", "predict", "score_file", "score_session"]

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
    score: str = "",
    limit: int | None = None,
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
        score: metric that drives (default: the task's).
        limit: score at most so many images.
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
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    samples: Part
    name, notes = "", [*opened.source.notes, *untrained(opened.source)]
    if image is not None and mask is not None:
        if opened.task.name != "segmentation":
            raise UsageError(f"--mask is a label map, and this is {opened.task.name}", hint="give DATA instead")
        samples = _one(Path(image), Path(mask), opened.info)
    else:
        assert opened.dataset is not None
        name, note = choose_part(opened.dataset, part)
        samples, warnings = few_or_all(opened.dataset, name, limit, cache, progress)
        notes += [*([note] if note else []), *warnings]
    session = open_session(opened.source, threads)
    notes += getattr(session, "notes", ())
    try:
        metrics = score_session(session, opened, samples, score=score, progress=progress)
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


def few_or_all(
    dataset: Dataset, name: str, limit: int | None, cache: Path | None = None, progress: Progress | None = None
) -> tuple[Part, tuple[str, ...]]:
    """Return ``limit`` samples of a part, evenly apart so that no scene is favoured, or all that are usable, and notes.

    Raises DataError.
    """
    if limit is None:
        return usable_part(dataset, name, cache=cache, progress=progress)
    part = dataset.part(name)
    chosen = np.unique(np.linspace(0, len(part) - 1, min(len(part), limit)).astype(int)) if len(part) else ()
    return [part[int(i)] for i in chosen], ()


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


@dataclass(frozen=True, slots=True)
class Pictures:
    """What :func:`predict` wrote."""

    folder: Path
    files: tuple[Path, ...]
    seconds: float
    notes: tuple[str, ...] = ()


def predict(
    model: str,
    images: Path | str,
    out: Path | str,
    *,
    data: str | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
    masks: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
) -> Pictures:
    """Draw a model's answers, with a legend, over one image or every image of a folder (not below it).

    ``data`` gives class names and colours where the model file does not; ``masks`` also writes the label maps as PNG.
    Raises UsageError, DataError, SpaceError.
    """
    start = time.monotonic()
    files = _image_files(Path(images))
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out: '{folder}' is a file", hint="name a folder")
    session = open_session(opened.source, threads)
    written = []
    try:
        for index, path in enumerate(files):
            sample = Sample(path.name, read_image(path))
            (batch, originals) = next(iter(batches.evaluation([sample], opened.source.input, 1)))
            answer = _read(opened.task, session.run(batch.images), opened.source, originals)[0]
            picture = folder / f"{path.stem}_{path.suffix[1:].lower()}.jpg"
            written.append(_write(picture, jpeg(opened.task.draw(sample.image, answer, opened.info))))
            if masks and answer.mask is not None:
                written.append(_write(picture.with_suffix(".png"), png(answer.mask)))
            if progress:
                progress("predict", index + 1, len(files))
    finally:
        session.close()
    return Pictures(folder, tuple(written), time.monotonic() - start, (*opened.source.notes, *untrained(opened.source)))


def _image_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UsageError(f"no file and no folder '{place}'", hint="check the path")
    files = sorted(p for p in place.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not files:
        raise DataError(f"'{place}' holds no images", hint=f"known endings: {', '.join(sorted(EXTENSIONS))}")
    return files


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data)
    return path
