"""train."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bitfront.cli import units
from bitfront.cli.console import Answer, Progress, duration, percent, size, table
from bitfront.cli.making import RuntimeName, agreement_line, made_data, unless_verified
from bitfront.cli.options import (
    DataText,
    DryRun,
    ModelOptions,
    ModelText,
    Seed,
    Set,
    Shared,
    Track,
    cache_folder,
    knobs,
    required,
    whole,
)
from bitfront.cli.steps import metrics_data, metrics_text
from bitfront.cli.teaching import Taught
from bitfront.errors import UsageError

__all__ = ["distill", "train"]


@Parameter(name="*", group="Under a plan")
@dataclass(frozen=True, kw_only=True)
class UnderPlan:
    """Options of quantization-aware training; without a plan or a recipe the training is in floating point."""

    plan: Annotated[
        str | None,
        Parameter(
            help="Train under a plan: its file, a *.reference.safetensors (graph and plan), an artifact that has one "
            "beside it, or RUN:CANDIDATE."
        ),
    ] = None
    recipe: Annotated[
        str | None,
        Parameter(
            help="Or under a recipe (`bitfront list recipes`), or with one-bit weights: binary_connect, "
            "binary_connect_stochastic, binary_net, bwn or xnor."
        ),
    ] = None
    edges: Annotated[
        str | None,
        Parameter(help="First and last layer of one-bit weights: float, int8 or binary [default: float]."),
    ] = None
    delay: Annotated[
        str | None,
        Parameter(
            help="Epochs (24) or share (80%) that are trained in floating point first; then fold, calibrate, round."
        ),
    ] = None
    learn_ranges: Annotated[
        float | None,
        Parameter(help="Share of the training under the plan after which ranges are learned too, from 0 to below 1."),
    ] = None
    freeze_ranges: Annotated[
        float | None, Parameter(help="Share after which they stay again, above that of --learn-ranges.")
    ] = None
    live_norm: Annotated[
        float | None,
        Parameter(help="Share of the training under the plan in which batch normalization is live, not folded."),
    ] = None
    runtime: RuntimeName = None
    part: Annotated[
        str | None, Parameter(help="What files are scored on [default: the last of train, val, test that exists].")
    ] = None

    @property
    def delayed(self) -> bool:
        """Whether a part of the training is in floating point."""
        return self.delay is not None and self.delay.strip() not in ("0", "0%")

    @property
    def given(self) -> bool:
        """Whether the training is under a plan. Raises UsageError for options that would have no effect."""
        if self.plan is not None or self.recipe is not None:
            return True
        for name in ("edges", "delay", "learn_ranges", "freeze_ranges", "live_norm", "runtime", "part"):
            if getattr(self, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} belongs to --plan or --recipe", hint="a checkpoint has no such option"
                )
        return False

    def fill(self, shared: Shared) -> dict[str, Any]:
        """Return what the verb takes, completed from the configuration file. Raises UsageError."""
        given = shared.fill(runtime=self.runtime, part=self.part, runs=None)
        texts = {"runtime": given["runtime"] or "", "part": given["part"] or "", "runs": given["runs"] or "runs"}
        return {"plan": self.plan, "recipe": self.recipe or "", "edges": self.edges or "", **texts}

    def delay_epochs(self, epochs: int) -> int:
        """Return the epochs in floating point, of all. Raises UsageError."""
        text = (self.delay or "0").strip()
        if re.fullmatch(r"[0-9]{1,9}", text):
            return int(text)
        return round(epochs * units.fraction(text, "--delay"))


def train(
    model: ModelText = None,
    data: DataText = None,
    /,
    *,
    out: Annotated[Path, Parameter(help="Checkpoint to write (.safetensors); under a plan the runtime's file.")],
    under: UnderPlan = UnderPlan(),
    taught: Taught = Taught(),  # noqa: B008 - frozen
    preset: Annotated[
        str | None, Parameter(help="Set-up that the other options change: default, thesis_000 or quantized.")
    ] = None,
    epochs: Annotated[int | None, whole("Epochs [default: 30; under a plan 8, delayed 30].")] = None,
    batch_size: Annotated[int | None, whole("Images of a step [default: 8].")] = None,
    learning_rate: Annotated[
        float | None, Parameter(help="Rate at the start [default: 0.01; under a plan 0.001, delayed 0.01].")
    ] = None,
    class_weights: Annotated[
        str | None,
        Parameter(help="Weights of the classes in the loss: numbers with commas, or median: rare classes count more."),
    ] = None,
    schedule: Annotated[str | None, Parameter(help="cosine, polynomial, step or constant [default: cosine].")] = None,
    augment: Annotated[str | None, Parameter(help="none, light, thesis_000, thesis_000_whole or thesis_001.")] = None,
    patience: Annotated[int | None, whole("Stop after so many epochs without a better score; 0: never.", 0)] = None,
    freeze: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            metavar="PART",
            help="Not trained: backbone (the feature extractor), a part, or a pattern (features.0.*). Repeatable.",
        ),
    ] = None,
    time: Annotated[str | None, Parameter(help="Finish cleanly after so long, e.g. 1h.")] = None,
    seed: Seed = None,
    track: Track = None,
    dry_run: DryRun = False,
    set_: Set = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Train a model; the epoch that is best on the val part is kept.

    With --plan or --recipe the network is trained as it will be rounded (quantization-aware training), .onnx files
    too, and written as a file that is verified and scored beside float; with --delay in floating point first. With
    --teacher it learns what a trained network says, too (knowledge distillation). After an interruption the same
    command goes on where it stopped.
    """
    teacher = taught.read()
    given = shared.fill(model=model, data=data, batch_size=batch_size, augment=augment, time=time, seed=seed)
    of_float = {
        "epochs": epochs,
        "learning_rate": learning_rate,
    }  # a configuration file means float trainings
    usual = "quantized" if under.given and not under.delayed else _usual_preset(given["model"], model_options.task)
    options = _train_options(
        preset or usual,
        {**given, **(of_float if under.given else shared.fill(**of_float))},
        schedule=schedule,
        patience=patience,
        freeze=None if freeze is None else tuple(freeze),
    )
    place = (required(given["model"], "MODEL"), required(given["data"], "DATA"))
    common = {"options": options, "settings": knobs(set_, shared), **model_options.fill(shared)}
    delay = under.delay_epochs(options.epochs)
    if under.given and dry_run:
        return _planned_under(*place, out, **(common | {"delay": delay, "teacher": teacher} | under.fill(shared)))
    if dry_run:
        return _planned(shared, *place, teacher=teacher, **common)
    progress = shared.progress()
    common |= {"seed": given["seed"] or 0, "cache": cache_folder(), "class_weights": _class_weights(class_weights)}
    common["teacher"] = teacher
    if under.given:
        shares = {name: getattr(under, name) for name in ("learn_ranges", "freeze_ranges", "live_norm")}
        common |= {"delay": delay, **shares, "progress": progress, **under.fill(shared)}
    with _tracked(shared.fill(track=track)["track"] or (), place, out, common) as tracked:
        on_epoch = tracked.following(_epochs(progress, options.epochs, delay))
        made = _run(under.given)(*place, out, **common, on_epoch=on_epoch)
        tracked.artifact(made.exported.path if under.given else made.path, out.name)
    progress.clear()
    shared.notes(made.exported.notes if under.given else made.notes)
    return _trained_under(made) if under.given else _trained(made)


