"""Convolution and dense layers on codes in torch, exact with single-precision arithmetic.

While every sum of absolute products stays below 2**24, float32 convolutions of whole numbers are exact in any order.
Where it does not, inputs and weights are cut into pieces of fewer bits whose convolutions are exact, and the results
are added in float64; layers that would need too many pieces are computed in float64 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitfront.errors import DataError
from bitfront.graph.ir import Node
from bitfront.graph.torch_operators import convolve

__all__ = ["Linear", "round_steps"]

EXACT_FLOAT32, EXACT_FLOAT64 = 2.0**24, 2.0**53
MAX_PIECES = 4
"""Convolutions in float32 that are still cheaper than one in float64."""


def round_steps(steps: Tensor, rule: str) -> Tensor:
    """Round in place, half to even or half up."""
    if rule == "half_even":
        return steps.round_()
    whole = steps.floor()
    return whole.add_(steps.sub_(whole).ge_(0.5))


@dataclass(slots=True)
class Linear:
    """A layer made ready: centred codes in, centred codes out."""

    node: Node
    weight: Tensor
    """Centred codes, in pieces along the output channels, scaled when that is exact."""
    bias: Tensor
    """Float32, or float64 where sums are taken in pieces."""
    multiplier: Tensor | None
    """Acc -> steps; ``None`` when it is part of weight and bias."""
    bounds: tuple[float, float]
    rule: str
    x_pieces: tuple[int, int] = (1, 0)
    """Pieces of the input, and the bits of all but the last."""
    w_pieces: tuple[int, int] = (1, 0)
    single: bool = False
    """Round sums to float32 before the multiplier, as the engines of affine codes do."""
    n_bytes: int = field(default=0)

    @classmethod
    def prepare(
        cls,
        node: Node,
        weight: NDArray[np.int64],
        bias: NDArray[np.int64],
        *,
        multiplier: NDArray[np.float32],
        reach: int,
        bounds: tuple[float, float],
        fixed: bool,
        rule: str,
        device: torch.device,
    ) -> Linear:
        """Choose the arithmetic of a layer.

        Args:
            node: ``conv`` or ``dense``.
            weight: centred codes ``(oc, ...)``.
            bias: codes ``(oc,)`` at the scale of the products.
            multiplier: acc -> steps of the output, one or one per channel.
            reach: largest magnitude of a centred input code.
            bounds: of the centred output codes.
            fixed: the multipliers are powers of two and nothing may be rounded before them.
            rule: how steps are rounded.
            device: where to compute.

        Raises DataError when sums can take more than 53 bits.
        """
        axes = tuple(range(1, weight.ndim))
        largest = float((np.abs(weight).sum(axes) * reach + np.abs(bias)).max())
        if largest >= EXACT_FLOAT64:
            raise DataError(f"layer '{node.name}': its sums need more than 53 bits", hint="use fewer bits")
        scale = _per_channel(multiplier.astype(np.float64), node)
        if largest < EXACT_FLOAT32:
            folded = fixed and _folds(multiplier)
            factor = np.broadcast_to(multiplier, len(bias)).astype(np.float64) if folded else np.ones(len(bias))
            shaped = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            kept = None if folded else scale.to(device, torch.float32)
            bias32 = torch.from_numpy((bias * factor).astype(np.float32)).to(device)
            return cls(node, _tensor(shaped, device), bias32, kept, bounds, rule)._sized()
        pieces = _pieces(weight, reach, axes)
        shaped_bias = _per_channel(bias.astype(np.float64), node).to(device)
        multiplier64 = scale.to(device)
        if pieces is None:
            double = torch.from_numpy(weight.astype(np.float64)).to(device)
            return cls(node, double, shaped_bias, multiplier64, bounds, rule, (0, 0), (1, 0), not fixed)._sized()
        x_pieces, w_pieces = pieces
        cut = np.stack(
            _cut(weight, *w_pieces), 1
        )  # (oc, pieces, ...): the pieces of a channel side by side, in its group
        cut = cut.reshape(-1, *weight.shape[1:])
        return cls(
            node, _tensor(cut, device), shaped_bias, multiplier64, bounds, rule, x_pieces, w_pieces, not fixed
        )._sized()

    def _sized(self) -> Linear:
        self.n_bytes = self.weight.nbytes + self.bias.nbytes
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """Return the centred output codes, float32, of centred input codes, float32."""
        if self.bias.dtype == torch.float32:
            steps = convolve(self.node, x, self.weight, self.bias)
        else:
            steps = self._wide(x)
            if self.single:
                steps = steps.float()
        if self.multiplier is not None:
            steps = steps.mul_(self.multiplier.to(steps.dtype))
        return round_steps(steps, self.rule).clamp_(*self.bounds).float()

    def _wide(self, x: Tensor) -> Tensor:
        """Exact sums in float64."""
        n_x, x_bits = self.x_pieces
        if not n_x:
            return convolve(self.node, x.double(), self.weight).add_(self.bias)
        n_w, w_bits = self.w_pieces
        sums = convolve(self.node, torch.cat(_cut_tensor(x, n_x, x_bits)), self.weight)
        n, channels = len(x), len(self.weight) // n_w
        parts = sums.view(n_x, n, channels, n_w, *sums.shape[2:])
        total = self.bias.expand(n, channels, *sums.shape[2:]).clone()
        for i in range(n_x):
            for k in range(n_w):
                total.add_(parts[i, :, :, k].double(), alpha=2.0 ** (i * x_bits + k * w_bits))
        return total


def _folds(multiplier: NDArray[np.float32]) -> bool:
    """Whether weights, biases and sums times the multiplier stay normal float32 numbers."""
    return bool(np.all((multiplier > 2.0**-100) & (multiplier < 2.0**100)))


def _per_channel(vector: NDArray[np.float64], node: Node) -> Tensor:
    vector = np.atleast_1d(vector)
    return torch.from_numpy(vector.reshape(1, -1, *[1] * (2 if node.op == "conv" else 0)).copy())


def _tensor(weight: NDArray[np.generic], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(weight.astype(np.float32)).to(device)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _pieces(
    weight: NDArray[np.int64], reach: int, axes: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the fewest pieces (number, bits) of input and weight whose products sum exactly in float32."""
    x_bits = (reach - 1).bit_length() + 1
    w_bits = int(np.abs(weight).max()).bit_length() + 1
    splits = [(n_x, n_w) for n_x in range(1, 4) for n_w in range(1, 3) if n_x * n_w <= MAX_PIECES]
    for n_x, n_w in sorted(splits, key=lambda s: (s[0] * s[1], s[1])):
        part_x, part_w = -(-x_bits // n_x), -(-w_bits // n_w)
        top_x = reach if n_x == 1 else 2 ** (part_x - 1)
        largest = max(float(np.abs(piece).sum(axes).max()) for piece in _cut(weight, n_w, part_w))
        if largest * top_x < EXACT_FLOAT32:
            return (n_x, part_x if n_x > 1 else 0), (n_w, part_w if n_w > 1 else 0)
    return None


def _cut(weight: NDArray[np.int64], n: int, bits: int) -> list[NDArray[np.int64]]:
    """Return pieces with ``weight = sum(piece_k 2**(k bits))``, each within -2**(bits - 1) .. 2**(bits - 1)."""
    pieces = []
    for _ in range(n - 1):
        low = ((weight + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1))
        pieces.append(low)
        weight = (weight - low) >> bits
    return [*pieces, weight]


def _cut_tensor(x: Tensor, n: int, bits: int) -> Sequence[Tensor]:
    pieces = []
    for _ in range(n - 1):
        high = torch.round(x * 2.0**-bits)
        pieces.append(x - high * 2.0**bits)
        x = high
    return [*pieces, x]
