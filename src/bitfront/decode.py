"""Safe decoding of image files and label maps.

Decoding refuses what would give a wrong number in silence and names the trap: what the file is, why that is wrong,
what to do. Pixels are uint8 RGB, label maps uint8 indices; both are turned as their EXIF orientation says, so that they
have the size that a viewer shows.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from bitfront.errors import DataError

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "Decoded",
    "color_table",
    "decode_image",
    "decode_mask",
    "read_image",
    "read_mask",
]

MAX_PIXELS = 64_000_000
"""Largest image that is decoded unless the caller allows more; checked before decoding."""

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
"""File endings of images (lower case); what a file really is, its first bytes say."""

_PLUGINS: dict[str, Callable[..., ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "WebP": WebPImageFile,
}
_FORMATS = "JPEG, PNG, BMP, TIFF and WebP"
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)
_FOREIGN = (
    (b"GIF8", "a GIF animation", "convert it to PNG"),
    (b"%PDF", "a PDF document", "export its pages as PNG"),
    (b"PK\x03\x04", "a ZIP archive", "unpack it"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run 'git lfs pull'"),
    (b"<", "an HTML or XML page, probably a download that failed", "download the file again"),
    (b"\x93NUMPY", "a NumPy array", "save it as PNG"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Pixels of a file, and what had to be done to get them."""

    pixels: NDArray[np.uint8]
    """``(h, w, 3)`` RGB of an image, ``(h, w)`` indices of a label map."""
    notes: tuple[str, ...] = ()
    """What a careful user wants to know: ``16-bit, scaled to 8 bits``, ``alpha channel dropped``, ..."""


# --- decoding --------------------------------------------------------------------------------------------------------
def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return the pixels of an image file as uint8 ``(h, w, 3)`` RGB. Raises DataError naming the file and the trap."""
    return decode_image(path, max_pixels).pixels


def read_mask(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return a label map as uint8 ``(h, w)`` indices. Raises DataError: JPEG, colours, labels above 255, ..."""
    return decode_mask(path, max_pixels).pixels


