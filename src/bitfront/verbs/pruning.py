"""prune: weights or whole channels taken from a trained network, the rest trained on, and a verified file written.

The captured graph is pruned and trained, so files are pruned as networks are. The file is scored beside the unpruned
ones and timed against its unpruned twin in the same process.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfront import batches
from bitfront.contracts import Metrics, Part, Runtime
from bitfront.errors import UsageError, unknown_name
from bitfront.graph.count import Counts, count
from bitfront.graph.ir import Graph
from bitfront.graph.prune import MULTIPLE, check_share, prune_channels, prune_weights, zero_share
from bitfront.measure import timing, verify
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import RECIPES, build
from bitfront.record import Agreement, Measurement, to_json
from bitfront.sources import Source
from bitfront.verbs.artifacts import (
    N_VERIFY,
    Exported,
    artifact_path,
    calibration_images,
    describe,
    manifest_of,
    observer,
    open_runtime,
    size_of,
    write_artifact,
)
from bitfront.verbs.companions import write_manifest
from bitfront.verbs.opening import Opened, Progress, choose_part, open_both, untrained, usable_part
from bitfront.verbs.quantized_start import Start, captured, check_loss
from bitfront.verbs.scoring import score_file
from bitfront.verbs.training import train_and_val

if TYPE_CHECKING:
    from bitfront.train.options import Epoch, TrainOptions

__all__ = ["METHODS", "Pruning", "Step", "Twin", "plan_pruning", "prune"]

METHODS: Mapping[str, str] = {
    "structured": "a share of all channels, the least important first, removed from the graph",
    "structured_even": "the same share of every layer's channels, removed from the graph",
    "unstructured": "the smallest weights of every layer set to zero",
    "global": "the smallest weights of all layers set to zero",
}
"""How networks are pruned."""
N_RESTORE, RESTORE_PIXELS = 32, 32 * 512 * 512
"""Images on which the statistics of pruned layers are restored, at most; all of them together, at most."""
ZEROS = "weights that are zero take as much room and time as others in dense files: only whole channels are removed"
NO_GAIN = "neither smaller nor measurably faster than the unpruned file"


@dataclass(frozen=True, slots=True)
class Step:
    """One round of pruning and training."""

    share: float
    """Pruned so far, of the original network."""
    before: float
    """Validation score of the pruned graph, its statistics restored."""
    after: float
    """After training."""
    n_epochs: int
    channels_left: int
    """Output channels of all layers."""


@dataclass(frozen=True, slots=True)
class Twin:
    """The unpruned network as a file of the same engine and recipe."""

    metrics: Metrics
    size_bytes: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class Pruning:
    """What came of pruning a network."""

    exported: Exported
    method: str
    share: float
    steps: tuple[Step, ...]
    agreement: Agreement
    unpruned: Twin
    before: Metrics
    """Of the pruned network, its statistics restored, without any training: as a float file."""
    metrics: Metrics
    counts: Counts
    zeros: float
    """Share of the weights that are zero."""
    latency: Measurement
    """Of the file; its ratio is to the unpruned twin."""
    part: str


def prune(
    model: str,
    data: str,
    out: Path | str,
    *,
    share: float = 0.3,
    method: str = "structured",
    multiple: int = MULTIPLE,
    steps: int = 1,
    recipe: str = "float32",
    options: TrainOptions | None = None,
    fine_tune: bool = True,
    live_norm: float | None = None,
    runtime: str = "",
    part: str = "",
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
    threads: int = 1,
    seed: int = 0,
    seconds: float = 6.0,
    cache: Path | None = None,
    on_epoch: Callable[[Epoch], str | None] | None = None,
    progress: Progress | None = None,
) -> Pruning:
    """Prune a model, train what is left, write it as a runtime's file, verify, score and time it.

    Running the same command again after an interruption goes on where it stopped: the state lies in ``OUT.training``.

    Args:
        model: as everywhere; one with trained weights.
        data: with a train part and a val part, which chooses the best epoch.
        out: the file to write; its manifest and reference lie beside it.
        share: of the channels or weights, in [0, 1).
        method: one of ``METHODS``.
        multiple: channels left of each layer, as :func:`bitfront.graph.prune.prune_channels` rounds them.
        steps: rounds of pruning and training; the share grows evenly from round to round.
        recipe: format of the file; it is calibrated after the training.
        options: training of each round; by default the preset ``quantized``.
        fine_tune: whether to train at all.
        live_norm: share of each training in which batch normalization is live, in (0, 1].
        runtime: engine of the file; by default the one that reads files like ``out``, else ONNX Runtime.
        part: what to score on; by default the last part that exists.
        settings: knobs of the model.
        weights: checkpoint for catalogue models and factories.
        preprocess: how a file that does not say it wants to be fed.
        reader: reader of the data folder.
        task: what is asked of the network.
        threads: threads of the runtime.
        seed: of calibration, order and augmentation.
        seconds: wall time of the comparison of times.
        cache: folder that remembers which files were found whole.
        on_epoch: observer of every round, may stop it.
        progress: called with a stage, what is done and what there is.

    Raises:
        UsageError: wrong names or options, an output without logits.
        DataError: data or models that cannot be used.
        DeviceError: the runtime is missing.
        SpaceError: the disk is full.
    """
    from bitfront.train.options import preset

    began = time.monotonic()
    _check(share, method, multiple, steps, recipe)
    chosen = options or preset("quantized")
    engine = open_runtime(runtime, out)
    float_engine = engine if "float32" in engine.recipes else open_runtime()
    place = artifact_path(out, engine)
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    assert opened.dataset is not None
    scored, note = choose_part(opened.dataset, part)
    names = (*train_and_val(opened.dataset.parts(), opened.info.name), scored)
    usable = {name: usable_part(opened.dataset, name, cache=cache, progress=progress) for name in names}
    train_part, val_part, samples = (usable[name][0] for name in names)
    say = progress or (lambda stage, done, total: None)
    source, flat = opened.source, captured(opened.source, seed)

    def finished(graph: Graph) -> tuple[Graph, Plan]:
        images = calibration_images(opened, 64, seed, cache) if RECIPES[recipe].needs_ranges else []
        return build(recipe, graph, batches=images, observe=observer(float_engine))

    def score(path: Path, by: Runtime = engine) -> Metrics:
        return score_file(by, path, opened, samples, score=chosen.score, threads=threads, progress=progress)

    state = place.with_name(f"{place.name}.training")
    with tempfile.TemporaryDirectory() as folder:
        say("prune", 0, 0)
        n_images = min(N_RESTORE, max(1, RESTORE_PIXELS // (source.input.height * source.input.width)))
        images = calibration_images(opened, n_images, seed, cache)
        at_once = _pruned(flat, method, share, multiple, images)
        if fine_tune:
            check_loss(Start(opened, flat, at_once, Plan("float32"), ()), train_part)
        before = score(_written(float_engine, at_once, Plan("float32"), source, Path(folder) / "before"), float_engine)
        twin_path = _written(engine, *finished(flat), source, Path(folder) / "unpruned")
        twin = Twin(score(twin_path), size_of(engine, twin_path), count(flat))
        graph, done = _rounds(
            opened, flat, _plan_of_shares(share, steps), method, multiple, (train_part, val_part), chosen, state,
            seed, on_epoch, images, fine_tune=fine_tune, live_norm=live_norm,
        )  # fmt: skip
        rounded, plan = finished(graph)
        write_artifact(engine, rounded, plan, source, place)
        say("verify", 0, 0)
        probes = batches.calibration(samples, source.input, N_VERIFY, np.random.default_rng(seed))
        contracts = source.input, source.output
        agreement = verify.compare(engine, place, rounded, plan, *contracts, probes, float_graph=graph)
        metrics = score(place)
        latency = _timed(engine, twin_path, place, probes[0], seconds, threads)
    warnings = dict.fromkeys(line for _, lines in usable.values() for line in lines)
    notes = [*source.notes, *untrained(source), *filter(None, [note]), *warnings]
    notes += [] if method.startswith("structured") else [ZEROS]
    made = describe(place, recipe, engine, source, began, tuple(notes))
    if made.size_bytes >= twin.size_bytes and not _is_faster(latency):
        made = describe(place, recipe, engine, source, began, (*notes, NO_GAIN))
    facts = {
        "agreement": to_json(agreement),
        "metrics": to_json(metrics.values),
        "pruned": {"method": method, "share": share, "multiple": multiple, "steps": to_json(done), "seed": seed},
    }
    write_manifest(place, {**manifest_of(made, source, model, data), **facts})
    shutil.rmtree(state, ignore_errors=True)
    return Pruning(
        exported=made,
        method=method,
        share=share,
        steps=done,
        agreement=agreement,
        unpruned=twin,
        before=before,
        metrics=metrics,
        counts=count(graph),
        zeros=zero_share(graph),
        latency=latency,
        part=scored,
    )


def plan_pruning(
    model: str,
    data: str,
    out: Path | str,
    *,
    share: float = 0.3,
    method: str = "structured",
    multiple: int = MULTIPLE,
    steps: int = 1,
    recipe: str = "float32",
    options: TrainOptions | None = None,
    fine_tune: bool = True,
    runtime: str = "",
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
    seed: int = 0,
) -> dict[str, Any]:
    """Return what :func:`prune` would do, doing nothing. Raises UsageError, DataError, DeviceError."""
    from bitfront.train.options import preset

    _check(share, method, multiple, steps, recipe)
    place = artifact_path(out, open_runtime(runtime, out))
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    flat = captured(opened.source, seed)
    small, large = count(_pruned(flat, method, share, multiple)), count(flat)
    return {
        "method": f"{method}: {METHODS[method]}",
        "parameters": [large.parameters, small.parameters],
        "macs": [large.macs, small.macs],
        "epochs": (options or preset("quantized")).epochs * steps if fine_tune else 0,
        "out": str(place),
    }


def _is_faster(latency: Measurement) -> bool:
    return latency.ratio is not None and latency.ratio < 1 - (latency.noise_floor or 0)


def _check(share: float, method: str, multiple: int, steps: int, recipe: str) -> None:
    check_share(share)
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    for name, value in (("multiple", multiple), ("steps", steps)):
        if value < 1:
            raise UsageError(f"{name} is {value}", hint="1 or more")


def _plan_of_shares(share: float, steps: int) -> list[float]:
    """Return what is pruned in all after each round."""
    return [share * (i + 1) / steps for i in range(steps)]


def _pruned(
    graph: Graph, method: str, share: float, multiple: int, images: Sequence[NDArray[np.float32]] = ()
) -> Graph:
    """Prune a graph; with ``images`` the statistics of its layers are restored on them."""
    left: Mapping[str, NDArray[np.int64]] = {}
    if method in ("unstructured", "global"):
        made = prune_weights(graph, share, "global" if method == "global" else "layer")
    else:
        found = prune_channels(graph, share, "layer" if method == "structured_even" else "global", multiple)
        made, left = found.graph, found.left
    if share == 0 or not images:
        return made
    from bitfront.graph.restore import restore_statistics

    return restore_statistics(graph, made, left, images)


def _rounds(  # noqa: PLR0917
    opened: Opened,
    graph: Graph,
    shares: list[float],
    method: str,
    multiple: int,
    parts: tuple[Part, Part],
    options: TrainOptions,
    state: Path,
    seed: int,
    on_epoch: Callable[[Epoch], str | None] | None,
    images: Sequence[NDArray[np.float32]],
    *,
    fine_tune: bool,
    live_norm: float | None,
) -> tuple[Graph, tuple[Step, ...]]:
    """Prune and train, round by round. Channel counts are rounded in the last one only."""
    from bitfront.train.quantized import train_under_plan

    source, done, left = opened.source, list[Step](), 1.0
    zeros = not method.startswith("structured")
    for i, share in enumerate(shares):
        now = share if zeros else 1 - (1 - share) / left
        left = 1 - share
        graph = _pruned(graph, method, now, multiple if i == len(shares) - 1 else 1, images)
        if not fine_tune:
            continue
        trained = train_under_plan(
            graph, Plan("float32"), opened.task, opened.info, *parts, source.input, options, state / f"round_{i}",
            seed, on_epoch, live_norm=live_norm, output=source.output, keep_zeros=zeros,
        )  # fmt: skip
        graph = trained.graph
        n_epochs = len(trained.trained.epochs)
        done.append(Step(share, trained.start_score, trained.trained.best_score, n_epochs, _channels(graph)))
    return graph, tuple(done)


def _channels(graph: Graph) -> int:
    return sum(graph.tensors[n.output].shape[1] for n in graph.nodes if n.op in ("conv", "dense"))


def _written(engine: Runtime, graph: Graph, plan: Plan, source: Source, folder: Path) -> Path:
    return engine.export(graph, plan, folder, source.input, source.output)


def _timed(  # noqa: PLR0917
    engine: Runtime, twin: Path, place: Path, image: Any, seconds: float, threads: int
) -> Measurement:
    """Time a file against its unpruned twin, in turns."""
    sessions = {"unpruned": engine.open(twin, threads)}
    try:
        sessions["pruned"] = engine.open(place, threads)
        return timing.measure(sessions, image, "unpruned", seconds=seconds, threads=threads)["pruned"]
    finally:
        for session in sessions.values():
            session.close()
