"""Batch normalization that is live while a folded layer is trained under formats, and folded at every step.

A layer computes ``y = conv(x, w) + b`` from folded weights. With the mean and the deviation s of ``conv(x, w)`` over
images, the same layer is a convolution and a batch normalization of gain ``s`` and shift ``b + mean``. Trained so, the
weights that are rounded are ``w gain / s`` with *running* statistics, so that they do not jump from batch to batch, and
what the layer answers is normalized by those of the *batch*; later by the running ones, which is the folded layer.
(Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference", 3.2;
Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", batch normalization with
correction and freezing.) It needs no unfolded graph: it is there for files, and after equalization, too.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor, nn

from bitfront.graph.ir import Graph, Node

__all__ = ["LiveNorm", "normalized_layers"]

EPSILON = 1e-5
MOMENTUM = 0.1
"""Share of a batch in the running statistics, as PyTorch's default."""
SMALLEST_GAIN = 1e-6


def normalized_layers(graph: Graph) -> tuple[Node, ...]:
    """Return the convolutions that get one: with weights and bias of their own, maps of several positions, and another
    layer behind them, for the last layer's answers have a meaning.
    """
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    ahead, found = set[str](), list[Node]()
    for node in reversed(graph.nodes):
        layer = node.op in ("conv", "dense")
        own = len(node.inputs) == 3 and all(n in graph.constants and uses[n] == 1 for n in node.inputs[1:])
        if node.op == "conv" and own and node.output in ahead and math.prod(graph.tensors[node.output].shape[2:]) > 1:
            found.append(node)
        if layer or node.output in ahead:
            ahead.update(name for name in node.inputs if name not in graph.constants)
    return tuple(reversed(found))


class LiveNorm(nn.Module):  # type: ignore[misc]
    """The batch normalization of one convolution with ``n_channels`` outputs; see the module."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(n_channels))
        self.register_buffer("mean", torch.zeros(n_channels))
        self.register_buffer("variance", torch.ones(n_channels))

    def begin(self, answers: Tensor) -> Tensor:
        """Take the statistics of ``conv(x, w)``, ``(b, c, h, w)``, so that nothing changes; return the means ``(c,)``.

        The layer's bias then is to be its old one plus the means.
        """
        variance, mean = torch.var_mean(answers, (0, 2, 3), correction=0)
        self.mean.copy_(mean)
        self.variance.copy_(variance)
        with torch.no_grad():
            self.gain.copy_(torch.sqrt(variance + EPSILON))
        return mean

    def _gain(self) -> Tensor:
        return self.gain.abs().clamp_min(SMALLEST_GAIN)

    def _factor(self) -> Tensor:
        return self._gain() / torch.sqrt(self.variance + EPSILON)

    def weight(self, value: Tensor) -> Tensor:
        """Return a weight ``(c, ...)`` folded with the running statistics."""
        return value * self._factor().reshape(-1, *[1] * (value.ndim - 1))

    def bias(self, value: Tensor) -> Tensor:
        """Return a bias ``(c,)`` folded with the running statistics."""
        return value - self.mean * self._factor()

    def forward(self, answers: Tensor, bias: Tensor) -> Tensor:
        """Return the answers of the folded, rounded weights, normalized by their batch; it moves the running ones."""
        variance, mean = torch.var_mean(answers, (0, 2, 3), correction=0)
        factor = self._factor().detach()
        with torch.no_grad():
            self.mean.lerp_(mean / factor, MOMENTUM)
            self.variance.lerp_(variance / factor**2, MOMENTUM)
        scale = self._gain() * torch.rsqrt(variance + EPSILON * factor**2)
        shift = bias - mean * scale
        return answers * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)
