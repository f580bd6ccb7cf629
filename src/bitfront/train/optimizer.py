"""Which parameters are trained, on which outputs, and by what."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Sequence

import torch
from torch import nn

from bitfront.contracts import Batch, DataInfo, OutputContract, Task
from bitfront.errors import DataError, UsageError
from bitfront.train.distill import Distiller
from bitfront.train.options import TrainOptions

__all__ = ["BACKBONE", "adam", "backbone_prefixes", "freeze", "training_loss", "training_outputs"]

BACKBONE = "backbone"
"""The name of a network's feature extractor among the patterns of ``freeze``."""


def adam(module: nn.Module, options: TrainOptions, *beside: nn.Module) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015) with decoupled weight decay of the tensors with two or more axes.

    What is trained ``beside`` the module is trained alike.
    """
    trained = [p for each in (module, *beside) for p in each.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=options.rate, fused=True)


def backbone_prefixes(module: nn.Module) -> tuple[str, ...]:
    """Return how the keys of a network's feature extractor begin."""
    return tuple(f"{part}." for part in getattr(module, "backbone_parts", (BACKBONE,)))


def freeze(module: nn.Module, patterns: Sequence[str]) -> nn.ModuleList:
    """Exclude the parameters whose names match from training; every other one is trained.

    A pattern may also name a part as a whole (``stem`` for ``stem.*``). ``backbone`` is the feature extractor: what the
    module's ``backbone_parts`` name, or its part of that name.

    Returns the BatchNorm layers that are frozen as a whole, so that the caller can freeze their statistics too.
    Raises UsageError for a pattern that matches nothing, and when nothing is left to train.
    """
    names = [name for name, _ in module.named_parameters()]
    frozen: set[str] = set()
    for pattern in patterns:
        prefixes = backbone_prefixes(module) if pattern == BACKBONE else (f"{pattern}.",)
        found = {name for name in names if name.startswith(prefixes) or fnmatch.fnmatchcase(name, pattern)}
        if not found:
            raise UsageError(f"freeze: no parameter matches '{pattern}'", hint=f"names look like '{names[0]}'")
        frozen |= found
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if not any(p.requires_grad for p in module.parameters()):
        raise UsageError("freeze: no parameter is left to train")
    norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return nn.ModuleList(m for m in norms if not any(p.requires_grad for p in m.parameters()))


def training_loss(
    module: nn.Module,
    images: torch.Tensor,
    batch: Batch,
    *,
    task: Task,
    info: DataInfo,
    output: OutputContract | None = None,
    distiller: Distiller | None = None,
) -> torch.Tensor:
    """Return the scalar loss of a batch: the module's own ``training_loss`` where it has one, else the task's.

    ``images`` are those of ``batch`` on the module's device; ``output`` says how to read what the module computes
    (``None``: as the task reads a network with so many channels); a ``distiller`` adds what a teacher says. Raises what
    the task's loss raises.
    """
    if distiller is None:
        return _loss(module, images, batch, task, info, output)[0]
    with distiller.watching(module):
        loss, outputs = _loss(module, images, batch, task, info, output)
    taught: torch.Tensor = distiller(images, batch, outputs)
    return loss + taught


def _loss(  # noqa: PLR0917 - those of training_loss
    module: nn.Module, images: torch.Tensor, batch: Batch, task: Task, info: DataInfo, output: OutputContract | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The loss, and what the network computed where that is known."""
    own = getattr(module, "training_loss", None)
    if own is not None:
        labels = tuple(info.among_objects(some) for some in batch.labels)
        if any((some < 0).any() for some in labels):
            raise DataError(
                f"a box of a class that is none of the objects of '{info.name}'",
                hint="use data without boxes of the background",
            )
        return own(images, batch, labels), None
    outputs = training_outputs(module, images)
    output = output or task.output(outputs[0].shape[1], info)
    return functools.reduce(torch.add, (task.loss(each, batch, info, output) for each in outputs)), outputs[0]


def training_outputs(module: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return every output that has a loss: those of the module's own ``training_outputs``, or what it computes.

    A network with auxiliary heads gives its logits first, then theirs, each ``(b, k, h, w)``.
    """
    several = getattr(module, "training_outputs", None)
    outputs: tuple[torch.Tensor, ...] = (module(images),) if several is None else several(images)
    return outputs
