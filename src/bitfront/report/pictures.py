"""Pictures of images on the page: what the networks see, shrunk and encoded again."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

from bitfront.report.data import Preview

__all__ = ["MAX_PREVIEW_BYTES", "preview_views"]

MAX_PREVIEW_BYTES = 4_000_000
"""All pictures of a page together, encoded."""
MAX_PANELS = 10
"""Pictures of one sample."""


def preview_views(previews: Iterable[Preview]) -> list[dict[str, Any]]:
    """Samples with their pictures as data URLs; those that would make the page too large are left out."""
    shown: list[dict[str, Any]] = []
    total = 0
    for preview in previews:
        pictures = [(name, _jpeg(panel)) for name, panel in list(preview.panels.items())[:MAX_PANELS]]
        panels = [(name, picture) for name, picture in pictures if picture]
        total += sum(len(picture) for _, picture in panels)
        if total > MAX_PREVIEW_BYTES:
            break
        sources = [{"name": n, "src": f"data:image/jpeg;base64,{base64.b64encode(p).decode()}"} for n, p in panels]
        shown.append({"sample": preview.sample, "note": preview.note, "panels": sources})
    return shown


def _jpeg(data: bytes, side: int = 384) -> bytes:
    """Decode, shrink and encode again, so that only pixels reach the page; empty when it is no picture."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            small = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return b""
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=82, optimize=True)
    return out.getvalue()
