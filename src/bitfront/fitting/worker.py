"""What a worker process does: open the run for itself, do tasks, leave every finished result for the one that writes.

A worker reads the run's database and writes none. Each result that it works out lies at once as a file in the run's
``outbox``, until the main process takes it over: a worker or a main process that is killed loses what it was at, never
what was finished.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitfront.contracts import Runtime
from bitfront.errors import BitfrontError
from bitfront.fitting.config import Config
from bitfront.fitting.shop import Shop, Tell, open_shop
from bitfront.fitting.tasks import STOPPING, Task, attempt
from bitfront.record import Record, from_json, to_json
from bitfront.rundb import Result, RunDb, read, read_result, result_key, work_out
from bitfront.store import atomic_json
from bitfront.verbs.opening import Opened

__all__ = ["Place", "WorkerDb", "absorb", "open_worker", "outcome"]

log = logging.getLogger(__name__)

OUTBOX = "outbox"
"""Folder of a run with results that are finished and not yet in its database."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker needs to open a run as the main process did."""

    reopen: Callable[[Config], tuple[Opened, Sequence[Runtime]]]
    """An importable function."""
    config: Config
    folder: Path
    """The run's, absolute; on another machine the same one."""
    here: str
    """Working folder that paths of the configuration are relative to."""
    modules: tuple[str, ...]
    """Where modules are imported from."""

    @classmethod
    def of(cls, reopen: Callable[[Config], tuple[Opened, Sequence[Runtime]]], config: Config, folder: Path) -> Place:
        """Return the place of a run of this process."""
        return cls(reopen, config, folder.absolute(), str(Path.cwd()), tuple(sys.path))

    def enter(self) -> None:
        """Find files and modules as the main process does."""
        os.chdir(self.here)
        sys.path[:] = [*dict.fromkeys((*self.modules, *sys.path))]


class WorkerDb:
    """The database as workers see it: what is stored is read, what is new goes to the outbox."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, value: Any) -> None:
        """Store nothing: the main process has put it."""

    def event(self, stage: str, text: str) -> None:
        """Log a line; the run's log has it from the main process."""
        log.debug("%s: %s", stage, text)

    def cached(
        self,
        stage: str,
        inputs: Any,
        compute: Callable[[], Any],
        files: Callable[[Any], Iterable[str]] = lambda value: (),
    ) -> Any:
        """Return a result as :meth:`bitfront.rundb.RunDb.cached` does; a new one is put into the outbox."""
        path = self.folder / OUTBOX / f"{result_key(stage, inputs)}.json"
        result = _read(path)
        if result is not None:
            return json.loads(result.payload)
        with read(self.folder) as db:
            stored = read_result(db, self.folder, result_key(stage, inputs))
        if stored is not None:
            return stored[0]
        result = work_out(self.folder, stage, inputs, compute, files)
        path.parent.mkdir(exist_ok=True)
        atomic_json(path, {"result": result, "sha256": _digest(result)})
        return json.loads(result.payload)


def absorb(db: RunDb) -> None:
    """Take over what lies in the outbox; what is damaged is left to be done again."""
    for path in sorted((db.folder / OUTBOX).glob("*.json")):
        result = _read(path)
        if result is not None:
            db.keep(result)
        path.unlink(missing_ok=True)


def _read(path: Path) -> Result | None:
    """Return a result of the outbox; ``None`` when there is none or it is damaged."""
    try:
        stored = json.loads(path.read_bytes())
        result = from_json(Result, stored["result"])
        return result if stored["sha256"] == _digest(result) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(result: Result) -> str:
    return hashlib.sha256(json.dumps(to_json(result), sort_keys=True).encode()).hexdigest()


def open_worker(place: Place, tell: Tell, made: Callable[[Record], None]) -> Shop:
    """Open the run in this process. Raises what opening raises."""
    place.enter()
    opened, runtimes = place.reopen(place.config)
    shop = open_shop(WorkerDb(place.folder), place.config, opened, runtimes, lambda stage, text, share: None)
    return replace(shop, tell=tell, made=made, one_thread=True)


def outcome(task: Task, shop: Callable[[], Shop]) -> Any:
    """Return what a task gives, or its error as one that can be sent to another process."""
    try:
        found = attempt(task, shop())
    except STOPPING as error:
        return error
    except Exception as error:
        log.debug("the run cannot be opened", exc_info=error)
        found = error
    if isinstance(found, Exception) and not isinstance(found, BitfrontError):
        return BitfrontError(f"{type(found).__name__}: {found}")
    return found
