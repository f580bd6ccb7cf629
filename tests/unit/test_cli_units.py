"""Units on the command line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.cli import units
from bitfront.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [("90s", 90), ("10m", 600), ("1h", 3600), ("1h30m", 5400), ("1h 30m", 5400), ("90", 90), ("2min", 120)],
)
def test_seconds(text: str, value: float) -> None:
    assert units.seconds(text, "--time") == value


@pytest.mark.parametrize(("text", "value"), [("33ms", 33), ("0.033s", 33), ("33", 33), ("800us", 0.8), (".5ms", 0.5)])
def test_milliseconds(text: str, value: float) -> None:
    assert units.milliseconds(text, "--max-latency") == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("400kB", 400_000),
        ("0.4MB", 400_000),
        ("400k", 400_000),
        ("256KiB", 262_144),
        ("1 MiB", 2**20),
        ("7", 7),
        (9, 9),
    ],
)
def test_size_bytes(text: str, value: int) -> None:
    assert units.size_bytes(text, "--max-size") == value


@pytest.mark.parametrize(
    ("text", "value"), [("0.95", 0.95), ("95%", 0.95), ("1", 1), ("1%", 0.01), (0.01, 0.01), ("0", 0)]
)
def test_fraction(text: str, value: float) -> None:
    assert units.fraction(text, "--min-score") == pytest.approx(value)


def test_a_percentage_without_its_sign_is_guessed() -> None:
    with pytest.raises(UsageError, match="95 is more than 1") as error:
        units.fraction("95", "--min-score")
    assert error.value.hint == "did you mean 95%?"


@pytest.mark.parametrize(
    ("text", "value"), [("256", (256, 256)), ("240x320", (240, 320)), ([96, 128], (96, 128)), (64, (64, 64))]
)
def test_resolution(text: object, value: tuple[int, int]) -> None:
    assert units.resolution(text) == value


def test_settings() -> None:
    given = [
        "width=0.25",
        "repeats=3",
        "pyramid=true",
        "resolution=96x128",
        "name=a=b",
        "expansion=2,4",
        "pyramid-x=no",
    ]
    assert units.settings(given) == {
        "width": 0.25, "repeats": 3, "pyramid": True, "resolution": (96, 128), "name": "a=b", "expansion": (2, 4),
        "pyramid_x": False,
    }  # fmt: skip
    assert units.settings(["resolution=96,128"]) == {"resolution": ((96, 96), (128, 128))}


@pytest.mark.parametrize(
    "text", ["", "width", "=1", "a b=1", "resolution=0", "resolution=axb", "resolution=99999999", "1x=2"]
)
def test_bad_settings(text: str) -> None:
    with pytest.raises(UsageError, match=r"--set|resolution"):
        units.settings([text])


def test_a_knob_given_twice() -> None:
    with pytest.raises(UsageError, match="'width' is given twice"):
        units.settings(["width=1", "width=2"])


PARSERS = (units.seconds, units.milliseconds, units.size_bytes, units.fraction)


@pytest.mark.parametrize("parse", PARSERS, ids=lambda p: p.__name__)
@pytest.mark.parametrize("text", ["", "ms", "-1", "1x", "one", "1h30", "nan", "inf", "1e999", "1 2", "٣", "1kB1", "--"])
def test_what_is_no_number_says_so(parse, text: str) -> None:
    with pytest.raises(UsageError, match=r"^--x: "):
        parse(text, "--x")


@pytest.mark.parametrize("parse", PARSERS, ids=lambda p: p.__name__)
@settings(max_examples=25)
@given(text=st.text(max_size=12))
def test_any_text_gives_a_number_or_a_usage_error(parse, text: str) -> None:
    try:
        value = parse(text, "--x")
    except UsageError:
        return
    assert 0 <= value < float("inf")
