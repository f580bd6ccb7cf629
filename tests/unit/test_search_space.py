from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.errors import UsageError
from bitfront.search.space import FLOAT, Gene, Space, biased_odds, uniform_odds

SPACE = Space(
    (
        Gene("w", "weight", (4, 8, 16), 1000),
        Gene("b", "bias", (8, 16), 9),
        Gene("a", "activation", (4, 8), 50),
        Gene("first", "weight", (2, 3), 11, fixed=8),
    )
)


def test_sizes_by_hand() -> None:
    genome = (4, 16, 8, 8)
    assert SPACE.static_bits(genome) == 4000 + 144 + 88
    assert SPACE.dynamic_bits(genome) == 400
    assert SPACE.static_bytes(genome) == 500 + 18 + 11
    odd = Space((Gene("w", "weight", (3,), 3), Gene("v", "weight", (3,), 3)))
    assert odd.static_bytes((3, 3)) == 2 + 2  # 9 bits each: every tensor ends on a byte


def test_genomes() -> None:
    assert SPACE.free == (0, 1, 2)
    assert SPACE.smallest == (4, 8, 4, 8)
    assert SPACE.largest == (16, 16, 8, 8)
    assert SPACE.uniform(6) == (8, 8, 8, 8)
    assert SPACE.uniform(16) == (16, 16, 8, 8)
    assert SPACE.check([4, 8, FLOAT, 8]) == (4, 8, FLOAT, 8)


def test_the_cut_is_against_the_mean_of_weights_and_biases() -> None:
    # mean of 1000, 9 and 11 is 340: the limit 3.4 cuts nothing, 10.2 cuts the bias
    assert SPACE.cut().free == SPACE.free
    cut = SPACE.cut(threshold=0.03)
    assert [g.fixed for g in cut.genes] == [None, 16, None, 8]
    assert cut.id != SPACE.id


def test_partial_searches_leave_the_others_in_float() -> None:
    assert [g.fixed for g in SPACE.only("weight", "bias").genes] == [None, None, FLOAT, 8]
    assert [g.fixed for g in SPACE.only("activation").genes] == [FLOAT, FLOAT, None, FLOAT]


def test_one_tensor_at_a_time_in_execution_order() -> None:
    genomes = SPACE.one_tensor()
    assert [i for i, _ in genomes] == [0, 0, 0, 1, 1, 2, 2]
    assert genomes[3][1] == (FLOAT, 8, FLOAT, FLOAT)
    table = SPACE.table(range(7))
    assert [row.tolist() for row in table] == [[0, 1, 2], [3, 4], [5, 6], [0]]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "scale"}, "unknown kind 'scale'"),
        ({"choices": (8, 4)}, "do not ascend"),
        ({"choices": (4, 4)}, "do not ascend"),
        ({"choices": ()}, "do not ascend"),
        ({"choices": (1, 4)}, "not all in 2..16"),
        ({"fixed": 24}, "not all in 2..16"),
        ({"size": 0}, "0 elements"),
    ],
)
def test_bad_genes(change: dict[str, object], match: str) -> None:
    good: dict[str, object] = {"name": "w", "kind": "weight", "choices": (4, 8), "size": 3}
    with pytest.raises(UsageError, match=match):
        Gene(**{**good, **change})  # type: ignore[arg-type]


def test_bad_genomes_and_names() -> None:
    with pytest.raises(UsageError, match="3 widths for 4 genes"):
        SPACE.check((4, 8, 8))
    with pytest.raises(UsageError, match="'w' cannot have 6 bits"):
        SPACE.check((6, 8, 8, 8))
    with pytest.raises(UsageError, match="two genes are called 'w'"):
        Space((SPACE.genes[0], SPACE.genes[0]))


def test_biased_odds_by_hand() -> None:
    space = Space((Gene("w", "weight", (4, 8, 16), 10),))
    scores = (np.array([0.2, 0.5, 0.6]),)
    # losses: mean(.3, .4, .4), mean(.1, .1), .0 of float .6
    losses = np.array([1.1 / 3, 0.1, 0.0])
    inverse = 1 / (losses + 0.005)
    assert biased_odds(space, scores, 0.6, "inverse")[0] == pytest.approx(inverse / inverse.sum())
    mirrored = losses.max() - losses
    assert biased_odds(space, scores, 0.6, "reversed")[0] == pytest.approx(mirrored / mirrored.sum())
    assert biased_odds(space, scores, 0.6, "uniform")[0] == pytest.approx([1 / 3] * 3)
    with pytest.raises(UsageError, match="unknown odds 'steep'"):
        biased_odds(space, scores, 0.6, "steep")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=3, max_size=3), st.sampled_from(["reversed", "inverse"])
)
def test_odds_are_odds_and_follow_the_losses(scores: list[float], rule: str) -> None:
    space = Space((Gene("w", "weight", (4, 8, 16), 10), Gene("x", "weight", (4, 8), 10, fixed=8)))
    odds = biased_odds(space, (np.array(scores), np.zeros(1)), 1.0, rule)
    assert odds[0].sum() == pytest.approx(1)
    assert (odds[0] >= 0).all()
    assert odds[1].tolist() == [1.0]
    known = [*np.nan_to_num(scores), 1.0]
    losses = [max(0.0, float(np.mean(np.array(known[i + 1 :]) - known[i]))) for i in range(3)]
    by_loss = np.argsort(losses, kind="stable")
    assert (np.diff(odds[0][by_loss]) <= 1e-12).all()


def test_equal_scores_leave_the_odds_equal() -> None:
    space = Space((Gene("w", "weight", (4, 8), 10),))
    for rule in ("reversed", "inverse"):
        assert biased_odds(space, (np.array([0.9, 0.9]),), 0.9, rule)[0] == pytest.approx([0.5, 0.5])


def test_draws_follow_the_odds(rng: np.random.Generator) -> None:
    drawn = np.array([SPACE.draw((np.array([0.0, 0.2, 0.8]), *uniform_odds(SPACE)[1:]), rng) for _ in range(500)])
    assert set(drawn[:, 0]) == {8, 16}
    assert 0.7 < (drawn[:, 0] == 16).mean() < 0.9
    assert set(drawn[:, 3]) == {8}
