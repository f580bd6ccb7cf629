"""How a network is fed that does not say it itself: by a name, by the data's description, by its family's habit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitfront.contracts import DataInfo, InputContract

__all__ = ["PREPROCESS", "feed", "normalization", "usual"]

PREPROCESS: Mapping[str, tuple[float, float] | None] = {
    "imagenet": None,
    "unit": (0.0, 1.0),
    "signed": (0.5, 0.5),
    "raw": (0.0, 1 / 255),
}
"""Name -> mean and std of a pixel in [0, 1]; ``imagenet`` has one of each per channel."""
IMAGENET = InputContract(1, 1)
IMAGENET_GREY = (0.449, 0.226)
"""Mean and standard deviation of networks with another number of channels."""


def feed(
    size: tuple[int, int], channels: int, info: DataInfo, preprocess: str = "", family: Any = None
) -> InputContract:
    """Return how a network of ``family`` is fed: as ``preprocess`` says (a key of :data:`PREPROCESS`; not empty), else
    as the data's description does, else as its family usually is.
    """
    data = {} if preprocess else info.preprocess
    mean, std = normalization(preprocess or usual(family), channels)
    return InputContract(
        *size,
        channels=channels,
        color="y" if channels == 1 else "rgb",
        mean=_floats(data.get("mean"), mean),
        std=_floats(data.get("std"), std),
        resize=str(info.preprocess.get("resize", getattr(family, "usual_resize", IMAGENET.resize))),
        fit=getattr(family, "usual_fit", IMAGENET.fit),
    )


def usual(family: Any) -> str:
    """Return the name of a family's own preprocessing."""
    return str(getattr(family, "usual_preprocess", "imagenet"))


def normalization(name: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of every channel. Raises KeyError for names that are not in :data:`PREPROCESS`."""
    pair = PREPROCESS[name]
    if pair is not None:
        return (pair[0],) * channels, (pair[1],) * channels
    if channels == len(IMAGENET.mean):
        return IMAGENET.mean, IMAGENET.std
    return (IMAGENET_GREY[0],) * channels, (IMAGENET_GREY[1],) * channels


def _floats(value: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    items = value if isinstance(value, (list, tuple)) else [value] * len(default)
    return default if value is None else tuple(float(v) for v in items)
