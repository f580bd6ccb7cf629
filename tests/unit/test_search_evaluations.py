from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

import pytest
from search_landscapes import Landscape, make_space

from bitfront.errors import DataError, UsageError
from bitfront.search.evaluations import Cost, Evaluation, Evaluations, Limit, Row, Spent, Subset
from bitfront.search.space import FLOAT, Genome

SPACE = make_space(5)
LARGE, SMALL, MIDDLE = SPACE.largest, SPACE.smallest, SPACE.uniform(8)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_evaluation_is_paid_once_and_subsets_by_their_fraction() -> None:
    net = Landscape(SPACE)
    evaluations = Evaluations(SPACE, net, 40)
    first = evaluations([LARGE, SMALL, LARGE])
    assert first[0] == first[2]
    assert (evaluations.n_evaluations, net.n_genomes) == (2, 2)
    evaluations([LARGE, MIDDLE], (0, 5, 7, 9))
    assert evaluations.n_evaluations == pytest.approx(2.2)
    evaluations([MIDDLE, SMALL])
    assert evaluations.n_evaluations == pytest.approx(3.2)
    assert (evaluations.n_asked, len(evaluations.rows), len(evaluations.members)) == (7, 5, 3)


def test_all_samples_as_a_subset_are_a_full_evaluation() -> None:
    evaluations = Evaluations(SPACE, Landscape(SPACE), 40)
    evaluations([LARGE], tuple(range(40)))
    evaluations([LARGE])
    assert evaluations.n_evaluations == 1


def test_the_limit_stops_within_a_batch_and_keeps_what_was_done() -> None:
    evaluations = Evaluations(SPACE, Landscape(SPACE), 40, limit=Limit(2.5))
    with pytest.raises(Spent):
        evaluations([LARGE, SMALL, MIDDLE])
    assert evaluations.n_evaluations == 2
    evaluations([MIDDLE], tuple(range(20)))  # half an evaluation is left
    assert evaluations.used == 1
    with pytest.raises(Spent):
        evaluations([SMALL], (1,))
    assert evaluations([LARGE]) == [evaluations.rows[0].evaluation]  # what is known stays free


def test_time_is_measured_over_sessions_and_replays_alike() -> None:
    clock, net = Clock(), Landscape(SPACE)

    def slow(genomes: Sequence[Genome], subset: Subset | None, /) -> Iterator[Evaluation]:
        for result in net(genomes, subset):
            clock.now += 3
            yield result

    kept: list[Row] = []
    first = Evaluations(SPACE, slow, 40, limit=Limit(time_s=8), on_row=kept.append, clock=clock)
    with pytest.raises(Spent):
        first([SMALL, MIDDLE, LARGE, SPACE.float32])
    assert [r.elapsed_s for r in kept] == [3, 6, 9]
    clock.now += 1e6
    again = Evaluations(SPACE, slow, 40, limit=Limit(time_s=8), stored=kept, clock=clock)
    with pytest.raises(Spent):
        again([SMALL, MIDDLE, LARGE, SPACE.float32])
    assert (again.elapsed_s, again.rows, net.n_genomes) == (9, first.rows, 3)
    longer = Evaluations(SPACE, slow, 40, limit=Limit(time_s=20), stored=kept, clock=clock)
    longer([SMALL, MIDDLE, LARGE, SPACE.float32])
    assert longer.elapsed_s == 12


def test_rows_survive_json() -> None:
    evaluations = Evaluations(SPACE, Landscape(SPACE), 40)
    evaluations([LARGE])
    evaluations([SMALL], (1, 2))
    odd = Row(LARGE, None, Evaluation(math.nan, math.inf, {"latency_ms": 1.5}), 2.0)
    for row in (*evaluations.rows, odd):
        back = Row.from_json(json.loads(json.dumps(row.to_json())))
        assert repr(back) == repr(row)


@pytest.mark.parametrize("data", [{}, {"genome": 3}, {"genome": ["x"], "subset": None, "evaluation": {}}, []])
def test_damaged_rows_are_refused(data: object) -> None:
    with pytest.raises(DataError, match="a stored evaluation cannot be read"):
        Row.from_json(data)  # type: ignore[arg-type]


def test_the_front_holds_complete_genomes_only() -> None:
    evaluations = Evaluations(SPACE, Landscape(SPACE), 40)
    assert evaluations.front() == ()
    partial = (FLOAT, *SMALL[1:])
    evaluations([SPACE.float32, partial, LARGE, MIDDLE, SMALL])
    front = evaluations.front()
    assert {m.genome for m in front} <= {LARGE, MIDDLE, SMALL}
    assert [m.score for m in front] == sorted((m.score for m in front), reverse=True)
    assert front[0].costs[0] == SPACE.static_bytes(front[0].genome)


def test_failures_are_infinitely_bad_and_equals_count_once() -> None:
    def evaluate(genomes: Sequence[Genome], subset: Subset | None, /) -> list[Evaluation]:
        return [
            Evaluation(math.nan if g == SMALL else 0.5, costs={"latency_ms": 1.0} if g != SMALL else {})
            for g in genomes
        ]

    evaluations = Evaluations(SPACE, evaluate, 4, [Cost("latency_ms")])
    evaluations([SMALL, MIDDLE, LARGE])
    assert evaluations.points().tolist() == [[math.inf, math.inf], [-0.5, 1.0], [-0.5, 1.0]]
    assert [m.genome for m in evaluations.front()] == [MIDDLE]


def test_bad_evaluators() -> None:
    with pytest.raises(UsageError, match="needs samples"):
        Evaluations(SPACE, Landscape(SPACE), 0)
    evaluations = Evaluations(SPACE, lambda genomes, _: [Evaluation(0.5)] * (len(genomes) - 1), 4)
    with pytest.raises(DataError, match="fewer results"):
        evaluations([LARGE, SMALL])
    evaluations = Evaluations(SPACE, Landscape(SPACE), 4, [Cost("cycles")])
    with pytest.raises(DataError, match="does not measure 'cycles'"):
        evaluations([LARGE])


def test_progress_is_told() -> None:
    seen = []
    evaluations = Evaluations(SPACE, Landscape(SPACE), 40, on_progress=seen.append)
    evaluations.report("begin")
    evaluations([LARGE, SMALL])
    evaluations.report("end", "two")
    assert [(p.phase, p.n_evaluations, p.n_front, p.text) for p in seen] == [("begin", 0, 0, ""), ("end", 2, 2, "two")]
    assert seen[1].best_score == evaluations.front()[0].score
