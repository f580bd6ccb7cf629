"""Heads decoded, boxes suppressed and brought back to their images."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront import images
from bitfront.contracts import DataInfo, Head, InputContract, OutputContract, Prediction
from bitfront.errors import DataError, UsageError
from bitfront.tasks.detection import Detection
from bitfront.tasks.detection_boxes import restored
from bitfront.tasks.detection_decode import candidates
from bitfront.tasks.detection_nms import nms
from bitfront.tasks.detection_places import places

SEEDS = st.integers(0, 2**32 - 1)
SIZE = (40, 56)
FED = InputContract(*SIZE)
ANCHORS = (((10.0, 13.0), (16.0, 30.0)), ((60.0, 45.0),))
HEADS = {
    "yolo_v5": Head("yolo_v5", (8, 16), ANCHORS),
    "yolo_v2": Head("yolo_v2", (16,), (((20.0, 20.0), (50.0, 30.0)),)),
    "ssd": Head("ssd", (16, 32), (((0.1, 0.2), (0.3, 0.3)), ((0.7, 0.5),))),
}
THINGS = DataInfo("things", ("cat", "nothing", "dog", "eel"), tasks=("detection",), background=1)
TASK = Detection()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(head: Head, column: np.ndarray, level: int, row: int, col: int, anchor: int) -> tuple[list, list]:
    """Corners and the score of each class at one place, one number at a time."""
    t = [float(v) for v in column]
    d, (a, b) = head.strides[level], head.anchors[level][anchor]
    if head.kind == "yolo_v5":
        x, y = (2 * sigmoid(t[0]) - 0.5 + col) * d, (2 * sigmoid(t[1]) - 0.5 + row) * d
        w, h = (2 * sigmoid(t[2])) ** 2 * a, (2 * sigmoid(t[3])) ** 2 * b
        scores = [sigmoid(t[4]) * sigmoid(v) for v in t[5:]]
    elif head.kind == "yolo_v2":
        x, y = (sigmoid(t[0]) + col) * d, (sigmoid(t[1]) + row) * d
        w, h = math.exp(t[2]) * a, math.exp(t[3]) * b
        scores = [sigmoid(t[4]) * math.exp(v) / sum(math.exp(u) for u in t[5:]) for v in t[5:]]
    else:
        rows, columns = -(-SIZE[0] // d), -(-SIZE[1] // d)
        y, x = t[0] / 10 * b + (row + 0.5) / rows, t[1] / 10 * a + (col + 0.5) / columns
        h, w = math.exp(t[2] / 5) * b, math.exp(t[3] / 5) * a
        x, y, w, h = x * SIZE[1], y * SIZE[0], w * SIZE[1], h * SIZE[0]
        scores = [sigmoid(v) for v in t[5:]]
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2], scores


def output(head: Head, n_classes: int = 3) -> OutputContract:
    return OutputContract("boxes", classes=tuple("abcdefgh"[:n_classes]), head=head)


# --- decoding --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("layout", ["bkn", "bnk"])
def test_every_place_is_decoded_as_by_hand(kind: str, layout: str, rng: np.random.Generator) -> None:
    head = HEADS[kind]
    n = places(head, SIZE).n
    raw = rng.normal(0, 1.5, (2, 8, n)).astype(np.float32)
    given_ = raw if layout == "bkn" else raw.transpose(0, 2, 1)
    found = candidates(given_, output(replace(head, layout=layout)), FED, 0.2)
    assert len(found) == 2
    wanted, position = [], 0
    for level, stride in enumerate(head.strides):
        for row in range(-(-SIZE[0] // stride)):
            for col in range(-(-SIZE[1] // stride)):
                for anchor in range(len(head.anchors[level])):
                    box, scores = by_hand(head, raw[0, :, position], level, row, col, anchor)
                    wanted += [(c, s, *box) for c, s in enumerate(scores) if s > 0.2]
                    position += 1
    assert position == n
    got = [(int(c), float(s), *map(float, b)) for b, s, c in zip(*found[0], strict=True)]
    assert len(got) == len(wanted) > 5
    np.testing.assert_allclose(sorted(got), sorted(wanted), rtol=2e-4, atol=2e-3)
    best = candidates(given_, output(replace(head, layout=layout)), FED, 0.2, multi_label=False)[0]
    assert len(best.scores) < len(got)
    assert {round(float(s), 5) for s in best.scores} <= {round(s, 5) for _, s, *_ in got}


def test_decoded_heads_have_a_unit(rng: np.random.Generator) -> None:
    row = np.array([28, 20, 14, 10, 0.8, 0.5, 0.1, 0.9], np.float32)
    raw = np.stack([row, row * 0], axis=1)[None]
    shares = raw / np.array([56, 40, 56, 40, 1, 1, 1, 1], np.float32)[:, None]
    for values, unit in ((raw, 1.0), (shares, 0.0), (raw * [[2], [2], [2], [2], [1], [1], [1], [1]], 2.0)):
        found = candidates(values, output(Head("decoded", unit=unit)), FED, 0.3)[0]
        np.testing.assert_allclose(found.boxes, [[21, 15, 35, 25]] * 2, rtol=1e-6)
        assert found.labels.tolist() == [0, 2]
        np.testing.assert_allclose(found.scores, [0.4, 0.72], rtol=1e-6)


def test_suppressed_boxes_are_taken_as_they_are() -> None:
    """Highest score first; a score of 0 and a class of -1 are no box; doubles stay."""
    raw = np.array(
        [[0, 0, 10, 10, 0.5, 1], [0, 0, 10, 10, 0.9, 1], [0, 0, 9, 9, 0, 0], [0, 0, 9, 9, 0.7, -1]], np.float32
    )
    p = TASK.predict(raw[None].transpose(0, 2, 1), output(Head("boxes")), [SIZE], FED)[0]
    np.testing.assert_allclose(p.scores, [0.9, 0.5])
    assert p.labels.tolist() == [1, 1]


def test_numbers_that_are_none_are_no_boxes() -> None:
    for kind, head in HEADS.items():
        raw = np.zeros((1, 8, places(head, SIZE).n), np.float32)
        raw[0, :, 0], raw[0, 0, 1], raw[0, 2:4, 2], raw[0, 5:, 3] = np.nan, np.inf, 1e30, -1e30
        p = TASK.predict(raw, output(head), [(30, 30)], FED)[0]
        assert np.isfinite(p.boxes).all(), kind
        assert len(p.boxes) > 3
    p = TASK.predict(np.full((1, 6, 2), np.nan, np.float32), output(Head("boxes")), [SIZE], FED)[0]
    assert len(p.boxes) == 0


def test_outputs_that_do_not_fit_are_refused() -> None:
    head = HEADS["yolo_v5"]
    n = places(head, SIZE).n
    with pytest.raises(DataError, match=f"'yolo_v5' for 3 classes at 40x56 gives 8 numbers at {n} places") as error:
        TASK.predict(np.zeros((1, 8, n + 1)), output(head), [SIZE], FED)
    assert error.value.hint
    with pytest.raises(DataError, match="this network 85 x "):
        TASK.predict(np.zeros((1, 85, n)), output(head), [SIZE], FED)
    with pytest.raises(UsageError, match="without its head"):
        TASK.predict(np.zeros((1, 8, n)), OutputContract("boxes"), [SIZE], FED)
    with pytest.raises(UsageError, match="unknown kind of head 'yolo_v6'"):
        TASK.predict(np.zeros((1, 8, n)), output(Head("yolo_v6")), [SIZE], FED)
    with pytest.raises(UsageError, match="2 strides and the anchors of 1 levels"):
        places(Head("ssd", (8, 16), (((0.1, 0.1),),)), SIZE)


def test_the_read_out_fits_the_objects() -> None:
    head = HEADS["ssd"]
    assert THINGS.objects == (0, 2, 3)
    assert TASK.channels(THINGS) == 3
    contract = TASK.output(3, THINGS, head)
    assert (contract.readout, contract.classes, contract.head) == ("boxes", ("cat", "dog", "eel"), head)
    with pytest.raises(UsageError, match="4 classes does not fit the 3 classes of objects of 'things'"):
        TASK.output(4, THINGS, head)
    with pytest.raises(UsageError, match="no head"):
        TASK.output(3, THINGS)
    with pytest.raises(UsageError, match="unknown kind of head 'sdd'") as error:
        TASK.output(3, THINGS, Head("sdd"))
    assert "ssd" in error.value.hint


# --- back to the image -----------------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from(["letterbox", "stretch"]))
def test_boxes_return_to_where_they_were(seed: int, fit: str) -> None:
    """Forth by the pixels' own way (resize, then paste), back by ours."""
    rng = np.random.default_rng(seed)
    size, target = ((int(a), int(b)) for a, b in rng.integers(20, 1000, (2, 2)))
    low = rng.uniform(0, 0.9, (20, 2))
    shares = np.concatenate([low, low + rng.uniform(0, 0.1, (20, 2))], axis=1)
    boxes = shares * [size[1], size[0], size[1], size[0]]
    height, width, top, left = images.letterbox(size, target) if fit == "letterbox" else (*target, 0, 0)
    there = shares * [width, height, width, height] + [left, top, left, top]
    back = restored(there, size, InputContract(*target, fit=fit))
    np.testing.assert_allclose(back, boxes, atol=1e-4)
    outside = restored(np.array([[-50, -50, 5000, 5000.0]]), size, InputContract(*target, fit=fit))
    assert outside.tolist() == [[0, 0, size[1], size[0]]]


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_a_square_in_the_picture_is_found_where_it_was(fit: str) -> None:
    """A white block goes through the real preprocessing; its box there is brought back."""
    image = np.zeros((300, 480, 3), np.uint8)
    image[60:180, 120:360] = 255
    fed = InputContract(160, 128, mean=(0.0,) * 3, std=(1.0,) * 3, fit=fit)
    seen = images.preprocess(image, fed)[0]
    rows, columns = np.nonzero(seen > 0.5)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    np.testing.assert_allclose(restored(box, (300, 480), fed), [[120, 60, 360, 180]], atol=2.5)


