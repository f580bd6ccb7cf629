"""DeepLabV3 on MobileNetV2 as in TensorFlow's model zoo (``mobilenetv2_coco_voc_trainaug``): no dilated branches.

Chen et al. (2017), "Rethinking atrous convolution for semantic image segmentation"; Sandler et al. (2018), section 6.3.
The last 320 channels go through a 1x1 convolution and, as context, through image pooling; a 1x1 convolution joins both,
and the logits are enlarged with aligned corners. The backbone pads as TensorFlow does (and has its epsilon).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from bitfront.errors import UsageError
from bitfront.models.blocks import check_options, check_size, fits, renamed, upsample
from bitfront.models.deeplab_blocks import CHANNELS, OUTPUT_STRIDES, AtrousPyramid, check_output_stride, head_channels
from bitfront.models.mobilenet_blocks import ALPHAS, KERAS, Backbone
from bitfront.models.mobilenet_keys import backbone_options, output_stride_of, tensorflow_axes, tensorflow_key

__all__ = ["DeepLabV3MobileNetV2", "DeepLabV3MobileNetV2Module"]

SIZE_MULTIPLE = 32
RULES = KERAS._replace(momentum=0.9)
OUR_PARTS = ("backbone.", "pyramid.", "logits.")


@dataclass(frozen=True, slots=True)
class DeepLabV3MobileNetV2:
    """The family. ``classes`` is the number of output channels; 2,113,557 trainable parameters with 21."""

    classes: int = 21
    channels: int = 3
    width: float = 1.0
    expansion: int = 6
    repeats: int = 4
    """At most so many blocks of one width."""
    context: bool = True
    """Image pooling beside the 1x1 convolution."""
    head_width: float = 1.0
    output_stride: int = 16
    """Size of the image over the size of the backbone's maps: 8, 16 or 32."""

    name: ClassVar[str] = "deeplab_v3_mobilenet_v2"
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    knobs: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "width": ALPHAS[:-1],
        "expansion": (2, 4, 6),
        "repeats": (1, 2, 3, 4),
        "context": (False, True),
        "head_width": (0.25, 0.5, 0.75, 1.0),
        "output_stride": OUTPUT_STRIDES,
    }
    size_multiple: ClassVar[int] = SIZE_MULTIPLE

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no network."""
        check_options(self, ("classes", "channels", "expansion", "repeats"), ("width", "head_width"))
        check_output_stride(self)

    def build(self) -> DeepLabV3MobileNetV2Module:
        """Build the network with fresh weights, drawn from torch's current generator."""
        return DeepLabV3MobileNetV2Module(self)

    @classmethod
    def recognise(cls, shapes: Mapping[str, tuple[int, ...]], stem: str) -> Mapping[str, Any] | None:
        """Options of a state dict with our keys or TensorFlow's variable names, or ``None``.

        The output stride leaves no trace in the weights: it is what the file's name says (``os8``), else 16.
        """
        ours = _ordered(shapes)
        try:
            options: dict[str, Any] = {
                "classes": ours["logits.weight"][0],
                **backbone_options(ours),
                "context": "pyramid.pooling.conv.weight" in ours,
                "head_width": ours["pyramid.local.conv.weight"][0] / CHANNELS,
                "output_stride": output_stride_of(stem),
            }
            model = cls(**options)
        except (KeyError, IndexError, ZeroDivisionError, StopIteration, UsageError):
            return None
        return options if fits(model, ours) else None

    @classmethod
    def recognise_backbone(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any] | None:
        """Options that the feature extractor in a state dict (ours, or TensorFlow's MobileNetV2) asks for."""
        ours = _ordered(shapes)
        try:
            options = backbone_options(ours)
        except (KeyError, IndexError, ZeroDivisionError, StopIteration):
            return None
        return options if fits(cls(**options), ours, ("backbone.",)) else None

    @classmethod
    def rename(cls, key: str) -> str | None:
        """Our key of a TensorFlow variable; our own keys stay; ``None`` for any other."""
        return key if key.startswith(OUR_PARTS) else tensorflow_key(key)

    @classmethod
    def axes(cls, key: str) -> tuple[int, ...] | None:
        """Order of axes that makes a foreign array ours; ``None`` to keep it."""
        return tensorflow_axes(key)


def _ordered(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    found = {}
    for key, shape in shapes.items():
        axes = tensorflow_axes(key)
        found[key] = tuple(shape) if axes is None or len(axes) != len(shape) else tuple(shape[a] for a in axes)
    return renamed(DeepLabV3MobileNetV2, found)


class DeepLabV3MobileNetV2Module(nn.Module):
    """The network: float32 ``(b, channels, h, w)``, sides multiples of 32 -> logits ``(b, classes, h, w)``."""

    def __init__(self, options: DeepLabV3MobileNetV2) -> None:
        super().__init__()
        self.backbone = Backbone(
            options.channels,
            options.width,
            options.expansion,
            RULES,
            repeats=options.repeats,
            output_stride=options.output_stride,
        )
        c = head_channels(options.head_width)
        self.pyramid = AtrousPyramid(self.backbone.channels, c, (), pooling=options.context)
        self.logits = nn.Conv2d(c, options.classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits at the size of ``x``. Raises UsageError when a side is no multiple of 32."""
        check_size(x, SIZE_MULTIPLE, DeepLabV3MobileNetV2.name)
        return upsample(self.logits(self.pyramid(self.backbone(x))), x.shape[2], x.shape[3])
