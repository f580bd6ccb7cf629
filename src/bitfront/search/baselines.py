"""Simple ways to choose bits, to compare searches with: uniform, heuristic threshold, greedy, random."""

from __future__ import annotations

import contextlib

import numpy as np

from bitfront.search.evaluations import Evaluations, Spent
from bitfront.search.sensitivity import metric_stats
from bitfront.search.space import Genome, Space, Table, biased_odds

__all__ = ["greedy", "heuristic", "heuristic_genome", "random", "uniform"]


def uniform(evaluations: Evaluations) -> None:
    """Evaluate the same bits everywhere, for every width of the space."""
    space = evaluations.space
    widths = sorted({b for i in space.free for b in space.genes[i].choices}, reverse=True)
    with contextlib.suppress(Spent):
        evaluations([space.uniform(b) for b in widths])


def heuristic_genome(space: Space, scores: Table, threshold: float) -> Genome:
    """Return the fewest bits of every tensor whose score, it alone quantized, is not below ``threshold``.

    Where every width is below, the widest. Source: thesis 000, 4.6.
    """
    return tuple(
        gene.fixed
        if gene.fixed is not None
        else next((b for b, s in zip(gene.choices, row, strict=True) if s >= threshold), gene.choices[-1])
        for gene, row in zip(space.genes, scores, strict=True)
    )


def heuristic(evaluations: Evaluations, drops: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)) -> None:
    """Evaluate the heuristic of thesis 000, 4.6, with thresholds at some ``drops`` below float."""
    with contextlib.suppress(Spent):
        scores, float_score = metric_stats(evaluations)
        evaluations([heuristic_genome(evaluations.space, scores, float_score - drop) for drop in drops])


def greedy(evaluations: Evaluations, n_points: int = 40) -> None:
    """From the largest genome, narrow the tensor that loses least score alone per unit of the first cost, and repeat.

    Evaluates ``n_points`` genomes that lie evenly on the way. The order comes from the metric stats alone.
    """
    with contextlib.suppress(Spent):
        scores, float_score = metric_stats(evaluations)
        way = _greedy_way(evaluations, scores, float_score)
        evaluations([way[i] for i in np.unique(np.linspace(0, len(way) - 1, n_points).astype(int))])


def _greedy_way(evaluations: Evaluations, scores: Table, float_score: float) -> list[Genome]:
    space, cost = evaluations.space, evaluations.costs[0].of or evaluations.space.static_bits
    way = [space.largest]
    places = [len(g.widths) - 1 for g in space.genes]

    def step(i: int) -> tuple[float, int]:
        narrower = (*way[-1][:i], space.genes[i].widths[places[i] - 1], *way[-1][i + 1 :])
        saved = cost(way[-1]) - cost(narrower)
        loss = max(float_score - float(scores[i][places[i] - 1]), 0.0)
        return (loss / saved if saved > 0 else np.inf, i)

    while left := [i for i in space.free if places[i] > 0]:
        _, i = min(step(i) for i in left)
        places[i] -= 1
        way.append((*way[-1][:i], space.genes[i].widths[places[i]], *way[-1][i + 1 :]))
    return way


def random(evaluations: Evaluations, seed: int, n: int = 1000, odds: str = "uniform") -> None:
    """Evaluate ``n`` genomes drawn with uniform or biased odds (which cost the metric stats)."""
    with contextlib.suppress(Spent):
        space = evaluations.space
        scores, float_score = ((), 0.0) if odds == "uniform" else metric_stats(evaluations)
        drawn = biased_odds(space, scores, float_score, odds)
        rng = np.random.default_rng([seed, 4])
        evaluations([space.draw(drawn, rng) for _ in range(n)])
