"""DeepLabV3+ on MobileNetV2: atrous pyramid pooling, and a decoder that takes in the maps of 1/4 of the size.

Chen et al. (2018), "Encoder-decoder with atrous separable convolution for semantic image segmentation", with full
convolutions in head and decoder, as in the published PyTorch checkpoints. Those pad a block's input, not its expanded
maps, and the image not at all: ``pads_input`` does as they do, and is set when such a file is recognised.
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
from bitfront.models.mobilenet_blocks import ALPHAS, TORCH, Backbone
from bitfront.models.mobilenet_keys import backbone_options, mobilenet_v2_layers, output_stride_of

__all__ = ["DeepLabV3PlusMobileNetV2", "DeepLabV3PlusMobileNetV2Module"]

SIZE_MULTIPLE = 32
RATES = (6, 12, 18)
"""Dilations at output stride 16."""
LOW = 3 / 16
"""Channels that the decoder takes from the maps of 1/4, as a share of the head's."""
OUR_PARTS = ("backbone.stem.", "backbone.blocks.", "pyramid.", "decoder.")
LAYERS: Mapping[str, str] = {
    **mobilenet_v2_layers(),
    **pyramid_layers("classifier.aspp"),
    "classifier.project.0": "decoder.low.conv",
    "classifier.project.1": "decoder.low.bn",
    "classifier.classifier.0": "decoder.join.conv",
    "classifier.classifier.1": "decoder.join.bn",
    "classifier.classifier.3": "decoder.logits",
}
"""Layer of a published PyTorch checkpoint, or of torchvision's MobileNetV2 -> ours."""


@dataclass(frozen=True, slots=True)
class DeepLabV3PlusMobileNetV2:
    """The family. ``classes`` is the number of output channels; 5,225,717 parameters with 21."""

    classes: int = 21
    channels: int = 3
    width: float = 1.0
    expansion: int = 6
    repeats: int = 4
    """At most so many blocks of one width."""
    pyramid: bool = True
    """Three dilated convolutions beside the 1x1 convolution and the image pooling."""
    head_width: float = 1.0
    output_stride: int = 16
    """Size of the image over the size of the backbone's last maps: 8, 16 or 32."""
    pads_input: bool = False

    name: ClassVar[str] = "deeplab_v3plus_mobilenet_v2"
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "width": ALPHAS[:-1],
        "expansion": (2, 4, 6),
        "repeats": (1, 2, 3, 4),
        "pyramid": (False, True),
        "head_width": (0.25, 0.5, 0.75, 1.0),
        "output_stride": OUTPUT_STRIDES,
    }
    size_multiple: ClassVar[int] = SIZE_MULTIPLE

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        check_options(self, ("classes", "channels", "expansion", "repeats"), ("width", "head_width"))
        check_output_stride(self)

    def build(self) -> DeepLabV3PlusMobileNetV2Module:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return DeepLabV3PlusMobileNetV2Module(self)

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of a state dict with our keys or the published ones (table ``LAYERS``), or ``None``.

        The output stride leaves no trace in the weights: it is what the file's name says (``os8``), else 16.
        """
        ours = renamed(cls, shapes)
        try:
            options: dict[str, Any] = {
                "classes": ours["decoder.logits.weight"][0],
                **backbone_options(ours),
                "pyramid": "pyramid.atrous.0.conv.weight" in ours,
                "head_width": ours["pyramid.local.conv.weight"][0] / CHANNELS,
                "output_stride": output_stride_of(stem),
                "pads_input": any("low_level_features" in key for key in shapes),
            }
            model = cls(**options)
        except (KeyError, IndexError, ZeroDivisionError, StopIteration, UsageError):
            return None
        return options if fits(model, ours) else None

    @classmethod
    def recognise_backbone(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any] | None:
        """Options that the feature extractor in a state dict (ours, or torchvision's MobileNetV2) asks for."""
        ours = renamed(cls, shapes)
        try:
            options = backbone_options(ours)
        except (KeyError, IndexError, ZeroDivisionError, StopIteration):
            return None
        return options if fits(cls(**options), ours, ("backbone.",)) else None

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Our key of a published state dict's key; our own keys stay; ``None`` for any other."""
        return rename(key, LAYERS, OUR_PARTS)


class DeepLabV3PlusMobileNetV2Module(nn.Module):
    """The network: float32 ``(b, channels, h, w)``, sides multiples of 32 -> logits ``(b, classes, h, w)``."""

    imitated_part = "pyramid"

    def __init__(self, options: DeepLabV3PlusMobileNetV2) -> None:
        super().__init__()
        self.backbone = Backbone(
            options.channels,
            options.width,
            options.expansion,
            TORCH._replace(padding="input") if options.pads_input else TORCH,
            repeats=options.repeats,
            output_stride=options.output_stride,
        )
        c = head_channels(options.head_width)
        rates = dilations(RATES, options.output_stride) if options.pyramid else ()
        self.pyramid = AtrousPyramid(self.backbone.channels, c, rates)
        self.decoder = Decoder(self.backbone.low_channels, c, options.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits at the size of ``x``. Raises UsageError when a side is no multiple of 32."""
        check_size(x, SIZE_MULTIPLE, DeepLabV3PlusMobileNetV2.name)
        maps = self.backbone.taps(x)["block"]
        logits = self.decoder(maps[1], self.pyramid(maps[-1]))
        return upsample(logits, x.shape[2], x.shape[3], align_corners=False)


class Decoder(nn.Module):
    """Join the head's maps with finer ones."""

    def __init__(self, c_low: int, c: int, classes: int) -> None:
        super().__init__()
        low = max(1, int(c * LOW))
        self.low = ConvBN(c_low, low)
        self.join = ConvBN(low + c, c, 3)
        self.logits = nn.Conv2d(c, classes, 1)

    def forward(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Maps of 1/4 and of the output stride -> logits of 1/4."""
        low = self.low(low)
        high = upsample(high, low.shape[2], low.shape[3], align_corners=False)
        logits: torch.Tensor = self.logits(self.join(torch.cat([low, high], dim=1)))
        return logits
