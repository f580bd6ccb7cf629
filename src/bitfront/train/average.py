"""Exponential moving average of a module's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from bitfront.train.checkpoints import load_into
from bitfront.train.state import Arrays, arrays_of

__all__ = ["Average"]


class Average:
    """A second module whose weights and BatchNorm statistics follow the first (Polyak and Juditsky 1992).

    The decay grows with the steps ``t`` as ``min(decay, (1 + t) / (10 + t))``, so that the first weights are forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay, self.n_steps = decay, 0

    def update(self, module: nn.Module) -> None:
        """Follow one step."""
        decay = min(self.decay, (1 + self.n_steps) / (10 + self.n_steps))
        self.n_steps += 1
        with torch.no_grad():
            for mine, its in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
                if mine.dtype.is_floating_point:
                    mine.lerp_(its, 1 - decay)
                else:
                    mine.copy_(its)

    def arrays(self) -> Arrays:
        """Return copies of the averaged state."""
        return arrays_of(self.module)

    def restore(self, arrays: Arrays, n_steps: int) -> None:
        """Go on from a saved average after ``n_steps``."""
        load_into(self.module, arrays)
        self.n_steps = n_steps
