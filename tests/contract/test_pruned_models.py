"""Every model of the catalogue loses channels and computes what it computed with those channels zero."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from bitfront.graph import capture, passes
from bitfront.graph.count import count
from bitfront.graph.module import GraphModule
from bitfront.graph.prune import prune_channels
from bitfront.graph.tied_channels import TiedChannels
from bitfront.registry import load, names

SISTERS = (
    "deeplab_v3_mobilenet_v2",
    "deeplab_v3plus_mobilenet_v2",
    "mobilenet_v2",
    "q_seg2",
    "tiny_yolo_v2",
    "yolo_v2",
    "yolo_v5s",
    "yolo_v5m",
    "yolo_v5l",
)
"""Of a network that is always tested."""
MODELS = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SISTERS else [])
    for name in names("model")
    if not name.startswith("faster_rcnn")  # no graph
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.mark.parametrize("name", MODELS)
def test_loses_channels_and_equals_itself_with_those_zero(name: str, rng: np.random.Generator) -> None:
    family = load("model", name)
    model = family(**{knob: values[0] for knob, values in family.knobs.items()})
    shape = (1, 1, 28, 28) if name == "mnist_cnn" else (1, 3, 64, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = model.build().eval()
        for value in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
            value.data.add_(torch.rand_like(value) * 0.02)
    graph = passes.prepare(capture.from_module(module, shape))
    pruned = prune_channels(graph, 0.4, multiple=1)
    assert pruned.n_removed > 0
    assert count(pruned.graph).parameters < 0.7 * count(graph).parameters
    image = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
    with torch.no_grad():
        found, wanted = (
            GraphModule(g).eval()(image) for g in (pruned.graph, TiedChannels(graph).zeroed(pruned.removed))
        )
    for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (found, wanted)), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5 * float(b.abs().max() + 1e-6))
