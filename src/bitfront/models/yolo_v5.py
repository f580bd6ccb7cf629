"""YOLOv5 in its sizes n, s, m and l (Jocher et al. 2020, release 6): one-stage detectors at strides 8, 16 and 32.

The feature extractor stacks cross-stage partial blocks (Wang et al. 2020, "CSPNet") and ends in spatial pyramid pooling
(He et al. 2015); a path aggregation network (Liu et al. 2018) joins its last three maps, coarse to fine and back, and a
1x1 convolution per level predicts three boxes a cell. With 80 classes the sizes have 1,872,157, 7,235,389, 21,190,557
and 46,563,709 parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from bitfront.contracts import Head
from bitfront.errors import UsageError
from bitfront.models.blocks import check_options, check_size, factors, fits, renamed
from bitfront.models.detector_blocks import join_levels

__all__ = ["YoloV5Module", "YoloV5l", "YoloV5m", "YoloV5n", "YoloV5s"]

SIZE_MULTIPLE = 32
EPSILON = 1e-3
MOMENTUM = 0.97
"""Share of the running statistics that a training step keeps."""
STEM = 64
STAGES = ((128, 3), (256, 6), (512, 9), (1024, 3))
"""Channels and blocks of each stage at width and depth 1; each halves the size."""
NECK_BLOCKS = 3
BOX = 5
"""Numbers of a place besides its classes: x, y, w, h, objectness."""
STRIDES = (8, 16, 32)
ANCHORS = (
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)
EXPECTED_OBJECTS, EXPECTED_SIZE = 8, 640
"""Fresh weights expect so many objects in an image of this size."""
OUR_PARTS = ("backbone.", "neck.", "predict.")
LAYERS = {
    "0": "backbone.stem",
    **{f"{2 * i + 1}": f"backbone.stages.{i}.down" for i in range(4)},
    **{f"{2 * i + 2}": f"backbone.stages.{i}.partial" for i in range(4)},
    "9.cv1": "backbone.pool.enter",
    "9.cv2": "backbone.pool.join",
    "10": "neck.reduce_coarse",
    "13": "neck.middle_down",
    "14": "neck.reduce_middle",
    "17": "neck.fine",
    "18": "neck.halve_fine",
    "20": "neck.middle_up",
    "21": "neck.halve_middle",
    "23": "neck.coarse",
    "24.m": "predict",
}
"""Published number of a layer -> ours."""
INNER = (
    (r"\.m\.(\d+)\.cv1\.", r".blocks.\1.narrow."),
    (r"\.m\.(\d+)\.cv2\.", r".blocks.\1.widen."),
    (r"\.cv1\.", ".enter."),
    (r"\.cv2\.", ".bypass."),
    (r"\.cv3\.", ".join."),
)
"""The same inside a layer."""


def _channels(channels: int, width: float) -> int:
    return math.ceil(channels * width / 8) * 8


def _blocks(blocks: int, depth: float) -> int:
    return max(round(blocks * depth), 1)


@dataclass(frozen=True, slots=True)
class YoloV5n:
    """YOLOv5n; ``classes`` are those of objects, without a background."""

    classes: int = 80
    channels: int = 3
    width: float = 0.25
    """Factor on the channels, at most that of the size's name."""
    depth: float = 0.33
    """Factor on the number of blocks."""

    name: ClassVar[str] = "yolo_v5n"
    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {"width": (0.125, 0.1875, 0.25), "depth": (0.11, 0.2, 0.33)}
    size_multiple: ClassVar[int] = SIZE_MULTIPLE
    usual_size: ClassVar[tuple[int, int]] = (640, 640)
    usual_preprocess: ClassVar[str] = "unit"
    usual_fit: ClassVar[str] = "letterbox"
    usual_resize: ClassVar[str] = "bilinear_plain"
    """As the published networks were trained."""
    widths: ClassVar[tuple[float, float]] = (0.0, 0.25)
    """Above the first, up to the second: no network belongs to two sizes."""

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        check_options(self, ("classes", "channels"), ("width", "depth"))
        low, high = self.widths
        if not low < self.width <= high:
            raise UsageError(
                f"{self.name}: width must lie above {low:g} and at most at {high:g}, not {self.width:g}",
                hint="the other sizes, yolo_v5n to yolo_v5l, have the other widths",
            )

    @property
    def head(self) -> Head:
        """How boxes are coded."""
        return Head("yolo_v5", STRIDES, ANCHORS)

    def build(self) -> YoloV5Module:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return YoloV5Module(self)

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of a state dict with our keys or the published ones, or ``None``."""
        ours = renamed(cls, shapes)
        try:
            outputs = ours["predict.0.weight"][0]
        except (KeyError, IndexError):
            return None
        return cls._fitting(ours, (), {"classes": outputs // len(ANCHORS[0]) - BOX})

    @classmethod
    def recognise_backbone(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any] | None:
        """Options that the feature extractor in a state dict (ours, or published) asks for, or ``None``."""
        return cls._fitting(renamed(cls, shapes), ("backbone.",), {})

    @classmethod
    def _fitting(
        cls, ours: Mapping[str, tuple[int, ...]], parts: tuple[str, ...], options: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        try:
            last = ours["backbone.pool.join.conv.weight"][0]
            found = {**options, "channels": ours["backbone.stem.conv.weight"][1], "width": last / STAGES[-1][0]}
            model = cls(**{**found, "depth": _depth(ours, cls.knobs["depth"])})
        except (KeyError, IndexError, StopIteration, UsageError):
            return None
        return {**found, "depth": model.depth} if fits(model, ours, parts) else None

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Our key of a published one; our own keys stay; ``None`` for any other."""
        if key.startswith(OUR_PARTS):
            return key
        published = re.match(r"(?:module\.)?model\.(\d+(?:\.cv\d|\.m)?)(?=\.)", key)
        if published is None:
            return None
        layer, rest = published[1], key[published.end() :]
        if layer not in LAYERS:
            layer, _, first = layer.partition(".")
            rest = f".{first}{rest}"
        if layer not in LAYERS:
            return None
        for theirs, ours in INNER:
            rest = re.sub(theirs, ours, rest)
        return LAYERS[layer] + rest


