"""The catalogue's larger segmentation networks, narrow: ONNX Runtime and the fast simulation against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixed_point_plans import fixed_point_plan
from torch import nn

from bitfront.contracts import InputContract, OutputContract
from bitfront.graph import capture, passes
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import build
from bitfront.registry import load
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.simulate import reference
from bitfront.simulate.fast import Fast

SIZE = (64, 96)
NETS: dict[str, dict[str, Any]] = {
    "bisenet_v2": {"width": 0.25, "head_width": 0.125, "expansion": 2, "repeats": 2},
    "deeplab_v3_mobilenet_v2": {"width": 0.35, "head_width": 0.25, "expansion": 2, "repeats": 2},
    "deeplab_v3plus_mobilenet_v2": {
        "width": 0.35, "head_width": 0.25, "expansion": 2, "repeats": 1, "output_stride": 8, "pads_input": True,
    },
    "deeplab_v3_mobilenet_v3": {"width": 0.35, "head_width": 0.25, "repeats": 2},
}  # fmt: skip
EACH = pytest.mark.parametrize("name", NETS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@cache
def graph_of(name: str) -> Graph:
    """A network with statistics as after a training, prepared."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = load("model", name)(classes=3, **NETS[name]).build()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0, 0.1)
    return passes.prepare(capture.from_module(module, (1, 3, *SIZE)))


def images(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(2, 3, *SIZE)).astype(np.float32)


def compare(graph: Graph, plan: Plan, x: np.ndarray, folder: Path) -> None:
    """No code of any tensor differs, in the file and in the fast simulation."""
    session = OnnxRuntime().open(OnnxRuntime().export(graph, plan, folder, InputContract(*SIZE), OutputContract()))
    wanted, traced = reference.run(graph, x, plan, keep="*"), session.trace(x)
    assert set(traced) == set(wanted)
    assert {name: int((traced[name] != wanted[name]).sum()) for name in wanted} == dict.fromkeys(wanted, 0)
    fast = Fast(graph, x, batch_size=2).run(plan, keep="*")
    assert {name: int((fast[name] != wanted[name]).sum()) for name in wanted} == dict.fromkeys(wanted, 0)


@EACH
@pytest.mark.parametrize("recipe", ["int8", "int8_s8s8"])
def test_integer_recipes_agree_to_the_code(name: str, recipe: str, tmp_path: Path, rng: np.random.Generator) -> None:
    x = images(rng)
    compare(*build(recipe, graph_of(name), batches=[x]), x, tmp_path)


@EACH
def test_fixed_point_plans_agree_to_the_code(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    graph, x = graph_of(name), images(rng)
    plan = fixed_point_plan(graph, x, rng, weight_bits=range(2, 9), activation_bits=(4, 6, 8))
    compare(graph, plan, x, tmp_path)


@EACH
def test_float_files_agree_to_rounding(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    graph, x = graph_of(name), images(rng)
    path = OnnxRuntime().export(graph, Plan("float32"), tmp_path, InputContract(*SIZE), OutputContract())
    wanted = reference.run(graph, x)[graph.outputs[0]]
    assert np.abs(wanted).max() > 0.05
    np.testing.assert_allclose(OnnxRuntime().open(path).run(x), wanted, atol=1e-5)
