"""Image, mask and boxes move together; colour changes are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.augment import AUGMENTS, Augment, ColorChange, augment_named, draw_color, draw_geometry
from bitfront.batches import training
from bitfront.contracts import IGNORE, InputContract, Sample
from bitfront.errors import UsageError

RAW = {"mean": (0.0,), "std": (1.0,)}


def square_sample(height: int, width: int, top: int, left: int, side: int) -> Sample:
    """A white square on black: its mask is the thresholded image, its box the square's hull."""
    image = np.zeros((height, width, 3), np.uint8)
    image[top : top + side, left : left + side] = 255
    boxes = np.array([[left, top, left + side, top + side]], np.float32)
    return Sample("a", image, (image[..., 0] > 127).astype(np.uint8), boxes, np.array([1]), 1)


def near_edges(mask: np.ndarray, reach: int) -> np.ndarray:
    """Pixels within ``reach`` of a pixel with another label."""
    near = np.zeros(mask.shape, bool)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            near |= np.roll(mask, (dy, dx), (0, 1)) != mask
    return near


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("name", AUGMENTS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), top=st.integers(0, 60), left=st.integers(0, 120), side=st.integers(20, 60))
def test_mask_follows_image(name: str, fit: str, seed: int, top: int, left: int, side: int) -> None:
    sample = square_sample(120, 180, top, left, side)
    contract = InputContract(96, 96, fit=fit, **RAW)
    geometric = AUGMENTS[name]
    geometric = Augment(**{
        f: getattr(geometric, f)
        for f in ("flip", "crop", "crop_chance", "square", "shift", "scale", "rotate", "warp_chance")
    })  # fmt: skip
    batch = next(training([sample], contract, 1, np.random.default_rng(seed), geometric))
    assert batch.masks is not None
    mask, white = batch.masks[0], batch.images[0, 0] > 0.5
    inside = mask != IGNORE
    rim = near_edges(mask, 2)  # where the nearest pixel and the mean of pixels may differ
    assert ((mask == 1) == white)[inside & ~rim].all()
    assert (np.abs(batch.images[0, 0][~inside & ~rim] - 114 / 255) < 0.02).all()


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), top=st.integers(0, 60), left=st.integers(0, 120), side=st.integers(20, 60))
def test_boxes_hug_the_mask(fit: str, seed: int, top: int, left: int, side: int) -> None:
    sample = square_sample(120, 180, top, left, side)
    augment = Augment(flip=0.5, crop=(0.5, 1.0), shift=0.2, scale=0.3)
    batch = next(training([sample], InputContract(128, 96, fit=fit, **RAW), 1, np.random.default_rng(seed), augment))
    assert batch.masks is not None
    shown = batch.masks[0] == 1
    for box, _ in zip(batch.boxes[0], batch.labels[0], strict=True):
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        hull = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(hull - box).max() <= 1.5
    if not len(batch.boxes[0]):
        forward = 1 / abs(augment.crop[0] * 180 / 96 * 120 / 128)
        assert shown.sum() <= 0.3 * side * side * forward * 4  # dropped only when little of it was left


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_rotated_boxes_contain_the_mask(seed: int) -> None:
    sample = square_sample(160, 160, 60, 60, 40)
    batch = next(training([sample], InputContract(160, 160, **RAW), 1, np.random.default_rng(seed), Augment(rotate=45)))
    assert batch.masks is not None
    rows, columns = np.nonzero(batch.masks[0] == 1)
    x1, y1, x2, y2 = batch.boxes[0][0]
    assert x1 - 1 <= columns.min() <= columns.max() <= x2
    assert y1 - 1 <= rows.min() <= rows.max() <= y2


def test_boxes_with_little_left_are_dropped_with_their_label() -> None:
    contract = InputContract(100, 100, **RAW)
    geometry = draw_geometry(AUGMENTS["none"], contract, (100, 100), np.random.default_rng(0))
    boxes = np.array([[-90, 0, 10, 50], [-70, 0, 30, 50], [20, 20, 20, 40], [200, 0, 300, 10]], np.float32)
    moved, kept = geometry.boxes(boxes)
    assert kept.tolist() == [1]
    assert moved.tolist() == [[0, 0, 30, 50]]


