"""Who answers for which box, the losses by hand, and networks that learn a picture by heart."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitfront.contracts import Batch, DataInfo, Head, InputContract, Sample
from bitfront.errors import DataError, UsageError
from bitfront.tasks.detection import Detection
from bitfront.tasks.detection_assign import assign_ssd, assign_yolo_v2, assign_yolo_v5
from bitfront.tasks.detection_loss import _ciou
from bitfront.tasks.detection_places import places

SIZE = (64, 96)
HEADS = {
    "yolo_v5": Head("yolo_v5", (16, 32), (((12.0, 12.0), (24.0, 24.0)), ((40.0, 40.0),))),
    "yolo_v2": Head("yolo_v2", (16,), (((12.0, 12.0), (40.0, 30.0)),)),
    "ssd": Head("ssd", (16, 32), (((0.15, 0.2), (0.25, 0.4)), ((0.5, 0.6),))),
}
CELLS = DataInfo("cells", ("background", "red", "white"), tasks=("detection",), background=0)
BOXES = np.array([[5, 8, 20, 22], [40, 10, 85, 50], [10, 40, 30, 62]], np.float32)
LABELS = np.array([1, 2, 1])
TASK = Detection()


def batch(*images: tuple[np.ndarray, np.ndarray]) -> Batch:
    pixels = np.zeros((len(images), 3, *SIZE), np.float32)
    boxes, labels = zip(*images, strict=True)
    return Batch(pixels, boxes=boxes, labels=labels, ids=tuple(f"{i}.png" for i in range(len(images))))


BOTH = batch((BOXES, LABELS), (BOXES[:0], LABELS[:0]))


def loss(kind: str, raw: torch.Tensor, given: Batch = BOTH, task: Detection = TASK, info: DataInfo = CELLS) -> float:
    value = task.loss(raw, given, info, task.output(task.channels(info), info, HEADS[kind]))
    return value.item()


# --- assignment ------------------------------------------------------------------------------------------------------
def test_yolo_v5_neighbours() -> None:
    """Centre (20, 38) at stride 16 lies in column 1, row 2, left and above of the middle: columns 0 and rows 1 too."""
    head = Head("yolo_v5", (16,), (((10.0, 10.0), (100.0, 10.0)),))
    found = assign_yolo_v5(np.array([[20, 38, 20, 30]], np.float32), head, SIZE, 4.0)
    cells = places(head, SIZE).cells[found.place]
    assert sorted(map(tuple, cells.tolist())) == [(0, 2), (1, 1), (1, 2)]
    assert (found.place % 2 == 0).all(), "an anchor of five times the width answers"
    assert found.box.tolist() == [0, 0, 0]
    both = assign_yolo_v5(np.array([[20, 38, 20, 30]], np.float32), head, SIZE, 5.1)
    assert len(both.place) == 6


def test_yolo_v5_stays_in_the_grid() -> None:
    head = Head("yolo_v5", (16,), (((10.0, 10.0),),))
    corner = assign_yolo_v5(np.array([[2, 2, 8, 8]], np.float32), head, SIZE, 4.0)
    assert places(head, SIZE).cells[corner.place].tolist() == [[0, 0]]
    last = assign_yolo_v5(np.array([[95, 63, 8, 8], [96, 64, 8, 8]], np.float32), head, SIZE, 4.0)
    assert set(last.place.tolist()) == {23}
    middle = assign_yolo_v5(np.array([[24, 24, 8, 8]], np.float32), head, SIZE, 4.0)
    assert places(head, SIZE).cells[middle.place].tolist() == [[1, 1]]


def test_yolo_v2_takes_the_most_similar_anchor() -> None:
    found = assign_yolo_v2(np.array([[20, 38, 14, 10], [50, 20, 60, 50]], np.float32), HEADS["yolo_v2"], SIZE)
    assert found.place.tolist() == [(2 * 6 + 1) * 2, (1 * 6 + 3) * 2 + 1]


def test_ssd_gives_every_box_its_best_anchor() -> None:
    head = HEADS["ssd"]
    tiny = np.array([[40, 24, 2, 2], [48, 32, 48, 38]], np.float32)
    found = assign_ssd(tiny, head, SIZE)
    assert found.box.tolist() == [0, 1]
    similar = Head("ssd", (32,), (((0.25, 0.375), (0.3, 0.4), (0.7, 0.9)),))
    found = assign_ssd(np.array([[48, 16, 26, 24]], np.float32), similar, SIZE)
    assert found.place.tolist() == [3, 4], "both anchors with half an overlap answer, in one cell"
    assert len(assign_ssd(tiny[:0], head, SIZE).place) == 0


# --- the terms -------------------------------------------------------------------------------------------------------
def test_ciou_by_hand() -> None:
    """Boxes of 4x4 and 4x2, centres 2 apart: IoU 4/20, hull 6x4, angles 45 and 63.4 degrees."""
    a, b = torch.tensor([[2.0, 2, 4, 4]]), torch.tensor([[4.0, 2, 4, 2]])
    iou, distance = 4 / 20, 4 / (36 + 16)
    shape = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    wanted = iou - distance - shape**2 / (1 - iou + shape)
    assert _ciou(a, b).item() == pytest.approx(wanted, abs=1e-5)
    assert _ciou(a, a).item() == pytest.approx(1, abs=1e-5)
    assert _ciou(a, a + torch.tensor([50.0, 50, 0, 0])).item() == pytest.approx(-2 * 50**2 / (2 * 54**2), abs=1e-5)


def test_without_objects_only_objectness_counts() -> None:
    empty = batch((BOXES[:0], LABELS[:0]), (BOXES[:0], LABELS[:0]))
    for kind, levels in (("yolo_v5", 2), ("yolo_v2", 1)):
        n = places(HEADS[kind], SIZE).n
        raw = torch.full((2, 7, n), -1.0)
        each = -math.log(1 - 1 / (1 + math.exp(1)))
        balance = 4 + 1 if levels == 2 else 1
        assert loss(kind, raw, empty) == pytest.approx(2 * balance * each, rel=1e-5)
    n = places(HEADS["ssd"], SIZE).n
    assert loss("ssd", torch.zeros(2, 7, n), empty) == pytest.approx(2 * 3 * 3 * math.log(2), rel=1e-5)


def test_the_yolo_loss_by_hand(rng: np.random.Generator) -> None:
    """One box, one level, one anchor: three places; every term with numpy."""
    head = Head("yolo_v5", (16,), (((20.0, 30.0),),))
    raw = rng.normal(size=(1, 7, 24)).astype(np.float32)
    given = batch((np.array([[10, 23, 30, 53]], np.float32), np.array([2])))
    s = 1 / (1 + np.exp(-raw[0].astype(np.float64)))
    iou, target = [], np.zeros(24)
    at = [(2, 1), (2, 0), (1, 1)]
    for row, col in at:
        p = row * 6 + col
        xy = (2 * s[:2, p] - 0.5 + [col, row]) * 16
        guess = torch.tensor(np.concatenate([xy, (2 * s[2:4, p]) ** 2 * [20, 30]]))[None]
        iou.append(_ciou(guess, torch.tensor([[20.0, 38, 20, 30]])).item())
        target[p] = max(iou[-1], 0)
    classes = np.mean([[-np.log(1 - s[5, r * 6 + c]), -np.log(s[6, r * 6 + c])] for r, c in at])
    objectness = -(target * np.log(s[4]) + (1 - target) * np.log(1 - s[4])).mean()
    task = Detection(box_gain=0.5, objectness_gain=2.0, class_gain=0.7)
    got = task.loss(torch.from_numpy(raw), given, CELLS, task.output(2, CELLS, head)).item()
    assert got == pytest.approx(0.5 * (1 - np.mean(iou)) + 2 * objectness + 0.7 * classes, rel=1e-4)


def test_one_class_needs_no_class_term() -> None:
    one = DataInfo("one", ("thing",), tasks=("detection",))
    given = batch((BOXES, LABELS * 0))
    for kind in ("yolo_v5", "yolo_v2"):
        raw = torch.zeros(1, 6, places(HEADS[kind], SIZE).n)
        changed = raw.clone()
        changed[:, 5] = 7.0
        assert loss(kind, raw, given, info=one) == loss(kind, changed, given, info=one)


def test_ssd_takes_the_hardest_negatives() -> None:
    """One positive: its three worst negatives count, wherever they are; others do not."""
    head = HEADS["ssd"]
    box = np.array([[24, 13, 72, 51]], np.float32)
    found = assign_ssd(np.array([[48, 32, 48, 38]], np.float32), head, SIZE)
    n = places(head, SIZE).n
    raw = torch.zeros(1, 7, n)
    raw[:, 4] = 20.0  # background everywhere
    raw[:, 5:] = -20.0
    quiet = loss("ssd", raw, batch((box, np.array([1]))))
    others = np.setdiff1d(np.arange(n), found.place)
    budget = 3 * len(found.place)
    raw[0, 5, others[:budget]] = 5.0
    loud = loss("ssd", raw, batch((box, np.array([1]))))
    assert loud - quiet == pytest.approx(budget * math.log1p(math.exp(5)) / len(found.place), rel=1e-4)
    raw[0, 5, others[budget : budget + 4]] = 4.0
    assert loss("ssd", raw, batch((box, np.array([1])))) == pytest.approx(loud, rel=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_what_was_decoded_is_what_was_taught(kind: str) -> None:
    """Descending on the numbers alone, the read-out finds the boxes to a tenth of a pixel: the codings agree."""
    raw = torch.zeros(2, 7, places(HEADS[kind], SIZE).n, requires_grad=True)
    output = TASK.output(2, CELLS, HEADS[kind])
    optimizer = torch.optim.Adam([raw], lr=0.1)
    for rate in (0.1,) * 150 + (0.01,) * 150:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        TASK.loss(raw, BOTH, CELLS, output).backward()
        optimizer.step()
    found = replace(TASK, confidence=0.5).predict(raw.detach().numpy(), output, [SIZE] * 2, InputContract(*SIZE))
    order = np.argsort(found[0].boxes[:, 0])
    np.testing.assert_allclose(found[0].boxes[order], BOXES[[0, 2, 1]], atol=0.6)
    assert found[0].labels[order].tolist() == [0, 0, 1]
    assert len(found[1].boxes) == 0


class Toy(nn.Module):
    """Three convolutions to a grid of stride 16."""

    def __init__(self, anchors: int, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(32, 48, 3, 4, 1), nn.SiLU(), nn.Conv2d(48, anchors * numbers, 3, 1, 1),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.body(images)
        b, _, h, w = maps.shape
        places_first = maps.view(b, -1, self.numbers, h, w).permute(0, 2, 3, 4, 1)
        return places_first.reshape(b, self.numbers, -1)


def test_a_network_learns_a_picture_by_heart() -> None:
    torch.manual_seed(0)
    head = Head("yolo_v5", (16,), (((14.0, 14.0), (36.0, 32.0)),))
    pixels = np.zeros((2, 3, *SIZE), np.float32)
    for (x1, y1, x2, y2), c in zip(BOXES.astype(int), LABELS, strict=True):
        pixels[0, c, y1:y2, x1:x2] = 1
    given = replace(BOTH, images=pixels)
    net, output = Toy(2, 7), TASK.output(2, CELLS, head)
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
    for _ in range(250):
        optimizer.zero_grad()
        TASK.loss(net(torch.from_numpy(pixels)), given, CELLS, output).backward()
        optimizer.step()
    with torch.no_grad():
        outputs = net(torch.from_numpy(pixels)).numpy()
    meter = TASK.meter(CELLS, "map50")
    for i, p in enumerate(TASK.predict(outputs, output, [SIZE] * 2, InputContract(*SIZE))):
        meter.add(p, Sample(f"{i}", np.zeros((*SIZE, 3), np.uint8), boxes=given.boxes[i], labels=given.labels[i]))
    m = meter.result()
    assert m.value == 1
    assert m.values["f1"] == 1
    assert m.values["map"] > 0.6


# --- refusals --------------------------------------------------------------------------------------------------------
def test_what_cannot_be_trained_is_refused() -> None:
    head = HEADS["yolo_v5"]
    n = places(head, SIZE).n
    output = TASK.output(2, CELLS, head)
    with pytest.raises(UsageError, match="this batch has none"):
        TASK.loss(torch.zeros(1, 7, n), Batch(np.zeros((1, 3, *SIZE), np.float32)), CELLS, output)
    with pytest.raises(UsageError, match="no head"):
        TASK.loss(torch.zeros(2, 7, n), BOTH, CELLS, replace(output, head=None))
    with pytest.raises(UsageError, match=r"7 numbers at 54 places of 64x96, and the network gives \(2, 7, 8, 8\)"):
        TASK.loss(torch.zeros(2, 7, 8, 8), BOTH, CELLS, output)
    with pytest.raises(UsageError, match=r"the network gives \(2, 8, 54\)"):
        TASK.loss(torch.zeros(2, 8, n), BOTH, CELLS, output)
    with pytest.raises(UsageError, match="'decoded' cannot be trained"):
        TASK.loss(torch.zeros(2, 7, n), BOTH, CELLS, replace(output, head=Head("decoded")))
    with pytest.raises(DataError, match=r"1\.png: a box of a class that is none of the objects of 'cells'"):
        TASK.loss(torch.zeros(2, 7, n), batch((BOXES, LABELS), (BOXES, LABELS - 1)), CELLS, output)


def test_gradients_stay_finite_at_extremes() -> None:
    for kind, head in HEADS.items():
        raw = torch.full((2, 7, places(head, SIZE).n), 60.0, requires_grad=True)
        TASK.loss(raw, BOTH, CELLS, TASK.output(2, CELLS, head)).backward()
        assert torch.isfinite(raw.grad).all(), kind
        assert F.relu(raw.grad).sum() > 0
