"""What a model said of pictures, as a report: the model, the engine, the times, the computer, every answer."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bitfront import __version__
from bitfront.contracts import DataInfo, Metrics, Prediction, Task
from bitfront.measure.system import system
from bitfront.record import to_json
from bitfront.registry import load
from bitfront.sources import Source
from bitfront.store import append_row, atomic_json, io_errors
from bitfront.verbs.answering import Times
from bitfront.verbs.opening import Opened

__all__ = ["answer_of", "report_of", "row_of", "write"]

SCHEMA = 1
MIB = 2**20
DIGITS = 3
BOX = "x1 y1 x2 y2 in pixels of the image, from its upper left corner"
THRESHOLDS = ("confidence", "iou", "max_boxes")


def answer_of(name: str, prediction: Prediction, info: DataInfo) -> dict[str, Any]:
    """Return an answer as plain data: the detections, the class, or the share of each class of a label map."""
    if prediction.boxes is not None and prediction.labels is not None and prediction.scores is not None:
        names = [info.classes[i] for i in info.objects]
        found = zip(prediction.labels, prediction.scores, prediction.boxes, strict=True)
        detections = [
            {"label": _name(names, int(label)), "score": _rounded(score), "box": [_rounded(v) for v in box]}
            for label, score, box in found
        ]
        return {"image": name, "detections": detections}
    if prediction.mask is not None:
        counts = np.bincount(prediction.mask.ravel(), minlength=len(info.classes)) / max(1, prediction.mask.size)
        return {"image": name, "shares": {c: _rounded(counts[i]) for i, c in enumerate(info.classes) if counts[i]}}
    return {"image": name, "label": None if prediction.label is None else _name(info.classes, prediction.label)}


def report_of(  # noqa: PLR0917
    opened: Opened,
    model: str,
    images: str,
    threads: int,
    times: Times | None,
    predictions: list[dict[str, Any]],
    metrics: Metrics | None = None,
) -> dict[str, Any]:
    """Return the report of a session as plain data; ``model`` and ``images`` are what was asked for, ``metrics`` how it
    scored where there were labels.
    """
    task, source = opened.task, opened.source
    place = _file(source)
    n_bytes = place.stat().st_size if place is not None else None
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "bitfront": __version__,
        "task": task.name,
        "model": {
            "text": model,
            "name": source.name,
            "file": place.name if place is not None else None,
            "size_bytes": n_bytes,
            "size_mib": None if n_bytes is None else round(n_bytes / MIB, DIGITS),
        },
        "runtime": _engine(source, threads),
        "input": {"height": source.input.height, "width": source.input.width, "fit": source.input.fit},
        "images": images,
        "n_images": len(predictions),
        "thresholds": _thresholds(task),
        "times": to_json(times),
        "score": None if metrics is None else metrics.score,
        "scores": None if metrics is None else to_json(metrics.values),
        "node": platform.node(),
        "system": system(),
        "box": BOX,
        "predictions": predictions,
    }


def row_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report's line of a table: always the same columns."""
    times = report["times"] or {}
    parts = ("preprocess_ms", "inference_ms", "postprocess_ms")
    found, scores = report["thresholds"], report["scores"] or {}
    return {
        "date": report["date"],
        "model": report["model"]["text"],
        "file": report["model"]["file"],
        "size_bytes": report["model"]["size_bytes"],
        "size_mib": report["model"]["size_mib"],
        "task": report["task"],
        "runtime": report["runtime"]["name"],
        "runtime_version": report["runtime"]["version"],
        "threads": report["runtime"]["threads"],
        "height": report["input"]["height"],
        "width": report["input"]["width"],
        "images": report["images"],
        "n_images": report["n_images"],
        **{name: found.get(name) for name in THRESHOLDS},
        **{f"{part}_{what}": _number(times, part, what) for part in parts for what in ("mean", "median", "p90")},
        "fps": _number(times, "fps"),
        "inference_fps": _number(times, "inference_fps"),
        "score": report["score"],
        "value": scores.get(report["score"]),
        **{name: scores.get(name) for name in ("map50", "map", "precision", "recall")},
        "n_detections": sum(len(p.get("detections", ())) for p in report["predictions"]),
        "node": report["node"],
        "cpu": report["system"]["cpu"],
        "cores": report["system"]["cores_allowed"],
        "ram_bytes": report["system"]["ram_bytes"],
        "os": report["system"]["os"],
    }


def write(report: Mapping[str, Any], place: Path | str | None, table: Path | str | None) -> None:
    """Write a report to a JSON file and its line to a CSV file, where they are named. Raises UsageError, SpaceError."""
    if place is not None:
        with io_errors(Path(place)):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        atomic_json(Path(place), report)
    if table is not None:
        append_row(Path(table), row_of(report))


def _number(times: Mapping[str, Any], *path: str) -> float | None:
    value: Any = times
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else round(float(value), DIGITS)


def _name(names: Sequence[str], label: int) -> str:
    """The name of a class, or its number where another's file answers with more classes than it names."""
    return names[label] if label < len(names) else f"class {label}"


def _rounded(value: Any) -> float:
    return round(float(value), DIGITS)


def _thresholds(task: Task) -> dict[str, Any]:
    known = {f.name for f in fields(task)} if is_dataclass(task) else set[str]()
    return {name: getattr(task, name) for name in THRESHOLDS if name in known}


def _file(source: Source) -> Path | None:
    """The file that holds the weights, if there is one."""
    if source.path is not None:
        return source.path
    found = source.weights_for({}, (source.input.height, source.input.width))
    return None if found is None else found.path


def _engine(source: Source, threads: int) -> dict[str, Any]:
    """What computes; torch takes the threads that it is set to."""
    if source.runtime:
        return {"name": source.runtime, "version": str(load("runtime", source.runtime)().version()), "threads": threads}
    import torch

    return {"name": "torch", "version": str(torch.__version__), "threads": torch.get_num_threads()}
