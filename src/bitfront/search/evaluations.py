"""The counted evaluator: every evaluation is paid once, kept, and read back on a resumed search.

A search asks :class:`Evaluations` for genomes and never calls the evaluator itself. The state of a search is its seed
and the rows that were evaluated: running it again with the stored rows walks the same way, reads what is known and
continues where it stopped. Nothing else is saved.

Counting is in samples (images): a full evaluation costs ``n_samples``, one on a subset costs its length, and
``n_evaluations`` is their sum over ``n_samples``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DataError, UsageError
from bitfront.record import from_json, to_json
from bitfront.search.front import ranks
from bitfront.search.space import Genome, Space

__all__ = ["Cost", "Evaluate", "Evaluation", "Evaluations", "Limit", "Member", "Progress", "Row", "Spent", "Subset"]

Subset = tuple[int, ...]
"""Indices of samples of the data that drives the search."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluator tells of a genome."""

    score: float
    """The task's score, larger is better; NaN when the candidate failed."""
    distortion: float = math.nan
    """Mean squared difference of the network's raw outputs (logits) from the float network's, over the samples that
    the evaluator compares (all of a subset; possibly a few of the full data); NaN when not compared."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Measured costs by name (``latency_ms``), smaller is better."""


class Evaluate(Protocol):
    """An evaluator: genomes in, evaluations out in the same order; on a subset of the samples, or on all (``None``).

    Must give equal results for equal arguments. An iterator lets every result be kept as soon as it is there.
    """

    def __call__(self, genomes: Sequence[Genome], subset: Subset | None, /) -> Iterable[Evaluation]:
        """Evaluate ``genomes`` on the samples of ``subset``."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Something to minimise beside the loss of score."""

    name: str
    of: Callable[[Genome], float] | None = None
    """Tells it from the genome alone (size, modelled cycles); ``None`` when the evaluator measures it."""

    def value(self, genome: Genome, evaluation: Evaluation) -> float:
        """Return the cost of an evaluated genome. Raises DataError when nobody tells it."""
        if self.of is not None:
            return float(self.of(genome))
        if self.name not in evaluation.costs:
            raise DataError(f"the evaluator does not measure '{self.name}'", hint=f"it tells {list(evaluation.costs)}")
        return float(evaluation.costs[self.name])


