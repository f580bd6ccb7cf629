from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitfront.contracts import InputContract, Metrics, OutputContract
from bitfront.objectives.latency import Latency
from bitfront.objectives.score import Score
from bitfront.objectives.size import Size
from bitfront.record import Artifact, Budget, Candidate, Measurement, Record
from bitfront.search.front import (
    clusters,
    costs,
    dominates,
    feasible,
    front,
    hypervolume,
    knee,
    nearest_miss,
    ranks,
    violations,
)

OBJECTIVES = (Score(), Size(), Latency())


def record(name: str, score: float | None = 0.9, size: int | None = 1000, latency: float | None = 10.0) -> Record:
    contract = InputContract(8, 8)
    return Record(
        Candidate(name, {}, "int8", "onnxruntime"),
        "front",
        artifact=None if size is None else Artifact("x", "r", "int8", size, "", contract, OutputContract()),
        val=Metrics("miou", {"miou": score}, {}),
        latency=None if latency is None else Measurement(latency, "ms"),
    )


def points(m: int, max_size: int = 12) -> st.SearchStrategy[NDArray[np.float64]]:
    value = st.integers(0, 5).map(float)  # few values: many ties
    return st.lists(st.lists(value, min_size=m, max_size=m), min_size=1, max_size=max_size).map(np.array)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((1, 1), (1, 2), True),
        ((1, 1), (1, 1), False),
        ((1, 2), (2, 1), False),
        ((0, 0), (math.nan, 5), True),
        ((math.nan, 0), (0, 1), False),
    ],
)
def test_dominates(a: tuple[float, ...], b: tuple[float, ...], expected: bool) -> None:
    assert dominates(a, b) is expected


@settings(max_examples=25, deadline=None)
@given(points(3))
def test_ranks_are_the_definition(x: NDArray[np.float64]) -> None:
    expected = np.full(len(x), -1)
    left, rank = set(range(len(x))), 0
    while left:
        top = {i for i in left if not any(dominates(x[j], x[i]) for j in left)}
        expected[list(top)] = rank
        left, rank = left - top, rank + 1
    assert ranks(x).tolist() == expected.tolist()


def test_ranks_of_nan_come_last_and_of_nothing_are_nothing() -> None:
    assert ranks(np.array([[1.0, math.nan], [1.0, 2.0], [0.0, 3.0]])).tolist() == [1, 0, 0]
    assert ranks(np.empty((0, 2))).tolist() == []


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 3).flatmap(points))
def test_hypervolume_counts_unit_cubes(x: NDArray[np.float64]) -> None:
    reference = (4.0, 5.0, 3.0)[: x.shape[1]]
    cells = np.indices([int(r) for r in reference]).reshape(len(reference), -1).T
    expected = sum(bool((p <= cell).all(1).any()) for cell in cells for p in [x])
    assert hypervolume(x, reference) == pytest.approx(expected)


@pytest.mark.parametrize("m", [2, 3])
def test_hypervolume_equals_moocore(m: int, rng: np.random.Generator) -> None:
    moocore = pytest.importorskip("moocore", reason="the oracle is not installed")
    for _ in range(20):
        x = rng.random((rng.integers(1, 40), m))
        assert hypervolume(x, [0.9] * m) == pytest.approx(moocore.hypervolume(x, ref=[0.9] * m))


def test_hypervolume_refuses_four_objectives() -> None:
    with pytest.raises(ValueError, match="2 or 3 objectives, not 4"):
        hypervolume(np.zeros((1, 4)), [1.0] * 4)


@settings(max_examples=25, deadline=None)
@given(points(2))
def test_the_knee_lies_on_the_front_and_is_farthest_from_the_chord(x: NDArray[np.float64]) -> None:
    index = knee(x)
    assert ranks(x)[index] == 0
    members = np.unique(x[ranks(x) == 0], axis=0)
    if len(members) > 2:
        low, high = members.min(0), members.max(0)
        scaled = (members - low) / (high - low)
        mine = (x[index] - low) / (high - low)
        distances = [_below_chord(p) for p in scaled]
        assert _below_chord(mine) == pytest.approx(max(distances))


def _below_chord(point: NDArray[np.float64]) -> float:
    """Signed distance of a point below the line from (0, 1) to (1, 0), by the cross product."""
    start, end = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    along, to = end - start, point - start
    return float((along[1] * to[0] - along[0] * to[1]) / math.hypot(*along))


def test_the_knee_of_an_elbow_is_the_elbow() -> None:
    assert knee(np.array([[0.0, 10.0], [1.0, 1.0], [10.0, 0.0], [9.0, 9.0]])) == 1
    assert knee(np.array([[math.nan, 0.0], [1.0, 1.0]])) == 1
    with pytest.raises(ValueError, match="no points"):
        knee(np.empty((0, 2)))


