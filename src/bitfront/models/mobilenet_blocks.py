"""MobileNetV2 without its classifier (Sandler et al. 2018).

Channels are ``make_divisible(c * alpha, 8)``; the activation is ReLU6. Frameworks differ in BatchNorm and in where they
pad zeros: :class:`Conventions`. The maps that segmentation heads take are ``taps``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "ALPHAS",
    "EPSILON",
    "KERAS",
    "MOMENTUM",
    "TAPS",
    "TORCH",
    "Backbone",
    "ConvBN6",
    "Conventions",
    "InvertedResidual6",
    "Stage",
    "initialise",
    "make_divisible",
    "stages",
    "tap_channels",
]

EPSILON = 1e-3
MOMENTUM = 0.999
"""Share of the running statistics that a training step keeps (torch's ``momentum`` is 1 minus that)."""
ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.4)
"""Width multipliers worth trying."""
TAPS = ("expand", "block")
"""``expand``: the expanded maps before each halving of the resolution; ``block``: the outputs of the blocks there."""


class Conventions(NamedTuple):
    """What frameworks do differently in the same network."""

    epsilon: float = EPSILON
    momentum: float = MOMENTUM
    padding: str = "end"
    """Zeros around a convolution: ``end`` (with stride 2 at the bottom and the right only), ``even`` (on all sides) or
    ``input`` (on all sides of a *block's* input, before its expansion, and none around the image)."""


KERAS = Conventions()
TORCH = Conventions(1e-5, 0.9, "even")


class Stage(NamedTuple):
    """Blocks of one width; the first of them has the stride (Sandler et al. 2018, table 2)."""

    channels: int
    repeats: int
    stride: int
    expands: bool = True


STAGES = (
    Stage(16, 1, 1, expands=False),
    Stage(24, 2, 2),
    Stage(32, 3, 2),
    Stage(64, 4, 2),
    Stage(96, 3, 1),
    Stage(160, 3, 2),
    Stage(320, 1, 1),
)
STEM = 32


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Return the nearest multiple of ``divisor``, at least one of them and not below 90 % of ``channels``."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def stages(alpha: float, repeats: int = 4) -> tuple[int, tuple[Stage, ...]]:
    """Return the channels of the first convolution, and the stages with theirs and at most ``repeats`` blocks."""
    scaled = (s._replace(channels=make_divisible(s.channels * alpha), repeats=min(s.repeats, repeats)) for s in STAGES)
    return make_divisible(STEM * alpha), tuple(scaled)


class ConvBN6(nn.Sequential):
    """Convolution without bias, BatchNorm and (unless ``relu`` is false) ReLU6; kernels 1 and 3, ``size / stride``."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        relu: bool = True,
        rules: Conventions = KERAS,
    ) -> None:
        super().__init__()
        pad = dilation * (kernel // 2)
        if rules.padding == "input":
            pad = 0
        elif rules.padding == "end" and stride == 2:
            self.pad = nn.ZeroPad2d((0, 1, 0, 1))
            pad = 0
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, pad, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=rules.epsilon, momentum=1 - rules.momentum)
        if relu:
            self.relu = nn.ReLU6()


class InvertedResidual6(nn.Module):
    """Inverted residual with linear bottleneck (section 3.3); ``expansion`` 1 leaves the expansion out."""

    def __init__(
        self, c_in: int, c_out: int, stride: int, expansion: int, *, dilation: int = 1, rules: Conventions = KERAS
    ) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.expand = ConvBN6(c_in, hidden, rules=rules) if expansion > 1 else nn.Identity()
        self.depthwise = ConvBN6(hidden, hidden, 3, stride, dilation=dilation, groups=hidden, rules=rules)
        self.project = ConvBN6(hidden, c_out, relu=False, rules=rules)
        self.skip = stride == 1 and c_in == c_out
        self.input_pads = [dilation] * 4 if rules.padding == "input" else []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c_in, h, w)`` -> ``(b, c_out, h / stride, w / stride)``."""
        return self.parts(x)[1]

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the expanded maps, at the size of ``x``, and the block's output."""
        wide: torch.Tensor = self.expand(F.pad(x, self.input_pads) if self.input_pads else x)
        y: torch.Tensor = self.project(self.depthwise(wide))
        return wide, x + y if self.skip else y


class Backbone(nn.Module):
    """The network up to its last bottleneck: float32 ``(b, channels, h, w)`` -> maps of ``1 / output_stride``.

    Beyond ``output_stride`` (8, 16 or 32) a stride becomes a dilation of what follows (Chen et al. 2017, DeepLabV3,
    section 3.1). Sides are multiples of 32.
    """

    def __init__(
        self,
        channels: int,
        alpha: float,
        expansion: int,
        rules: Conventions = KERAS,
        *,
        repeats: int = 4,
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        c, widths = stages(alpha, repeats)
        self.stem = ConvBN6(channels, c, 3, 2, rules=rules)
        blocks, reached, dilation = [], 2, 1
        for stage in widths:
            stride, rate = stage.stride if reached < output_stride else 1, dilation
            dilation *= stage.stride // stride
            reached *= stride
            t = expansion if stage.expands else 1
            for _ in range(stage.repeats):
                blocks.append(InvertedResidual6(c, stage.channels, stride, t, dilation=rate, rules=rules))
                c, stride, rate = stage.channels, 1, dilation
        self.blocks = nn.ModuleList(blocks)
        self.channels, self.low_channels = c, widths[1].channels
        """Of the last maps, and of those of 1/4 of the size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps of the last block, ``(b, c, h / output_stride, w / output_stride)``."""
        return self.taps(x)["block"][-1]

    def taps(self, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        """Return the maps before every halving of the size and the last ones, for each name of TAPS.

        The first are of 1/2 of the size; the last are the same for both names. At alpha 1.4, expansion 6 and output
        stride 32 ``expand`` has 144, 192, 288, 816, 448 channels and ``block`` 24, 32, 48, 136, 448.
        """
        found: dict[str, list[torch.Tensor]] = {name: [] for name in TAPS}
        x = self.stem(x)
        for block in self._blocks():
            wide, y = block.parts(x)
            if block.depthwise.conv.stride[0] == 2:
                found["expand"].append(wide)
                found["block"].append(x)
            x = y
        return {name: [*maps, x] for name, maps in found.items()}

    def _blocks(self) -> Iterator[InvertedResidual6]:
        for block in self.blocks:
            assert isinstance(block, InvertedResidual6)
            yield block


def tap_channels(name: str, alpha: float, expansion: int) -> tuple[int, ...]:
    """Return the channels of the five maps of ``Backbone.taps(...)[name]``."""
    _, widths = stages(alpha)
    before = [a.channels for a, b in pairwise(widths) if b.stride == 2]
    return (*(c * (expansion if name == "expand" else 1) for c in before), widths[-1].channels)


def initialise(module: nn.Module) -> None:
    """Draw weights as Keras does by default: Glorot and Bengio (2010), equation 16; biases are 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
