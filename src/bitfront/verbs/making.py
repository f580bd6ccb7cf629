"""quantize and export."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront import batches
from bitfront.contracts import Metrics, Runtime
from bitfront.errors import DeviceError, OperatorError, UsageError, unknown_name
from bitfront.graph import files, passes
from bitfront.graph.ir import Graph
from bitfront.measure import verify
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import RECIPES, build
from bitfront.record import Agreement, digest_file, to_json
from bitfront.registry import load
from bitfront.sources import Source
from bitfront.store import atomic_write
from bitfront.verbs.companions import write_manifest
from bitfront.verbs.opening import Opened, Progress, choose_part, open_both, untrained, usable_part
from bitfront.verbs.scoring import few_or_all, score_file

__all__ = ["Exported", "Quantized", "export", "open_runtime", "plan_quantization", "quantize"]

FLOATS = ("float32", "float16")
N_CALIBRATE = 64
N_VERIFY = 8


@dataclass(frozen=True, slots=True)
class Exported:
    """A written artifact."""

    path: Path
    recipe: str
    runtime: str
    resolution: tuple[int, int]
    size_bytes: int
    sha256: str
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized artifact beside its float twin."""

    exported: Exported
    agreement: Agreement
    float_metrics: Metrics
    metrics: Metrics
    float_size_bytes: int
    part: str


def open_runtime(name: str = "") -> Runtime:
    """Return a runtime that works here. Raises UsageError for unknown names, DeviceError saying what to install."""
    runtime: Runtime = load("runtime", name or "onnxruntime")()
    missing = runtime.missing()
    if missing:
        raise DeviceError(f"{runtime.name} cannot be used here: {missing}", hint="`bitfront doctor` says what works")
    return runtime


def export(
    model: str,
    out: Path | str,
    *,
    data: str | None = None,
    recipe: str = "float32",
    runtime: str = "",
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
) -> Exported:
    """Write a model as a runtime's file, in ``float32`` or ``float16``, with its manifest and reference beside it.

    ``data`` names the classes where the model does not. Raises UsageError, DataError, DeviceError, SpaceError.
    """
    start = time.monotonic()
    if recipe not in FLOATS:
        known = recipe in RECIPES
        hint = "`bitfront quantize` calibrates and verifies" if known else f"known here: {', '.join(FLOATS)}"
        raise UsageError(f"export writes floating point, not '{recipe}'", hint=hint)
    engine = open_runtime(runtime)
    place = _out(out, engine)
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    graph, plan = build(recipe, passes.prepare(opened.source.graph()))
    _write(engine, graph, plan, opened.source, place)
    made = _exported(place, recipe, engine, opened, start)
    write_manifest(place, _manifest(made, opened.source, model, data))
    return made