def test_costs_negate_what_is_maximised() -> None:
    table = costs([record("a", 0.5, 100, None)], OBJECTIVES)
    assert table[0, :2].tolist() == [-0.5, 100.0]
    assert math.isnan(table[0, 2])


def test_front_drops_the_dominated_and_the_unmeasured() -> None:
    records = [record("a"), record("worse", size=2000), record("fast", 0.8, 1000, 5.0), record("x", latency=None)]
    assert [r.candidate.model for r in front(records, OBJECTIVES)] == ["a", "fast"]
    assert front([], OBJECTIVES) == ()


def test_front_ignores_latency_differences_below_the_noise() -> None:
    slower, smaller = record("slow", latency=10.2), record("b", latency=10.0, size=1001)
    assert len(front([slower, smaller], OBJECTIVES)) == 2
    assert front([slower, smaller], OBJECTIVES, {"latency": 0.03}) == (slower,)
    twins = [record(name, latency=value) for name, value in [("p", 10.0), ("q", 10.1)]]
    lowest = min(twins, key=lambda r: r.id)
    assert front(twins, OBJECTIVES, {"latency": 0.03}) == (lowest,)
    assert front(twins[::-1], OBJECTIVES, {"latency": 0.03}) == (lowest,)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.floats(1, 2)), min_size=1, max_size=10),
    st.sampled_from([0.0, 0.05, 0.2]),
)
def test_what_the_front_leaves_out_has_an_equal_or_better_member(
    rows: list[tuple[int, int, float]], noise: float
) -> None:
    records = [record(f"m{i}", s / 4, b, t) for i, (s, b, t) in enumerate(rows)]
    members = front(records, OBJECTIVES, {"latency": noise})
    assert members == front(records[::-1], OBJECTIVES, {"latency": noise})
    kept = costs(members, OBJECTIVES)
    for point in costs(records, OBJECTIVES):
        assert ((kept[:, :2] <= point[:2]).all(1) & (kept[:, 2] <= point[2] * (1 + noise))).any()
    if noise == 0:
        table = costs(records, OBJECTIVES)
        exact = {tuple(p) for p in table if not any(dominates(q, p) for q in table)}
        assert {tuple(p) for p in kept} == exact


def test_violations_read_like_sentences() -> None:
    budget = Budget(max_latency_ms=33, max_size_bytes=400_000, min_score=0.95, max_drop=0.01)
    assert violations(record("ok", 0.97, 400_000, 33.0), budget, 0.975) == []
    assert violations(record("bad", 0.93, 512_000, 41.0), budget, 0.975) == [
        "latency 41 ms > 33 ms by 24 %",
        "size 512 kB > 400 kB by 28 %",
        "score 0.9300 < 0.9500 by 0.02",
        "score 0.9300 < 0.9650 by 0.035 (0.9750 of float)",
    ]
    assert violations(record("?", None, None, None), Budget(1.0, 1, 0.5)) == [
        "latency not measured",
        "size not measured",
        "score not measured",
    ]


def test_violations_show_enough_digits() -> None:
    (text,) = violations(record("close", latency=33.001), Budget(max_latency_ms=33))
    assert text == "latency 33.001 ms > 33 ms by under 1 %"


def test_nearest_miss_is_the_smallest_excess() -> None:
    budget = Budget(max_latency_ms=33)
    near, far, unknown = record("near", latency=41.0), record("far", latency=90.0), record("no", latency=None)
    assert nearest_miss([far, unknown, near], budget) == (near, "latency 41 ms > 33 ms by 24 %")
    assert nearest_miss([], budget) is None
    assert nearest_miss([record("ok")], budget) is None
    assert feasible([far, record("ok"), near], budget) == (record("ok"),)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(1, 4))
def test_clusters_have_the_least_squared_deviations_of_all_cuts(numbers: list[int], n: int) -> None:
    def deviations(groups: list[list[int]]) -> float:
        return sum(float(((np.array(g) - np.mean(g)) ** 2).sum()) for g in groups if g)

    found = clusters(numbers, n)
    values = sorted(set(numbers))
    cuts = itertools.combinations(range(1, len(values)), min(n, len(values)) - 1)
    best = min(
        deviations(
            [
                [v for v in numbers if a <= v < b]
                for a, b in itertools.pairwise([values[0], *(values[c] for c in cut), 99])
            ]
        )
        for cut in cuts
    )
    members = [[v for v, g in zip(numbers, found, strict=True) if g == group] for group in range(max(found) + 1)]
    assert len(members) == min(n, len(values))
    assert all(members)
    assert [v for group in members for v in sorted(group)] == sorted(numbers)
    assert deviations(members) == pytest.approx(best)
