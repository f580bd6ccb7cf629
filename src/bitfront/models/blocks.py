"""Layers shared by the segmentation networks.

Tensors are float32 ``(b, c, h, w)``. Sizes are read from the tensors as plain integers, so that ``torch.export`` with a
static shape sees constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from bitfront.errors import UsageError

__all__ = [
    "ConvBN",
    "InvertedResidual",
    "PooledNorm",
    "Separable",
    "check_options",
    "check_size",
    "factors",
    "fits",
    "rename",
    "renamed",
    "state_shapes",
    "upsample",
]


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


class PooledNorm(nn.BatchNorm2d):
    """BatchNorm of maps of one pixel: a batch of one image has no variance, and gets the running statistics."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(b, c, 1, 1)`` -> the same shape."""
        if len(x) > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def upsample(x: torch.Tensor, height: int, width: int, *, align_corners: bool = True) -> torch.Tensor:
    """Resize maps bilinearly."""
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=align_corners)


def check_size(x: torch.Tensor, multiple: int, name: str) -> None:
    """Raise UsageError unless height and width of ``(b, c, h, w)`` are multiples of ``multiple``."""
    height, width = x.shape[-2:]
    if height % multiple or width % multiple:
        fits = " x ".join(str(max(multiple, round(n / multiple) * multiple)) for n in (height, width))
        raise UsageError(
            f"{name} takes images whose sides are multiples of {multiple}, not {height} x {width}",
            hint=f"the nearest size that fits is {fits}",
        )


def check_options(model: Any, counts: Sequence[str], widths: Sequence[str]) -> None:
    """Raise UsageError unless these options are at least 1, and these factors within reason."""
    for option in counts:
        if getattr(model, option) < 1:
            raise UsageError(f"{model.name}: {option} must be at least 1, not {getattr(model, option)}")
    for option in widths:
        if not 1 / 32 <= getattr(model, option) <= 8:
            raise UsageError(f"{model.name}: {option} must lie between 1/32 and 8, not {getattr(model, option)}")


class Buildable(Protocol):
    """What :func:`state_shapes` needs of a model."""

    def build(self) -> nn.Module:
        """Build the network."""


def state_shapes(model: Buildable) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the network's state dict; allocates no weights and draws no random number."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in model.build().state_dict().items()}


def fits(model: Buildable, shapes: Mapping[str, tuple[int, ...]], parts: tuple[str, ...] = ()) -> bool:
    """Whether these are the shapes of the network's weights, or (``parts``: prefixes of keys) of that part of it.

    What counts BatchNorm's batches may be missing: other frameworks have no such thing.
    """

    def counted(given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {k: s for k, s in given.items() if k.startswith(parts or "") and not k.endswith("num_batches_tracked")}

    return counted(state_shapes(model)) == counted(shapes)


def factors(usual: Sequence[float]) -> list[float]:
    """Factors in the order in which they are tried on foreign weights: the usual ones, then every hundredth up to 4."""
    return [*usual[::-1], *(n / 100 for n in range(4, 401))]


def rename(key: str, layers: Mapping[str, str], own: tuple[str, ...]) -> str | None:
    """Our key of a foreign one whose layer is in ``layers``; keys of ``own`` prefixes stay; ``None`` for any other."""
    key = key.removeprefix("module.")
    layer, _, leaf = key.rpartition(".")
    if layer in layers:
        return f"{layers[layer]}.{leaf}"
    return key if key.startswith(own) else None


class Renames(Protocol):
    """What :func:`renamed` needs of a model family."""

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Our key of a foreign one."""


def renamed(family: type[Renames], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of a foreign state dict under our keys, those that are left out dropped."""
    return {new: tuple(shape) for key, shape in shapes.items() if (new := family.rename(key)) is not None}
