"""The state of a training between two epochs, in one file, so that it is always all old or all new.

``last.safetensors`` holds weights, their moving average, the optimizer's moments and the best weights so far; its
header the epochs done, the halvings of the rate and a fingerprint of everything that the result depends on. The file
before it stays as ``previous.safetensors``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bitfront.errors import DataError
from bitfront.record import from_json, to_json
from bitfront.store import atomic_write
from bitfront.train.checkpoints import decode, encode
from bitfront.train.options import Epoch

__all__ = ["Arrays", "Progress", "TrainState", "arrays_of", "capture_optimizer", "is_finite", "restore_optimizer"]

log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is."""

    fingerprint: str
    epochs: tuple[Epoch, ...] = ()
    n_steps: int = 0
    halvings: int = 0
    best_epoch: int = -1
    best_score: float = 0.0


@dataclass(slots=True)
class TrainState:
    """The two files in ``folder``, and what they hold, by group."""

    folder: Path
    progress: Progress
    groups: dict[str, Arrays] = field(default_factory=dict)
    """``model``, ``average``, ``optimizer``, ``best``, ``beside`` -> key -> array."""

    def load(self) -> bool:
        """Read the newest state with the same fingerprint; say whether there was one."""
        for name in ("last.safetensors", "previous.safetensors"):
            path = self.folder / name
            if not path.is_file():
                continue
            try:
                header, arrays = decode(path.read_bytes(), path)
                progress = from_json(Progress, header)
            except (DataError, TypeError, ValueError, KeyError, AttributeError) as error:
                log.warning("%s cannot be resumed from: %s", path, error)
                continue
            if progress.fingerprint == self.progress.fingerprint:
                self.progress, self.groups = progress, _split(arrays)
                return True
        return False

    def save(self) -> None:
        """Write the files; the one before stays."""
        self.folder.mkdir(parents=True, exist_ok=True)
        last = self.folder / "last.safetensors"
        arrays = {f"{group}/{key}": value for group, values in self.groups.items() for key, value in values.items()}
        data = encode(arrays, to_json(self.progress))
        if last.is_file():
            last.replace(self.folder / "previous.safetensors")
        atomic_write(last, data)


def _split(arrays: Arrays) -> dict[str, Arrays]:
    groups: dict[str, Arrays] = {}
    for name, value in arrays.items():
        group, _, key = name.partition("/")
        groups.setdefault(group, {})[key] = value
    return groups


def arrays_of(module: torch.nn.Module) -> Arrays:
    """Return copies of a module's state."""
    return {key: value.detach().cpu().numpy().copy() for key, value in module.state_dict().items()}


def is_finite(arrays: Arrays) -> bool:
    """Say whether every floating-point value is finite."""
    return all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f")


def capture_optimizer(optimizer: torch.optim.Optimizer) -> Arrays:
    """Return copies of the moments: ``parameter index/name`` -> array."""
    moments = optimizer.state_dict()["state"]
    return {f"{i}/{name}": value.cpu().numpy().copy() for i, s in moments.items() for name, value in s.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, arrays: Arrays) -> None:
    """Put the moments of :func:`capture_optimizer` back; none of them resets the optimizer.

    A moment gets the memory layout of its parameter: the fused step walks through both as they lie in memory.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.state.clear()
    for key, value in arrays.items():
        index, _, name = key.partition("/")
        parameter, moment = parameters[int(index)], torch.from_numpy(value.copy())
        same = moment.shape == parameter.shape and moment.ndim > 0
        optimizer.state[parameter][name] = torch.empty_like(parameter).copy_(moment) if same else moment
