"""Faster R-CNN with a feature pyramid, on ResNet-50 and on MobileNetV3-Large: detectors of two stages.

Ren et al. (2015), "Faster R-CNN: towards real-time object detection with region proposal networks"; Lin et al. (2017),
"Feature pyramid networks for object detection". With 90 classes of objects 41,755,286 and 19,386,354 parameters, as
torchvision has them: BatchNorm's numbers are frozen and not counted. Boxes are chosen inside the network, so that it
runs in torch only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bitfront.contracts import Batch, Head
from bitfront.errors import UsageError
from bitfront.models.blocks import check_options, check_size, factors, fits
from bitfront.models.faster_rcnn_stages import (
    FeaturePyramid,
    Proposals,
    ProposalSettings,
    Regions,
    RegionSettings,
    Truth,
)
from bitfront.models.mobilenet_blocks import make_divisible
from bitfront.models.mobilenet_v3_blocks import MobileNetV3Large
from bitfront.models.resnet_blocks import ResNet, draw_unnormalized, freeze_norms, resnet_channels

__all__ = ["FasterRcnnMobileNetV3", "FasterRcnnModule", "FasterRcnnResNet50"]

SIZE_MULTIPLE = 32
PYRAMID, HIDDEN = 256, 1024
"""Channels of the pyramid and of the dense layers at ``head_width`` 1."""
SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
"""Sides of square anchors."""
WIDTHS = (0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class FasterRcnnResNet50:
    """On ResNet-50; ``classes`` are those of objects, the background comes on top."""

    classes: int = 90
    channels: int = 3
    width: float = 1.0
    """Factor on the channels of the feature extractor."""
    head_width: float = 1.0
    """Factor on the channels behind it."""
    frozen_norm: bool = True
    """BatchNorm keeps its numbers, those of the weights that it starts from; ``false`` trains it: from scratch."""

    name: ClassVar[str] = "faster_rcnn_resnet50_fpn"
    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {"width": WIDTHS, "head_width": WIDTHS}
    size_multiple: ClassVar[int] = SIZE_MULTIPLE
    usual_size: ClassVar[tuple[int, int]] = (800, 800)
    usual_fit: ClassVar[str] = "letterbox"
    proposals: ClassVar[ProposalSettings] = ProposalSettings(tuple((size,) for size in SIZES))
    regions: ClassVar[RegionSettings] = RegionSettings((4, 8, 16, 32))
    ends: ClassVar[tuple[str, str]] = ("body.stem.conv.weight", "body.stages.3.2.project.conv.weight")
    """Keys of the feature extractor's first and last convolution."""

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        check_options(self, ("classes", "channels"), ("width", "head_width"))

    @property
    def head(self) -> Head:
        """How boxes are coded."""
        return Head("boxes")

    def build(self) -> FasterRcnnModule:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return FasterRcnnModule(self, ResNet(self.channels, self.width))

    @classmethod
    def body_channels(cls, width: float) -> list[int]:
        """Return the channels of the maps that the pyramid takes in, the coarsest last."""
        return resnet_channels(width)

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of one of our state dicts, or ``None``."""
        try:
            behind = [shapes["pyramid.outer.0.weight"][0], shapes["regions.second.weight"][0]]
            head = next(w for w in factors(WIDTHS) if _behind(w) == behind)
            more = {"classes": shapes["regions.label.weight"][0] - 1, "head_width": head}
        except (KeyError, IndexError, StopIteration):
            return None
        return next((found for o in cls._bodies(shapes) if cls._is(found := {**more, **o}, shapes, ())), None)

    @classmethod
    def recognise_backbone(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any] | None:
        """Options that the feature extractor in one of our state dicts asks for, or ``None``."""
        return next((found for found in cls._bodies(shapes) if cls._is(found, shapes, ("body.",))), None)

    @classmethod
    def _is(cls, options: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], parts: tuple[str, ...]) -> bool:
        try:
            return fits(cls(**options), shapes, parts)
        except UsageError:
            return False

    @classmethod
    def _bodies(cls, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, Any]]:
        """Yield the options of feature extractors that begin and end as this one."""
        if not all(len(shapes.get(key, ())) == 4 for key in cls.ends):
            return
        first, last = (shapes[key] for key in cls.ends)
        frozen = not any(key.endswith("num_batches_tracked") for key in shapes)
        for width in factors(WIDTHS):
            if cls.body_channels(width)[-1] == last[0]:
                yield {"channels": first[1], "width": width, "frozen_norm": frozen}

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Keys are our own."""
        return key


