"""Detectors: options, order of places, what their special layers compute, published keys, the bus of YOLOv5's page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import UsageError
from bitfront.graph import capture, passes
from bitfront.models.blocks import state_shapes
from bitfront.models.detector_blocks import join_levels
from bitfront.models.ssd_mobilenet import SsdMobileNetV1, anchors
from bitfront.models.yolo_v2 import TinyYoloV2, YoloV2, _space_to_depth
from bitfront.models.yolo_v5 import STRIDES, YoloV5l, YoloV5m, YoloV5n, YoloV5s
from bitfront.quant.recipes import build
from bitfront.registry import load
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.train.checkpoints import load_into, save_checkpoint
from bitfront.weights import arrays, find_weights, recognise

YOLO_V5 = (YoloV5n, YoloV5s, YoloV5m, YoloV5l)
COCO_WEIGHTS = "models/yolov5n/yolov5n_coco_fp16.safetensors"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def built(model: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.build().eval()


# --- places ----------------------------------------------------------------------------------------------------------
def test_places_come_level_by_level_row_column_anchor() -> None:
    """Every number says where it was: level, anchor, number, row, column."""
    levels = []
    for level, (h, w) in enumerate(((3, 2), (2, 1))):
        grid = torch.cartesian_prod(*(torch.arange(n) for n in (1, 2, 4, h, w)))
        codes = level * 10_000 + (grid * torch.tensor([0, 1000, 100, 10, 1])).sum(1)
        levels.append(codes.reshape(1, 2 * 4, h, w).float())
    out = join_levels(levels, 4)
    expected = [
        level * 10_000 + anchor * 1000 + row * 10 + column
        for level, (h, w) in enumerate(((3, 2), (2, 1)))
        for row in range(h)
        for column in range(w)
        for anchor in range(2)
    ]
    for number in range(4):
        assert out[0, number].tolist() == [code + 100 * number for code in expected]


@pytest.mark.parametrize("model", [YoloV5n(classes=2, width=0.125), YoloV2(classes=2, width=0.25)])
def test_a_cell_sees_its_own_part_of_the_image(model: Any) -> None:
    """The box numbers that a change at the bottom right moves most lie at the bottom right."""
    net, x = built(model), torch.zeros(1, 3, 256, 256)
    y = x.clone()
    y[:, :, 200:, 200:] = 1
    with torch.no_grad():
        change = (net(y) - net(x)).abs().sum(1)[0]
    side, n_anchors = 256 // model.head.strides[0], len(model.head.anchors[0])
    level = change[: side * side * n_anchors].reshape(side, side, n_anchors).sum(2)
    row, column = divmod(int(level.argmax()), side)
    assert min(row, column) > 0.6 * side


# --- YOLOv5 ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        (YoloV5n, {"classes": 0}, "yolo_v5n: classes must be at least 1, not 0"),
        (YoloV5n, {"width": 0.5}, "yolo_v5n: width must lie above 0 and at most at 0.25, not 0.5"),
        (YoloV5s, {"width": 0.25}, "yolo_v5s: width must lie above 0.25 and at most at 0.5"),
        (YoloV5l, {"depth": 0.0}, "yolo_v5l: depth must lie between 1/32 and 8"),
        (TinyYoloV2, {"head_width": 9}, "tiny_yolo_v2: head_width must lie"),
        (SsdMobileNetV1, {"channels": 0}, "ssd_mobilenet_v1: channels must be at least 1"),
    ],
)
def test_wrong_options(family: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        family(**options)


@pytest.mark.parametrize("family", YOLO_V5)
@pytest.mark.parametrize("depth", [0.05, 0.4, 1.33])
def test_odd_sizes_belong_to_one_family(family: Any, depth: float) -> None:
    model = family(classes=3, channels=1, width=0.93 * min(family.widths[1], 1.2), depth=depth)
    shapes = state_shapes(model)
    found = [other for other in YOLO_V5 if other.recognise(shapes, "best") is not None]
    assert found == [family]
    assert state_shapes(family(**family.recognise(shapes, "best"))) == shapes


def test_fresh_weights_expect_few_objects() -> None:
    net = built(YoloV5n(classes=7))
    for conv in net.predict:
        nn.init.zeros_(conv.bias)
    net._expect_little(7)
    for conv, stride in zip(net.predict, STRIDES, strict=True):
        bias = conv.bias.reshape(3, 12)
        assert torch.allclose(bias[:, 4], torch.tensor(math.log(8 * stride**2 / 640**2)))
        assert torch.allclose(bias[:, 5:], torch.tensor(math.log(0.6 / (7 - 0.99999))))
        assert not bias[:, :4].any()


def test_norms_are_as_published() -> None:
    norms = [m for m in built(YoloV5n()).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, round(m.momentum, 6)) for m in norms} == {(1e-3, 0.03)}


def test_pooling_reaches_13_cells() -> None:
    pool = built(YoloV5n(classes=1)).backbone.pool
    maps: list[torch.Tensor] = []
    pool.join.register_forward_pre_hook(lambda _, args: maps.append(args[0]))
    x = torch.randn(1, 256, 20, 20)
    pool(x)
    y = pool.enter(x)
    wanted = torch.cat([y, *(F.max_pool2d(y, k, 1, k // 2) for k in (5, 9, 13))], 1)
    assert torch.equal(maps[0], wanted)


PUBLISHED = {
    "model.0.conv.weight": "backbone.stem.conv.weight",
    "model.2.cv1.bn.running_var": "backbone.stages.0.partial.enter.bn.running_var",
    "model.4.m.1.cv2.conv.weight": "backbone.stages.1.partial.blocks.1.widen.conv.weight",
    "model.7.bn.bias": "backbone.stages.3.down.bn.bias",
    "model.9.cv2.conv.weight": "backbone.pool.join.conv.weight",
    "model.13.cv2.conv.weight": "neck.middle_down.bypass.conv.weight",
    "module.model.23.cv3.bn.weight": "neck.coarse.join.bn.weight",
    "model.24.m.1.bias": "predict.1.bias",
    "model.24.anchors": None,
    "model.24.anchor_grid": None,
    "model.25.conv.weight": None,
    "classifier.weight": None,
    "predict.0.bias": "predict.0.bias",
}


@pytest.mark.parametrize("key", PUBLISHED)
def test_published_names(key: str) -> None:
    assert YoloV5n.rename(key) == PUBLISHED[key]


@pytest.mark.shared
def test_published_weights_are_recognised_and_loaded(shared: Path) -> None:
    found = recognise(shared / COCO_WEIGHTS)
    assert (found.model, found.options) == (
        "yolo_v5n",
        {"classes": 80, "channels": 3, "width": 0.25, "depth": 0.33},
    )
    state, net = arrays(found.path, YoloV5n), YoloV5n().build()
    assert {value.dtype.name for value in state.values() if value.ndim} == {"float32"}
    load_into(net, state)
    assert set(net.state_dict()) == set(state)


def test_its_feature_extractor_is_lent_to_other_classes(tmp_path: Path) -> None:
    model = YoloV5n(classes=9, width=0.125)
    save_checkpoint(tmp_path / "nine.safetensors", built(model), {})
    found = find_weights(tmp_path, YoloV5n, "yolo_v5n")
    assert [w.options["classes"] for w in found.whole] == [9]
    assert [dict(w.options) for w in found.backbones] == [{"channels": 3, "width": 0.125, "depth": 0.33}]


# --- YOLOv2 ----------------------------------------------------------------------------------------------------------
def test_space_to_depth_keeps_every_pixel() -> None:
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    y = _space_to_depth(x)
    assert y.shape == (2, 12, 2, 3)
    for i in range(2):
        for j in range(2):
            part = slice(3 * (2 * i + j), 3 * (2 * i + j) + 3)
            assert torch.equal(y[:, part], x[:, :, i::2, j::2])


def test_the_last_pooling_of_the_tiny_network_begins_at_every_pixel() -> None:
    net, seen = built(TinyYoloV2(classes=1, width=0.25)), {}
    for i in (5, 6):
        net.backbone[i].register_forward_hook(lambda _, args, out, i=i: seen.update({i: (args[0], out)}))
    net(torch.randn(1, 3, 96, 128))
    before, after = seen[5][1], seen[6][0]
    lowest = F.pad(before, (0, 1, 0, 1), value=-math.inf)
    assert torch.equal(after, F.max_pool2d(lowest, 2, 1))
    assert after.shape[2:] == (3, 4)


# --- SSD -------------------------------------------------------------------------------------------------------------
def test_anchors_of_ssd() -> None:
    found = anchors()
    assert [len(level) for level in found] == [3, 6, 6, 6, 6, 6]
    assert np.allclose(found[0], [(0.1, 0.1), (0.2 * 2**0.5, 0.2 / 2**0.5), (0.2 / 2**0.5, 0.2 * 2**0.5)])
    assert np.allclose(found[1][:3], [(0.35, 0.35), (0.35 * 2**0.5, 0.35 / 2**0.5), (0.35 / 2**0.5, 0.35 * 2**0.5)])
    assert np.allclose(found[1][5], math.sqrt(0.35 * 0.5))
    assert np.allclose(found[5][0], 0.95)
    assert np.allclose(found[5][5], math.sqrt(0.95))


@pytest.mark.parametrize("side", [32, 100, 300, 516])
def test_levels_of_ssd_are_the_size_over_the_stride_rounded_up(side: int) -> None:
    model = SsdMobileNetV1(classes=1, width=0.25)
    with torch.device("meta"):
        out = model.build().eval()(torch.zeros(1, 3, side, side))
    n = sum(math.ceil(side / s) ** 2 * len(a) for s, a in zip(model.head.strides, model.head.anchors, strict=True))
    assert out.shape == (1, 6, n)


# --- files -----------------------------------------------------------------------------------------------------------
SMALL = {
    "yolo_v5n": {"width": 0.125, "depth": 0.11},
    "yolo_v2": {"width": 0.1},
    "tiny_yolo_v2": {"width": 0.25},
    "ssd_mobilenet_v1": {"width": 0.25},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_file_gives_the_same_numbers(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    model = load("model", name)(classes=2, **SMALL[name])
    net, x = built(model), rng.normal(size=(2, 3, 64, 96)).astype(np.float32)
    graph, plan = build("float32", passes.prepare(capture.from_module(net, (1, 3, 64, 96))), batches=[x])
    output = OutputContract("boxes", classes=("a", "b"), head=model.head)
    path = OnnxRuntime().export(graph, plan, tmp_path, InputContract(64, 96), output)
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    found = OnnxRuntime().open(path).run(x)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4
