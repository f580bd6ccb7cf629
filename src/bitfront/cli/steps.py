"""evaluate, predict."""

from __future__ import annotations

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
)
from bitfront.errors import UsageError

__all__ = ["Part", "evaluate", "metrics_data", "metrics_text", "predict"]

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
    threads: Threads = None,
    set_: Set = None,
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
        threads=given["threads"] or 1,
        cache=cache_folder(),
        progress=progress,
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
    images: Annotated[Path | None, Parameter(help="An image, or a folder of them.")] = None,
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder for the pictures.")],
    data: Annotated[str | None, Parameter(help="Data that names the classes, where the model does not.")] = None,
    masks: Annotated[bool, Parameter(help="Write the label maps too, as PNG.", negative=())] = False,
    threads: Threads = None,
    set_: Set = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Draw a model's answers over images, with a legend."""
    from bitfront.verbs.scoring import predict as draw

    given = shared.fill(model=model, threads=threads)
    if images is None:
        raise UsageError("IMAGES is missing", hint="give an image or a folder of images")
    progress = shared.progress()
    found = draw(
        required(given["model"], "MODEL"),
        images,
        out,
        data=data,
        settings=knobs(set_, shared),
        masks=masks,
        threads=given["threads"] or 1,
        progress=progress,
        **model_options.fill(shared),
    )
    progress.clear()
    shared.notes(found.notes)
    files = [str(path) for path in found.files]
    data_ = {"out": str(found.folder), "files": files, "seconds": found.seconds, "notes": list(found.notes)}
    return Answer(data_, [f"{len(files)} pictures in {found.folder}"])
