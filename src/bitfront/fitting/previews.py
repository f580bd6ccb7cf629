"""Pictures of a few validation images as the float and the quantized networks see them, for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfront import batches, images
from bitfront.contracts import Part, Prediction, Runtime, Sample
from bitfront.record import Record, content_id
from bitfront.store import atomic_json, atomic_write
from bitfront.verbs.answering import FOR_PICTURES, with_thresholds

if TYPE_CHECKING:
    from bitfront.verbs.opening import Opened

__all__ = ["rivals", "write_previews"]

N_WORST = 3
MAX_SIDE = 320
"""Longest side of a picture, pixels."""
DIFFERENT = np.array([255, 40, 60], np.float32)


def write_previews(
    run_folder: Path,
    engine: Callable[[str], Runtime],
    opened: Opened,
    part: Part,
    *,
    shown: Record,
    twin: Record,
    others: Sequence[Record] = (),
    names: Mapping[str, str] | None = None,
) -> list[str]:
    """Draw the worst images of ``shown`` and the median one, with the answers of its float ``twin`` and of ``others``.

    ``engine`` gives a runtime by name. ``names`` says how a candidate is called (by id; its recipe otherwise, the
    twin ``float``): members made by a plan by their mean bits.
    Writes JPEGs into ``previews/``, and ``index.json``: a list of ``{"sample", "note", "panels": {name: file}}``, the
    worst image first. Returns the samples' ids. Raises SpaceError.
    """
    scores = dict(shown.val.per_sample) if shown.val else {}
    chosen = _chosen(scores)
    positions = {part[i].id: i for i in range(len(part))} if chosen else {}
    folder = run_folder / "previews"
    folder.mkdir(parents=True, exist_ok=True)
    quantized = {_called(r, names or {}, "" if r is shown else r.candidate.recipe): r for r in (*others, shown)}
    listed = []
    for n, (name, note) in enumerate(chosen):
        sample = part[positions[name]]
        answers = {
            title: _answer(engine, opened, run_folder, record, sample)
            for title, record in {(names or {}).get(twin.id, "float"): twin, **quantized}.items()
        }
        panels = {}
        for k, (title, picture) in enumerate(_panels(sample, answers, opened).items()):
            panels[title] = f"{n:02d}_{title if title.isalnum() else k}.jpg"
            atomic_write(folder / panels[title], images.jpeg(picture))
        score = (shown.val.per_sample_name or shown.val.score) if shown.val else "score"
        listed.append({"sample": name, "note": f"{note}: {score} {100 * scores[name]:.1f} %", "panels": panels})
    atomic_json(folder / "index.json", listed)
    return [name for name, _ in chosen]


def _called(record: Record, names: Mapping[str, str], otherwise: str) -> str:
    return names.get(record.id) or otherwise or "quantized"


def rivals(shown: Record, records: Sequence[Record], limit: int = 2) -> list[Record]:
    """Return other files of the network of ``shown`` to set beside it: of each recipe the one with the best score.

    Searched plans are one recipe. Those of equal score come in the order of the records.
    """
    best: dict[str, Record] = {}
    for r in records:
        usable = r.artifact is not None and r.val is not None and r.status in ("front", "dominated")
        if not usable or _network(r) != _network(shown) or _kind(r) in ("float32", _kind(shown)):
            continue
        if _kind(r) not in best or _value(r) > _value(best[_kind(r)]):
            best[_kind(r)] = r
    return sorted(best.values(), key=_value, reverse=True)[:limit]


def _network(record: Record) -> str:
    c = record.candidate
    return content_id(c.model, c.knobs, c.runtime, c.weights)


def _kind(record: Record) -> str:
    return "plan" if record.candidate.plan else record.candidate.recipe


def _value(record: Record) -> float:
    return record.val.value if record.val is not None else 0.0


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


def _answer(
    engine: Callable[[str], Runtime], opened: Opened, run_folder: Path, record: Record, sample: Sample
) -> Prediction:
    assert record.artifact is not None
    session = engine(record.artifact.runtime).open(run_folder / record.artifact.path)
    try:
        batch, originals = next(batches.evaluation([sample], record.artifact.input, 1))
        sizes = [(s.image.shape[0], s.image.shape[1]) for s in originals]
        artifact = record.artifact
        outputs = session.run(batch.images)
        task = with_thresholds(opened.task, {}, FOR_PICTURES)
        found: Prediction = task.predict(outputs, artifact.output, sizes, artifact.input)[0]
        return found
    finally:
        session.close()


def _panels(sample: Sample, answers: Mapping[str, Prediction], opened: Opened) -> dict[str, NDArray[np.uint8]]:
    """Return input, label, every answer with its legend, and where the last answer differs from the first."""
    small, info = _small(sample.image), opened.info
    panels = {"input": small}
    if any(answer.label is not None for answer in answers.values()):
        classes = {"label": Prediction(label=sample.label), **answers}
        return panels | {name: opened.task.draw(small, answer, info) for name, answer in classes.items()}
    if any(answer.boxes is not None for answer in answers.values()):
        return panels | _boxed(sample, answers, opened)
    masks = {"label": sample.mask, **{name: answer.mask for name, answer in answers.items()}}
    for name, mask in masks.items():
        if mask is not None:
            panels[name] = images.overlay(small, images.resize(mask, small.shape[:2], "nearest"), info)
    first, *_, last = (answer.mask for answer in answers.values())
    if first is not None and last is not None:
        differs = images.resize((first != last).astype(np.uint8), small.shape[:2], "nearest")
        panels["difference"] = _marked(small, differs)
    return panels


def _boxed(sample: Sample, answers: Mapping[str, Prediction], opened: Opened) -> dict[str, NDArray[np.uint8]]:
    """Return the picture with the labelled boxes, and with those of every answer."""
    truth = Prediction(
        boxes=sample.boxes, labels=None if sample.labels is None else opened.info.among_objects(sample.labels)
    )
    small = _small(sample.image)
    factor = np.float32(small.shape[0] / sample.image.shape[0])
    return {
        name: opened.task.draw(
            small, replace(answer, boxes=None if answer.boxes is None else answer.boxes * factor), opened.info
        )
        for name, answer in {"label": truth, **answers}.items()
    }


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
