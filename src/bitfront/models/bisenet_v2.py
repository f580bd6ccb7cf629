"""BiSeNetV2: Yu et al. (2021), "BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Segmentation".

A detail branch with wide shallow layers (to 1/8), a semantic branch with narrow deep ones (to 1/32, ending in a context
embedding), their guided aggregation at 1/8, and a head. It differs from the paper as the published PyTorch checkpoints
do: ReLU behind the second half of every gather-and-expansion layer, and behind the convolution of the aggregation.

While training, four auxiliary heads read the semantic branch at 1/4, 1/8, 1/16 and 1/32 ("booster training"); they are
no part of what is captured, counted or exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from bitfront.errors import UsageError
from bitfront.models.blocks import ConvBN, PooledNorm, check_options, check_size, fits, rename, renamed, upsample

__all__ = ["BiSeNetV2", "BiSeNetV2Module"]

SIZE_MULTIPLE = 32
HEAD = 1024
DEPTHS = (1, 1, 3)
"""Layers that keep the size, behind the one that halves it, in the stages of the semantic branch."""


@dataclass(frozen=True, slots=True)
class BiSeNetV2:
    """The family. ``classes`` is the number of output channels; 3,340,177 parameters with one."""

    classes: int = 1
    channels: int = 3
    width: float = 1.0
    expansion: int = 6
    repeats: int = 3
    """At most so many layers of a stage of the semantic branch keep the size."""
    context: bool = True
    """Context embedding at the end of the semantic branch."""
    head_width: float = 1.0
    auxiliary: bool = True
    """Four more heads while training."""

    name: ClassVar[str] = "bisenet_v2"
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "width": (0.25, 0.5, 0.75, 1.0),
        "expansion": (2, 4, 6),
        "repeats": (1, 2, 3),
        "context": (False, True),
        "head_width": (0.125, 0.25, 0.5, 1.0),
    }
    size_multiple: ClassVar[int] = SIZE_MULTIPLE

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        check_options(self, ("classes", "channels", "expansion", "repeats"), ("width", "head_width"))
        if self.width < 1 / 8:
            raise UsageError(f"{self.name}: width must be at least 1/8, not {self.width}")

    def build(self) -> BiSeNetV2Module:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return BiSeNetV2Module(self)

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of a state dict with our keys or the published ones (table ``LAYERS``), or ``None``."""
        ours = renamed(cls, shapes)
        try:
            head = ours["head.conv.conv.weight"]
            options = {
                "classes": ours["head.logits.weight"][0],
                **_branch_options(ours),
                "head_width": head[0] / (head[1] * HEAD // 128),
                "auxiliary": "auxiliary.0.logits.weight" in ours,
            }
            model = cls(**options)
        except (KeyError, IndexError, ZeroDivisionError, UsageError):
            return None
        return options if fits(model, ours) else None

    @classmethod
    def recognise_backbone(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any] | None:
        """Options that the two branches in a state dict (ours or published) ask for, or ``None``."""
        ours = renamed(cls, shapes)
        try:
            options = _branch_options(ours)
            model = cls(**options)
        except (KeyError, IndexError, ZeroDivisionError, UsageError):
            return None
        return options if fits(model, ours, tuple(f"{part}." for part in BiSeNetV2Module.backbone_parts)) else None

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Our key of a published state dict's key; our own keys stay; ``None`` for any other."""
        return rename(key, LAYERS, OUR_PARTS)


def _branch_options(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    widest, first = shapes["detail.2.0.conv.weight"], shapes["detail.0.0.conv.weight"]
    expand = shapes["semantic.stages.0.0.reduce.conv.weight"]
    return {
        "channels": first[1],
        "width": widest[0] / 128,
        "expansion": expand[1] // shapes["semantic.stem.join.conv.weight"][0],
        "repeats": len({key.split(".")[3] for key in shapes if key.startswith("semantic.stages.2.")}) - 1,
        "context": "semantic.context.join.conv.weight" in shapes,
    }


class BiSeNetV2Module(nn.Module):
    """The network: float32 ``(b, channels, h, w)``, sides multiples of 32 -> logits ``(b, classes, h, w)``."""

    backbone_parts = ("detail", "semantic")
    imitated_part = "aggregate"
    training_only = ("auxiliary.",)

    def __init__(self, options: BiSeNetV2) -> None:
        super().__init__()
        c128 = int(128 * options.width)
        self.detail = _detail(options)
        self.semantic = Semantic(options)
        self.aggregate = Aggregate(c128)
        self.head = Head(c128, round(c128 * HEAD // 128 * options.head_width), options.classes)
        if options.auxiliary:
            self.auxiliary = nn.ModuleList(
                AuxiliaryHead(c, c128, factor, options.classes)
                for c, factor in zip(self.semantic.channels, (4, 8, 16, 32), strict=True)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits at the size of ``x``. Raises UsageError when a side is no multiple of 32."""
        check_size(x, SIZE_MULTIPLE, BiSeNetV2.name)
        return self._logits(x, self.semantic(x)[-1])

    def training_outputs(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits and those of the auxiliary heads, all at the size of ``x``: each has its loss."""
        check_size(x, SIZE_MULTIPLE, BiSeNetV2.name)
        maps = self.semantic(x)
        heads = getattr(self, "auxiliary", ())
        return (self._logits(x, maps[-1]), *(head(m) for head, m in zip(heads, maps, strict=False)))

    def _logits(self, x: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.aggregate(self.detail(x), semantic))
        return upsample(logits, x.shape[2], x.shape[3], align_corners=False)


def _detail(options: BiSeNetV2) -> nn.Sequential:
    """Three stages of full convolutions; the first layer of each halves the size."""
    c, stages = options.channels, []
    for width, n in ((64, 2), (64, 3), (128, 3)):
        c_out = int(width * options.width)
        stages.append(nn.Sequential(*(ConvBN(c_out if i else c, c_out, 3, 1 if i else 2) for i in range(n))))
        c = c_out
    return nn.Sequential(*stages)


class Semantic(nn.Module):
    """Stem, three stages of gather-and-expansion layers, and the context embedding."""

    def __init__(self, options: BiSeNetV2) -> None:
        super().__init__()
        c16, *wider = (int(c * options.width) for c in (16, 32, 64, 128))
        self.stem = Stem(options.channels, c16)
        c, stages = c16, []
        for c_out, depth in zip(wider, DEPTHS, strict=True):
            n = min(depth, options.repeats)
            same = (GatherExpand(c_out, options.expansion) for _ in range(n))
            stages.append(nn.Sequential(GatherExpandDown(c, c_out, options.expansion), *same))
            c = c_out
        self.stages = nn.ModuleList(stages)
        self.context = Context(c) if options.context else nn.Identity()
        self.channels = (c16, *wider)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the maps of 1/4, 1/8, 1/16 and 1/32, and the last ones with their context."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return (*maps, self.context(maps[-1]))


class Stem(nn.Module):
    """To 1/4 in two ways, joined (figure 4)."""

    def __init__(self, channels: int, c: int) -> None:
        super().__init__()
        self.conv = ConvBN(channels, c, 3, 2)
        self.left = nn.Sequential(ConvBN(c, c // 2), ConvBN(c // 2, c, 3, 2))
        self.right = nn.MaxPool2d(3, 2, 1)
        self.join = ConvBN(2 * c, c, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, channels, h, w)`` -> ``(b, c, h / 4, w / 4)``."""
        x = self.conv(x)
        joined: torch.Tensor = self.join(torch.cat([self.left(x), self.right(x)], dim=1))
        return joined


class GatherExpand(nn.Module):
    """Gather-and-expansion layer that keeps the size (figure 5 b): 3x3, depthwise to more channels, 1x1 back."""

    def __init__(self, c: int, expansion: int) -> None:
        super().__init__()
        self.gather = ConvBN(c, c, 3)
        self.expand = ConvBN(c, c * expansion, 3, groups=c)
        self.reduce = ConvBN(c * expansion, c, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c, h, w)`` -> the same shape."""
        return F.relu(self.reduce(self.expand(self.gather(x))) + x)


class GatherExpandDown(nn.Module):
    """Gather-and-expansion layer that halves the size (figure 5 c), with a separable convolution as its shortcut."""

    def __init__(self, c_in: int, c_out: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.gather = ConvBN(c_in, c_in, 3)
        self.expand = ConvBN(c_in, hidden, 3, 2, groups=c_in, relu=False)
        self.depthwise = ConvBN(hidden, hidden, 3, groups=hidden)
        self.reduce = ConvBN(hidden, c_out, relu=False)
        self.shortcut = nn.Sequential(
            ConvBN(c_in, c_in, 3, 2, groups=c_in, relu=False), ConvBN(c_in, c_out, relu=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c_in, h, w)`` -> ``(b, c_out, h / 2, w / 2)``."""
        return F.relu(self.reduce(self.depthwise(self.expand(self.gather(x)))) + self.shortcut(x))


class Context(nn.Module):
    """Context embedding (figure 4): what the means of all channels make is added to every pixel."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = PooledNorm(c)
        self.conv = nn.Conv2d(c, c, 1, bias=False)
        self.bn = PooledNorm(c)
        self.join = ConvBN(c, c, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c, h, w)`` -> the same shape."""
        mean = F.relu(self.bn(self.conv(self.norm(x.mean((2, 3), keepdim=True)))))
        joined: torch.Tensor = self.join(mean + x)
        return joined


class Aggregate(nn.Module):
    """Bilateral guided aggregation (figure 6): each branch is gated by the other, at both resolutions."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.detail = _separable(c)
        self.detail_down = nn.Sequential(ConvBN(c, c, 3, 2, relu=False), nn.AvgPool2d(3, 2, 1))
        self.semantic_up = ConvBN(c, c, 3, relu=False)
        self.semantic = _separable(c)
        self.join = ConvBN(c, c, 3)

    def forward(self, detail: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
        """``(b, c, h, w)`` and ``(b, c, h / 4, w / 4)`` -> ``(b, c, h, w)``."""
        fine = self.detail(detail) * _enlarged(torch.sigmoid(self.semantic_up(semantic)))
        coarse = self.detail_down(detail) * torch.sigmoid(self.semantic(semantic))
        joined: torch.Tensor = self.join(fine + _enlarged(coarse))
        return joined


def _separable(c: int) -> nn.Sequential:
    return nn.Sequential(ConvBN(c, c, 3, groups=c, relu=False), nn.Conv2d(c, c, 1, bias=False))


def _enlarged(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=(4 * x.shape[2], 4 * x.shape[3]), mode="nearest")


class Head(nn.Sequential):
    """3x3 convolution, dropout, and the logits."""

    def __init__(self, c: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvBN(c, hidden, 3)
        self.dropout = nn.Dropout(0.1)
        self.logits = nn.Conv2d(hidden, classes, 1)


class AuxiliaryHead(nn.Module):
    """Logits from maps of ``1 / factor``, through ``factor ** 2`` channels at twice their size."""

    def __init__(self, c: int, hidden: int, factor: int, classes: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = ConvBN(c, hidden, 3)
        self.dropout = nn.Dropout(0.1)
        self.grow = ConvBN(hidden, factor**2, 3)
        self.logits = nn.Conv2d(factor**2, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c, h, w)`` -> logits ``(b, classes, factor h, factor w)``."""
        height, width = x.shape[2:]
        x = F.interpolate(self.dropout(self.conv(x)), size=(2 * height, 2 * width), mode="nearest")
        return upsample(self.logits(self.grow(x)), self.factor * height, self.factor * width, align_corners=False)


OUR_PARTS = ("detail.", "semantic.", "aggregate.", "head.", "auxiliary.")


def _layers() -> dict[str, str]:
    """Layer of the published state dicts -> ours; some name the semantic branch ``segment``, others ``semantic``."""
    found: dict[str, str] = {}

    def conv_bn(theirs: str, ours: str, first: int | str = "conv", second: int | str = "bn") -> None:
        found[f"{theirs}.{first}"], found[f"{theirs}.{second}"] = f"{ours}.conv", f"{ours}.bn"

    for stage, n in enumerate((2, 3, 3)):
        for i in range(n):
            conv_bn(f"detail.S{stage + 1}.{i}", f"detail.{stage}.{i}")
    for branch in ("segment", "semantic"):
        for theirs, ours in (("conv", "conv"), ("left.0", "left.0"), ("left.1", "left.1"), ("fuse", "join")):
            conv_bn(f"{branch}.S1S2.{theirs}", f"semantic.stem.{ours}")
        for stage, (name, depth) in enumerate(zip(("S3", "S4", "S5_4"), DEPTHS, strict=True)):
            for i in range(depth + 1):
                theirs, ours = f"{branch}.{name}.{i}", f"semantic.stages.{stage}.{i}"
                conv_bn(f"{theirs}.conv1", f"{ours}.gather")
                conv_bn(f"{theirs}.{'dwconv' if i else 'dwconv1'}", f"{ours}.expand", 0, 1)
                conv_bn(f"{theirs}.conv2", f"{ours}.reduce", 0, 1)
            theirs, ours = f"{branch}.{name}.0", f"semantic.stages.{stage}.0"
            conv_bn(f"{theirs}.dwconv2", f"{ours}.depthwise", 0, 1)
            conv_bn(f"{theirs}.shortcut", f"{ours}.shortcut.0", 0, 1)
            conv_bn(f"{theirs}.shortcut", f"{ours}.shortcut.1", 2, 3)
        found[f"{branch}.S5_5.bn"] = "semantic.context.norm"
        conv_bn(f"{branch}.S5_5.conv_gap", "semantic.context")
        conv_bn(f"{branch}.S5_5.conv_last", "semantic.context.join")
    for theirs, ours in (("left1", "detail"), ("right2", "semantic")):
        conv_bn(f"bga.{theirs}", f"aggregate.{ours}.0", 0, 1)
        found[f"bga.{theirs}.2"] = f"aggregate.{ours}.1"
    for theirs, ours in (("left2", "detail_down.0"), ("right1", "semantic_up"), ("conv", "join")):
        conv_bn(f"bga.{theirs}", f"aggregate.{ours}", 0, 1)
    found |= {f"head.conv_out.{i}": "head.logits" for i in range(2)}
    for i, name in enumerate(("aux2", "aux3", "aux4", "aux5_4")):
        conv_bn(f"{name}.conv", f"auxiliary.{i}.conv")
        conv_bn(f"{name}.conv_out.0.1", f"auxiliary.{i}.grow")
        found[f"{name}.conv_out.1"] = f"auxiliary.{i}.logits"
    return found


LAYERS: Mapping[str, str] = _layers()
"""Layer of the published PyTorch checkpoints -> ours."""
