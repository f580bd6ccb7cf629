"""The generated pictures: the same from the same seed, labels that fit, variety, and no two alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitfront.data.conveyor import MIN_PIXELS, Conveyor
from bitfront.errors import DataError, UsageError

SMALL = Conveyor(size=(64, 96), n_train=60, n_val=10, n_test=0)


def test_samples_depend_on_seed_part_and_index_alone() -> None:
    again = Conveyor(size=(64, 96), n_train=7, n_val=10)
    for index in (5, 0, 3):
        one, two = SMALL.part("train")[index], again.part("train")[index]
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.mask, two.mask)
        assert np.array_equal(one.boxes, two.boxes)
    assert not np.array_equal(SMALL.part("train")[0].image, SMALL.part("val")[0].image)
    other = Conveyor(size=(64, 96), seed=1)
    assert not np.array_equal(SMALL.part("train")[0].image, other.part("train")[0].image)


def test_boxes_labels_and_image_label_fit_the_mask() -> None:
    for sample in SMALL.part("train"):
        assert sample.mask is not None
        assert sample.boxes is not None
        assert sample.labels is not None
        assert sample.image.shape == (64, 96, 3)
        assert sample.mask.shape == (64, 96)
        assert len(sample.boxes) == len(sample.labels)
        classes = set(sample.labels.tolist())
        for x1, y1, x2, y2 in sample.boxes:
            assert 0 <= x1 < x2 <= 96
            assert 0 <= y1 < y2 <= 64
        covered = np.zeros_like(sample.mask, bool)
        for (x1, y1, x2, y2), label in zip(sample.boxes.astype(int), sample.labels, strict=True):
            inside = sample.mask[y1:y2, x1:x2] == label
            assert inside.sum() >= MIN_PIXELS
            assert all(side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            covered[y1:y2, x1:x2] = True
        outside = sample.mask[(sample.mask > 0) & ~covered]
        assert len(outside) < 4 * MIN_PIXELS
        assert sample.label in (1, 2, 3)
        if classes:
            assert sample.label in classes


def test_there_is_variety() -> None:
    samples = list(SMALL.part("train"))
    assert {s.label for s in samples} == {1, 2, 3}
    assert {len(s.boxes) for s in samples if s.boxes is not None} >= {1, 2, 3}
    shares = [(s.mask > 0).mean() for s in samples if s.mask is not None]
    assert 0.05 < np.mean(shares) < 0.35
    assert np.std([s.image.mean() for s in samples]) > 12
    assert len({s.image.tobytes() for s in samples}) == 60


def test_packages_stand_out_from_the_belt() -> None:
    """A package without contrast could not be learned."""
    contrast = []
    for sample in SMALL.part("train"):
        assert sample.mask is not None
        shown = sample.image.astype(float)
        inside = sample.mask > 0
        contrast.append(np.abs(shown[inside].mean(0) - shown[~inside].mean(0)).max())
    assert np.median(contrast) > 30


def test_options() -> None:
    data = Conveyor.open(None, size=48, n_test=3, seed=9)
    assert data.size == (48, 48)
    assert data.parts() == ("train", "val", "test")
    assert [s.id for s in data.part("test")] == ["test/00000", "test/00001", "test/00002"]
    assert data.part("test")[-1].id == "test/00002"
    assert len(data.part("train")) == 400
    assert SMALL.parts() == ("train", "val")
    assert data.info.tasks == ("segmentation", "detection", "classification")
    assert not Conveyor.recognises(Path())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeed": 1}, "unknown option of conveyor 'seeed'"),
        ({"size": 8}, "32 to 2048 pixels"),
        ({"size": (64, 64, 3)}, "32 to 2048 pixels"),
        ({"n_val": -1}, "n_val must be a whole number"),
        ({"seed": "x"}, "seed must be a whole number"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Conveyor.open(None, **options)


def test_wrong_parts() -> None:
    with pytest.raises(DataError, match="the conveyor's part 'test' is empty"):
        SMALL.part("test")
    with pytest.raises(UsageError, match="unknown part 'trian'"):
        SMALL.digest("trian")
    with pytest.raises(UsageError, match="reads nothing from"):
        Conveyor.open(Path("somewhere"))
    with pytest.raises(IndexError):
        SMALL.part("val")[10]


def test_digest_follows_the_options() -> None:
    digests = {
        Conveyor(**options).digest("train")  # type: ignore[arg-type]
        for options in ({}, {"size": (64, 64)}, {"seed": 1}, {"n_train": 3}, {"n_val": 3})
    }
    assert len(digests) == 4  # n_val does not touch train
    assert SMALL.digest("train") != SMALL.digest("val")
