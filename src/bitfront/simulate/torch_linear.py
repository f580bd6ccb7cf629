"""Convolution and dense layers on codes in torch, exact with single-precision arithmetic.

While every sum of absolute products stays below 2**24, float32 convolutions of whole numbers are exact in any order.
Where it does not, inputs and weights are cut into pieces of fewer bits whose convolutions are exact, and the results
are added in float64 (of two, where the outputs are coarse enough, in float32); layers that would need too many pieces
are computed in float64 throughout.
"""

from __future__ import annotations

import itertools
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
    weights: tuple[Tensor, ...]
    """Centred codes, or the pieces that add up to them, lowest first; times the multiplier when that is exact."""
    biases: tuple[Tensor | None, ...]
    """Of the lowest and of the highest product of pieces: they add up to the bias."""
    multiplier: Tensor | None
    """Acc -> steps; ``None`` when it is part of weights and biases."""
    bounds: tuple[float, float]
    rule: str
    x_pieces: tuple[int, int] = (1, 0)
    """Pieces of the input, and the bits of all but the last."""
    single: bool = False
    """Round sums to float32 before the multiplier, as the engines of affine codes do."""
    carries: bool = False
    """Two products whose sums are added in float32."""
    n_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.n_bytes = sum(t.nbytes for t in (*self.weights, *self.biases) if t is not None)

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
        if float((_row_sums(weight) * reach + np.abs(bias)).max()) >= EXACT_FLOAT64:
            raise DataError(f"layer '{node.name}': its sums need more than 53 bits", hint="use fewer bits")
        ones: NDArray[np.float64] = np.ones(len(bias))
        left: NDArray[np.floating] | None
        folds = fixed and _folds(multiplier)
        pieces = _cuts(weight, bias, reach)
        carries = folds and pieces is not None and pieces.carries(multiplier)
        if carries and pieces is not None:
            factor, left = ones * 2.0**-pieces.shift, multiplier * 2.0**pieces.shift
        else:
            factor, left = (multiplier * ones, None) if folds else (ones, multiplier)
        dtype = torch.float64 if fixed and not carries else torch.float32
        kept = None if left is None else _per_channel(left.astype(np.float64), node).to(device, dtype)
        by_row = factor.reshape(-1, *[1] * (weight.ndim - 1))
        if pieces is None:  # float64 throughout
            double = torch.from_numpy(weight * by_row).to(device), torch.from_numpy(bias * factor).to(device)
            return cls(node, double[:1], double[1:], kept, bounds, rule, (0, 0), not fixed)
        ready = tuple(_tensor(piece * by_row, device) for piece in pieces.weights)
        added = tuple(None if b is None else _tensor(b * factor, device) for b in pieces.biases)
        return cls(node, ready, added, kept, bounds, rule, pieces.x, not fixed, carries)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the centred output codes, float32, of centred input codes, float32."""
        steps = self._sums(x)
        if self.multiplier is not None:
            if self.single:
                steps = steps.float()
            steps = steps.mul_(self.multiplier)
        return round_steps(steps, self.rule).clamp_(*self.bounds).float()

    def _sums(self, x: Tensor) -> Tensor:
        """Exact sums: float32 of one product, float64 of several; carried, float32 that round alike."""
        n_x, x_bits = self.x_pieces
        if not n_x:
            return convolve(self.node, x.double(), self.weights[0], self.biases[0])
        pairs = list(itertools.product(_cut_tensor(x, n_x, x_bits), self.weights))
        sums = convolve(self.node, *pairs[0], self.biases[0])
        if self.carries:
            return _carried(sums, convolve(self.node, *pairs[1], self.biases[1]))
        for i, (part, weight) in enumerate(pairs[1:], 2):
            more = convolve(self.node, part, weight, self.biases[1] if i == len(pairs) else None)
            sums = sums.double().add_(more)
        return sums


def _carried(low: Tensor, high: Tensor) -> Tensor:
    """Return ``low + high`` for sums whose unit is a whole number of ``high``: what is left of ``low`` becomes a half.

    Where the results are rounded to two units or more, a half rounds like any other fraction.
    """
    whole = low.floor()
    return high.add_(whole).add_(low.sub_(whole).ceil_(), alpha=0.5)


def _folds(multiplier: NDArray[np.float32]) -> bool:
    """Whether weights, biases and sums times the multiplier stay normal float32 numbers."""
    return bool(np.all((multiplier > 2.0**-100) & (multiplier < 2.0**100)))


def _per_channel(vector: NDArray[np.float64], node: Node) -> Tensor:
    vector = np.atleast_1d(vector)
    return torch.from_numpy(vector.reshape(1, -1, *[1] * (2 if node.op == "conv" else 0)).copy())


def _tensor(array: NDArray[np.generic], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array.astype(np.float32)).to(device)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


@dataclass(frozen=True, slots=True)
class _Pieces:
    """What a layer is cut into."""

    x: tuple[int, int]
    """Number of pieces of the input, and the bits of all but the last."""
    weights: tuple[NDArray[np.int64], ...]
    """They add up to the weight, lowest first."""
    biases: tuple[NDArray[np.int64], NDArray[np.int64] | None]
    """Of the lowest and of the highest product of pieces."""
    shift: int
    """The sums of the highest product are whole numbers of ``2**shift``."""
    largest: float
    """Of these numbers."""

    def carries(self, multiplier: NDArray[np.float32]) -> bool:
        """Whether two sums may be added by :func:`_carried`: the result is exact, and rounded to two units or more."""
        exact = self.largest + EXACT_FLOAT32 / 2.0**self.shift + 2 < EXACT_FLOAT32 / 2
        return self.x[0] * len(self.weights) == 2 and exact and bool(np.all(multiplier <= 2.0 ** -(self.shift + 1)))


def _cuts(weight: NDArray[np.int64], bias: NDArray[np.int64], reach: int) -> _Pieces | None:
    """Return the fewest pieces of inputs, weights and biases whose products sum exactly in float32."""
    x_bits = (reach - 1).bit_length() + 1
    w_bits = int(np.abs(weight).max()).bit_length() + 1
    splits = [(n_x, n_w) for n_x in range(1, 4) for n_w in range(1, 3) if n_x * n_w <= MAX_PIECES]
    for n_x, n_w in sorted(splits, key=lambda s: (s[0] * s[1], s[1])):
        part_x, part_w = (-(-bits // n) if n > 1 else 0 for bits, n in ((x_bits, n_x), (w_bits, n_w)))
        tops = [reach] if n_x == 1 else [2 ** (part_x - 1)] * (n_x - 1) + [(reach >> (part_x * (n_x - 1))) + 1]
        weights = _cut(weight, n_w, part_w)
        shift = part_x * (n_x - 1) + part_w * (n_w - 1)
        low, high = _cut(bias, 2, shift) if shift else (bias, np.zeros_like(bias))
        sums = [np.outer(tops, _row_sums(w)) for w in weights]
        sums[0][0] += np.abs(low)
        sums[-1][-1] += np.abs(high)
        if max(float(s.max()) for s in sums) < EXACT_FLOAT32:
            scaled = tuple(w << (part_w * k) for k, w in enumerate(weights))
            largest = float(sums[-1][-1].max())
            return _Pieces((n_x, part_x), scaled, (low, high << shift if shift else None), shift, largest)
    return None


def _row_sums(weight: NDArray[np.int64]) -> NDArray[np.int64]:
    sums: NDArray[np.int64] = np.abs(weight).sum(tuple(range(1, weight.ndim)))
    return sums


def _cut(codes: NDArray[np.int64], n: int, bits: int) -> list[NDArray[np.int64]]:
    """Return pieces with ``codes = sum(piece_k 2**(k bits))``, each within -2**(bits - 1) .. 2**(bits - 1)."""
    pieces = []
    for _ in range(n - 1):
        low = ((codes + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1))
        pieces.append(low)
        codes = (codes - low) >> bits
    return [*pieces, codes]


def _cut_tensor(x: Tensor, n: int, bits: int) -> Sequence[Tensor]:
    """Return ``n`` pieces that add up to ``x``, lowest first, the k-th in multiples of ``2**(k bits)``."""
    pieces = []
    for k in range(1, n):
        magic = 1.5 * 2.0 ** (23 + k * bits)  # beyond it float32 holds multiples of 2**(k bits) only
        high = (x + magic).sub_(magic)
        pieces.append(x.sub_(high) if k > 1 else x - high)
        x = high
    return [*pieces, x]
