"""Batches hold what evaluation, training and calibration need, depend on the generator alone, and forget nothing."""

from __future__ import annotations

import numpy as np
import pytest

from bitfront.batches import AUGMENTS, cached, calibration, evaluation, training
from bitfront.contracts import IGNORE, Batch, InputContract, Sample
from bitfront.errors import DataError, UsageError
from bitfront.images import preprocess, resize

CONTRACT = InputContract(32, 48)


class Counted(list[Sample]):
    """A part that counts how often it is decoded."""

    n_decoded = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.n_decoded += 1
        return super().__getitem__(index)


def make_part(rng: np.random.Generator, n: int = 10, size: tuple[int, int] = (60, 80)) -> Counted:
    return Counted(
        Sample(
            f"{i}.png",
            rng.integers(0, 256, (*size, 3)).astype(np.uint8),
            rng.integers(0, 3, size).astype(np.uint8),
            np.array([[10, 10, 50, 40]], np.float32),
            np.array([2]),
            i % 3,
        )
        for i in range(n)
    )


def test_evaluation_is_in_order_and_complete(rng: np.random.Generator) -> None:
    part = make_part(rng)
    batches = list(evaluation(part, CONTRACT, 4))
    assert [b.images.shape for b, _ in batches] == [(4, 3, 32, 48), (4, 3, 32, 48), (2, 3, 32, 48)]
    assert [s.id for _, samples in batches for s in samples] == [f"{i}.png" for i in range(10)]
    batch, samples = batches[1]
    assert batch.ids == ("4.png", "5.png", "6.png", "7.png")
    for slot, sample in enumerate(samples):
        assert np.array_equal(batch.images[slot], preprocess(sample.image, CONTRACT))
        assert batch.masks is not None
        assert sample.mask is not None
        assert np.array_equal(batch.masks[slot], resize(sample.mask, (32, 48), "nearest"))
        np.testing.assert_allclose(batch.boxes[slot], [[6, 10 * 32 / 60, 30, 40 * 32 / 60]], rtol=1e-6)
    assert batch.label is not None
    assert batch.label.tolist() == [1, 2, 0, 1]
    assert sum(len(s) for _, s in evaluation(part, CONTRACT, 4, limit=5)) == 5


def test_letterboxed_masks_ignore_the_border(rng: np.random.Generator) -> None:
    part = make_part(rng, 1)
    batch, _ = next(evaluation(part, InputContract(64, 32, fit="letterbox"), 1))
    assert batch.masks is not None
    assert (batch.masks[0, :20] == IGNORE).all()
    assert (batch.masks[0, 44:] == IGNORE).all()
    assert (batch.masks[0, 20:44] < 3).all()
    np.testing.assert_allclose(batch.boxes[0], [[4, 24, 20, 36]], atol=1e-5)


def same(a: Batch, b: Batch) -> bool:
    assert a.masks is not None
    assert b.masks is not None
    boxes = all(np.array_equal(x, y) for x, y in zip(a.boxes, b.boxes, strict=True))
    return a.ids == b.ids and np.array_equal(a.images, b.images) and np.array_equal(a.masks, b.masks) and boxes


@pytest.mark.parametrize("name", AUGMENTS)
def test_training_depends_on_the_generator_alone(rng: np.random.Generator, name: str) -> None:
    part = make_part(rng)
    epochs = [list(training(part, CONTRACT, 4, np.random.default_rng(s), AUGMENTS[name])) for s in (1, 1, 2)]
    assert all(same(a, b) for a, b in zip(epochs[0], epochs[1], strict=True))
    assert not all(same(a, b) for a, b in zip(epochs[0], epochs[2], strict=True))


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_caching_changes_nothing_but_the_decoding(rng: np.random.Generator, name: str, fit: str) -> None:
    part = make_part(rng)
    contract = InputContract(32, 48, fit=fit)
    plain = list(training(part, contract, 5, np.random.default_rng(0), AUGMENTS[name]))
    part.n_decoded = 0
    kept = cached(part, contract, AUGMENTS[name])
    for _ in range(3):
        again = list(training(kept, contract, 5, np.random.default_rng(0), AUGMENTS[name]))
        assert all(same(a, b) for a, b in zip(plain, again, strict=True))
    assert part.n_decoded == 10


def test_the_cache_is_bounded(rng: np.random.Generator) -> None:
    part = make_part(rng)
    kept = cached(part, max_bytes=4 * 60 * 80 * 4 + 100)
    for _ in range(2):
        assert [s.id for s in kept] == [f"{i}.png" for i in range(10)]
    assert part.n_decoded == 10 + 6
    assert kept[-1].id == "9.png"
    assert [s.id for s in kept[2:4]] == ["2.png", "3.png"]
    with pytest.raises(IndexError):
        kept[10]


def test_epochs_are_shuffled_full_batches(rng: np.random.Generator) -> None:
    part = make_part(rng)
    batches = list(training(part, CONTRACT, 4, rng))
    assert [len(b.ids) for b in batches] == [4, 4]
    ids = [i for b in batches for i in b.ids]
    assert len(set(ids)) == 8
    assert ids != sorted(ids)
    assert [len(b.ids) for b in training(part, CONTRACT, 64, rng)] == [10]


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_without_augmentation_training_sees_what_evaluation_sees(rng: np.random.Generator, fit: str) -> None:
    part = make_part(rng, 6)
    contract = InputContract(32, 48, fit=fit)
    images = {i: image for b, _ in evaluation(part, contract, 6) for i, image in zip(b.ids, b.images, strict=True)}
    for batch in training(part, contract, 3, rng):
        for name, image in zip(batch.ids, batch.images, strict=True):
            np.testing.assert_allclose(image, images[name], atol=1e-5)


def test_grey_networks(rng: np.random.Generator) -> None:
    contract = InputContract(32, 32, 1, color="y", mean=(0.5,), std=(0.5,))
    batch = next(training(make_part(rng), contract, 2, rng, AUGMENTS["thesis_001"]))
    assert batch.images.shape == (2, 1, 32, 32)
    assert np.isfinite(batch.images).all()
    assert batch.images.min() >= -1.001
    assert batch.images.max() <= 1.001


def test_calibration_draws_different_images(rng: np.random.Generator) -> None:
    part = make_part(rng)
    drawn = calibration(part, CONTRACT, 6, np.random.default_rng(0))
    assert [d.shape for d in drawn] == [(1, 3, 32, 48)] * 6
    assert len({d.tobytes() for d in drawn}) == 6
    again = calibration(part, CONTRACT, 6, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert len(calibration(part, CONTRACT, 50, rng)) == 10


def test_missing_labels_are_missing_in_the_batch(rng: np.random.Generator) -> None:
    part = [Sample("a", np.zeros((8, 8, 3), np.uint8)), Sample("b", np.zeros((8, 8, 3), np.uint8))]
    batch = next(training(part, CONTRACT, 2, rng))
    assert batch.masks is None
    assert batch.boxes == ()
    assert batch.label is None


def test_empty_parts_and_batches(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="this part of the data is empty"):
        next(evaluation([], CONTRACT, 4))
    with pytest.raises(UsageError, match="at least one image"):
        next(training(make_part(rng), CONTRACT, 0, rng))
