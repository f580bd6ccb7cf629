"""Augmentation: one affine warp for image, mask and boxes together, and one affine change of colour.

Coordinates are continuous pixels: the centre of the first pixel is (0.5, 0.5), an image spans ``0..w`` by ``0..h``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitfront.contracts import IGNORE, InputContract
from bitfront.errors import unknown_name
from bitfront.images import PAD, letterbox, statistics

__all__ = [
    "AUGMENTS",
    "MIN_VISIBLE",
    "Augment",
    "ColorChange",
    "Corner",
    "Geometry",
    "augment_named",
    "draw_color",
    "draw_corners",
    "draw_geometry",
    "of_corner",
]

Corner = tuple[int, int, InputContract]
"""Top and left of one image of a mosaic, and the input that it fills."""

MIN_VISIBLE = 0.2
"""A box is dropped when less than this share of its area is left after clipping."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, slots=True)
class Augment:
    """What may happen to a training image; the defaults change nothing."""

    flip: float = 0.0
    """Chance of a horizontal flip."""
    crop: tuple[float, float] = (1.0, 1.0)
    """Least and greatest share of the window's sides that a crop keeps."""
    crop_chance: float = 1.0
    square: bool = False
    """Crop windows have the network input's shape, so nothing is distorted, instead of the image's own."""
    shift: float = 0.0
    """Greatest shift, as a share of the window."""
    scale: float = 0.0
    """Greatest change of scale: factors from ``1 - scale`` to ``1 + scale``."""
    rotate: float = 0.0
    """Greatest rotation, degrees."""
    warp_chance: float = 1.0
    """Chance that shift, scale and rotation happen."""
    rgb_shift: float = 0.0
    """Greatest shift of each colour channel, grey levels."""
    rgb_chance: float = 1.0
    brightness: float = 0.0
    """Greatest change, as a share of full scale."""
    contrast: float = 0.0
    """Factors from ``1 - contrast`` to ``1 + contrast``."""
    saturation: float = 0.0
    """Factors from ``1 - saturation`` to ``1 + saturation``."""
    hue: float = 0.0
    """Greatest turn of the colour circle, in turns."""
    color_chance: float = 1.0
    """Chance that brightness, contrast, saturation and hue change."""
    mosaic: float = 0.0
    """Chance that four images share the picture, each in a corner of its own (Bochkovskiy et al. 2020, section 3.3)."""
    mosaic_crop: tuple[float, float] = (0.4, 1.0)
    """Least and greatest share of the largest window of a corner's shape that is seen of its image."""

    @property
    def mean_crop(self) -> float:
        """Share of the window's sides that is kept on average."""
        return 1 - self.crop_chance * (1 - sum(self.crop) / 2)


AUGMENTS: Mapping[str, Augment] = {
    "none": Augment(),
    "detection": Augment(
        flip=0.5, shift=0.1, scale=0.5, brightness=0.1, contrast=0.2, saturation=0.5, hue=0.015, mosaic=0.5,
    ),
    "light": Augment(flip=0.5, crop=(0.7, 1.0), brightness=0.15, contrast=0.15, color_chance=0.8),
    # A flip, colour jitter with p = .5 and a crop of half the input with p = .4.
    "thesis_000": Augment(
        flip=0.5, crop=(0.5, 0.5), crop_chance=0.4,
        brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, color_chance=0.5,
    ),
    # The same on pictures whose margins matter.
    "thesis_000_whole": Augment(
        flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, color_chance=0.5,
    ),
    # A 512x512 crop of 960x540 pictures, shift-scale-rotate, RGB shift, brightness and contrast, each with p = .5 and
    # the strengths of the Albumentations manual's segmentation example, which that work follows.
    "thesis_001": Augment(
        crop=(512 / 540, 512 / 540), square=True, shift=0.2, scale=0.2, rotate=30.0, warp_chance=0.5,
        rgb_shift=25.0, rgb_chance=0.5, brightness=0.3, contrast=0.3, color_chance=0.5,
    ),
}  # fmt: skip
"""Augmentations by name; normalization is the input contract's, not theirs."""


def augment_named(name: str) -> Augment:
    """Return an entry of AUGMENTS. Raises UsageError with a guess."""
    if name not in AUGMENTS:
        raise unknown_name("augmentation", name, AUGMENTS)
    return AUGMENTS[name]


