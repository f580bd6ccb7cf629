"""evaluate, predict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bitfront.cli.console import Answer, duration, percent, table
from bitfront.cli.options import (
    DataText,
    Limit,
    ModelOptions,
    ModelText,
    Set,
    Shared,
    Threads,
    cache_folder,
    knobs,
    required,
    whole,
)
from bitfront.cli.reading import Reading
from bitfront.errors import UsageError

__all__ = ["Part", "evaluate", "metrics_data", "metrics_text", "predict"]

Chosen = Annotated[int | None, whole("Choose the images of --limit at random, by this seed.", 0)]
Report = Annotated[Path | None, Parameter(help="JSON file of model, times, computer and every answer.")]
Csv = Annotated[Path | None, Parameter(help="CSV file to which a line of the report is added.")]
MANY = 25
"""Classes from which on those without a score are left out of tables."""
Part = Annotated[str | None, Parameter(help="train, val or test [default: the last of them that exists].")]


def metrics_data(metrics: Any) -> dict[str, Any]:
    """Return scores as plain data: the values, then ``per_class`` and what it takes to read them."""
    from bitfront.record import to_json

    return {
        **to_json(metrics.values),
        "score": metrics.score,
        "interval": to_json(metrics.interval),
        "n": metrics.n,
        "per_class": to_json(metrics.per_class),
        "definitions": to_json(metrics.definitions),
        "confusion": to_json(metrics.confusion),
    }


def metrics_text(metrics: Any) -> list[Any]:
    """Return scores as tables."""
    rows = []
    for name, value in metrics.values.items():
        interval = ""
        if name == metrics.score and metrics.interval:
            interval = f"95 % between {percent(metrics.interval[0])} and {percent(metrics.interval[1])}"
        rows.append((name, percent(value), interval))
    found: list[Any] = [table(("metric", ">value", ""), rows)]
    if metrics.per_class:
        classes = list(next(iter(metrics.per_class.values())))
        if len(classes) > MANY:
            classes = [c for c in classes if any(v.get(c) is not None for v in metrics.per_class.values())]
        columns = ("class", *(f">{name}" for name in metrics.per_class))
        found.append(table(columns, [(c, *(percent(v.get(c)) for v in metrics.per_class.values())) for c in classes]))
    return found


def evaluate(
    model: ModelText = None,
    data: DataText = None,
    /,
    *,
    part: Part = None,
    image: Annotated[Path | None, Parameter(help="Score one image instead, together with --mask.")] = None,
    mask: Annotated[Path | None, Parameter(help="The label map of --image.")] = None,
    score: Annotated[str | None, Parameter(help="Metric that drives a search [default: the task's].")] = None,
    limit: Limit = None,
    seed: Chosen = None,
    report: Report = None,
    csv: Csv = None,
    threads: Threads = None,
    set_: Set = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Score a model on labelled images.

    Torch networks run in torch, .onnx files in ONNX Runtime, .tflite files in LiteRT. Without --part the test part is
    scored if there is one, else val, else train.
    """
    from bitfront.verbs.scoring import evaluate as score_model

    given = shared.fill(model=model, data=data, part=part, score=score, limit=limit, threads=threads)
    progress = shared.progress()
    found = score_model(
        required(given["model"], "MODEL"),
        given["data"],
        part="" if image else given["part"] or "",
        image=image,
        mask=mask,
        settings=knobs(set_, shared),
        score=given["score"] or "",
        limit=given["limit"],
        seed=seed,
        report=report,
        csv=csv,
        threads=given["threads"] or 1,
        cache=cache_folder(),
        progress=progress,
        **reading.fill(),
        **model_options.fill(shared),
    )
    progress.clear()
    shared.notes(found.notes)
    data_ = {
        "model": found.model,
        "data": found.data,
        "part": found.part,
        "runtime": found.runtime,
        "resolution": list(found.resolution),
        "seconds": found.seconds,
        "notes": list(found.notes),
        "metrics": metrics_data(found.metrics),
    }
    size = "x".join(map(str, found.resolution))
    head = f"{found.metrics.n} images, {size}, {found.runtime}, {duration(found.seconds)}"
    return Answer(data_, [head, *metrics_text(found.metrics)])


def predict(
    model: ModelText = None,
    images: Annotated[
        str | None, Parameter(help="A picture, a folder of them, a video, or the address of a stream (rtsp://...).")
    ] = None,
    /,
    *,
    camera: Annotated[int | None, whole("A camera of this computer instead, by its number.", 0)] = None,
    out: Annotated[Path | None, Parameter(help="Folder for pictures, or a video, with what was found.")] = None,
    save: Annotated[bool, Parameter(help="The same in the folder predictions.", negative=())] = False,
    show: Annotated[bool, Parameter(help="Show them in a window; a key goes on.", negative=())] = False,
    masks: Annotated[bool, Parameter(help="Write the label maps too, as PNG.", negative=())] = False,
    report: Report = None,
    csv: Csv = None,
    data: Annotated[str | None, Parameter(help="Data that names the classes, where the model does not.")] = None,
    limit: Annotated[int | None, whole("At most so many images, evenly apart; of a video, frames.")] = None,
    seed: Chosen = None,
    threads: Threads = None,
    set_: Set = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Ask a model about pictures, videos, streams or a camera.

    Says what was found, and how long preprocessing, inference and postprocessing take.
    """
    from bitfront.verbs.predicting import predict as ask

    given = shared.fill(model=model, limit=limit, threads=threads)
    if images is None and camera is None:
        raise UsageError("IMAGES is missing", hint="give a picture, a folder, a video or an address, or --camera 0")
    progress = shared.progress()
    found = ask(
        required(given["model"], "MODEL"),
        images,
        out,
        camera=camera,
        data=data,
        settings=knobs(set_, shared),
        save=save,
        show=show,
        masks=masks,
        report=report,
        csv=csv,
        limit=given["limit"],
        seed=seed,
        threads=given["threads"] or 1,
        progress=progress,
        **reading.fill(),
        **model_options.fill(shared),
    )
    progress.clear()
    shared.notes(found.notes)
    files = [str(path) for path in found.files]
    data_ = {
        "out": None if found.folder is None else str(found.folder),
        "files": files,
        "seconds": found.seconds,
        "notes": list(found.notes),
        **found.report,
    }
    text = [_found(found.report), *_times(found.times)]
    return Answer(data_, [*text, *([f"{len(files)} files in {found.folder}"] if found.folder else [])])


def _found(report: Mapping[str, Any]) -> str:
    """What was found, in a line: how many of what."""
    predictions = report["predictions"]
    head = f"{len(predictions)} picture{'s' if len(predictions) != 1 else ''}"
    if report["task"] == "detection":
        counts = Counter(one["label"] for found in predictions for one in found["detections"])
    elif report["task"] == "classification":
        counts = Counter(found["label"] for found in predictions)
    else:
        return head
    return f"{head}: {', '.join(f'{n} {label}' for label, n in counts.most_common()) or 'nothing found'}"


def _times(times: Any) -> list[Any]:
    if times is None:
        return []
    parts = {
        "preprocessing": times.preprocess_ms,
        "inference": times.inference_ms,
        "postprocessing": times.postprocess_ms,
    }
    rows = [(name, *(f"{v:.2f}" for v in (part.mean, part.median, part.p90))) for name, part in parts.items()]
    speed = f"{times.fps:.1f} pictures a second, {times.inference_fps:.1f} of inference alone"
    return [table(("ms", ">mean", ">median", ">p90"), rows), speed]
