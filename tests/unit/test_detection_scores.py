"""Matching, average precision and the meter of detection: against COCO's two evaluations and cases by hand."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.contracts import DataInfo, Head, InputContract, Metrics, Prediction, Sample
from bitfront.errors import DataError, UsageError
from bitfront.record import from_json, to_json
from bitfront.tasks.detection import Detection
from bitfront.tasks.detection_boxes import Truth
from bitfront.tasks.detection_coco import coco_average_precision
from bitfront.tasks.detection_matching import THRESHOLDS, Found, Rows, average_precision, match, operating

CELLS = DataInfo("cells", ("background", "red", "white"), tasks=("detection",), background=0)
TASK = Detection(bootstrap=200)
SEEDS = st.integers(0, 2**32 - 1)


def scene(rng: np.random.Generator, k: int, n_found: int | None = None) -> tuple[Truth, Found]:
    """True boxes, some of them crowds, and found ones: near misses, doubles, wrong classes, equal scores."""
    n = int(rng.integers(0, 8))
    low = rng.uniform(0, 80, (n, 2))
    true = np.concatenate([low, low + rng.uniform(5, 40, (n, 2))], axis=1)
    true = np.round(true) if rng.random() < 0.5 else true.astype(np.float32).astype(float)
    labels = rng.integers(0, max(1, k - 1), n)  # the last class is absent
    m = int(rng.integers(0, 25)) if n_found is None else n_found
    pick = rng.integers(0, max(1, n), m)
    other = rng.uniform(0, 80, (m, 2))
    boxes = np.concatenate([other, other + rng.uniform(1, 30, (m, 2))], axis=1)
    near = (rng.random(m) < 0.8) & (n > 0)
    if n:
        boxes[near] = true[pick[near]] + rng.normal(0, 1, (near.sum(), 4)) * rng.choice([0, 1, 3], (near.sum(), 1))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    classes = rng.integers(0, k, m)
    if n:
        classes = np.where(near & (rng.random(m) < 0.8), labels[pick], classes)
    scores = np.round(rng.random(m), 1 if rng.random() < 0.5 else 6).astype(np.float32)
    return (true, labels, rng.random(n) < 0.2), (boxes.astype(np.float32), scores, classes)


def pycocotools(truths: list[Truth], found: list[Found], k: int) -> np.ndarray:
    """The reference implementation."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rows(image: int, boxes: np.ndarray, labels: np.ndarray, **more: np.ndarray) -> list[dict]:
        sides = boxes[:, 2:].astype(float) - boxes[:, :2]
        return [
            {
                "image_id": image,
                "category_id": int(labels[i]),
                "bbox": [*map(float, boxes[i, :2]), *sides[i]],
                "area": sides[i].prod(),
                "iscrowd": 0,
                **{name: column[i].item() for name, column in more.items()},
            }
            for i in range(len(boxes))
        ]

    both = (
        [row for i, (b, c, crowd) in enumerate(truths, 1) for row in rows(i, b, c, iscrowd=crowd.astype(int))],
        [row for i, (b, s, c) in enumerate(found, 1) for row in rows(i, b, c, score=s.astype(float))],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        tables = []
        for annotations in both:
            table = COCO()
            table.dataset = {
                "images": [{"id": i + 1} for i in range(len(truths))],
                "categories": [{"id": c} for c in range(k)],
                "annotations": [{**row, "id": i} for i, row in enumerate(annotations, 1)],
            }
            table.createIndex()
            tables.append(table)
        judge = COCOeval(*tables, "bbox")
        judge.params.maxDets, judge.params.areaRng, judge.params.areaRngLbl = [100], [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, 0]
    return np.where(precision.min(axis=1) < 0, np.nan, precision.mean(axis=1))


def ours(truths: list[Truth], found: list[Found], k: int) -> np.ndarray:
    return average_precision(Rows.of([match(t, f, k) for t, f in zip(truths, found, strict=True)]))[0]


# --- average precision -----------------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(1, 10))
def test_average_precision_is_cocos(seed: int, k: int, n_images: int) -> None:
    rng = np.random.default_rng(seed)
    truths, found = (list(c) for c in zip(*(scene(rng, k) for _ in range(n_images)), strict=True))
    own = ours(truths, found, k)
    np.testing.assert_allclose(own, coco_average_precision(truths, found, k), atol=1e-9)
    np.testing.assert_allclose(own, pycocotools(truths, found, k), atol=1e-9)


@settings(max_examples=6, deadline=None)
@given(SEEDS)
def test_a_hundred_boxes_of_a_class_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths, found = (list(c) for c in zip(*(scene(rng, 1, n) for n in (130, 20, 240)), strict=True))
    own = ours(truths, found, 1)
    np.testing.assert_allclose(own, coco_average_precision(truths, found, 1), atol=1e-9)
    np.testing.assert_allclose(own, pycocotools(truths, found, 1), atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_weights_are_copies_of_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [scene(rng, 2) for _ in range(5)]
    matches = [match(truth, (f[0], rng.permutation(1000)[: len(f[1])] + rng.random(), f[2]), 2) for truth, f in pairs]
    weights = np.stack([rng.multinomial(5, np.full(5, 0.2)) for _ in range(4)])
    drawn = average_precision(Rows.of(matches), weights=weights)
    for row, often in zip(drawn, weights, strict=True):
        copies = Rows.of([m for m, n in zip(matches, often, strict=True) for _ in range(n)])
        np.testing.assert_allclose(row, average_precision(copies)[0], atol=1e-12)
        a, b = operating(Rows.of(matches), weights=often), operating(copies)
        np.testing.assert_allclose(a.f1, b.f1, atol=1e-12)
        assert a.confidence == b.confidence or a.f1 == 0


def test_average_precision_by_hand() -> None:
    """Right, wrong, right of three: precision 1 up to recall 1/3 (34 points), 2/3 up to 2/3 (33 points), then 0."""
    true = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], float)
    found = np.array([[0, 0, 10, 10], [70, 70, 80, 80], [20, 0, 30, 10.0]])
    truth = (true, np.zeros(3, int), np.zeros(3, bool))
    value = ours([truth], [(found, np.array([0.9, 0.8, 0.7]), np.zeros(3, int))], 1)
    assert value[0, 0] == pytest.approx((34 + 33 * 2 / 3) / 101)


