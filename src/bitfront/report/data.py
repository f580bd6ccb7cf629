"""What a report is made of: plain frozen data, read from a run or built by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bitfront.contracts import Metrics
from bitfront.record import Budget, Record, varying_knobs
from bitfront.report.searches import Search, finite, read_searches
from bitfront.report.stages import StageResult, read_stages
from bitfront.run import yaml

if TYPE_CHECKING:
    from bitfront.run import Run

__all__ = [
    "Curve",
    "Preview",
    "ReportData",
    "Suite",
    "from_run",
    "latency_ms",
    "recipe_of",
    "score_of",
    "shown_metrics",
]


@dataclass(frozen=True, slots=True)
class Curve:
    """One training: loss and validation score by epoch; ``None`` where an epoch was not scored."""

    label: str
    epochs: tuple[int, ...]
    loss: tuple[float | None, ...]
    score: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Preview:
    """One image of the validation part as the networks see it."""

    sample: str
    panels: Mapping[str, bytes]
    """``input``, ``label``, ``float``, the name of a method, ``difference`` -> an encoded image (JPEG or PNG)."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Suite:
    """A run that measured everything there is of one network."""

    name: str
    title: str = ""
    surprises: tuple[str, ...] = ()
    """What one would not expect, in sentences."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that the report shows; all tables, plots and pages are functions of this value."""

    name: str
    path: Path
    """The run folder."""
    budget: Budget = field(default_factory=Budget)
    records: tuple[Record, ...] = ()
    baseline: str = ""
    """Id of the float candidate that all others are compared with; empty when there is none."""
    chosen: str = ""
    """Id of the artifact that the run recommends; empty when the front is empty."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Front member's id -> name of its folder below ``front/`` (``01_knee``), the recommended one first."""
    clusters: Mapping[str, str] = field(default_factory=dict)
    """Front member's id -> ``fast``, ``balanced`` or ``accurate``."""
    curves: tuple[Curve, ...] = ()
    previews: tuple[Preview, ...] = ()
    searches: tuple[Search, ...] = ()
    """The bit searches of the run."""
    suite: Suite | None = None
    stages: tuple[StageResult, ...] = ()
    """What each stage of the exploration tried."""
    health: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    """The resolved YAML."""
    command: str = ""
    events: tuple[Mapping[str, Any], ...] = ()
    when: str = ""
    """When the run started, UTC, ISO 8601."""
    seconds: float | None = None
    varying: frozenset[str] = field(init=False, default=frozenset())
    """The knobs that tell the candidates apart."""

    def __post_init__(self) -> None:
        """Find the knobs that vary."""
        object.__setattr__(self, "varying", varying_knobs(r.candidate for r in self.records))

    def label(self, record: Record) -> str:
        """Return a candidate's name with the knobs that vary in this run."""
        return record.candidate.named(self.varying)

    @property
    def names(self) -> dict[str, str]:
        """Every candidate's id -> its name."""
        return {r.id: self.label(r) for r in self.records}

    @property
    def has_plans(self) -> bool:
        """Whether bits were searched."""
        return any(r.candidate.plan for r in self.records)

    @property
    def metric(self) -> str:
        """Name of the score that drove the run."""
        return next((m.score for r in self.records if (m := r.val or shown_metrics(r)) is not None), "score")

    @property
    def front(self) -> tuple[Record, ...]:
        """The front's members, in the order of their folders, then by latency."""
        order = {identity: n for n, identity in enumerate(self.folders)}
        members = [r for r in self.records if r.status == "front"]
        return tuple(sorted(members, key=lambda r: (order.get(r.id, len(order)), latency_ms(r) or 0.0, r.id)))

    def pick(self, record: Record) -> str:
        """Why a member of the front was picked, from its folder: ``01_knee`` -> ``knee``; empty for others."""
        return self.folders.get(record.id, "").partition("_")[2].replace("_", " ")

    def file(self, record: Record) -> Path | None:
        """The file to deploy: in the front's folder for its members, in the store for others."""
        if record.artifact is None:
            return None
        folder = self.folders.get(record.id)
        if folder is None:
            return self.path / record.artifact.path
        return self.path / "front" / folder / PurePosixPath(record.artifact.path).name

    def record(self, identity: str) -> Record | None:
        """The record with this id, if there is one."""
        return next((r for r in self.records if r.id == identity), None) if identity else None


