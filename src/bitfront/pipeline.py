"""``fit``: the stages in order, under a budget.

scan the data -> declare the space -> forecast -> train every architecture -> export, verify and score every recipe ->
time the survivors together -> drop what loses -> front -> test part, once per member -> folders and report.

Every stage's result lies in the run's database under the content id of its inputs; ``resume`` is the same call on a
folder that exists. With the same seed, data and machine the same candidates come out; with objectives that are not
measured in time (score, size, macs) also the same front, bit for bit.
"""

from __future__ import annotations

import re
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitfront import report
from bitfront.contracts import Device
from bitfront.errors import BitfrontError, DeviceError, Interrupted, UsageError, unknown_name
from bitfront.fitting.config import BitSearch, Config
from bitfront.fitting.crew import Crew, InProcess, Workers
from bitfront.fitting.progress import Progress
from bitfront.fitting.request import Request, open_request
from bitfront.fitting.searching import menu_options, usual_evaluations
from bitfront.fitting.space import (
    RESOLUTION,
)
from bitfront.fitting.stages import Work
from bitfront.fitting.suites import SUITES
from bitfront.fitting.target import usual_search
from bitfront.record import Budget, from_json, to_json
from bitfront.registry import load
from bitfront.run import Run, project
from bitfront.rundb import RunDb
from bitfront.store import claim
from bitfront.tracking import FOLDER, Tracking, require, tracking
from bitfront.verbs.opening import open_both

__all__ = ["Progress", "fit", "plan", "plan_search", "resume", "search", "suite"]

Report = Callable[[Progress], None]
OBJECTIVE_OF = {name: name for name in ("flash", "ram", "instructions", "modelled_latency")}
"""Cost of a bit search -> the objective by which its files are judged."""
KNOWN_FILES = (".onnx", ".safetensors", ".pt", ".pth", ".yaml", ".yml")


