"""SSD on MobileNetV1 (Liu et al. 2016, "SSD: Single shot multibox detector"; Howard et al. 2017, "MobileNets").

As TensorFlow's ``ssd_mobilenet_v1_coco``: the maps of layers 11 and 13 at strides 16 and 32, four more that halve the
size each, and 1x1 convolutions that predict boxes and classes from all six. 6,819,839 parameters with 90 classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from bitfront.contracts import Head
from bitfront.errors import UsageError
from bitfront.models.blocks import check_options, check_size, factors, fits
from bitfront.models.detector_blocks import join_levels
from bitfront.models.mobilenet_blocks import ConvBN6, Conventions, make_divisible

__all__ = ["SsdMobileNetV1", "SsdMobileNetV1Module", "anchors"]

RULES = Conventions(padding="even", momentum=0.9)
STEM = 32
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
"""Channels and stride of each separable convolution (Howard et al. 2017, table 1)."""
TAPPED = 10
"""Position of the block whose maps are the first level; those of the last block are the second."""
EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 128))
"""Channels of the 1x1 and of the 3x3 convolution of each further level."""
STRIDES = (16, 32, 64, 128, 256, 512)
SMALLEST, LARGEST = 0.2, 0.95
RATIOS = (1.0, 2.0, 1 / 2, 3.0, 1 / 3)
FIRST = ((0.1, 1.0), (0.2, 2.0), (0.2, 1 / 2))
"""Size and aspect ratio of the anchors of the first level."""
COORDINATES = 4


def anchors() -> tuple[tuple[tuple[float, float], ...], ...]:
    """Return width and height of each level's anchors as shares of the image (Liu et al. 2016, section 2.2)."""
    n = len(STRIDES)
    sizes = [SMALLEST + (LARGEST - SMALLEST) * k / (n - 1) for k in range(n)] + [1.0]
    levels: list[tuple[tuple[float, float], ...]] = [FIRST]
    for k in range(1, n):
        levels.append((*((sizes[k], ratio) for ratio in RATIOS), (math.sqrt(sizes[k] * sizes[k + 1]), 1.0)))
    return tuple(tuple((s * math.sqrt(r), s / math.sqrt(r)) for s, r in level) for level in levels)


@dataclass(frozen=True, slots=True)
class SsdMobileNetV1:
    """The family; ``classes`` are those of objects, the background comes on top."""

    classes: int = 90
    channels: int = 3
    width: float = 1.0
    """Factor on the channels."""

    name: ClassVar[str] = "ssd_mobilenet_v1"
    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {"width": (0.25, 0.5, 0.75, 1.0)}
    size_multiple: ClassVar[int] = 4
    usual_size: ClassVar[tuple[int, int]] = (300, 300)
    usual_preprocess: ClassVar[str] = "signed"
    usual_fit: ClassVar[str] = "stretch"

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        check_options(self, ("classes", "channels"), ("width",))

    @property
    def head(self) -> Head:
        """How boxes are coded."""
        return Head("ssd", STRIDES, anchors())

    def build(self) -> SsdMobileNetV1Module:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return SsdMobileNetV1Module(self)

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of one of our state dicts, or ``None``."""
        try:
            options = {"classes": shapes["label.0.weight"][0] // len(FIRST) - 1, **_backbone_options(shapes)}
            model = cls(**options)
        except (KeyError, IndexError, StopIteration, UsageError):
            return None
        return options if fits(model, shapes) else None

    @classmethod
    def recognise_backbone(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any] | None:
        """Options that the feature extractor in one of our state dicts asks for, or ``None``."""
        try:
            options = _backbone_options(shapes)
            model = cls(**options)
        except (KeyError, IndexError, StopIteration, UsageError):
            return None
        return options if fits(model, shapes, ("backbone.",)) else None

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Keys are our own."""
        return key


def _backbone_options(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    first = shapes["backbone.stem.conv.weight"]
    found = [shapes[f"backbone.blocks.{i}.pointwise.conv.weight"][0] for i in range(len(BLOCKS))]
    width = next(w for w in factors((0.25, 0.5, 0.75, 1.0)) if _scaled([c for c, _ in BLOCKS], w) == found)
    return {"channels": first[1], "width": width}


def _scaled(channels: Sequence[int], width: float) -> list[int]:
    return [make_divisible(c * width) for c in channels]


class Separable6(nn.Sequential):
    """Depthwise 3x3 and pointwise convolution, each with BatchNorm and ReLU6."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvBN6(c_in, c_in, 3, stride, groups=c_in, rules=RULES)
        self.pointwise = ConvBN6(c_in, c_out, rules=RULES)


class Backbone(nn.Module):
    """MobileNetV1 without its classifier: ``(b, channels, h, w)`` -> the maps at strides 16 and 32."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        (c,) = _scaled([STEM], width)
        self.stem = ConvBN6(channels, c, 3, 2, rules=RULES)
        widths = _scaled([c for c, _ in BLOCKS], width)
        pairs = zip([c, *widths], widths, BLOCKS, strict=False)
        self.blocks = nn.ModuleList(Separable6(c_in, c_out, stride) for c_in, c_out, (_, stride) in pairs)
        self.channels = (widths[TAPPED], widths[-1])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps, the finer first."""
        x, maps = self.stem(x), []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return [maps[TAPPED], maps[-1]]


class SsdMobileNetV1Module(nn.Module):
    """The network: float32 ``(b, channels, h, w)`` -> raw numbers ``(b, 4 + 1 + classes, n)``."""

    def __init__(self, options: SsdMobileNetV1) -> None:
        super().__init__()
        self.classes = 1 + options.classes
        self.backbone = Backbone(options.channels, options.width)
        widths, extras = list(self.backbone.channels), []
        for pair in EXTRAS:
            narrow, wide = _scaled(pair, options.width)
            extras.append(
                nn.Sequential(ConvBN6(widths[-1], narrow, rules=RULES), ConvBN6(narrow, wide, 3, 2, rules=RULES))
            )
            widths.append(wide)
        self.extras = nn.ModuleList(extras)
        counts = [len(level) for level in anchors()]
        self.box = nn.ModuleList(nn.Conv2d(c, n * COORDINATES, 1) for c, n in zip(widths, counts, strict=True))
        self.label = nn.ModuleList(nn.Conv2d(c, n * self.classes, 1) for c, n in zip(widths, counts, strict=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the raw numbers of every place. Raises UsageError when a side is no multiple of 4."""
        check_size(x, SsdMobileNetV1.size_multiple, SsdMobileNetV1.name)
        maps = self.backbone(x)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        boxes = join_levels([conv(y) for conv, y in zip(self.box, maps, strict=True)], COORDINATES)
        labels = join_levels([conv(y) for conv, y in zip(self.label, maps, strict=True)], self.classes)
        return torch.cat([boxes, labels], 1)
