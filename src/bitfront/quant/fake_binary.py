"""Binary formats in training: signs forward, straight-through gradients backward.

Weights: the gradient of a sign by its latent weight is 1 (Courbariaux et al. 2015, algorithm 1; latent weights are kept
within [-1, 1]); of one scaled by the mean of its channel's ``n`` absolute weights it is ``1 / n`` more than the scale
(Rastegari et al. 2016, section 3.1). Activations: 1 where ``|x| <= 1``, else 0 (Courbariaux et al. 2016, equation 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bitfront.quant.binary import Mode
from bitfront.quant.fake import FakeQuantizer
from bitfront.quant.formats import Binary

__all__ = ["BinaryQuantizer"]


class _Sign(torch.autograd.Function):  # type: ignore[misc]
    """-1 or 1; gradients pass where ``|x| <= 1``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, odds: Tensor | None) -> Tensor:
        ctx.save_for_backward(x.abs() <= 1)
        return torch.where(x >= 0 if odds is None else odds < (x + 1) / 2, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.saved_tensors[0], None


class _Scaled(torch.autograd.Function):  # type: ignore[misc]
    """``alpha * sign(latent)`` with ``alpha = gain * mean |latent|`` of each channel."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, gain: Tensor) -> Tensor:
        alpha = gain * _mean(latent)
        ctx.save_for_backward(latent.abs() <= 1, gain * (len(latent) / latent.numel()) + 0 * alpha, alpha)
        return torch.where(latent >= 0, alpha, -alpha)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        inside, share, alpha = ctx.saved_tensors
        return gradients[0] * (share + alpha * inside), None


def _mean(latent: Tensor) -> Tensor:
    return latent.abs().mean(dim=tuple(range(1, latent.ndim)), keepdim=True)


class BinaryQuantizer(FakeQuantizer):
    """A binary format: of weights, with scales that are learned or follow the latent weights; of activations, fixed."""

    def __init__(self, form: Binary, mode: Mode, latent: Tensor | None = None, *, n_dims: int = 4) -> None:
        """Make ready for weights that begin as ``latent`` ``(oc, ...)``; without them for activations."""
        weights = latent is not None
        super().__init__(form, learned=weights and not mode.mean, n_dims=n_dims)
        self.mode, self.weights = mode, weights
        if latent is not None and mode.mean:
            self.register_buffer("gain", self.scale / _mean(latent).clamp(min=1e-30), persistent=False)

    def forward(
        self, x: Tensor, learn: bool = True, rule: str = "half_even", clip: Sequence[float] | None = None
    ) -> Tensor:
        """Return the scale times the signs of ``x``; see :meth:`bitfront.quant.fake.FakeQuantizer.forward`."""
        if self.weights and self.mode.mean:
            scaled: Tensor = _Scaled.apply(x, self.gain)
            return scaled
        odds = torch.rand_like(x) if self.weights and self.mode.stochastic and self.training else None
        signs: Tensor = _Sign.apply(x, odds)
        return signs * self.step()

    def format_of(self, latent: Tensor | None) -> Binary:
        """Return the format, its scales as they are now beside these latent weights."""
        assert isinstance(self.form, Binary)
        if latent is None:
            return self.form
        scale = self.gain * _mean(latent) if self.mode.mean else self.step()
        return Binary.of(tuple(float(s) for s in scale.detach().cpu().reshape(-1)), self.form.axis)
