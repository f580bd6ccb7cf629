"""Quantization-aware training as a verb: a model, data and a plan in; a verified artifact out.

What is trained is the captured graph under its plan, so a file is trained as well as a network, and what comes out is
exported as it is. The file is scored beside the float file and beside the plan before training.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitfront import batches
from bitfront.contracts import Metrics, Part, Runtime
from bitfront.errors import UsageError
from bitfront.graph import passes
from bitfront.graph.ir import Graph
from bitfront.measure import verify
from bitfront.quant import plan_files
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import RECIPES
from bitfront.record import Agreement, to_json
from bitfront.verbs.artifacts import (
    N_VERIFY,
    Exported,
    artifact_path,
    describe,
    manifest_of,
    open_runtime,
    write_artifact,
)
from bitfront.verbs.class_weights import weighted
from bitfront.verbs.companions import write_manifest
from bitfront.verbs.opening import Opened, Progress, choose_part, open_both, usable_part
from bitfront.verbs.quantized_start import Start, begin, captured, check_loss, summary
from bitfront.verbs.scoring import score_file
from bitfront.verbs.teaching import Teacher, described, distilling, open_teacher
from bitfront.verbs.training import train_and_val

if TYPE_CHECKING:
    import torch

    from bitfront.train.distill import Distiller
    from bitfront.train.options import Epoch, Trained, TrainOptions

__all__ = ["PLAN_SUFFIX", "QuantizedTraining", "plan_quantized_training", "train_quantized"]

PLAN_SUFFIX = ".plan.json"
"""Ending of the plan that is written beside an artifact."""
NOT_BETTER = "no epoch was better than the plan without training, which is what was written: try a lower rate"


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
    float_trained: Trained | None = None
    """The epochs before, in floating point, of a delayed training."""


def train_quantized(
    model: str,
    data: str,
    out: Path | str,
    *,
    plan: Plan | Path | str | None = None,
    recipe: str = "",
    edges: str = "",
    delay: int = 0,
    learn_ranges: float | None = None,
    freeze_ranges: float | None = None,
    live_norm: float | None = None,
    class_weights: Sequence[float] | str = (),
    teacher: Teacher | None = None,
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

    With a ``delay`` (Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference"; thesis 003,
    III) MODEL is trained in floating point first, its batch normalization live; then it is captured, folded and
    calibrated, and the other epochs are under the plan. Both parts share one schedule of rates.

    Args:
        model: as everywhere; its graph is trained, whether it comes from torch or from a file.
        data: with a train part and a val part, which chooses the best epoch.
        out: the file to write.
        plan: formats, or what ``verbs.plans.open_plan`` reads. A plan belongs to the prepared graph of the network it
            was made for (the equalized one, where its options say ``equalized``). With a reference file or a run's
            candidate the graph is taken from there too; MODEL says how it is fed, and is the float file's network
            where it has weights.
        recipe: instead of a plan: a recipe, calibrated on images of the train part, or a way to train binary weights
            (:data:`bitfront.quant.binary.MODES`).
        edges: of binary weights: whether the first and the last layer are ``float``, ``int8`` or ``binary``.
        delay: epochs of ``options`` that are trained in floating point first. The formats then belong to the network
            that comes of them: of a plan the kinds and bits are taken, its ranges chosen anew.
        learn_ranges: share of the training under the plan after which the steps of integer formats are learned too, in
            [0, 1).
        freeze_ranges: share after which they stay again.
        live_norm: share in which batch normalization is live behind folded layers, in (0, 1].
        class_weights: in the loss: one of each class, or ``median`` (:mod:`bitfront.verbs.class_weights`).
        teacher: a network in floating point that teaches the rounded one, in the epochs in float too.
        options: by default the preset ``quantized``, with a delay ``default``.
        runtime: engine of the file; by default the one that reads files like ``out``, else ONNX Runtime.
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
    from bitfront.train.quantized import check_shares, train_under_plan

    began = time.monotonic()
    check_shares(learn_ranges, freeze_ranges, live_norm)
    chosen = _options(options, delay)
    engine = open_runtime(runtime, out)
    float_engine = engine if "float32" in engine.recipes else open_runtime()
    place = artifact_path(out, engine)
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    assert opened.dataset is not None
    scored, note = choose_part(opened.dataset, part)
    names = (*train_and_val(opened.dataset.parts(), opened.info.name), scored)
    usable = {name: usable_part(opened.dataset, name, cache=cache, progress=progress) for name in names}
    train_part, val_part, samples = (usable[name][0] for name in names)
    opened = weighted(opened, class_weights, train_part)
    say = progress or (lambda stage, done, total: None)
    begun = functools.partial(
        begin,
        opened,
        float_engine,
        plan,
        recipe,
        seed=seed,
        runs=Path(runs),
        cache=cache,
        edges=edges,
        delayed=delay > 0,
    )

    def score(path: Path, engine: Runtime = engine) -> Metrics:
        return score_file(engine, path, start.opened, samples, score=chosen.score, threads=threads, progress=progress)

    state = place.with_name(f"{place.name}.training")
    float_trained = None
    say("calibrate", 0, 0)
    start = begun()
    check_loss(start, train_part)
    distil = distilling(teacher, start.opened, max(1, len(train_part) // chosen.batch_size), seed)
    with tempfile.TemporaryDirectory() as folder:  # before the training: what cannot be exported fails here
        if delay:
            _export_both(float_engine, engine, start, Path(folder))
            flat, float_trained = _train_float(
                opened, train_part, val_part, chosen, delay, state / "float", seed, on_epoch, distil
            )
            chosen = _rest(chosen, float_trained)
            say("calibrate", 0, 0)
            start = begun(trained=flat)
        twin, rounded = _export_both(float_engine, engine, start, Path(folder))
        float_metrics, float_size_bytes, before = score(twin, float_engine), twin.stat().st_size, score(rounded)
    source = start.opened.source
    done = train_under_plan(
        start.graph,
        start.plan,
        opened.task,
        opened.info,
        train_part,
        val_part,
        source.input,
        chosen,
        state,
        seed,
        on_epoch,
        learn_ranges=learn_ranges,
        freeze_ranges=freeze_ranges,
        live_norm=live_norm,
        delay=delay,
        output=source.output,
        distil=distil,
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
        "options": to_json(chosen),
        "learn_ranges": learn_ranges,
        "freeze_ranges": freeze_ranges,
        "live_norm": live_norm,
        "class_weights": list(getattr(opened.task, "class_weights", ())),
        "seed": seed,
        **described(teacher),
        "epochs": len(done.trained.epochs),
        "best_epoch": done.trained.best_epoch,
        "val_score": done.trained.best_score,
        "val_score_before": done.start_score,
        "metrics_before": to_json(before.values),
    }
    if float_trained:
        trained["delay"], trained["float_val_score"] = delay, float_trained.best_score
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
        float_trained=float_trained,
    )


def plan_quantized_training(
    model: str,
    data: str,
    out: Path | str,
    *,
    plan: Plan | Path | str | None = None,
    recipe: str = "",
    edges: str = "",
    delay: int = 0,
    teacher: Teacher | None = None,
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
    chosen = _options(options, delay)
    place = artifact_path(out, open_runtime(runtime, out))
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    assert opened.dataset is not None
    n_train, n_val = (len(opened.dataset.part(p)) for p in train_and_val(opened.dataset.parts(), opened.info.name))
    scored, _ = choose_part(opened.dataset, part)
    taught = {} if teacher is None else {"teacher": open_teacher(teacher, opened).name}
    n_scored = len(opened.dataset.part(scored))
    found: dict[str, Any] = {"plan": f"recipe {recipe}: {RECIPES[recipe].description}"} if recipe in RECIPES else {}
    if not found:
        start = begin(opened, None, plan, recipe, seed=0, runs=Path(runs), cache=None, edges=edges, delayed=delay > 0)
        opened, found = start.opened, {"plan": summary(start.graph, start.plan)}
    return {
        **found,
        **taught,
        "resolution": [opened.source.input.height, opened.source.input.width],
        "n_train": n_train,
        "n_val": n_val,
        "epochs": chosen.epochs,
        **({"float_epochs": delay} if delay else {}),
        "steps": chosen.epochs * max(1, n_train // chosen.batch_size),
        "scored_on": f"{n_scored} images of {scored}",
        "out": str(place),
    }


# --- delayed ---------------------------------------------------------------------------------------------------------
def _options(options: TrainOptions | None, delay: int) -> TrainOptions:
    """Return what a training is told. Raises UsageError when nothing is left after the delay."""
    from bitfront.train.options import preset

    chosen = options or preset("default" if delay else "quantized")
    if not 0 <= delay < chosen.epochs:
        raise UsageError(
            f"a delay of {delay} epochs leaves none of {chosen.epochs} under the plan",
            hint="epochs counts those in float too: give more of them, or a shorter delay",
        )
    return chosen


def _train_float(  # noqa: PLR0917 - the order of train.loop.train
    opened: Opened,
    train_part: Part,
    val_part: Part,
    options: TrainOptions,
    delay: int,
    folder: Path,
    seed: int,
    on_epoch: Callable[[Epoch], str | None] | None,
    distil: Callable[[torch.nn.Module], Distiller] | None,
) -> tuple[Graph, Trained]:
    """Train MODEL in floating point up to the delay; return its prepared graph with the best epoch's weights."""
    import torch

    from bitfront.graph import capture
    from bitfront.graph.module import GraphModule
    from bitfront.train.loop import train

    source, contract = opened.source, opened.source.input
    size = (contract.height, contract.width)
    if source.kind == "onnx":
        module: torch.nn.Module = GraphModule(captured(source, seed))
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = source.build(size=size)
    limit = options.time_limit_seconds
    early = options if limit is None else replace(options, time_limit_seconds=limit * delay / options.epochs)
    done = train(
        module,
        opened.task,
        opened.info,
        train_part,
        val_part,
        contract,
        early,
        folder,
        seed,
        on_epoch,
        header={"model": source.name, "options": to_json(source.options)},
        span=(0, delay),
        output=source.output,
        distiller=distil(module) if distil else None,
    )
    if isinstance(module, GraphModule):
        return module.graph(), done
    return passes.prepare(capture.from_module(module.eval(), (1, contract.channels, *size))), done


def _rest(options: TrainOptions, done: Trained) -> TrainOptions:
    """Return the options of what comes behind the float epochs: with the time that is left."""
    limit = options.time_limit_seconds
    return options if limit is None else replace(options, time_limit_seconds=max(1.0, limit - done.seconds))


def _export_both(float_engine: Runtime, engine: Runtime, start: Start, folder: Path) -> tuple[Path, Path]:
    """Return the files in float and under the plan, as they are before the training under the plan."""
    source = start.opened.source
    twin = float_engine.export(start.flat, Plan("float32"), folder / "float", source.input, source.output)
    return twin, engine.export(start.graph, start.plan, folder / "before", source.input, source.output)
