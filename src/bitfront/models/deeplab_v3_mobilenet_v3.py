"""DeepLabV3 on MobileNetV3-Large with atrous pyramid pooling, as torchvision has it (without its auxiliary head).

Chen et al. (2017), "Rethinking atrous convolution for semantic image segmentation"; Howard et al. (2019), "Searching
for MobileNetV3".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from bitfront.errors import UsageError
from bitfront.models.blocks import ConvBN, check_options, check_size, fits, rename, renamed, upsample
from bitfront.models.deeplab_blocks import (
    CHANNELS,
    OUTPUT_STRIDES,
    AtrousPyramid,
    check_output_stride,
    dilations,
    head_channels,
    pyramid_layers,
)
from bitfront.models.mobilenet_blocks import ALPHAS
from bitfront.models.mobilenet_keys import backbone_v3_options, mobilenet_v3_layers, output_stride_of
from bitfront.models.mobilenet_v3_blocks import MobileNetV3Large

__all__ = ["DeepLabV3MobileNetV3", "DeepLabV3MobileNetV3Module"]

SIZE_MULTIPLE = 32
RATES = (12, 24, 36)
"""Dilations at output stride 16."""
OUR_PARTS = ("backbone.stem.", "backbone.blocks.", "backbone.last.", "pyramid.", "head.", "logits.")
LAYERS: Mapping[str, str] = {
    **mobilenet_v3_layers(),
    **pyramid_layers("classifier.0"),
    "classifier.1": "head.conv",
    "classifier.2": "head.bn",
    "classifier.4": "logits",
}
"""Layer of torchvision's ``deeplabv3_mobilenet_v3_large``, or of its MobileNetV3-Large alone -> ours."""


@dataclass(frozen=True, slots=True)
class DeepLabV3MobileNetV3:
    """The family. ``classes`` is the number of output channels; 11,020,337 parameters with one."""

    classes: int = 1
    channels: int = 3
    width: float = 1.0
    repeats: int = 4
    """At most so many blocks of one width."""
    pyramid: bool = True
    """Three dilated convolutions beside the 1x1 convolution and the image pooling."""
    head_width: float = 1.0
    output_stride: int = 16
    """Size of the image over the size of the backbone's maps: 8, 16 or 32."""

    name: ClassVar[str] = "deeplab_v3_mobilenet_v3"
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "width": ALPHAS[:-1],
        "repeats": (1, 2, 3, 4),
        "pyramid": (False, True),
        "head_width": (0.25, 0.5, 0.75, 1.0),
        "output_stride": OUTPUT_STRIDES,
    }
    size_multiple: ClassVar[int] = SIZE_MULTIPLE

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        check_options(self, ("classes", "channels", "repeats"), ("width", "head_width"))
        check_output_stride(self)

    def build(self) -> DeepLabV3MobileNetV3Module:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return DeepLabV3MobileNetV3Module(self)

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of a state dict with our keys or torchvision's (table ``LAYERS``), or ``None``.

        The output stride leaves no trace in the weights: it is what the file's name says (``os8``), else 16.
        """
        ours = renamed(cls, shapes)
        try:
            options: dict[str, Any] = {
                "classes": ours["logits.weight"][0],
                **backbone_v3_options(ours),
                "pyramid": "pyramid.atrous.0.conv.weight" in ours,
                "head_width": ours["pyramid.local.conv.weight"][0] / CHANNELS,
                "output_stride": output_stride_of(stem),
            }
            model = cls(**options)
        except (KeyError, IndexError, StopIteration, UsageError):
            return None
        return options if fits(model, ours) else None

    @classmethod
    def recognise_backbone(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any] | None:
        """Options that the feature extractor in a state dict (ours, or torchvision's) asks for, or ``None``."""
        ours = renamed(cls, shapes)
        try:
            options = backbone_v3_options(ours)
        except (KeyError, IndexError, StopIteration):
            return None
        return options if fits(cls(**options), ours, ("backbone.",)) else None

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Our key of a torchvision key; our own keys stay; ``None`` for any other."""
        return rename(key, LAYERS, OUR_PARTS)


class DeepLabV3MobileNetV3Module(nn.Module):
    """The network: float32 ``(b, channels, h, w)``, sides multiples of 32 -> logits ``(b, classes, h, w)``."""

    def __init__(self, options: DeepLabV3MobileNetV3) -> None:
        super().__init__()
        self.backbone = MobileNetV3Large(
            options.channels, options.width, repeats=options.repeats, output_stride=options.output_stride
        )
        c = head_channels(options.head_width)
        rates = dilations(RATES, options.output_stride) if options.pyramid else ()
        self.pyramid = AtrousPyramid(self.backbone.channels, c, rates, dropout=0.5)
        self.head = ConvBN(c, c, 3)
        self.logits = nn.Conv2d(c, options.classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits at the size of ``x``. Raises UsageError when a side is no multiple of 32."""
        check_size(x, SIZE_MULTIPLE, DeepLabV3MobileNetV3.name)
        logits = self.logits(self.head(self.pyramid(self.backbone(x))))
        return upsample(logits, x.shape[2], x.shape[3], align_corners=False)
