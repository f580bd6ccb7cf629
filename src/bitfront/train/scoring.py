"""Score a torch module on a part of a dataset."""

from __future__ import annotations

import torch
from torch import nn

from bitfront import batches
from bitfront.contracts import DataInfo, InputContract, Metrics, OutputContract, Part, Task

__all__ = ["score_module"]


def score_module(
    module: nn.Module,
    task: Task,
    info: DataInfo,
    part: Part,
    contract: InputContract,
    *,
    batch_size: int = 8,
    score: str = "",
    output: OutputContract | None = None,
) -> Metrics:
    """Run ``module`` in evaluation mode, in float32, on its device, and score it at the size of every original image.

    The module is left in evaluation mode. ``score`` names the metric that drives the search (default: the task's),
    ``output`` says how to read the network (default: as the task reads one with so many channels).
    """
    module.eval()
    device = next(module.parameters()).device
    meter = task.meter(info, score)
    with torch.inference_mode():
        for batch, samples in batches.evaluation(part, contract, batch_size):
            images = torch.from_numpy(batch.images).to(device, memory_format=torch.channels_last)
            outputs = module(images).float().cpu().numpy()
            readout = output or task.output(outputs.shape[1], info)
            sizes = [sample.image.shape[:2] for sample in samples]
            for prediction, sample in zip(task.predict(outputs, readout, sizes, contract), samples, strict=True):
                meter.add(prediction, sample)
    return meter.result()
