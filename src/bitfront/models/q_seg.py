"""Q-Seg1 and Q-Seg2: MobileNetV2 with a joint multi-scale upsampling of its maps, made for fixed-point search.

Every tap of the backbone is reduced by a 1x1 convolution, then brought to the resolution of the shallowest by steps of
nearest-neighbour doubling (nothing but Concatenate and Reshape) and 3x3 convolutions. Q-Seg1 does that for every tap on
its own and joins them at the end; Q-Seg2 goes up one chain that takes in the next tap at each step. A 1x1 convolution
gives one channel a class, and doublings with a 3x3 convolution bring it to the size of the image.

Of the heads only the totals are published: 3,922,680 and 3,946,680 variables with 20 classes, 44,784 and 44,352 of them
not trainable. The three values of ``variant`` are reconstructions that have exactly these numbers. ``R2``, the default,
also has the published count of 135 weight tensors once BatchNorm is folded; ``R1`` takes the outputs of blocks; ``R3``
begins at 1/4 of the size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any, ClassVar

import torch
from torch import nn

from bitfront.errors import UsageError, unknown_name
from bitfront.models.blocks import check_options, check_size, factors, state_shapes
from bitfront.models.mobilenet_blocks import (
    ALPHAS,
    EPSILON,
    KERAS,
    MOMENTUM,
    Backbone,
    initialise,
    make_divisible,
    tap_channels,
)
from bitfront.models.mobilenet_keys import backbone_options

__all__ = ["QSeg1", "QSeg2", "QSegModule", "Variant", "double"]

SIZE_MULTIPLE = 32
HEAD_DIVISOR = 4


@dataclass(frozen=True, slots=True)
class Variant:
    """One reconstruction of both heads; widths at ``head_width`` 1, from the shallow end to the deep one."""

    taps: str
    first: int
    """The shallowest tap: 0 is 1/2 of the size, 1 is 1/4."""
    reduced: tuple[int, ...]
    """Widths after the 1x1 convolutions."""
    chain: tuple[int, ...]
    """Q-Seg2: widths of the 3x3 convolutions, from the deep end."""
    biases: bool
    """Whether the convolutions before the classifier have biases."""
    class_biases: bool
    """Whether the classifier and the convolutions behind it have biases."""
    even: int = 0
    """Q-Seg1: the width that every branch has after its first step; 0: its own."""
    norm_on_taps: bool = False
    """Q-Seg1: BatchNorm on the taps that end in a sum, rather than on the joined branches."""
    conv_first: bool = False
    """Q-Seg2: convolve, then take in the tap."""
    fuse: bool = False
    """Q-Seg2: one more 3x3 convolution at the end of the chain."""

    def scaled(self, head_width: float) -> Variant:
        """Return the variant with its widths multiplied, and rounded to multiples of 4."""

        def all_of(widths: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(make_divisible(c * head_width, HEAD_DIVISOR) for c in widths)

        even = all_of((self.even,))[0] if self.even else 0
        return replace(self, reduced=all_of(self.reduced), chain=all_of(self.chain), even=even)


VARIANTS: Mapping[str, Variant] = {
    "R1": Variant(
        "block", 0, (56, 56, 56, 56, 96), (56, 56, 56, 56), biases=False, class_biases=True,
        even=56, norm_on_taps=True, conv_first=True, fuse=True,
    ),
    "R2": Variant("expand", 0, (28, 28, 40, 60, 60), (40, 88, 88, 88), biases=True, class_biases=False),
    "R3": Variant("expand", 1, (28, 48, 64, 76), (84, 132, 28), biases=True, class_biases=True, conv_first=True),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _QSeg:
    """The options of both families."""

    classes: int = 20
    channels: int = 3
    variant: str = "R2"
    alpha: float = 1.4
    expansion: int = 6
    head_width: float = 1.0
    """Factor on the widths of the head."""
    momentum: float = MOMENTUM
    """Share of BatchNorm's running statistics that a training step keeps; 0.9 suits trainings of few steps."""

    name: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "alpha": ALPHAS,
        "expansion": (2, 4, 6),
        "head_width": (0.25, 0.5, 0.75, 1.0),
    }
    size_multiple: ClassVar[int] = SIZE_MULTIPLE
    counts_statistics: ClassVar[bool] = True
    """Born in Keras, where running statistics are counted among the parameters."""
    own_part: ClassVar[str] = ""
    """Prefix of keys that only this family's weights have."""

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        if self.variant not in VARIANTS:
            raise unknown_name(f"variant of {self.name}", self.variant, VARIANTS)
        check_options(self, ("classes", "channels", "expansion"), ("alpha", "head_width"))
        if not 0 <= self.momentum < 1:
            raise UsageError(f"{self.name}: momentum must be at least 0 and below 1, not {self.momentum}")

    def build(self) -> QSegModule:
        """Build the network with fresh weights, drawn from torch's current generator."""
        raise NotImplementedError

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of one of our state dicts, or ``None``."""
        try:
            given = {key: tuple(shape) for key, shape in shapes.items()}
            reduced = tuple(given[f"head.reduce.{i}.0.weight"][0] for i in range(_count(given, "head.reduce.")))
            found = backbone_options(given)
            options: dict[str, Any] = {
                "classes": given["head.classifier.weight"][0],
                "channels": found["channels"],
                "alpha": found["width"],
                "expansion": found["expansion"],
            }
        except (KeyError, IndexError, ZeroDivisionError, StopIteration):
            return None
        if not any(key.startswith(cls.own_part) for key in given):
            return None
        for variant, width in product(VARIANTS, factors(cls.knobs["head_width"])):
            found = {**options, "variant": variant, "head_width": width}
            if VARIANTS[variant].scaled(width).reduced == reduced and state_shapes(cls(**found)) == given:
                return found
        return None

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Keys are our own."""
        return key