# --- geometry --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Where each pixel of the network's input comes from."""

    matrix: NDArray[np.float64]
    """``(3, 3)``: input coordinates -> image coordinates."""
    size: tuple[int, int]
    """Height and width of the input."""

    def image(self, pixels: NDArray[np.uint8], kernel: str) -> NDArray[np.uint8]:
        """Warp uint8 ``(h, w, 3)`` or ``(h, w)``; what lies outside becomes grey PAD."""
        box = self._box(pixels)
        smooth = _SMOOTH.get(kernel)
        picture = Image.fromarray(pixels)
        if box is not None and smooth is not None:
            upright = picture.resize(self.size[::-1], smooth, box=box)
            return np.asarray(upright)[:, ::-1] if self.matrix[0, 0] < 0 else np.asarray(upright)
        fill = PAD if pixels.ndim == 2 else (PAD,) * pixels.shape[2]
        method = Image.Resampling.NEAREST if kernel.startswith("nearest") else Image.Resampling.BILINEAR
        return np.asarray(picture.transform(self.size[::-1], Image.Transform.AFFINE, self._affine(), method, 1, fill))

    def mask(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Warp a label map ``(h, w)`` by nearest neighbour; what lies outside is ignored."""
        return np.asarray(
            Image.fromarray(mask).transform(
                self.size[::-1], Image.Transform.AFFINE, self._affine(), Image.Resampling.NEAREST, 1, IGNORE
            )
        )

    def boxes(self, boxes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Move boxes ``(n, 4)``: hull of the moved corners, clipped; also the positions of those that were kept."""
        forward = np.linalg.inv(self.matrix)
        x, y = boxes[:, [0, 2, 2, 0]].astype(np.float64), boxes[:, [1, 1, 3, 3]].astype(np.float64)
        u = forward[0, 0] * x + forward[0, 1] * y + forward[0, 2]
        v = forward[1, 0] * x + forward[1, 1] * y + forward[1, 2]
        whole = np.stack([u.min(1), v.min(1), u.max(1), v.max(1)], axis=1)
        height, width = self.size
        clipped = np.clip(whole, 0, [width, height, width, height])
        kept = np.flatnonzero(_area(clipped) > np.maximum(MIN_VISIBLE * _area(whole), 1e-9))
        return clipped[kept].astype(np.float32), kept

    def _affine(self) -> tuple[float, ...]:
        return tuple(float(v) for v in self.matrix[:2].ravel())

    def _box(self, pixels: NDArray[np.uint8]) -> tuple[float, float, float, float] | None:
        """The window that is read, when it is upright and lies within the image."""
        (a, b, c), (d, e, f) = self.matrix[:2]
        if b or d or e <= 0:
            return None
        left, right = sorted((c, c + a * self.size[1]))
        top, bottom = f, f + e * self.size[0]
        height, width = pixels.shape[:2]
        slack = 1e-6 * max(height, width)
        if left < -slack or top < -slack or right > width + slack or bottom > height + slack:
            return None
        return max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)


_SMOOTH = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}
"""Kernels that antialias; the others, and every rotation, read two taps per axis."""


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area


def draw_geometry(
    augment: Augment, contract: InputContract, image: tuple[int, int], rng: np.random.Generator
) -> Geometry:
    """Draw a warp for an image of this (height, width). The same numbers are drawn whatever the outcome."""
    size = (contract.height, contract.width)
    flip, crop, warp = rng.random(3) < (augment.flip, augment.crop_chance, augment.warp_chance)
    share, at_x, at_y = rng.uniform((augment.crop[0], 0, 0), (augment.crop[1], 1, 1))
    shift_x, shift_y, scale, angle = rng.uniform(-1, 1, 4) * (
        augment.shift, augment.shift, augment.scale, math.radians(augment.rotate),
    )  # fmt: skip
    height, width = _window(image, size if augment.square else image, share if crop else 1.0)
    left, top = (image[1] - width) * at_x, (image[0] - height) * at_y
    matrix = _fit(contract, (height, width), left, top)
    if flip:
        matrix = matrix @ np.array([[-1, 0, size[1]], [0, 1, 0], [0, 0, 1]], np.float64)
    if warp and (augment.shift or augment.scale or augment.rotate):
        centre = (left + width / 2, top + height / 2)
        matrix = _turn(centre, angle, 1 + scale, (shift_x * width, shift_y * height)) @ matrix
    return Geometry(matrix, size)


def draw_corners(contract: InputContract, rng: np.random.Generator) -> tuple[Corner, ...]:
    """Draw where the four images of a mosaic meet; the corners in reading order."""
    height, width = contract.height, contract.width
    y, x = round(height * rng.uniform(0.3, 0.7)), round(width * rng.uniform(0.3, 0.7))
    return tuple(
        (top, left, replace(contract, height=bottom - top, width=right - left, fit="stretch"))
        for top, bottom in ((0, y), (y, height))
        for left, right in ((0, x), (x, width))
    )


