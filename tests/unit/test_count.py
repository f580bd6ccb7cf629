"""Counts by hand and against torch's flop counter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bitfront.graph import capture, passes
from bitfront.graph.builder import Builder
from bitfront.graph.count import count
from bitfront.models.fast_scnn import FastScnn
from bitfront.models.tiny import Tiny


def flops(module: nn.Module, shape: tuple[int, ...]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(shape))
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (FastScnn(width=0.25, repeats=2).build(), (1, 3, 64, 96)),
        (Tiny().build(), (1, 3, 32, 32)),
        (nn.Sequential(nn.Conv2d(3, 6, 3, 2, groups=3), nn.Flatten(), nn.Linear(54, 7)), (1, 3, 7, 7)),
    ],
)
def test_products_are_those_of_torch(module: nn.Module, shape: tuple[int, int, int, int]) -> None:
    graph = capture.from_module(module, shape)
    counts = count(graph)
    assert 2 * counts.conv_macs == flops(module, shape)
    assert count(passes.prepare(graph)).conv_macs == counts.conv_macs
    assert counts.parameters == sum(p.numel() for p in module.parameters())
    assert sum(n.macs for n in counts.per_node) == counts.macs


def test_by_hand() -> None:
    draft = Builder()
    x = draft.input("x", (1, 2, 4, 4))  # 32 values
    w, b = draft.constant("w", np.ones((3, 2, 3, 3)), "weight"), draft.constant("b", np.ones(3), "bias")
    window = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "groups": 1, "clip": None}
    y = draft.node("conv", "c", [x, w, b], **window)  # 3 x 2 x 2
    parts = [draft.constant(f"n.{i}", np.ones(3), "constant" if i < 2 else "buffer") for i in range(4)]
    z = draft.node("batch_norm", "n", [y, *parts], epsilon=1e-5)
    draft.constant("spare", np.ones(10), "constant")
    counts = count(draft.build([draft.node("add", "s", [z, draft.constant("one", 1.0)], clip=None)]))
    assert counts.parameters == 54 + 3 + 6 + 10
    assert counts.executed_parameters == 54 + 3 + 6
    assert counts.macs == (54 + 3) * 4 + 6
    assert counts.conv_macs == 54 * 4
    assert counts.activation_bytes == 3 * 12 * 4
    assert counts.peak_bytes == (32 + 12) * 4
    assert [n.macs for n in counts.per_node] == [228, 6, 0]


def test_peak_counts_what_waits_for_a_later_reader() -> None:
    draft = Builder()
    x = draft.input("x", (1, 1, 1, 10))
    a = draft.node("neg", "a", [x])
    b = draft.node("exp", "b", [a])
    c = draft.node("tanh", "c", [b])
    graph = draft.build([draft.node("add", "d", [a, c], clip=None)])
    assert count(graph).peak_bytes == 3 * 40  # a waits while b becomes c, and while both become d


def test_an_output_lives_to_the_end() -> None:
    draft = Builder()
    x = draft.input("x", (1, 1, 1, 10))
    a = draft.node("neg", "a", [x])
    b = draft.node("exp", "b", [x])
    assert count(draft.build([a, draft.node("tanh", "c", [b])])).peak_bytes == 3 * 40
