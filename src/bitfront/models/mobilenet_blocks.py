"""MobileNetV2 without its classifier (Sandler et al. 2018), in the conventions of Keras.

Channels are ``make_divisible(c * alpha, 8)``; the activation is ReLU6; BatchNorm has epsilon 1e-3; a convolution with
stride 2 is padded with zeros at the bottom and the right only. The maps that segmentation heads take are ``taps``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

__all__ = [
    "ALPHAS",
    "EPSILON",
    "MOMENTUM",
    "TAPS",
    "Backbone",
    "ConvBN6",
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


def stages(alpha: float) -> tuple[int, tuple[Stage, ...]]:
    """Return the channels of the first convolution, and the stages with theirs, at a width multiplier."""
    return make_divisible(STEM * alpha), tuple(s._replace(channels=make_divisible(s.channels * alpha)) for s in STAGES)


class ConvBN6(nn.Sequential):
    """Convolution without bias, BatchNorm and (unless ``relu`` is false) ReLU6; kernels 1 and 3, ``size / stride``."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        relu: bool = True,
        momentum: float = MOMENTUM,
    ) -> None:
        super().__init__()
        pad = kernel // 2 if stride == 1 else 0
        if stride == 2:
            self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, pad, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=EPSILON, momentum=1 - momentum)
        if relu:
            self.relu = nn.ReLU6()


class InvertedResidual6(nn.Module):
    """Inverted residual with linear bottleneck (section 3.3); ``expansion`` 1 leaves the expansion out."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int, momentum: float = MOMENTUM) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.expand = ConvBN6(c_in, hidden, momentum=momentum) if expansion > 1 else nn.Identity()
        self.depthwise = ConvBN6(hidden, hidden, 3, stride, groups=hidden, momentum=momentum)
        self.project = ConvBN6(hidden, c_out, relu=False, momentum=momentum)
        self.skip = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c_in, h, w)`` -> ``(b, c_out, h / stride, w / stride)``."""
        return self.parts(x)[1]

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the expanded maps, at the size of ``x``, and the block's output."""
        wide: torch.Tensor = self.expand(x)
        y: torch.Tensor = self.project(self.depthwise(wide))
        return wide, x + y if self.skip else y


class Backbone(nn.Module):
    """The network up to its last bottleneck: float32 ``(b, channels, h, w)`` -> maps of 1/32; sides multiples of 32."""

    def __init__(self, channels: int, alpha: float, expansion: int, momentum: float = MOMENTUM) -> None:
        super().__init__()
        c, widths = stages(alpha)
        self.stem = ConvBN6(channels, c, 3, 2, momentum=momentum)
        blocks = []
        for stage in widths:
            for i in range(stage.repeats):
                stride, t = (1 if i else stage.stride), expansion if stage.expands else 1
                blocks.append(InvertedResidual6(c, stage.channels, stride, t, momentum))
                c = stage.channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps of the last block, ``(b, c, h / 32, w / 32)``."""
        return self.taps(x)["block"][-1]

    def taps(self, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        """Return the maps of 1/2, 1/4, 1/8, 1/16 and 1/32 of the size, for each name of TAPS (the last are the same).

        At alpha 1.4 and expansion 6 ``expand`` has 144, 192, 288, 816, 448 channels and ``block`` 24, 32, 48, 136, 448.
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
