"""LiteRT against the reference on random networks: every layer, every recipe, random fixed-point plans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixed_point_plans import fixed_point_plan
from random_nets import plan_for, powers_of_two, random_net

from bitfront.contracts import InputContract, OutputContract
from bitfront.measure import verify
from bitfront.runtimes.litert import LiteRt

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
SIZE = 16
CONTRACT, OUTPUT = InputContract(SIZE, SIZE), OutputContract()
RECIPES = ("float32", "float16", "dynamic", "int8", "int8_s8s8", "ties", "fixed_point")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("recipe", RECIPES)
def test_random_networks_are_verified(recipe: str, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng([seed, 7])
    graph = random_net(rng, SIZE)
    x = rng.normal(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)
    if recipe == "ties":
        plan = powers_of_two(plan_for(graph, x, "int8"))
    elif recipe == "fixed_point":
        plan = fixed_point_plan(graph, x, rng, weight_bits=(2, 3, 4, 6, 8), activation_bits=(4, 8))
    else:
        plan = plan_for(graph, x, recipe)
    path = LiteRt().export(graph, plan, tmp_path, CONTRACT, OUTPUT)
    agreement = verify.compare(LiteRt(), path, graph, plan, CONTRACT, OUTPUT, x)
    assert agreement.verified, agreement