def _depth(ours: Mapping[str, tuple[int, ...]], usual: Sequence[float]) -> float:
    """Return the first depth that gives these numbers of blocks. Raises StopIteration."""
    stages = [f"backbone.stages.{i}.partial.blocks." for i in range(len(STAGES))]
    found = [len({k[len(s) :].partition(".")[0] for k in ours if k.startswith(s)}) for s in stages]
    return next(d for d in factors(usual) if [_blocks(n, d) for _, n in STAGES] == found)


@dataclass(frozen=True, slots=True)
class YoloV5s(YoloV5n):
    """YOLOv5s."""

    width: float = 0.5

    name: ClassVar[str] = "yolo_v5s"
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {"width": (0.3125, 0.375, 0.5), "depth": (0.11, 0.2, 0.33)}
    widths: ClassVar[tuple[float, float]] = (0.25, 0.5)


@dataclass(frozen=True, slots=True)
class YoloV5m(YoloV5n):
    """YOLOv5m."""

    width: float = 0.75
    depth: float = 0.67

    name: ClassVar[str] = "yolo_v5m"
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {"width": (0.625, 0.75), "depth": (0.2, 0.33, 0.67)}
    widths: ClassVar[tuple[float, float]] = (0.5, 0.75)


@dataclass(frozen=True, slots=True)
class YoloV5l(YoloV5n):
    """YOLOv5l."""

    width: float = 1.0
    depth: float = 1.0

    name: ClassVar[str] = "yolo_v5l"
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {"width": (0.875, 1.0), "depth": (0.33, 0.67, 1.0)}
    widths: ClassVar[tuple[float, float]] = (0.75, 8.0)


class ConvBNSiLU(nn.Sequential):
    """Convolution without bias, BatchNorm, SiLU (Elfwing et al. 2018); ``size / stride``."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, pad: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2 if pad is None else pad, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=EPSILON, momentum=1 - MOMENTUM)
        self.act = nn.SiLU()


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3 convolution, added to their input if ``skip``."""

    def __init__(self, c: int, *, skip: bool) -> None:
        super().__init__()
        self.narrow = ConvBNSiLU(c, c)
        self.widen = ConvBNSiLU(c, c, 3)
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape."""
        y: torch.Tensor = self.widen(self.narrow(x))
        return x + y if self.skip else y


class Partial(nn.Module):
    """Cross-stage partial block with three convolutions: one half of the channels goes through the bottlenecks."""

    def __init__(self, c_in: int, c_out: int, blocks: int, *, skip: bool = True) -> None:
        super().__init__()
        half = c_out // 2
        self.enter = ConvBNSiLU(c_in, half)
        self.bypass = ConvBNSiLU(c_in, half)
        self.blocks = nn.Sequential(*(Bottleneck(half, skip=skip) for _ in range(blocks)))
        self.join = ConvBNSiLU(2 * half, c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c_in, h, w)`` -> ``(b, c_out, h, w)``."""
        joined: torch.Tensor = self.join(torch.cat([self.blocks(self.enter(x)), self.bypass(x)], 1))
        return joined


