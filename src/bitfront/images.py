"""Images as arrays: resizing kernels by name, preprocessing, overlays with a legend, encoding."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bitfront.contracts import DataInfo, InputContract
from bitfront.decode import read_image, read_mask
from bitfront.errors import DataError, UsageError, unknown_name

__all__ = [
    "KERNELS",
    "PAD",
    "colors",
    "jpeg",
    "label",
    "letterbox",
    "luma",
    "overlay",
    "png",
    "preprocess",
    "read_image",
    "read_mask",
    "require_values",
    "resize",
    "statistics",
    "tile",
]

PAD = 114
"""Grey level of the borders of a letterbox and of pixels that augmentation brings in from outside the image."""


# --- resizing --------------------------------------------------------------------------------------------------------
def _pil(filter_: Image.Resampling) -> Callable[[NDArray[Any], int, int], NDArray[Any]]:
    def apply(plane: NDArray[Any], height: int, width: int) -> NDArray[Any]:
        return np.asarray(Image.fromarray(plane).resize((width, height), filter_))

    return apply


def _plain(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Bilinear with half-pixel centres and no antialiasing: two taps per axis, however much it shrinks."""
    rows, row_weight = _taps(image.shape[0], height)
    columns, column_weight = _taps(image.shape[1], width)
    tail = (1,) * (image.ndim - 2)
    wide = _mixed(image, rows, row_weight.reshape(-1, 1, *tail), 0)
    result = _mixed(wide, columns, column_weight.reshape(1, -1, *tail), 1)
    return np.rint(result, out=result) if image.dtype == np.uint8 else result


def _mixed(
    image: NDArray[Any], taps: tuple[NDArray[np.intp], NDArray[np.intp]], weight: NDArray[np.float32], axis: int
) -> NDArray[Any]:
    result: NDArray[Any] = image.take(taps[0], axis) * (1 - weight)
    result += image.take(taps[1], axis) * weight
    return result


def _taps(n_in: int, n_out: int) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], NDArray[np.float32]]:
    at = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    low = np.floor(at).astype(np.intp)
    return (low, np.minimum(low + 1, n_in - 1)), (at - low).astype(np.float32)


