"""Weights of MobileNets from elsewhere: the names of their layers, and the options that their shapes tell.

======================================  ======================================  =====================================
file                                    for example                             ours
======================================  ======================================  =====================================
torchvision's MobileNetV2               ``features.2.conv.1.0``                 ``backbone.blocks.1.depthwise.conv``
DeepLabV3+ on it (PyTorch)              ``backbone.low_level_features.2...``    the same
torchvision's MobileNetV3-Large         ``features.4.block.2.fc1``              ``backbone.blocks.3.squeeze.reduce``
torchvision's DeepLabV3 on it           ``backbone.4.block.2.fc1``              the same
TensorFlow's (slim) MobileNetV2         ``MobilenetV2/expanded_conv_1/expand``  ``backbone.blocks.1.expand``
======================================  ======================================  =====================================
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bitfront.models import mobilenet_v3_blocks
from bitfront.models.blocks import factors
from bitfront.models.mobilenet_blocks import ALPHAS, stages

__all__ = [
    "backbone_options",
    "backbone_v3_options",
    "mobilenet_v2_layers",
    "mobilenet_v3_layers",
    "output_stride_of",
    "tensorflow_axes",
    "tensorflow_key",
]

Shapes = Mapping[str, tuple[int, ...]]
MAX_REPEATS = 4


def mobilenet_v2_layers() -> dict[str, str]:
    """Torch layer -> ours, for MobileNetV2 as torchvision has it; blocks 0 to 2 are DeepLabV3+'s low-level features."""
    found: dict[str, str] = {}
    for prefix, first in (("features", 0), ("backbone.low_level_features", 0), ("backbone.high_level_features", 4)):
        for i in range(first, sum(s.repeats for s in stages(1.0)[1]) + 1):
            found |= {f"{prefix}.{i}.{theirs}": f"backbone.{ours}" for theirs, ours in _v2_block(i)}
    return found


def _v2_block(i: int) -> Iterator[tuple[str, str]]:
    if i == 0:
        yield from (("0", "stem.conv"), ("1", "stem.bn"))
        return
    parts = ("depthwise", "project") if i == 1 else ("expand", "depthwise", "project")
    for j, part in enumerate(parts):
        conv, norm = (f"conv.{j}", f"conv.{j + 1}") if part == "project" else (f"conv.{j}.0", f"conv.{j}.1")
        yield from ((conv, f"blocks.{i - 1}.{part}.conv"), (norm, f"blocks.{i - 1}.{part}.bn"))


def mobilenet_v3_layers() -> dict[str, str]:
    """Torch layer -> ours, for MobileNetV3-Large as torchvision has it."""
    found: dict[str, str] = {}
    for prefix in ("features", "backbone"):
        for i in range(len(mobilenet_v3_blocks.BLOCKS) + 2):
            found |= {f"{prefix}.{i}.{theirs}": f"backbone.{ours}" for theirs, ours in _v3_block(i)}
    return found


def _v3_block(i: int) -> Iterator[tuple[str, str]]:
    table = mobilenet_v3_blocks.BLOCKS
    if i in (0, len(table) + 1):
        part = "last" if i else "stem"
        yield from (("0", f"{part}.conv"), ("1", f"{part}.bn"))
        return
    block, c_in = table[i - 1], table[i - 2].channels if i > 1 else mobilenet_v3_blocks.STEM
    parts = ["depthwise", *(["squeeze"] if block.squeezes else []), "project"]
    for j, part in enumerate(["expand", *parts] if block.hidden != c_in else parts):
        names = (("fc1", "reduce"), ("fc2", "restore")) if part == "squeeze" else (("0", "conv"), ("1", "bn"))
        yield from ((f"block.{j}.{theirs}", f"blocks.{i - 1}.{part}.{ours}") for theirs, ours in names)


