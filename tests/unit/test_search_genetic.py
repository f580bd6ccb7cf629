from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_landscapes import Landscape, make_space

from bitfront.search.evaluations import Cost, Evaluation, Evaluations, Limit, Member
from bitfront.search.genetic import (
    GeneticOptions,
    crossover,
    genetic,
    lexicographic,
    mutate,
    pairs,
    score_and,
    survivors,
    tournament,
)
from bitfront.search.space import FLOAT, Gene, Genome, Space, uniform_odds

SPACE = Space(
    (
        *make_space(3).genes,
        Gene("fixed", "weight", (4, 8), 5, fixed=16),
        Gene("a", "activation", (8, 16), 100),
    )
)


def member(genome: Genome, score: float, *costs: float) -> Member:
    return Member(genome, score, costs, Evaluation(score))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_offspring_stay_in_the_space(seed: int) -> None:
    rng = np.random.default_rng(seed)
    odds = uniform_odds(SPACE)
    first, second = SPACE.draw(odds, rng), SPACE.draw(odds, rng)
    child = crossover(SPACE, first, second, rng)
    assert SPACE.check(child) == child
    splits = [(*first[:i], *second[i:]) for i in SPACE.free[1:]]
    assert child in splits  # at least one searched gene of either parent
    changed = mutate(SPACE, first, odds, rng)
    assert SPACE.check(changed) == changed
    assert sum(a != b for a, b in zip(first, changed, strict=True)) <= 1  # 4 genes: one is drawn anew


def test_mutations_draw_one_more_gene_per_150(rng: np.random.Generator) -> None:
    for n, most in ((149, 1), (150, 2), (449, 3), (450, 4)):
        space = Space(tuple(Gene(f"w{i}", "weight", (2, 3), 1) for i in range(n)))
        to_three = tuple(np.array([0.0, 1.0]) for _ in range(n))  # every drawn gene shows
        counts = [sum(b == 3 for b in mutate(space, space.smallest, to_three, rng)) for _ in range(120)]
        assert set(counts) == set(range(1, most + 1))


def test_mutations_follow_the_odds(rng: np.random.Generator) -> None:
    space = Space((Gene("w", "weight", (4, 8, 16), 1),))
    drawn = {mutate(space, (4,), (np.array([0.0, 0.0, 1.0]),), rng) for _ in range(20)}
    assert drawn == {(16,)}


def test_one_gene_cannot_cross(rng: np.random.Generator) -> None:
    space = Space((Gene("w", "weight", (4, 8), 1),))
    assert crossover(space, (4,), (8,), rng) == (4,)


def test_tournaments(rng: np.random.Generator) -> None:
    fitness = np.array([3, 1, 0, 2, 5, 5, 5, 5, 5, 5, 5, 5])
    assert tournament(fitness, 12, rng) == 2  # all of them: the best wins
    assert tournament(fitness, 99, rng) == 2
    wins = np.bincount([tournament(fitness, 8, rng) for _ in range(300)], minlength=12)
    assert wins.argmax() == 2
    assert 0.55 < wins[2] / 300 < 0.78  # 8 of 12 are drawn without replacement
    assert set(np.unique([tournament(fitness, 1, rng) for _ in range(300)])) == set(range(12))


def test_all_of_the_first_rank_survive_and_at_least_some() -> None:
    objectives = score_and(lambda m: m.costs[0])
    front = [member((i,), i / 10, i) for i in range(6)]
    worse = [member((10 + i,), i / 10 - 1, i) for i in range(6)]
    kept, fitness = survivors([*worse, *front, front[2]], objectives, 3)
    assert [m.genome for m in kept] == [m.genome for m in front]
    assert fitness.tolist() == [0] * 6
    kept, fitness = survivors([*worse, *front, front[2]], objectives, 8)
    assert len(kept) == len({m.genome for m in kept}) == 8
    assert fitness.tolist() == [0] * 6 + [1] * 2
    failed, _ = survivors([member((0,), math.nan, math.inf), front[0]], objectives, 1)
    assert failed == [front[0]]


