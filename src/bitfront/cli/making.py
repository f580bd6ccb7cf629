"""quantize, export, verify, benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from bitfront.cli import units
from bitfront.cli.console import Answer, percent, size, table
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
from bitfront.cli.steps import Part, metrics_data
from bitfront.cli.suites import Suite
from bitfront.errors import VerificationError

if TYPE_CHECKING:
    from bitfront.verbs.answering import Times

__all__ = ["agreement_line", "benchmark", "export", "made_data", "quantize", "unless_verified", "verify"]

Out = Annotated[Path, Parameter(help="File to write; its manifest and its reference are written beside it.")]
RuntimeName = Annotated[str | None, Parameter(help="Engine [default: the one that reads such files; onnxruntime].")]


def export(
    model: ModelText = None,
    /,
    *,
    out: Out,
    data: Annotated[str | None, Parameter(help="Data that names the classes, where the model does not.")] = None,
    recipe: Annotated[str, Parameter(help="float32 or float16.")] = "float32",
    plan: Annotated[
        str,
        Parameter(
            help="Instead of a recipe: a plan's file, a *.reference.safetensors (graph and plan), an artifact that has "
            "one beside it, or RUN:CANDIDATE."
        ),
    ] = "",
    simplify: Annotated[
        bool, Parameter(help="Let onnxslim simplify it; kept if smaller and equal in its answers.", negative=())
    ] = False,
    runtime: RuntimeName = None,
    set_: Set = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Write a model as a runtime's file: in floating point, or under a plan that was found before."""
    from bitfront.verbs.making import export as write

    given = shared.fill(model=model, runtime=runtime, runs=None)
    made = write(
        required(given["model"], "MODEL"),
        out,
        data=data,
        recipe=recipe,
        plan=plan,
        simplified=simplify,
        runtime=given["runtime"] or "",
        settings=knobs(set_, shared),
        runs=given["runs"] or "runs",
        **model_options.fill(shared),
    )
    shared.notes(made.notes)
    return Answer(made_data(made), [f"{made.path}: {made.recipe}, {_size(made.resolution)}, {size(made.size_bytes)}"])


def made_data(made: Any) -> dict[str, Any]:
    """Return what is said of a written artifact as plain data."""
    return {
        "path": str(made.path),
        "recipe": made.recipe,
        "runtime": made.runtime,
        "resolution": list(made.resolution),
        "size_bytes": made.size_bytes,
        "sha256": made.sha256,
        "seconds": made.seconds,
        "notes": list(made.notes),
    }


def _size(resolution: Any) -> str:
    return "x".join(map(str, resolution))