def test_none_is_the_whole_image() -> None:
    geometry = draw_geometry(AUGMENTS["none"], InputContract(50, 60), (100, 180), np.random.default_rng(0))
    assert geometry.matrix.tolist() == [[3, 0, 0], [0, 2, 0], [0, 0, 1]]
    color = draw_color(AUGMENTS["none"], np.random.default_rng(0))
    assert np.array_equal(color.gain, np.eye(3))
    assert not color.offset.any()


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_a_flip_mirrors_the_whole_image(rng: np.random.Generator, fit: str) -> None:
    image = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)
    sample = Sample("a", image, (image[..., 0] // 64).astype(np.uint8), np.array([[5, 6, 20, 30]], np.float32))
    contract = InputContract(32, 48, fit=fit)
    plain, flipped = (next(training([sample], contract, 1, rng, Augment(flip=f))) for f in (0.0, 1.0))
    np.testing.assert_allclose(flipped.images, plain.images[..., ::-1], atol=1e-5)
    assert plain.masks is not None
    assert flipped.masks is not None
    assert np.array_equal(flipped.masks, plain.masks[..., ::-1])
    np.testing.assert_allclose(flipped.boxes[0], [[48, 0, 48, 0]] + plain.boxes[0][:, [2, 1, 0, 3]] * [-1, 1, -1, 1])


def test_every_sample_gets_its_own_augmentation(rng: np.random.Generator) -> None:
    sample = square_sample(60, 60, 10, 10, 30)
    batch = next(training([sample] * 8, InputContract(32, 32), 8, rng, AUGMENTS["thesis_001"]))
    assert len({image.tobytes() for image in batch.images}) == 8


def test_square_crops_do_not_distort() -> None:
    geometry = draw_geometry(
        Augment(crop=(512 / 540, 512 / 540), square=True), InputContract(256, 256), (540, 960), np.random.default_rng(3)
    )
    assert geometry.matrix[0, 0] == pytest.approx(2.0)
    assert geometry.matrix[1, 1] == pytest.approx(2.0)


def test_flips_happen_as_often_as_they_should(rng: np.random.Generator) -> None:
    contract = InputContract(10, 10)
    flipped = [draw_geometry(Augment(flip=0.5), contract, (10, 10), rng).matrix[0, 0] < 0 for _ in range(400)]
    assert 150 < sum(flipped) < 250


@pytest.mark.parametrize("color", ["rgb", "bgr", "y"])
@pytest.mark.parametrize("augment", ["light", "thesis_000", "thesis_001"])
def test_colour_change_is_its_formula(rng: np.random.Generator, augment: str, color: str) -> None:
    pixels = rng.integers(0, 256, (8, 9, 3)).astype(np.uint8)
    n = 1 if color == "y" else 3
    contract = InputContract(8, 9, n, color=color, mean=(0.2, 0.3, 0.4)[:n], std=(0.5, 0.6, 0.7)[:n])
    for _ in range(6):
        change = draw_color(AUGMENTS[augment], rng)
        out = np.empty((n, 8, 9), np.float32)
        change.normalized(pixels, contract, out)
        levels = np.clip(pixels.astype(float) @ change.gain.T + change.offset, 0, 255) / 255
        if color == "y":
            levels = levels @ np.array([[0.299], [0.587], [0.114]])
        expected = (levels[..., ::-1] if color == "bgr" else levels) - contract.mean
        np.testing.assert_allclose(out, (expected / contract.std).transpose(2, 0, 1), atol=2e-3)


def test_hue_and_saturation_keep_grey_and_luma(rng: np.random.Generator) -> None:
    for _ in range(10):
        change = draw_color(Augment(saturation=0.5, hue=0.5), rng)
        np.testing.assert_allclose(change.gain @ np.ones(3), 1, atol=5e-3)
        np.testing.assert_allclose(np.array([0.299, 0.587, 0.114]) @ change.gain, [0.299, 0.587, 0.114], atol=1e-4)


def test_rgb_shift_moves_each_channel_within_its_limit(rng: np.random.Generator) -> None:
    offsets = np.array([draw_color(Augment(rgb_shift=25.0), rng).offset for _ in range(200)])
    assert np.abs(offsets).max() <= 25
    assert offsets.std(0).min() > 10
    assert isinstance(draw_color(Augment(), rng), ColorChange)


def test_unknown_names_are_guessed() -> None:
    with pytest.raises(UsageError, match="unknown augmentation 'lihgt'"):
        augment_named("lihgt")
    assert augment_named("light") is AUGMENTS["light"]
