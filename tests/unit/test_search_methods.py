from __future__ import annotations

import functools
import itertools
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from search_landscapes import Landscape, make_space

from bitfront.errors import BitfrontError, UsageError
from bitfront.search.baselines import greedy, heuristic, heuristic_genome, random, uniform
from bitfront.search.evaluations import Evaluation, Evaluations, Limit, Member, Subset
from bitfront.search.execute import InProcess, Workers
from bitfront.search.methods import METHODS, screen, search
from bitfront.search.optuna_samplers import nsga2, tpe
from bitfront.search.space import FLOAT, Gene, Genome, Space

SPACE = make_space(8)


def evaluations(limit: float | None = None, space: Space = SPACE) -> Evaluations:
    return Evaluations(space, Landscape(space), 40, limit=Limit(limit))


# --- baselines -------------------------------------------------------------------------------------------------------
def test_uniform_bits() -> None:
    found = evaluations()
    uniform(found)
    assert [m.genome for m in found.members] == [(b,) * 8 for b in (16, 12, 8, 4)]


def test_the_heuristic_takes_the_fewest_bits_above_the_threshold() -> None:
    space = Space((*(Gene(n, "weight", (4, 8, 16), 5) for n in "abc"), Gene("d", "weight", (4,), 5, fixed=8)))
    scores = (np.array([0.1, 0.5, 0.6]), np.array([0.5, 0.4, 0.6]), np.array([0.1, 0.2, 0.3]), np.zeros(1))
    assert heuristic_genome(space, scores, 0.5) == (8, 4, 16, 8)


def test_heuristics_pay_for_the_metric_stats() -> None:
    found = evaluations()
    heuristic(found, (0.001, 0.05))
    assert found.n_asked == 1 + 8 * 4 + 2
    assert found.front()


def test_greedy_walks_from_the_largest_to_the_smallest() -> None:
    found = evaluations()
    greedy(found, n_points=10)
    way = [m for m in found.members if FLOAT not in m.genome]
    assert (way[0].genome, way[-1].genome) == (SPACE.largest, SPACE.smallest)
    assert len(way) == 10
    for before, after in itertools.pairwise(way):
        assert all(b >= a for b, a in zip(before.genome, after.genome, strict=True))


def test_random_draws() -> None:
    found = evaluations(50)
    random(found, 1)
    assert found.n_evaluations == 50
    biased = evaluations()
    random(biased, 1, n=20, odds="inverse")
    assert biased.n_asked == 1 + 32 + 20


@pytest.mark.parametrize("method", [nsga2, tpe])
def test_optuna_walks_the_same_way_and_resumes(method: object) -> None:
    pytest.importorskip("optuna", reason="the extra 'search' is not installed")
    whole = evaluations(70)
    method(whole, 5)  # type: ignore[operator]
    assert whole.n_evaluations == 70
    assert all(SPACE.check(m.genome) for m in whole.front())
    net = Landscape(SPACE)
    resumed = Evaluations(SPACE, net, 40, limit=Limit(70), stored=whole.rows[:31])
    method(resumed, 5)  # type: ignore[operator]
    assert [r.genome for r in resumed.rows] == [r.genome for r in whole.rows]
    assert net.n_genomes == 70 - 31


def test_optuna_bears_failures() -> None:
    pytest.importorskip("optuna", reason="the extra 'search' is not installed")
    net = Landscape(SPACE)

    def failing(genomes: Sequence[Genome], subset: Subset | None, /) -> Iterator[Evaluation]:
        for genome, result in zip(genomes, net(genomes, subset), strict=True):
            yield Evaluation(math.nan) if genome[0] == 4 else result

    found = Evaluations(SPACE, failing, 40, limit=Limit(60))
    nsga2(found, 0, population=15)
    assert found.n_evaluations == 60
    assert found.front()


def test_optuna_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match="need Optuna, which is not installed") as caught:
        nsga2(evaluations(10), 0)
    assert "bitfront[search]" in caught.value.hint


# --- by name ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_every_method_fills_the_front_within_its_limit(method: str) -> None:
    if method in ("nsga2", "tpe"):
        pytest.importorskip("optuna", reason="the extra 'search' is not installed")
    found = evaluations(60)
    result = search(method, found, 1)
    assert result.n_evaluations <= 60
    assert result.front == found.front()
    assert result.front
    assert not result.dropped
    assert METHODS[method].description


def test_unknown_methods_are_named() -> None:
    with pytest.raises(UsageError, match="unknown search method 'genetik'") as caught:
        search("genetik", evaluations(), 0)
    assert "genetic" in caught.value.hint


def test_held_out_data_drop_what_was_luck() -> None:
    members = [Member((b,), s, (float(b),), Evaluation(s)) for b, s in ((16, 0.95), (8, 0.94), (4, 0.9))]

    def held_out(genomes: Sequence[Genome]) -> list[float]:
        return [{FLOAT: 0.92, 16: 0.906, 8: 0.894, 4: 0.87}[g[0]] for g in genomes]

    kept, dropped = screen(members, 0.96, held_out, (FLOAT,))  # .04 less is usual there: float loses as much
    assert kept == (members[0], members[2])
    assert [d.member for d in dropped] == [members[1]]
    assert dropped[0].held_out_score == 0.894
    assert "0.0060 less than its 0.9400 promised" in dropped[0].reason
    kept, _ = screen(members, math.nan, held_out, (FLOAT,), tolerance=0.045)
    assert kept == (members[0], members[2])


# --- where evaluations run -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Plain:
    """An evaluator that a worker can receive; kills its process once when a file is given."""

    suicide_note: str = ""
    always: bool = False

    def __call__(self, genomes: Sequence[Genome], subset: Subset | None, /) -> Iterator[Evaluation]:
        for genome in genomes:
            if self.suicide_note and genome[0] == 3 and (self.always or not Path(self.suicide_note).exists()):
                Path(self.suicide_note).write_text("dead", encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
            yield Evaluation(sum(genome) / 100, float(len(subset or ())))


GENOMES = [(i, i + 1) for i in range(7)]


def test_workers_give_what_this_process_gives() -> None:
    with Workers(2, n_per_task=2) as workers:
        for subset in (None, (1, 2)):
            expected = list(InProcess().map(Plain(), GENOMES, subset))
            assert list(workers.map(Plain(), GENOMES, subset)) == expected


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    evaluate = Plain(str(tmp_path / "note"))
    with Workers(1, n_per_task=2) as workers:
        results = list(functools.partial(workers.map, evaluate)(GENOMES, None))
    assert results == list(Plain()(GENOMES, None))
    assert (tmp_path / "note").exists()


def test_workers_that_always_die_end_it(tmp_path: Path) -> None:
    with (
        Workers(1, n_restarts=1) as workers,
        pytest.raises(BitfrontError, match="worker processes died 2 times"),
    ):
        list(workers.map(Plain(str(tmp_path / "note"), always=True), GENOMES, None))


def test_no_workers() -> None:
    with pytest.raises(UsageError, match="0 workers"):
        Workers(0)
