"""A budget steers what is trained."""

from __future__ import annotations

from pathlib import Path

from bitfront.fitting.config import BitSearch, Config
from bitfront.fitting.exploration import Explored, best
from bitfront.fitting.space import Architecture
from bitfront.fitting.window import Window
from bitfront.pipeline import plan
from bitfront.record import Budget


def network(n: int, score: float) -> Explored:
    """Of ``n`` thousand parameters."""
    return Explored(Architecture({"width": n}, (32, 32)), score, 1e6 * n, 1000.0 * n, "")


KNOWN = [network(n, 0.5 + 0.04 * n) for n in (1, 2, 4, 6, 8, 10)]


def widths(found: list[Explored]) -> list[int]:
    return [e.architecture.options["width"] for e in found]


def test_what_fits_goes_on_first() -> None:
    window = Window.of(Budget(max_size_bytes=6500), ["float32", "int8"], BitSearch())
    assert widths(window.best(KNOWN, 3)) == [6, 2, 1]
    assert widths(best(KNOWN, 3)) == [10, 6, 1]
    assert widths(window.best(KNOWN, 6)) == [6, 4, 2, 1, 10, 8]


def test_a_floor_and_a_largest_loss_are_kept_to() -> None:
    assert widths(Window(floor=0.7).best(KNOWN, 2)) == [10, 6]
    assert widths(Window(max_drop=0.1).best(KNOWN, 2)) == [10, 8]
    assert widths(Window(floor=0.99).best(KNOWN, 2)) == widths(best(KNOWN, 2))
    assert Window().best([], 2) == []


def test_as_few_bits_as_a_recipe_or_a_search_has_make_room() -> None:
    budget, none = Budget(max_size_bytes=1000), BitSearch()
    eight = Window.of(budget, ["float32", "int8"], none)
    assert eight.too_large(1001).startswith("too large for the budget: 1,001 parameters")
    assert eight.too_large(1000) == ""
    for parameters, recipes, bits in (
        (250, ["float32"], none),
        (500, ["float32", "float16"], none),
        (2000, ["float32", "int4"], none),
        (4000, ["float32"], BitSearch("surrogate")),
        (2000, ["float32"], BitSearch("surrogate", weight_bits=(4, 8))),
    ):
        window = Window.of(budget, recipes, bits)
        assert not window.too_large(parameters)
        assert window.too_large(parameters + 1)
    assert Window.of(Budget(), ["int8"], none).too_large(1e9) == ""


def test_a_dry_run_leaves_out_what_no_recipe_makes_small_enough(tmp_path: Path) -> None:
    data = tmp_path / "belt.yaml"
    data.write_text("reader: conveyor\nsize: 64\nn_train: 4\nn_val: 2\nn_test: 1\n", encoding="utf-8")
    found = plan(
        Config(
            model="tiny",
            data=str(data),
            settings={"resolution": (32, 32)},
            space={"width": (0.25, 4.0)},
            recipes=("int8",),
            budget=Budget(max_size_bytes=20_000),
            epochs=1,
        )
    )
    assert len(found["networks"]) == 1
    assert len(found["left_out"]) == 1