@dataclass(frozen=True, slots=True)
class FasterRcnnMobileNetV3(FasterRcnnResNet50):
    """On MobileNetV3-Large, whose last two sets of maps (both at stride 32) make the pyramid."""

    name: ClassVar[str] = "faster_rcnn_mobilenet_v3_large_fpn"
    proposals: ClassVar[ProposalSettings] = ProposalSettings((SIZES,) * 3, confidence=0.05)
    regions: ClassVar[RegionSettings] = RegionSettings((32,))
    ends: ClassVar[tuple[str, str]] = ("body.stem.conv.weight", "body.last.conv.weight")

    def build(self) -> FasterRcnnModule:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return FasterRcnnModule(self, MobileNetV3Maps(self.channels, self.width))

    @classmethod
    def body_channels(cls, width: float) -> list[int]:
        """Return the channels of the maps that the pyramid takes in, the coarsest last."""
        last = make_divisible(160 * width)
        return [last, 6 * last]


def _behind(head_width: float) -> list[int]:
    """Channels of the pyramid and of the dense layers."""
    return [make_divisible(n * head_width) for n in (PYRAMID, HIDDEN)]


class MobileNetV3Maps(MobileNetV3Large):
    """``(b, channels, h, w)`` -> the maps behind the last halving, and the last ones, both at stride 32."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return both, the first first."""
        x = halved = self.stem(x)
        for block in self.blocks:
            x = block(x)
            if block.depthwise.conv.stride[0] == 2:
                halved = x
        return [halved, self.last(x)]


class FasterRcnnModule(nn.Module):
    """The network: float32 ``(b, channels, h, w)``, sides multiples of 32 -> ``(b, 6, 100)``.

    Of every box x1 y1 x2 y2 in pixels, its score and its class; the highest score first, zeros where there is no more.
    """

    backbone_parts = ("body",)
    torch_only = "it chooses boxes while it computes"

    def __init__(self, options: FasterRcnnResNet50, body: nn.Module) -> None:
        super().__init__()
        self.name = options.name
        if options.frozen_norm:
            freeze_norms(body)
            draw_unnormalized(body)
        c, hidden = _behind(options.head_width)
        self.body = body
        self.pyramid = FeaturePyramid(options.body_channels(options.width), c)
        self.proposals = Proposals(c, options.proposals)
        self.regions = Regions(c, hidden, options.classes, options.regions)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the boxes of every image. Raises UsageError when a side is no multiple of 32."""
        maps, size = self._maps(x)
        regions = self.proposals.propose(self.proposals(maps, size), size, training=False)
        found: torch.Tensor = self.regions.detect(maps, regions, size)
        return found

    def training_loss(self, images: torch.Tensor, batch: Batch, labels: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        """Return the sum of the losses of both stages; ``labels`` are the classes of the batch's boxes."""
        maps, size = self._maps(images)
        truth = _truth(batch, labels, images.device)
        found = self.proposals(maps, size)
        regions = self.proposals.propose(found, size, training=True)
        return self.proposals.loss(found, truth) + self.regions.loss(maps, regions, truth)

    def _maps(self, x: torch.Tensor) -> tuple[list[torch.Tensor], tuple[int, int]]:
        check_size(x, SIZE_MULTIPLE, self.name)
        return self.pyramid(self.body(x)), (x.shape[2], x.shape[3])


def _truth(batch: Batch, labels: Sequence[NDArray[np.int64]], device: torch.device) -> Truth:
    """Boxes without area are no objects."""
    truth = []
    for boxes, names in zip(batch.boxes, labels, strict=True):
        large = (boxes[:, 2:] - boxes[:, :2] > 0).all(1)
        truth.append((torch.from_numpy(boxes[large]).to(device), torch.from_numpy(names[large]).to(device)))
    return truth
