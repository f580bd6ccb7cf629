"""Networks explored: proposed stage by stage, forecast, trained, exported with every recipe, scored.

Each method does its part or reads back what was done before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bitfront.errors import DataError
from bitfront.fitting.crew import Crew, InProcess
from bitfront.fitting.exploration import Explored, Stage, best
from bitfront.fitting.forecast import Forecast, fitted, probe
from bitfront.fitting.progress import Clock, Progress
from bitfront.fitting.request import Request
from bitfront.fitting.schedule import Job, nearest, train_options, usual_epochs
from bitfront.fitting.shop import open_shop
from bitfront.fitting.space import Architecture
from bitfront.fitting.tasks import FilesTask, T, TrainTask, reason
from bitfront.fitting.training import Training, n_parameters
from bitfront.fitting.waves import waves
from bitfront.fitting.worker import Place
from bitfront.measure.system import load_per_core
from bitfront.record import Candidate, Record, content_id, from_json
from bitfront.rundb import RunDb
from bitfront.tracking import Tracking

__all__ = ["Explorer", "Found"]

HALVING_FROM = 4
"""Trainings of a stage from which not all of them are carried to their end."""
NOTED_EVERY_S = 1.0
"""Wall time between two notes of the time that a run has worked."""
SLACK = 1.25
"""A training under a limit of time is cut when it takes so many times its forecast."""
SHORT, PROMOTED = 1 / 3, 1 / 3
"""Share of the epochs of the short trainings, and of the networks that go on after them."""

Trained = tuple[Architecture, Training | None]


@dataclass(slots=True)
class Found:
    """What exploring has found so far."""

    trained: list[Trained] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    known: list[Explored] = field(default_factory=list)
    candidate_s: dict[str, float] = field(default_factory=dict)
    """Architecture id -> forecast time of one of its files."""
    fixed_s: float = 0.0


class Explorer:
    """A run at work, up to the files of all networks."""

    def __init__(
        self,
        db: RunDb,
        request: Request,
        report: Callable[[Progress], None] | None,
        tracking: Tracking | None = None,
        crew: Crew | None = None,
    ) -> None:
        self.db, self.request, self.config = db, request, request.config
        self.clock = Clock(self._seen)
        self.report = report
        self.start, self.noted = request.started, time.monotonic()
        self.recorded: set[str] = set()
        self.spent_before = float(db.get("seconds", 0.0))
        self.clock.tell("scan", f"looking at the data of {request.opened.info.name}")
        shop = open_shop(db, request.config, request.opened, request.runtimes, self.clock.tell)
        self.crew = crew or InProcess()
        self.beside: bool = db.get("beside", False)
        """Whether trainings were cut into waves that can run beside each other, when the run began."""
        self.shop = replace(
            shop, tracking=tracking or Tracking(), made=self._made, one_thread=self.beside or self._is_crowded()
        )

    def _is_crowded(self) -> bool:
        """Whether the machine had more to do than it has cores when a run under a limit of time began.

        Two threads that wait for each other are then slower than one. Other runs look at their work alone, because the
        number of threads changes the last bits of weights.
        """
        if self.config.budget.time_s is None:
            return False
        if self.db.get("crowded") is None:
            self.db.put("crowded", (load_per_core() or 0.0) > 1.0)
        return bool(self.db.get("crowded"))

    @property
    def seconds(self) -> float:
        """Wall time that the run worked, earlier sessions included."""
        return self.spent_before + time.monotonic() - self.start

    def _seen(self, progress: Progress) -> None:
        """Note the time that was worked, for a run that is killed, and pass the progress on."""
        if time.monotonic() - self.noted > NOTED_EVERY_S:
            self.noted = time.monotonic()
            self.db.put("seconds", self.seconds)
        if self.report:
            self.report(progress)

    def say(self, stage: str, text: str) -> None:
        """Log a line and show it."""
        self.db.event(stage, text)
        self.clock.tell(stage, text)

    def _record(self, record: Record) -> None:
        self.recorded.add(record.id)
        self.db.record(record)

    def _made(self, record: Record) -> None:
        """Take in a record as soon as its file is there, or has failed."""
        if record.id not in self.recorded:
            self._record(record)
            if record.status == "failed":
                self.db.event("failed", f"{record.candidate.label}: {record.reason}")

    def _done(self, tasks: Iterable[tuple[T, float]]) -> Iterator[tuple[T, Any]]:
        """Have tasks done, each with its forecast time; yield them with their values or errors as they finish."""
        costs: dict[int, float] = {}

        def begun() -> Iterator[T]:
            for task, cost_s in tasks:
                costs[id(task)] = cost_s
                if not self.crew.apart:
                    self.clock.begin(cost_s)
                yield task

        place = Place.of(self.request.reopen, self.config, self.db.folder)
        for task, value in self.crew.run(begun(), self.shop, self.db, place):
            if self.crew.apart:
                self.clock.begin(costs[id(task)] / self.crew.n)
            self.clock.end()
            yield task, value

    # --- stage by stage ----------------------------------------------------------------------------------------------
    def explore(self) -> Found:
        """Train and export all networks of the space, or stage after stage what each proposes."""
        found = Found()
        if not self.request.stages:
            self._explore(None, self.request.jobs(), found, self.time_left())
            return found
        told = []
        for n, stage in enumerate(self.request.stages):
            jobs = self.request.jobs(stage, found.known)
            if not jobs:
                self.say("stage", f"{stage.name}: nothing new to try")
                continue
            self.say("stage", f"{stage.name}: {stage.description}, {len(jobs)} networks")
            n_left = len(self.request.stages) - n + bool(self.config.bits.method)
            left = self.time_left()
            before = len(found.records)
            self._explore(stage, jobs, found, None if left is None else left / n_left, n_left)
            told.append(_told(stage, found, {r.id for r in found.records[before:]}))
            self.db.put("stages", told)
        return found

    def time_left(self) -> float | None:
        """Return the seconds until the limit; ``None`` without one."""
        limit = self.config.budget.time_s
        return None if limit is None else limit - self.seconds

    def _explore(
        self, stage: Stage | None, jobs: Sequence[Job], found: Found, limit_s: float | None, n_stages: int = 1
    ) -> None:
        jobs = self.possible(jobs)
        forecast = self.forecast(jobs, limit_s, n_stages)
        trained = (
            self._halved(jobs, forecast, found.trained)
            if stage and stage.halved
            else self.train(jobs, forecast, found.trained)
        )
        records = self.candidates(trained, forecast)
        found.trained = list({(a.id, t.id if t else ""): (a, t) for a, t in (*found.trained, *trained)}.values())
        found.records = list({r.id: r for r in (*found.records, *records)}.values())
        found.candidate_s |= forecast.candidate_s
        found.fixed_s = forecast.fixed_s
        main = self.shop.runtime.name
        floats = {
            content_id(r.candidate.knobs): r
            for r in records
            if (r.candidate.recipe, r.candidate.runtime) == ("float32", main) and r.val
        }
        for architecture, training in trained:
            record = floats.get(content_id(architecture.knobs))
            if record is not None and record.val is not None:
                own = training is not None or not (stage and stage.retrain) or self._is_native(architecture)
                cost = (float(record.macs or 0), float(record.parameters or 0))
                found.known.append(Explored(architecture, record.val.value, *cost, stage.name if stage else "", own))

    def _is_native(self, architecture: Architecture) -> bool:
        """Whether weights were given for a network, and trained at its size."""
        source = self.request.opened.source
        given = source.weights_for(architecture.options, architecture.size)
        return given is not None and source.trained_size(given) == architecture.size

    def possible(self, jobs: Sequence[Job]) -> list[Job]:
        """Leave out networks that no recipe can make small enough; where all are, the smallest stays."""
        due = [job for job in jobs if job.share]
        if self.config.budget.max_size_bytes is None or not due:
            return list(jobs)
        sizes = {job.architecture.id: n_parameters(self.shop, job.architecture) for job in due}
        why = {key: reason for key, n in sizes.items() if (reason := self.request.window.too_large(n))}
        if len(why) == len(jobs):
            del why[min(why, key=lambda key: (sizes[key], key))]
        for job in due:
            if job.architecture.id in why:
                self._lost(job.architecture, "dropped", why[job.architecture.id])
        return [job for job in jobs if job.architecture.id not in why]

    # --- plan and train ----------------------------------------------------------------------------------------------
    def forecast(self, jobs: Sequence[Job], limit_s: float | None, n_stages: int = 1) -> Forecast:
        """Say how long the work will take, and with a limit of time what is left out."""
        request, config = self.request, self.config
        trainings = [job for job in jobs if job.share]
        if trainings and "train" not in self.shop.parts:
            raise DataError(
                f"'{config.data}' has no train part", hint="--retrain never exports given weights as they are"
            )
        n_train, task = len(self.shop.parts.get("train", ())), self.shop.opened.task.name
        epochs = usual_epochs(config, n_train, task)
        augment = self.shop.opened.info.augment
        options = train_options(config, n_train, epochs, augment=augment, task=task) if trainings else None
        limit, ways = config.budget.time_s, request.ways

        def compute() -> Forecast:
            self.clock.tell("forecast", "timing training steps")
            found = replace(probe(self.shop, jobs, options, len(ways)), n_workers=self.crew.n)
            return fitted(found, limit_s)

        inputs = [limit, jobs, options, ways, self.shop.digest]
        found = from_json(Forecast, self.db.cached("forecast", inputs, compute))
        found = replace(found, n_workers=self.crew.n)  # a run may be resumed with others
        self.clock.plan(found.seconds * n_stages)
        n_kept, n_trained = len(jobs) - len(found.left_out), len(trainings) - len(found.left_out)
        training = f", {n_trained} of them trained ({found.epochs} epochs from scratch)" if n_trained else ""
        many, minutes = "network" if n_kept == 1 else "networks", max(1, round(found.seconds / 60))
        self.say("forecast", f"{n_kept} {many}{training}, {len(ways)} files each: about {minutes} min")
        return found

    def _halved(self, jobs: Sequence[Job], forecast: Forecast, before: Sequence[Trained]) -> list[Trained]:
        """Train all jobs for a short while, and those that are on the front then to their end.

        Source: successive halving; Jamieson and Talwalkar 2016, "Non-stochastic best arm identification". With few
        jobs, or epochs too few to be cut, all are trained to their end.
        """
        n = sum(job.share > 0 and job.architecture.id not in forecast.left_out for job in jobs)
        if n < HALVING_FROM or forecast.epochs * SHORT < 1:
            return self.train(jobs, forecast, before)
        short = self.train(jobs, forecast, before, scale=SHORT)
        tried = [Explored(a, t.best_score, t.macs, float(t.parameters), "") for a, t in short if t is not None]
        window = replace(self.request.window, floor=None, max_drop=None)  # scores still rise
        promoted = {e.architecture.id for e in window.best(tried, max(HALVING_FROM // 2, math.ceil(n * PROMOTED)))}
        for e in tried:
            if e.architecture.id not in promoted:
                self._lost(e.architecture, "dropped", f"not on the front after a short training: {e.score:.3f}")
        rest = [(a, t) for a, t in short if t is None]
        again = [job for job in jobs if job.architecture.id in promoted]
        return rest + self.train(again, forecast, [*before, *short])

    def train(
        self, jobs: Sequence[Job], forecast: Forecast, before: Sequence[Trained] = (), scale: float = 1.0
    ) -> list[Trained]:
        """Train what is planned, for ``scale`` times its epochs; a training that fails costs its architecture only."""
        done: dict[str, Trained] = {}
        due: list[Job] = []
        for job in jobs:
            if job.architecture.id in forecast.left_out:
                self._lost(job.architecture, "dropped", "left out to keep the time")
            elif job.share:
                due.append(job)
            else:
                done[job.architecture.id] = (job.architecture, None)
        for wave in self._waves(due, before):
            known = [(a, t) for a, t in (*before, *_in_order(done, jobs)) if t is not None]
            for task, training in self._done(self._trainings(wave, forecast, known, scale, done)):
                if self._is_trained(task.architecture, training):
                    done[task.architecture.id] = (task.architecture, training)
        return _in_order(done, jobs)

    def _waves(self, due: Sequence[Job], before: Sequence[Trained]) -> list[list[Job]]:
        """Cut trainings into those that know nothing of each other; all of them do where one comes after the other."""
        if not self.beside:
            return [[job] for job in due]
        return waves(due, [a.family for a, t in before if t is not None])

    def _trainings(
        self,
        wave: Sequence[Job],
        forecast: Forecast,
        known: Sequence[tuple[Architecture, Training]],
        scale: float,
        done: Mapping[str, Trained],
    ) -> Iterator[tuple[TrainTask, float]]:
        """Yield tasks while there is time; without any network there is, whatever the clock says."""
        if self.crew.apart and self.config.budget.time_s is None:  # the longest first, so that all end together
            wave = sorted(wave, key=lambda job: -forecast.train_s.get(job.architecture.id, 0.0))
        has_some, files_s = bool(done), sum(forecast.files_s(a) for a, _ in done.values())
        for job in wave:
            cost_s = scale * forecast.train_s.get(job.architecture.id, 0.0)
            files_s += forecast.files_s(job.architecture)
            work = f"train {job.architecture.id} {scale}"
            if not self._begins(work, cost_s + scale * files_s, forecast, anyway=not has_some):
                files_s -= forecast.files_s(job.architecture)
                self._lost(job.architecture, "dropped", "left out, the time is up")
                continue
            has_some = True
            yield self._training(job, forecast, known, scale), cost_s

    def _begins(self, work: str, cost_s: float, forecast: Forecast, *, anyway: bool) -> bool:
        """Whether a piece of work leaves time for the end of the run, or was begun before the run was killed."""
        left, begun = self.time_left(), self.db.get("begun", [])
        if left is None or work in begun:
            return True
        if not anyway and cost_s + forecast.fixed_s > left:
            return False
        self.db.put("begun", [*begun, work])
        return True

    def _training(
        self, job: Job, forecast: Forecast, before: Sequence[tuple[Architecture, Training]], scale: float
    ) -> TrainTask:
        architecture, source = job.architecture, self.request.opened.source
        start = nearest(architecture, before, source)
        given = source.weights_for(architecture.options, architecture.size)
        fine = given is not None if start is None else start[0].family == architecture.family
        epochs = max(1, math.ceil(scale * forecast.epochs * (job.share if fine else 1.0)))
        n_train, augment = len(self.shop.parts["train"]), self.shop.opened.info.augment
        options = train_options(self.config, n_train, epochs, augment=augment, task=self.shop.opened.task.name)
        if self.config.budget.time_s is not None and architecture.id in forecast.train_s:
            limit_s = SLACK * scale * forecast.train_s[architecture.id]
            options = replace(options, time_limit_seconds=round(limit_s, 3))
        return TrainTask(architecture, options, start[1].weights if start else "", tuple(t for _, t in before))

    def _is_trained(self, architecture: Architecture, training: Any) -> bool:
        """Say what came of a training, and whether it is one to go on with."""
        if isinstance(training, Exception):
            self._lost(architecture, "failed", reason("training", training))
            return False
        if self.crew.apart:
            self.shop.tracking.curve(training.curve, f"{architecture.label}/")
        if training.given_up:
            self._lost(architecture, "dropped", training.stopped)
            return False
        self.say("train", f"{architecture.label}: {training.best_score:.3f} in {training.seconds:.0f} s")
        return True

    def _lost(self, architecture: Architecture, status: str, reason: str) -> None:
        """Record an architecture that has no files."""
        source = self.request.opened.source
        candidate = Candidate(source.name, architecture.knobs, "float32", self.shop.runtime.name)
        self._record(Record(candidate, status, reason))
        self.say(status, f"{architecture.label}: {reason}")

    # --- candidates ---------------------------------------------------------------------------------------------------
    def candidates(self, trained: Sequence[Trained], forecast: Forecast) -> list[Record]:
        """Export, verify and score every recipe of every network."""
        ways = self.request.ways
        links: dict[str, str] = dict(self.db.get("training", {}))
        made: dict[str, list[Record]] = {}
        tasks = [FilesTask(a, t, ways) for a, t in trained]
        for task, records in self._done(self._files(tasks, forecast)):
            if isinstance(records, Exception):
                records = self._failed(task, records)
            for record in records:
                self._made(record)
                if task.training:
                    links[record.id] = task.training.id
            made[_key(task)] = records
        self.db.put("training", links)
        return [record for task in tasks for record in made.get(_key(task), ())]

    def _files(self, tasks: Sequence[FilesTask], forecast: Forecast) -> Iterator[tuple[FilesTask, float]]:
        """Yield the making of files while there is time; that of the first network whatever the clock says."""
        for n, task in enumerate(tasks):
            cost_s = forecast.files_s(task.architecture)
            if not self._begins(f"files {_key(task)}", cost_s, forecast, anyway=not n):
                self._lost(task.architecture, "dropped", "no files, the time is up")
                continue
            yield task, cost_s

    def _failed(self, task: FilesTask, error: Exception) -> list[Record]:
        """Return the records of a network whose files could not be made, or not all."""
        network = task.network(self.shop)
        known = {record.id: record for record in self.db.records() if record.id in self.recorded}
        failed = [Record(network.candidate(way), "failed", reason(way.recipe, error)) for way in task.ways]
        return [known.get(record.id, record) for record in failed]


def _key(task: FilesTask) -> str:
    return content_id(task.architecture.id, task.training.id if task.training else "")


def _in_order(done: Mapping[str, Trained], jobs: Sequence[Job]) -> list[Trained]:
    return [done[job.architecture.id] for job in jobs if job.architecture.id in done]


def _told(stage: Stage, found: Found, new: set[str]) -> dict[str, Any]:
    """Return what a stage's table shows, as plain data."""
    here = [e for e in found.known if e.stage == stage.name]
    front = {e.architecture.id for e in best(found.known, len(found.known))}
    return {
        "name": stage.name,
        "description": stage.description,
        "thesis": stage.thesis,
        "networks": [
            {
                "label": e.architecture.label,
                "knobs": e.architecture.knobs,
                "score": e.score,
                "macs": e.macs,
                "parameters": e.parameters,
                "front": e.architecture.id in front,
            }
            for e in here
        ],
        "records": sorted(new),
    }
