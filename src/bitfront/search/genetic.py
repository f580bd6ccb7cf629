"""The genetic search of thesis 000, chapter 5: weight search, output search, and All over their two fronts.

30 individuals begin; every generation makes 45 offspring, 30 % by mutation (a biased reset of a few genes) and 70 % by
one-point crossover, of parents that win tournaments among 8. The fitness is the rank of the Pareto front; duplicates
go, all of the first rank stay, and at least 30 individuals.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitfront.search.evaluations import Evaluations, Member, Spent
from bitfront.search.front import ranks
from bitfront.search.sensitivity import metric_stats
from bitfront.search.space import Genome, Odds, Space, biased_odds, uniform_odds

__all__ = [
    "GeneticOptions",
    "Objectives",
    "Stage",
    "crossover",
    "evolve",
    "genetic",
    "lexicographic",
    "mutate",
    "pairs",
    "score_and",
    "survivors",
    "tournament",
]

Points = NDArray[np.float64]
Objectives = Callable[[Sequence[Member]], Points]
"""Members -> what is minimised, ``(n, m)``."""


@dataclass(frozen=True, slots=True)
class GeneticOptions:
    """Settings of thesis 000, 5.5."""

    odds: str = "inverse"
    """How genes are drawn: ``uniform``, or one of the two readings of 5.4.4: ``reversed``, ``inverse``."""
    n_initial: int = 30
    n_offspring: int = 45
    n_weight_generations: int = 100
    n_output_generations: int = 30
    mutated: float = 0.3
    """Fraction of the offspring made by mutation."""
    n_rivals: int = 8
    """Size of a tournament."""
    n_survivors: int = 30
    """Fewest individuals that stay."""
    weight_share: float = 0.6
    """Under a limit: the part of it after which the output search begins (searches of both kinds only)."""
    output_share: float = 0.8
    """Under a limit: the part of it after which the All search begins."""


# --- operators -------------------------------------------------------------------------------------------------------
def mutate(space: Space, genome: Genome, odds: Odds, rng: np.random.Generator) -> Genome:
    """Draw some genes anew: uniformly 1 to ``1 + floor(n / 150)`` of the ``n`` searched ones."""
    n = int(rng.integers(1, 2 + len(space.free) // 150))
    child = list(genome)
    for i in rng.choice(space.free, size=min(n, len(space.free)), replace=False):
        child[i] = int(rng.choice(space.genes[i].widths, p=odds[i]))
    return tuple(child)


def crossover(space: Space, first: Genome, second: Genome, rng: np.random.Generator) -> Genome:
    """Take the genes before a random searched gene from one parent, the others from the other."""
    if len(space.free) < 2:
        return first
    point = space.free[int(rng.integers(1, len(space.free)))]
    return (*first[:point], *second[point:])


def tournament(fitness: NDArray[np.int64], n_rivals: int, rng: np.random.Generator) -> int:
    """Return the index of the best of ``n_rivals`` random individuals; of equals, the first drawn."""
    rivals = rng.choice(len(fitness), size=min(n_rivals, len(fitness)), replace=False)
    return int(rivals[np.argmin(fitness[rivals])])


def survivors(
    members: Sequence[Member], objectives: Objectives, n_least: int
) -> tuple[list[Member], NDArray[np.int64]]:
    """Return who stays, and their ranks: duplicates go, all of rank 0 stay, then by rank and age up to ``n_least``."""
    unique = list({m.genome: m for m in members}.values())
    fitness = ranks(objectives(unique))
    order = np.argsort(fitness, kind="stable")[: max(n_least, int((fitness == 0).sum()))]
    return [unique[i] for i in order], fitness[order]


# --- objectives ------------------------------------------------------------------------------------------------------
def score_and(of: Callable[[Member], float]) -> Objectives:
    """Return the objectives score and one cost; failures are infinitely bad in both."""

    def points(members: Sequence[Member]) -> Points:
        table = [(-m.score, of(m)) if np.isfinite(m.score) else (np.inf, np.inf) for m in members]
        return np.array(table, np.float64).reshape(-1, 2)

    return points


def lexicographic(
    first: Callable[[Member], float], second: Callable[[Member], float], tolerance: float = 0.01
) -> Objectives:
    """Return the objectives score and ``first``; within ``tolerance`` (relative) of it, ``second`` decides.

    The thesis minimises the time of a frame this way: with similar fps the size "still makes a little contribution"
    (5.3.1). ``first`` must be positive.
    """

    def points(members: Sequence[Member]) -> Points:
        good = [m for m in members if np.isfinite(m.score)]
        keys = {m.genome: (math.floor(math.log(first(m)) / math.log1p(tolerance)), second(m)) for m in good}
        place = {key: float(i) for i, key in enumerate(sorted(set(keys.values())))}
        table = [(-m.score, place[keys[m.genome]]) if m.genome in keys else (np.inf, np.inf) for m in members]
        return np.array(table, np.float64).reshape(-1, 2)

    return points


def _objectives(evaluations: Evaluations) -> Objectives:
    """Score and the first cost; a second cost breaks its ties."""
    if len(evaluations.costs) == 1:
        return score_and(lambda m: m.costs[0])
    return lexicographic(lambda m: m.costs[0], lambda m: m.costs[1])


# --- searches --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Stage:
    """One genetic search: what is searched, how genes are drawn, what is minimised, and for how long."""

    name: str
    space: Space
    odds: Odds
    objectives: Objectives
    n_generations: int
    share: float = 1.0
    """It ends when this part of the limit is used."""


def evolve(
    stage: Stage, evaluations: Evaluations, rng: np.random.Generator, options: GeneticOptions | None = None
) -> list[Member]:
    """Return the last population, best rank first. Raises Spent at the limit."""
    options = options or GeneticOptions()

    def evaluated(genomes: list[Genome]) -> list[Member]:
        evaluations(genomes)
        return [evaluations.member(g) for g in genomes]

    initial = evaluated([stage.space.draw(stage.odds, rng) for _ in range(options.n_initial)])
    population, fitness = survivors(initial, stage.objectives, options.n_survivors)
    for generation in range(stage.n_generations):
        if stage.share < 1 and evaluations.used >= stage.share:
            break
        parents = _Parents(population, fitness)
        children = [_offspring(stage, parents, rng, options) for _ in range(options.n_offspring)]
        population, fitness = survivors([*population, *evaluated(children)], stage.objectives, options.n_survivors)
        evaluations.report(stage.name, f"generation {generation + 1} of {stage.n_generations}")
    return population


@dataclass(frozen=True, slots=True)
class _Parents:
    members: list[Member]
    fitness: NDArray[np.int64]

    def choose(self, n_rivals: int, rng: np.random.Generator) -> Genome:
        return self.members[tournament(self.fitness, n_rivals, rng)].genome


def _offspring(stage: Stage, parents: _Parents, rng: np.random.Generator, options: GeneticOptions) -> Genome:
    first = parents.choose(options.n_rivals, rng)
    if rng.random() < options.mutated:
        return mutate(stage.space, first, stage.odds, rng)
    return crossover(stage.space, first, parents.choose(options.n_rivals, rng), rng)


def pairs(space: Space, weights: Sequence[Member], outputs: Sequence[Member]) -> list[Genome]:
    """Return the product of a weight front and an output front, equal places on both first.

    Fronts are ordered alike (best score first), so that an early end leaves the whole range covered.
    """
    n, m = len(weights), len(outputs)
    places = sorted((abs(i / n - j / m), i, j) for i in range(n) for j in range(m))
    activation = [g.kind == "activation" for g in space.genes]
    return [
        tuple(o if hit else w for hit, w, o in zip(activation, weights[i].genome, outputs[j].genome, strict=True))
        for _, i, j in places
    ]


def genetic(evaluations: Evaluations, seed: int, options: GeneticOptions | None = None) -> None:
    """Search as thesis 000 does; the result is the front of ``evaluations``.

    Searched weights *and* activations: weight search (score, bits of the weights; activations in float), output search
    (score, upper bound of the dynamic bits; weights in float), then all pairs of the two fronts. Searched genes of one
    kind: one search of score and the first cost, a second cost breaking its ties. Biased odds cost the metric stats.
    """
    options = options or GeneticOptions()
    space = evaluations.space
    with contextlib.suppress(Spent):
        odds = uniform_odds(space)
        if options.odds != "uniform":
            odds = biased_odds(space, *metric_stats(evaluations), options.odds)
        kinds = {space.genes[i].kind == "activation" for i in space.free}
        if len(kinds) < 2:
            n = options.n_output_generations if True in kinds else options.n_weight_generations
            stage = Stage("genetic", space, odds, _objectives(evaluations), n)
            evolve(stage, evaluations, np.random.default_rng([seed, 1]), options)
            return
        weights = _front_of(_weight_stage(space, odds, options), evaluations, seed, options)
        outputs = _front_of(_output_stage(space, odds, options), evaluations, seed, options)
        evaluations(pairs(space, weights, outputs))
        evaluations.report("all", f"{len(weights)} x {len(outputs)} pairs")


def _weight_stage(whole: Space, odds: Odds, options: GeneticOptions) -> Stage:
    space = whole.only("weight", "bias")
    objectives = score_and(lambda m: whole.static_bits(m.genome))
    return Stage("weights", space, _fixed(odds, space), objectives, options.n_weight_generations, options.weight_share)


def _output_stage(whole: Space, odds: Odds, options: GeneticOptions) -> Stage:
    space = whole.only("activation")
    objectives = score_and(lambda m: whole.dynamic_bits(m.genome))
    return Stage("outputs", space, _fixed(odds, space), objectives, options.n_output_generations, options.output_share)


def _fixed(odds: Odds, space: Space) -> Odds:
    return tuple(p if g.fixed is None else np.ones(1) for g, p in zip(space.genes, odds, strict=True))


def _front_of(stage: Stage, evaluations: Evaluations, seed: int, options: GeneticOptions) -> list[Member]:
    """Return the front of a stage, best score first."""
    rng = np.random.default_rng([seed, 2 + (stage.name == "outputs")])
    population = evolve(stage, evaluations, rng, options)
    points = stage.objectives(population)
    best = np.flatnonzero(ranks(points) == 0)
    return [population[i] for i in sorted(best, key=lambda i: points[i].tolist())]