@dataclass(frozen=True, slots=True)
class Limit:
    """When a search must stop; ``None`` means no limit."""

    n_evaluations: float | None = None
    """Full evaluations; those on subsets count by their fraction."""
    time_s: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One evaluation as it is stored."""

    genome: Genome
    subset: Subset | None
    evaluation: Evaluation
    elapsed_s: float
    """Time that the search had taken when it was done, over all its sessions."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        data: dict[str, Any] = to_json(self)
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Row:
        """Read what :meth:`to_json` gave. Raises DataError for anything else."""
        try:
            row = from_json(Row, data)
            genome = tuple(int(b) for b in row.genome)
            subset = None if row.subset is None else tuple(int(i) for i in row.subset)
            return Row(genome, subset, row.evaluation, float(row.elapsed_s))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"a stored evaluation cannot be read: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class Member:
    """A fully evaluated genome."""

    genome: Genome
    score: float
    costs: tuple[float, ...]
    """One per cost of the search."""
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a search, as its observers see it."""

    phase: str
    n_evaluations: float
    n_front: int
    best_score: float
    elapsed_s: float
    text: str = ""


class Spent(Exception):
    """The limit is reached. Searches end on it; whoever calls one does not see it."""


class Evaluations:
    """Evaluate genomes of a space once each, count them, keep them, and stop at the limit."""

    def __init__(
        self,
        space: Space,
        evaluate: Evaluate,
        n_samples: int,
        costs: Sequence[Cost] = (),
        *,
        limit: Limit | None = None,
        stored: Iterable[Row] = (),
        on_row: Callable[[Row], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin, or continue from ``stored`` rows of an earlier session. ``on_row`` keeps every new one.

        ``costs`` default to the packed size of weights and biases. Raises UsageError without samples.
        """
        if n_samples < 1:
            raise UsageError("a search needs samples to score candidates on")
        self.space, self.n_samples = space, n_samples
        self.costs = tuple(costs) or (Cost("size_bytes", space.static_bytes),)
        self.limit = limit or Limit()
        self._evaluate, self._on_row, self._on_progress, self._clock = evaluate, on_row, on_progress, clock
        self._stored = {(row.genome, row.subset): row for row in stored}
        self._rows: dict[tuple[Genome, Subset | None], Row] = {}
        self._members: dict[Genome, Member] = {}
        self._n_spent = 0
        self.n_asked = 0
        """Genomes asked for, those that were known included."""
        self._elapsed_s = 0.0
        self._earlier_s = 0.0
        self._live_since = None if self._stored else clock()

    # --- asking ------------------------------------------------------------------------------------------------------
    def __call__(self, genomes: Iterable[Sequence[int]], subset: Subset | None = None) -> list[Evaluation]:
        """Return the evaluations of ``genomes``, in order. Raises Spent at the limit; what was done stays."""
        asked = [self.space.check(g) for g in genomes]
        self.n_asked += len(asked)
        subset = None if subset is None or len(set(subset)) == self.n_samples else tuple(subset)
        new = [g for g in dict.fromkeys(asked) if (g, subset) not in self._rows]
        price = self.n_samples if subset is None else len(subset)
        while new:
            n = min(len(new), self._affordable(price))
            if n < 1:
                raise Spent
            self._take(new[:n], subset, price)
            new = new[n:]
        return [self._rows[g, subset].evaluation for g in asked]

    def _affordable(self, price: int) -> int:
        """Return how many evaluations of ``price`` samples may be started now."""
        if self.limit.time_s is not None and self.elapsed_s >= self.limit.time_s:
            return 0
        if self.limit.n_evaluations is None:
            return 1 << 30
        return max(0, int(self.limit.n_evaluations * self.n_samples - self._n_spent + 1e-6) // price)

    def _take(self, genomes: list[Genome], subset: Subset | None, price: int) -> None:
        """Read what is stored, evaluate the rest, and count both, in the order asked."""
        missing = [g for g in genomes if (g, subset) not in self._stored]
        results: Iterator[Evaluation] | None = None
        for genome in genomes:
            row = self._stored.get((genome, subset))
            if row is None:
                results = self._begin(missing, subset) if results is None else results
                row = self._evaluated(genome, subset, results)
            self._rows[genome, subset] = row
            self._elapsed_s = max(self._elapsed_s, row.elapsed_s)
            self._n_spent += price
            if subset is None:
                self._members[genome] = self._member(genome, row.evaluation)
            if self.limit.time_s is not None and self.elapsed_s >= self.limit.time_s:
                raise Spent

    def _begin(self, genomes: list[Genome], subset: Subset | None) -> Iterator[Evaluation]:
        if self._live_since is None:
            self._earlier_s = max(row.elapsed_s for row in self._stored.values())
            self._live_since = self._clock()
        return iter(self._evaluate(genomes, subset))

    def _evaluated(self, genome: Genome, subset: Subset | None, results: Iterator[Evaluation]) -> Row:
        evaluation = next(results, None)
        if evaluation is None:
            raise DataError("the evaluator returned fewer results than it was given genomes")
        now_s = self._earlier_s + self._clock() - (self._live_since or 0.0)
        row = Row(genome, subset, evaluation, now_s)
        if self._on_row is not None:
            self._on_row(row)
        return row

    def _member(self, genome: Genome, evaluation: Evaluation) -> Member:
        failed = not math.isfinite(evaluation.score)
        costs = tuple(math.inf if failed else cost.value(genome, evaluation) for cost in self.costs)
        return Member(genome, evaluation.score, costs, evaluation)

    # --- what is known -----------------------------------------------------------------------------------------------
    @property
    def n_evaluations(self) -> float:
        """Full evaluations paid so far; those on subsets count by their fraction."""
        return self._n_spent / self.n_samples

    @property
    def elapsed_s(self) -> float:
        """Seconds over all sessions when the last evaluation was done, so that a replay sees the same."""
        return self._elapsed_s

    @property
    def used(self) -> float:
        """Fraction of the limit that is used up, in [0, 1]; 0 without a limit."""
        n, time_s = self.limit.n_evaluations, self.limit.time_s
        shares = [self.n_evaluations / n if n else 0.0, self.elapsed_s / time_s if time_s else 0.0]
        return min(1.0, max(shares))

    @property
    def rows(self) -> tuple[Row, ...]:
        """All evaluations in the order they were asked for."""
        return tuple(self._rows.values())

    @property
    def members(self) -> tuple[Member, ...]:
        """All genomes that were evaluated in full, in order."""
        return tuple(self._members.values())

    def member(self, genome: Genome) -> Member:
        """Return a genome that was evaluated in full."""
        return self._members[genome]

    def points(self, members: Sequence[Member] | None = None) -> NDArray[np.float64]:
        """Return costs ``(n, 1 + n_costs)`` to minimise: the negated score first; failures are infinitely bad."""
        chosen = self.members if members is None else members
        table = [(-m.score if math.isfinite(m.score) else math.inf, *m.costs) for m in chosen]
        return np.array(table, np.float64).reshape(-1, 1 + len(self.costs))

    def front(self, space: Space | None = None) -> tuple[Member, ...]:
        """Return the members of a space (default: the search's own) that nothing dominates, best score first.

        Of members that are equal in everything the first found stays. Genomes of statistics, which leave searched genes
        at float32, are of no space and never on a front.
        """
        genes = (space or self.space).genes
        members = [
            m
            for m in self.members
            if math.isfinite(m.score) and all(b in g.widths for g, b in zip(genes, m.genome, strict=True))
        ]
        if not members:
            return ()
        points = self.points(members)
        first = np.sort(np.unique(points, axis=0, return_index=True)[1])
        best = first[ranks(points[first]) == 0]
        return tuple(members[i] for i in sorted(best, key=lambda i: points[i].tolist()))

    def report(self, phase: str, text: str = "") -> None:
        """Tell the observer where the search is."""
        if self._on_progress is None:
            return
        front = self.front()
        best = front[0].score if front else math.nan
        self._on_progress(Progress(phase, self.n_evaluations, len(front), best, self.elapsed_s, text))