def latency_ms(record: Record) -> float | None:
    """Median latency of a record in milliseconds; ``None`` when it was not measured."""
    return None if record.latency is None else float(record.latency.value)


def recipe_of(record: Record) -> str:
    """How a record was quantized; searched plans, each with a name of its own, are one recipe."""
    return "searched bits" if record.candidate.plan else record.candidate.recipe


def shown_metrics(record: Record) -> Metrics | None:
    """The scores to print of a record: of the test part when it was scored there, otherwise of the val part."""
    return record.test or record.val


def score_of(record: Record) -> float | None:
    """The score that drove the search (val; test when there is no val), in [0, 1]; ``None`` when undefined."""
    metrics = record.val or record.test
    if metrics is None or metrics.values.get(metrics.score) is None:
        return None
    return metrics.value


def from_run(run: Run) -> ReportData:
    """Read a run folder. Raises UsageError and DataError as :class:`bitfront.run.Run`."""
    records = tuple(run.records())
    members = run.front
    config, verdict = run.config, run.verdict
    events = [{"time": e.time, "stage": e.stage, "text": e.text} for e in run.events]
    return ReportData(
        name=run.name,
        path=run.path,
        budget=run.budget,
        records=records,
        baseline=str(run.value("baseline") or _best_float(records)),
        chosen=str(verdict.get("chosen") or (members[0].id if members else "")),
        folders={m.id: m.name for m in members},
        clusters={m.id: m.cluster for m in members},
        curves=tuple(_curve(training) for training in run.trainings().values()),
        previews=_previews(run.path / "previews"),
        searches=read_searches(run.value("searches")),
        suite=_suite(run.value("suite")),
        stages=read_stages(run.value("stages"), config.get("model", ""), Path(config.get("data", "")).name),
        health=run.health,
        environment=run.environment,
        config=config,
        config_text=yaml(config),
        command=str(run.value("command") or ""),
        events=tuple(events),
        when=events[0]["time"] if events else "",
        seconds=run.seconds,
    )


def _best_float(records: tuple[Record, ...]) -> str:
    """The float32 candidate with the best val score, of equals the cheapest: what losses of score refer to."""
    floats = [r for r in records if r.candidate.recipe == "float32" and r.val is not None]
    best = max(floats, key=lambda r: (score_of(r) or 0.0, -(r.macs or 0), r.id), default=None)
    return "" if best is None else best.id


def _curve(training: Mapping[str, Any]) -> Curve:
    rows = list(training.get("curve", []))
    return Curve(
        label=str(training.get("label", "")),
        epochs=tuple(int(row.get("epoch", n)) for n, row in enumerate(rows, 1)),
        loss=tuple(finite(row.get("loss")) for row in rows),
        score=tuple(finite(row.get("score")) for row in rows),
    )


def _previews(folder: Path) -> tuple[Preview, ...]:
    """Read ``index.json``: a list of ``{"sample", "note", "panels": {name: file}}``, the worst image first."""
    try:
        listed = json.loads((folder / "index.json").read_text("utf-8"))
        return tuple(
            Preview(
                sample=str(entry["sample"]),
                panels={name: (folder / Path(file).name).read_bytes() for name, file in entry["panels"].items()},
                note=str(entry.get("note", "")),
            )
            for entry in listed
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()  # pictures are a convenience; a damaged list costs no report


def _suite(value: Any) -> Suite | None:
    """Read the value ``suite`` of a run; ``None`` where it is none."""
    if not isinstance(value, Mapping) or not value.get("name"):
        return None
    said = value.get("surprises")
    texts = tuple(str(text)[:1000] for text in said) if isinstance(said, (list, tuple)) else ()
    return Suite(str(value["name"])[:40], str(value.get("title") or "")[:200], texts)
