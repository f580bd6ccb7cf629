"""A run, read from its folder: what :func:`bitfront.fit` returns and what reports are made of.

Reading needs no lock and changes nothing, so a run can be looked at while it works.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bitfront.errors import unknown_name
from bitfront.record import Budget, Record, from_json
from bitfront.rundb import DATABASE, read, read_records, read_results, read_value
from bitfront.store import atomic_json, atomic_write

__all__ = ["Event", "FrontMember", "Run", "find", "options", "project", "yaml"]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a run's log."""

    time: str
    """UTC, ISO 8601."""
    stage: str
    text: str


@dataclass(frozen=True, slots=True)
class FrontMember:
    """One member of the front: its record, and the folder with everything needed to deploy it."""

    name: str
    """Name of the folder: ``01_knee``."""
    path: Path
    """The folder."""
    record: Record
    cluster: str = ""
    """``fast``, ``balanced`` or ``accurate``: where on the front it lies."""

    @property
    def id(self) -> str:
        """Id of the candidate."""
        return self.record.id

    @property
    def model(self) -> Path:
        """The file that the runtime opens."""
        assert self.record.artifact is not None
        return self.path / Path(self.record.artifact.path).name

    @property
    def score(self) -> float:
        """Score on the validation part, in [0, 1]."""
        return self.record.val.value if self.record.val else 0.0

    @property
    def size_bytes(self) -> int:
        """Size of the artifact's file."""
        return self.record.artifact.size_bytes if self.record.artifact else 0

    @property
    def latency_ms(self) -> float | None:
        """Median latency of one image, when it was measured."""
        return self.record.latency.value if self.record.latency else None

    @property
    def verified(self) -> bool:
        """Whether the file computes what its reference computes."""
        return self.record.agreement is not None and self.record.agreement.verified


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder."""

    path: Path

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Open a run folder for reading.

        Raises UsageError when it is none or was written by a newer bitfront, and DataError when it is damaged.
        """
        run = cls(Path(path))
        with read(run.path):
            return run

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    def value(self, name: str, default: Any = None) -> Any:
        """Return one of the run's stored values."""
        with read(self.path) as db:
            return read_value(db, name, default)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, defaults written."""
        return dict(self.value("config", {}))

    @property
    def budget(self) -> Budget:
        """What the user can afford."""
        return from_json(Budget, self.config.get("budget", {}))

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, CPU and load at the start."""
        return dict(self.value("environment", {}))

    @property
    def health(self) -> dict[str, Any]:
        """What the scan of the data found."""
        return dict(self.value("health", {}))

    @property
    def finished(self) -> bool:
        """Whether all stages are done."""
        return bool(self.value("finished", False))

    @property
    def met(self) -> bool:
        """Whether a member of the front meets the budget."""
        return bool(self.value("met", False))

    @property
    def verdict(self) -> dict[str, Any]:
        """How the front stands to the budget: ``met``, ``chosen`` (id), ``miss`` (in words)."""
        return dict(self.value("verdict", {}))

    @property
    def seconds(self) -> float:
        """Wall time that the run worked, resumed parts added up."""
        return float(self.value("seconds", 0.0))

    @property
    def events(self) -> list[Event]:
        """The log."""
        with read(self.path) as db:
            return [Event(*row) for row in db.execute("SELECT time, stage, text FROM events ORDER BY sequence")]

    def records(self) -> list[Record]:
        """Return all candidates, in order of completion."""
        with read(self.path) as db:
            return read_records(db)

    @property
    def front(self) -> list[FrontMember]:
        """The front, the recommended member first."""
        records = {record.id: record for record in self.records()}
        clusters = self.verdict.get("clusters", {})
        return [
            FrontMember(e["name"], self.path / "front" / e["name"], records[e["id"]], clusters.get(e["id"], ""))
            for e in self.value("front", [])
        ]

    def trainings(self) -> dict[str, dict[str, Any]]:
        """Return every training by its id: ``label``, ``curve``, ``seconds``, ``stopped``."""
        with read(self.path) as db:
            return {value["id"]: value for value in read_results(db, "train")}

    def epochs(self, id: str) -> list[dict[str, Any]]:
        """Return the training curve behind a candidate, one mapping an epoch; empty when nothing was trained."""
        training = self.value("training", {}).get(id)
        return list(self.trainings().get(training, {}).get("curve", []))


def find(runs: Path, name: str) -> Path:
    """Return the folder of a run given by name or path. Raises UsageError naming the runs there are."""
    for path in (Path(name), runs / name):
        if (path / DATABASE).is_file():
            return path
    known = sorted(path.parent.name for path in runs.glob(f"*/{DATABASE}"))
    raise unknown_name("run", name, known)


