"""Random small torch modules that together use every operator the graph knows, at odd sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module, joint: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.joint = inner, joint

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.joint(x, self.inner(x))


class Scaled(nn.Module):
    """A learned scale and a buffer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)
        self.register_buffer("offset", torch.rand(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.offset * 2) * self.scale / 1.5


ACTIVATIONS = [
    nn.ReLU,
    nn.ReLU6,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Tanh,
    lambda: nn.ReLU(inplace=True),
    lambda: Apply(lambda x: x.clamp(min=-0.5)),
    lambda: Apply(lambda x: x.clamp(-1, 2)),
    lambda: Apply(lambda x: torch.exp(x.clamp(-3, 3))),
    lambda: Apply(lambda x: torch.sqrt(x.relu() + 1)),
    lambda: Apply(lambda x: -x + 0.25),
    lambda: Apply(lambda x: 1 - x),
    lambda: Apply(lambda x: x**2),
    nn.Dropout,
    nn.Identity,
    lambda: nn.Softmax(dim=1),
]


def conv(rng: np.random.Generator, channels: int, out: int) -> nn.Module:
    """A convolution that leaves a map of at least 1 x 1, with BatchNorm now and then before or behind it."""
    kernel = int(rng.choice([1, 3, 5]))
    stride, dilation = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    groups = int(rng.choice([g for g in (1, 2, channels) if channels % g == 0 and out % g == 0]))
    padding = int(rng.integers((dilation * (kernel - 1) + 1) // 2, kernel * dilation // 2 + 2))
    bias = bool(rng.random() < 0.5)
    layer = nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias)
    pieces: list[nn.Module] = [layer]
    if rng.random() < 0.6:
        pieces.append(nn.BatchNorm2d(out, affine=bool(rng.random() < 0.8)))
    if rng.random() < 0.2:
        pieces.insert(0, nn.BatchNorm2d(channels))
    return nn.Sequential(*pieces, ACTIVATIONS[rng.integers(len(ACTIVATIONS))]())


def resize(rng: np.random.Generator) -> nn.Module:
    size = tuple(int(n) for n in rng.integers(1, 14, 2))
    options = [
        lambda x: F.interpolate(x, size=size, mode="bilinear", align_corners=True),
        lambda x: F.interpolate(x, size=size, mode="bilinear", align_corners=False),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
        lambda x: F.interpolate(x, scale_factor=3, mode="bilinear", align_corners=True),
        lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
        lambda x: F.interpolate(x, size=size, mode="nearest"),
    ]
    return Apply(options[rng.integers(len(options))])


def pool(rng: np.random.Generator) -> nn.Module:
    ceil = bool(rng.random() < 0.4)
    options: list[Callable[[], nn.Module]] = [
        lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=ceil),
        lambda: nn.MaxPool2d(2, 1, 1, dilation=1),
        lambda: nn.AvgPool2d(3, 1, 1),
        lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=ceil, count_include_pad=False),
        lambda: nn.AdaptiveAvgPool2d(int(rng.integers(1, 4))),
        lambda: nn.AdaptiveAvgPool2d((2, 3)),
    ]
    return options[rng.integers(len(options))]()


def move(rng: np.random.Generator, channels: int) -> nn.Module:
    """Something that moves values and keeps the number of channels."""
    half = channels // 2
    options: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda x: F.pad(x, (1, 2, 0, 1)),
        lambda x: F.pad(x, (1, 1, 1, 1), value=0.5),
        lambda x: torch.cat([*x.chunk(2, 1)][::-1], 1),
        lambda x: torch.cat([*x.split([half, channels - half], 1)], 1),
        lambda x: x.reshape(x.shape[0], 2, half, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
        lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda x: torch.cat([x[:, :half], x[:, half:]], 1),
        lambda x: x[:, :, ::2, :] if x.shape[2] > 1 else x,
        lambda x: torch.cat([x, x], 2),
    ]
    return Apply(options[rng.integers(len(options))])


def block(rng: np.random.Generator, channels: int) -> nn.Module:
    match rng.integers(8):
        case 0:
            return resize(rng)
        case 1:
            return pool(rng)
        case 2:
            return move(rng, channels)
        case 3:
            return Scaled(channels)
        case 4:
            gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Hardsigmoid())
            return Residual(gate, torch.mul)
        case 5:
            inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
            joints = [torch.add, lambda a, b: torch.relu(a + b), lambda a, b: a - b, lambda a, b: a / (b.sigmoid() + 1)]
            return Residual(inner, joints[rng.integers(len(joints))])
        case _:
            return conv(rng, channels, channels)


def head(rng: np.random.Generator, channels: int) -> nn.Module:
    options: list[Callable[[], nn.Module]] = [
        lambda: nn.Conv2d(channels, 3, 1),
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5), nn.ReLU()),
        lambda: nn.Sequential(
            nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(1), nn.Linear(2 * channels, 4, bias=False), nn.BatchNorm1d(4)
        ),
        lambda: Apply(lambda x: x.mean((2, 3))),
        lambda: Apply(lambda x: x.mean(dim=[2, 3], keepdim=True)),
        lambda: nn.Sequential(Apply(lambda x: x.permute(0, 2, 3, 1)), nn.Linear(channels, 3)),
        lambda: nn.BatchNorm2d(channels),
        lambda: nn.Sequential(nn.Conv2d(channels, 4, 1), nn.UpsamplingBilinear2d(scale_factor=4)),
    ]
    return options[rng.integers(len(options))]()


def random_module(seed: int) -> tuple[nn.Module, tuple[int, int, int, int]]:
    """Return a module in evaluation mode with random statistics, and an input shape."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    size = [(1, 1), (7, 5), (8, 8), (16, 12), (3, 17), (13, 13)][rng.integers(6)]
    channels = int(rng.choice([2, 4, 6]))
    first = int(rng.integers(1, 4))
    blocks = [block(rng, channels) for _ in range(rng.integers(2, 6))]
    module = nn.Sequential(conv(rng, first, channels), *blocks, head(rng, channels))
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.5)
            layer.running_var.uniform_(0.5, 2)
            if layer.affine:
                layer.weight.data.uniform_(-1.5, 1.5)
                layer.bias.data.normal_(0, 0.5)
    return module.eval(), (1, first, *size)
