"""The bit searches by name, and their result: a front, screened on held-out data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bitfront.errors import unknown_name
from bitfront.search import baselines
from bitfront.search.evaluations import Evaluations, Member
from bitfront.search.genetic import GeneticOptions, genetic
from bitfront.search.optuna_samplers import nsga2, tpe
from bitfront.search.space import Genome
from bitfront.search.surrogate import SurrogateOptions, surrogate

__all__ = ["METHODS", "TOLERANCE", "Dropped", "Method", "Result", "screen", "search"]

TOLERANCE = 0.005
"""Score that a member of the front may lose on held-out data more than it lost on the data of the search."""

HeldOut = Callable[[Sequence[Genome]], Sequence[float]]
"""Genomes -> scores on held-out data."""


@dataclass(frozen=True, slots=True)
class Method:
    """A search by name."""

    description: str
    run: Callable[[Evaluations, int, float | None], None]
    """Takes the evaluations, a seed, and the floor of the score (for those that polish around it)."""


METHODS: Mapping[str, Method] = {
    "surrogate": Method(
        "knapsack over distortions, learned correction, racing, polish",
        lambda evaluations, seed, floor: surrogate(evaluations, seed, SurrogateOptions(floor=floor)),
    ),
    "genetic": Method("thesis 000, biased odds", lambda evaluations, seed, _: genetic(evaluations, seed)),
    "genetic_uniform": Method(
        "thesis 000, uniform odds",
        lambda evaluations, seed, _: genetic(evaluations, seed, GeneticOptions(odds="uniform")),
    ),
    "nsga2": Method("NSGA-II (Optuna)", lambda evaluations, seed, _: nsga2(evaluations, seed)),
    "tpe": Method("tree-structured Parzen estimator (Optuna)", lambda evaluations, seed, _: tpe(evaluations, seed)),
    "uniform": Method("the same bits everywhere", lambda evaluations, _, __: baselines.uniform(evaluations)),
    "heuristic": Method(
        "thesis 000, 4.6: one-tensor scores", lambda evaluations, _, __: baselines.heuristic(evaluations)
    ),
    "greedy": Method("narrow the least harmful first", lambda evaluations, _, __: baselines.greedy(evaluations)),
    "random": Method("uniform draws", lambda evaluations, seed, _: baselines.random(evaluations, seed)),
}


@dataclass(frozen=True, slots=True)
class Dropped:
    """A member that held-out data took off the front."""

    member: Member
    held_out_score: float
    reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found."""

    front: tuple[Member, ...]
    """Best score first."""
    dropped: tuple[Dropped, ...]
    float_score: float
    """Of the network as it was given."""
    n_evaluations: float
    """Full evaluations; those on subsets count by their fraction, those on held-out data do not count."""
    seconds: float


def search(
    method: str,
    evaluations: Evaluations,
    seed: int,
    *,
    floor: float | None = None,
    held_out: HeldOut | None = None,
    tolerance: float = TOLERANCE,
) -> Result:
    """Run a search to its end or limit and return its front, screened on held-out data with this ``tolerance``.

    Raises UsageError for unknown methods.
    """
    if method not in METHODS:
        raise unknown_name("search method", method, METHODS)
    METHODS[method].run(evaluations, seed, floor)
    known = {row.genome: row.evaluation.score for row in evaluations.rows if row.subset is None}
    float_score = known.get(evaluations.space.float32, math.nan)
    front: tuple[Member, ...] = evaluations.front()
    dropped: tuple[Dropped, ...] = ()
    if held_out is not None and front:
        front, dropped = screen(front, float_score, held_out, evaluations.space.float32, tolerance)
    return Result(front, dropped, float_score, evaluations.n_evaluations, evaluations.elapsed_s)


def screen(
    front: Sequence[Member], float_score: float, held_out: HeldOut, float32: Genome, tolerance: float = TOLERANCE
) -> tuple[tuple[Member, ...], tuple[Dropped, ...]]:
    """Drop the members that lose over ``tolerance`` more on held-out data than they lost in the search.

    Losses are against float on the same data; where the search never evaluated float, the bare scores are compared.
    """
    reference, *scores = held_out([float32, *(m.genome for m in front)])
    shift = reference - float_score if math.isfinite(float_score) else 0.0
    kept, dropped = [], []
    for member, score in zip(front, scores, strict=True):
        excess = member.score + shift - score
        if excess <= tolerance:
            kept.append(member)
        else:
            reason = f"scores {score:.4f} on held-out data, {excess:.4f} less than its {member.score:.4f} promised"
            dropped.append(Dropped(member, float(score), reason))
    return tuple(kept), tuple(dropped)