def _count(keys: Mapping[str, Any], prefix: str) -> int:
    return len({key.removeprefix(prefix).partition(".")[0] for key in keys if key.startswith(prefix)})


class QSegModule(nn.Module):
    """The network: float32 ``(b, channels, h, w)``, sides multiples of 32 -> logits ``(b, classes, h, w)``."""

    def __init__(self, options: _QSeg, head: Head) -> None:
        super().__init__()
        self.name, self.variant = options.name, VARIANTS[options.variant]
        self.backbone = Backbone(
            options.channels, options.alpha, options.expansion, KERAS._replace(momentum=options.momentum)
        )
        self.head = head
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits at the size of ``x``. Raises UsageError when a side is no multiple of 32."""
        check_size(x, SIZE_MULTIPLE, self.name)
        taps = self.backbone.taps(x)[self.variant.taps][self.variant.first :]
        logits: torch.Tensor = self.head(taps)
        return logits


class Head(nn.Module):
    """What both heads share: the reduced taps before, the classes after."""

    def __init__(self, options: _QSeg) -> None:
        super().__init__()
        self.variant = VARIANTS[options.variant].scaled(options.head_width)
        taps = tap_channels(self.variant.taps, options.alpha, options.expansion)[self.variant.first :]
        self.reduce = nn.ModuleList(
            ConvReLU(c_in, c_out, 1, self.variant.biases)
            for c_in, c_out in zip(taps, self.variant.reduced, strict=True)
        )

    def add_classifier(self, c_in: int, classes: int) -> None:
        """Add the layers that :meth:`classify` runs."""
        bias = self.variant.class_biases
        self.classifier = nn.Conv2d(c_in, classes, 1, bias=bias)
        self.grow = nn.ModuleList(
            nn.Conv2d(classes, classes, 3, padding=1, bias=bias) for _ in range(self.variant.first + 1)
        )

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Joined maps ``(b, c, h, w)`` -> logits at the size of the image."""
        x = self.classifier(x)
        for conv in self.grow:
            x = conv(double(x))
        return x


