"""Where evaluations run: in this process, or in worker processes of this machine.

``functools.partial(executor.map, evaluate)`` is an evaluator again. Results come in the order of the genomes, so a
search does not depend on where it runs.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Protocol

from bitfront.errors import BitfrontError, UsageError
from bitfront.search.evaluations import Evaluate, Evaluation, Subset
from bitfront.search.space import Genome

__all__ = ["Executor", "InProcess", "Workers"]


class Executor(Protocol):
    """Runs an evaluator on genomes."""

    def map(self, evaluate: Evaluate, genomes: Sequence[Genome], subset: Subset | None) -> Iterable[Evaluation]:
        """Return the evaluations in order."""
        ...


class InProcess:
    """In this process, all genomes in one call."""

    def map(self, evaluate: Evaluate, genomes: Sequence[Genome], subset: Subset | None) -> Iterable[Evaluation]:
        """Return the evaluations in order."""
        return evaluate(genomes, subset)


class Workers:
    """In ``n_workers`` fresh processes; use as a context. The evaluator is sent to each of them once.

    A worker that is killed (out of memory, say) takes nothing with it: what was not finished is evaluated again, by new
    workers. The evaluator must be importable and made of plain data.
    """

    def __init__(self, n_workers: int, n_per_task: int = 4, n_restarts: int = 3) -> None:
        """Prepare; processes start with the first genomes. ``n_per_task`` genomes go to a worker at a time, in order.

        Raises UsageError without workers.
        """
        if n_workers < 1:
            raise UsageError(f"{n_workers} workers evaluate nothing")
        self._n_workers, self._n_per_task, self._n_restarts = n_workers, n_per_task, n_restarts
        self._pool: ProcessPoolExecutor | None = None
        self._evaluate: Evaluate | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def map(self, evaluate: Evaluate, genomes: Sequence[Genome], subset: Subset | None) -> Iterator[Evaluation]:
        """Return the evaluations in order. Raises BitfrontError when workers die again and again."""
        tasks = deque(genomes[i : i + self._n_per_task] for i in range(0, len(genomes), self._n_per_task))
        n_deaths = 0
        while tasks:
            try:
                pool = self._started(evaluate)
                futures = deque(pool.submit(_run, task, subset) for task in tasks)
                yield from _collected(tasks, futures)
            except BrokenProcessPool as error:
                self._stop()
                n_deaths += 1
                if n_deaths > self._n_restarts:
                    raise BitfrontError(
                        f"worker processes died {n_deaths} times", hint="use fewer workers; memory may be short"
                    ) from error

    def _started(self, evaluate: Evaluate) -> ProcessPoolExecutor:
        if self._pool is None or self._evaluate is not evaluate:
            self._stop()
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._n_workers, context, _Worker.start, (evaluate,))
            self._evaluate = evaluate
        return self._pool

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _collected(tasks: deque[Sequence[Genome]], futures: deque[Future[list[Evaluation]]]) -> Iterator[Evaluation]:
    """Yield results in order; a task leaves the queue once its results are there."""
    try:
        while futures:
            results = futures[0].result()
            futures.popleft()
            tasks.popleft()
            yield from results
    finally:
        for future in futures:
            future.cancel()


class _Worker:
    """What a worker process holds: its evaluator."""

    evaluate: Evaluate | None = None

    @classmethod
    def start(cls, evaluate: Evaluate) -> None:
        cls.evaluate = evaluate


def _run(genomes: Sequence[Genome], subset: Subset | None) -> list[Evaluation]:
    if _Worker.evaluate is None:
        raise RuntimeError("the worker has no evaluator")
    return list(_Worker.evaluate(genomes, subset))
