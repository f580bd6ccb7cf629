"""fit, resume, report, compare, runs."""

from __future__ import annotations

import re
import shlex
import sys
import webbrowser
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from bitfront.cli import units
from bitfront.cli.console import Answer, duration, percent, size, table
from bitfront.cli.options import (
    DataText,
    Device,
    DryRun,
    Limit,
    ModelOptions,
    ModelText,
    Ray,
    Runs,
    Seed,
    Set,
    Shared,
    Threads,
    Track,
    Workers,
    knobs,
    whole,
)
from bitfront.errors import BitfrontError, BudgetError

if TYPE_CHECKING:
    from bitfront.record import Budget, Record
    from bitfront.run import FrontMember, Run

__all__ = ["compare", "fit", "report", "resume", "runs"]

RunName = Annotated[str, Parameter(help="Name or folder of a run.")]


def budget(given: dict[str, Any]) -> Budget:
    """Return the budget that the options ask for. Raises UsageError."""
    from bitfront.record import Budget

    def read(key: str, parse: Any) -> Any:
        return None if given[key] is None else parse(given[key], "--" + key.replace("_", "-"))

    return Budget(
        max_latency_ms=read("max_latency", units.milliseconds),
        max_size_bytes=read("max_size", units.size_bytes),
        max_ram_bytes=read("max_ram", units.size_bytes),
        min_score=read("min_score", units.fraction),
        max_drop=read("max_drop", units.fraction),
        time_s=read("time", units.seconds),
    )


def front_data(member: FrontMember) -> dict[str, Any]:
    """Return a front member as plain data."""
    from bitfront.record import to_json

    record = member.record
    return {
        "id": member.id,
        "name": member.name,
        "cluster": member.cluster,
        "label": record.candidate.label,
        "score": member.score,
        "test_score": record.test.value if record.test else None,
        "test_interval": list(record.test.interval) if record.test and record.test.interval else None,
        "size_bytes": member.size_bytes,
        "flash_bytes": record.flash_bytes,
        "latency_ms": member.latency_ms,
        "on_device": None if record.on_device is None else to_json(record.on_device),
        "ratio": record.latency.ratio if record.latency else None,
        "verified": member.verified,
        "path": str(member.model),
    }


def front_table(members: Sequence[FrontMember], title: str = "") -> Any:
    """Return the front as a table, the recommended member first."""
    from bitfront.record import varying_knobs

    shown = varying_knobs(member.record.candidate for member in members)
    searched = any(member.record.candidate.plan for member in members)
    rows = [_front_row(member, shown, searched) for member in members]
    known = [name for name in rows[0] if any(row[name] is not None for row in rows)] if rows else []
    return table(known, [tuple(row[name] for name in known) for row in rows], title)


def _front_row(member: FrontMember, shown: Collection[str], searched: bool) -> dict[str, str | None]:
    data, record = front_data(member), member.record
    ratio, latency, flash = data["ratio"], member.latency_ms, record.flash_bytes
    return {
        "front": member.name,
        "cluster": member.cluster or None,
        "network": record.candidate.named(shown),
        ">score": percent(member.score),
        ">test": None if record.test is None else percent(data["test_score"]),
        ">ms": None if latency is None else f"{latency:.2f}",
        ">ratio": None if ratio is None else f"{ratio:.2f}",
        ">flash": size(flash) if searched and flash is not None and not record.on_device else None,
        ">size": None if record.on_device else size(member.size_bytes),
        **_device_row(record),
        "verified": "yes" if member.verified else "no",
    }


def _device_row(record: Record) -> dict[str, str | None]:
    """What a file takes on the run's device; instructions as the emulator counts them, else modelled."""
    there = record.on_device
    names = (">flash, kB", ">RAM, kB", ">M instructions", ">modelled ms")
    if there is None:
        return dict.fromkeys(names)
    counted = there.counted_instructions or there.instructions
    values = (
        f"{(there.linked_bytes or there.flash_bytes) / 1000:.1f}",
        f"{there.ram_bytes / 1000:.1f}",
        None if counted is None else f"{counted / 1e6:.3g}{'' if there.counted_instructions else ' (modelled)'}",
        None if there.latency_ms is None else f"{there.latency_ms:.2f}",
    )
    return dict(zip(names, values, strict=True))


def run_answer(run: Run) -> Answer:
    """Return what a finished run found; exit code 4 when nothing meets the budget."""
    front, verdict = run.front, run.verdict
    data = {
        "run": str(run.path),
        "met": run.met,
        "evaluations": len(run.records()),
        "seconds": run.seconds,
        "verdict": verdict,
        "report": str(run.path / "report.html"),
        "front": [front_data(member) for member in front],
    }
    text: list[Any] = [front_table(front)] if front else ["the front is empty"]
    text += [f"report: {run.path / 'report.html'}"]
    if run.met:
        return Answer(data, text)
    miss = verdict.get("miss") or "no candidate was finished"
    hint = "allow more, or give the search more time; the front is what there is"
    return Answer(data, text, failure=BudgetError(f"nothing meets the budget: {miss}", hint=hint))


