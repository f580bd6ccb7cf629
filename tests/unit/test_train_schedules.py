"""Learning rates over a training."""

from __future__ import annotations

import math

import pytest

from bitfront.augment import AUGMENTS
from bitfront.errors import UsageError
from bitfront.train.options import PRESETS, TrainOptions, preset
from bitfront.train.schedules import SCHEDULES, rate


@pytest.mark.parametrize("epoch", [0, 1, 199, 399])
def test_polynomial_is_the_thesis_formula(epoch: int) -> None:
    """(lr0 - 1e-4) (1 - e / E) ** p + 1e-4 with lr0 = 0.01 over 400 epochs."""
    expected = (0.01 - 1e-4) * (1 - epoch / 400) ** 0.9 + 1e-4
    assert rate("polynomial", epoch, 400, start=0.01, end=1e-4, power=0.9) == pytest.approx(expected, rel=1e-12)


def test_step_divides_by_one_and_a_half_every_two_epochs() -> None:
    rates = [rate("step", e, 60, start=1e-3, end=6e-6) for e in range(60)]
    assert rates[0] == rates[1] == 1e-3
    assert rates[2] == rates[3] == pytest.approx(1e-3 / 1.5)
    assert rates[8] == pytest.approx(1e-3 / 1.5**4)
    assert rates[-1] == 6e-6
    assert rate("step", 0, 10, start=1e-6, end=6e-6) == 1e-6  # the floor lifts no rate


def test_cosine_and_constant_by_hand() -> None:
    assert rate("cosine", 5, 10, start=1.0, end=0.0) == pytest.approx(0.5)
    assert rate("cosine", 2.5, 10, start=1.0, end=0.0) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert rate("constant", 7, 10, start=0.3, end=0.0) == 0.3


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_start_at_the_start_never_rise_and_stay_above_the_end(name: str) -> None:
    rates = [rate(name, e / 4, 20, start=0.02, end=1e-4) for e in range(81)]
    assert rates[0] == pytest.approx(0.02)
    assert rates == sorted(rates, reverse=True)
    assert min(rates) >= 1e-4 * (1 - 1e-12)


def test_unknown_schedules_and_empty_trainings_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown schedule 'cosin'"):
        rate("cosin", 0, 10, start=1, end=0)
    with pytest.raises(UsageError, match="at least one epoch"):
        rate("cosine", 0, 0, start=1, end=0)


def test_the_set_up_of_thesis_000() -> None:
    options = preset("thesis_000")
    assert (options.rate, options.batch_size, options.epochs, options.patience) == (5e-4, 4, 40, 5)
    rates = [rate(options.schedule, e, options.epochs, start=options.rate, end=options.end_rate) for e in range(40)]
    assert rates[:5] == pytest.approx([5e-4, 5e-4, 5e-4 / 1.5, 5e-4 / 1.5, 5e-4 / 1.5**2])
    assert (rates[21], rates[22]) == (pytest.approx(5e-4 / 1.5**10), 6e-6)
    cropped, whole = AUGMENTS[options.augment], AUGMENTS["thesis_000_whole"]
    assert (cropped.flip, cropped.color_chance, cropped.crop, cropped.crop_chance) == (0.5, 0.5, (0.5, 0.5), 0.4)
    assert whole.crop == (1.0, 1.0)


def test_presets_by_name() -> None:
    assert preset("default") == TrainOptions()
    assert all(options.augment in ("", *AUGMENTS) for options in PRESETS.values())
    with pytest.raises(UsageError, match="unknown preset 'thesis_00'"):
        preset("thesis_00")
