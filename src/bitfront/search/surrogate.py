"""The default search: knapsack seeds, learned correction, racing, polish around the floor.

1. One-tensor distortions on two samples; the knapsack over them gives a front for every total cost.
2. *Seeds*: points of that front are evaluated where the gap between evaluated neighbours is largest.
3. *Rounds*: a model is fitted to everything evaluated (:mod:`bitfront.search.predictor`). Offspring of the front and
   the knapsack of the corrected distortions are screened by it; those that promise most hypervolume race on a subset of
   the samples, and the best are evaluated in full.
4. *Polish*: the same around the floor of the score, where one wants to be, with small steps and without racing.

Any moment leaves a valid front. Weights and activations are searched together.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import UsageError
from bitfront.search.acquisition import choose
from bitfront.search.evaluations import Evaluations, Member, Spent, Subset
from bitfront.search.knapsack import Sums, knapsack, linear_costs
from bitfront.search.predictor import Predictor, as_array, fit
from bitfront.search.sensitivity import distortion_stats, spread
from bitfront.search.space import Genome, Space, Table

__all__ = ["SurrogateOptions", "surrogate"]

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SurrogateOptions:
    """Settings of the search."""

    floor: float | None = None
    """Score that the user wants to keep; 0.01 below float when not given."""
    lowest: float | None = None
    """Scores below are of no interest; half of float when not given."""
    n_statistics: int = 2
    """Samples for the one-tensor distortions."""
    n_seeds: int = 30
    n_per_refinement: int = 5
    """Seeds evaluated at a time."""
    n_screened: int = 1500
    n_raced: int = 24
    n_race_samples: int = 8
    n_promoted: int = 6
    """Evaluated in full after a race."""
    n_taken: int = 15
    """Evaluated in full where no race is held."""
    n_rounds: int = 30
    n_polish_rounds: int = 20
    polish_share: float = 0.75
    """Under a limit: the part of it after which the polish begins."""


@dataclass(slots=True)
class _Search:
    """What all phases share."""

    evaluations: Evaluations
    options: SurrogateOptions
    seed: int
    float_score: float
    table: Table
    """One-tensor distortions."""
    cost_tables: tuple[Table, ...]
    directions: Points
    """Weights of the costs, ``(n, costs)``, each a single cost for the knapsack."""
    race: Subset | None
    round: int = 0
    tried: set[Genome] = field(default_factory=set)
    """Genomes that lost a race."""

    @property
    def space(self) -> Space:
        return self.evaluations.space

    @property
    def lowest(self) -> float:
        return self.float_score / 2 if self.options.lowest is None else self.options.lowest

    @property
    def floor(self) -> float:
        return self.float_score - 0.01 if self.options.floor is None else self.options.floor

    def sums(self, distortions: Table) -> list[Sums]:
        """The knapsack front of every direction."""
        combined = (
            tuple(sum(w * t[i] for w, t in zip(ws, self.cost_tables, strict=True)) for i in range(len(distortions)))
            for ws in self.directions
        )
        return [knapsack(self.space, distortions, table) for table in combined]


def surrogate(evaluations: Evaluations, seed: int, options: SurrogateOptions | None = None) -> None:
    """Search; the result is the front of ``evaluations``. Ends at its limit, or after the rounds of ``options``.

    Raises UsageError for costs that only an evaluation tells, DataError when the evaluator tells no distortion.
    """
    options = options or SurrogateOptions()
    measured = [cost.name for cost in evaluations.costs if cost.of is None]
    if measured:
        raise UsageError(
            f"the surrogate search cannot foresee '{measured[0]}'",
            hint="give a modelled cost, or search with the method genetic or nsga2",
        )
    with contextlib.suppress(Spent):
        search = _begin(evaluations, options, seed)
        _seed_front(search)
        while search.round < options.n_rounds and evaluations.used < options.polish_share:
            if not _round(search, lowest=search.lowest, phase="search"):
                break
        for _ in range(options.n_polish_rounds):
            if not _round(search, lowest=search.floor, phase="polish"):
                break


# --- seeds -----------------------------------------------------------------------------------------------------------
def _begin(evaluations: Evaluations, options: SurrogateOptions, seed: int) -> _Search:
    """Evaluate float and the uniform genomes, then the statistics."""
    space = evaluations.space
    widths = sorted({b for i in space.free for b in space.genes[i].choices}, reverse=True)
    float_score = evaluations([space.float32, *(space.uniform(b) for b in widths)])[0].score
    evaluations.report("uniform", f"{len(widths)} widths")
    n = evaluations.n_samples
    race = spread(n, options.n_race_samples) if options.n_race_samples * 2 <= n else None
    if race is not None:
        evaluations([space.float32], race)
    table = distortion_stats(evaluations, spread(n, options.n_statistics))
    tables = tuple(linear_costs(space, c.of) for c in evaluations.costs if c.of is not None)
    directions = np.eye(len(tables))
    if len(tables) > 1:
        directions = np.concatenate((directions, np.full((1, len(tables)), 1 / len(tables))))
    return _Search(evaluations, options, seed, float_score, table, tables, directions, race)


def _seed_front(search: _Search) -> None:
    """Evaluate knapsack solutions, each time in the middle of the largest gaps between evaluated neighbours."""
    fronts = search.sums(search.table)
    n = max(2, search.options.n_seeds // len(fronts))
    for sums in fronts:
        scores: dict[int, float] = {}
        while len(scores) < min(n, len(sums)):
            places = _gaps(search, sums, scores)[: min(search.options.n_per_refinement, n - len(scores))]
            if not places:
                break
            results = search.evaluations([sums.genome(i) for i in places])
            scores.update((i, r.score) for i, r in zip(places, results, strict=True))
            search.evaluations.report("seeds", f"{len(scores)} of {n}")


def _gaps(search: _Search, sums: Sums, scores: dict[int, float]) -> list[int]:
    """Return where to evaluate next on a knapsack front, largest gap (cost x score) first.

    The ends of the front stand for float and for a worthless net without being evaluated.
    """
    last = len(sums) - 1
    known = {-1: search.lowest, last + 1: search.float_score} | {
        i: float(np.clip(s if math.isfinite(s) else search.lowest, search.lowest, search.float_score))
        for i, s in scores.items()
    }
    ends = np.concatenate(([sums.costs[0]], sums.costs, [sums.costs[-1]]))
    found = []
    order = sorted(known)
    for left, right in itertools.pairwise(order):
        if right - left < 2:
            continue
        width = ends[right + 1] - ends[left + 1]
        height = abs(known[right] - known[left]) + 1e-3
        middle = int(np.searchsorted(sums.costs, (ends[right + 1] + ends[left + 1]) / 2))
        found.append((-width * height, min(max(middle, left + 1), right - 1)))
    return [place for _, place in sorted(found)]


# --- rounds ----------------------------------------------------------------------------------------------------------
def _round(search: _Search, *, lowest: float, phase: str) -> bool:
    """Fit, screen, race and evaluate; say whether there was anything new to evaluate."""
    evaluations = search.evaluations
    rng = np.random.default_rng([search.seed, search.round])
    search.round += 1
    model = fit(search.space, search.table, evaluations.rows, search.lowest)
    members = [m for m in evaluations.front() if m.score >= search.lowest] or list(evaluations.front())
    polishing = phase == "polish"
    if polishing:
        members = sorted(members, key=lambda m: (abs(m.score - search.floor), m.genome))[:8]
    candidates = _candidates(search, model, members, rng, small=polishing)
    if not candidates:
        return False
    frame = _Frame.around(evaluations, lowest)
    points = frame.points(candidates, model.score(as_array(candidates)))
    racing = search.race is not None and not polishing
    n = search.options.n_raced if racing else search.options.n_taken if not polishing else search.options.n_promoted
    chosen = [candidates[i] for i in choose(points, frame.front, frame.reference, n, rng)]
    if racing:
        chosen = _raced(search, frame, chosen, rng)
    if chosen:
        evaluations(chosen)
    evaluations.report(phase, f"round {search.round}: {len(candidates)} screened, {len(chosen)} evaluated")
    return bool(chosen)


@dataclass(frozen=True, slots=True)
class _Frame:
    """The box in which hypervolume counts: scores from ``lowest`` up, costs up to the largest genome's."""

    evaluations: Evaluations
    front: Points
    reference: Points

    @staticmethod
    def around(evaluations: Evaluations, lowest: float) -> _Frame:
        front = evaluations.front()
        largest = evaluations.space.largest
        limits = [cost.of(largest) for cost in evaluations.costs if cost.of is not None]
        return _Frame(evaluations, evaluations.points(front), np.array([-lowest, *limits]))

    def points(self, genomes: Sequence[Genome], scores: Sequence[float] | Points) -> Points:
        """Return the costs of genomes with these scores; failures add nothing."""
        known = [cost.of for cost in self.evaluations.costs if cost.of is not None]
        table = [
            (-s if math.isfinite(s) else math.inf, *(of(g) for of in known))
            for g, s in zip(genomes, scores, strict=True)
        ]
        return np.array(table, np.float64)