def test_matches_by_hand() -> None:
    """The better overlap wins, doubles are wrong, a crowd swallows any number, half an overlap reaches 0.5 only."""
    truth = (
        np.array([[0, 0, 10, 10], [0, 0, 10, 12], [50, 50, 90, 90]], float),
        np.zeros(3, int),
        np.array([False, False, True]),
    )
    boxes = np.array([[0, 0, 10, 11.9], [0, 0, 10, 5], [0, 0, 10, 12], [55, 55, 60, 60], [60, 60, 70, 70]])
    m = match(truth, (boxes, np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.zeros(5, int)), 1)
    assert m.hit[0].tolist() == [True, True, False, False, False]
    assert m.hit[1].tolist() == [True, False, True, False, False]
    assert m.ignored.all(axis=0).tolist() == [False, False, False, True, True]
    assert m.truths.tolist() == [2]


def test_of_equal_overlaps_the_last_true_box_is_taken() -> None:
    """As COCO does: the first found box lies between both, the second one on the first true box."""
    truth = (np.array([[0, 0, 10, 10], [4, 0, 14, 10]], float), np.zeros(2, int), np.zeros(2, bool))
    found = (np.array([[2, 0, 12, 10], [0, 0, 10, 10.0]]), np.array([0.9, 0.8]), np.zeros(2, int))
    assert match(truth, found, 1).hit[0].tolist() == [True, True]
    np.testing.assert_allclose(ours([truth], [found], 1), pycocotools([truth], [found], 1), atol=1e-12)


# --- the meter -------------------------------------------------------------------------------------------------------
def sample(boxes: list, labels: list[int], name: str = "a.png", ignored: list[bool] | None = None) -> Sample:
    return Sample(
        name,
        np.zeros((100, 100, 3), np.uint8),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        ignored=None if ignored is None else np.array(ignored, np.bool_),
    )


def guess(boxes: list, labels: list[int], scores: list[float]) -> Prediction:
    return Prediction(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        scores=np.array(scores, np.float32),
    )


RED, WHITE, FAR = [10, 10, 30, 30], [50, 50, 80, 80], [80, 0, 99, 20]


def metered(score: str = "") -> Metrics:
    meter = TASK.meter(CELLS, score)
    meter.add(guess([RED, FAR], [0, 0], [0.9, 0.3]), sample([RED, WHITE], [1, 2], "0.png"))
    meter.add(guess([WHITE], [1], [0.8]), sample([WHITE, FAR], [2, 1], "1.png", [False, True]))
    meter.add(guess([], [], []), sample([], [], "2.png"))
    return meter.result()


def test_scores_by_hand() -> None:
    """Red: 1 of 1 found, a wrong one below; white: 1 of 2. Best at 0.8: 2 right of 2 found, of 3 true."""
    m = metered()
    assert m.score == "map50"
    white = 51 / 101
    assert m.value == pytest.approx((1 + white) / 2)
    assert m.values["map"] == pytest.approx((1 + white) / 2)
    assert (m.values["precision"], m.values["recall"], m.values["f1"]) == pytest.approx((1, 2 / 3, 4 / 5))
    assert m.per_class["ap50"] == {"red": pytest.approx(1), "white": pytest.approx(white)}
    assert m.per_class["recall"] == {"red": 1, "white": 0.5}
    assert m.per_class["precision"] == {"red": 1, "white": 1}
    assert m.per_sample == {"0.png": pytest.approx(2 / 3), "1.png": 1}
    assert m.curves["precision_recall"] == {"red": ((1.0, 1.0),), "white": ((0.5, 1.0),)}
    assert m.n == 3
    assert set(m.definitions) == set(m.values) == {"map50", "map", "precision", "recall", "f1"}
    assert from_json(Metrics, to_json(m)) == m


