"""evaluate, predict, train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bitfront.cli import units
from bitfront.cli.console import Answer, Progress, duration, percent, table
from bitfront.cli.options import (
    DataText,
    DryRun,
    Limit,
    ModelOptions,
    ModelText,
    Seed,
    Set,
    Shared,
    Threads,
    cache_folder,
    knobs,
    required,
    whole,
)
from bitfront.errors import UsageError

__all__ = ["evaluate", "metrics_data", "predict", "train"]

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

    Torch networks run in torch, .onnx files in ONNX Runtime. Without --part the test part is scored if there is one,
    else val, else train.
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


def train(
    model: ModelText = None,
    data: DataText = None,
    /,
    *,
    out: Annotated[Path, Parameter(help="Checkpoint to write (.safetensors).")],
    preset: Annotated[str, Parameter(help="Set-up that the other options change: default or thesis_000.")] = "default",
    epochs: Annotated[int | None, whole("Epochs [default: 30].")] = None,
    batch_size: Annotated[int | None, whole("Images of a step [default: 8].")] = None,
    learning_rate: Annotated[float | None, Parameter(help="Rate at the start [default: 0.005].")] = None,
    schedule: Annotated[str | None, Parameter(help="cosine, polynomial, step or constant.")] = None,
    augment: Annotated[str | None, Parameter(help="none, light, thesis_000, thesis_000_whole or thesis_001.")] = None,
    patience: Annotated[int | None, whole("Stop after so many epochs without a better score; 0: never.", 0)] = None,
    time: Annotated[str | None, Parameter(help="Finish cleanly after so long, e.g. 1h.")] = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    set_: Set = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Train a model; the epoch that is best on the val part is kept.

    After an interruption the same command goes on where it stopped.
    """
    from bitfront.verbs.training import plan_training
    from bitfront.verbs.training import train as run

    given = shared.fill(
        model=model, data=data, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, augment=augment,
        time=time, seed=seed,
    )  # fmt: skip
    place = (required(given["model"], "MODEL"), required(given["data"], "DATA"))
    options = _train_options(preset, given, schedule=schedule, patience=patience)
    common = {"options": options, "settings": knobs(set_, shared), **model_options.fill(shared)}
    if dry_run:
        plan = plan_training(*place, **common)
        shared.notes(plan.notes)
        data_ = {"plan": to_plain(plan), "evaluations": plan.epochs}
        size = "x".join(map(str, plan.resolution))
        images = f"{plan.n_train} images to train on, {plan.n_val} to validate on"
        return Answer(data_, [f"{images}, {size}; {plan.epochs} epochs, {plan.steps} steps"])
    progress = shared.progress()
    found = run(
        *place, out, **common, seed=given["seed"] or 0, cache=cache_folder(), on_epoch=_epochs(progress, options.epochs)
    )
    progress.clear()
    shared.notes(found.notes)
    data_ = {
        "path": str(found.path),
        "part": found.part,
        "resolution": list(found.resolution),
        "stopped": found.stopped,
        "best_epoch": found.best_epoch,
        "seconds": found.seconds,
        "epochs": to_plain(found.epochs),
        "metrics": metrics_data(found.metrics),
    }
    head = f"{len(found.epochs)} epochs ({found.stopped}) in {duration(found.seconds)}; best: {found.best_epoch + 1}"
    return Answer(data_, [head, *metrics_text(found.metrics), f"written: {found.path}"])


def to_plain(value: Any) -> Any:
    """Return a frozen value as JSON data."""
    from bitfront.record import to_json

    return to_json(value)


def _train_options(preset: str, given: dict[str, Any], **more: Any) -> Any:
    from bitfront.weights import require_torch

    require_torch()
    from bitfront.train import options as training

    names = {"learning_rate": "rate", "time": "time_limit_seconds"}
    chosen = {names.get(key, key): value for key, value in {**given, **more}.items() if value is not None}
    for key in ("model", "data", "seed"):
        chosen.pop(key, None)
    if "time_limit_seconds" in chosen:
        chosen["time_limit_seconds"] = units.seconds(chosen["time_limit_seconds"], "--time")
    return replace(training.preset(preset), **chosen)


def _epochs(progress: Progress, n: int) -> Any:
    def show(epoch: Any) -> str | None:
        score = "" if epoch.score is None else f", score {percent(epoch.score)}"
        progress(f"train: loss {epoch.loss:.4f}{score}, epoch", epoch.index + 1, n)
        return None

    return show
