"""Pictures of a few validation images as the float and the quantized network see them, for the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfront import batches, images
from bitfront.contracts import DataInfo, Part, Prediction, Runtime, Sample
from bitfront.record import Record
from bitfront.store import atomic_json, atomic_write

if TYPE_CHECKING:
    from bitfront.verbs.opening import Opened

__all__ = ["write_previews"]

N_WORST = 3
MAX_SIDE = 320
"""Longest side of a picture, pixels."""
DIFFERENT = np.array([255, 40, 60], np.float32)


def write_previews(
    run_folder: Path, runtime: Runtime, opened: Opened, part: Part, *, shown: Record, twin: Record
) -> list[str]:
    """Draw the worst images of ``shown`` and the median one, with the answers of its float ``twin``.

    Writes JPEGs into ``previews/``, and ``index.json``: a list of ``{"sample", "note", "panels": {name: file}}``, the
    worst image first. Returns the samples' ids. Raises SpaceError.
    """
    scores = dict(shown.val.per_sample) if shown.val else {}
    chosen = _chosen(scores)
    positions = {part[i].id: i for i in range(len(part))} if chosen else {}
    folder = run_folder / "previews"
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for n, (name, note) in enumerate(chosen):
        sample = part[positions[name]]
        answers = [_answer(runtime, opened, run_folder, record, sample) for record in (twin, shown)]
        panels = {}
        for kind, picture in _panels(sample, answers[0], answers[1], opened.info).items():
            panels[kind] = f"{n:02d}_{kind}.jpg"
            atomic_write(folder / panels[kind], images.jpeg(picture))
        score = shown.val.score if shown.val else "score"
        listed.append({"sample": name, "note": f"{note}: {score} {100 * scores[name]:.1f} %", "panels": panels})
    atomic_json(folder / "index.json", listed)
    return [name for name, _ in chosen]


def _chosen(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return the ids of the worst samples and of the median one, each with a note."""
    ranked = sorted((value, name) for name, value in scores.items() if np.isfinite(value))
    if not ranked:
        return []
    worst = [
        (name, "worst" if n == 0 else f"number {n + 1} from the end") for n, (_, name) in enumerate(ranked[:N_WORST])
    ]
    median = ranked[len(ranked) // 2][1]
    return worst + ([(median, "median")] if median not in {name for name, _ in worst} else [])


def _answer(runtime: Runtime, opened: Opened, run_folder: Path, record: Record, sample: Sample) -> Prediction:
    assert record.artifact is not None
    session = runtime.open(run_folder / record.artifact.path)
    try:
        batch, originals = next(batches.evaluation([sample], record.artifact.input, 1))
        sizes = [(s.image.shape[0], s.image.shape[1]) for s in originals]
        return opened.task.predict(session.run(batch.images), record.artifact.output, sizes)[0]
    finally:
        session.close()


def _panels(sample: Sample, float_: Prediction, quantized: Prediction, info: DataInfo) -> dict[str, NDArray[np.uint8]]:
    small = _small(sample.image)
    panels = {"input": small}
    for name, mask in (("label", sample.mask), ("float", float_.mask), ("quantized", quantized.mask)):
        if mask is not None:
            panels[name] = images.overlay(small, images.resize(mask, small.shape[:2], "nearest"), info)
    if float_.mask is not None and quantized.mask is not None:
        differs = images.resize((float_.mask != quantized.mask).astype(np.uint8), small.shape[:2], "nearest")
        panels["difference"] = _marked(small, differs)
    return panels


def _small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = min(1.0, MAX_SIDE / max(image.shape[:2]))
    size = (round(image.shape[0] * factor), round(image.shape[1] * factor))
    small: NDArray[np.uint8] = image if factor == 1 else images.resize(image, size)
    return small


def _marked(image: NDArray[np.uint8], where: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the image faded, with the pixels of a mask in a strong colour."""
    faded = 128 + image.mean(axis=2, keepdims=True) / 2
    marked: NDArray[np.uint8] = np.where(where[:, :, None] > 0, DIFFERENT, faded).astype(np.uint8)
    return marked
