"""YOLOv2 and Tiny-YOLOv2 (Redmon and Farhadi 2017, "YOLO9000: Better, Faster, Stronger"): detectors at stride 32.

YOLOv2 is Darknet-19 (table 6) without its classifier, two 3x3 convolutions, the finer maps of stride 16 brought in
through a passthrough, one more convolution, and a 1x1 convolution that predicts five boxes a cell: 50,962,889
parameters with the 80 classes of COCO. Tiny-YOLOv2 is a plain chain: 15,861,773 with the 20 classes of VOC. Leaky ReLU
with slope 0.1, BatchNorm in all layers but the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from bitfront.anchors import YOLO_V2_COCO, YOLO_V2_STRIDE, YOLO_V2_VOC
from bitfront.contracts import Head
from bitfront.errors import UsageError
from bitfront.models.blocks import check_options, check_size, factors, fits
from bitfront.models.detector_blocks import join_levels
from bitfront.models.mobilenet_blocks import make_divisible

__all__ = ["TinyYoloV2", "TinyYoloV2Module", "YoloV2", "YoloV2Module"]

STRIDE = YOLO_V2_STRIDE
SLOPE = 0.1
BOX = 5
"""Numbers of a place besides its classes: x, y, w, h, objectness."""
GROUPS = ((32,), (64,), (128, 64, 128), (256, 128, 256), (512, 256, 512, 256, 512), (1024, 512, 1024, 512, 1024))
"""Channels of Darknet-19, with a max pooling between the groups; every second layer of a group is 1x1."""
CHAIN = (16, 32, 64, 128, 256, 512, 1024)
"""Channels of the tiny network, with a max pooling behind all but the last."""
DEEP, PASSED = 1024, 64
WIDTHS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class YoloV2:
    """YOLOv2; ``classes`` are those of objects, without a background."""

    classes: int = 80
    channels: int = 3
    width: float = 1.0
    """Factor on the channels."""

    name: ClassVar[str] = "yolo_v2"
    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {"width": WIDTHS}
    size_multiple: ClassVar[int] = STRIDE
    usual_size: ClassVar[tuple[int, int]] = (608, 608)
    usual_preprocess: ClassVar[str] = "unit"
    usual_fit: ClassVar[str] = "letterbox"
    anchors: ClassVar[tuple[tuple[float, float], ...]] = YOLO_V2_COCO
    layers: ClassVar[tuple[int, ...]] = tuple(chain(*GROUPS))
    """Channels of the feature extractor's convolutions."""

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        check_options(self, ("classes", "channels"), ("width",))

    @property
    def head(self) -> Head:
        """How boxes are coded."""
        return Head("yolo_v2", (STRIDE,), (tuple((w * STRIDE, h * STRIDE) for w, h in self.anchors),))

    def build(self) -> nn.Module:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return YoloV2Module(self)

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of one of our state dicts, or ``None``."""
        try:
            options = {**cls._backbone_options(shapes), **cls._head_options(shapes)}
            model = cls(**options)
        except (KeyError, IndexError, StopIteration, UsageError):
            return None
        return options if fits(model, shapes) else None

    @classmethod
    def recognise_backbone(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any] | None:
        """Options that the feature extractor in one of our state dicts asks for, or ``None``."""
        try:
            options = cls._backbone_options(shapes)
            model = cls(**options)
        except (KeyError, IndexError, StopIteration, UsageError):
            return None
        return options if fits(model, shapes, ("backbone.",)) else None

    @classmethod
    def _backbone_options(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        convs = [s for key, s in shapes.items() if key.startswith("backbone.") and key.endswith(".conv.weight")]
        found = [s[0] for s in convs]
        return {"channels": convs[0][1], "width": next(w for w in factors(WIDTHS) if _scaled(cls.layers, w) == found)}

    @classmethod
    def _head_options(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        return {"classes": shapes["predict.weight"][0] // len(cls.anchors) - BOX}

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Keys are our own."""
        return key


