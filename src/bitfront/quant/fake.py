"""Fake quantization in torch: values through a format and back, with gradients.

With ``u = x / step`` the values become ``step * round(clip(u, low, high))`` and ``round`` passes gradients on as they
are. So the gradient by ``x`` is 1 inside the range and 0 outside (the straight-through estimator: Bengio et al. 2013,
"Estimating or propagating gradients through stochastic neurons"), and that by the step is ``round(u) - u`` inside and
the bound outside (Esser et al. 2020, "Learned step size quantization", equation 3). Steps that are powers of two learn
their exponent through its rounding (Jain et al. 2020, "Trained quantization thresholds", section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitfront.quant.formats import Affine, Float16, Format, Qmn, integer

__all__ = ["FakeQuantizer", "round_through", "straight_through"]


LARGEST_HALF = 65504.0
EXPONENT_GAIN = 10.0
"""How much faster than weights the exponents of powers of two are trained: they move in whole steps (Jain et al. 2020,
section 5, train thresholds at 1e-2)."""


def straight_through(exact: Tensor, passing: Tensor) -> Tensor:
    """Return the numbers of ``exact`` with the gradient of ``passing``."""
    return passing + (exact - passing).detach()


def _rounded(x: Tensor, rule: str) -> Tensor:
    if rule == "half_even":
        return torch.round(x)
    whole = torch.floor(x)
    return whole + (x - whole >= 0.5)


class _Round(torch.autograd.Function):  # type: ignore[misc]
    """Whole numbers, exactly; gradients pass unchanged."""

    @staticmethod
    def forward(_ctx: object, x: Tensor, rule: str) -> Tensor:
        return _rounded(x, rule)

    @staticmethod
    def backward(_ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def round_through(x: Tensor, rule: str = "half_even") -> Tensor:
    """Return whole numbers, half to even or half up, with the gradient of ``x``."""
    rounded: Tensor = _Round.apply(x, rule)
    return rounded


class _Quantize(torch.autograd.Function):  # type: ignore[misc]
    """``step * round(clip(x / step, low, high))`` in few passes; what backward needs is a bool a value, mostly."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, x: Tensor, step: Tensor, low: float, high: float, rule: str
    ) -> Tensor:
        steps = x / step
        codes = steps.clamp(low, high)
        inside = codes == steps
        codes = codes.round_() if rule == "half_even" else _rounded(codes, rule)
        by_step = codes - steps.mul_(inside) if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(inside, by_step)
        ctx.shape = step.shape
        return codes.mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (gradient,), (inside, by_step) = gradients, ctx.saved_tensors
        step = None if by_step is None else (gradient * by_step).sum_to_size(ctx.shape)
        return gradient * inside if ctx.needs_input_grad[0] else None, step, None, None, None


class FakeQuantizer(nn.Module):  # type: ignore[misc]
    """One format; its step is fixed, or learned as a base-2 logarithm."""

    def __init__(self, form: Format, *, learned: bool = False, n_dims: int = 4) -> None:
        """Make ready for tensors of ``n_dims`` axes; only integer formats can be learned."""
        super().__init__()
        self.form, self.n_dims = form, n_dims
        self.log2_step: nn.Parameter | None = None
        affine = integer(form)
        if affine is None:
            return
        scale, zero = affine.parameters(n_dims)
        self.low, self.high = affine.low - int(np.ravel(zero)[0]), affine.high - int(np.ravel(zero)[0])
        self.register_buffer("scale", torch.from_numpy(np.array(scale, np.float32)), persistent=False)
        if learned:
            self.gain = EXPONENT_GAIN if isinstance(form, Qmn) else 1.0
            self.log2_step = nn.Parameter(torch.log2(self.scale).reshape(-1) / self.gain)  # a vector: no weight decay

    def step(self, learn: bool = True) -> Tensor:
        """Return the step, shaped to broadcast."""
        if self.log2_step is None:
            return self.scale
        exponent = self.gain * (self.log2_step if learn else self.log2_step.detach())
        step = torch.exp2(round_through(exponent) if isinstance(self.form, Qmn) else exponent)
        return step.reshape(self.scale.shape)

    def forward(
        self, x: Tensor, learn: bool = True, rule: str = "half_even", clip: Sequence[float] | None = None
    ) -> Tensor:
        """Return values that the format has.

        Args:
            x: float32 values.
            learn: whether a learned step gets a gradient.
            rule: ``half_even`` or ``half_up``.
            clip: bounds of a fused activation; they are rounded to the format.
        """
        if integer(self.form) is None:
            x = x if clip is None else x.clamp(*clip)
            if not isinstance(self.form, Float16):
                return x
            inside = x.clamp(-LARGEST_HALF, LARGEST_HALF)
            return straight_through(inside.half().float(), inside)
        step = self.step(learn)
        low, high = self.bounds(clip)
        values: Tensor = _Quantize.apply(x, step, low, high, rule)
        return values

    def bounds(self, clip: Sequence[float] | None) -> tuple[float, float]:
        """Return the centred codes that a tensor can take behind an activation."""
        if clip is None:
            return self.low, self.high
        scale = float(self.step().detach().reshape(-1)[0])
        low, high = (float(np.clip(np.rint(bound / scale), self.low, self.high)) for bound in clip)
        return low, high

    def format(self) -> Format:
        """Return the format with the step as it is now."""
        if self.log2_step is None:
            return self.form
        step = self.step().detach().cpu().numpy()
        if isinstance(self.form, Qmn):
            return Qmn(self.form.bits, -int(np.rint(np.log2(step)).item()), self.form.signed)
        assert isinstance(self.form, Affine)
        form = self.form
        scale = tuple(float(s) for s in np.ravel(step))
        return Affine(form.bits, scale, form.zero_point, form.signed, form.axis, form.narrow)
