from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from search_landscapes import Landscape, make_space, volume

from bitfront.errors import DataError, UsageError
from bitfront.search.acquisition import choose, gains
from bitfront.search.evaluations import Cost, Evaluation, Evaluations, Limit, Row, Subset
from bitfront.search.front import hypervolume
from bitfront.search.genetic import genetic
from bitfront.search.knapsack import Sums, knapsack, linear_costs
from bitfront.search.predictor import Curve, as_array, fit, isotonic
from bitfront.search.sensitivity import distortion_stats, spread
from bitfront.search.space import FLOAT, Gene, Genome, Space, Table
from bitfront.search.surrogate import SurrogateOptions, surrogate


# --- knapsack --------------------------------------------------------------------------------------------------------
def brute_force(space: Space, distortions: Table, costs: Table) -> list[tuple[float, float]]:
    sums = []
    for places in itertools.product(*(range(len(g.widths)) for g in space.genes)):
        picked = list(enumerate(places))
        sums.append(
            (sum(c[i] for c, (_, i) in zip(costs, picked, strict=True)), sum(distortions[g][i] for g, i in picked))
        )
    front: list[tuple[float, float]] = []
    for cost, distortion in sorted(sums):
        if not front or distortion < front[-1][1]:
            front.append((cost, distortion))
    return front


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_knapsack_is_exact(data: st.DataObject) -> None:
    genes = [
        Gene(f"w{i}", "weight", (2, 4, 8), 1, fixed=data.draw(st.sampled_from([None, None, 16]))) for i in range(5)
    ]
    space = Space(tuple(genes))
    number = st.integers(0, 9).map(float)  # few values: many ties
    distortions, costs = (
        tuple(np.array(data.draw(st.lists(number, min_size=n, max_size=n))) for n in (len(g.widths) for g in genes))
        for _ in range(2)
    )
    sums = knapsack(space, distortions, costs)
    assert list(zip(sums.costs, sums.distortions, strict=True)) == brute_force(space, distortions, costs)
    check_genomes(space, sums, distortions, costs)


def check_genomes(space: Space, sums: Sums, distortions: Table, costs: Table) -> None:
    for i in range(len(sums)):
        genome = space.check(sums.genome(i))
        places = [g.widths.index(b) for g, b in zip(space.genes, genome, strict=True)]
        assert sums.costs[i] == pytest.approx(sum(c[p] for c, p in zip(costs, places, strict=True)))
        assert sums.distortions[i] == pytest.approx(sum(d[p] for d, p in zip(distortions, places, strict=True)))


@pytest.mark.parametrize("magnitude", [1.0, 1e-10, 1e-200])
def test_magnitudes_do_not_matter(magnitude: float, rng: np.random.Generator) -> None:
    space = make_space(6)
    distortions = tuple(np.sort(rng.random(4))[::-1] * magnitude for _ in space.genes)
    costs = linear_costs(space, space.static_bits)
    expected = knapsack(space, tuple(d / magnitude for d in distortions), costs)
    assert knapsack(space, distortions, costs).bits.tolist() == expected.bits.tolist()


def test_a_thinned_knapsack_is_near_the_exact_one(rng: np.random.Generator) -> None:
    space = make_space(14)
    distortions = tuple(np.sort(rng.lognormal(0, 2, 4))[::-1] for _ in space.genes)
    costs = linear_costs(space, space.static_bits)
    exact, thin = knapsack(space, distortions, costs, 1 << 20), knapsack(space, distortions, costs, 500)
    assert len(thin) <= 500 < len(exact)
    check_genomes(space, thin, distortions, costs)
    slack = len(space.genes) / 498  # one slice of cost per gene
    for cost, distortion in zip(exact.costs, exact.distortions, strict=True):
        assert thin.distortions[thin.costs <= cost + slack].min() <= distortion + 1e-12
    assert thin.genome(0) == space.smallest


def test_linear_costs_are_exact_for_sums() -> None:
    space = make_space(4, activation_bits=(8, 16))
    table = linear_costs(space, space.static_bits)
    span = space.static_bits(space.largest) - space.static_bits(space.smallest)
    genome = (4, 8, 8, 16, 12, 8, 16, 16)
    total = sum(row[g.widths.index(b)] for g, row, b in zip(space.genes, table, genome, strict=True))
    assert total * span == pytest.approx(space.static_bits(genome) - space.static_bits(space.largest))


# --- prediction ------------------------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 4)), min_size=1, max_size=20))
def test_isotonic_regression(pairs: list[tuple[float, float]]) -> None:
    y, w = np.array(pairs).T
    fitted = isotonic(y, w)
    assert (np.diff(fitted) <= 0).all()
    assert (fitted * w).sum() == pytest.approx((y * w).sum(), abs=1e-9)
    sklearn = pytest.importorskip("sklearn.isotonic", reason="the oracle is not installed")
    expected = sklearn.isotonic_regression(y, sample_weight=w, increasing=False)
    assert fitted == pytest.approx(expected, abs=1e-9)


