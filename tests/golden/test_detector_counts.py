"""Detectors against published numbers of parameters and products, and YOLOv5's layers against the recorded list."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitfront.graph import capture, passes
from bitfront.graph.count import count
from bitfront.models.faster_rcnn import FasterRcnnMobileNetV3, FasterRcnnResNet50
from bitfront.models.ssd_mobilenet import SsdMobileNetV1
from bitfront.models.yolo_v2 import TinyYoloV2, YoloV2
from bitfront.models.yolo_v5 import YoloV5l, YoloV5m, YoloV5n, YoloV5s
from bitfront.registry import load
from bitfront.train.optimizer import freeze


def built(model: Any) -> nn.Module:
    with torch.device("meta"):
        return model.build()


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def n_norm_channels(module: nn.Module) -> int:
    return sum(m.num_features for m in module.modules() if isinstance(m, nn.BatchNorm2d))


def products(module: nn.Module, height: int, width: int) -> int:
    """Multiplications of convolutions and dense layers, counted without running them."""
    found = []

    def add(layer: nn.Module, _: Any, out: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        found.append(layer.weight.numel() * out.numel() // out.shape[1])

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    module.eval()(torch.zeros(1, 3, height, width, device="meta"))
    return sum(found)


@pytest.mark.parametrize(
    ("model", "trainable", "fused"),
    [
        (YoloV5n(), 1_872_157, 1_867_405),
        (YoloV5s(), 7_235_389, 7_225_885),
        (YoloV5m(), 21_190_557, 21_172_173),
        (YoloV5l(), 46_563_709, 46_533_693),
        (YoloV5n(classes=1), None, 1_760_518),
        (YoloV5s(classes=1), None, 7_012_822),
        (YoloV5n(classes=20), None, 1_786_225),
        (YoloV5s(classes=20), None, 7_064_065),
        (YoloV2(), 50_962_889, 50_952_553),
        (YoloV2(classes=20), 50_655_389, 50_645_053),
        (TinyYoloV2(), 15_861_773, 15_858_717),
        (TinyYoloV2(classes=80, head_width=0.5), 11_232_057, 11_229_513),
        (SsdMobileNetV1(), 6_819_839, 6_807_167),
    ],
)
def test_parameters(model: Any, trainable: int | None, fused: int) -> None:
    """Folding a BatchNorm leaves a bias in the place of gamma and beta."""
    module = built(model)
    assert trainable in (None, n_parameters(module))
    assert n_parameters(module) - n_norm_channels(module) == fused


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        (YoloV5n(), 640, 2_234_060_800),
        (YoloV5n(), 320, 558_515_200),
        (YoloV5s(), 640, 8_216_780_800),
        (YoloV5s(), 320, 2_054_195_200),
        (YoloV5m(), 640, 24_436_224_000),
        (YoloV5m(), 320, 6_109_056_000),
        (YoloV5l(), 640, 54_496_870_400),
        (YoloV5l(), 320, 13_624_217_600),
        (YoloV2(), 608, 31_469_126_656),
        (YoloV2(classes=20), 416, 14_680_167_424),
        (TinyYoloV2(), 416, 3_485_520_896),
        (TinyYoloV2(classes=80, head_width=0.5), 416, 2_703_221_248),
        (SsdMobileNetV1(), 300, 1_237_129_408),
    ],
)
def test_products(model: Any, size: int, expected: int) -> None:
    assert products(built(model), size, size) == expected


@pytest.mark.parametrize("model", [YoloV5n(), TinyYoloV2(width=0.25), SsdMobileNetV1(classes=1, width=0.25)])
def test_the_graph_counts_the_same(model: Any) -> None:
    graph = capture.from_module(model.build(), (1, 3, 320, 320))
    counts = count(graph)
    assert (counts.parameters, counts.conv_macs) == (n_parameters(built(model)), products(built(model), 320, 320))
    assert count(passes.prepare(graph)).parameters == counts.parameters - n_norm_channels(built(model))


def test_parts_of_ssd() -> None:
    module = built(SsdMobileNetV1())
    assert n_parameters(module.backbone) == 3_206_976
    assert n_parameters(module.backbone) - 2 * n_norm_channels(module.backbone) == 3_185_088
    assert n_parameters(module.box) + n_parameters(module.label) == 1_389_375
    assert n_norm_channels(module) == 12_672
    assert module.eval()(torch.zeros(1, 3, 300, 300, device="meta")).shape == (1, 95, 1917)


@pytest.mark.shared
@pytest.mark.parametrize("size", "nsml")
def test_layers_of_yolo_v5(size: str, shared: Path) -> None:
    """Every recorded layer, found through its published number."""
    family = load("model", f"yolo_v5{size}")
    net, shapes = built(family()).eval(), {}
    for name, layer in net.named_modules():
        layer.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: out}))
    net(torch.zeros(1, 3, 640, 640, device="meta"))
    rows = list(csv.DictReader((shared / "golden/yolov5_layers.csv").read_text().splitlines()))
    rows = [r for r in rows if r["model"] == f"yolov5{size}" and int(r["params"])]
    assert len(rows) == 19
    for row in rows:
        if row["module"] == "Detect":
            assert n_parameters(net.predict) == int(row["params"])
            continue
        leaf = {"C3": "cv3.conv", "SPPF": "cv2.conv"}.get(row["module"], "conv")
        name = family.rename(f"model.{row['i']}.{leaf}.weight").removesuffix(".conv.weight").removesuffix(".join")
        layer, out = net.get_submodule(name), shapes[name]
        assert n_parameters(layer) == int(row["params"]), row["i"]
        assert (out.shape[1], 640 // out.shape[2]) == (int(row["c_out"]), int(row["stride_out"])), row["i"]
        if row["module"] == "C3":
            blocks = list(layer.blocks)
            assert (
                f"n={len(blocks)} shortcut={blocks[0].skip} hidden={blocks[0].narrow.conv.in_channels}" == row["args"]
            )
    assert sum(int(row["params"]) for row in rows) == n_parameters(net)


RESNET, MOBILENET = FasterRcnnResNet50, FasterRcnnMobileNetV3


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (RESNET(), 41_755_286),
        (RESNET(classes=20), 41_396_536),
        (RESNET(classes=1), 41_299_161),
        (RESNET(frozen_norm=False), 41_808_406),
        (MOBILENET(), 19_386_354),
        (MOBILENET(frozen_norm=False), 19_410_754),
    ],
)
def test_parameters_of_faster_rcnn(model: Any, expected: int) -> None:
    assert n_parameters(built(model)) == expected


def test_parts_of_faster_rcnn() -> None:
    resnet, mobilenet = built(RESNET()), built(MOBILENET())
    parts = ("body", "pyramid", "proposals", "regions")
    assert [n_parameters(getattr(resnet, p)) for p in parts] == [23_454_912, 3_344_384, 593_935, 14_362_055]
    assert n_parameters(mobilenet.body) + n_parameters(mobilenet.pyramid) == 4_414_944
    assert [n_parameters(getattr(mobilenet, p)) for p in parts[2:]] == [609_355, 14_362_055]
    frozen = [sum(b.numel() for b in net.buffers()) for net in (resnet, mobilenet)]
    assert frozen == [106_240, 48_800]


@pytest.mark.parametrize(
    ("model", "patterns", "expected"),
    [
        (RESNET(), ("body.stem", "body.stages.0"), 41_532_886),
        (MOBILENET(), ("body.stem", *(f"body.blocks.{i}" for i in range(6))), 19_327_458),
    ],
)
def test_what_is_trained_behind_three_layers(model: Any, patterns: tuple[str, ...], expected: int) -> None:
    module = built(model)
    freeze(module, patterns)
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == expected