def test_boxes_outside_are_left_out() -> None:
    """In the border of a letterbox there is no image."""
    fed = InputContract(100, 100, fit="letterbox")
    raw = np.array([[10, 2, 30, 20, 0.9, 0], [10, 20, 30, 40, 0.8, 0]], np.float32)[None].transpose(0, 2, 1)
    p = TASK.predict(raw, output(Head("boxes")), [(50, 100)], fed)[0]
    assert p.boxes.tolist() == [[10, 0, 30, 15]]
    np.testing.assert_allclose(p.scores, [0.8])


# --- suppression -----------------------------------------------------------------------------------------------------
def by_definition(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray | None, iou: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        for j in kept:
            width = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            height = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            shared = max(width, 0) * max(height, 0)
            union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[j])) - shared
            if (labels is None or labels[i] == labels[j]) and shared > np.float32(iou) * union:
                break
        else:
            kept.append(i)
    return kept


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(0, 60), st.floats(0, 1), st.booleans())
def test_suppression_is_its_definition(seed: int, n: int, iou: float, agnostic: bool) -> None:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 20, (n, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 20, (n, 2))], axis=1).astype(np.float32)
    scores, labels = rng.integers(1, 20, n).astype(np.float32), None if agnostic else rng.integers(0, 3, n)
    kept = nms(boxes, scores, labels, iou).tolist()
    assert kept == by_definition(boxes, scores, labels, iou)
    assert nms(boxes, scores, labels, iou, 7).tolist() == kept[:7]


