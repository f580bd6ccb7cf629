"""Kernels against their definition, preprocessing by hand, pictures that can be looked at."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bitfront.contracts import DataInfo, InputContract
from bitfront.errors import UsageError
from bitfront.images import (
    KERNELS,
    PAD,
    colors,
    jpeg,
    label,
    letterbox,
    luma,
    overlay,
    png,
    preprocess,
    resize,
    tile,
)

INFO = DataInfo("x", ("background", "carton", "tube"), background=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [(5, 7), (16, 9), (1, 1), (33, 40)])
def test_kernels_keep_dtype_and_constants(kernel: str, size: tuple[int, int]) -> None:
    for dtype in (np.uint8, np.float32):
        for shape in ((13, 11), (13, 11, 3)):
            result = resize(np.full(shape, 77, dtype), size, kernel)
            assert result.shape == (*size, *shape[2:])
            assert result.dtype == dtype
            np.testing.assert_allclose(result, 77, rtol=1e-6)


def slow_plain(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with half-pixel centres, by the definition."""
    out = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * image.shape[0] / size[0] - 0.5, 0), image.shape[0] - 1)
            x = min(max((j + 0.5) * image.shape[1] / size[1] - 0.5, 0), image.shape[1] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, image.shape[0] - 1), min(x0 + 1, image.shape[1] - 1)
            fy, fx = y - y0, x - x0
            top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
            out[i, j] = top * (1 - fy) + (image[y1, x0] * (1 - fx) + image[y1, x1] * fx) * fy
    return out


@pytest.mark.parametrize("size", [(4, 5), (31, 17), (9, 40)])
def test_bilinear_plain_is_the_definition(rng: np.random.Generator, size: tuple[int, int]) -> None:
    image = rng.integers(0, 256, (12, 19)).astype(np.uint8)
    expected = slow_plain(image.astype(float), size)
    assert np.abs(resize(image, size, "bilinear_plain").astype(float) - expected).max() <= 0.501
    np.testing.assert_allclose(resize(image.astype(np.float32), size, "bilinear_plain"), expected, atol=1e-3)


def test_bilinear_plain_equals_torch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    image = rng.normal(size=(20, 31)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(image)[None, None], (11, 64), mode="bilinear")
    np.testing.assert_allclose(resize(image, (11, 64), "bilinear_plain"), expected[0, 0].numpy(), atol=1e-5)


def test_bilinear_antialiases_and_plain_does_not() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::4] = 255
    assert np.ptp(resize(stripes, (64, 16), "bilinear")[:, 2:-2].astype(int)) == 0
    assert resize(stripes, (64, 16), "bilinear_plain").max() == 0


def test_area_is_the_mean_of_blocks(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (8, 12)).astype(np.float32)
    np.testing.assert_allclose(resize(image, (4, 4), "area"), image.reshape(4, 2, 4, 3).mean((1, 3)), rtol=1e-5)


@pytest.mark.parametrize(("n_in", "n_out"), [(10, 4), (3, 7), (96, 540)])
def test_nearest_conventions(n_in: int, n_out: int) -> None:
    ramp = np.arange(n_in, dtype=np.uint8)[:, None]
    at = np.arange(n_out)
    assert resize(ramp, (n_out, 1), "nearest").ravel().tolist() == np.floor((at + 0.5) * n_in / n_out).tolist()
    assert resize(ramp, (n_out, 1), "nearest_floor").ravel().tolist() == (at * n_in // n_out).tolist()


def test_nearest_equals_pillow(rng: np.random.Generator) -> None:
    mask = rng.integers(0, 5, (54, 96)).astype(np.uint8)
    for size in ((50, 50), (96, 128), (20, 256)):  # no centre falls between two pixels
        expected = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
        assert np.array_equal(resize(mask, size, "nearest"), np.asarray(expected))


def test_unknown_kernels_are_guessed() -> None:
    with pytest.raises(UsageError, match="unknown resizing kernel 'bilinaer'") as caught:
        resize(np.zeros((2, 2), np.uint8), (1, 1), "bilinaer")
    assert "bilinear" in caught.value.hint


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [
        ((540, 960), (640, 640), (360, 640, 140, 0)),
        ((100, 50), (64, 64), (64, 32, 0, 16)),
        ((75, 50), (64, 64), (64, 43, 0, 10)),  # an odd border: the smaller half goes before
        ((1, 1000), (8, 8), (1, 8, 3, 0)),
    ],
)
def test_letterbox(size: tuple[int, int], target: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert letterbox(size, target) == expected


def test_preprocess_is_the_stated_formula(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
    contract = InputContract(6, 9, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    expected = (image / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.25, 2.0])
    result = preprocess(image, contract)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), atol=1e-5)
    swapped = preprocess(image, InputContract(6, 9, color="bgr", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0)))
    expected = (image[..., ::-1] / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.25, 2.0])
    np.testing.assert_allclose(swapped, expected.transpose(2, 0, 1), atol=1e-5)