def of_corner(augment: Augment) -> Augment:
    """Return what happens to one image of a mosaic: windows of its corner's shape, of varied size."""
    return replace(augment, crop=augment.mosaic_crop, crop_chance=1.0, square=True, shift=0.0, scale=0.0, rotate=0.0)


def _window(image: tuple[int, int], shape: tuple[int, int], share: float) -> tuple[float, float]:
    """The largest window of a shape within the image, times ``share``."""
    factor = min(image[0] / shape[0], image[1] / shape[1]) * share
    return shape[0] * factor, shape[1] * factor


def _fit(contract: InputContract, window: tuple[float, float], left: float, top: float) -> NDArray[np.float64]:
    """Matrix from input to image coordinates: the window stretched, or letterboxed, onto the input."""
    height, width, above, before = contract.height, contract.width, 0, 0
    if contract.fit == "letterbox":
        whole = (max(1, round(window[0])), max(1, round(window[1])))
        height, width, above, before = letterbox(whole, (contract.height, contract.width))
    x, y = window[1] / width, window[0] / height
    return np.array([[x, 0, left - x * before], [0, y, top - y * above], [0, 0, 1]], np.float64)


def _turn(centre: tuple[float, float], angle: float, scale: float, shift: tuple[float, float]) -> NDArray[np.float64]:
    """Matrix in image coordinates that undoes: scale and turn about the centre, then shift."""
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    x, y = centre[0] + shift[0], centre[1] + shift[1]
    return np.array(
        [[cos, sin, centre[0] - cos * x - sin * y], [-sin, cos, centre[1] + sin * x - cos * y], [0, 0, 1]], np.float64
    )


# --- colour ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class ColorChange:
    """A pixel ``p`` (RGB, 0..255) becomes ``clip(gain @ p + offset, 0, 255)``."""

    gain: NDArray[np.float32]
    """``(3, 3)``."""
    offset: NDArray[np.float32]
    """``(3,)``."""

    def normalized(self, pixels: NDArray[np.uint8], contract: InputContract, out: NDArray[np.float32]) -> None:
        """Write uint8 RGB ``(h, w, 3)`` into ``out`` ``(c, h, w)``: colour change, colour space, mean and std."""
        mean, std = statistics(contract)
        diagonal = np.diag(self.gain)
        if contract.color != "y" and not (self.gain - np.diag(diagonal)).any():
            levels = np.clip(np.arange(256, dtype=np.float32) * diagonal[:, None] + self.offset[:, None], 0, 255)
            for channel in range(3):
                source = 2 - channel if contract.color == "bgr" else channel
                table = (levels[source] / 255 - mean[channel]) / std[channel]
                np.take(table, pixels[..., source], out=out[channel], mode="clip")
            return
        values = pixels.reshape(-1, 3).astype(np.float32) @ self.gain.T + self.offset
        np.clip(values, 0, 255, out=values)
        planes = [values @ _LUMA] if contract.color == "y" else list(values.T)
        for channel, plane in enumerate(reversed(planes) if contract.color == "bgr" else planes):
            out[channel] = ((plane / 255 - mean[channel]) / std[channel]).reshape(pixels.shape[:2])


def draw_color(augment: Augment, rng: np.random.Generator) -> ColorChange:
    """Draw a change of colour. The same numbers are drawn whatever the outcome."""
    color, rgb = rng.random(2) < (augment.color_chance, augment.rgb_chance)
    shift = rng.uniform(-1, 1, 3).astype(np.float32) * augment.rgb_shift * rgb
    brightness, contrast, saturation, hue = rng.uniform(-1, 1, 4) * color * (
        augment.brightness, augment.contrast, augment.saturation, augment.hue,
    )  # fmt: skip
    gain = np.eye(3, dtype=np.float32)
    if saturation or hue:
        gain = _saturation_and_hue(1 + saturation, hue)
    return ColorChange(gain * np.float32(1 + contrast), shift + np.float32(255 * brightness))


def _saturation_and_hue(saturation: float, hue: float) -> NDArray[np.float32]:
    """Scale and turn the chroma plane of YIQ (NTSC 1953), luma kept: ``(3, 3)``."""
    to_yiq = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float64)
    cos, sin = saturation * math.cos(2 * math.pi * hue), saturation * math.sin(2 * math.pi * hue)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    gain: NDArray[np.float32] = (np.linalg.inv(to_yiq) @ turn @ to_yiq).astype(np.float32)
    return gain
