"""What a graph costs: parameters, multiply-accumulates, activation bytes, peak of live memory.

``macs`` follows the usual summary tools (torchinfo >= 1.7.2), so that published tables can be compared: every parameter
of a convolution, bias included, times its output positions; the parameters of a dense layer times its rows; the
learned parameters of a BatchNorm once. Count the captured graph for that, before ``prepare`` folds BatchNorm.
``conv_macs`` counts the products of convolutions and dense layers alone: torch's flop counter, halved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitfront.graph.ir import Graph, Node

__all__ = ["Counts", "NodeCounts", "count", "lifetimes"]

VALUE_BYTES = 4


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """What one node costs at batch 1."""

    name: str
    op: str
    parameters: int
    macs: int
    conv_macs: int
    activation_bytes: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What a graph costs at batch 1, activations in float32."""

    parameters: int
    """Learned values: weights, biases, BatchNorm's gamma and beta; not running statistics; each shared tensor once.
    Those that no node reads are counted too, as long as the graph holds them (until ``prepare``)."""
    executed_parameters: int
    """The same without those that no node reads."""
    macs: int
    conv_macs: int
    activation_bytes: int
    """Sum over all nodes' outputs."""
    peak_bytes: int
    """Largest sum of the tensors alive at once, in execution order: the input, and every output from its node to its
    last reader; a node's inputs and output live together."""
    per_node: tuple[NodeCounts, ...]


def count(graph: Graph) -> Counts:
    """Count a graph; see the module's text for the rules."""
    nodes = tuple(_count_node(graph, node) for node in graph.nodes)
    used = {name for node in graph.nodes for name in node.inputs}
    learned = {t.name: math.prod(t.shape) for t in graph.tensors.values() if _is_learned(graph, t.name)}
    return Counts(
        parameters=sum(learned.values()),
        executed_parameters=sum(n for name, n in learned.items() if name in used),
        macs=sum(n.macs for n in nodes),
        conv_macs=sum(n.conv_macs for n in nodes),
        activation_bytes=sum(n.activation_bytes for n in nodes),
        peak_bytes=_peak_bytes(graph),
        per_node=nodes,
    )


def _is_learned(graph: Graph, name: str) -> bool:
    return name in graph.constants and graph.tensors[name].kind != "buffer"


def _count_node(graph: Graph, node: Node) -> NodeCounts:
    sizes = [math.prod(graph.tensors[name].shape) for name in node.inputs if _is_learned(graph, name)]
    out = graph.tensors[node.output].shape
    layer = node.op in ("conv", "dense") and bool(sizes)
    positions = math.prod(out) // out[1] if layer else 0
    return NodeCounts(
        node.name,
        node.op,
        parameters=sum(sizes),
        macs=sum(sizes) * positions if layer else sum(sizes) if node.op == "batch_norm" else 0,
        conv_macs=sizes[0] * positions if layer else 0,
        activation_bytes=math.prod(out) * VALUE_BYTES,
    )


def lifetimes(graph: Graph) -> dict[str, tuple[int, int]]:
    """Return the first and the last node, as positions, at which the input and every output are alive.

    From the node that makes a tensor (the first one for the input) to its last reader, both included; the graph's
    outputs live to the end.
    """
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    last.update(dict.fromkeys(graph.outputs, len(graph.nodes) - 1))
    born = {**dict.fromkeys(graph.inputs, 0), **{node.output: i for i, node in enumerate(graph.nodes)}}
    return {name: (i, last.get(name, i)) for name, i in born.items()}


def _peak_bytes(graph: Graph) -> int:
    live = [0] * max(len(graph.nodes), 1)
    for name, (first, last) in lifetimes(graph).items():
        for i in range(first, last + 1):
            live[i] += math.prod(graph.tensors[name].shape) * VALUE_BYTES
    return max(live)
