"""Boxes drawn on a picture, each with its class and score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["draw_boxes"]

MIN_DRAWN = 240
"""Pictures whose longer side is less are enlarged by a whole factor before text is written on them, pixels."""


def draw_boxes(
    image: NDArray[np.uint8],
    boxes: NDArray[np.floating],
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
) -> NDArray[np.uint8]:
    """Return the ``(h, w, 3)`` picture, enlarged when it is tiny, with a named frame for each box ``(n, 4)``.

    The first box is drawn last, on top.
    """
    factor = max(1, -(-MIN_DRAWN // max(image.shape[:2])))
    canvas = Image.fromarray(np.repeat(np.repeat(image, factor, axis=0), factor, axis=1))
    draw = ImageDraw.Draw(canvas)
    size = max(10, min(28, round(min(canvas.size) / 32)))
    font, line = ImageFont.load_default(size), max(2, round(min(canvas.size) / 240))
    for box, name, color in reversed(list(zip(boxes * factor, names, colors, strict=True))):
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=line)
        width, height = round(font.getlength(name)) + 6, size + 4
        left = max(0, min(x1, canvas.width - width))
        top = y1 - height if y1 >= height else min(y1, canvas.height - height)
        draw.rectangle((left, top, left + width, top + height), fill=color)
        ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
        draw.text((left + 3, top + height // 2), name, fill=ink, font=font, anchor="lm")
    return np.array(canvas)
