"""MobileNetV3-Large without its classifier (Howard et al. 2019, "Searching for MobileNetV3", table 1).

Inverted residuals with hard swish, and squeeze-and-excitation in some of them (Hu et al. 2018, with a hard sigmoid).
Channels are ``make_divisible(c * alpha, 8)``; BatchNorm has epsilon 1e-3; zeros are padded on all sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from bitfront.models.mobilenet_blocks import make_divisible

__all__ = ["Block", "ConvBNAct", "MobileNetV3Large", "SqueezeExcite", "blocks"]

EPSILON = 1e-3
MOMENTUM = 0.99
"""Share of the running statistics that a training step keeps."""
STEM = 16
LAST = 6
"""The last convolution widens by this factor."""


class Block(NamedTuple):
    """One inverted residual."""

    kernel: int
    hidden: int
    channels: int
    squeezes: bool
    swish: bool
    """Hard swish; else ReLU."""
    stride: int = 1


BLOCKS = (
    Block(3, 16, 16, False, False),
    Block(3, 64, 24, False, False, 2),
    Block(3, 72, 24, False, False),
    Block(5, 72, 40, True, False, 2),
    Block(5, 120, 40, True, False),
    Block(5, 120, 40, True, False),
    Block(3, 240, 80, False, True, 2),
    Block(3, 200, 80, False, True),
    Block(3, 184, 80, False, True),
    Block(3, 184, 80, False, True),
    Block(3, 480, 112, True, True),
    Block(3, 672, 112, True, True),
    Block(5, 672, 160, True, True, 2),
    Block(5, 960, 160, True, True),
    Block(5, 960, 160, True, True),
)


def blocks(alpha: float, repeats: int = 4) -> tuple[Block, ...]:
    """Return the blocks at a width multiplier, the first ``repeats`` of every width."""
    widths = [b.channels for b in BLOCKS]
    kept = (b for i, b in enumerate(BLOCKS) if i - widths.index(b.channels) < repeats)
    return tuple(
        b._replace(hidden=make_divisible(b.hidden * alpha), channels=make_divisible(b.channels * alpha)) for b in kept
    )


class ConvBNAct(nn.Sequential):
    """Convolution without bias, BatchNorm, and hard swish, ReLU or nothing."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        activation: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        pad = dilation * (kernel // 2)
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, pad, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=EPSILON, momentum=1 - MOMENTUM)
        if activation is not None:
            self.activation = activation()


class SqueezeExcite(nn.Module):
    """Scale every channel by what a small network makes of the means of all."""

    def __init__(self, c: int) -> None:
        super().__init__()
        squeezed = make_divisible(c / 4)
        self.reduce = nn.Conv2d(c, squeezed, 1)
        self.relu = nn.ReLU()
        self.restore = nn.Conv2d(squeezed, c, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c, h, w)`` -> the same shape."""
        mean = x.mean((2, 3), keepdim=True)
        gate: torch.Tensor = self.gate(self.restore(self.relu(self.reduce(mean))))
        return x * gate


class InvertedResidualV3(nn.Module):
    """Expand (unless that changes nothing), depthwise convolution, squeeze and excite, project."""

    def __init__(self, c_in: int, block: Block, stride: int, dilation: int) -> None:
        super().__init__()
        act, hidden = nn.Hardswish if block.swish else nn.ReLU, block.hidden
        self.expand = ConvBNAct(c_in, hidden, activation=act) if hidden != c_in else nn.Identity()
        self.depthwise = ConvBNAct(
            hidden, hidden, block.kernel, stride, dilation=dilation, groups=hidden, activation=act
        )
        self.squeeze = SqueezeExcite(hidden) if block.squeezes else nn.Identity()
        self.project = ConvBNAct(hidden, block.channels)
        self.skip = block.stride == 1 and c_in == block.channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c_in, h, w)`` -> ``(b, c_out, h / stride, w / stride)``."""
        y: torch.Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.skip else y


class MobileNetV3Large(nn.Module):
    """Float32 ``(b, channels, h, w)``, sides multiples of 32 -> maps of ``1 / output_stride``.

    Beyond ``output_stride`` (8, 16 or 32) a stride becomes a dilation of that block and those behind it.
    """

    def __init__(self, channels: int, alpha: float, *, repeats: int = 4, output_stride: int = 32) -> None:
        super().__init__()
        c, reached, dilation = make_divisible(STEM * alpha), 2, 1
        self.stem = ConvBNAct(channels, c, 3, 2, activation=nn.Hardswish)
        layers = []
        for block in blocks(alpha, repeats):
            stride = block.stride if reached < output_stride else 1
            dilation *= block.stride // stride
            reached *= stride
            layers.append(InvertedResidualV3(c, block, stride, dilation))
            c = block.channels
        self.blocks = nn.ModuleList(layers)
        self.channels = LAST * c
        self.last = ConvBNAct(c, self.channels, activation=nn.Hardswish)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps of the last convolution."""
        x = self.stem(x)
        for block in self._blocks():
            x = block(x)
        maps: torch.Tensor = self.last(x)
        return maps

    def _blocks(self) -> Iterator[nn.Module]:
        return iter(self.blocks)
