"""After pruning: every layer's answers given back the mean and the spread that they had, channel by channel.

Pruned layers answer with less, and behind folded batch normalization nothing makes up for it. Layer by layer, in order
of execution and each on what the restored ones before it give, weights are scaled and biases moved until the mean and
the standard deviation of each channel over some images are those of the network before pruning. That is what new
statistics do in networks whose batch normalization is live (Li et al. 2020, "EagleEye: fast sub-net evaluation for
efficient neural network pruning", section 3.3; Jordan et al. 2023, "REPAIR", section 2.3). No labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitfront.graph.ir import Graph, Node
from bitfront.graph.torch_operators import OPERATORS

__all__ = ["restore_statistics"]

LIMIT = 8.0
"""A channel is scaled by no more than this, either way."""
Adapt = Callable[[Node, Tensor], Tensor]
Moments = tuple[Tensor, Tensor]


def restore_statistics(
    before: Graph, after: Graph, left: Mapping[str, NDArray[np.int64]], batches: Sequence[NDArray[np.float32]]
) -> Graph:
    """Return ``after`` with weights and biases that restore the statistics of ``before``; both prepared.

    Args:
        before: the network as it was.
        after: the same without some channels or weights; its nodes have the same names.
        left: tensor -> ``(c,)`` the channels of ``before`` that it still has; all, where a tensor is not named.
        batches: images ``(b, c, h, w)``, normalized.
    """
    images = torch.from_numpy(np.concatenate(batches))
    wanted: dict[str, Moments] = {}
    shared = _shared(after)

    def note(node: Node, answers: Tensor) -> Tensor:
        channels = torch.from_numpy(left[node.output]) if node.output in left else slice(None)
        mean, spread = _moments(answers)
        wanted[node.name] = mean[channels], spread[channels]
        return answers

    values: dict[str, NDArray[np.float32]] = {}

    def adapt(node: Node, answers: Tensor) -> Tensor:
        if node.inputs[1] in shared or node.inputs[2] in shared:
            return answers
        (mean, spread), (mean_wanted, spread_wanted) = _moments(answers), wanted[node.name]
        scale = (spread_wanted / spread.clamp(min=1e-12)).clamp(1 / LIMIT, LIMIT)
        scale = torch.where((spread > 0) & (spread_wanted > 0), scale, torch.ones_like(scale))
        shift = mean_wanted - scale * mean
        weight, bias = (after.constants[name] for name in node.inputs[1:])
        along = scale.reshape(-1, *[1] * (weight.ndim - 1)).numpy()
        values[node.inputs[1]] = weight * along
        values[node.inputs[2]] = bias * scale.numpy() + shift.numpy()
        aligned = (-1, *[1] * (answers.ndim - 2))
        return answers * scale.reshape(aligned) + shift.reshape(aligned)

    with torch.no_grad():
        _run(before, images, note)
        _run(after, images, adapt)
    return after.with_constants(values)


def _run(graph: Graph, images: Tensor, adapt: Adapt) -> None:
    """Execute a graph; what layers answer before their clip goes through ``adapt``."""
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    held = {graph.inputs[0]: images}
    constants = {name: torch.from_numpy(np.array(value)) for name, value in graph.constants.items()}
    for i, node in enumerate(graph.nodes):
        inputs = [constants[n] if n in constants else held[n] for n in node.inputs]
        if node.op in ("conv", "dense") and len(inputs) == 3:
            plain = replace(node, attributes={**node.attributes, "clip": None})
            answers = adapt(node, OPERATORS[node.op](plain, *inputs))
            held[node.output] = answers if node["clip"] is None else answers.clamp(*node["clip"])
        else:
            held[node.output] = OPERATORS[node.op](node, *inputs)
        for name in node.inputs:
            if last[name] == i:
                held.pop(name, None)


def _moments(answers: Tensor) -> Moments:
    """Return mean and standard deviation of each channel."""
    flat = answers.transpose(0, 1).reshape(answers.shape[1], -1)
    return flat.mean(1), flat.std(1, correction=0)


def _shared(graph: Graph) -> set[str]:
    """Return the constants that several nodes read."""
    seen, twice = set[str](), set[str]()
    for node in graph.nodes:
        for name in {n for n in node.inputs if n in graph.constants}:
            (twice if name in seen else seen).add(name)
    return twice