@functools.wraps(train)
def distill(*args: Any, **options: Any) -> Answer:
    """Train a student with a teacher: `train`, which takes the same options, with --teacher required.

    The student learns the labels and what the teacher says of the same images: its outputs, a feature of it, or both.
    """
    if options.get("taught", Taught()).teacher is None:
        raise UsageError("--teacher is missing", hint="name a trained network: --teacher big.safetensors")
    return train(*args, **options)


def _class_weights(text: str | None) -> tuple[float, ...] | str:
    """Return the numbers of a list, or a rule's name. Raises UsageError."""
    words = [word.strip() for word in (text or "").split(",")]
    if len(words) == 1 and words[0].isalpha():
        return words[0]
    try:
        return tuple(map(float, words)) if text else ()
    except ValueError:
        raise UsageError(
            f"--class-weights: '{text}' is no list of numbers", hint="for example 1,2.5 or median"
        ) from None


def _run(under_plan: bool) -> Any:
    if under_plan:
        from bitfront.verbs.quantized_training import train_quantized

        return train_quantized
    from bitfront.verbs.training import train as run

    return run


@contextmanager
def _tracked(chosen: Sequence[str], place: tuple[str, str], out: Path, common: dict[str, Any]) -> Iterator[Any]:
    """Open the trackers of a training named as its file, in a folder beside that."""
    from bitfront.tracking import FOLDER, require, tracking

    require(chosen)
    parameters = {name: common[name] for name in ("settings", "seed")} | to_plain(common["options"])
    with tracking(chosen, out.absolute().parent / FOLDER, out.stem) as tracked:
        tracked.parameters({"model": place[0], "data": place[1], **parameters})
        yield tracked


