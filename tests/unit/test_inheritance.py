"""Weights cut from larger networks: which channels stay, and that the layers agree on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bitfront.contracts import DataInfo
from bitfront.fitting.inheritance import cut, is_parent
from bitfront.fitting.schedule import nearest
from bitfront.fitting.space import Architecture
from bitfront.fitting.training import Training
from bitfront.graph import capture
from bitfront.models.fast_scnn import FastScnn
from bitfront.sources import Source, open_model
from bitfront.tasks.segmentation import Segmentation
from bitfront.train.checkpoints import load_into
from bitfront.train.state import arrays_of

INFO = DataInfo("belt", ("background", "package"), background=0)


def inherited(parent: nn.Module, child: nn.Module, side: int = 32, channels: int = 3) -> dict[str, Any]:
    graph = capture.from_module(parent.eval(), (1, channels, side, side))
    return cut(graph, arrays_of(parent), {k: v.shape for k, v in arrays_of(child).items()})


class Chain(nn.Module):
    """Two layers around a residual sum; ``n`` hidden channels, of which some may be dead."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.expand = nn.Conv2d(4, n, 1, bias=False)
        self.norm = nn.BatchNorm2d(n)
        self.depthwise = nn.Conv2d(n, n, 3, padding=1, groups=n)
        self.project = nn.Conv2d(n, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y: torch.Tensor = x + self.project(torch.relu(self.depthwise(torch.relu(self.norm(self.expand(x))))))
        return y


def test_channels_that_count_for_nothing_go_and_the_answer_stays() -> None:
    torch.manual_seed(0)
    parent, child = Chain(8).eval(), Chain(5).eval()
    dead = [0, 3, 7]
    with torch.no_grad():
        parent.norm.running_mean.uniform_()
        for part in (parent.norm.weight, parent.norm.bias, parent.depthwise.bias):
            part.uniform_(0.5, 1.0)
            part[dead] = 0.0
    found = inherited(parent, child)
    load_into(child, {**arrays_of(child), **found})
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(parent(image), child(image), atol=1e-6)


def test_blocks_that_are_not_repeated_are_left_out() -> None:
    torch.manual_seed(0)
    parent = FastScnn(classes=1, width=0.25, expansion=2, repeats=2, pyramid=False).build()
    child = FastScnn(classes=1, width=0.25, expansion=2, repeats=1, pyramid=False).build()
    for stage in parent.features:
        nn.init.zeros_(stage[1].project.bn.weight)  # the second blocks add nothing
    found = inherited(parent, child)
    assert found.keys() == arrays_of(child).keys()
    load_into(child, found)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(parent.eval()(image), child.eval()(image), atol=1e-6)


def test_every_layer_of_a_smaller_network_gets_weights_that_fit() -> None:
    torch.manual_seed(0)
    parent = FastScnn(classes=1, width=0.5, expansion=4, repeats=2, pyramid=True).build()
    child = FastScnn(classes=1, width=0.25, expansion=2, repeats=1, channels=1).build()
    own, found = arrays_of(child), inherited(parent, child)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in own.items()}
    first, theirs = found["downsample.conv.conv.weight"], arrays_of(parent)["downsample.conv.conv.weight"]
    sums = theirs.sum(axis=1, keepdims=True)
    assert all(any(np.allclose(row, other) for other in sums) for row in first)  # luma is the sum of the colours


def test_what_the_parent_does_not_have_is_missing() -> None:
    parent = FastScnn(classes=1, width=0.25, expansion=4, repeats=1).build()
    child = FastScnn(classes=1, width=0.25, expansion=2, repeats=2).build()
    found = inherited(parent, child)
    assert any(key.startswith("features.0.0.") for key in found)
    assert not any(key.startswith("features.0.1.") for key in found)


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        ({"expansion": 6, "width": 1.0}, {"expansion": 2, "width": 1.0}, True),
        ({"expansion": 6, "pyramid": True}, {"expansion": 2, "pyramid": False}, True),
        ({"repeats": 3, "channels": 3}, {"repeats": 3, "channels": 1}, True),
        ({"expansion": 6, "width": 1.0}, {"expansion": 6, "width": 0.5}, False),
        ({"expansion": 6, "repeats": 1}, {"expansion": 2, "repeats": 3}, False),
        ({"expansion": 6, "classes": 2}, {"expansion": 2, "classes": 1}, False),
        ({"expansion": 6}, {"expansion": 6}, False),
        ({"expansion": 6}, {"expansion": 2, "depth": 3}, False),
    ],
)
def test_parents_have_more_of_what_can_be_cut(parent: dict[str, Any], child: dict[str, Any], expected: bool) -> None:
    assert is_parent(parent, child) == expected


@pytest.fixture(scope="module")
def source() -> Source:
    return open_model("fast_scnn", task=Segmentation(), info=INFO)


def test_a_training_starts_from_its_own_family_else_from_the_smallest_parent_of_its_size(source: Source) -> None:
    def trained(size: int, n: int, **options: Any) -> tuple[Architecture, Training]:
        architecture = Architecture({**source.baseline, **options}, (size, size))
        return architecture, Training(f"t{n}", "", "w", "", 1.0, n, 1, 0.5, 1.0, "completed")

    child = Architecture({**source.baseline, "expansion": 2}, (64, 64))
    large, smaller = trained(64, 30), trained(64, 20, expansion=4)
    elsewhere, narrow = trained(128, 10, expansion=4), trained(64, 5, expansion=4, width=0.25)
    assert nearest(child, [large, smaller, elsewhere, narrow], source) == smaller
    assert nearest(child, [elsewhere, narrow], source) is None
    own = trained(128, 40, expansion=2)
    assert nearest(child, [large, smaller, own], source) == own