def quantize(
    model: ModelText = None,
    data: DataText = None,
    /,
    *,
    out: Out,
    recipe: Annotated[str | None, Parameter(help="`bitfront list recipes` [default: int8].")] = None,
    runtime: RuntimeName = None,
    part: Part = None,
    calibrate: Annotated[int, whole("Images to calibrate on, of the train part.")] = 64,
    rule: Annotated[str, Parameter(help="How ranges are chosen: minmax, percentile or mse.")] = "mse",
    equalize: Annotated[bool, Parameter(help="Balance neighbouring layers' channels first.", negative=())] = False,
    score: Annotated[str | None, Parameter(help="Metric that drives a search [default: the task's].")] = None,
    limit: Limit = None,
    threads: Threads = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    set_: Set = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Quantize a model, verify the file against its reference, and score it beside float.

    Calibrates on the train part. Exits with 6 when the file does not compute what its reference computes.
    """
    from bitfront.verbs.making import plan_quantization
    from bitfront.verbs.making import quantize as run

    names = {"model": model, "data": data, "recipe": recipe, "runtime": runtime, "part": part, "score": score}
    given = shared.fill(**names, limit=limit, threads=threads, seed=seed)
    chosen, place = required(given["model"], "MODEL"), required(given["data"], "DATA")
    options: dict[str, Any] = {
        "recipe": _single(given["recipe"]) or "int8",
        "runtime": given["runtime"] or "",
        "part": given["part"] or "",
        "n_calibrate": calibrate,
        "rule": rule,
        "limit": given["limit"],
        "settings": knobs(set_, shared),
        **model_options.fill(shared),
    }
    if dry_run:
        plan = plan_quantization(chosen, place, out, **options)
        lines = [f"{key}: {value}" for key, value in plan.items()]
        return Answer({"plan": plan, "evaluations": 2}, lines)
    progress = shared.progress()
    rest: dict[str, Any] = {"equalized": equalize, "score": given["score"] or "", "threads": given["threads"] or 1}
    found = run(chosen, place, out, **options, **rest, seed=given["seed"] or 0, cache=cache_folder(), progress=progress)
    progress.clear()
    shared.notes(found.exported.notes)
    return _quantized(found)


def _single(recipe: Any) -> Any:
    return recipe[0] if isinstance(recipe, list) and recipe else recipe


def _quantized(found: Any) -> Answer:
    from bitfront.record import to_json

    made, before, after = found.exported, found.float_metrics, found.metrics
    drop = before.value - after.value
    data = {
        **made_data(made),
        "part": found.part,
        "verified": found.agreement.verified,
        "max_code_difference": found.agreement.max_code_difference,
        "first_difference": found.agreement.first_difference,
        "agreement": to_json(found.agreement),
        "drop": drop,
        "float": {"size_bytes": found.float_size_bytes, "metrics": metrics_data(before)},
        "metrics": metrics_data(after),
    }
    names = [name for name, value in after.values.items() if value is not None]
    rows = [(name, percent(before.values.get(name)), percent(after.values[name])) for name in names]
    rows.append(("size", size(found.float_size_bytes), size(made.size_bytes)))
    text = [table(("", ">float32", f">{made.recipe}"), rows), agreement_line(found.agreement), f"written: {made.path}"]
    return unless_verified(data, text, found.agreement)


def agreement_line(agreement: Any) -> str:
    """Return how a file agrees with its reference, in a line."""
    word = "verified" if agreement.verified else "NOT verified"
    difference = f"differs by at most {agreement.max_code_difference} ({agreement.unit})"
    where = f"; first in tensor {agreement.first_difference}" if agreement.first_difference else ""
    same = f"{100 * agreement.readout_agreement:.4g} % of the answers are the same"
    return f"{word} on {agreement.n_images} images: {difference}{where}; {same}"


def unless_verified(data: dict[str, Any], text: list[Any], agreement: Any) -> Answer:
    """Return an answer that fails where a file is not verified."""
    if agreement.verified:
        return Answer(data, text)
    where = f", first in tensor {agreement.first_difference}" if agreement.first_difference else ""
    error = VerificationError(
        f"the file differs from its reference by {agreement.max_code_difference} ({agreement.unit}){where}",
        hint=f"allowed: {agreement.tolerance}; another recipe (`bitfront list recipes`) may be exact on this machine",
    )
    return Answer(data, text, failure=error)


def verify(
    artifact: Annotated[Path, Parameter(help="The file, or a front member's folder.")],
    data: DataText = None,
    /,
    *,
    against: Annotated[
        str | None, Parameter(help="MODEL that defines what is right, without a reference file.")
    ] = None,
    images: Annotated[int, whole("Images to compare on.")] = 8,
    reader: Annotated[str | None, Parameter(help="Reader of the data folder, when it is not recognised.")] = None,
    runtime: RuntimeName = None,
    seed: Seed = None,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Compare a file with its reference, tensor by tensor.

    The reference lies beside files that bitfront made. Exits with 6 when they differ by more codes than the runtime
    states, or when the file has changed.
    """
    from bitfront.record import to_json
    from bitfront.verbs.checking import verify as compare

    given = shared.fill(data=data, reader=reader, runtime=runtime, seed=seed)
    found = compare(
        artifact,
        given["data"],
        against=against or "",
        reader=given["reader"] or "",
        n_images=images,
        runtime=given["runtime"] or "",
        seed=given["seed"] or 0,
    )
    shared.notes(found.notes)
    answer = {"path": str(found.path), "data": found.data, **to_json(found.agreement)}
    return unless_verified(answer, [agreement_line(found.agreement)], found.agreement)


def benchmark(
    first: Annotated[str, Parameter(help="The baseline; of a suite MODEL.")],
    /,
    *more: Annotated[str, Parameter(help="Files to compare with it; of a suite DATA.")],
    time: Annotated[str, Parameter(help="How long to measure, warm-up not counted.")] = "10s",
    threads: Threads = None,
    runtime: Annotated[
        list[str] | None, Parameter(help="Engine [default: by the file; of a suite all]. Repeatable.", negative=())
    ] = None,
    seed: Seed = None,
    images: Annotated[
        str | None,
        Parameter(help="Pictures or a video that the parts of a detector are timed on [default: generated]."),
    ] = None,
    decoder: Annotated[
        str | None, Parameter(help="How another's detector codes boxes, where its outputs' shapes do not say.")
    ] = None,
    dry_run: DryRun = False,
    suite: Suite = Suite(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Time files against each other on this machine, in turns; ratios are to the first.

    A ratio closer to 1 than the noise floor means no difference. Of detectors preprocessing, inference and
    postprocessing are shown, too, picture by picture. With --suite MODEL is measured on DATA in every way
    there is: each recipe in each engine, size, score, time and memory.
    """
    from bitfront.measure.timing import difference
    from bitfront.record import to_json
    from bitfront.verbs.checking import benchmark as run

    if suite.suite is not None:
        return suite.run(first, more, shared, threads=threads, runtimes=runtime, seed=seed, dry_run=dry_run)
    suite.refuse()
    given = shared.fill(threads=threads, runtime=runtime[0] if runtime else None, seed=seed)
    seconds, places = units.seconds(time, "--time"), [Path(place) for place in (first, *more)]
    if dry_run:
        plan = {"artifacts": [str(p) for p in places], "seconds": seconds}
        return Answer({"plan": plan, "evaluations": len(places)}, [f"{len(places)} files, about {seconds:g} s"])
    shared.console().note(f"timing {len(places)} files for {seconds:g} s after the warm-up")
    found = run(
        places,
        seconds=seconds,
        threads=given["threads"] or 1,
        runtime=given["runtime"] or "",
        seed=given["seed"] or 0,
        decoder=decoder or "",
        images=images,
    )
    items: list[dict[str, Any]] = []
    rows: list[tuple[Any, ...]] = []
    for timed in found:
        latency = timed.latency
        items.append(
            {
                "path": str(timed.path),
                "latency_ms": latency.value,
                "ratio": latency.ratio,
                "noise_floor": latency.noise_floor,
                "size_bytes": timed.size_bytes,
                "ram_bytes": timed.ram_bytes,
                "resolution": list(timed.resolution),
                "parts": to_json(timed.parts),
                **{k: v for k, v in to_json(latency).items() if k not in ("value", "ratio", "noise_floor")},
            }
        )
        p90 = None if latency.p90 is None else f"{latency.p90:.2f}"
        ratio = None if latency.ratio is None else f"{latency.ratio:.3f}"
        rows.append(
            (
                timed.path,
                _size(timed.resolution),
                f"{latency.value:.2f}",
                p90,
                ratio,
                difference(latency) if rows else "baseline",
                size(timed.size_bytes),
                size(timed.ram_bytes),
            )
        )
    floor = found[0].latency.noise_floor
    text: list[Any] = [table(("file", "size", ">ms", ">p90", ">ratio", "", ">file", ">RAM"), rows)]
    text += [f"noise floor of the ratio: {100 * floor:.1f} %"] if floor is not None else []
    parts = [(timed.path, timed.parts) for timed in found if timed.parts is not None]
    if parts:
        text.append(_parts_table(parts))
    return Answer({"artifacts": items}, text)


def _parts_table(parts: Sequence[tuple[Path, Times]]) -> Any:
    """What the parts of detectors take: medians, and pictures a second by the means."""
    rows = [
        (
            path,
            *(f"{part.median:.2f}" for part in (t.preprocess_ms, t.inference_ms, t.postprocess_ms)),
            f"{t.fps:.1f}",
            f"{t.inference_fps:.1f}",
        )
        for path, t in parts
    ]
    columns = ("detector", ">preprocessing ms", ">inference ms", ">postprocessing ms", ">fps", ">of inference alone")
    return table(columns, rows)