def test_curves_go_through_blocks_and_back() -> None:
    curve = Curve.through(np.array([3.0, 0.0, 1.0, 2.0]), np.array([0.1, 0.9, 0.5, 0.7]))
    assert curve.x.tolist() == [0, 1.5, 3]
    assert curve(np.array([-9.0, 0.0, 1.5, 9.0])) == pytest.approx([0.9, 0.9, 0.6, 0.1])
    assert curve.inverse(np.array([1.0, 0.6, 0.1])) == pytest.approx([0, 1.5, 3])
    assert curve.slope(np.array([0.75])) == pytest.approx([-0.2])


def test_the_predictor_learns_what_tensors_matter(rng: np.random.Generator) -> None:
    space = make_space(12)
    net = Landscape(space, seed=2, interaction=0.3, unequal=1.0)
    evaluations = Evaluations(space, net, 40)
    table = distortion_stats(evaluations, (0, 1))
    genomes = [tuple(int(b) for b in rng.choice([4, 8, 12, 16], size=12)) for _ in range(260)]
    evaluations(genomes[:200])
    truth = np.array([net.score(g) for g in genomes[200:]])

    def error(n: int) -> float:
        full = [r for r in evaluations.rows if r.subset is None][:n]
        return float(np.abs(fit(space, table, full, 0.0).score(as_array(genomes[200:])) - truth).mean())

    assert error(200) < 0.6 * error(20)
    assert error(200) < 0.05


def test_the_predictor_bears_anything() -> None:
    space = make_space(3)
    zero = tuple(np.zeros(4) for _ in space.genes)
    rows = [Row(space.largest, None, Evaluation(0.5), 0.0), Row(space.smallest, None, Evaluation(math.nan), 0.0)]
    model = fit(space, zero, rows, 0.2)
    assert model.score(as_array([space.smallest, space.largest])) == pytest.approx([0.5, 0.5])
    assert [row.tolist() for row in model.corrected(zero)] == [[0.0] * 4] * 3


# --- acquisition -----------------------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=0, max_size=6), st.integers(0, 99))
def test_gains_are_differences_of_hypervolume(front: list[tuple[int, int]], seed: int) -> None:
    known = np.array(front, float).reshape(-1, 2)
    candidates = np.random.default_rng(seed).integers(0, 8, (5, 2)).astype(float)
    reference = np.array([5.0, 6.0])
    before = hypervolume(known, (5, 6))
    expected = [hypervolume(np.concatenate((known, [c])), (5, 6)) - before for c in candidates]
    assert gains(candidates, known, reference) == pytest.approx(expected)


@pytest.mark.parametrize("m", [2, 3])
def test_choices_add_most_volume_one_by_one(m: int, rng: np.random.Generator) -> None:
    reference = np.ones(m)
    front = np.full((1, m), 0.6)
    candidates = np.full((4, m), 0.9)
    candidates[1], candidates[2], candidates[3] = 0.2, 0.21, 0.55
    candidates[3, 0] = 0.02
    assert choose(candidates, front, reference, 4, rng) == [1, 3]  # 2 adds nothing beside 1, 0 nothing at all


# --- the search ------------------------------------------------------------------------------------------------------
def bits_of(space: Space) -> list[Cost]:
    return [Cost("bits", space.static_bits)]


def volume_of(evaluations: Evaluations, n: float = math.inf) -> float:
    """Hypervolume after ``n`` evaluations, everything counted."""
    space, paid, points = evaluations.space, 0.0, []
    for row in evaluations.rows:
        paid += 1 if row.subset is None else len(row.subset) / evaluations.n_samples
        if paid > n:
            break
        if row.subset is None and FLOAT not in row.genome:
            points.append((row.evaluation.score, space.static_bits(row.genome)))
    return volume(space, points, 0.48, 0.96)


@pytest.mark.parametrize("seed", [1, 2])
def test_forty_times_fewer_evaluations_than_the_genetic_search(seed: int) -> None:
    space = make_space(77, seed)
    net = Landscape(space, seed, interaction=0.5, unequal=0.7)
    slow = Evaluations(space, net, 40, bits_of(space))
    genetic(slow, seed)
    fast = Evaluations(space, net, 40, bits_of(space), limit=Limit(slow.n_evaluations / 40))
    surrogate(fast, seed)
    assert volume_of(fast) > volume_of(slow)


def test_the_known_optimum_is_approached() -> None:
    space = make_space(40, 3)
    net = Landscape(space, 3, interaction=0.0)  # additive: the knapsack of the true distortions is the optimum
    table = tuple(np.array([net.scale[i] * 4.0**-b for b in g.widths]) for i, g in enumerate(space.genes))
    sums = knapsack(space, table, linear_costs(space, space.static_bits))
    genomes = [sums.genome(i) for i in range(len(sums))]
    best = volume(space, [(net.score(g), space.static_bits(g)) for g in genomes], 0.48, 0.96)
    evaluations = Evaluations(space, net, 40, bits_of(space), limit=Limit(120))
    surrogate(evaluations, 0)
    assert best >= volume_of(evaluations) > 0.99 * best


