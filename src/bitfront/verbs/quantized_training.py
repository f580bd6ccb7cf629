"""Quantization-aware training as a verb: a model, data and a plan in; a verified artifact out.

What is trained is the captured graph under its plan, so a file is trained as well as a network, and what comes out is
exported as it is. The file is scored beside the float file and beside the plan before training.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitfront import batches
from bitfront.contracts import Metrics, Part, Runtime
from bitfront.errors import UsageError, one_line, unknown_name
from bitfront.graph import passes
from bitfront.graph.equalize import equalize
from bitfront.graph.ir import Graph
from bitfront.measure import verify
from bitfront.quant import plan_files
from bitfront.quant.alignment import align
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import RECIPES, build
from bitfront.record import Agreement, to_json
from bitfront.verbs.artifacts import (
    N_CALIBRATE,
    N_VERIFY,
    Exported,
    artifact_path,
    calibration_images,
    describe,
    manifest_of,
    observer,
    open_runtime,
    write_artifact,
)
from bitfront.verbs.companions import write_manifest
from bitfront.verbs.opening import Opened, Progress, choose_part, open_both, untrained, usable_part
from bitfront.verbs.plans import open_plan
from bitfront.verbs.scoring import score_file
from bitfront.verbs.training import train_and_val

if TYPE_CHECKING:
    from bitfront.train.options import Epoch, Trained, TrainOptions

__all__ = ["PLAN_SUFFIX", "QuantizedTraining", "plan_quantized_training", "train_quantized"]

PLAN_SUFFIX = ".plan.json"
"""Ending of the plan that is written beside an artifact."""
NOT_BETTER = "no epoch was better than the plan without training, which is what was written: try a lower rate"
PROBABILITIES = ("sigmoid", "hard_sigmoid", "softmax", "argmax")
"""Operators whose outputs no loss can be computed from: it wants logits."""


@dataclass(frozen=True, slots=True)
class QuantizedTraining:
    """What came of a training under a plan."""

    exported: Exported
    plan: Path
    """The plan as trained."""
    agreement: Agreement
    float_metrics: Metrics
    """Of the float file, in the same runtime."""
    before: Metrics
    """Of the file under the plan, without training."""
    metrics: Metrics
    float_size_bytes: int
    part: str
    """The part that these three were scored on."""
    trained: Trained
    """Its score is that of the graph in training, on the val part."""


@dataclass(frozen=True, slots=True)
class _Start:
    """What a training begins with."""

    opened: Opened
    """With the size of the graph."""
    flat: Graph
    """What the float file is made from."""
    graph: Graph
    plan: Plan
    notes: tuple[str, ...]


def train_quantized(
    model: str,
    data: str,
    out: Path | str,
    *,
    plan: Plan | Path | str | None = None,
    recipe: str = "",
    learn_ranges: float | None = None,
    options: TrainOptions | None = None,
    runtime: str = "",
    part: str = "",
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
    threads: int = 1,
    seed: int = 0,
    runs: Path | str = "runs",
    cache: Path | None = None,
    on_epoch: Callable[[Epoch], str | None] | None = None,
    progress: Progress | None = None,
) -> QuantizedTraining:
    """Train a model under a plan, write it as a runtime's file, verify and score it.

    Beside ``out`` lie its manifest, its reference and its plan. Running the same command again after an interruption
    goes on where it stopped: the state lies in ``OUT.training``.

    Args:
        model: as everywhere; its graph is trained, whether it comes from torch or from a file.
        data: with a train part and a val part, which chooses the best epoch.
        out: the file to write.
        plan: formats, or what ``verbs.plans.open_plan`` reads. A plan belongs to the prepared graph of the network it
            was made for (the equalized one, where its options say ``equalized``). With a reference file or a run's
            candidate the graph is taken from there too; MODEL says how it is fed, and is the float file's network
            where it has weights.
        recipe: instead of a plan: a recipe, calibrated on images of the train part.
        learn_ranges: share of the training after which the steps of integer formats are learned too, in [0, 1).
        options: by default the preset ``quantized``.
        runtime: engine of the file.
        part: what to score on; by default the last part that exists.
        settings: knobs of the model.
        weights: checkpoint for catalogue models and factories.
        preprocess: how a file that does not say it wants to be fed.
        reader: reader of the data folder.
        task: what is asked of the network.
        threads: threads of the runtime.
        seed: of calibration, order and augmentation.
        runs: folder in which runs are looked up by name.
        cache: folder that remembers which files were found whole.
        on_epoch: observer, may stop the training.
        progress: called with a stage, what is done and what there is.

    Raises:
        UsageError: wrong names or options, a plan of another network, an output without logits.
        DataError: data, models or plans that cannot be used.
        DeviceError: the runtime is missing.
        SpaceError: the disk is full.
    """
    from bitfront.train.options import preset
    from bitfront.train.quantized import check_share, train_under_plan

    began = time.monotonic()
    check_share(learn_ranges)
    options = options or preset("quantized")
    engine = open_runtime(runtime)
    place = artifact_path(out, engine)
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    assert opened.dataset is not None
    scored, note = choose_part(opened.dataset, part)
    names = (*train_and_val(opened.dataset.parts(), opened.info.name), scored)
    usable = {name: usable_part(opened.dataset, name, cache=cache, progress=progress) for name in names}
    train_part, val_part, samples = (usable[name][0] for name in names)
    say = progress or (lambda stage, done, total: None)
    say("calibrate", 0, 0)
    start = _start(opened, engine, plan, recipe, seed=seed, runs=Path(runs), cache=cache)
    source = start.opened.source
    _check_loss(start, train_part)

    def score(path: Path) -> Metrics:
        return score_file(engine, path, start.opened, samples, score=options.score, threads=threads, progress=progress)

    with tempfile.TemporaryDirectory() as folder:  # before the training: what cannot be exported fails here
        twin = engine.export(start.flat, Plan("float32"), Path(folder) / "float", source.input, source.output)
        float_metrics, float_size_bytes = score(twin), twin.stat().st_size
        before = score(engine.export(start.graph, start.plan, Path(folder) / "before", source.input, source.output))
    state = place.with_name(f"{place.name}.training")
    done = train_under_plan(
        start.graph,
        start.plan,
        opened.task,
        opened.info,
        train_part,
        val_part,
        source.input,
        options,
        state,
        seed,
        on_epoch,
        learn_ranges=learn_ranges,
    )
    write_artifact(engine, done.graph, done.plan, source, place)
    plan_files.save(place.with_suffix(PLAN_SUFFIX), done.plan)
    say("verify", 0, 0)
    probes = batches.calibration(samples, source.input, N_VERIFY, np.random.default_rng(seed))
    agreement = verify.compare(engine, place, done.graph, done.plan, source.input, source.output, probes)
    metrics = score(place)
    warnings = dict.fromkeys(line for _, lines in usable.values() for line in lines)
    notes = (*start.notes, *filter(None, [note]), *warnings, *([NOT_BETTER] if done.trained.best_epoch < 0 else []))
    made = describe(place, done.plan.recipe, engine, source, began, notes)
    trained = {
        "plan_before": start.plan.id,
        "options": to_json(options),
        "learn_ranges": learn_ranges,
        "seed": seed,
        "epochs": len(done.trained.epochs),
        "best_epoch": done.trained.best_epoch,
        "val_score": done.trained.best_score,
        "val_score_before": done.start_score,
        "metrics_before": to_json(before.values),
    }
    facts = {"agreement": to_json(agreement), "metrics": to_json(metrics.values), "trained": trained}
    write_manifest(place, {**manifest_of(made, source, model, data), **facts})
    if done.trained.stopped in ("completed", "patience"):
        shutil.rmtree(state, ignore_errors=True)
    return QuantizedTraining(
        exported=made,
        plan=place.with_suffix(PLAN_SUFFIX),
        agreement=agreement,
        float_metrics=float_metrics,
        before=before,
        metrics=metrics,
        float_size_bytes=float_size_bytes,
        part=scored,
        trained=done.trained,
    )


def plan_quantized_training(
    model: str,
    data: str,
    out: Path | str,
    *,
    plan: Plan | Path | str | None = None,
    recipe: str = "",
    options: TrainOptions | None = None,
    runtime: str = "",
    part: str = "",
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
    runs: Path | str = "runs",
) -> dict[str, Any]:
    """Return what :func:`train_quantized` would do, doing nothing. Raises UsageError, DataError, DeviceError."""
    from bitfront.train.options import preset

    chosen = options or preset("quantized")
    place = artifact_path(out, open_runtime(runtime))
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    assert opened.dataset is not None
    n_train, n_val = (len(opened.dataset.part(p)) for p in train_and_val(opened.dataset.parts(), opened.info.name))
    scored, _ = choose_part(opened.dataset, part)
    n_scored = len(opened.dataset.part(scored))
    found: dict[str, Any] = {"plan": f"recipe {recipe}: {RECIPES[recipe].description}"} if recipe in RECIPES else {}
    if not found:
        start = _start(opened, None, plan, recipe, seed=0, runs=Path(runs), cache=None)
        opened, found = start.opened, {"plan": summary(start.graph, start.plan)}
    return {
        **found,
        "resolution": [opened.source.input.height, opened.source.input.width],
        "n_train": n_train,
        "n_val": n_val,
        "epochs": chosen.epochs,
        "steps": chosen.epochs * max(1, n_train // chosen.batch_size),
        "scored_on": f"{n_scored} images of {scored}",
        "out": str(place),
    }


def summary(graph: Graph, plan: Plan) -> str:
    """Return a plan in a line: how many tensors of each kind have how many bits."""
    counts: dict[tuple[str, int], int] = {}
    for name, form in plan.formats.items():
        key = graph.tensors[name].kind, form.bits
        counts[key] = counts.get(key, 0) + 1
    lines = [f"{n} {kind} of {bits} bits" for (kind, bits), n in sorted(counts.items())]
    return ", ".join(lines) or "float32"


# --- the start -------------------------------------------------------------------------------------------------------
def _start(
    opened: Opened,
    engine: Runtime | None,
    plan: Plan | Path | str | None,
    recipe: str,
    *,
    seed: int,
    runs: Path,
    cache: Path | None,
) -> _Start:
    """Return graph and plan to train. Raises UsageError, DataError."""
    import torch

    from bitfront.graph.module import GraphModule

    if (plan is None) == (not recipe):
        raise UsageError("a plan or a recipe, one of them", hint="--plan FILE or --recipe NAME")
    if recipe and recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    stored, formats = (None, plan) if plan is None or isinstance(plan, Plan) else open_plan(plan, runs)
    if stored is not None and formats is not None:
        fed = _fed(opened, stored)
        flat = stored if untrained(fed.source) else passes.prepare(fed.source.graph())
        started = _Start(fed, flat, stored, formats, opened.source.notes)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            flat = passes.prepare(opened.source.graph())
        graph = flat
        if formats is None:
            images = calibration_images(opened, N_CALIBRATE, seed, cache)
            graph, formats = build(recipe, flat, batches=images, observe=observer(engine) if engine else None)
        elif formats.options.get("dropped_clips"):
            raise UsageError(
                "the plan belongs to a graph without some of MODEL's clips",
                hint="give the candidate of the run or the reference file that it comes from: they hold the graph",
            )
        elif formats.options.get("equalized"):
            graph = equalize(flat)
            graph = align(graph) if formats.options.get("aligned") else graph
        started = _Start(opened, flat, graph, formats, (*opened.source.notes, *untrained(opened.source)))
    GraphModule(started.graph, started.plan)  # it refuses plans that do not fit
    return started


def _fed(opened: Opened, graph: Graph) -> Opened:
    """Return MODEL as it feeds and reads a stored graph. Raises UsageError when they do not belong together."""
    source = opened.source
    (_, channels, *size), answers = graph.tensors[graph.inputs[0]].shape, graph.tensors[graph.outputs[0]].shape
    if channels != source.input.channels or len(size) != 2:
        raise UsageError(
            f"the plan's graph takes images of {channels} channels, '{source.name}' of {source.input.channels}",
            hint="name the model that the candidate was made from",
        )
    contract = replace(source.input, height=size[0], width=size[1])
    return replace(opened, source=replace(source, input=contract, output=opened.task.output(answers[1], opened.info)))


def _check_loss(start: _Start, part: Part) -> None:
    """Compute the loss of one image. Raises UsageError when the network's output is none to learn from."""
    import torch

    from bitfront.graph.module import GraphModule

    graph, opened = start.graph, start.opened
    last = graph.producer(graph.outputs[0])
    if last is not None and last.op in PROBABILITIES:
        raise UsageError(
            f"'{opened.source.name}' ends with {last.op}, and training needs the logits before it",
            hint="export the network without its last operator",
        )
    rng = np.random.default_rng(0)
    batch = next(iter(batches.training([part[0]], opened.source.input, 1, rng, batches.AUGMENTS["none"])))
    try:
        with torch.no_grad():
            opened.task.loss(GraphModule(graph)(torch.from_numpy(batch.images)), batch, opened.info)
    except (RuntimeError, IndexError, ValueError) as error:
        shape = graph.tensors[graph.outputs[0]].shape
        raise UsageError(
            f"no loss of {opened.task.name} can be computed from an output of shape {shape}: {one_line(str(error))}",
            hint="training needs logits at the size of the input",
        ) from error
