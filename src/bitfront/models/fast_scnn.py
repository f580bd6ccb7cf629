"""Fast-SCNN(a, t, r, pp): Poudel, Liwicki, Cipolla (2019), "Fast-SCNN: Fast Semantic Segmentation Network".

Four parts: learning to downsample (to 1/8), global features (inverted residuals to 1/32 and a pyramid pooling), fusion
of both at 1/8, classifier. With ``c(x) = int(x * width)`` the channels are 32, 48, 64 | 64, 96, 128 | 128 | 128.

It differs from the paper in what trained checkpoints need: the pyramid pools to 1, 2, 4 and 8 bins a side through *one*
shared 1x1 convolution without BatchNorm, the two 1x1 convolutions of the fusion have a bias and no BatchNorm, and the
pyramid's parameters exist (unused) when ``pyramid`` is off.

The pyramid works at every size: the 1/32 map is first resized bilinearly (corners aligned) to the next multiple of 8 a
side, then averaged in equal windows. Where 8 divides the map (256, 512 pixels, ...) nothing is resized; at 512 x 512
the windows are 16, 8, 4 and 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from bitfront.errors import UsageError
from bitfront.models.blocks import (
    ConvBN,
    InvertedResidual,
    Separable,
    check_options,
    check_size,
    renamed,
    state_shapes,
    upsample,
)

__all__ = ["FastScnn", "FastScnnModule"]

BINS = (1, 2, 4, 8)
SIZE_MULTIPLE = 32


@dataclass(frozen=True, slots=True)
class FastScnn:
    """The family. ``classes`` is the number of output channels: 1 gives one logit (foreground where it is > 0)."""

    classes: int = 2
    channels: int = 3
    width: float = 1.0
    expansion: int = 6
    repeats: int = 3
    pyramid: bool = True

    name: ClassVar[str] = "fast_scnn"
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "width": (0.125, 0.25, 0.5, 0.75, 1.0),
        "expansion": (2, 4, 6),
        "repeats": (1, 2, 3),
        "pyramid": (False, True),
    }
    size_multiple: ClassVar[int] = SIZE_MULTIPLE

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        check_options(self, ("classes", "channels", "expansion", "repeats"), ("width",))

    def build(self) -> FastScnnModule:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return FastScnnModule(self)

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of a state dict with our keys or the published ones, or ``None``.

        ``pyramid`` leaves no trace in the weights: it is off when the file's name says ``pp0``.
        """
        ours = renamed(cls, shapes)
        try:
            first, expand = ours["downsample.conv.conv.weight"], ours["features.0.0.expand.conv.weight"]
            logits = ours["classifier.logits.weight"]
            options: dict[str, Any] = {
                "classes": logits[0],
                "channels": first[1],
                "width": logits[1] / 128,
                "expansion": expand[0] // expand[1],
                "repeats": len({key.split(".")[2] for key in ours if key.startswith("features.0.")}),
                "pyramid": re.search(r"pp0(?!\d)", stem) is None,
            }
            model = cls(**options)
        except (KeyError, IndexError, ZeroDivisionError, UsageError):
            return None
        return options if state_shapes(model) == ours else None

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Our key of a published state dict's key (table ``KEYS``); our own keys stay; ``None`` for any other."""
        key = key.removeprefix("module.")
        for pattern, replacement in KEYS:
            if re.match(pattern, key):
                return re.sub(pattern, replacement, key, count=1)
        return key if key.startswith(OUR_PARTS) else None


OUR_PARTS = ("downsample.", "features.", "pyramid.", "fusion.", "classifier.")


def _separable(theirs: str, ours: str) -> list[tuple[str, str]]:
    layers = ("depthwise.conv", "depthwise.bn", "pointwise.conv", "pointwise.bn")
    return [(rf"{theirs}\.{i}\.", f"{ours}.{layer}.") for i, layer in enumerate(layers)]


def _bottlenecks(theirs: str, ours: str) -> list[tuple[str, str]]:
    layers = {
        0: "expand.conv",
        1: "expand.bn",
        3: "depthwise.conv",
        4: "depthwise.bn",
        6: "project.conv",
        7: "project.bn",
    }
    return [(rf"{theirs}\.(\d+)\.conv\.{i}\.", rf"{ours}.\1.{layer}.") for i, layer in layers.items()]