def fit(
    model: str = "fast_scnn",
    data: str = "conveyor",
    *,
    task: str = "",
    reader: str = "",
    budget: Budget | None = None,
    space: Mapping[str, Sequence[Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    recipes: Sequence[str] | None = None,
    runtime: str = "",
    runtimes: Sequence[str] = (),
    device: str = "host",
    objectives: Sequence[str] | None = None,
    effort: str = "entry",
    stages: Sequence[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    augment: str = "",
    seed: int = 0,
    score: str = "",
    threads: int = 1,
    retrain: str = "auto",
    teacher: Path | str = "",
    limit: int | None = None,
    track: Sequence[str] = (),
    pick: str = "knee",
    suite: str = "",
    bits: BitSearch | None = None,
    workers: int | None = None,
    ray: str = "",
    name: str | None = None,
    runs: Path | str = "runs",
    command: str = "",
    progress: Report | None = None,
) -> Run:
    """Find the Pareto front of verified artifacts of a model on data under a budget.

    Args:
        model: catalogue name, checkpoint, ``.onnx`` file or ``package.module:factory``.
        data: catalogue name, folder or data YAML.
        task: what is asked of the network; by default what model and data are for.
        reader: reader of the data folder, when it is not recognised.
        budget: limits; all of them are optional.
        space: knob -> values to try, and ``resolution`` -> ``(height, width)`` values.
        settings: knobs that are fixed; a tuple of values belongs to the space.
        weights: checkpoint, or folder of them, that architectures start from.
        preprocess: how a file that does not say it wants to be fed.
        recipes: quantization recipes to try; float32 always is.
        runtime: engine that executes the files; by default the device's.
        runtimes: further engines, whose files compete on the same front.
        device: what they are for: ``host`` is this machine, where they are timed; for others costs are modelled.
        objectives: axes of the front; by default the device's.
        effort: ``entry``, ``intermediate`` or ``expert``: how much is explored when nothing is said.
        stages: stages of thesis 001 to go through (:data:`bitfront.fitting.exploration.STAGES`); by default those of
            the effort, or all of ``space`` in product where it is given.
        epochs: epochs of a training from scratch; those that start from weights take 40 % of them.
        batch_size: images of a training step.
        learning_rate: first rate of all trainings.
        augment: augmentation by name.
        seed: of everything random.
        score: metric that drives the search (default: the task's).
        threads: threads of the engine.
        retrain: ``auto`` (fresh networks, and given weights at other sizes than their own), ``always`` or ``never``.
        teacher: a trained network whose outputs every training learns from, too (knowledge distillation).
        limit: use at most so many images of each part.
        track: trackers by name that get parameters, curves and the front, below ``runs/tracking``.
        pick: which member of the front is recommended: ``knee``, ``fastest``, ``smallest``, ``best``, or a
            candidate's id (its first letters).
        suite: measure everything there is of one network, see :func:`suite`.
        bits: search the bits of every tensor of the best networks, see :class:`bitfront.fitting.config.BitSearch`.
        workers: networks are trained and made into files in so many processes beside each other; a script that asks for
            them begins its work below ``if __name__ == "__main__":``. Their number changes no result.
        ray: the same on a Ray cluster: its address, or ``local`` to start one on this machine.
        name: name of the run (default: model and data).
        runs: folder of the runs.
        command: what the user typed, for the record.
        progress: called with :class:`Progress`.

    Returns:
        The finished run. Whether it meets the budget is ``run.met``.

    Raises:
        UsageError: wrong names or options.
        DataError: data or model files that cannot be used.
        DeviceError: the runtime cannot be used here.
        SpaceError: the disk is full; free some and resume.
        Interrupted: stopped by the user; the state is saved.
    """
    fixed, several = _split(settings or {})
    config = Config(
        model=model, data=data, reader=reader, task=task, budget=budget or Budget(),
        space={**several, **(space or {})}, settings=fixed, weights=str(weights or ""), preprocess=preprocess,
        recipes=tuple(recipes or ()),
        runtime=runtime, runtimes=tuple(runtimes), device=device,
        objectives=None if objectives is None else tuple(objectives), effort=effort,
        stages=tuple(stages),
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, augment=augment, seed=seed, score=score,
        threads=threads, retrain=retrain, limit=limit, pick=pick, suite=suite, bits=bits or BitSearch(),
        track=tuple(track), teacher=str(teacher),
    )  # fmt: skip
    require(config.track)
    crew = _crew(workers, ray)
    request = open_request(config)
    with crew:
        folder = claim(Path(runs), name or _default_name(config))
        return _work(folder, request, command or f"bitfront fit {model} {data}", progress, crew)


def search(
    model: str,
    data: str,
    *,
    bits: BitSearch | None = None,
    task: str = "",
    reader: str = "",
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    **options: Any,
) -> Run:
    """Search the bits of every tensor of one trained network; the front holds files beside float32 and int8.

    Thesis 000, chapters 4 and 5, is ``BitSearch("genetic")``; the default method is ``surrogate``.

    Args:
        model: catalogue name (with ``weights``), checkpoint, ``.onnx`` file or ``package.module:factory``.
        data: catalogue name, folder or data YAML; the search scores on its val part, screens on its train part.
        bits: method, widths, costs and limits.
        task: what is asked of the network; by default what model and data are for.
        reader: reader of the data folder, when it is not recognised.
        settings: knobs, e.g. ``{"resolution": (256, 256)}``.
        weights: checkpoint for catalogue models and factories.
        preprocess: how a file that does not say it wants to be fed.
        **options: further arguments of :func:`fit`.

    Returns:
        The finished run.

    Raises:
        UsageError: wrong names, options or widths; a network without weights.
        DataError: data or model files that cannot be used.
        Interrupted: stopped by the user; the state is saved, and ``resume`` goes on.
    """
    bits = bits or BitSearch("surrogate")
    if not bits.method:
        raise UsageError("which method?", hint="`bitfront list methods` names them")
    there: Device = load("device", options.get("device") or "host")
    bits = usual_search(bits, there)
    menu_options(bits)
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    source = opened.source
    fixed = {**(settings or {}), RESOLUTION: (source.input.height, source.input.width)}
    objectives = ("score", *(OBJECTIVE_OF[cost] for cost in bits.costs if cost in OBJECTIVE_OF))
    known = load("runtime", options.get("runtime") or there.runtimes[0]).recipes
    recipes = ("float32", "int8" if "int8" in known else "qmn8")
    defaults = {"recipes": recipes, "objectives": objectives, "effort": "single", "retrain": "never"}
    return fit(
        model, data, task=task, reader=reader, settings=fixed, weights=weights, preprocess=preprocess,
        bits=replace(bits, n_networks=1), **{**defaults, **options},
    )  # fmt: skip


def suite(
    which: str,
    model: str,
    data: str,
    *,
    runtimes: Sequence[str] = (),
    recipes: Sequence[str] = (),
    device: str = "host",
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    **options: Any,
) -> Run:
    """Measure one network in every way there is: each recipe in each engine; thesis 002 is the suite ``ptq``.

    The run's report has one table of everything, the planes of size, time, frames a second and score, pictures side by
    side, and a sentence for every surprise. A network without weights is trained first.

    Args:
        which: of :data:`bitfront.fitting.suites.SUITES`.
        model: catalogue name, checkpoint, ``.onnx`` file or ``package.module:factory``.
        data: catalogue name, folder or data YAML.
        runtimes: engines; by default all that the device runs and that are installed here.
        recipes: recipes; by default all that the engines have.
        device: where files are timed.
        settings: knobs, e.g. ``{"resolution": (256, 256)}``.
        weights: checkpoint for catalogue models and factories.
        **options: further arguments of :func:`fit`.

    Returns:
        The finished run.

    Raises:
        UsageError: wrong names or options.
        DataError: data or model files that cannot be used.
        DeviceError: no engine can be used here.
        Interrupted: stopped by the user; the state is saved, and ``resume`` goes on.
    """
    if which not in SUITES:
        raise unknown_name("suite", which, SUITES)
    there: Device = load("device", device)
    engines = list(runtimes) or [r for r in there.runtimes if not load("runtime", r)().missing()]
    if not engines:
        raise DeviceError(f"none of {', '.join(there.runtimes)} is installed here", hint="`bitfront doctor` says more")
    offered = dict.fromkeys(recipe for engine in engines for recipe in load("runtime", engine).recipes)
    opened = open_both(
        model, data, task=options.get("task", ""), reader=options.get("reader", ""), settings=settings,
        preprocess=options.get("preprocess", ""), weights=weights,
    )  # fmt: skip
    size = (opened.source.input.height, opened.source.input.width)
    defaults = {"objectives": ("score", "latency", "size"), "effort": "single", "retrain": "auto"}
    return fit(
        model, data, settings={**(settings or {}), RESOLUTION: size}, weights=weights, device=device,
        runtime=engines[0], runtimes=engines[1:], recipes=recipes or tuple(offered), suite=which,
        **{**defaults, **options},
    )  # fmt: skip


def plan_search(model: str, data: str, *, bits: BitSearch, device: str = "host", **opening: Any) -> dict[str, Any]:
    """Return what :func:`search` would do, doing nothing. Raises UsageError, DataError."""
    bits = usual_search(bits, load("device", device))
    options = menu_options(bits)
    opened = open_both(model, data, **opening)
    assert opened.dataset is not None
    parts = opened.dataset.parts()
    return {
        "method": bits.method,
        "resolution": [opened.source.input.height, opened.source.input.width],
        "weight_bits": list(options.weight_bits),
        "activation_bits": list(options.activation_bits) or "float",
        "objectives": ["score", *bits.costs],
        "evaluations": usual_evaluations(bits) or "as thesis 000: 30 + 45 a generation",
        "scored_on": f"{len(opened.dataset.part('val' if 'val' in parts else parts[0]))} images",
    }


def resume(
    path: Path | str,
    progress: Report | None = None,
    pick: str = "",
    *,
    workers: int | None = None,
    ray: str = "",
) -> Run:
    """Go on with a run: finished work is read back, only unfinished work is done. Raises as :func:`fit`.

    ``pick`` says anew which member is recommended. ``workers`` and ``ray`` may be others than before; of a run that
    began without them the trainings go on one after another, because each knows of those before it.
    """
    run = Run.open(path)
    stored = run.value("config")
    if stored is None:
        raise UsageError(f"{run.path} was stopped before it began", hint="start it again with `bitfront fit`")
    config = from_json(Config, stored)
    request = open_request(replace(config, pick=pick or config.pick))
    with _crew(workers, ray) as crew:
        return _work(run.path, request, "", progress, crew)


def _crew(workers: int | None, ray: str) -> Crew:
    """Return who does the work. Raises UsageError."""
    if not ray:
        return InProcess() if workers is None else Workers(workers)
    from bitfront.fitting.ray_crew import RayCrew

    return RayCrew(ray, workers)


def plan(config: Config, workers: int | None = None) -> dict[str, Any]:
    """Return what :func:`fit` would explore and how long it would take, and leave nothing behind.

    Of a run in stages, the first that has something to do: the others depend on what it finds.

    Returns ``stages`` (names), ``networks`` (labels), ``trainings``, ``recipes``, ``evaluations``, ``epochs``,
    ``seconds``, ``left_out`` (labels of networks for which there is no time, or that no recipe makes
    small enough) and ``notes``. Raises UsageError, DataError.
    """
    request = open_request(config)
    first = next(((s, jobs) for s in request.stages if (jobs := request.jobs(s))), (None, ()))
    all_jobs = first[1] if request.stages else request.jobs()
    n_stages = max(1, len(request.stages))
    with tempfile.TemporaryDirectory() as folder, RunDb(Path(folder)) as db:
        limit = config.budget.time_s
        db.put("beside", workers is not None)
        work = Work(db, request, None, crew=_crew(workers, ""))
        possible = work.possible(all_jobs)
        forecast = work.forecast(possible, limit / n_stages if limit else None, n_stages)
    jobs = [job for job in possible if job.architecture.id not in forecast.left_out]
    done = {job.architecture.id for job in jobs}
    return {
        "stages": [stage.name for stage in request.stages],
        "networks": [job.architecture.label for job in jobs],
        "trainings": sum(job.share > 0 for job in jobs),
        "recipes": list(dict.fromkeys(way.recipe for way in request.ways)),
        "runtimes": [runtime.name for runtime in request.runtimes],
        "evaluations": len(jobs) * len(request.ways),
        "epochs": forecast.epochs,
        "seconds": round(forecast.seconds * n_stages, 1),
        "left_out": [job.architecture.label for job in all_jobs if job.architecture.id not in done],
        "notes": list(request.opened.source.notes),
    }


def _split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings with one value and those with several."""
    fixed: dict[str, Any] = {}
    several: dict[str, Any] = {}
    for key, value in settings.items():
        is_many = isinstance(value, (list, tuple))
        if key == RESOLUTION and is_many:
            is_many = bool(value) and not all(isinstance(side, int) for side in value)
        (several if is_many else fixed)[key] = value
    return fixed, several


def _default_name(config: Config) -> str:
    names = [Path(text.rpartition(":")[2]) for text in (config.model, config.data)]
    plain = "_".join(path.stem if path.suffix.lower() in KNOWN_FILES else path.name for path in names)
    return re.sub(r"[^\w.+-]+", "-", plain).strip("-._+")[:60] or "run"


def _work(folder: Path, request: Request, command: str, progress: Report | None, crew: Crew) -> Run:
    with tracking(request.config.track, folder.absolute().parent / FOLDER, folder.absolute().name) as tracked:
        tracked.parameters(to_json(request.config))
        _stages(folder, request, command, progress, tracked=tracked, crew=crew)
        run = Run.open(folder)
        report.write(run)
        project(run)
        _track_front(run, tracked)
    return run


def _track_front(run: Run, tracked: Tracking) -> None:
    for place, member in enumerate(run.front, 1):
        values = {"score": member.score, "size_bytes": member.size_bytes, "latency_ms": member.latency_ms}
        tracked.log({f"front/{name}": value for name, value in values.items()}, place)
        tracked.artifact(member.model, f"front/{member.name}/{member.model.name}")
    tracked.artifact(run.path / "report.html", "report.html")


def _stages(
    folder: Path, request: Request, command: str, progress: Report | None, *, tracked: Tracking, crew: Crew
) -> None:
    with RunDb(folder) as db:
        if command:
            db.put("config", request.config)
            db.put("command", command)
            db.put("beside", crew.apart)
        db.put("finished", False)
        work: Work | None = None
        try:
            work = Work(db, request, progress, tracked, crew)
            work.run()
            db.put("config", request.config)
        except KeyboardInterrupt:
            db.event("interrupted", "stopped by the user; the state is saved")
            raise Interrupted(
                "stopped; what was finished is kept", hint=f"`bitfront resume {folder}` goes on"
            ) from None
        except Exception as error:
            db.release_reserve()
            text = str(error) if isinstance(error, BitfrontError) else traceback.format_exc()
            db.event("error", text)
            raise
        finally:
            if work is not None:
                db.put("seconds", work.seconds)
