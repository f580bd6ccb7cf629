"""A small training: bright squares on dark noise, and the tiny net."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bitfront.contracts import DataInfo, InputContract, Sample, Task
from bitfront.models.tiny import Tiny
from bitfront.tasks.segmentation import Segmentation
from bitfront.train.loop import Epoch, Trained, TrainOptions, train

INFO = DataInfo("squares", ("background", "square"), background=0)
CONTRACT = InputContract(32, 32)


def squares(n: int, seed: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        image = rng.integers(0, 60, (32, 32, 3), np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        (y, x), size = rng.integers(0, 20, 2), rng.integers(8, 13)
        mask[y : y + size, x : x + size] = 1
        image[mask == 1] += 150
        samples.append(Sample(f"{i}.png", image, mask))
    return samples


def run(
    folder: Path,
    options: TrainOptions | None = None,
    *,
    seed: int = 0,
    task: Task | None = None,
    on_epoch: Callable[[Epoch], str | None] | None = None,
    n: int = 12,
    module: torch.nn.Module | None = None,
) -> Trained:
    if module is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = Tiny(classes=1).build()
    options = options or TrainOptions(epochs=4, batch_size=4, rate=1e-2)
    task = task or Segmentation(bootstrap=0)
    return train(module, task, INFO, squares(n, 1), squares(4, 2), CONTRACT, options, folder, seed, on_epoch)