@dataclass(frozen=True, slots=True)
class TinyYoloV2(YoloV2):
    """Tiny-YOLOv2 as trained on VOC; with 80 classes and ``head_width`` 0.5 as on COCO."""

    classes: int = 20
    head_width: float = 1.0
    """Factor on the channels of the last 3x3 convolution alone."""

    name: ClassVar[str] = "tiny_yolo_v2"
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {"width": WIDTHS, "head_width": (0.25, 0.5, 1.0)}
    usual_size: ClassVar[tuple[int, int]] = (416, 416)
    anchors: ClassVar[tuple[tuple[float, float], ...]] = YOLO_V2_VOC
    layers: ClassVar[tuple[int, ...]] = CHAIN

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        check_options(self, ("classes", "channels"), ("width", "head_width"))

    def build(self) -> nn.Module:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return TinyYoloV2Module(self)

    @classmethod
    def _head_options(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        width = cls._backbone_options(shapes)["width"]
        last = shapes["last.conv.weight"][0]
        found = next(w for w in factors(cls.knobs["head_width"]) if _scaled([DEEP], width * w) == [last])
        return {"classes": shapes["predict.weight"][0] // len(cls.anchors) - BOX, "head_width": found}


def _scaled(channels: Sequence[int], width: float) -> list[int]:
    return [make_divisible(c * width) for c in channels]


class ConvBNLeaky(nn.Sequential):
    """Convolution without bias, BatchNorm, leaky ReLU; keeps the size."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, 1, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        self.leaky = nn.LeakyReLU(SLOPE)


class Darknet(nn.Module):
    """Darknet-19 without its classifier: ``(b, channels, h, w)`` -> the maps at strides 16 and 32."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        groups, c = [], channels
        for group in GROUPS:
            widths = _scaled(group, width)
            pairs = zip([c, *widths], widths, strict=False)
            groups.append(nn.Sequential(*(ConvBNLeaky(a, b, 1 if i % 2 else 3) for i, (a, b) in enumerate(pairs))))
            c = widths[-1]
        self.groups = nn.ModuleList(groups)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the finer and the coarser maps."""
        fine = x
        for i, group in enumerate(self.groups):
            fine, x = x, group(F.max_pool2d(x, 2) if i else x)
        return fine, x


class YoloV2Module(nn.Module):
    """The network: float32 ``(b, channels, h, w)``, sides multiples of 32 -> raw numbers ``(b, 5 + classes, n)``."""

    imitated_part = "last"

    def __init__(self, options: YoloV2) -> None:
        super().__init__()
        self.name, self.numbers = options.name, BOX + options.classes
        self.backbone = Darknet(options.channels, options.width)
        fine, coarse, deep, passed = _scaled([GROUPS[-2][-1], GROUPS[-1][-1], DEEP, PASSED], options.width)
        self.deep = nn.Sequential(ConvBNLeaky(coarse, deep), ConvBNLeaky(deep, deep))
        self.passed = ConvBNLeaky(fine, passed, 1)
        self.last = ConvBNLeaky(4 * passed + deep, deep)
        self.predict = nn.Conv2d(deep, len(options.anchors) * self.numbers, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the raw numbers of every place. Raises UsageError when a side is no multiple of 32."""
        check_size(x, STRIDE, self.name)
        fine, coarse = self.backbone(x)
        joined = torch.cat([_space_to_depth(self.passed(fine)), self.deep(coarse)], 1)
        return join_levels([self.predict(self.last(joined))], self.numbers)


def _space_to_depth(x: torch.Tensor) -> torch.Tensor:
    """``(b, c, h, w)`` -> ``(b, 4 c, h / 2, w / 2)``: the pixels of every 2x2 block, one behind the other."""
    rows = (x[:, :, 0::2], x[:, :, 1::2])
    return torch.cat([part for row in rows for part in (row[:, :, :, 0::2], row[:, :, :, 1::2])], 1)


class TinyYoloV2Module(nn.Module):
    """The network: float32 ``(b, channels, h, w)``, sides multiples of 32 -> raw numbers ``(b, 5 + classes, n)``."""

    imitated_part = "last"

    def __init__(self, options: TinyYoloV2) -> None:
        super().__init__()
        self.name, self.numbers = options.name, BOX + options.classes
        widths = _scaled(CHAIN, options.width)
        pairs = zip([options.channels, *widths], widths, strict=False)
        self.backbone = nn.ModuleList(ConvBNLeaky(a, b) for a, b in pairs)
        (last,) = _scaled([DEEP], options.width * options.head_width)
        self.last = ConvBNLeaky(widths[-1], last)
        self.predict = nn.Conv2d(last, len(options.anchors) * self.numbers, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the raw numbers of every place. Raises UsageError when a side is no multiple of 32."""
        check_size(x, STRIDE, self.name)
        *first, middle, deep = self.backbone
        for layer in first:
            x = F.max_pool2d(layer(x), 2)
        x = F.max_pool2d(middle(x), 2, 1, 1)[:, :, 1:, 1:]  # a window begins at every pixel and keeps the size
        return join_levels([self.predict(self.last(deep(x)))], self.numbers)