def test_learning_and_polish_pay() -> None:
    space = make_space(40, 5)
    net = Landscape(space, 5, interaction=0.5, unequal=1.2)
    evaluations = Evaluations(space, net, 40, bits_of(space), limit=Limit(200))
    surrogate(evaluations, 0, SurrogateOptions(floor=0.95))
    seeds = 1 + 4 + 40 * 4 * 2 / 40 + 30 + 0.2

    def smallest(rows: Sequence[Row]) -> int:
        return min(space.static_bits(r.genome) for r in rows if r.subset is None and r.evaluation.score >= 0.95)

    n_seed_rows = 1 + 4 + 40 * 4 + 30 + 1
    assert volume_of(evaluations) > volume_of(evaluations, seeds)
    assert smallest(evaluations.rows) < smallest(evaluations.rows[:n_seed_rows])


def test_every_evaluation_is_counted() -> None:
    space = make_space(20)
    net = Landscape(space)
    evaluations = Evaluations(space, net, 40, limit=Limit(100))
    surrogate(evaluations, 0)
    subsets = {r.subset for r in evaluations.rows}
    assert subsets == {None, spread(40, 2), spread(40, 8)}
    paid = sum(40 if r.subset is None else len(r.subset) for r in evaluations.rows)
    assert evaluations.n_evaluations == paid / 40 <= 100
    assert net.n_genomes == len(evaluations.rows)


class Killed(Exception):
    """Stands for the death of the process."""


@pytest.mark.parametrize("n", [3, 37, 68, 95])
def test_resuming_in_mid_search_is_the_uninterrupted_search(n: int) -> None:
    space = make_space(15)
    net = Landscape(space, 1, 0.5, 0.5)
    whole = Evaluations(space, net, 40, limit=Limit(90))
    surrogate(whole, 7)
    kept: list[Row] = []

    def keep(row: Row) -> None:
        kept.append(row)
        if len(kept) == n:  # within a batch
            raise Killed("now")

    with pytest.raises(Killed, match="now"):
        surrogate(Evaluations(space, net, 40, limit=Limit(90), on_row=keep), 7)
    net.n_genomes = 0
    resumed = Evaluations(space, net, 40, limit=Limit(90), stored=[Row.from_json(row.to_json()) for row in kept])
    surrogate(resumed, 7)
    assert [(r.genome, r.subset) for r in resumed.rows] == [(r.genome, r.subset) for r in whole.rows]
    assert net.n_genomes == len(whole.rows) - n
    assert [m.genome for m in resumed.front()] == [m.genome for m in whole.front()]


def test_weights_and_activations_with_two_costs() -> None:
    space = make_space(12, bits=(2, 3, 4, 6, 8, 16), activation_bits=(4, 6, 8, 16))

    def peak(genome: Genome) -> float:  # not a sum: the largest activation
        return max(g.size * b for g, b in zip(space.genes, genome, strict=True) if g.kind == "activation")

    costs = [Cost("size_bytes", space.static_bytes), Cost("peak_bits", peak)]
    evaluations = Evaluations(space, Landscape(space), 40, costs, limit=Limit(120))
    surrogate(evaluations, 0)
    front = evaluations.front()
    assert len(front) >= 10
    points = evaluations.points(front)
    assert points.shape[1] == 3
    assert all(np.unique(points[:, column]).size > 3 for column in range(3))


def test_a_small_space_is_searched_to_its_end() -> None:
    space = make_space(2)
    evaluations = Evaluations(space, Landscape(space), 10)
    surrogate(evaluations, 0)
    complete = [m for m in evaluations.members if FLOAT not in m.genome]
    every = [Landscape(space, n_samples=10).score(g) for g in itertools.product(*(g.choices for g in space.genes))]
    assert len(complete) <= 16
    assert evaluations.front()[0].score == pytest.approx(max(every))


def test_what_cannot_be_searched_is_said() -> None:
    space = make_space(3)
    with pytest.raises(UsageError, match="cannot foresee 'latency_ms'"):
        surrogate(Evaluations(space, Landscape(space), 40, [Cost("latency_ms")]), 0)
    with pytest.raises(DataError, match="tells no distortion"):
        surrogate(Evaluations(space, lambda genomes, _: [Evaluation(0.5)] * len(genomes), 40), 0)


def test_failures_do_not_stop_it() -> None:
    space = make_space(10)
    net = Landscape(space)

    def failing(genomes: Sequence[Genome], subset: Subset | None, /) -> Iterator[Evaluation]:
        for genome, result in zip(genomes, net(genomes, subset), strict=True):
            yield Evaluation(math.nan) if genome[3] == 4 else result

    evaluations = Evaluations(space, failing, 40, limit=Limit(80))
    surrogate(evaluations, 0)
    assert evaluations.front()
    assert all(m.genome[3] != 4 for m in evaluations.front())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_subsets_lie_evenly(n_samples: int, n: int) -> None:
    chosen = spread(n_samples, n)
    assert len(chosen) == len(set(chosen)) == min(n, n_samples)
    assert all(0 <= i < n_samples for i in chosen)
    gaps: NDArray[np.int64] = np.diff(chosen)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
