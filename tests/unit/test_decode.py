"""Every trap of image files: the right pixels, or one line that says what is wrong and what to do."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitfront.decode import color_table, decode_image, decode_mask, read_image, read_mask
from bitfront.errors import DataError

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8)
COLOR = np.stack([RAMP * 5, 255 - RAMP, RAMP], axis=2)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


# --- images ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_give_the_pixels(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"a.{ending}", Image.fromarray(COLOR), **({"lossless": True} if ending == "webp" else {}))
    decoded = decode_image(path)
    assert np.array_equal(decoded.pixels, COLOR)
    assert decoded.notes == ()


def test_the_first_bytes_say_what_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "really_png.jpg"
    Image.fromarray(COLOR).save(path, "PNG")
    assert np.array_equal(read_image(path), COLOR)


def test_grey_becomes_three_channels(tmp_path: Path) -> None:
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(RAMP)))
    assert pixels.shape == (6, 8, 3)
    assert (pixels == RAMP[..., None]).all()


def test_16_bit_is_divided_by_257_not_saturated(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    decoded = decode_image(save(tmp_path / "a.png", Image.fromarray(ramp)))
    assert np.array_equal(decoded.pixels[..., 0].ravel(), np.arange(256))
    assert decoded.notes == ("16-bit, scaled to 8 bits",)
    halves = np.array([[257 * 9 + 128, 257 * 9 + 129]], np.uint16)  # rounded, not cut off
    assert read_image(save(tmp_path / "b.png", Image.fromarray(halves)))[0, :, 0].tolist() == [9, 10]


def test_16_bit_rgb_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    values = np.array([[0, 257 * 100, 65535]], ">u2")
    path.write_bytes(raw_png(1, 1, 16, 2, b"\0" + values.tobytes()))
    decoded = decode_image(path)
    assert decoded.pixels.ravel().tolist() == [0, 100, 255]
    assert decoded.notes == ("16-bit, scaled to 8 bits",)


def test_alpha_is_dropped_with_a_note(tmp_path: Path) -> None:
    rgba = np.dstack([COLOR, np.zeros_like(RAMP)])
    decoded = decode_image(save(tmp_path / "a.png", Image.fromarray(rgba, "RGBA")))
    assert np.array_equal(decoded.pixels, COLOR)
    assert decoded.notes == ("alpha channel dropped",)


def test_palette_images_are_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert read_image(save(tmp_path / "a.png", image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_cmyk_is_converted_with_a_note(tmp_path: Path) -> None:
    decoded = decode_image(save(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95))
    assert decoded.notes == ("converted from CMYK",)
    assert decoded.pixels[4, 4, 0] > 240
    assert decoded.pixels[4, 4, 1] < 15


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, ending: str) -> None:
    upright = {
        1: COLOR, 2: COLOR[:, ::-1], 3: COLOR[::-1, ::-1], 4: COLOR[::-1], 5: COLOR.transpose(1, 0, 2),
        6: np.rot90(COLOR, -1), 7: np.rot90(COLOR.transpose(1, 0, 2), 2), 8: np.rot90(COLOR),
    }[orientation]  # fmt: skip
    options = {"lossless": True} if ending == "webp" else {}
    path = save(tmp_path / f"a.{ending}", Image.fromarray(COLOR), exif=exif(orientation), **options)
    decoded = decode_image(path)
    assert np.array_equal(decoded.pixels, upright)
    if ending != "tif":
        assert (orientation == 1) == (decoded.notes == ())


def test_float_and_32_bit_images_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(RAMP.astype(np.float32)))
    with pytest.raises(DataError, match=r"a\.tif: floating-point pixels have no defined range"):
        read_image(path)
    path = save(tmp_path / "b.tif", Image.fromarray(RAMP.astype(np.int32)))
    with pytest.raises(DataError, match="32-bit integer"):
        read_image(path)


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.tile(COLOR, (20, 20, 1))).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>404", "HTML or XML page"),
        (b"  \n<html>", "HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"GIF89a" + bytes(20), "GIF animation"),
        (b"PK\x03\x04" + bytes(20), "ZIP archive"),
        (bytes(100), "not an image of a known format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(10), "damaged PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "damaged"),
        (jpeg_bytes()[: len(jpeg_bytes()) // 2], "truncated JPEG"),
        (raw_png(8, 8, 8, 0, bytes(9 * 8))[:-30], "PNG file"),
        (raw_png(8, 8, 8, 0, bytes(20)), "PNG file"),
    ],
)
def test_damaged_files_name_file_and_cause(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="Is a directory"):
        read_image(tmp_path)


def test_bombs_are_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(raw_png(40_000, 40_000, 8, 0, b""))
    with pytest.raises(DataError, match=r"40000x40000 pixels are more than the limit of 64 million"):
        read_image(path)
    small = save(tmp_path / "a.png", Image.fromarray(COLOR))
    with pytest.raises(DataError, match="8x6 pixels"):
        read_image(small, max_pixels=47)
    assert read_image(small, max_pixels=48).shape == (6, 8, 3)


# --- label maps ------------------------------------------------------------------------------------------------------
def test_palette_masks_give_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 7]], np.uint8), "P")
    image.putpalette([v for i in range(8) for v in (i * 30, 255 - i, 5)])
    assert read_mask(save(tmp_path / "a.png", image)).tolist() == [[0, 1, 7]]


def test_one_bit_masks_are_0_and_1(tmp_path: Path) -> None:
    mask = read_mask(save(tmp_path / "a.png", Image.fromarray(np.array([[True, False, True]]))))
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[1, 0, 1]]


@pytest.mark.parametrize(("depth", "rows"), [(2, bytes([0, 0b00011011])), (4, bytes([0, 0x01, 0x9F]))])
def test_2_and_4_bit_masks_keep_their_numbers(tmp_path: Path, depth: int, rows: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(raw_png(4, 1, depth, 0, rows))
    assert read_mask(path).tolist() == ([[0, 1, 2, 3]] if depth == 2 else [[0, 1, 9, 15]])


def test_16_bit_masks(tmp_path: Path) -> None:
    decoded = decode_mask(save(tmp_path / "a.png", Image.fromarray(RAMP.astype(np.uint16))))
    assert np.array_equal(decoded.pixels, RAMP)
    assert decoded.notes == ("16-bit label map",)
    path = save(tmp_path / "b.png", Image.fromarray(RAMP.astype(np.uint16) * 1000))
    with pytest.raises(DataError, match=r"16-bit label map with values up to 47000"):
        read_mask(path)


def test_lossy_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="label map saved as JPEG, whose lossy"):
        read_mask(save(tmp_path / "a.jpg", Image.fromarray(RAMP)))
    with pytest.raises(DataError, match="label map saved as WebP"):
        read_mask(save(tmp_path / "a.webp", Image.fromarray(COLOR)))


def test_masks_with_three_equal_channels(tmp_path: Path) -> None:
    decoded = decode_mask(save(tmp_path / "a.png", Image.fromarray(np.repeat(RAMP[..., None], 3, axis=2))))
    assert np.array_equal(decoded.pixels, RAMP)
    assert decoded.notes == ("label map saved with three equal channels",)


def test_colour_masks_need_a_table(tmp_path: Path) -> None:
    colors = np.array([[[128, 64, 0], [0, 0, 192]]], np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(colors))
    with pytest.raises(DataError, match="label map in colours, and no table"):
        read_mask(path)
    table = color_table({(128, 64, 0): 3, (0, 0, 192): 9})
    assert decode_mask(path, colors=table).pixels.tolist() == [[3, 9]]
    with pytest.raises(DataError, match=r"colour \(0, 0, 192\) stands for no class \(1 pixels; 1 such"):
        decode_mask(path, colors=color_table({(128, 64, 0): 3}))


def test_masks_turn_with_their_exif_orientation(tmp_path: Path) -> None:
    assert np.array_equal(read_mask(save(tmp_path / "a.png", Image.fromarray(RAMP), exif=exif(6))), np.rot90(RAMP, -1))


def test_float_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="TIFF file of mode F is no label map"):
        read_mask(save(tmp_path / "a.tif", Image.fromarray(RAMP.astype(np.float32))))


def test_more_pictures_in_a_file_are_noted(tmp_path: Path) -> None:
    def pages(v: int) -> Image.Image:
        return Image.new("RGB", (4, 4), (v, v, v))

    path = save(tmp_path / "a.tif", pages(10), save_all=True, append_images=[pages(20)])
    decoded = decode_image(path)
    assert decoded.notes == ("first of 2 pictures in the file",)
    assert decoded.pixels[0, 0, 0] == 10
