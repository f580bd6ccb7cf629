"""MobileNetV2, the image classifier (Sandler et al. 2018, table 2): bottlenecks, 1280 channels, mean, dense layer.

3,504,872 parameters with 1000 classes, as torchvision has it: zeros on all sides, BatchNorm's epsilon 1e-5, dropout
before the dense layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from bitfront.errors import UsageError
from bitfront.models.blocks import check_options, check_size, fits, rename, renamed
from bitfront.models.mobilenet_blocks import ALPHAS, TORCH, Backbone, ConvBN6, make_divisible
from bitfront.models.mobilenet_keys import backbone_options, mobilenet_v2_layers

__all__ = ["MobileNetV2", "MobileNetV2Module"]

SIZE_MULTIPLE = 32
LAST = 1280
DROPOUT = 0.2
OUR_PARTS = ("backbone.", "last.", "logits.")
HEAD_LAYERS = {"features.18.0": "last.conv", "features.18.1": "last.bn", "classifier.1": "logits"}
"""torchvision's layer -> ours, behind the last bottleneck."""


@dataclass(frozen=True, slots=True)
class MobileNetV2:
    """The family; ``width`` multiplies the channels, the last 1280 only above 1."""

    classes: int = 1000
    channels: int = 3
    width: float = 1.0
    expansion: int = 6
    repeats: int = 4
    """At most so many blocks of one width."""

    name: ClassVar[str] = "mobilenet_v2"
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "width": ALPHAS[:-1],
        "expansion": (2, 4, 6),
        "repeats": (1, 2, 3, 4),
    }
    size_multiple: ClassVar[int] = SIZE_MULTIPLE
    usual_size: ClassVar[tuple[int, int]] = (224, 224)

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        check_options(self, ("classes", "channels", "expansion", "repeats"), ("width",))

    def build(self) -> MobileNetV2Module:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return MobileNetV2Module(self)

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of a state dict with our keys or torchvision's, or ``None``."""
        ours = renamed(cls, shapes)
        try:
            options: dict[str, Any] = {"classes": ours["logits.weight"][0], **backbone_options(ours)}
            model = cls(**options)
        except (KeyError, IndexError, ZeroDivisionError, StopIteration, UsageError):
            return None
        return options if fits(model, ours) else None

    @classmethod
    def recognise_backbone(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any] | None:
        """Options that the feature extractor in a state dict (ours, or torchvision's) asks for, or ``None``."""
        ours = renamed(cls, shapes)
        try:
            options = backbone_options(ours)
        except (KeyError, IndexError, ZeroDivisionError, StopIteration):
            return None
        return options if fits(cls(**options), ours, ("backbone.",)) else None

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Our key of torchvision's; our own keys stay; ``None`` for any other."""
        return rename(key, {**mobilenet_v2_layers(), **HEAD_LAYERS}, OUR_PARTS)


class MobileNetV2Module(nn.Module):
    """The network: float32 ``(b, channels, h, w)``, sides multiples of 32 -> logits ``(b, classes)``."""

    def __init__(self, options: MobileNetV2) -> None:
        super().__init__()
        self.backbone = Backbone(options.channels, options.width, options.expansion, TORCH, repeats=options.repeats)
        c = make_divisible(LAST * max(1.0, options.width))
        self.last = ConvBN6(self.backbone.channels, c, rules=TORCH)
        self.dropout = nn.Dropout(DROPOUT)
        self.logits = nn.Linear(c, options.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits. Raises UsageError when a side is no multiple of 32."""
        check_size(x, SIZE_MULTIPLE, MobileNetV2.name)
        pooled = nn.functional.adaptive_avg_pool2d(self.last(self.backbone(x)), 1).flatten(1)
        logits: torch.Tensor = self.logits(self.dropout(pooled))
        return logits