def quantize(
    model: str,
    data: str,
    out: Path | str,
    *,
    recipe: str = "int8",
    runtime: str = "",
    part: str = "",
    n_calibrate: int = N_CALIBRATE,
    rule: str = "mse",
    equalized: bool = False,
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
    score: str = "",
    limit: int | None = None,
    threads: int = 1,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Quantize a model, verify the file against its reference, and score it beside the float file in the same runtime.

    Calibrates on ``n_calibrate`` images of the train part. Writes ``out`` with its manifest and reference, also when
    it is not verified: the result says so. Raises UsageError, DataError, DeviceError, SpaceError.
    """
    start = time.monotonic()
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    engine = open_runtime(runtime)
    place = _out(out, engine)
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    assert opened.dataset is not None
    scored, note = choose_part(opened.dataset, part)
    samples, warnings = few_or_all(opened.dataset, scored, limit, cache, progress)
    say = progress or (lambda stage, done, total: None)
    say("calibrate", 0, 0)
    images = _calibration(opened, n_calibrate, seed, cache)
    contract, output = opened.source.input, opened.source.output
    probes = batches.calibration(samples, contract, N_VERIFY, np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as folder:
        try:
            flat = passes.prepare(opened.source.graph())
        except OperatorError as error:
            if opened.source.kind != "onnx" or not hasattr(engine, "export_foreign"):
                raise
            warnings = (*warnings, f"{error}: quantized by {engine.name} itself, without an integer reference")
            made_by_it, twin = _write_foreign(
                engine, opened, recipe, images, folder=Path(folder), preprocess=preprocess
            )
            atomic_write(place, made_by_it.read_bytes())
            say("verify", 0, 0)
            agreement = verify.compare_float(engine, place, twin, contract, output, probes)
        else:
            graph, plan = build(recipe, flat, batches=images, rule=rule, equalized=equalized, observe=_observe(engine))
            _write(engine, graph, plan, opened.source, place)
            say("verify", 0, 0)
            agreement = verify.compare(engine, place, graph, plan, contract, output, probes, float_graph=flat)
            twin = engine.export(flat, Plan("float32"), Path(folder), contract, output)
        float_metrics, metrics = (
            score_file(engine, path, opened, samples, score=score, threads=threads, progress=progress)
            for path in (twin, place)
        )
        float_size_bytes = twin.stat().st_size
    made = _exported(place, recipe, engine, opened, start)
    made = replace(made, notes=(*made.notes, *([note] if note else []), *warnings))
    manifest = _manifest(made, opened.source, model, data)
    write_manifest(place, {**manifest, "agreement": to_json(agreement), "metrics": to_json(metrics.values)})
    return Quantized(made, agreement, float_metrics, metrics, float_size_bytes, scored)


def plan_quantization(
    model: str,
    data: str,
    out: Path | str,
    *,
    recipe: str = "int8",
    runtime: str = "",
    part: str = "",
    n_calibrate: int = N_CALIBRATE,
    rule: str = "mse",
    limit: int | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
) -> dict[str, Any]:
    """Return what :func:`quantize` would do, doing nothing. Raises UsageError, DataError, DeviceError."""
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    place = _out(out, open_runtime(runtime))
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    assert opened.dataset is not None
    scored, _ = choose_part(opened.dataset, part)
    n_images = len(opened.dataset.part(scored))
    return {
        "recipe": RECIPES[recipe].description,
        "resolution": [opened.source.input.height, opened.source.input.width],
        "calibrated_on": n_calibrate,
        "rule": rule,
        "scored_on": f"{min(limit or n_images, n_images)} images of {scored}",
        "out": str(place),
    }


def _out(out: Path | str, engine: Runtime) -> Path:
    place = Path(out)
    if place.suffix != engine.suffix:
        raise UsageError(
            f"--out: '{place}' does not end in {engine.suffix}", hint=f"{engine.name} reads no other files"
        )
    if place.is_dir():
        raise UsageError(f"--out: '{place}' is a folder", hint=f"name a file, e.g. {place / ('model' + engine.suffix)}")
    return place


def _write(engine: Runtime, graph: Graph, plan: Plan, source: Source, place: Path) -> None:
    """Export to a folder of its own first: a runtime names its files itself."""
    with tempfile.TemporaryDirectory() as folder:
        made = engine.export(graph, plan, Path(folder), source.input, source.output)
        place.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(place, made.read_bytes())
    files.save(place.with_suffix(files.SUFFIX), graph, plan)


def _write_foreign(
    engine: Any, opened: Opened, recipe: str, images: Sequence[NDArray[np.float32]], *, folder: Path, preprocess: str
) -> tuple[Path, Path]:
    """Let the runtime quantize a file that the graph cannot hold; returns the file and its float twin."""
    made, twin = (
        engine.export_foreign(opened.source.path, name, images, folder / name, preprocess, opened.info)
        for name in (recipe, "float32")
    )
    return made, twin


def _exported(place: Path, recipe: str, engine: Runtime, opened: Opened, start: float) -> Exported:
    source = opened.source
    size = (source.input.height, source.input.width)
    n_bytes, digest, seconds = place.stat().st_size, digest_file(place), time.monotonic() - start
    notes = (*source.notes, *untrained(source))
    return Exported(place, recipe, engine.name, size, n_bytes, digest, seconds, notes)


def _manifest(made: Exported, source: Source, model: str, data: str | None) -> dict[str, Any]:
    return {
        "schema": 1,
        "path": made.path.name,
        "sha256": made.sha256,
        "size_bytes": made.size_bytes,
        "runtime": made.runtime,
        "recipe": made.recipe,
        "input": to_json(source.input),
        "output": to_json(source.output),
        "model": model,
        "model_sha256": source.digest,
        "data": data,
    }


def _calibration(opened: Opened, n: int, seed: int, cache: Path | None) -> list[NDArray[np.float32]]:
    assert opened.dataset is not None
    there = opened.dataset.parts()
    part, _ = usable_part(opened.dataset, "train" if "train" in there else there[0], cache=cache)
    return batches.calibration(part, opened.source.input, n, np.random.default_rng(seed))


def _observe(engine: Runtime) -> Any:
    """A runtime may offer a faster way than the reference executor to see inner tensors."""
    return getattr(engine, "observe", None)