def _nearest(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    rows = (2 * np.arange(height) + 1) * image.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * image.shape[1] // (2 * width)
    result: NDArray[Any] = image[rows[:, None], columns]
    return result


def _nearest_floor(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    result: NDArray[Any] = image[rows[:, None], columns]
    return result


KERNELS: Mapping[str, Callable[[NDArray[Any], int, int], NDArray[Any]]] = {
    "bilinear": _pil(Image.Resampling.BILINEAR),
    "bilinear_plain": _plain,
    "bicubic": _pil(Image.Resampling.BICUBIC),
    "area": _pil(Image.Resampling.BOX),
    "nearest": _nearest,
    "nearest_floor": _nearest_floor,
}
"""How to resize, by name.

``bilinear``, ``bicubic`` (a = -0.5) and ``area`` (box) widen with the shrinking factor, that is they antialias, as
Pillow does; ``bilinear_plain`` does not, as OpenCV's INTER_LINEAR and torch's interpolate (within one grey level of
them). ``nearest`` reads pixel ``floor((i + 0.5) * in / out)`` (Pillow, ONNX ``half_pixel``), ``nearest_floor`` reads
``floor(i * in / out)`` (OpenCV, torch).
"""


def resize(image: NDArray[Any], size: tuple[int, int], kernel: str = "bilinear") -> NDArray[Any]:
    """Return ``image`` ``(h, w)`` or ``(h, w, c)``, uint8 or float32, at ``size`` (height, width) in the same dtype.

    Raises UsageError for unknown kernels.
    """
    if kernel not in KERNELS:
        raise unknown_name("resizing kernel", kernel, KERNELS)
    if image.shape[:2] == tuple(size):
        return image
    apply = KERNELS[kernel]
    if apply in (_plain, _nearest, _nearest_floor) or image.ndim == 2 or image.dtype == np.uint8:
        return apply(image, *size).astype(image.dtype, copy=False)
    planes = [apply(np.ascontiguousarray(image[..., c]), *size) for c in range(image.shape[2])]
    return np.stack(planes, axis=2).astype(image.dtype, copy=False)


def letterbox(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (height, width, top, left) of an image of ``size`` fitted into ``target`` with equal factors.

    Rounds as YOLOv5's ``letterbox`` does, so boxes and masks map back exactly.
    """
    factor = min(target[0] / size[0], target[1] / size[1])
    height, width = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    return height, width, round((target[0] - height) / 2 - 0.1), round((target[1] - width) / 2 - 0.1)


# --- preprocessing ---------------------------------------------------------------------------------------------------
def luma(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return Y of Y'CbCr (ITU-R BT.601, full range, rounded) of an RGB image: ``(h, w, 3)`` -> ``(h, w)`` uint8."""
    return np.asarray(Image.fromarray(image).convert("L"))


def preprocess(image: NDArray[np.uint8], contract: InputContract) -> NDArray[np.float32]:
    """Return uint8 ``(h, w, 3)`` RGB as the float32 ``(c, height, width)`` that ``contract`` describes.

    Order: colour, resize (in uint8, rounded), scale to [0, 1], subtract mean, divide by std. Raises UsageError when the
    contract contradicts itself.
    """
    mean, std = statistics(contract)
    pixels = luma(image) if contract.color == "y" else image
    size = (contract.height, contract.width)
    if contract.fit == "stretch":
        pixels = resize(pixels, size, contract.resize)
    else:
        pixels = _boxed(pixels, size, contract.resize)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if contract.color == "bgr":
        pixels = pixels[..., ::-1]
    gain, offset = 1 / (255 * std), -mean / std
    return np.stack([pixels[..., c] * gain[c] + offset[c] for c in range(contract.channels)])


def require_values(images: NDArray[Any], name: str) -> None:
    """Raise DataError for what is no batch of normalized images ``(b, c, h, w)``: pixels above all.

    ``name`` is what is to be run on them.
    """
    if images.ndim == 4 and images.dtype.kind == "f":
        return
    is_pixels = images.dtype.kind in "iu"
    what = f"{images.dtype} pixels" if is_pixels else f"{images.dtype} of shape {images.shape}"
    raise DataError(
        f"'{name}' was fed {what}; a session takes normalized float32 images (b, c, h, w), whatever its file takes",
        hint="bitfront.images.preprocess(image, contract) makes one of a picture, as the file's input contract says",
    )


def statistics(contract: InputContract) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and std, float32 ``(c,)`` each. Raises UsageError when the contract contradicts itself."""
    channels = {"rgb": 3, "bgr": 3, "y": 1}.get(contract.color)
    if channels is None:
        raise unknown_name("colour", contract.color, ("rgb", "bgr", "y"))
    if contract.channels != channels:
        raise UsageError(f"colour '{contract.color}' has {channels} channels, the network takes {contract.channels}")
    if contract.fit not in ("stretch", "letterbox"):
        raise unknown_name("fit", contract.fit, ("stretch", "letterbox"))
    for name, values in (("mean", contract.mean), ("std", contract.std)):
        if len(values) not in (1, channels):
            raise UsageError(f"{name} has {len(values)} numbers, the input {channels} channels", hint="one for each")
    mean, std = (np.broadcast_to(np.array(v, np.float32), (channels,)) for v in (contract.mean, contract.std))
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise UsageError("mean and std must be finite and std positive")
    return mean, std


def _boxed(pixels: NDArray[np.uint8], size: tuple[int, int], kernel: str) -> NDArray[np.uint8]:
    height, width, top, left = letterbox(pixels.shape[:2], size)
    canvas = np.full((*size, *pixels.shape[2:]), PAD, np.uint8)
    canvas[top : top + height, left : left + width] = resize(pixels, (height, width), kernel)
    return canvas


# --- drawing ---------------------------------------------------------------------------------------------------------
def colors(info: DataInfo) -> NDArray[np.uint8]:
    """Return a colour for each class, uint8 ``(n, 3)``: the dataset's own, or hues by the golden angle."""
    n = len(info.classes)
    if len(info.palette) >= n:
        return np.array(info.palette[:n], np.uint8).reshape(n, 3)
    hues = np.arange(n) * 0.618034 % 1.0
    rgb = np.clip(np.abs((hues[:, None] + [0, 2 / 3, 1 / 3]) % 1 * 6 - 3) - 1, 0, 1)  # HSV with full saturation
    palette: NDArray[np.uint8] = (rgb * 215 + 40).astype(np.uint8)
    return palette


def overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], info: DataInfo, *, strength: float = 0.5, legend: bool = True
) -> NDArray[np.uint8]:
    """Return the image tinted by its label map, same ``(h, w, 3)``, with a legend of the classes that occur.

    Background stays as it is; ignored pixels become grey. ``mask`` is resized by nearest neighbour when its size
    differs. The legend needs an image of at least 96 pixels.
    """
    mask = resize(mask, (image.shape[0], image.shape[1]), "nearest")
    table = np.full((256, 3), 128, np.float32)
    weight = np.full(256, strength, np.float32)
    table[: len(info.classes)] = colors(info)
    if info.background is not None:
        weight[info.background] = 0
    amount = weight[mask][..., None]
    tinted = (image * (1 - amount) + table[mask] * amount + 0.5).astype(np.uint8)
    present = [c for c in np.flatnonzero(np.bincount(mask.ravel(), minlength=256)) if c < len(info.classes)]
    if legend and min(image.shape[:2]) >= 96:
        return _legend(tinted, [(info.classes[c], _rgb(colors(info)[c])) for c in present if c != info.background])
    return tinted


def _rgb(color: NDArray[np.uint8]) -> tuple[int, int, int]:
    return int(color[0]), int(color[1]), int(color[2])


def _legend(image: NDArray[np.uint8], entries: list[tuple[str, tuple[int, int, int]]]) -> NDArray[np.uint8]:
    if not entries:
        return image
    canvas = Image.fromarray(image)
    size = max(9, min(20, image.shape[0] // 24))
    font = ImageFont.load_default(size)
    step = size + 4
    entries = entries[: max(1, (image.shape[0] - 8) // step)]
    names = [name if len(name) <= 24 else name[:23] + "…" for name, _ in entries]
    width = int(max(font.getlength(name) for name in names)) + step + 10
    shade = Image.new("L", (width, step * len(entries) + 6), 160)
    canvas.paste((0, 0, 0), (4, 4), shade)
    draw = ImageDraw.Draw(canvas)
    for row, (name, (_, color)) in enumerate(zip(names, entries, strict=True)):
        top = 7 + row * step
        draw.rectangle((9, top + 1, 9 + size - 2, top + size - 1), fill=color)
        draw.text((9 + step, top + size // 2), name, fill=(255, 255, 255), font=font, anchor="lm")
    return np.array(canvas)


def label(image: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Return the image under a caption of one line: ``(h, w, 3)`` -> ``(h + strip, w, 3)``."""
    size = max(10, min(18, image.shape[1] // 24))
    font = ImageFont.load_default(size)
    while text and font.getlength(text) > image.shape[1] - 6:
        text = text[:-2] + "…" if len(text) > 2 else ""
    strip = Image.new("RGB", (image.shape[1], size + 6), (24, 24, 28))
    ImageDraw.Draw(strip).text((3, size // 2 + 3), text, fill=(235, 235, 235), font=font, anchor="lm")
    return np.concatenate([np.array(strip), image])


def tile(images: list[NDArray[np.uint8]], columns: int, gap: int = 4) -> NDArray[np.uint8]:
    """Return pictures ``(h, w, 3)`` side by side in rows of ``columns``, each in a cell as large as the largest."""
    if not images:
        raise UsageError("there is no picture to show")
    height, width = (max(i.shape[axis] for i in images) + gap for axis in (0, 1))
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height + gap, columns * width + gap, 3), 24, np.uint8)
    for at, image in enumerate(images):
        top, left = at // columns * height + gap, at % columns * width + gap
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


# --- encoding --------------------------------------------------------------------------------------------------------
def png(image: NDArray[np.uint8]) -> bytes:
    """Encode uint8 ``(h, w, 3)`` or ``(h, w)`` as PNG."""
    return _encode(image, "PNG", compress_level=6)


def jpeg(image: NDArray[np.uint8], quality: int = 90) -> bytes:
    """Encode uint8 ``(h, w, 3)`` or ``(h, w)`` as JPEG."""
    return _encode(image, "JPEG", quality=quality)


def _encode(image: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()
