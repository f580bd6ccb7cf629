from __future__ import annotations

import math

import numpy as np
import pytest

from bitfront.contracts import DataInfo, OutputContract, Sample
from bitfront.errors import DataError
from bitfront.tasks.segmentation import Segmentation, read_out


def sample(rng: np.random.Generator, index: int, size: tuple[int, int], k: int) -> Sample:
    mask = rng.integers(0, k, size).astype(np.uint8)
    mask[rng.random(size) < 0.1] = 255
    return Sample(f"{index}", np.broadcast_to(np.uint8(0), (*size, 3)), mask=mask)


@pytest.mark.parametrize("k", [2, 3, 11])
@pytest.mark.parametrize("score", ["miou", "miou_image", "pixel_accuracy", "dice"])
def test_counts_and_scores_are_those_of_the_meter(rng: np.random.Generator, k: int, score: str) -> None:
    info = DataInfo("d", tuple(f"c{i}" for i in range(k)), background=0 if k == 2 else None)
    samples = [sample(rng, i, (int(rng.integers(5, 70)), int(rng.integers(300, 400))), k) for i in range(5)]
    task = Segmentation(bootstrap=0)
    contract = task.output(k, info)
    outputs = rng.normal(size=(5, k, 24, 310)).astype(np.float32)  # wider than a byte, both up and down
    scorer = task.scorer(samples, contract, info, score)
    counts = [*scorer.count((0, 1), outputs[:2]), *scorer.count((2, 3, 4), outputs[2:])]
    meter = task.meter(info, score)
    for prediction, s in zip(
        task.predict(outputs, contract, [s.image.shape[:2] for s in samples]), samples, strict=True
    ):
        meter.add(prediction, s)
    assert scorer.score(counts) == meter.result().values[score]
    assert scorer.score(counts[1:3]) != scorer.score(counts)


def test_one_channel_and_nothing_to_score() -> None:
    info = DataInfo("d", ("background", "object"), background=0)
    mask = np.array([[0, 1], [1, 255]], np.uint8)
    task, contract = Segmentation(), OutputContract("threshold")
    scorer = task.scorer([Sample("a", np.zeros((2, 2, 3), np.uint8), mask=mask)], contract, info)
    outputs = np.array([[[[1.0, 1.0], [-1.0, 1.0]]]], np.float32)
    assert np.array_equal(scorer.count((0,), outputs)[0], [[0, 1], [1, 2], [1, 2]])
    assert scorer.score(scorer.count((0,), outputs)) == pytest.approx(1 / 3)
    empty = task.scorer([Sample("a", np.zeros((2, 2, 3), np.uint8), mask=np.zeros((2, 2), np.uint8))], contract, info)
    assert math.isnan(empty.score(empty.count((0,), -np.ones((1, 1, 2, 2), np.float32))))


def test_samples_without_usable_labels() -> None:
    info = DataInfo("d", ("background", "object"), background=0)
    image = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(DataError, match="a: no label map"):
        Segmentation().scorer([Sample("a", image)], OutputContract("threshold"), info)
    with pytest.raises(DataError, match="a: label holds 2"):
        Segmentation().scorer(
            [Sample("a", image, mask=np.full((2, 2), 2, np.uint8))], OutputContract("threshold"), info
        )


def test_the_lowest_index_wins_ties(rng: np.random.Generator) -> None:
    outputs = rng.integers(0, 3, (2, 5, 8, 9)).astype(np.float32)
    assert np.array_equal(read_out(outputs, OutputContract("argmax")), outputs.argmax(1))
