"""Heads of the DeepLab family (Chen et al. 2017, "Rethinking atrous convolution for semantic image segmentation")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bitfront.errors import UsageError
from bitfront.models.blocks import ConvBN, PooledNorm

__all__ = [
    "CHANNELS",
    "OUTPUT_STRIDES",
    "AtrousPyramid",
    "ImagePooling",
    "check_output_stride",
    "dilations",
    "head_channels",
    "pyramid_layers",
]

CHANNELS = 256
"""Of a head at width 1."""
OUTPUT_STRIDES = (32, 16, 8)


def check_output_stride(model: Any) -> None:
    """Raise UsageError for an output stride that no backbone has."""
    if model.output_stride not in OUTPUT_STRIDES:
        raise UsageError(f"{model.name}: output_stride must be 8, 16 or 32, not {model.output_stride}")


def dilations(rates: Sequence[int], output_stride: int) -> tuple[int, ...]:
    """Return the dilations that reach as far in the image as ``rates`` do at output stride 16."""
    return tuple(rate * 16 // output_stride for rate in rates)


def head_channels(head_width: float) -> int:
    """Return the channels of a head."""
    return max(1, int(CHANNELS * head_width))


class ImagePooling(nn.Module):
    """Means of whole maps, one convolution, and back to the size of the maps: the context of every pixel."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.bn = PooledNorm(c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c_in, h, w)`` -> ``(b, c_out, h, w)``."""
        mean = F.relu(self.bn(self.conv(x.mean((2, 3), keepdim=True))))
        return F.interpolate(mean, size=x.shape[2:], mode="nearest")


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling (section 3.3): a 1x1 convolution, dilated ones and image pooling, then joined.

    ``rates`` are the dilations, none of them leaves the dilated branches out.
    """

    def __init__(self, c_in: int, c: int, rates: Sequence[int], *, pooling: bool = True, dropout: float = 0.1) -> None:
        super().__init__()
        self.local = ConvBN(c_in, c)
        self.atrous = nn.ModuleList(ConvBN(c_in, c, 3, dilation=rate) for rate in rates)
        self.pooling = ImagePooling(c_in, c) if pooling else None
        self.join = ConvBN(c * (1 + len(rates) + pooling), c)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c_in, h, w)`` -> ``(b, c, h, w)``."""
        maps = [branch(x) for branch in (self.local, *self.atrous)]
        if self.pooling is not None:
            maps.append(self.pooling(x))
        joined: torch.Tensor = self.dropout(self.join(torch.cat(maps, dim=1)))
        return joined


def pyramid_layers(prefix: str) -> dict[str, str]:
    """Layer of a pyramid with three dilated branches, as torchvision has it -> ours."""
    places = [("convs.0", 0, "local"), *((f"convs.{i + 1}", 0, f"atrous.{i}") for i in range(3))]
    places += [("convs.4", 1, "pooling"), ("project", 0, "join")]
    return {
        f"{prefix}.{theirs}.{first + i}": f"pyramid.{ours}.{layer}"
        for theirs, first, ours in places
        for i, layer in enumerate(("conv", "bn"))
    }