def _raced(search: _Search, frame: _Frame, genomes: list[Genome], rng: np.random.Generator) -> list[Genome]:
    """Evaluate on the race's samples; return those that still promise most there."""
    if not genomes:
        return []
    reference = search.evaluations([search.space.float32], search.race)[0].score
    scores = [search.float_score - (reference - r.score) for r in search.evaluations(genomes, search.race)]
    best = choose(frame.points(genomes, scores), frame.front, frame.reference, search.options.n_promoted, rng)
    search.tried.update(g for i, g in enumerate(genomes) if i not in best)
    return [genomes[i] for i in best]


def _candidates(
    search: _Search, model: Predictor, members: Sequence[Member], rng: np.random.Generator, *, small: bool
) -> list[Genome]:
    """Return new genomes: offspring of ``members``, and (unless steps are ``small``) corrected knapsack solutions."""
    n = search.options.n_screened
    found: dict[Genome, None] = {}
    parents = [m.genome for m in members]
    if not small:
        for sums in search.sums(model.corrected(search.table)):
            places = np.unique(np.linspace(0, len(sums) - 1, n // (4 * len(search.directions)) + 1).astype(int))
            found.update(dict.fromkeys(sums.genome(int(i)) for i in places))
    n_tries = n - len(found)
    found.update(
        dict.fromkeys(_child(search.space, parents, rng, small=small) for _ in range(n_tries if parents else 0))
    )
    known = {m.genome for m in search.evaluations.members} | search.tried
    return [g for g in found if g not in known]


def _child(space: Space, parents: Sequence[Genome], rng: np.random.Generator, *, small: bool) -> Genome:
    """Mix two parents or copy one, then move one to four genes by one width (two genes when steps are ``small``)."""
    child = list(parents[int(rng.integers(len(parents)))])
    if len(space.free) > 1 and rng.random() < (0.2 if small else 0.5):
        point = space.free[int(rng.integers(1, len(space.free)))]
        child[point:] = parents[int(rng.integers(len(parents)))][point:]
    for i in rng.choice(space.free, size=min(int(rng.integers(1, 3 if small else 5)), len(space.free)), replace=False):
        widths = space.genes[i].widths
        at = widths.index(child[i]) + (1 if rng.random() < 0.5 else -1)
        child[i] = widths[min(max(at, 0), len(widths) - 1)]
    return tuple(child)
