"""Every runtime of the catalogue: what it promises in ``contracts.Runtime``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitfront import registry
from bitfront.contracts import InputContract, OutputContract, Runtime, Session
from bitfront.errors import DataError
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.measure import verify
from bitfront.quant.recipes import RECIPES, build
from bitfront.record import digest_file

SIZE = 16
CONTRACT, OUTPUT = InputContract(SIZE, SIZE), OutputContract()
NAMES = registry.names("runtime")


def pairs() -> list[tuple[str, str]]:
    return [(name, recipe) for name in NAMES for recipe in registry.load("runtime", name).recipes]


def runtime(name: str) -> Runtime:
    found: Runtime = registry.load("runtime", name)()
    if reason := found.missing():
        pytest.skip(reason)
    return found


def network() -> Graph:
    rng = np.random.default_rng(0)
    b = Builder()
    x = b.input("image", (1, 3, SIZE, SIZE))
    for name, n, stride in (("a", 8, 2), ("b", 8, 1), ("c", 8, 1), ("head", 3, 1)):
        weight = b.constant(f"{name}.w", rng.normal(0, 0.2, (n, b.shape(x)[1], 3, 3)), "weight")
        bias = b.constant(f"{name}.b", rng.normal(0, 0.1, n), "bias")
        rest = {"strides": [stride] * 2, "pads": [1] * 4, "dilations": [1, 1], "groups": 1}
        x = b.node("conv", name, [x, weight, bias], clip=None if name == "head" else [0.0, float("inf")], **rest)
    return b.build([b.node("resize", "up", [x], mode="linear", size=[SIZE, SIZE], coordinates="half_pixel")])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_runtime(name: str) -> None:
    found = registry.load("runtime", name)()
    assert isinstance(found, Runtime)
    assert found.name == name
    assert found.recipes[0] == "float32" or "float32" not in found.recipes
    assert set(found.recipes) <= set(RECIPES)
    assert found.suffix.startswith(".")
    assert found.tolerance_codes >= 0
    assert "\n" not in found.missing()


@pytest.mark.parametrize("name", NAMES)
def test_it_offers_every_recipe_it_can(name: str) -> None:
    if name == "onnxruntime":
        others = {recipe for recipe in RECIPES if RECIPES[recipe].io}  # files whose ends are integers
        assert set(registry.load("runtime", name).recipes) == set(RECIPES) - others


@pytest.mark.parametrize(("name", "recipe"), pairs())
def test_every_recipe_exports_runs_and_is_verified(name: str, recipe: str, tmp_path: Path) -> None:
    engine = runtime(name)
    x = np.random.default_rng(1).normal(0, 1, (3, 3, SIZE, SIZE)).astype(np.float32)
    graph, plan = build(recipe, network(), batches=[x])
    first, second = (engine.export(graph, plan, tmp_path / n, CONTRACT, OUTPUT) for n in ("1", "2"))
    assert first.parent == tmp_path / "1"
    assert first.suffix == engine.suffix
    assert digest_file(first) == digest_file(second), "equal arguments, equal bytes"
    session: Session = engine.open(first)
    found = session.run(x)
    session.close()
    assert found.shape == (3, 3, SIZE, SIZE)
    assert found.dtype == np.float32
    agreement = verify.compare(engine, first, graph, plan, CONTRACT, OUTPUT, x)
    assert agreement.verified, agreement


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_data_errors(name: str, tmp_path: Path) -> None:
    engine = runtime(name)
    path = tmp_path / f"broken{engine.suffix}"
    path.write_bytes(b"\x08\x07nonsense")
    with pytest.raises(DataError, match="broken") as found:
        engine.open(path)
    assert found.value.hint
