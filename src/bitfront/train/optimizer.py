"""Which parameters are trained, and by what."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import torch
from torch import nn

from bitfront.errors import UsageError
from bitfront.train.options import TrainOptions

__all__ = ["adam", "freeze"]


def adam(module: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015) with decoupled weight decay of the tensors with two or more axes."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=options.rate, fused=True)


def freeze(module: nn.Module, patterns: Sequence[str]) -> nn.ModuleList:
    """Exclude the parameters whose names match from training; every other one is trained.

    Returns the BatchNorm layers that are frozen as a whole, so that the caller can freeze their statistics too.
    Raises UsageError for a pattern that matches nothing, and when nothing is left to train.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UsageError(f"freeze: no parameter matches '{pattern}'", hint=f"names look like '{names[0]}'")
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not any(fnmatch.fnmatchcase(name, p) for p in patterns))
    if not any(p.requires_grad for p in module.parameters()):
        raise UsageError("freeze: no parameter is left to train")
    norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return nn.ModuleList(m for m in norms if not any(p.requires_grad for p in m.parameters()))