_TENSORFLOW_LAYERS = (
    (r"MobilenetV2/Conv", "backbone.stem"),
    (r"MobilenetV2/expanded_conv_(\d+)/(expand|depthwise|project)", r"backbone.blocks.\1.\2"),
    (r"MobilenetV2/expanded_conv/(depthwise|project)", r"backbone.blocks.0.\1"),
    (r"aspp0", "pyramid.local"),
    (r"image_pooling", "pyramid.pooling"),
    (r"concat_projection", "pyramid.join"),
    (r"logits/semantic", "logits"),
)
_TENSORFLOW_LEAVES = {
    "weights": "conv.weight",
    "depthwise_weights": "conv.weight",
    "BatchNorm/gamma": "bn.weight",
    "BatchNorm/beta": "bn.bias",
    "BatchNorm/moving_mean": "bn.running_mean",
    "BatchNorm/moving_variance": "bn.running_var",
}


def tensorflow_key(key: str) -> str | None:
    """Our key of a variable of TensorFlow's DeepLabV3 on MobileNetV2; ``None`` for any other."""
    for pattern, ours in _TENSORFLOW_LAYERS:
        found = re.match(rf"{pattern}/([\w/]+)$", key)
        if found is None:
            continue
        leaf = found[found.re.groups]
        if ours == "logits":
            return {"weights": "logits.weight", "biases": "logits.bias"}.get(leaf)
        known = _TENSORFLOW_LEAVES.get(leaf)
        return None if known is None else f"{found.expand(ours)}.{known}"
    return None


def tensorflow_axes(key: str) -> tuple[int, ...] | None:
    """Order of axes that makes a TensorFlow variable ours; ``None`` to keep it."""
    if tensorflow_key(key) is None or not key.endswith("weights"):
        return None
    return (2, 3, 0, 1) if key.endswith("depthwise_weights") else (3, 2, 0, 1)


def backbone_options(shapes: Shapes) -> dict[str, Any]:
    """Return ``channels``, ``width``, ``expansion`` and ``repeats`` of a MobileNetV2 under our keys.

    Raises KeyError, IndexError, ZeroDivisionError or StopIteration when it is none.
    """
    first, depthwise = shapes["backbone.stem.conv.weight"], shapes["backbone.blocks.1.depthwise.conv.weight"]
    channels = _projected(shapes)
    repeats = next(r for r in range(MAX_REPEATS, 0, -1) if len(_widths(1.0, r)) == len(channels) + 1)
    return {
        "channels": first[1],
        "width": next(a for a in factors(ALPHAS) if _widths(a, repeats) == (first[0], *channels)),
        "expansion": depthwise[0] // channels[0],
        "repeats": repeats,
    }


def _widths(alpha: float, repeats: int) -> tuple[int, ...]:
    stem, found = stages(alpha, repeats)
    return stem, *(stage.channels for stage in found for _ in range(stage.repeats))


def _projected(shapes: Shapes) -> tuple[int, ...]:
    """Channels of every block's output."""
    n = sum(bool(re.fullmatch(r"backbone\.blocks\.\d+\.project\.conv\.weight", key)) for key in shapes)
    return tuple(shapes[f"backbone.blocks.{i}.project.conv.weight"][0] for i in range(n))


def backbone_v3_options(shapes: Shapes) -> dict[str, Any]:
    """Return ``channels``, ``width`` and ``repeats`` of a MobileNetV3-Large under our keys.

    Raises KeyError, IndexError or StopIteration when it is none.
    """
    first, channels = shapes["backbone.stem.conv.weight"], _projected(shapes)
    blocks = mobilenet_v3_blocks.blocks
    repeats = next(r for r in range(MAX_REPEATS, 0, -1) if len(blocks(1.0, r)) == len(channels))
    hidden = [shapes[f"backbone.blocks.{i}.depthwise.conv.weight"][0] for i in range(len(channels))]
    found = list(zip(hidden, channels, strict=True))
    width = next(a for a in factors(ALPHAS) if [(b.hidden, b.channels) for b in blocks(a, repeats)] == found)
    return {"channels": first[1], "width": width, "repeats": repeats}


def output_stride_of(stem: str) -> int:
    """Return what a file's name says (``os8``), else 16: the weights have no trace of it."""
    found = re.search(r"os(8|16|32)(?!\d)", stem)
    return int(found[1]) if found else 16
