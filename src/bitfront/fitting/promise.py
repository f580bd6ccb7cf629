"""Which untrained networks promise most: their cost from their layers, their score from those that are known.

A network's latency is taken to be in proportion to its multiply-accumulates, with channels rounded up to what a vector
register holds, plus a share for every pixel that its answer has and for every layer that is called. Its error, one
minus the score, is taken to be a product of powers of the number of pixels and of the multiply-accumulates a pixel
(thesis 001, tables 4.7 and 4.22: 512 to 96 pixels, four shapes). The powers begin as they are there and are corrected
by every score that is known: the posterior mean of a linear model with a Gaussian prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.factories import build_module
from bitfront.fitting.space import Architecture
from bitfront.sources import Source

__all__ = ["Layers", "layers", "promising"]

LANES = 8
"""Channels that are computed together."""
PIXEL_COST, LAYER_COST = 300.0, 90_000.0
"""Cost of a pixel of the answer and of a layer, in multiply-accumulates. Measured for Fast-SCNN in ONNX Runtime,
float32, one x86 core, 53 networks of 96 to 512 pixels: the latencies agree within 6 % on average."""
PRIOR = np.array([-0.9, 0.3, 0.13, -0.35])
"""Minus the logarithm of the error: constant, power of pixels, of multiply-accumulates a pixel, step to one channel."""
SPREAD = np.array([3.0, 0.1, 0.06, 0.2])
"""Standard deviations of the prior."""
NOISE = 0.15
"""Standard deviation of the logarithm of the error, from one training to the next."""
FLOOR = 0.2
"""A front begins so far below its cheapest network, in the logarithm of the error."""
STEPS = 400
MIN_ERROR = 1e-4

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layers:
    """What is counted of a network at one size."""

    macs: float
    padded_macs: float
    """With channels rounded up to ``LANES``."""
    n_layers: int
    n_pixels: int

    @property
    def cost(self) -> float:
        """The latency to expect, in multiply-accumulates."""
        return self.padded_macs + PIXEL_COST * self.n_pixels + LAYER_COST * self.n_layers

    def at(self, size: tuple[int, int]) -> Layers:
        """Return the counts at another size; as for networks of convolutions."""
        factor = math.prod(size) / self.n_pixels
        return Layers(self.macs * factor, self.padded_macs * factor, self.n_layers, math.prod(size))


def layers(source: Source, architecture: Architecture) -> Layers:
    """Count the convolutions and linear layers that a forward pass calls. Raises UsageError when it cannot be built."""
    import torch
    from torch import nn

    found: list[tuple[float, float]] = []

    def hook(layer: Any, _: Any, answer: Any) -> None:
        is_conv = isinstance(layer, nn.Conv2d)
        n_in = layer.in_channels // layer.groups if is_conv else layer.in_features
        n_out = answer.shape[1] if is_conv else answer.shape[-1]
        places = answer.numel() / n_out * (math.prod(layer.kernel_size) if is_conv else 1)
        found.append((places * n_out * n_in, places * _padded(n_out) * (n_in if n_in < LANES / 2 else _padded(n_in))))

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module = build_module(source.family, source.whole(architecture.options), source.name).eval()
        for layer in module.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.register_forward_hook(hook)
        channels = source.contract(architecture.size, architecture.options).channels
        module(torch.zeros(1, channels, *architecture.size))
    return Layers(sum(m for m, _ in found), sum(p for _, p in found), len(found), math.prod(architecture.size))


def _padded(n: int) -> int:
    return -(-n // LANES) * LANES


def promising(
    source: Source,
    candidates: Sequence[Architecture],
    known: Sequence[tuple[Architecture, float]],
    n: int,
) -> list[Architecture]:
    """Return up to ``n`` candidates, each the one that adds most to the front, those chosen before taken in.

    The front is the best score at every cost; what a network adds is the area between, over the logarithm of the cost
    and the logarithm of the error.

    Args:
        source: the opened model.
        candidates: networks to choose from.
        known: networks that were scored, with scores in [0, 1].
        n: how many to choose.
    """
    if not candidates:
        return []
    counted = _all_layers(source, [*candidates, *(a for a, _ in known)])
    weights = _fitted([(_features(a, counted), _quality(score)) for a, score in known])
    places = [(math.log(counted[a.id].cost), float(_features(a, counted) @ weights)) for a in candidates]
    seen = [(math.log(counted[a.id].cost), _quality(score)) for a, score in known]
    lowest = min(quality for _, quality in places) - FLOOR
    axis = np.linspace(min(u for u, _ in places), max(u for u, _ in (*places, *seen)) + FLOOR, STEPS)
    front = np.full(STEPS, lowest)
    for u, quality in seen:
        front = np.where(axis >= u, np.maximum(front, quality), front)
    chosen: list[Architecture] = []
    for _ in range(n):
        gains = [float((np.maximum(0.0, q - front) * (axis >= u)).sum()) for u, q in places]
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            break
        chosen.append(candidates[best])
        front = np.where(axis >= places[best][0], np.maximum(front, places[best][1]), front)
    return chosen


def _all_layers(source: Source, architectures: Sequence[Architecture]) -> dict[str, Layers]:
    """Count every family once, at its smallest size."""
    smallest: dict[str, Architecture] = {}
    for a in sorted(architectures, key=lambda a: math.prod(a.size)):
        smallest.setdefault(a.family, a)
    counted = {family: layers(source, a) for family, a in smallest.items()}
    return {a.id: counted[a.family].at(a.size) for a in architectures}


def _quality(score: float) -> float:
    return -math.log(max(1.0 - score, MIN_ERROR))


def _features(architecture: Architecture, counted: Mapping[str, Layers]) -> Floats:
    n_pixels = math.prod(architecture.size)
    per_pixel = max(counted[architecture.id].macs, 1.0) / n_pixels
    grey = float(architecture.options.get("channels", 3) == 1)
    return np.array([1.0, math.log(n_pixels), math.log(per_pixel), grey])


def _fitted(points: Sequence[tuple[Floats, float]]) -> Floats:
    """Return the posterior mean of the weights."""
    precision = np.diag(SPREAD**-2)
    right = precision @ PRIOR
    for features, quality in points:
        precision = precision + np.outer(features, features) / NOISE**2
        right = right + features * quality / NOISE**2
    return np.linalg.solve(precision, right)
