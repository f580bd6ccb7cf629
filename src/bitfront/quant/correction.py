"""Bias correction: take out the mean error that rounded weights leave in every output channel.

Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.2:
``E[y~] - E[y] = dW E[x]``, with the inputs' channel means from calibration and padding counted exactly.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Graph, Node
from bitfront.quant.formats import integer
from bitfront.quant.plan import Plan
from bitfront.stats.ranges import Ranges

__all__ = ["correct_biases", "mean_shift"]


def correct_biases(graph: Graph, plan: Plan, ranges: Ranges) -> Graph:
    """Return ``graph`` with the biases of all layers with integer weights corrected.

    Layers without a bias of their own, or whose input was not observed, stay as they are.
    """
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    changed = {}
    for node in graph.nodes:
        own_bias = len(node.inputs) == 3 and uses[node.inputs[2]] == 1 and node.inputs[2] in graph.constants
        if node.op in ("conv", "dense") and own_bias and node.inputs[0] in ranges:
            shift = mean_shift(graph, plan, node, ranges[node.inputs[0]].means)
            changed[node.inputs[2]] = (graph.constants[node.inputs[2]] - shift).astype(np.float32)
    return graph.with_constants(changed)


def mean_shift(graph: Graph, plan: Plan, node: Node, means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``(oc,)`` the mean error of a layer's outputs when its inputs have these channel ``means`` ``(ic,)``."""
    weight = graph.constants[node.inputs[1]]
    form = integer(plan.formats.get(node.inputs[1]))
    if form is None:
        return np.zeros(weight.shape[0])
    error = form.decode(form.encode(weight)).astype(np.float64) - weight
    if node.op == "dense":
        return np.asarray(error @ means)
    groups = node["groups"]
    inside = np.outer(*(_inside(graph, node, axis) for axis in (0, 1)))
    grouped = (error * inside).sum((2, 3)).reshape(groups, -1, weight.shape[1])
    shift: NDArray[np.float64] = np.einsum("goi,gi->go", grouped, means.reshape(groups, -1)).ravel()
    return shift


def _inside(graph: Graph, node: Node, axis: int) -> NDArray[np.float64]:
    """Return, for each row (column) of the kernel, the share of output positions at which it reads no padding."""
    n_in, n_out = graph.tensors[node.inputs[0]].shape[2 + axis], graph.tensors[node.output].shape[2 + axis]
    kernel = graph.tensors[node.inputs[1]].shape[2 + axis]
    taps = np.arange(kernel)[:, None] * node["dilations"][axis] - node["pads"][axis]
    position = taps + np.arange(n_out) * node["strides"][axis]
    share: NDArray[np.float64] = ((position >= 0) & (position < n_in)).mean(1)
    return share
