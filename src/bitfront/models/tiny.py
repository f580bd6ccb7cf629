"""A tiny encoder-decoder with every operator that matters to an exporter; it trains in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from bitfront.errors import UsageError
from bitfront.models.blocks import ConvBN, InvertedResidual, Separable, check_size, state_shapes, upsample

__all__ = ["Tiny", "TinyModule"]

SIZE_MULTIPLE = 8


@dataclass(frozen=True, slots=True)
class Tiny:
    """Two to five thousand parameters; ``classes`` is the number of output channels."""

    classes: int = 2
    channels: int = 3
    width: float = 1.0

    name: ClassVar[str] = "tiny"
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {"width": (0.5, 1.0)}
    size_multiple: ClassVar[int] = SIZE_MULTIPLE

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        if self.classes < 1 or self.channels < 1 or not 1 / 8 <= self.width <= 8:
            raise UsageError(f"tiny: classes and channels must be at least 1 and width between 1/8 and 8, not {self}")

    def build(self) -> TinyModule:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return TinyModule(self)

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of one of our state dicts, or ``None``."""
        try:
            first, logits = shapes["stem.conv.weight"], shapes["logits.weight"]
            options: dict[str, Any] = {"classes": logits[0], "channels": first[1], "width": first[0] / 8}
            model = cls(**options)
        except (KeyError, IndexError, UsageError):
            return None
        return options if state_shapes(model) == {k: tuple(v) for k, v in shapes.items()} else None

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Keys are our own."""
        return key


class TinyModule(nn.Module):
    """The network: float32 ``(b, channels, h, w)``, sides multiples of 8 -> logits ``(b, classes, h, w)``."""

    backbone_parts = ("stem", "down", "bottleneck", "deep")

    def __init__(self, options: Tiny) -> None:
        super().__init__()
        c8, c16 = (int(c * options.width) for c in (8, 16))
        self.stem = ConvBN(options.channels, c8, 3, 2)
        self.down = Separable(c8, c16, 2)
        self.bottleneck = InvertedResidual(c16, c16, 1, 2)
        self.deep = Separable(c16, c16, 2)
        self.join = Separable(2 * c16, c16)
        self.logits = nn.Conv2d(c16, options.classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits at the size of ``x``. Raises UsageError when a side is no multiple of 8."""
        check_size(x, SIZE_MULTIPLE, "tiny")
        fine = self.bottleneck(self.down(self.stem(x)))
        coarse = upsample(self.deep(fine), fine.shape[2], fine.shape[3])
        logits = self.logits(self.join(torch.cat([fine, coarse], dim=1)))
        return upsample(logits, x.shape[2], x.shape[3])