class PyramidPool(nn.Module):
    """Spatial pyramid pooling: maxima over windows of 5, 9 and 13, each taken from the one before."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.enter = ConvBNSiLU(c, c // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.join = ConvBNSiLU(4 * (c // 2), c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape."""
        maps = [self.enter(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        joined: torch.Tensor = self.join(torch.cat(maps, 1))
        return joined


class Stage(nn.Module):
    """Halve the size, then a partial block."""

    def __init__(self, c_in: int, c_out: int, blocks: int) -> None:
        super().__init__()
        self.down = ConvBNSiLU(c_in, c_out, 3, 2)
        self.partial = Partial(c_out, c_out, blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c_in, h, w)`` -> ``(b, c_out, h / 2, w / 2)``."""
        y: torch.Tensor = self.partial(self.down(x))
        return y


class Backbone(nn.Module):
    """``(b, channels, h, w)`` -> the maps at strides 8, 16 and 32."""

    def __init__(self, channels: int, width: float, depth: float) -> None:
        super().__init__()
        c = _channels(STEM, width)
        self.stem = ConvBNSiLU(channels, c, 6, 2, 2)
        stages = []
        for wide, blocks in STAGES:
            c_in, c = c, _channels(wide, width)
            stages.append(Stage(c_in, c, _blocks(blocks, depth)))
        self.stages = nn.ModuleList(stages)
        self.pool = PyramidPool(c)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps, the finest first."""
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [*maps[1:-1], self.pool(x)]


class Neck(nn.Module):
    """Path aggregation: what the coarse maps know goes to the fine ones, and back."""

    def __init__(self, channels: tuple[int, int, int], blocks: int) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.reduce_coarse = ConvBNSiLU(coarse, middle)
        self.middle_down = Partial(2 * middle, middle, blocks, skip=False)
        self.reduce_middle = ConvBNSiLU(middle, fine)
        self.fine = Partial(2 * fine, fine, blocks, skip=False)
        self.halve_fine = ConvBNSiLU(fine, fine, 3, 2)
        self.middle_up = Partial(2 * fine, middle, blocks, skip=False)
        self.halve_middle = ConvBNSiLU(middle, middle, 3, 2)
        self.coarse = Partial(2 * middle, coarse, blocks, skip=False)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return maps of the same shapes."""
        fine, middle, coarse = maps
        coarse = self.reduce_coarse(coarse)
        middle = self.reduce_middle(self.middle_down(torch.cat([_double(coarse), middle], 1)))
        fine = self.fine(torch.cat([_double(middle), fine], 1))
        middle = self.middle_up(torch.cat([self.halve_fine(fine), middle], 1))
        return [fine, middle, self.coarse(torch.cat([self.halve_middle(middle), coarse], 1))]


def _double(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class YoloV5Module(nn.Module):
    """The network: float32 ``(b, channels, h, w)``, sides multiples of 32 -> raw numbers ``(b, 5 + classes, n)``."""

    imitated_part = "neck.fine:in"
    """What a student learns of its teacher (:mod:`bitfront.train.imitation`): the joined maps at stride 8."""

    def __init__(self, options: YoloV5n) -> None:
        super().__init__()
        self.name, self.numbers = options.name, BOX + options.classes
        self.backbone = Backbone(options.channels, options.width, options.depth)
        widths = [_channels(c, options.width) for c, _ in STAGES[1:]]
        self.neck = Neck((widths[0], widths[1], widths[2]), _blocks(NECK_BLOCKS, options.depth))
        self.predict = nn.ModuleList(nn.Conv2d(c, len(ANCHORS[0]) * self.numbers, 1) for c in widths)
        self._expect_little(options.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the raw numbers of every place. Raises UsageError when a side is no multiple of 32."""
        check_size(x, SIZE_MULTIPLE, self.name)
        maps = self.neck(self.backbone(x))
        return join_levels([conv(y) for conv, y in zip(self.predict, maps, strict=True)], self.numbers)

    def _expect_little(self, classes: int) -> None:
        """Begin with few objects: a bias of the objectness by the cells of the level, one of each class."""
        for conv, stride in zip(self.predict, STRIDES, strict=True):
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            bias = conv.bias.data.view(-1, self.numbers)
            bias[:, BOX - 1] += math.log(EXPECTED_OBJECTS / (EXPECTED_SIZE / stride) ** 2)
            bias[:, BOX:] += math.log(0.6 / (classes - 0.99999))
