"""The classifier of thesis 002 for MNIST: one 3x3 convolution with 12 filters, 2x2 max pooling, one dense layer.

28x28 images with one channel of pixels in [0, 1]; 20,410 parameters and 93,288 multiply-accumulates with 10 classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from bitfront.errors import UsageError
from bitfront.models.blocks import check_options, fits
from bitfront.models.mobilenet_blocks import initialise

__all__ = ["MnistCnn", "MnistCnnModule"]

SIZE = (28, 28)
FILTERS = 12
POOLED = 13
"""Height and width of the maps that are flattened."""


@dataclass(frozen=True, slots=True)
class MnistCnn:
    """The family; ``width`` multiplies the filters."""

    classes: int = 10
    channels: int = 1
    width: float = 1.0

    name: ClassVar[str] = "mnist_cnn"
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {"width": (0.25, 0.5, 1.0, 2.0)}
    size_multiple: ClassVar[int] = 28
    usual_size: ClassVar[tuple[int, int]] = SIZE
    any_size: ClassVar[bool] = False
    usual_preprocess: ClassVar[str] = "unit"

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        check_options(self, ("classes", "channels"), ("width",))

    @property
    def filters(self) -> int:
        """Filters of the convolution."""
        return max(1, round(FILTERS * self.width))

    def build(self) -> MnistCnnModule:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return MnistCnnModule(self)

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of one of our state dicts, or ``None``."""
        try:
            first, logits = shapes["conv.weight"], shapes["logits.weight"]
            options: dict[str, Any] = {"classes": logits[0], "channels": first[1], "width": first[0] / FILTERS}
            model = cls(**options)
        except (KeyError, IndexError, UsageError):
            return None
        return options if fits(model, shapes) else None

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Keys are our own."""
        return key


class MnistCnnModule(nn.Module):
    """The network: float32 ``(b, channels, 28, 28)`` -> logits ``(b, classes)``."""

    backbone_parts = ("conv",)

    def __init__(self, options: MnistCnn) -> None:
        super().__init__()
        self.conv = nn.Conv2d(options.channels, options.filters, 3)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.logits = nn.Linear(options.filters * POOLED**2, options.classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits. Raises UsageError for images of another size."""
        if tuple(x.shape[2:]) != SIZE:
            raise UsageError(f"{MnistCnn.name} takes images of 28 x 28 pixels, not {x.shape[2]} x {x.shape[3]}")
        logits: torch.Tensor = self.logits(self.pool(self.relu(self.conv(x))).flatten(1))
        return logits