def test_similar_times_are_told_apart_by_size() -> None:
    objectives = lexicographic(lambda m: m.costs[0], lambda m: m.costs[1], tolerance=0.1)
    members = [
        member((0,), 0.5, 10.0, 9),
        member((1,), 0.5, 10.1, 5),
        member((2,), 0.5, 20.0, 1),
        member((3,), math.nan),
    ]
    points = objectives(members)
    assert points[:3, 1].tolist() == [1, 0, 2]
    assert points[3].tolist() == [math.inf, math.inf]


def test_pairs_join_the_two_fronts() -> None:
    weights = [member((4, 4, 4, 16, FLOAT), 0.9), member((8, 8, 8, 16, FLOAT), 0.8)]
    outputs = [member((FLOAT,) * 4 + (b,), 0.9) for b in (8, 16)]
    joined = pairs(SPACE, weights, outputs)
    assert joined[:2] == [(4, 4, 4, 16, 8), (8, 8, 8, 16, 16)]  # equal places first
    assert sorted(joined) == sorted((*w.genome[:4], o.genome[4]) for w in weights for o in outputs)


def test_the_counts_of_the_thesis() -> None:
    space = make_space(40)
    evaluations = Evaluations(space, Landscape(space), 40)
    genetic(evaluations, 0, GeneticOptions(odds="uniform"))
    assert evaluations.n_asked == 30 + 100 * 45 == 4530
    assert evaluations.n_evaluations <= 4530  # a duplicate is not paid again
    assert evaluations.n_evaluations == len(evaluations.members)


def test_three_searches() -> None:
    space = make_space(6, activation_bits=(8, 16))
    evaluations = Evaluations(
        space, Landscape(space), 40, [Cost("bits", lambda g: space.static_bits(g) + space.dynamic_bits(g))]
    )
    options = GeneticOptions(n_weight_generations=4, n_output_generations=3)
    genetic(evaluations, 1, options)
    by_kind = [
        (any(b != FLOAT for b in m.genome[::2]), any(b != FLOAT for b in m.genome[1::2])) for m in evaluations.members
    ]
    n_statistics = 1 + 6 * 4 + 6 * 2
    stages = by_kind[n_statistics:]
    assert stages == sorted(stages, key=[(True, False), (False, True), (True, True)].index)
    assert set(stages) == {(True, False), (False, True), (True, True)}
    assert evaluations.front()
    assert all(FLOAT not in m.genome for m in evaluations.front())


def test_three_searches_reach_all_under_a_limit() -> None:
    space = make_space(20, activation_bits=(8, 16))
    evaluations = Evaluations(space, Landscape(space), 40, limit=Limit(600))
    genetic(evaluations, 1, GeneticOptions(odds="uniform"))
    assert evaluations.n_evaluations == 600
    assert evaluations.front()


def test_the_same_seed_the_same_search_and_resuming_is_replaying() -> None:
    space = make_space(12)
    options = GeneticOptions(n_weight_generations=8)

    def run(limit: Limit | None = None, stored: tuple = (), seed: int = 3) -> tuple[Evaluations, Landscape]:  # type: ignore[type-arg]
        net = Landscape(space)
        evaluations = Evaluations(space, net, 40, limit=limit, stored=stored)
        genetic(evaluations, seed, options)
        return evaluations, net

    whole, _ = run()
    broken, _ = run(Limit(173))
    resumed, net = run(stored=broken.rows)
    genomes = [r.genome for r in whole.rows]
    assert [r.genome for r in resumed.rows] == genomes
    assert [r.genome for r in broken.rows] == genomes[:173]
    assert net.n_genomes == len(genomes) - 173  # nothing is evaluated twice
    assert [m.genome for m in resumed.front()] == [m.genome for m in whole.front()]
    assert [r.genome for r in run(seed=4)[0].rows] != genomes


@pytest.mark.parametrize("odds", ["reversed", "inverse"])
def test_biased_odds_pay_for_the_metric_stats(odds: str) -> None:
    space = make_space(12)
    evaluations = Evaluations(space, Landscape(space), 40)
    genetic(evaluations, 0, GeneticOptions(odds=odds, n_weight_generations=5))
    assert evaluations.n_asked == 1 + 12 * 4 + 30 + 5 * 45
