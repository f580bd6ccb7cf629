"""Fixed-point plans in ONNX Runtime: with activations of at most 8 bits, no code of any tensor differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixed_point_plans import fixed_point_plan
from random_nets import random_net

from bitfront.contracts import InputContract, OutputContract
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
