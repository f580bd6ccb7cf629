"""Fixed-point plans in ONNX Runtime: with activations of at most 8 bits, no code of any tensor differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixed_point_plans import fixed_point_plan
from random_nets import random_net

from bitfront.contracts import InputContract, OutputContract
from bitfront.graph.builder import Builder
from bitfront.quant.formats import Qmn
from bitfront.quant.plan import Plan
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.simulate import reference

SIZE = 16


@pytest.mark.parametrize("seed", range(40))
def test_codes_of_eight_bits_agree(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng([seed, 21])
    graph, x = random_net(rng, SIZE), rng.normal(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)
    plan = fixed_point_plan(graph, x, rng, weight_bits=range(2, 9), activation_bits=(4, 6, 8))
    session = OnnxRuntime().open(
        OnnxRuntime().export(graph, plan, tmp_path, InputContract(SIZE, SIZE), OutputContract())
    )
    wanted, traced = reference.run(graph, x, plan, keep="*"), session.trace(x)
    assert set(traced) == set(wanted)
    assert {name: int((traced[name] != wanted[name]).sum()) for name in wanted} == dict.fromkeys(wanted, 0)


@pytest.mark.parametrize("op", ["global_average_pool", "average_pool"])
@pytest.mark.parametrize("size", [(2, 7), (3, 10), (6, 6)])
def test_ties_of_means_agree(op: str, size: tuple[int, int], tmp_path: Path, rng: np.random.Generator) -> None:
    draft = Builder()
    name = draft.input("image", (1, 64, *size))
    pool = {"kernel": list(size), "strides": [1, 1], "pads": [0] * 4, "count_include_pad": False}
    graph = draft.build([draft.node(op, "mean", [name], **(pool if op == "average_pool" else {}))])
    plan = Plan("fixed_point", {name: Qmn(8, 4), graph.outputs[0]: Qmn(8, 4)})
    x = (rng.integers(-128, 128, (8, 64, *size)) / 16).astype(np.float32)
    path = OnnxRuntime().export(graph, plan, tmp_path, InputContract(*size, channels=64), OutputContract())
    wanted = reference.run(graph, x, plan)[graph.outputs[0]]
    np.testing.assert_array_equal(OnnxRuntime().open(path).trace(x)[graph.outputs[0]], wanted)
