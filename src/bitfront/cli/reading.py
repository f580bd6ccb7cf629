"""How a model's outputs are read: names of classes, decoders, thresholds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from bitfront.cli.options import whole

__all__ = ["Reading", "share"]


def share(text: str) -> Parameter:
    """Return the parameter of a number between 0 and 1."""

    def convert(_: Any, tokens: Sequence[Any]) -> float:
        plain = tokens[0].value.strip()
        value = float(plain) if re.fullmatch(r"[0-9]*\.?[0-9]+(e-?[0-9]+)?", plain) else math.nan
        if not 0 <= value <= 1:
            raise ValueError(f"'{plain}' is not a number between 0 and 1")
        return value

    return Parameter(help=text, converter=convert)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Reading:
    """How answers are read."""

    labels: Annotated[
        str | None,
        Parameter(
            help="Names of the classes, where model and data have none: coco, voc, a file with a name a line, or a,b,c."
        ),
    ] = None
    decoder: Annotated[
        str | None,
        Parameter(
            help="How another's detector codes boxes, where its outputs' shapes do not say: yolo_v5, yolo_v2, ssd, "
            "decoded or boxes."
        ),
    ] = None
    confidence: Annotated[
        float | None,
        share("Boxes with a score above it are found [default: 0.25 to look at pictures, 0.001 to score]."),
    ] = None
    iou: Annotated[
        float | None,
        share("Boxes of a class that overlap a better one more than this are dropped [default: 0.45; to score, 0.6]."),
    ] = None
    max_boxes: Annotated[int | None, whole("Boxes of an image at most [default: 300].")] = None

    def fill(self) -> dict[str, Any]:
        """Return these options as the verbs take them."""
        return {
            "labels": self.labels or "",
            "decoder": self.decoder or "",
            "confidence": self.confidence,
            "iou": self.iou,
            "max_boxes": self.max_boxes,
        }
