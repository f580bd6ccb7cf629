from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.errors import UsageError
from bitfront.graph.builder import Builder
from bitfront.quant.formats import Qmn
from bitfront.stats.qmn import choose, choose_per_channel, errors, qmn_stats
from bitfront.stats.ranges import Range, collect


def test_integer_bits_reach_the_maximum_and_no_further() -> None:
    assert choose(np.array([-0.4, 0.4]), 8) == Qmn(8, 8)  # 127/256 covers 0.4
    assert choose(np.array([-0.5, 0.3]), 8) == Qmn(8, 8)  # -128/256 is there
    assert choose(np.array([0.5, -0.1]), 8) == Qmn(8, 7)  # 127/256 is more than half a step short of 0.5
    assert choose(np.array([0.498, -0.1]), 8) == Qmn(8, 8)  # rounds down to 127/256
    assert choose(np.array([5.0]), 8) == Qmn(8, 5, signed=False)
    assert choose(np.array([5.0]), 8, signed=True) == Qmn(8, 4)
    assert choose(np.array([-300.0, 200.0]), 8) == Qmn(8, -2)
    assert choose(np.zeros(3), 8).encode(np.zeros(3)).tolist() == [0, 0, 0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40), st.integers(2, 16))
def test_nothing_is_clipped_and_one_bit_less_would_clip(values: list[float], bits: int) -> None:
    x = np.array(values, np.float32)
    form = choose(x, bits)
    assert form.signed == bool((x < 0).any())
    assert errors(x, form).clipped == 0
    if np.abs(x).max() > 1e-6:
        assert errors(x, Qmn(bits, form.frac_bits + 1, form.signed)).clipped > 0


def test_errors_by_hand() -> None:
    found = errors(np.array([0.0, 0.3, 0.5, 3.0]), Qmn(3, 1))  # codes -4..3, steps of 0.5: up to 1.5
    assert found.clipped == 0.25
    assert found.rounding == pytest.approx((0 + 0.2 + 0) / 4)
    assert found.squared == pytest.approx((0.2**2 + 1.5**2) / 4)


def test_clipping_few_values_may_lose_less(rng: np.random.Generator) -> None:
    x = np.append(rng.normal(0, 0.1, 1000), 3.9)
    whole, best = choose(x, 4), choose(x, 4, "mse")
    assert best.frac_bits > whole.frac_bits
    assert errors(x, best).squared < errors(x, whole).squared
    assert choose(x, 16, "mse") == choose(x, 16)


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_a_range_says_what_its_values_say(rng: np.random.Generator, bits: int) -> None:
    x = np.abs(rng.normal(size=(4, 3, 50, 50))).astype(np.float32)
    seen, form = Range.of(x), choose(x, bits)
    assert choose(seen, bits) == form
    exact, estimated = errors(x, form), errors(seen, form)
    assert estimated.clipped == pytest.approx(exact.clipped, abs=1e-3)
    assert estimated.rounding == pytest.approx(exact.rounding, rel=0.15)
    assert estimated.squared == pytest.approx(exact.squared, rel=0.15)
    assert choose(seen, bits, "mse") == choose(x, bits, "mse")


def test_a_shift_for_every_channel(rng: np.random.Generator) -> None:
    weight = rng.normal(size=(3, 2, 3, 3)) * np.array([0.01, 1, 100]).reshape(3, 1, 1, 1)
    form = choose_per_channel(weight, 4)
    assert form.axis == 0
    assert form.scale == tuple(choose(channel, 4, signed=True).step for channel in weight)


def test_statistics_of_a_network_in_order(rng: np.random.Generator) -> None:
    b = Builder()
    x = b.input("x", (1, 2, 4, 4))
    y = b.node("conv", "y", (x, b.constant("w", rng.normal(size=(3, 2, 1, 1))), b.constant("b", rng.normal(size=3))),
               strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), groups=1, clip=(0.0, np.inf))  # fmt: skip
    graph = b.build((y,))
    ranges = collect(graph, [rng.normal(size=(2, 2, 4, 4)).astype(np.float32)])
    found = list(qmn_stats(graph, ranges, (4, 8), (8,)))
    assert [(s.tensor, s.kind, s.format.bits) for s in found] == [
        ("x", "input", 8), ("w", "weight", 4), ("w", "weight", 8), ("b", "bias", 4), ("b", "bias", 8),
        ("y", "activation", 8),
    ]  # fmt: skip
    assert [s.size for s in found] == [32, 6, 6, 3, 3, 48]
    assert not found[-1].format.signed
    assert found[1].maximum == pytest.approx(np.abs(graph.constants["w"]).max())
    assert all(s.kind != "activation" for s in qmn_stats(graph, None, (4,), (8,)))


def test_unknown_rule() -> None:
    with pytest.raises(UsageError, match="range rule"):
        choose(np.ones(3), 8, "best")