class Independent(Head):
    """Head of Q-Seg1: every tap goes up on its own."""

    def __init__(self, options: QSeg1) -> None:
        super().__init__(options)
        v, taps = self.variant, tap_channels(self.variant.taps, options.alpha, options.expansion)
        self.branches = nn.ModuleList()
        for steps, c in enumerate(v.reduced):
            ends = [c, *[v.even or c] * steps]
            branch = (ConvReLU(a, b, 3, v.biases) for a, b in pairwise(ends))
            self.branches.append(nn.ModuleList(branch))
        joined = sum(v.even if v.even and steps else c for steps, c in enumerate(v.reduced))
        normed = taps[1:-1] if v.norm_on_taps else (joined,)  # the first tap and the last end in no sum
        self.norm = nn.ModuleList(nn.BatchNorm2d(c, eps=EPSILON, momentum=1 - options.momentum) for c in normed)
        self.add_classifier(joined, options.classes)

    def forward(self, taps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps from fine to coarse -> logits at the size of the image."""
        if self.variant.norm_on_taps:
            middle = [norm(x) for norm, x in zip(self.norm, taps[1:-1], strict=True)]
            taps = [taps[0], *middle, taps[-1]]
        maps = []
        for x, reduce, branch in zip(taps, self.reduce, self.branches, strict=True):
            x = reduce(x)
            for step in branch:
                x = step(double(x))
            maps.append(x)
        joined = torch.cat(maps, dim=1)
        return self.classify(joined if self.variant.norm_on_taps else self.norm[0](joined))


class Progressive(Head):
    """Head of Q-Seg2: one chain from the coarsest map to the finest, which takes in a tap at each step."""

    def __init__(self, options: QSeg2) -> None:
        super().__init__(options)
        v = self.variant
        c, self.chain = v.reduced[-1], nn.ModuleList()
        for tap, c_out in zip(reversed(v.reduced[:-1]), v.chain, strict=True):
            self.chain.append(ConvReLU(c if v.conv_first else c + tap, c_out, 3, v.biases))
            c = c_out + tap if v.conv_first else c_out
        if v.fuse:
            self.fuse = ConvReLU(c, c, 3, v.biases)
        self.add_classifier(c, options.classes)

    def forward(self, taps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps from fine to coarse -> logits at the size of the image."""
        *rest, x = [reduce(tap) for reduce, tap in zip(self.reduce, taps, strict=True)]
        for step, tap in zip(self.chain, reversed(rest), strict=True):
            x = double(x)
            x = torch.cat([step(x), tap], dim=1) if self.variant.conv_first else step(torch.cat([x, tap], dim=1))
        return self.classify(self.fuse(x) if self.variant.fuse else x)


class ConvReLU(nn.Sequential):
    """Convolution at the same size, and ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int, bias: bool) -> None:
        super().__init__(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=bias), nn.ReLU())


def double(x: torch.Tensor) -> torch.Tensor:
    """Double height and width by nearest neighbour with nothing but Concatenate and Reshape.

    In ``(b, h, w, c)`` that is ``[x, x]`` along the channels read as ``(b, h, 2 w, c)``, then along the width read as
    ``(b, 2 h, 2 w, c)``; in ``(b, c, h, w)`` the pixels need an axis of their own first. ``graph.passes.prepare`` makes
    one resize of it.
    """
    b, c, h, w = x.shape
    x = x.reshape(b, c, h, w, 1)
    x = torch.cat([x, x], dim=4).reshape(b, c, h, 2 * w)
    return torch.cat([x, x], dim=3).reshape(b, c, 2 * h, 2 * w)


@dataclass(frozen=True, slots=True)
class QSeg1(_QSeg):
    """Q-Seg1: every tap goes up on its own; all are joined at the end. ``classes`` is the number of output channels."""

    name: ClassVar[str] = "q_seg1"
    own_part: ClassVar[str] = "head.branches."

    def build(self) -> QSegModule:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return QSegModule(self, Independent(self))


@dataclass(frozen=True, slots=True)
class QSeg2(_QSeg):
    """Q-Seg2: one chain goes up and takes in a tap at each step. ``classes`` is the number of output channels."""

    name: ClassVar[str] = "q_seg2"
    own_part: ClassVar[str] = "head.chain."

    def build(self) -> QSegModule:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return QSegModule(self, Progressive(self))
