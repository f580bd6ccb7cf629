"""Where the tasks of a run are done: in this process, or in worker processes of this machine.

However they are done, the same tasks give the same values, and only this process writes the run's database. Workers may
die: what one of them was at is done again by another, from the last epoch on.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Protocol, Self

from bitfront.errors import BitfrontError, UsageError
from bitfront.fitting.hand import serve
from bitfront.fitting.shop import Shop
from bitfront.fitting.tasks import STOPPING, T, Task, attempt
from bitfront.fitting.worker import Place, absorb
from bitfront.rundb import RunDb

__all__ = ["Crew", "InProcess", "Workers", "died", "taken_over", "todo"]

log = logging.getLogger(__name__)

N_TRIES = 3
"""Workers that a task may cost."""


class Crew(Protocol):
    """Does tasks; use as a context."""

    n: int
    """Tasks that are done at a time."""
    apart: bool
    """Whether they are done outside this process."""

    def __enter__(self) -> Self:
        """Get ready."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End all workers."""
        ...

    def run(self, tasks: Iterable[T], shop: Shop, db: RunDb, place: Place) -> Iterator[tuple[T, Any]]:
        """Yield each task with its value, or the error that it ended with, as they finish.

        The next task is drawn when somebody can begin it. Raises what stops a run.
        """
        ...

    def rest(self) -> None:
        """End all workers until there is work again."""
        ...


class InProcess:
    """One task after another, here."""

    n = 1
    apart = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def run(self, tasks: Iterable[T], shop: Shop, db: RunDb, place: Place) -> Iterator[tuple[T, Any]]:
        """Yield each task with what came of it."""
        absorb(db)
        for task in tasks:
            yield task, attempt(task, shop)

    def rest(self) -> None:
        """There is nobody to end."""


class Workers:
    """``n`` fresh processes. They end with this one, however it ends."""

    apart = True

    def __init__(self, n: int) -> None:
        """Prepare; processes start with the first task. Raises UsageError without workers."""
        if n < 1:
            raise UsageError(f"{n} workers do nothing", hint="--workers takes 1 or more")
        self.n = n
        self._hands: list[_Hand] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()

    def rest(self) -> None:
        """End all workers until there is work again."""
        for hand in self._hands:
            hand.process.kill()  # what they write is whole at every moment
        for hand in self._hands:
            hand.end()
        self._hands.clear()

    def run(self, tasks: Iterable[T], shop: Shop, db: RunDb, place: Place) -> Iterator[tuple[T, Any]]:
        """Yield each task with what came of it, as they finish."""
        absorb(db)
        found: deque[tuple[T, Any]] = deque()
        again: deque[tuple[T, int]] = deque()
        waiting = todo(tasks, shop, db, found)
        try:
            while True:
                while len(self._busy()) < self.n:
                    task, n_tries = again.popleft() if again else (next(waiting, None), 1)
                    yield from _drained(found)
                    if task is None:
                        break
                    self._idle(place).begin(task, n_tries)
                if not self._busy():
                    return
                for hand in self._ready():
                    yield from self._heard(hand, shop, db, again)
        finally:
            if self._busy():
                self.rest()

    def _busy(self) -> list[_Hand]:
        return [hand for hand in self._hands if hand.task is not None]

    def _idle(self, place: Place) -> _Hand:
        for hand in [hand for hand in self._hands if hand.task is None]:
            if hand.process.is_alive():
                return hand
            self._hands.remove(hand)
        self._hands.append(_Hand.hire(place))
        return self._hands[-1]

    def _ready(self) -> list[_Hand]:
        """Wait until a busy worker says something or dies."""
        said = wait([hand.connection for hand in self._busy()])
        return [hand for hand in self._busy() if hand.connection in said]

    def _heard(self, hand: _Hand, shop: Shop, db: RunDb, again: deque[tuple[Any, int]]) -> Iterator[tuple[Any, Any]]:
        """Take in one message of a worker, or its death."""
        try:
            kind, *rest = hand.connection.recv()
        except (EOFError, OSError):
            yield from self._lost(hand, shop, db, again)
            return
        if kind == "tell":
            stage, text, _ = rest
            shop.tell(stage, f"{len(self._busy())} at work; {text}", 0.0)
        elif kind == "made":
            absorb(db)
            shop.made(rest[0])
        else:
            task, hand.task = hand.task, None
            yield task, taken_over(rest[0], db)

    def _lost(self, hand: _Hand, shop: Shop, db: RunDb, again: deque[tuple[Any, int]]) -> Iterator[tuple[Any, Any]]:
        """Have the task of a worker that died done again, or give it up."""
        task, n_tries = hand.task, hand.n_tries
        self._hands.remove(hand)
        hand.end()
        absorb(db)
        how = f"its worker process died (exit code {hand.process.exitcode})"
        if n_tries < N_TRIES:
            db.event("workers", f"{task.label}: {how}; another goes on with it")
            again.append((task, n_tries + 1))
        else:
            yield task, died(n_tries)


@dataclass(slots=True, eq=False)
class _Hand:
    """One worker process as seen from here."""

    process: BaseProcess
    connection: Connection
    task: Any = None
    n_tries: int = 0

    @classmethod
    def hire(cls, place: Place) -> _Hand:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there,), daemon=True, name="bitfront worker")
        process.start()
        there.close()  # so that its death closes the pipe
        with contextlib.suppress(OSError):  # it died just now: _heard finds out
            here.send(place)
        return cls(process, here)

    def begin(self, task: Task, n_tries: int) -> None:
        self.task, self.n_tries = task, n_tries
        with contextlib.suppress(OSError):  # it died just now: _heard finds out
            self.connection.send(task)

    def end(self) -> None:
        self.process.join()
        self.connection.close()


# --- what all workers have in common ---------------------------------------------------------------------------------
class _Missing(BaseException):
    """Something is not stored. Not an Exception: tasks survive those."""


class _Stored:
    """The database for looking only: what is not stored raises ``_Missing``."""

    def __init__(self, db: RunDb) -> None:
        self.folder, self._db = db.folder, db

    def put(self, name: str, value: Any) -> None:
        raise _Missing

    def event(self, stage: str, text: str) -> None:
        raise _Missing

    def cached(self, stage: str, inputs: Any, *_: Any, **__: Any) -> Any:
        found = self._db.stored(stage, inputs)
        if found is None:
            raise _Missing
        self._db.reused += 1
        return found[0]


def todo(tasks: Iterable[T], shop: Shop, db: RunDb, found: deque[tuple[T, Any]]) -> Iterator[T]:
    """Yield the tasks that must be done; those that are stored are put into ``found`` with their values."""
    looking = replace(shop, db=_Stored(db), tell=lambda stage, text, share: None)
    for task in tasks:
        try:
            if not task.reads_back:
                raise _Missing
            found.append((task, attempt(task, looking)))
        except _Missing:
            yield task


def _drained(found: deque[tuple[T, Any]]) -> Iterator[tuple[T, Any]]:
    while found:
        yield found.popleft()


def taken_over(value: Any, db: RunDb) -> Any:
    """Return what a worker sent, its results stored. Raises what stops a run."""
    absorb(db)
    if isinstance(value, STOPPING):
        raise value
    return value


def died(n_tries: int) -> BitfrontError:
    """Return the error of a task whose workers died again and again."""
    return BitfrontError(f"its worker process died {n_tries} times", hint="use fewer workers; memory may be short")
