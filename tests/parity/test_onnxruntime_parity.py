"""ONNX Runtime against the reference on random networks: integer recipes to the code, float ones to rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_nets import plan_for, powers_of_two, random_net

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import BitfrontError
from bitfront.graph.ir import Graph
from bitfront.measure import verify
from bitfront.quant.plan import Plan
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.simulate import reference

SIZE = 16
CONTRACT, OUTPUT = InputContract(SIZE, SIZE), OutputContract()
FLOATS = ("float32", "float16", "dynamic")
INTEGERS = ("int8", "int8_s8s8", "int8_portable")


def images(rng: np.random.Generator, n: int = 2) -> np.ndarray:
    return rng.normal(0, 1, (n, 3, SIZE, SIZE)).astype(np.float32)


def n_differing(graph: Graph, plan: Plan, x: np.ndarray, folder: Path) -> int:
    """Number of codes, of all tensors, that differ; the plain run must give what the traced run gives."""
    session = OnnxRuntime().open(OnnxRuntime().export(graph, plan, folder, CONTRACT, OUTPUT))
    wanted, traced = reference.run(graph, x, plan, keep="*"), session.trace(x)
    assert set(traced) == set(wanted)
    name = graph.outputs[0]
    np.testing.assert_array_equal(session.run(x), reference.values(graph, plan, name, traced[name].astype(np.int64)))
    return sum(int((traced[tensor] != wanted[tensor]).sum()) for tensor in wanted)


@pytest.mark.parametrize("seed", range(45))
@pytest.mark.parametrize("recipe", INTEGERS)
def test_integer_recipes_agree_to_the_code(recipe: str, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng([seed, 1])
    graph, x = random_net(rng, SIZE), images(rng)
    assert n_differing(graph, plan_for(graph, x, recipe), x, tmp_path) == 0


@pytest.mark.parametrize("seed", range(20))
def test_ties_agree(seed: int, tmp_path: Path) -> None:
    """Scales that are powers of two make ties common: rounding half to even, before or after the zero point, shows."""
    rng = np.random.default_rng([seed, 2])
    graph, x = random_net(rng, SIZE), images(rng)
    assert n_differing(graph, powers_of_two(plan_for(graph, x, "int8")), x, tmp_path) == 0


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("recipe", FLOATS)
def test_float_recipes_are_verified(recipe: str, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng([seed, 3])
    graph, x = random_net(rng, SIZE), images(rng)
    plan = plan_for(graph, x, recipe)
    path = OnnxRuntime().export(graph, plan, tmp_path, CONTRACT, OUTPUT)
    agreement = verify.compare(OnnxRuntime(), path, graph, plan, CONTRACT, OUTPUT, x)
    assert agreement.verified, agreement


@pytest.mark.parametrize("seed", range(10))
def test_mixed_plans_are_verified(seed: int, tmp_path: Path) -> None:
    """Any tensor may stay in float."""
    rng = np.random.default_rng([seed, 4])
    graph, x = random_net(rng, SIZE), images(rng)
    plan = plan_for(graph, x, "int8")
    kept = {name: form for name, form in plan.formats.items() if rng.random() < 0.7}
    plan = Plan("mixed", kept)
    path = OnnxRuntime().export(graph, plan, tmp_path, CONTRACT, OUTPUT)
    agreement = verify.compare(OnnxRuntime(), path, graph, plan, CONTRACT, OUTPUT, x)
    assert agreement.verified, agreement


def test_damaged_files_give_one_clear_error(tmp_path: Path, rng: np.random.Generator) -> None:
    """150 files with a few random bytes each: open and run, or a BitfrontError; never another exception."""
    graph, x = random_net(rng, SIZE, 3), images(rng)
    whole = [
        OnnxRuntime().export(graph, plan_for(graph, x, recipe), tmp_path / recipe, CONTRACT, OUTPUT).read_bytes()
        for recipe in ("float32", "int8")
    ]
    errors = []
    for n in range(150):
        data = bytearray(whole[n % 2])
        if n % 10 == 9:
            data = data[: rng.integers(len(data))]
        for position in rng.integers(0, max(len(data), 1), rng.integers(1, 6)):
            data[position : position + 1] = bytes([rng.integers(256)])
        path = tmp_path / "damaged.onnx"
        path.write_bytes(bytes(data))
        try:
            OnnxRuntime().open(path).run(x)
        except BitfrontError as error:
            errors.append(error)
    assert len(errors) >= 30
    assert all(error.hint and "\n" not in str(error) for error in errors)