KEYS: tuple[tuple[str, str], ...] = (
    (r"learning_to_down_sample\.conv\.", "downsample.conv."),
    *_separable(r"learning_to_down_sample\.dsconv1", "downsample.separable1"),
    *_separable(r"learning_to_down_sample\.dsconv2", "downsample.separable2"),
    *_bottlenecks(r"global_feature_extractor\.first_block", "features.0"),
    *_bottlenecks(r"global_feature_extractor\.second_block", "features.1"),
    *_bottlenecks(r"global_feature_extractor\.third_block", "features.2"),
    (r"global_feature_extractor\.ppm\.conv\.0\.", "pyramid.branch."),
    (r"global_feature_extractor\.ppm\.convB\.", "pyramid.join."),
    (r"feature_fusion\.dwconv\.", "fusion.depthwise."),
    (r"feature_fusion\.conv_low_res\.", "fusion.low."),
    (r"feature_fusion\.conv_high_res\.", "fusion.high."),
    *_separable(r"classifier\.dsconv1", "classifier.separable1"),
    *_separable(r"classifier\.dsconv2", "classifier.separable2"),
    (r"classifier\.conv\.", "classifier.logits."),
)
"""Published key (a regular expression) -> ours, for the state dicts of the "industrial packages" checkpoints."""


class FastScnnModule(nn.Module):
    """The network: float32 ``(b, channels, h, w)``, sides multiples of 32 -> logits ``(b, classes, h, w)``."""

    backbone_parts = ("downsample", "features", "pyramid")

    def __init__(self, options: FastScnn) -> None:
        super().__init__()
        c32, c48, c64, c96, c128 = (int(c * options.width) for c in (32, 48, 64, 96, 128))
        stages = ((c64, c64, 2), (c64, c96, 2), (c96, c128, 1))
        self.downsample = Downsample(options.channels, c32, c48, c64)
        self.features = nn.Sequential(*(_stage(*stage, options) for stage in stages))
        self.pyramid = Pyramid(c128)
        self.fusion = Fusion(c64, c128)
        self.classifier = Classifier(c128, options.classes)
        self.uses_pyramid = options.pyramid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits at the size of ``x``. Raises UsageError when a side is no multiple of 32."""
        check_size(x, SIZE_MULTIPLE, "fast_scnn")
        high = self.downsample(x)
        low = self.features(high)
        if self.uses_pyramid:
            low = self.pyramid(low)
        return upsample(self.classifier(self.fusion(high, low)), x.shape[2], x.shape[3])


class Downsample(nn.Sequential):
    """Learning to downsample: to 1/8 of the size."""

    def __init__(self, channels: int, c32: int, c48: int, c64: int) -> None:
        super().__init__()
        self.conv = ConvBN(channels, c32, 3, 2)
        self.separable1 = Separable(c32, c48, 2)
        self.separable2 = Separable(c48, c64, 2)


def _stage(c_in: int, c_out: int, stride: int, options: FastScnn) -> nn.Sequential:
    first = InvertedResidual(c_in, c_out, stride, options.expansion)
    rest = (InvertedResidual(c_out, c_out, 1, options.expansion) for _ in range(options.repeats - 1))
    return nn.Sequential(first, *rest)


class Pyramid(nn.Module):
    """Pyramid pooling (Zhao et al. 2017, PSPNet, section 3.2) with one 1x1 convolution shared by the four scales."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.branch = nn.Conv2d(c, c // 4, 1, bias=False)
        self.join = ConvBN(c + 4 * (c // 4), c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c, h, w)`` -> the same shape."""
        height, width = x.shape[-2:]
        even_height, even_width = -(-height // BINS[-1]) * BINS[-1], -(-width // BINS[-1]) * BINS[-1]
        even = x if (even_height, even_width) == (height, width) else upsample(x, even_height, even_width)
        scales = [self._scale(even, even_height // n, even_width // n, height, width) for n in BINS]
        joined: torch.Tensor = self.join(torch.cat([*scales, x], dim=1))
        return joined

    def _scale(self, x: torch.Tensor, window_height: int, window_width: int, height: int, width: int) -> torch.Tensor:
        window = (window_height, window_width)
        pooled = x if window == (1, 1) else F.avg_pool2d(x, window, window)
        branch = F.relu(self.branch(pooled))
        return branch if branch.shape[-2:] == (height, width) else upsample(branch, height, width)


class Fusion(nn.Module):
    """Add the upsampled global features to the fine ones."""

    def __init__(self, c_high: int, c: int) -> None:
        super().__init__()
        self.depthwise = ConvBN(c, c, 3, dilation=4, groups=c)
        self.low = nn.Conv2d(c, c, 1)
        self.high = nn.Conv2d(c_high, c, 1)

    def forward(self, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        """``(b, c_high, h, w)`` and ``(b, c, h / 4, w / 4)`` -> ``(b, c, h, w)``."""
        low = self.low(self.depthwise(upsample(low, high.shape[2], high.shape[3])))
        return F.relu(low + self.high(high))


class Classifier(nn.Sequential):
    """Two separable convolutions, dropout, and the logits."""

    def __init__(self, c: int, classes: int) -> None:
        super().__init__()
        self.separable1 = Separable(c, c)
        self.separable2 = Separable(c, c)
        self.dropout = nn.Dropout(0.1)
        self.logits = nn.Conv2d(c, classes, 1)