def test_suppression_across_many_blocks(rng: np.random.Generator) -> None:
    n = 900
    low = rng.integers(0, 300, (n, 2))
    boxes = np.concatenate([low, low + rng.integers(20, 60, (n, 2))], axis=1).astype(np.float32)
    scores, labels = rng.random(n).astype(np.float32), rng.integers(0, 2, n)
    kept = nms(boxes, scores, labels, 0.3, n)
    assert 256 < len(kept) < n
    assert kept.tolist() == by_definition(boxes, scores, labels, 0.3)


def test_only_the_best_candidates_are_decoded(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    raw = rng.normal(0, 1.5, (1, 8, places(HEADS["ssd"], SIZE).n)).astype(np.float32)
    everything = candidates(raw, output(HEADS["ssd"]), FED, 0.2)[0]
    monkeypatch.setattr("bitfront.tasks.detection_decode.MAX_CANDIDATES", 5)
    best = candidates(raw, output(HEADS["ssd"]), FED, 0.2)[0]
    order = np.argsort(-everything.scores)[:5]
    assert sorted(best.scores) == sorted(everything.scores[order])
    assert sorted(map(tuple, best.boxes)) == sorted(map(tuple, everything.boxes[order]))


def test_options_of_the_read_out() -> None:
    """Two classes in one place: both, the better one, or the better one of all places that overlap."""
    row = np.array([20, 20, 10, 10, 1, 0.9, 0.8, 0], np.float32)
    raw = np.stack([row, row + np.array([1, 0, 0, 0, 0, -0.2, 0, 0])], axis=1)[None].astype(np.float32)

    def labels(**options: object) -> list[int]:
        return replace(TASK, **options).predict(raw, output(Head("decoded")), [SIZE], FED)[0].labels.tolist()

    assert labels() == [0, 1]
    assert labels(iou=0.99) == [0, 1, 1, 0]
    assert labels(multi_label=False) == [0, 1]
    assert labels(class_agnostic=True) == [0]
    assert labels(confidence=0.85) == [0]
    assert labels(max_boxes=1) == [0]


# --- pictures --------------------------------------------------------------------------------------------------------
def test_boxes_are_drawn_in_the_colour_of_their_class() -> None:
    info = replace(THINGS, palette=((250, 0, 0), (0, 0, 0), (0, 250, 0), (0, 0, 250)))
    image = np.full((300, 400, 3), 128, np.uint8)
    p = Prediction(
        boxes=np.array([[50, 100, 150, 200], [300, 200, 399, 299]], np.float32),
        labels=np.array([1, 2]),
        scores=np.array([0.9, 0.3], np.float32),
    )
    drawn = TASK.draw(image, p, info)
    assert drawn.shape == image.shape
    assert drawn[150, 50].tolist() == [0, 250, 0]
    assert drawn[250, 300].tolist() == [0, 0, 250]
    assert (drawn[120:180, 80:120] == 128).all()
    assert (image == 128).all()
    assert TASK.draw(image, Prediction(), info) is image
    same = replace(p, boxes=p.boxes[[0, 0]])
    assert TASK.draw(image, same, info)[150, 50].tolist() == [0, 250, 0], "the best box is not on top"


def test_tiny_pictures_are_enlarged() -> None:
    p = Prediction(boxes=np.array([[0, 0, 8, 8]], np.float32), labels=np.array([0]), scores=np.ones(1, np.float32))
    assert TASK.draw(np.zeros((10, 20, 3), np.uint8), p, THINGS).shape == (120, 240, 3)
