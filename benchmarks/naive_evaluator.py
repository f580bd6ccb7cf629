"""The straightforward evaluator that the searches are compared with: fake quantization at every forward, in torch.

Weights and biases are rounded again for every batch, activations behind every operator, all in NCHW with batches of 8;
every prediction is resized to its image and compared with its mask there. This is how a first implementation does it,
and how quantization layers of training frameworks do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from bitfront.contracts import OutputContract, Sample, Task
from bitfront.graph.ir import Graph
from bitfront.graph.torch_operators import OPERATORS
from bitfront.quant.formats import Qmn
from bitfront.quant.menu import Menu
from bitfront.quant.plan import Plan
from bitfront.search.networks import bits_of
from bitfront.search.space import Genome, Space

BATCH_SIZE = 8


class NaiveEvaluator:
    """Scores genomes of one menu on fixed images."""

    def __init__(
        self, menu: Menu, space: Space, images: np.ndarray, samples: Sequence[Sample], task: Task, info, contract
    ) -> None:
        self.menu, self.space, self.samples = menu, space, samples
        self.task, self.info = task, info
        self.contract: OutputContract = contract
        self.images = torch.from_numpy(np.ascontiguousarray(images))

    def timed(self, genome: Genome) -> dict[str, float]:
        """Return the score of a genome, and the CPU time of the forwards and of scoring."""
        plan = self.menu.plan(bits_of(self.space, genome))
        constants = {k: torch.from_numpy(np.array(v)) for k, v in self.menu.finished(plan).constants.items()}
        meter = self.task.meter(self.info)
        forward_s = scoring_s = 0.0
        for i in range(0, len(self.samples), BATCH_SIZE):
            samples = self.samples[i : i + BATCH_SIZE]
            start = time.thread_time()
            outputs = forward(self.menu.graph, constants, plan, self.images[i : i + BATCH_SIZE]).numpy()
            middle = time.thread_time()
            guesses = self.task.predict(outputs, self.contract, [sample.mask.shape for sample in samples])
            for guess, sample in zip(guesses, samples, strict=True):
                meter.add(guess, sample)
            forward_s += middle - start
            scoring_s += time.thread_time() - middle
        return {"naive_score": meter.result().value, "forward_s": forward_s, "scoring_s": scoring_s}


def fake(x: torch.Tensor, form: Qmn | None) -> torch.Tensor:
    """Round to the codes of a fixed-point format and back."""
    if form is None:
        return x
    return torch.clamp(torch.round(x * 2.0**form.frac_bits), form.low, form.high) * 2.0**-form.frac_bits


@torch.inference_mode()
def forward(graph: Graph, constants: dict[str, torch.Tensor], plan: Plan, images: torch.Tensor) -> torch.Tensor:
    values = {graph.inputs[0]: fake(images, plan.formats.get(graph.inputs[0]))}
    for node in graph.nodes:
        inputs = [values[n] if n in values else fake(constants[n], plan.formats.get(n)) for n in node.inputs]
        values[node.output] = fake(OPERATORS[node.op](node, *inputs), plan.formats.get(node.output))
    return values[graph.outputs[0]]
