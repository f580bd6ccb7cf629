"""Textures of conveyor belts for the generated data, drawn once per dataset and then seen by a moving camera."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["SCALE", "TEXTURE", "belt_textures"]

TEXTURE = (640, 1024)
"""Height and width of a texture, pixels."""

SCALE = 96
"""Pixels of a texture per unit of length (the camera sees about two units)."""


def belt_textures(n: int, rng: np.random.Generator) -> list[Image.Image]:
    """Return ``n`` grey pictures of belts, of every kind in turn."""
    return [_KINDS[i % len(_KINDS)](rng) for i in range(n)]


def _canvas(level: float) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", TEXTURE[::-1], int(level))
    return image, ImageDraw.Draw(image)


def _worn(image: Image.Image, rng: np.random.Generator, grain: float, streaks: float) -> Image.Image:
    """Add grain, streaks along the belt and large stains."""
    height, width = TEXTURE
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8)), np.float32)
    pixels = pixels + rng.normal(0, grain, TEXTURE).astype(np.float32)
    pixels += np.convolve(rng.normal(0, streaks, height), np.ones(3) / 3, "same")[:, None].astype(np.float32)
    stains = Image.fromarray(rng.normal(0, 6, (height // 64, width // 64)).astype(np.float32))
    pixels += np.asarray(stains.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _plates(rng: np.random.Generator) -> Image.Image:
    """Rows of tapered plates in dark slots, every second row shifted: a modular plastic belt."""
    level = rng.uniform(130, 175)
    image, draw = _canvas(level)
    step_x, step_y = int(rng.integers(22, 40)), int(rng.integers(34, 60))
    slot = max(3, step_x // 6)
    for row, y in enumerate(range(-step_y, TEXTURE[0] + step_y, step_y)):
        draw.rectangle((0, y - step_y * 0.16, TEXTURE[1], y - 2), fill=int(level * 0.92))
        draw.line([(0, y - 2), (TEXTURE[1], y - 2)], fill=int(level * 1.12), width=1)
        for x in range(-step_x, TEXTURE[1] + step_x, step_x):
            left, bottom = x + (row % 2) * step_x // 2, y + step_y * 0.76
            outer = [
                (left, y),
                (left + step_x * 0.7, y),
                (left + step_x * 0.58, bottom),
                (left + step_x * 0.12, bottom),
            ]
            draw.polygon(outer, fill=int(level * 0.22))
            inner = [
                (left + slot, y), (left + step_x * 0.7 - slot, y),
                (left + step_x * 0.58 - slot * 0.7, bottom - slot * 0.8),
                (left + step_x * 0.12 + slot * 0.7, bottom - slot * 0.8),
            ]  # fmt: skip
            draw.polygon(inner, fill=int(level * rng.uniform(0.98, 1.06)))
            draw.line([inner[0], inner[3]], fill=int(level * 1.2), width=1)
    return _worn(image, rng, 3, 2)


def _rubber(rng: np.random.Generator) -> Image.Image:
    """A smooth dark belt with scratches and seams."""
    level = rng.uniform(45, 95)
    image, draw = _canvas(level)
    for _ in range(int(rng.integers(20, 60))):
        x, y = rng.uniform(0, TEXTURE[1]), rng.uniform(0, TEXTURE[0])
        length, tilt = rng.uniform(40, 400), rng.uniform(-0.08, 0.08)
        draw.line([(x, y), (x + length, y + tilt * length)], fill=int(level + rng.uniform(-14, 22)), width=1)
    for x in rng.uniform(0, TEXTURE[1], 3):
        draw.line([(x, 0), (x + 30, TEXTURE[0])], fill=int(level * 0.6), width=3)
    return _worn(image, rng, 6, 4)


def _bricks(rng: np.random.Generator) -> Image.Image:
    """Small links held by pins."""
    level = rng.uniform(80, 140)
    image, draw = _canvas(level)
    step_x, step_y = int(rng.integers(14, 26)), int(rng.integers(10, 18))
    for row, y in enumerate(range(0, TEXTURE[0], step_y)):
        draw.line([(0, y), (TEXTURE[1], y)], fill=int(level * 0.55), width=2)
        for x in range(-step_x, TEXTURE[1], step_x):
            left = x + (row % 2) * step_x // 2
            draw.line([(left, y), (left, y + step_y)], fill=int(level * 0.65), width=1)
            draw.line([(left + 2, y + 2), (left + step_x - 2, y + 2)], fill=int(level * 1.15), width=1)
    return _worn(image, rng, 4, 2)


def _rollers(rng: np.random.Generator) -> Image.Image:
    """Steel rollers across the way, with gaps between them."""
    level, step = rng.uniform(110, 165), int(rng.integers(26, 48))
    x = np.arange(TEXTURE[1]) % step / step
    profile = level * (0.35 + 0.75 * np.sqrt(np.clip(1 - (2.2 * x - 1) ** 2, 0, 1)))
    profile[x > 0.91] = level * 0.2
    image = Image.fromarray(np.broadcast_to(np.clip(profile, 0, 255).astype(np.uint8), TEXTURE).copy())
    return _worn(image, rng, 3, 1)


def _chevrons(rng: np.random.Generator) -> Image.Image:
    """Rubber with raised ribs in arrows."""
    level = rng.uniform(50, 90)
    image, draw = _canvas(level)
    step, half = int(rng.integers(36, 64)), int(rng.integers(60, 120))
    for x in range(-2 * half, TEXTURE[1] + half, step):
        for y in range(0, TEXTURE[0] + half, 2 * half):
            points = [(x, y), (x + half // 2, y + half), (x, y + 2 * half)]
            draw.line([(px + 2, py) for px, py in points], fill=int(level * 0.6), width=5)
            draw.line(points, fill=int(level * 1.35), width=3)
    return _worn(image, rng, 5, 3)


_KINDS: tuple[Callable[[np.random.Generator], Image.Image], ...] = (_plates, _rubber, _bricks, _rollers, _chevrons)
