"""ResNet-50 without its classifier (He et al. 2016, table 1), and BatchNorm whose statistics and factors stay.

The stride of a halving block is that of its 3x3 convolution, as in torchvision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from bitfront.models.mobilenet_blocks import make_divisible

__all__ = ["FrozenNorm", "ResNet", "draw_unnormalized", "freeze_norms", "resnet_channels"]

STEM = 64
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Channels of the 3x3 convolutions and blocks of each stage."""
EXPANSION = 4


def resnet_channels(width: float) -> list[int]:
    """Return the channels of the four maps."""
    return [EXPANSION * make_divisible(c * width) for c, _ in STAGES]


class FrozenNorm(nn.Module):
    """BatchNorm that is never trained: its numbers are buffers, and no parameters."""

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.epsilon)


def freeze_norms(module: nn.Module) -> None:
    """Put a :class:`FrozenNorm` in the place of every BatchNorm."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenNorm(child.num_features))
        else:
            freeze_norms(child)


def draw_unnormalized(module: nn.Module) -> None:
    """Draw the weights of a feature extractor that no norm keeps in range (He et al. 2015, equation 10).

    The last convolution of every residual block is 0: the block begins as the identity (Goyal et al. 2017, 5.1).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    for block in module.modules():
        if getattr(block, "skip", False):
            nn.init.zeros_(block.project.conv.weight)


class ConvBN(nn.Sequential):
    """Convolution without bias, BatchNorm and (unless ``relu`` is false) ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, *, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        if relu:
            self.relu = nn.ReLU()


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, added to the input, which a 1x1 convolution fits to them where it must."""

    def __init__(self, c_in: int, c: int, stride: int) -> None:
        super().__init__()
        self.narrow = ConvBN(c_in, c)
        self.middle = ConvBN(c, c, 3, stride)
        self.project = ConvBN(c, EXPANSION * c, relu=False)
        fits = stride == 1 and c_in == EXPANSION * c
        self.shortcut = nn.Identity() if fits else ConvBN(c_in, EXPANSION * c, 1, stride, relu=False)
        self.skip = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c_in, h, w)`` -> ``(b, 4 c, ceil(h / stride), ceil(w / stride))``."""
        return F.relu(self.project(self.middle(self.narrow(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """``(b, channels, h, w)`` -> the maps at strides 4, 8, 16 and 32."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        c = make_divisible(STEM * width)
        self.stem = ConvBN(channels, c, 7, 2)
        stages = []
        for i, (wide, n) in enumerate(STAGES):
            inner = make_divisible(wide * width)
            layers = []
            for k in range(n):
                layers.append(Bottleneck(c, inner, 2 if i and not k else 1))
                c = EXPANSION * inner
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps, the finest first."""
        x, maps = F.max_pool2d(self.stem(x), 3, 2, 1), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
