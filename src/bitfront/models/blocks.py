"""Layers shared by the segmentation networks.

Tensors are float32 ``(b, c, h, w)``. Sizes are read from the tensors as plain integers, so that ``torch.export`` with a
static shape sees constants.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from bitfront.errors import UsageError

__all__ = ["ConvBN", "InvertedResidual", "Separable", "check_size", "state_shapes", "upsample"]


class ConvBN(nn.Sequential):
    """Convolution without bias, BatchNorm and (unless ``relu`` is false) ReLU; gives ``ceil(size / stride)``."""

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
    ) -> None:
        super().__init__()
        pad = dilation * (kernel // 2)
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, pad, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        if relu:
            self.relu = nn.ReLU()


class Separable(nn.Sequential):
    """Depthwise 3x3 and pointwise convolution, both with BatchNorm; one ReLU, at the end."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = ConvBN(c_in, c_in, 3, stride, groups=c_in, relu=False)
        self.pointwise = ConvBN(c_in, c_out)


class InvertedResidual(nn.Module):
    """Inverted residual with linear bottleneck (Sandler et al. 2018, MobileNetV2, section 3.3), with ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.expand = ConvBN(c_in, hidden)
        self.depthwise = ConvBN(hidden, hidden, 3, stride, groups=hidden)
        self.project = ConvBN(hidden, c_out, relu=False)
        self.skip = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c_in, h, w)`` -> ``(b, c_out, ceil(h / stride), ceil(w / stride))``."""
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.skip else y


def upsample(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize maps bilinearly with aligned corners."""
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=True)


def check_size(x: torch.Tensor, multiple: int, name: str) -> None:
    """Raise UsageError unless height and width of ``(b, c, h, w)`` are multiples of ``multiple``."""
    height, width = x.shape[-2:]
    if height % multiple or width % multiple:
        fits = " x ".join(str(max(multiple, round(n / multiple) * multiple)) for n in (height, width))
        raise UsageError(
            f"{name} takes images whose sides are multiples of {multiple}, not {height} x {width}",
            hint=f"the nearest size that fits is {fits}",
        )


class Buildable(Protocol):
    """What :func:`state_shapes` needs of a model."""

    def build(self) -> nn.Module:
        """Build the network."""


def state_shapes(model: Buildable) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the network's state dict; allocates no weights and draws no random number."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in model.build().state_dict().items()}