def _planned(shared: Shared, model: str, data: str, **common: Any) -> Answer:
    from bitfront.verbs.training import plan_training

    plan = plan_training(model, data, **common)
    shared.notes(plan.notes)
    images = f"{plan.n_train} images to train on, {plan.n_val} to validate on"
    line = f"{images}, {'x'.join(map(str, plan.resolution))}; {plan.epochs} epochs, {plan.steps} steps"
    return Answer({"plan": to_plain(plan), "evaluations": plan.epochs}, [line])


def _planned_under(model: str, data: str, out: Path, **options: Any) -> Answer:
    from bitfront.verbs.quantized_training import plan_quantized_training

    plan = plan_quantized_training(model, data, out, **options)
    return Answer({"plan": plan, "evaluations": plan["epochs"] + 3}, [f"{key}: {value}" for key, value in plan.items()])


def _trained(found: Any) -> Answer:
    data = {
        "path": str(found.path),
        "part": found.part,
        "resolution": list(found.resolution),
        "seconds": found.seconds,
        **_curve(found),
        "metrics": metrics_data(found.metrics),
    }
    return Answer(data, [_head(found), *metrics_text(found.metrics), f"written: {found.path}"])


def _trained_under(found: Any) -> Answer:
    made, names = found.exported, ("float_metrics", "before", "metrics")
    data = {
        **made_data(made),
        "plan": str(found.plan),
        "part": found.part,
        **_curve(found.trained),
        **({"float_training": _curve(found.float_trained)} if found.float_trained else {}),
        "verified": found.agreement.verified,
        "max_code_difference": found.agreement.max_code_difference,
        "first_difference": found.agreement.first_difference,
        "agreement": to_plain(found.agreement),
        "drop": found.float_metrics.value - found.metrics.value,
        "float": {"size_bytes": found.float_size_bytes, "metrics": metrics_data(found.float_metrics)},
        "before": {"metrics": metrics_data(found.before)},
        "metrics": metrics_data(found.metrics),
    }
    scores = [getattr(found, name).values for name in names]
    rows = [(n, *(percent(v.get(n)) for v in scores)) for n, value in found.metrics.values.items() if value is not None]
    rows.append(("size", size(found.float_size_bytes), size(made.size_bytes), size(made.size_bytes)))
    columns = ("", ">float32", f">{made.recipe}", ">trained")
    first = [f"in float: {_head(found.float_trained)}"] if found.float_trained else []
    text = [
        *first,
        _head(found.trained),
        table(columns, rows),
        agreement_line(found.agreement),
        f"written: {made.path}",
    ]
    return unless_verified(data, text, found.agreement)


def _curve(found: Any) -> dict[str, Any]:
    return {"stopped": found.stopped, "best_epoch": found.best_epoch, "epochs": to_plain(found.epochs)}


def _head(found: Any) -> str:
    n = len(found.epochs)
    best = found.best_epoch + 1 or "none"
    return f"{n} epochs ({found.stopped}) in {duration(found.seconds)}; best: {best}"


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


def _usual_preset(model: str | None, task: str | None) -> str:
    """Return the preset of the task that a model is for, where it has one of its own."""
    from bitfront.train.options import PRESETS
    from bitfront.verbs.opening import task_of

    asked = task or (task_of(model) if model else "")
    return asked if asked in PRESETS else "default"


def _epochs(progress: Progress, n: int, delay: int) -> Any:
    def show(epoch: Any) -> str | None:
        score = "" if epoch.score is None else f", score {percent(epoch.score)}"
        what = "train in float" if epoch.index < delay else "train"
        progress(f"{what}: loss {epoch.loss:.4f}{score}, epoch", epoch.index + 1, n)
        return None

    return show