def decode_image(path: Path, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode an image file to uint8 ``(h, w, 3)`` RGB with notes.

    Grey becomes three equal channels; 16-bit is divided by 257; alpha is dropped; CMYK is converted; palettes are
    looked up; the EXIF orientation is applied. Raises DataError for all that is not a whole 8- or 16-bit image.
    """
    image, kind, head = _load(path, max_pixels)
    notes: list[str] = []
    pixels = _rgb(image, path, notes)
    if image.mode == "RGB" and _png_depth(kind, head) == 16:
        notes.append("16-bit, scaled to 8 bits")
    return Decoded(_upright(image, pixels, notes), (*notes, *_frames(image)))


def decode_mask(path: Path, max_pixels: int = MAX_PIXELS, colors: NDArray[np.int16] | None = None) -> Decoded:
    """Decode a label map to uint8 ``(h, w)`` with notes.

    Palette masks give their indices, 1-bit masks {0, 1}, 2- and 4-bit grey masks their stored numbers. ``colors`` (of
    :func:`color_table`) says which label each colour of an RGB mask means; without it only masks whose three channels
    are equal are understood. Raises DataError.
    """
    image, kind, head = _load(path, max_pixels, refuse=_lossy_mask)
    notes: list[str] = []
    depth = _png_depth(kind, head)
    match image.mode:
        case "P" | "L" | "1":
            mask = np.array(image).astype(np.uint8)
            if image.mode == "L" and depth in (2, 4):  # the decoder spread these over 0..255
                mask //= 255 // (2**depth - 1)
        case "LA" | "La" | "PA":
            mask = np.array(image.getchannel(0))
            notes.append("alpha channel dropped")
        case "I;16" | "I;16B" | "I;16L" | "I;16N" | "I":
            mask = _narrow(np.array(image), path, notes)
        case "RGB" | "RGBA" | "RGBX":
            mask = _from_colors(np.array(image), path, colors, notes)
        case mode:
            raise DataError(f"{path}: a {kind} file of mode {mode} is no label map", hint=_SAVE_MASK)
    return Decoded(_upright(image, mask, notes), (*notes, *_frames(image)))


def color_table(colors: Mapping[tuple[int, int, int], int]) -> NDArray[np.int16]:
    """Return the lookup table ``(2 ** 24,)`` from packed RGB to label, -1 where no label is given."""
    table = np.full(1 << 24, -1, np.int16)
    for (red, green, blue), label in colors.items():
        table[red << 16 | green << 8 | blue] = label
    return table


_SAVE_MASK = "save label maps as 8-bit grey or palette PNG, one class index per pixel"


def _load(
    path: Path, max_pixels: int, refuse: Callable[[Path, str, bytes], None] | None = None
) -> tuple[Image.Image, str, bytes]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", hint="check the path") from error
    except ValueError as error:  # a zero byte in the name
        raise DataError(f"{path}: cannot be read: {error}", hint="check the path") from error
    kind = _sniff(path, data[:64])
    if refuse is not None:
        refuse(path, kind, data[:64])
    try:
        # The plug-in's own class, not Image.open: no other format is tried, and the size is ours to judge.
        image = _PLUGINS[kind](io.BytesIO(data))
        width, height = image.size
    except Exception as error:  # decoders raise anything on damaged data
        raise DataError(f"{path}: damaged {kind} file: {error}", hint=_DAMAGED) from error
    if width * height > max_pixels:
        raise DataError(
            f"{path}: {width}x{height} pixels are more than the limit of {max_pixels / 1e6:g} million",
            hint="make it smaller or cut it into tiles; a small file of huge size may be an attack",
        )
    try:
        image.load()
    except Exception as error:
        raise DataError(f"{path}: damaged or truncated {kind} file: {error}", hint=_DAMAGED) from error
    return image, kind, data[:64]


_DAMAGED = "copy or download the file again, or remove it"


def _sniff(path: Path, head: bytes) -> str:
    if not head:
        raise DataError(f"{path}: the file is empty", hint=_DAMAGED)
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    for signature, what, fix in _FOREIGN:
        if head.lstrip().startswith(signature):
            raise DataError(f"{path}: is {what}, not an image", hint=fix)
    raise DataError(f"{path}: is not an image of a known format", hint=f"known: {_FORMATS}")


def _lossy_mask(path: Path, kind: str, head: bytes) -> None:
    if kind == "JPEG" or (kind == "WebP" and head[12:16] == b"VP8 "):
        raise DataError(
            f"{path}: label map saved as {kind}, whose lossy compression changes class indices",
            hint="export the labels again as PNG; a JPEG mask cannot be repaired",
        )


def _png_depth(kind: str, head: bytes) -> int:
    return head[24] if kind == "PNG" and len(head) > 24 else 0


def _rgb(image: Image.Image, path: Path, notes: list[str]) -> NDArray[np.uint8]:
    match image.mode:
        case "RGB":
            return np.array(image)
        case "L" | "1" | "YCbCr":
            return np.array(image.convert("RGB"))
        case "P" | "PA":
            return _three(image.convert("RGBA"))
        case "RGBA" | "RGBX":
            notes.append("alpha channel dropped")
            return _three(image)
        case "LA" | "La" | "RGBa":
            notes.append("alpha channel dropped")
            return _three(image.convert("RGBA"))
        case "CMYK":
            notes.append("converted from CMYK")
            return np.array(image.convert("RGB"))
        case "I;16" | "I;16B" | "I;16L" | "I;16N":
            notes.append("16-bit, scaled to 8 bits")
            grey = ((np.array(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        case mode:
            what = {"F": "floating-point", "I": "32-bit integer"}.get(mode, f"'{mode}'")
            raise DataError(
                f"{path}: {what} pixels have no defined range", hint="convert the image to 8- or 16-bit grey or RGB"
            )


def _three(image: Image.Image) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.array(image)[..., :3]
    return pixels


def _narrow(mask: NDArray[Any], path: Path, notes: list[str]) -> NDArray[np.uint8]:
    top = int(mask.max(initial=0))
    if top > 255 or int(mask.min(initial=0)) < 0:
        raise DataError(
            f"{path}: 16-bit label map with values up to {top}, labels go to 255",
            hint="instance ids (Cityscapes: class * 1000 + number)? use the labelIds files; " + _SAVE_MASK,
        )
    notes.append("16-bit label map")
    return mask.astype(np.uint8)


def _from_colors(
    rgb: NDArray[np.uint8], path: Path, colors: NDArray[np.int16] | None, notes: list[str]
) -> NDArray[np.uint8]:
    if rgb.shape[2] == 4:
        notes.append("alpha channel dropped")
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    if colors is None:
        if (red == green).all() and (green == blue).all():
            notes.append("label map saved with three equal channels")
            return red.copy()
        raise DataError(
            f"{path}: label map in colours, and no table says which colour means which class",
            hint="this reader needs class indices: convert the colours, and " + _SAVE_MASK,
        )
    packed = red.astype(np.int32) << 16 | green.astype(np.int32) << 8 | blue
    labels: NDArray[np.int16] = colors[packed]
    if labels.min(initial=0) < 0:
        unknown, counts = np.unique(packed[labels < 0], return_counts=True)
        first = int(unknown[counts.argmax()])
        raise DataError(
            f"{path}: colour ({first >> 16}, {first >> 8 & 255}, {first & 255}) stands for no class "
            f"({int(counts.max())} pixels; {len(unknown)} such colours)",
            hint="many unknown colours mean a mask that was resized or compressed; export it again without either",
        )
    return labels.astype(np.uint8)


def _upright(image: Image.Image, pixels: NDArray[np.uint8], notes: list[str]) -> NDArray[np.uint8]:
    """Turn ``pixels`` as the EXIF orientation of the file says (EXIF 2.32, tag 0x0112)."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF: any error
        notes.append("EXIF data unreadable, orientation ignored")
        return np.ascontiguousarray(pixels)
    turned = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p[::-1].swapaxes(0, 1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p[:, ::-1].swapaxes(0, 1),
    }.get(orientation if isinstance(orientation, int) else 1)
    if turned is None:
        return np.ascontiguousarray(pixels)
    notes.append(f"turned upright (EXIF orientation {orientation})")
    return np.ascontiguousarray(turned(pixels))


def _frames(image: Image.Image) -> tuple[str, ...]:
    try:
        n_frames = getattr(image, "n_frames", 1)
    except Exception:  # damaged further on: the first picture is whole
        return ("more pictures in the file, damaged",)
    return (f"first of {n_frames} pictures in the file",) if n_frames > 1 else ()