# --- projections -----------------------------------------------------------------------------------------------------
COLUMNS: Mapping[str, Callable[[Record], Any]] = {
    "id": lambda r: r.id,
    "status": lambda r: r.status,
    "reason": lambda r: r.reason,
    "model": lambda r: r.candidate.model,
    "knobs": lambda r: json.dumps(dict(r.candidate.knobs)),
    "recipe": lambda r: r.candidate.recipe,
    "runtime": lambda r: r.candidate.runtime,
    "score_val": lambda r: r.val and r.val.value,
    "score_test": lambda r: r.test and r.test.value,
    "latency_ms": lambda r: r.latency and r.latency.value,
    "latency_p90_ms": lambda r: r.latency and r.latency.p90,
    "ratio_to_float": lambda r: r.latency and r.latency.ratio,
    "noise_floor": lambda r: r.latency and r.latency.noise_floor,
    "size_bytes": lambda r: r.artifact and r.artifact.size_bytes,
    "parameters": lambda r: r.parameters,
    "macs": lambda r: r.macs,
    "activation_bytes": lambda r: r.activation_bytes,
    "peak_activation_bytes": lambda r: r.peak_bytes,
    "ram_bytes": lambda r: r.ram_bytes,
    "device": lambda r: r.on_device and r.on_device.device,
    "device_flash_bytes": lambda r: r.on_device and r.on_device.flash_bytes,
    "device_ram_bytes": lambda r: r.on_device and r.on_device.ram_bytes,
    "modelled_instructions": lambda r: r.on_device and r.on_device.instructions,
    "modelled_latency_ms": lambda r: r.on_device and r.on_device.latency_ms,
    "counted_instructions": lambda r: r.on_device and r.on_device.counted_instructions,
    "linked_bytes": lambda r: r.on_device and r.on_device.linked_bytes,
    "verified": lambda r: None if r.agreement is None else r.agreement.verified,
    "train_s": lambda r: r.train_seconds,
    "sha256": lambda r: r.artifact and r.artifact.sha256,
}
"""Columns of the tables; units end the names, scores and ratios are fractions."""


def project(run: Run) -> None:
    """Write the files that only repeat what the database says: tables, configuration, environment, log."""
    records = run.records()
    atomic_write(run.path / "results.csv", table(records).encode())
    atomic_write(run.path / "pareto.csv", table([member.record for member in run.front]).encode())
    atomic_write(run.path / "bitfront.yaml", yaml(options(run.config)).encode())
    atomic_json(run.path / "env.json", run.environment)
    lines = [f"{event.time} {event.stage}: {event.text}\n" for event in run.events]
    atomic_write(run.path / "log.txt", "".join(lines).encode())


def table(records: Sequence[Record]) -> str:
    """Return records as CSV; cells that a spreadsheet would take for a formula are quoted with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerows([_cell(column(record)) for column in COLUMNS.values()] for record in records)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def yaml(config: Mapping[str, Any]) -> str:
    """Return plain data as YAML."""
    out = io.StringIO()
    YAML(typ="safe", pure=True).dump(dict(config), out)
    return out.getvalue()


def options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration as the keys of ``bitfront.yaml``; what was not asked for is left out."""
    budget = dict(config.get("budget", {}))
    knobs = {**config.get("settings", {}), **config.get("space", {})}
    found = {
        **{
            key: value for key, value in config.items() if key not in ("budget", "space", "settings", "recipes", "bits")
        },
        "max_latency": _with_unit(budget.get("max_latency_ms"), "ms"),
        "max_size": _with_unit(budget.get("max_size_bytes"), "B"),
        "max_ram": _with_unit(budget.get("max_ram_bytes"), "B"),
        "min_score": budget.get("min_score"),
        "max_drop": budget.get("max_drop"),
        "time": _with_unit(budget.get("time_s"), "s"),
        "recipe": list(config.get("recipes", ())),
        "set": {key: _knob(key, value) for key, value in knobs.items()},
        "bits": _bits(config.get("bits", {})),
    }
    return {key: value for key, value in found.items() if value not in (None, "", [], {})}


def _bits(bits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bit search, what was not said left out; nothing without a method."""
    return {key: value for key, value in bits.items() if value not in (None, "")} if bits.get("method") else {}


def _with_unit(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:g}{unit}" if isinstance(value, float) else f"{value}{unit}"


def _knob(key: str, value: Any) -> Any:
    """Write sizes as ``240x320``, as on the command line."""
    if key != "resolution" or not isinstance(value, (list, tuple)):
        return value
    if all(isinstance(side, int) for side in value):
        return "x".join(map(str, value))
    return [_knob(key, v) for v in value]