def fit(
    model: ModelText = None,
    data: DataText = None,
    /,
    *,
    max_latency: Annotated[str | None, Parameter(help="Limit of one image's median latency, e.g. 33ms.")] = None,
    max_size: Annotated[
        str | None, Parameter(help="Limit of the file, on a microcontroller of flash, e.g. 400kB, 0.4MB, 256KiB.")
    ] = None,
    max_ram: Annotated[str | None, Parameter(help="Limit of the memory for activations, e.g. 128kB.")] = None,
    min_score: Annotated[str | None, Parameter(help="Least score, e.g. 0.95 or 95%.")] = None,
    max_drop: Annotated[str | None, Parameter(help="Largest loss of score against float, e.g. 0.01 or 1%.")] = None,
    time: Annotated[str | None, Parameter(help="Wall time of the whole run, e.g. 90s, 10m, 1h.")] = None,
    effort: Annotated[str | None, Parameter(help="entry, intermediate or expert: how much is explored.")] = None,
    stage: Annotated[
        list[str] | None, Parameter(help="Stages to go through, `bitfront list stages`. Repeatable.", negative=())
    ] = None,
    recipe: Annotated[
        list[str] | None, Parameter(help="Recipes to try; float32 always is. Repeatable.", negative=())
    ] = None,
    objective: Annotated[
        list[str] | None, Parameter(help="Axes of the front [default: the device's]. Repeatable.", negative=())
    ] = None,
    bits: Annotated[
        str | None, Parameter(help="Search the bits of the best networks: `bitfront list methods` [default: none].")
    ] = None,
    pick: Annotated[
        str | None,
        Parameter(help="Recommend the knee, fastest, smallest or best one, or one by id [default: knee]."),
    ] = None,
    retrain: Annotated[str | None, Parameter(help="auto, always or never, for models that have weights.")] = None,
    teacher: Annotated[
        str | None, Parameter(help="A trained network that every training learns from, too: checkpoint or .onnx file.")
    ] = None,
    epochs: Annotated[int | None, whole("Epochs of a training from scratch.")] = None,
    batch_size: Annotated[int | None, whole("Images of a training step.")] = None,
    learning_rate: Annotated[float | None, Parameter(help="Learning rate at the start.")] = None,
    augment: Annotated[str | None, Parameter(help="none, light, thesis_000, thesis_000_whole or thesis_001.")] = None,
    score: Annotated[str | None, Parameter(help="Metric that drives the search [default: the task's].")] = None,
    runtime: Annotated[
        list[str] | None,
        Parameter(help="Engine [default: the device's]; several compete on one front. Repeatable.", negative=()),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    limit: Limit = None,
    workers: Workers = None,
    ray: Ray = None,
    name: Annotated[str | None, Parameter(help="Name of the run [default: model and data].")] = None,
    runs: Runs = None,
    seed: Seed = None,
    track: Track = None,
    dry_run: DryRun = False,
    set_: Set = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Find the Pareto front of verified artifacts of a model on data under a budget.

    MODEL defaults to fast_scnn, DATA to conveyor (generated images). Several values of a knob (--set width=0.25,0.5)
    are explored, one is fixed. Exits with 4 when nothing meets the budget; the front is written all the same.
    """
    from bitfront.cli.searching import Bits
    from bitfront.fitting.config import Config
    from bitfront.pipeline import fit as run
    from bitfront.pipeline import plan

    sizes = {"max_latency": max_latency, "max_size": max_size, "max_ram": max_ram}
    limits = budget(shared.fill(**sizes, min_score=min_score, max_drop=max_drop, time=time))
    given = shared.fill(
        model=model, data=data, effort=effort, stages=stage,
        pick=pick, recipes=recipe, objectives=objective, retrain=retrain, epochs=epochs,
        batch_size=batch_size, learning_rate=learning_rate, augment=augment, score=score,
        runtime=runtime[0] if runtime else None, runtimes=(runtime or [])[1:] or None, teacher=teacher,
        device=device, threads=threads, limit=limit, seed=seed, track=track,
    )  # fmt: skip
    options = {key: value for key, value in given.items() if value is not None}
    single = shared.fill(recipe=None)["recipe"]
    if single is not None and "recipes" not in options:
        options["recipes"] = [single] if isinstance(single, str) else single
    opening = {key: value for key, value in model_options.fill(shared).items() if value}
    options |= {**opening, "budget": limits, "settings": knobs(set_, shared)}
    searched = Bits().fill(shared, bits, None)
    if searched.method:
        options["bits"] = searched
    crew = shared.fill(workers=workers, ray=ray)
    if dry_run:
        chosen = options["settings"]
        several = {k: v for k, v in chosen.items() if isinstance(v, tuple) and not _is_one_size(k, v)}
        fixed = {k: v for k, v in chosen.items() if k not in several}
        weights = str(options.get("weights", ""))
        config = Config(**{**options, "settings": fixed, "space": several, "weights": weights})
        return _planned(plan(config, crew["workers"]))
    where = shared.fill(name=name, runs=runs)
    progress = shared.progress()
    command = shlex.join(["bitfront", *sys.argv[1:]])
    found = run(
        **options, name=where["name"], runs=where["runs"] or "runs", command=command, progress=progress.whole,
        workers=crew["workers"], ray=crew["ray"] or "",
    )  # fmt: skip
    progress.clear()
    return run_answer(found)


def _is_one_size(key: str, value: tuple[Any, ...]) -> bool:
    return key == "resolution" and isinstance(value[0], int)


def _planned(plan: dict[str, Any]) -> Answer:
    lines = [f"stages: {', '.join(plan['stages'])}; the first of them:"] if plan["stages"] else []
    lines += [f"{len(plan['networks'])} networks: {', '.join(plan['networks'])}"]
    lines += [f"recipes: {', '.join(plan['recipes'])}"]
    lines += [f"{plan['trainings']} trainings, {plan['evaluations']} evaluations"]
    if plan.get("seconds") is not None:
        lines.append(f"about {duration(plan['seconds'])}")
    return Answer({"plan": plan, "evaluations": plan["evaluations"]}, lines, notes=plan.get("notes", ()))


def resume(
    name: RunName,
    /,
    *,
    pick: Annotated[
        str | None, Parameter(help="Recommend another member: knee, fastest, smallest, best, or one by id.")
    ] = None,
    workers: Workers = None,
    ray: Ray = None,
    runs: Runs = None,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Go on with an interrupted run, or pick another member of a finished one: what was finished is kept."""
    from bitfront.pipeline import resume as go_on

    progress = shared.progress()
    crew = shared.fill(workers=workers, ray=ray)
    place = _find(name, runs, shared)
    found = go_on(place, progress=progress.whole, pick=pick or "", workers=crew["workers"], ray=crew["ray"] or "")
    progress.clear()
    return run_answer(found)


def _find(name: str, runs: str | None, shared: Shared) -> Path:
    from bitfront.run import find

    return find(Path(shared.fill(runs=runs)["runs"] or "runs"), name)


def report(
    name: RunName,
    /,
    *,
    open_: Annotated[bool, Parameter(name="--open", help="Open it in the browser.", negative=())] = False,
    runs: Runs = None,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Write a run's report and tables again, from its database."""
    from bitfront.report import write
    from bitfront.run import Run, project

    run = Run.open(_find(name, runs, shared))
    page = write(run)
    project(run)
    if open_:
        webbrowser.open(page.resolve().as_uri())
    return Answer({"run": str(run.path), "report": str(page)}, [str(page)])


def runs(
    *,
    failed: Annotated[bool, Parameter(help="List failed and dropped candidates by reason.", negative=())] = False,
    runs: Runs = None,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """List the runs, newest last."""
    from bitfront.run import Run
    from bitfront.rundb import DATABASE

    folder = Path(shared.fill(runs=runs)["runs"] or "runs")
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"*/{DATABASE}"), key=lambda p: p.stat().st_mtime):
        try:
            found.append(_summary(Run.open(path.parent)))
        except BitfrontError as error:
            found.append(
                {"name": path.parent.name, "path": str(path.parent), "state": "damaged", "problem": str(error)}
            )
    if failed:
        rows = [(r["name"], n, reason) for r in found for reason, n in r.get("failures", {}).items()]
        return Answer({"runs": found}, [table(("run", ">candidates", "reason"), rows)])
    listed = [(r["name"], r["state"], _yes(r.get("met")), r.get("evaluations"), r.get("front")) for r in found]
    empty = [f"no runs in {folder}; `bitfront fit` makes one"]
    return Answer(
        {"runs": found}, [table(("run", "state", "met", ">evaluations", ">front"), listed)] if found else empty
    )


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _summary(run: Run) -> dict[str, Any]:
    failures: dict[str, int] = {}
    records = run.records()
    for record in records:
        if record.status in ("failed", "dropped"):
            reason = re.sub(r"\s*\(.*?\)|-?\b[0-9][0-9.]*\b", "", record.reason or record.status)
            failures[reason] = failures.get(reason, 0) + 1
    return {
        "name": run.name,
        "path": str(run.path),
        "state": "finished" if run.finished else "unfinished",
        "met": run.met if run.finished else None,
        "evaluations": len(records),
        "front": len(run.front),
        "seconds": run.seconds,
        "failures": failures,
    }


def compare(
    first: RunName,
    second: RunName,
    /,
    *more: RunName,
    out: Annotated[Path | None, Parameter(help="Write a page that compares them (.html).")] = None,
    runs: Runs = None,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Set the fronts of several runs side by side."""
    from bitfront.report import write_comparison
    from bitfront.run import Run

    opened = [Run.open(_find(name, runs, shared)) for name in (first, second, *more)]
    page = str(write_comparison(opened, out)) if out else None
    data = {"report": page, "runs": [{**_summary(run), "front": [front_data(m) for m in run.front]} for run in opened]}
    return Answer(data, [*(front_table(run.front, run.name) for run in opened), *([page] if page else [])])