def test_nothing_to_score() -> None:
    empty = TASK.meter(CELLS).result()
    assert (empty.value, empty.values["map50"], empty.interval, empty.n) == (0, None, None, 0)
    for found in (guess([], [], []), guess([RED], [0], [0.5])):
        meter = TASK.meter(CELLS)
        meter.add(found, sample([], []))
        m = meter.result()
        assert m.values == dict.fromkeys(m.values)
    meter = TASK.meter(CELLS)
    meter.add(guess([], [], []), sample([RED], [1]))
    m = meter.result()
    assert m.values == {"map50": 0, "map": 0, "precision": None, "recall": 0, "f1": 0}
    assert m.per_class["ap"] == {"red": 0, "white": None}
    assert m.per_sample == {"a.png": 0}


def test_the_interval_is_that_of_a_share() -> None:
    """One class, one object an image, 90 of 100 found and nothing else: the score is the share found."""
    for score in ("map50", "map", "recall"):
        meter = Detection(bootstrap=600).meter(CELLS, score)
        for i in range(100):
            meter.add(guess([RED], [0], [0.5 + i / 250]) if i % 10 else guess([], [], []), sample([RED], [1], str(i)))
        m = meter.result()
        assert m.value == pytest.approx(0.9, abs=0.01)
        half = 1.96 * math.sqrt(0.9 * 0.1 / 100)
        assert m.interval == (pytest.approx(0.9 - half, abs=0.02), pytest.approx(0.9 + half, abs=0.02))
    assert metered("f1").interval is not None


@pytest.mark.parametrize("score", ["map50", "map", "precision", "recall", "f1"])
def test_the_scorer_says_what_the_meter_says(rng: np.random.Generator, score: str) -> None:
    head = Head("yolo_v5", (16,), (((16.0, 16.0), (30.0, 20.0)),))
    output, fed = TASK.output(2, CELLS, head), InputContract(64, 96, fit="letterbox")
    outputs = rng.normal(size=(6, 7, 4 * 6 * 2)).astype(np.float32)
    sizes = [(int(h), int(w)) for h, w in rng.integers(40, 200, (6, 2))]
    predictions = TASK.predict(outputs, output, sizes, fed)
    samples = []
    for i, (p, size) in enumerate(zip(predictions, sizes, strict=True)):
        keep = rng.random(len(p.boxes)) < 0.15
        noise = rng.normal(0, 2, (keep.sum(), 4))
        boxes = (p.boxes[keep] + noise).astype(np.float32)
        samples.append(Sample(f"{i}", np.zeros((*size, 3), np.uint8), boxes=boxes, labels=p.labels[keep] + 1))
    scorer = TASK.scorer(samples, output, CELLS, score, fed)
    counts = [*scorer.count((0, 1), outputs[:2]), *scorer.count(range(2, 6), outputs[2:])]
    meter = TASK.meter(CELLS, score)
    for p, s in zip(predictions, samples, strict=True):
        meter.add(p, s)
    value = meter.result().value
    assert 0 < value < 1
    assert scorer.score(counts) == value
    assert scorer.score(counts[:3]) != value


def test_unknown_scores_and_wrong_labels() -> None:
    with pytest.raises(UsageError, match="unknown score 'map5'") as error:
        TASK.meter(CELLS, "map5")
    assert "map50" in error.value.hint
    meter = TASK.meter(CELLS)
    with pytest.raises(DataError, match=r"a\.png: no boxes to compare with") as error:
        meter.add(guess([], [], []), Sample("a.png", np.zeros((4, 4, 3), np.uint8)))
    assert error.value.hint
    with pytest.raises(DataError, match=r"a\.png: a box of class 0, which is none of the objects"):
        meter.add(guess([], [], []), sample([RED], [0]))
    with pytest.raises(DataError, match=r"a\.png: a box of class 3"):
        meter.add(guess([], [], []), sample([RED], [3]))
    with pytest.raises(DataError, match=r"a\.png: the network finds class 2, but there are 2"):
        meter.add(guess([RED], [2], [0.5]), sample([RED], [1]))
    with pytest.raises(DataError, match=r"a\.png: the network gives no boxes"):
        meter.add(Prediction(label=0), sample([RED], [1]))


def test_thresholds_are_cocos() -> None:
    assert THRESHOLDS.tolist() == np.linspace(0.5, 0.95, 10).tolist()
