"""Networks explored: proposed stage by stage, forecast, trained, exported with every recipe, scored.

Each method does its part or reads back what was done before.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bitfront.contracts import Device, Objective, Runtime
from bitfront.errors import BitfrontError, BusyError, DataError, Interrupted, SpaceError, one_line
from bitfront.fitting.candidates import Network, make_candidate
from bitfront.fitting.config import Config
from bitfront.fitting.exploration import Explored, Stage, best, propose
from bitfront.fitting.forecast import Forecast, fitted, probe
from bitfront.fitting.progress import Clock, Progress
from bitfront.fitting.schedule import Job, nearest, schedule, train_options, usual_epochs
from bitfront.fitting.shop import open_shop
from bitfront.fitting.space import Architecture
from bitfront.fitting.training import Training, train_architecture
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.record import Candidate, Record, content_id, from_json
from bitfront.rundb import RunDb
from bitfront.tracking import Tracking
from bitfront.verbs.opening import Opened

__all__ = ["STOPPING", "Explorer", "Found", "Request", "reason"]

log = logging.getLogger(__name__)

STOPPING = (SpaceError, Interrupted, BusyError)
"""Errors that stop a run; any other costs one network or one file only."""
HALVING_FROM = 4
"""Trainings of a stage from which not all of them are carried to their end."""
SHORT, PROMOTED = 1 / 3, 1 / 3
"""Share of the epochs of the short trainings, and of the networks that go on after them."""

Trained = tuple[Architecture, Training | None]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A configuration with everything it names opened."""

    config: Config
    opened: Opened
    runtime: Runtime
    device: Device
    objectives: Sequence[Objective]
    architectures: Sequence[Architecture]
    """The whole space where it was given, else none: stages propose them."""
    recipes: Sequence[str]
    stages: Sequence[Stage] = ()
    sizes: Sequence[tuple[int, int]] = ()
    """Input sizes that stages choose from, the largest first."""

    def jobs(self, stage: Stage | None = None, known: Sequence[Explored] = ()) -> list[Job]:
        """Return the networks of the space, or those that a stage adds to what is known, in the order of work."""
        source = self.opened.source
        found = self.architectures if stage is None else propose(stage, source, self.sizes, known)
        retrain = (stage.retrain if stage else "") or self.config.retrain
        if retrain == "never" and source.kind in ("catalogue", "factory"):
            found = [a for a in found if source.weights_for(a.options, a.size) is not None]
        return schedule(source, found, retrain)


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
    ) -> None:
        self.db, self.request, self.config = db, request, request.config
        self.clock = Clock(report)
        self.start = time.monotonic()
        self.recorded: set[str] = set()
        self.spent_before = float(db.get("seconds", 0.0))
        self.clock.tell("scan", f"looking at the data of {request.opened.info.name}")
        shop = open_shop(db, request.config, request.opened, request.runtime, self.clock.tell)
        self.shop = replace(shop, tracking=tracking or Tracking())

    @property
    def seconds(self) -> float:
        """Wall time that the run worked, earlier sessions included."""
        return self.spent_before + time.monotonic() - self.start

    def say(self, stage: str, text: str) -> None:
        """Log a line and show it."""
        self.db.event(stage, text)
        self.clock.tell(stage, text)

    def _record(self, record: Record) -> None:
        self.recorded.add(record.id)
        self.db.record(record)

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
        forecast = self.forecast(jobs, limit_s, n_stages)
        trained = self._halved(jobs, forecast, found.trained) if stage else self.train(jobs, forecast, found.trained)
        records = self.candidates(trained, forecast)
        found.trained = list({(a.id, t.id if t else ""): (a, t) for a, t in (*found.trained, *trained)}.values())
        found.records = list({r.id: r for r in (*found.records, *records)}.values())
        found.candidate_s |= forecast.candidate_s
        found.fixed_s = forecast.fixed_s
        floats = {content_id(r.candidate.knobs): r for r in records if r.candidate.recipe == "float32" and r.val}
        for architecture, training in trained:
            record = floats.get(content_id(architecture.knobs))
            if record is not None and record.val is not None:
                own = training is not None or not (stage and stage.retrain)
                cost = (float(record.macs or 0), float(record.parameters or 0))
                found.known.append(Explored(architecture, record.val.value, *cost, stage.name if stage else "", own))

    # --- plan and train ----------------------------------------------------------------------------------------------
    def forecast(self, jobs: Sequence[Job], limit_s: float | None, n_stages: int = 1) -> Forecast:
        """Say how long the work will take, and with a limit of time what is left out."""
        request, config = self.request, self.config
        trainings = [job for job in jobs if job.share]
        if trainings and "train" not in self.shop.parts:
            raise DataError(
                f"'{config.data}' has no train part", hint="--retrain never exports given weights as they are"
            )
        n_train = len(self.shop.parts.get("train", ()))
        epochs = usual_epochs(config, n_train)
        options = train_options(config, n_train, epochs, fine=False) if trainings else None
        limit, recipes = config.budget.time_s, request.recipes

        def compute() -> Forecast:
            self.clock.tell("forecast", "timing training steps")
            found = probe(self.shop, jobs, options, len(recipes))
            return fitted(found, limit_s)

        found = from_json(
            Forecast, self.db.cached("forecast", [limit, jobs, options, recipes, self.shop.digest], compute)
        )
        self.clock.plan(found.seconds * n_stages)
        n_kept, n_trained = len(jobs) - len(found.left_out), len(trainings) - len(found.left_out)
        training = f", {n_trained} of them trained ({found.epochs} epochs from scratch)" if n_trained else ""
        self.say(
            "forecast",
            f"{n_kept} networks{training}, {len(recipes)} recipes: about {max(1, round(found.seconds / 60))} min",
        )
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
        promoted = {e.architecture.id for e in best(tried, max(HALVING_FROM // 2, math.ceil(n * PROMOTED)))}
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
        done: list[Trained] = []
        for job in jobs:
            architecture = job.architecture
            if architecture.id in forecast.left_out:
                self._lost(architecture, "dropped", "left out to keep the time")
                continue
            if not job.share:
                done.append((architecture, None))
                continue
            if done and self.seconds > (self.config.budget.time_s or math.inf):
                self._lost(architecture, "dropped", "left out, the time is up")
                continue
            self.clock.begin(scale * forecast.train_s.get(architecture.id, 0.0))
            known = [(a, t) for a, t in (*before, *done) if t is not None]
            try:
                training = self._train(job, forecast, known, scale)
            except STOPPING:
                raise
            except Exception as error:
                self._lost(architecture, "failed", reason("training", error))
                continue
            self.clock.end()
            if training.given_up:
                self._lost(architecture, "dropped", training.stopped)
                continue
            self.say("train", f"{architecture.label}: {training.best_score:.3f} in {training.seconds:.0f} s")
            done.append((architecture, training))
        return done

    def _train(
        self, job: Job, forecast: Forecast, before: Sequence[tuple[Architecture, Training]], scale: float
    ) -> Training:
        architecture, source = job.architecture, self.request.opened.source
        start = nearest(architecture, before)
        fine = start is not None or source.weights_for(architecture.options, architecture.size) is not None
        epochs = max(1, math.ceil(scale * forecast.epochs * (job.share if fine else 1.0)))
        options = train_options(self.config, len(self.shop.parts["train"]), epochs, fine=fine)
        weights = self.db.folder / start[1].weights if start else None
        return train_architecture(self.shop, architecture, options, weights, [t for _, t in before])

    def _lost(self, architecture: Architecture, status: str, reason: str) -> None:
        """Record an architecture that has no files."""
        source = self.request.opened.source
        candidate = Candidate(source.name, architecture.knobs, "float32", self.request.runtime.name)
        self._record(Record(candidate, status, reason))
        self.say(status, f"{architecture.label}: {reason}")

    # --- candidates ---------------------------------------------------------------------------------------------------
    def candidates(self, trained: Sequence[Trained], forecast: Forecast) -> list[Record]:
        """Export, verify and score every recipe of every network."""
        records: list[Record] = []
        links: dict[str, str] = dict(self.db.get("training", {}))
        for architecture, training in trained:
            weights = self.db.folder / training.weights if training else None
            network = Network(self.shop, architecture, weights)
            for recipe in self.request.recipes:
                self.clock.begin(forecast.candidate_s.get(architecture.id, 0.0))
                self.clock.tell("candidates", f"{architecture.label} {recipe}")
                record = self._candidate(network, recipe, training)
                records.append(record)
                if training:
                    links[record.id] = training.id
        self.db.put("training", links)
        return records

    def _candidate(
        self, network: Network, recipe: str, training: Training | None, searched: tuple[Graph, Plan] | None = None
    ) -> Record:
        try:
            record = make_candidate(network, recipe, training.seconds if training else None, searched=searched)
        except STOPPING:
            raise
        except Exception as error:
            record = Record(network.candidate(recipe), "failed", reason(recipe, error))
            self.db.event("failed", f"{record.candidate.label}: {record.reason}")
        self._record(record)
        return record


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


def reason(what: str, error: Exception) -> str:
    """Return one line on what failed; the traceback goes to the log."""
    log.debug("%s failed", what, exc_info=error)
    return one_line(
        f"{what}: {error}" if isinstance(error, BitfrontError) else f"{what}: {type(error).__name__}: {error}"
    )
