"""Faster R-CNN: its geometry against definitions by brute force, its parts, and that it learns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.contracts import Batch
from bitfront.errors import UsageError
from bitfront.models import faster_rcnn_boxes as geometry
from bitfront.models.faster_rcnn import FasterRcnnMobileNetV3, FasterRcnnResNet50
from bitfront.models.faster_rcnn_stages import FeaturePyramid, Regions, RegionSettings
from bitfront.models.resnet_blocks import FrozenNorm, ResNet
from bitfront.tasks.detection_nms import nms as other_nms


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(n)


def random_boxes(rng: np.random.Generator, n: int, side: float = 60) -> torch.Tensor:
    corners, sides = rng.uniform(0, side, (n, 2)), rng.uniform(1, side / 2, (n, 2))
    return torch.tensor(np.concatenate([corners, corners + sides], 1), dtype=torch.float32)


# --- anchors and codes -----------------------------------------------------------------------------------------------
def test_base_anchors() -> None:
    """Sizes 32 at ratios 1/2, 1, 2 (height over width), rounded to pixels."""
    found = geometry.base_anchors((32,), (0.5, 1.0, 2.0))
    assert found.tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]


def test_anchors_of_a_grid_by_row_column_anchor() -> None:
    base = torch.tensor([[-1.0, -2, 1, 2], [-3, -4, 3, 4]])
    found = geometry.grid_anchors(base, (2, 3), (10, 20))
    for i, (row, column, anchor) in enumerate(itertools.product(range(2), range(3), range(2))):
        shift = torch.tensor([column * 20, row * 10, column * 20, row * 10])
        assert torch.equal(found[i], base[anchor] + shift)


def test_codes_by_hand_and_back(rng: np.random.Generator) -> None:
    anchor, box = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 10, 25, 20]])
    code = geometry.encode(box, anchor, (10.0, 5.0))
    assert torch.allclose(code, torch.tensor([[10.0, 2.5, 5 * math.log(2), 5 * math.log(0.5)]]))
    boxes, anchors = random_boxes(rng, 50), random_boxes(rng, 50)
    again = geometry.decode(geometry.encode(boxes, anchors, (10.0, 5.0)), anchors, (10.0, 5.0))
    assert torch.allclose(again, boxes, atol=1e-3)
    huge = geometry.decode(torch.tensor([[0.0, 0, 99, 99]]), anchor, (1.0, 1.0))
    assert torch.allclose(huge[0, 2:] - huge[0, :2], torch.tensor([625.0, 1250]))


# --- suppression and matching ----------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(0, 40), limit=st.sampled_from([0.1, 0.3, 0.5, 0.7]))
def test_suppression_is_greedy(seed: int, n: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(rng, n), torch.tensor(rng.integers(0, 9, n) / 10, dtype=torch.float32)
    alive: list[int] = scores.argsort(descending=True, stable=True).tolist()
    kept = []
    while alive:
        best = alive.pop(0)
        kept.append(best)
        alive = [i for i in alive if geometry.iou(boxes[best : best + 1], boxes[i : i + 1]).item() <= limit]
    assert geometry.nms(boxes, scores, limit).tolist() == kept
    assert other_nms(boxes.numpy(), scores.numpy(), None, limit).tolist() == kept


def test_matching_by_hand() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 5], [0, 0, 3, 3], [20, 20, 25, 30], [50, 50, 60, 60]])
    assert geometry.match(truth, boxes, 0.3, 0.7, best=False).tolist() == [0, -2, -1, -2, -1]
    assert geometry.match(truth, boxes, 0.3, 0.7, best=True).tolist() == [0, -2, -1, 1, -1]
    assert geometry.match(truth[:0], boxes, 0.3, 0.7, best=True).tolist() == [-1] * 5


def test_samples_are_drawn_up_to_the_share() -> None:
    matches = torch.tensor([0] * 30 + [-1] * 100 + [-2] * 50)
    chosen = geometry.sample(matches, 40, 0.25)
    assert len(set(chosen.tolist())) == 40
    assert (matches[chosen] >= 0).sum() == 10
    assert (matches[chosen] == -1).sum() == 30
    assert len(geometry.sample(matches[:35], 64, 0.5)) == 35


# --- pooling of regions ----------------------------------------------------------------------------------------------
def bilinear(grid: np.ndarray, y: float, x: float) -> float:
    """The value between four cells; cells are points, the border is continued by one cell and then is 0."""
    h, w = grid.shape
    if y < -1 or y > h or x < -1 or x > w:
        return 0.0
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    i, j = int(y), int(x)
    total = 0.0
    for a, b in itertools.product((0, 1), (0, 1)):
        weight = (1 - abs(y - i - a)) * (1 - abs(x - j - b))
        total += weight * grid[min(i + a, h - 1), min(j + b, w - 1)]
    return total


def test_regions_are_pooled_as_defined(rng: np.random.Generator) -> None:
    maps = torch.tensor(rng.normal(size=(2, 3, 6, 9)), dtype=torch.float32)
    boxes = torch.tensor([[0.0, 0, 35, 23], [4, 3, 5, 4], [-20, -9, 50, 60], [30, 20, 36, 24], [10, 2, 33, 22]])
    image, scale, size = torch.tensor([0, 1, 0, 1, 1]), 0.25, 3
    found = geometry.roi_align(maps, boxes, image, scale, size)
    assert found.shape == (5, 3, size, size)
    for n, c, row, column in itertools.product(range(5), range(3), range(size), range(size)):
        x1, y1, x2, y2 = (float(v) * scale for v in boxes[n])
        high, wide = max(y2 - y1, 1) / size, max(x2 - x1, 1) / size
        points = [
            (y1 + (row + (a + 0.5) / 2) * high, x1 + (column + (b + 0.5) / 2) * wide)
            for a, b in itertools.product((0, 1), (0, 1))
        ]
        wanted = np.mean([bilinear(maps[image[n], c].numpy(), y, x) for y, x in points])
        assert found[n, c, row, column].item() == pytest.approx(wanted, abs=1e-5)


def test_gradients_go_through_the_pooling() -> None:
    maps = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.0, 0, 4, 3], [1, 1, 3, 5]], dtype=torch.float64)
    image = torch.zeros(2, dtype=torch.int64)
    assert torch.autograd.gradcheck(lambda x: geometry.roi_align(x, boxes, image, 1.0, 2), (maps,))


def test_a_region_is_pooled_from_the_level_of_its_size() -> None:
    """Level of stride 4 below 112 pixels a side, of stride 32 from 448 on; the maps hold their number."""
    regions = Regions(1, 4, 1, RegionSettings((4, 8, 16, 32)))
    maps = [torch.full((1, 1, 640 // s, 640 // s), float(s)) for s in (4, 8, 16, 32)]
    sides = [20.0, 111, 113, 223, 225, 447, 449, 600]
    boxes = torch.tensor([[0.0, 0, side, side] for side in sides])
    pooled = regions._pool(maps, [boxes])
    assert pooled.mean((1, 2, 3)).tolist() == [4, 4, 8, 8, 16, 16, 32, 32]


# --- networks --------------------------------------------------------------------------------------------------------
def test_the_pyramid_adds_the_coarse_to_the_fine() -> None:
    pyramid = FeaturePyramid((2, 3), 4)
    fine, coarse = torch.zeros(1, 2, 4, 4), torch.randn(1, 3, 2, 2)
    out = pyramid([fine, coarse])
    assert [tuple(x.shape[1:]) for x in out] == [(4, 4, 4), (4, 2, 2), (4, 1, 1)]
    top = pyramid.inner[1](coarse)
    assert torch.allclose(out[1], pyramid.outer[1](top))
    assert torch.allclose(out[0], pyramid.outer[0](top.repeat_interleave(2, 2).repeat_interleave(2, 3)))
    assert torch.equal(out[2], out[1][:, :, ::2, ::2])


def test_frozen_norm_is_batch_norm_in_evaluation() -> None:
    norm, frozen = torch.nn.BatchNorm2d(3), FrozenNorm(3)
    torch.nn.init.normal_(norm.weight)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    frozen.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"})
    x = torch.randn(2, 3, 4, 4)
    assert torch.allclose(frozen.train()(x), norm.eval()(x), atol=1e-6)
    assert not list(frozen.parameters())


def test_maps_of_the_feature_extractors() -> None:
    with torch.device("meta"):
        maps = ResNet(3, 1.0)(torch.zeros(1, 3, 64, 96))
        assert [tuple(x.shape[1:]) for x in maps] == [(256, 16, 24), (512, 8, 12), (1024, 4, 6), (2048, 2, 3)]
        net = FasterRcnnMobileNetV3().build()
        assert [tuple(x.shape[1:]) for x in net.body(torch.zeros(1, 3, 64, 96))] == [(160, 2, 3), (960, 2, 3)]


def test_wrong_options() -> None:
    with pytest.raises(UsageError, match="faster_rcnn_resnet50_fpn: width must lie between 1/32 and 8"):
        FasterRcnnResNet50(width=0)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("family", [FasterRcnnResNet50, FasterRcnnMobileNetV3])
def test_recognises_odd_widths(family: Any, frozen: bool) -> None:
    model = family(classes=3, width=0.37, head_width=0.6, frozen_norm=frozen)
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in model.build().state_dict().items()}
        again = family(**family.recognise(shapes, "best"))
        assert {k: tuple(v.shape) for k, v in again.build().state_dict().items()} == shapes


def test_it_learns_two_pictures() -> None:
    """A few steps find a bright and a dark rectangle, with their classes."""
    net = FasterRcnnResNet50(classes=2, width=0.125, head_width=0.125).build()
    images = torch.zeros(2, 3, 64, 64)
    images[0, :, 10:40, 20:60], images[1, :, 20:60, 10:35] = 1, -1
    boxes = (np.array([[20, 10, 60, 40]], np.float32), np.array([[10, 20, 35, 60]], np.float32))
    batch, labels = Batch(images.numpy(), boxes=boxes), (np.array([0]), np.array([1]))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    losses = []
    for _ in range(25):
        loss = net.training_loss(images, batch, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    with torch.no_grad():
        found = net.eval()(images)
    for one, box, label in zip(found, boxes, labels, strict=True):
        assert one[4, 0] > 0.25
        assert one[5, 0] == label[0]
        assert geometry.iou(one[None, :4, 0], torch.from_numpy(box)).item() > 0.5
