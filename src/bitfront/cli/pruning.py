"""prune."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bitfront.cli import units
from bitfront.cli.console import Answer, Progress, percent, size, table
from bitfront.cli.making import RuntimeName, agreement_line, made_data, unless_verified
from bitfront.cli.options import (
    DataText,
    DryRun,
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
from bitfront.cli.steps import Part, metrics_data

__all__ = ["prune"]


def prune(
    model: ModelText = None,
    data: DataText = None,
    /,
    *,
    out: Annotated[Path, Parameter(help="File to write; its manifest and its reference are written beside it.")],
    share: Annotated[float, Parameter(help="Share of the channels or weights that go, from 0 to below 1.")] = 0.3,
    method: Annotated[
        str,
        Parameter(
            help="structured: the least important channels; structured_even: as many of every layer; unstructured: "
            "weights of every layer become zero; global: the smallest of all."
        ),
    ] = "structured",
    multiple: Annotated[int, whole("Channels left of a layer are a multiple of this: engines pad to it.")] = 8,
    steps: Annotated[int, whole("Rounds of pruning and training on the way to the share.")] = 1,
    epochs: Annotated[int, whole("Epochs of each round; 0: no training.", 0)] = 8,
    batch_size: Annotated[int | None, whole("Images of a step [default: 8].")] = None,
    learning_rate: Annotated[float | None, Parameter(help="Rate at the start [default: 0.001].")] = None,
    augment: Annotated[str | None, Parameter(help="none, light, ... [default: what suits the data].")] = None,
    live_norm: Annotated[
        float | None, Parameter(help="Share of each training in which batch normalization is live, not folded.")
    ] = None,
    recipe: Annotated[str, Parameter(help="Format of the file, `bitfront list recipes`.")] = "float32",
    runtime: RuntimeName = None,
    part: Part = None,
    time: Annotated[str, Parameter(help="How long to time the file against its unpruned twin.")] = "6s",
    threads: Threads = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    set_: Set = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Take channels or weights from a trained network and train the rest on.

    Whole channels are removed from the graph, through residual sums and concatenations: the file gets smaller and
    faster. Zeros do neither. The file is verified, scored beside the unpruned one and timed against it. After an
    interruption the same command goes on where it stopped.
    """
    from bitfront.verbs.pruning import plan_pruning
    from bitfront.verbs.pruning import prune as run

    given = shared.fill(model=model, data=data, runtime=runtime, part=part, threads=threads, seed=seed)
    seconds = units.seconds(time, "--time")
    chosen, place = required(given["model"], "MODEL"), required(given["data"], "DATA")
    options: dict[str, Any] = {
        "share": share,
        "method": method,
        "multiple": multiple,
        "steps": steps,
        "recipe": recipe,
        "options": _options(max(1, epochs), rate=learning_rate, batch_size=batch_size, augment=augment),
        "fine_tune": epochs > 0,
        "runtime": given["runtime"] or "",
        "settings": knobs(set_, shared),
        "seed": given["seed"] or 0,
        **model_options.fill(shared),
    }
    if dry_run:
        plan = plan_pruning(chosen, place, out, **options)
        return Answer(
            {"plan": plan, "evaluations": plan["epochs"] + 3}, [f"{key}: {value}" for key, value in plan.items()]
        )
    progress = shared.progress()
    rest: dict[str, Any] = {"live_norm": live_norm, "part": given["part"] or "", "threads": given["threads"] or 1}
    rest["seconds"] = seconds
    on_epoch = _shown(progress, epochs)
    found = run(chosen, place, out, **options, **rest, cache=cache_folder(), on_epoch=on_epoch, progress=progress)
    progress.clear()
    shared.notes(found.exported.notes)
    return _answer(found)


def _options(epochs: int, **told: Any) -> Any:
    """Return the training of a round. Raises UsageError."""
    from bitfront.weights import require_torch

    require_torch()
    from bitfront.train.options import preset

    return replace(preset("quantized"), epochs=epochs, **{k: v for k, v in told.items() if v is not None})


def _shown(progress: Progress, n: int) -> Any:
    def show(epoch: Any) -> None:
        score = "" if epoch.score is None else f", score {percent(epoch.score)}"
        progress(f"train: loss {epoch.loss:.4f}{score}, epoch", epoch.index + 1, n)

    return show


def _answer(found: Any) -> Answer:
    from bitfront.measure.timing import difference
    from bitfront.record import to_json

    made, twin = found.exported, found.unpruned
    data = {
        **made_data(made),
        "method": found.method,
        "share": found.share,
        "part": found.part,
        "steps": to_json(found.steps),
        "parameters": found.counts.parameters,
        "macs": found.counts.macs,
        "zeros": found.zeros,
        "unpruned": {
            "size_bytes": twin.size_bytes,
            "parameters": twin.counts.parameters,
            "macs": twin.counts.macs,
            "metrics": metrics_data(twin.metrics),
        },
        "before": {"metrics": metrics_data(found.before)},
        "metrics": metrics_data(found.metrics),
        "drop": twin.metrics.value - found.metrics.value,
        "latency_ms": found.latency.value,
        "ratio": found.latency.ratio,
        "noise_floor": found.latency.noise_floor,
        "verified": found.agreement.verified,
        "agreement": to_json(found.agreement),
    }
    scores = [m.values for m in (twin.metrics, found.before, found.metrics)]
    names = [name for name, value in found.metrics.values.items() if value is not None]
    rows = [(name, *(percent(values.get(name)) for values in scores)) for name in names]
    rows.append(("size", size(twin.size_bytes), "", size(made.size_bytes)))
    rows.append(("parameters", f"{twin.counts.parameters:,}", "", f"{found.counts.parameters:,}"))
    rows.append(("MACs", f"{twin.counts.macs:,}", "", f"{found.counts.macs:,}"))
    text = [table(("", ">unpruned", ">pruned", ">trained"), rows)]
    text += [f"{100 * found.zeros:.1f} % of the weights are zero"] if found.zeros else []
    text += [f"time: {difference(found.latency)}", agreement_line(found.agreement), f"written: {made.path}"]
    return unless_verified(data, text, found.agreement)
