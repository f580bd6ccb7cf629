"""quantize and export."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront import batches
from bitfront.contracts import Metrics
from bitfront.errors import OperatorError, UsageError, unknown_name
from bitfront.graph import passes
from bitfront.measure import verify
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import RECIPES, build
from bitfront.record import Agreement, to_json
from bitfront.store import atomic_write
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
    size_of,
    write_artifact,
)
from bitfront.verbs.companions import write_manifest
from bitfront.verbs.opening import Opened, Progress, choose_part, open_both, untrained
from bitfront.verbs.plans import open_plan
from bitfront.verbs.quantized_start import fed, made_for
from bitfront.verbs.scoring import few_or_all, score_file
from bitfront.verbs.simplifying import simplify

__all__ = ["Quantized", "export", "plan_quantization", "quantize"]

FLOATS = ("float32", "float16")


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized artifact beside its float twin."""

    exported: Exported
    agreement: Agreement
    float_metrics: Metrics
    metrics: Metrics
    float_size_bytes: int
    part: str


def export(
    model: str,
    out: Path | str,
    *,
    data: str | None = None,
    recipe: str = "float32",
    plan: Path | str = "",
    simplified: bool = False,
    runtime: str = "",
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
    runs: Path | str = "runs",
) -> Exported:
    """Write a model as a runtime's file, with its manifest and reference beside it.

    In ``float32`` or ``float16``; or under a ``plan``, as :func:`bitfront.verbs.plans.open_plan` reads it below
    ``runs``: where its graph is stored with it, that one is written, and MODEL says how it is fed and read. ``data``
    names the classes where the model does not. ``simplified``: by onnxslim, where that makes the file smaller and it
    answers the same; a note says what came of it. Raises UsageError, DataError, DeviceError, SpaceError.
    """
    start = time.monotonic()
    if recipe not in FLOATS:
        known = recipe in RECIPES
        hint = "`bitfront quantize` calibrates and verifies" if known else f"known here: {', '.join(FLOATS)}"
        raise UsageError(f"export writes floating point, not '{recipe}'", hint=hint)
    engine = open_runtime(runtime, out)
    place = artifact_path(out, engine)
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    notes = (*opened.source.notes, *untrained(opened.source))
    if plan:
        stored, formats = open_plan(plan, Path(runs))
        opened, notes = (opened, notes) if stored is None else (fed(opened, stored), opened.source.notes)
        graph = stored or made_for(passes.prepare(opened.source.graph()), formats)
    else:
        graph, formats = build(recipe, passes.prepare(opened.source.graph()))
    write_artifact(engine, graph, formats, opened.source, place)
    notes = (*notes, simplify(place, engine, opened.source.input)) if simplified else notes
    made = describe(place, formats.recipe, engine, opened.source, start, notes)
    write_manifest(place, manifest_of(made, opened.source, model, data))
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
    """Quantize a model, verify the file against its reference, and score it beside the float file in the same runtime,
    or in ONNX Runtime where that one has integers alone.

    Calibrates on ``n_calibrate`` images of the train part. Writes ``out`` with its manifest and reference, also when
    it is not verified: the result says so. Raises UsageError, DataError, DeviceError, SpaceError.
    """
    start = time.monotonic()
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    engine = open_runtime(runtime, out)
    place = artifact_path(out, engine)
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    assert opened.dataset is not None
    scored, note = choose_part(opened.dataset, part)
    samples, warnings = few_or_all(opened.dataset, scored, limit, cache, progress)
    say = progress or (lambda stage, done, total: None)
    say("calibrate", 0, 0)
    images = calibration_images(opened, n_calibrate, seed, cache)
    contract, output = opened.source.input, opened.source.output
    probes = batches.calibration(samples, contract, N_VERIFY, np.random.default_rng(seed))
    float_engine = engine if "float32" in engine.recipes else open_runtime()
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
            graph, plan = build(
                recipe, flat, batches=images, rule=rule, equalized=equalized or None, observe=observer(float_engine)
            )
            write_artifact(engine, graph, plan, opened.source, place)
            say("verify", 0, 0)
            agreement = verify.compare(engine, place, graph, plan, contract, output, probes, float_graph=flat)
            twin = float_engine.export(flat, Plan("float32"), Path(folder), contract, output)
        float_metrics, metrics = (
            score_file(by, path, opened, samples, score=score, threads=threads, progress=progress)
            for by, path in ((float_engine, twin), (engine, place))
        )
        float_size_bytes = size_of(float_engine, twin)
    notes = (*opened.source.notes, *untrained(opened.source), *([note] if note else []), *warnings)
    made = describe(place, recipe, engine, opened.source, start, notes)
    facts = manifest_of(made, opened.source, model, data)
    write_manifest(place, {**facts, "agreement": to_json(agreement), "metrics": to_json(metrics.values)})
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
    place = artifact_path(out, open_runtime(runtime, out))
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


def _write_foreign(
    engine: Any, opened: Opened, recipe: str, images: Sequence[NDArray[np.float32]], *, folder: Path, preprocess: str
) -> tuple[Path, Path]:
    """Let the runtime quantize a file that the graph cannot hold; returns the file and its float twin."""
    made, twin = (
        engine.export_foreign(opened.source.path, name, images, folder / name, preprocess, opened.info)
        for name in (recipe, "float32")
    )
    return made, twin
