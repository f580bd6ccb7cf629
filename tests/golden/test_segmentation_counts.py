"""BiSeNetV2 and the DeepLabs against published numbers of parameters, and their layers against the recorded list."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitfront.graph import capture, passes
from bitfront.graph.count import count
from bitfront.models.bisenet_v2 import BiSeNetV2
from bitfront.models.deeplab_v3_mobilenet_v2 import DeepLabV3MobileNetV2
from bitfront.models.deeplab_v3_mobilenet_v3 import DeepLabV3MobileNetV3
from bitfront.models.deeplab_v3plus_mobilenet_v2 import DeepLabV3PlusMobileNetV2
from bitfront.verbs.inspecting import inspect

TF, PLUS, V3 = DeepLabV3MobileNetV2, DeepLabV3PlusMobileNetV2, DeepLabV3MobileNetV3


def built(model: Any) -> nn.Module:
    with torch.device("meta"):
        return model.build()


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (BiSeNetV2(auxiliary=False), 3_340_177),
        (BiSeNetV2(classes=19, auxiliary=False), 3_358_627),
        (BiSeNetV2(classes=21, auxiliary=False), 3_360_677),
        (BiSeNetV2(), 5_188_485),
        (BiSeNetV2(classes=19), 5_231_487),
        (TF(), 2_113_557),
        (TF(classes=19), 2_113_043),
        (PLUS(), 5_225_717),
        (PLUS(classes=19), 5_225_203),
        (PLUS(classes=1), 5_220_577),
        (V3(), 11_020_337),
        (V3(classes=21), 11_025_477),
    ],
)
def test_parameters(model: Any, expected: int) -> None:
    assert n_parameters(built(model)) == expected


def test_parts() -> None:
    assert n_parameters(built(PLUS()).backbone) == 1_811_712
    net = built(BiSeNetV2())
    assert [n_parameters(stage) for stage in net.detail] == [38_848, 110_976, 369_408]
    assert n_parameters(net.semantic.stem) == 6_432
    assert [n_parameters(stage) for stage in net.semantic.stages] == [25_936, 94_368, 868_160]
    assert n_parameters(net.semantic.context) == 164_608
    assert (n_parameters(net.aggregate), n_parameters(net.head)) == (478_720, 1_182_721)


def test_variables_of_tensorflows_network() -> None:
    module = built(TF())
    statistics = sum(b.numel() for name, b in module.named_buffers() if name.endswith(("running_mean", "running_var")))
    assert n_parameters(module) + statistics == 2_146_645
    assert sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d)) == 2_080_448
    graph = passes.prepare(capture.from_module(TF().build(), (1, 3, 32, 32)))
    assert count(graph).parameters == 2_097_013


def test_auxiliary_heads_are_not_counted() -> None:
    found = inspect("bisenet_v2", settings={"resolution": (64, 64), "classes": 1})
    assert (found.parameters, found.trainable_parameters) == (3_340_177, 3_340_177)


def test_multiplications_of_bisenet() -> None:
    counts = count(capture.from_module(BiSeNetV2().build(), (1, 3, 512, 512)))
    assert (counts.parameters, counts.macs) == (3_340_177, 12_226_188_208)


@pytest.mark.shared
def test_layers_of_bisenet(shared: Path) -> None:
    """Every recorded layer, found through the published names."""
    net, shapes = built(BiSeNetV2(auxiliary=False)).eval(), {}
    for name, layer in net.named_modules():
        layer.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: out}))
    net(torch.zeros(1, 3, 512, 512, device="meta"))
    rows = list(csv.DictReader((shared / "golden/bisenetv2_layers_K1_512.csv").read_text().splitlines()))
    assert len(rows) == 110
    for row in rows:
        name = BiSeNetV2.rename(f"{row['name']}.weight").removesuffix(".weight")
        layer = net.get_submodule(name)
        assert isinstance(layer, getattr(nn, row["type"])), row["name"]
        assert "x".join(map(str, shapes[name].shape)) == row["out_shape"], row["name"]
        assert n_parameters(layer) == int(row["params"]), row["name"]
        if isinstance(layer, nn.Conv2d):
            found = (layer.kernel_size[0], layer.stride[0], layer.groups)
            assert found == tuple(int(row[key]) for key in ("k", "stride", "groups")), row["name"]
    assert sum(int(row["params"]) for row in rows) == n_parameters(net)