def test_luma_is_bt601(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    assert np.abs(luma(image) - image @ np.array([0.299, 0.587, 0.114])).max() <= 0.51
    y = preprocess(image, InputContract(16, 16, 1, color="y", mean=(0.5,), std=(0.25,)))
    np.testing.assert_allclose(y[0], (luma(image) / 255 - 0.5) / 0.25, atol=1e-5)


def test_letterboxed_pixels_and_borders() -> None:
    image = np.full((10, 20, 3), 200, np.uint8)
    contract = InputContract(20, 20, fit="letterbox", mean=(0.0,), std=(1.0,))
    result = preprocess(image, contract) * 255
    np.testing.assert_allclose(result[:, 5:15], 200, atol=1e-3)
    np.testing.assert_allclose(result[:, :5], PAD, atol=1e-3)
    np.testing.assert_allclose(result[:, 15:], PAD, atol=1e-3)


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (InputContract(8, 8, color="yuv"), "unknown colour 'yuv'"),
        (InputContract(8, 8, channels=1), "colour 'rgb' has 3 channels, the network takes 1"),
        (InputContract(8, 8, fit="crop"), "unknown fit 'crop'"),
        (InputContract(8, 8, mean=(0.1, 0.2)), "mean has 2 numbers"),
        (InputContract(8, 8, std=(1.0, 0.0, 1.0)), "std positive"),
    ],
)
def test_contradicting_contracts(contract: InputContract, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        preprocess(np.zeros((4, 4, 3), np.uint8), contract)


def test_overlay_tints_objects_and_leaves_the_background() -> None:
    image = np.full((64, 80, 3), 100, np.uint8)
    mask = np.zeros((64, 80), np.uint8)
    mask[10:30, 10:30], mask[40:50, 40:50] = 2, 255
    drawn = overlay(image, mask, INFO, legend=False)
    assert (drawn[mask == 0] == 100).all()
    assert (drawn[mask == 2] == (100 + colors(INFO)[2].astype(int) + 1) // 2).all()
    assert (drawn[mask == 255] == 114).all()


def test_legend_names_what_is_there(rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (200, 300, 3)).astype(np.uint8)
    mask = np.zeros((200, 300), np.uint8)
    mask[100:, 200:] = 1
    with_legend, without = overlay(image, mask, INFO), overlay(image, mask, INFO, legend=False)
    assert with_legend.shape == image.shape
    changed = np.argwhere((with_legend != without).any(2))
    assert changed.min() >= 4
    assert changed[:, 0].max() < 60
    nothing = np.zeros_like(mask)
    assert np.array_equal(overlay(image, nothing, INFO), image)


def test_hostile_names_are_drawn() -> None:
    info = DataInfo("x", ("a" * 500, "\n<script>\x00", "Größe 中文"))
    mask = np.tile(np.arange(3, dtype=np.uint8), (120, 40))
    assert overlay(np.zeros((120, 120, 3), np.uint8), mask, info).shape == (120, 120, 3)
    captioned = label(np.zeros((50, 60, 3), np.uint8), "x" * 1000)
    assert captioned.shape[1] == 60
    assert captioned.shape[0] > 50


def test_palettes_are_distinct() -> None:
    assert len(np.unique(colors(DataInfo("x", tuple(map(str, range(60))))), axis=0)) == 60
    own = DataInfo("x", ("a", "b"), palette=((1, 2, 3), (4, 5, 6)))
    assert colors(own).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_tile() -> None:
    pictures = [np.full((5, 6, 3), v, np.uint8) for v in range(1, 6)]
    sheet = tile(pictures, columns=3)
    assert sheet.shape == (2 * 9 + 4, 3 * 10 + 4, 3)
    assert {int(v) for v in np.unique(sheet)} == {1, 2, 3, 4, 5, 24}
    with pytest.raises(UsageError, match="no picture"):
        tile([], 3)


def test_encoders(rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (9, 7, 3)).astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(image[..., 0])))), image[..., 0])
    assert Image.open(io.BytesIO(jpeg(image))).size == (7, 9)
