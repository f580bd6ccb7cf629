"""What all work of a run has in common: the folder and its database, the model and the data, the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bitfront import batches
from bitfront.contracts import Device, Part, Runtime
from bitfront.errors import DataError
from bitfront.fitting.config import Config
from bitfront.record import Record, content_id, to_json
from bitfront.registry import load
from bitfront.scan import scan, without
from bitfront.tracking import Tracking
from bitfront.verbs.opening import Opened
from bitfront.verbs.teaching import Teacher

__all__ = ["Shop", "Store", "Tell", "Way", "open_shop"]

HERE = Device("host", "this machine", ())
HOLDOUT = 5
"""Every so many-th sample of train serves as val when the data has none."""

Tell = Callable[[str, str, float], None]
"""Called with stage, text and the finished share of the current piece of work."""


class Store(Protocol):
    """The part of :class:`bitfront.rundb.RunDb` that work needs: results read back, or worked out and kept."""

    @property
    def folder(self) -> Path:
        """The run's."""
        ...

    def put(self, name: str, value: Any) -> None:
        """Store a plain value under a name."""
        ...

    def event(self, stage: str, text: str) -> None:
        """Add a line to the log."""
        ...

    def cached(
        self,
        stage: str,
        inputs: Any,
        compute: Callable[[], Any],
        files: Callable[[Any], Iterable[str]] = ...,
    ) -> Any:
        """Return ``compute()`` as plain data, or what it returned before for the same stage and inputs."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """What makes a file of a network: a recipe, and the engine that the file is for."""

    recipe: str
    runtime: str


@dataclass(frozen=True, slots=True, eq=False)
class Shop:
    """What all work of a run has in common."""

    folder: Path
    db: Store
    opened: Opened
    runtimes: Sequence[Runtime]
    """The engines that files are made for; the first one calibrates, too."""
    parts: Mapping[str, Part]
    """``train``, ``val`` and, where there is one, ``test``; decoded images are kept in memory."""
    digest: str
    """Content id of the parts."""
    seed: int
    score: str = ""
    threads: int = 1
    tell: Tell = field(default=lambda stage, text, share: None)
    tracking: Tracking = field(default_factory=Tracking)
    made: Callable[[Record], None] = field(default=lambda record: None)
    """Called with every record as soon as its file is there."""
    device: Device = HERE
    """What files are for."""
    teacher: Teacher | None = None
    """Who teaches in every training."""
    one_thread: bool = False
    """Whether trainings take one thread whatever their size: beside each other, and the same bits everywhere."""

    @property
    def runtime(self) -> Runtime:
        """The first of the engines."""
        return self.runtimes[0]

    @property
    def target(self) -> Runtime:
        """The engine that searched plans become files of: one of integers alone where there is one, else the first."""
        return next((r for r in self.runtimes if "float32" not in r.recipes), self.runtime)

    def engine(self, name: str) -> Runtime:
        """Return one of the engines by name."""
        return next(runtime for runtime in self.runtimes if runtime.name == name)

    def seed_of(self, *names: Any) -> int:
        """Return the seed of one piece of work: from the run's seed and what the work is."""
        return int(content_id(self.seed, *names)[:8], 16)


def open_shop(db: Store, config: Config, opened: Opened, runtimes: Sequence[Runtime], tell: Tell) -> Shop:
    """Scan the data and make its parts ready: without bad files, limited, decoded once.

    Raises DataError for data that cannot be used.
    """
    dataset = opened.dataset
    assert dataset is not None
    names = dataset.parts()
    health = scan(
        dataset, names, db.folder / "cache", lambda what, i, n: tell("scan", f"{what} {i}/{n}", i / max(n, 1))
    )
    db.put("health", {**to_json(health), "warnings": list(health.warnings)})
    for line in health.warnings[:20]:
        db.event("scan", line)
    parts = _with_val({name: health.usable(name, dataset.part(name)) for name in names}, db)
    parts = {name: _limited(part, config.limit) for name, part in parts.items()}
    digest = content_id({n: dataset.digest(n) for n in names}, {n: len(p) for n, p in parts.items()}, config.limit)
    kept = {name: batches.cached(part) for name, part in parts.items()}
    return Shop(
        db.folder,
        db,
        opened,
        runtimes,
        kept,
        digest,
        config.seed,
        score=config.score,
        threads=config.threads,
        device=load("device", config.device),
        tell=tell,
        teacher=Teacher(config.teacher) if config.teacher else None,
    )


def _with_val(parts: dict[str, Part], db: Store) -> dict[str, Part]:
    """Hold some of train back as val when the data has no val part."""
    if "val" in parts:
        return parts
    if len(parts.get("train", ())) < 2:
        if "test" in parts:
            return {"val": parts["test"]}
        raise DataError("the data has no val part, and too little to hold some back", hint="add a val part")
    train = parts["train"]
    held = list(range(HOLDOUT - 1, len(train), HOLDOUT)) or [len(train) - 1]
    db.event("scan", f"the data has no val part: {len(held)} samples of train are held back for it")
    others = sorted(set(range(len(train))) - set(held))
    return {**parts, "train": without(train, held), "val": without(train, others)}


def _limited(part: Part, limit: int | None) -> Part:
    """Return at most ``limit`` samples, evenly apart."""
    if limit is None or len(part) <= limit:
        return part
    kept = set(np.linspace(0, len(part) - 1, limit).astype(int).tolist())
    return without(part, [i for i in range(len(part)) if i not in kept])
