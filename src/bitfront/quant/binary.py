"""Networks with weights of one bit, to be trained: which layers, which scales, where signs stand.

A layer's weights become ``scale * sign(latent)`` with a scale of each output channel. The latent weights, in [-1, 1],
are what is trained (:mod:`bitfront.quant.fake_binary`). The graph is prepared, so the scale has BatchNorm's factor in
it: a learned scale is to a folded layer what a learned BatchNorm is behind weights of -1 and 1, and BatchNorm's factor
times the mean is one mean. Where activations are signs too, an ``identity`` whose output has the format stands before
the layer, and the rectifier before that is left out: it would make all signs positive.

Source: Courbariaux et al. 2015, "BinaryConnect"; Courbariaux et al. 2016, "Binarized neural networks"; Rastegari et al.
2016, "XNOR-Net". Of the last the scale of the input (K) is left out, as in its authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import UsageError, unknown_name
from bitfront.graph.ir import Graph, Node, Tensor
from bitfront.quant.formats import Affine, Binary, Format
from bitfront.quant.plan import Plan, weight_bytes

__all__ = ["EDGES", "MODES", "Mode", "binarize", "mode_of", "packed_bytes"]

EDGES = ("float", "int8", "binary")
"""What the first and the last layer may be."""
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
_PASSING = frozenset(["max_pool", "reshape", "slice", "transpose", "concat", "resize", "pad", "identity"])
"""Operators that a rectifier's zeros pass through."""


@dataclass(frozen=True, slots=True)
class Mode:
    """How a network of one-bit weights is trained."""

    name: str
    description: str
    mean: bool = False
    """The scale is the mean of the absolute latent weights; else it is learned."""
    stochastic: bool = False
    """Signs are drawn in training, with the odds (1 + latent) / 2."""
    activations: bool = False
    """The inputs of the layers are signs as well."""


MODES: Mapping[str, Mode] = MappingProxyType(
    {
        mode.name: mode
        for mode in (
            Mode("binary_connect", "1-bit weights, the sign of latent ones; scales learned"),
            Mode("binary_connect_stochastic", "1-bit weights, signs drawn in training", stochastic=True),
            Mode("binary_net", "1-bit weights and activations; scales learned", activations=True),
            Mode("bwn", "1-bit weights scaled by their channel's mean", mean=True),
            Mode(
                "xnor", "1-bit weights scaled by their channel's mean, 1-bit activations", mean=True, activations=True
            ),
        )
    }
)
"""The ways by name; ``train --recipe`` takes them."""


def mode_of(plan: Plan) -> Mode | None:
    """Return how a plan is trained; ``None`` when it has no binary weights."""
    name = plan.options.get("binary")
    return MODES.get(str(name)) if name else None


def binarize(graph: Graph, mode: str, edges: str = "") -> tuple[Graph, Plan]:
    """Return the graph to train, its weights latent, and the plan.

    Args:
        graph: a prepared graph.
        mode: a key of MODES.
        edges: what the first and the last layer are, one of EDGES; by default ``float``, and ``binary`` in networks
            that have no others.

    Raises UsageError for unknown names and networks without such layers.
    """
    if mode not in MODES:
        raise unknown_name("way to train binary weights", mode, MODES)
    if edges and edges not in EDGES:
        raise unknown_name("kind of edges", edges, EDGES)
    layers = [n for n in graph.nodes if n.op in ("conv", "dense") and graph.tensors[n.inputs[1]].kind == "weight"]
    if not layers:
        raise UsageError("the network has no layers with weights", hint="binary weights are those of conv and dense")
    outer = {layers[0].name, layers[-1].name}
    inner = [n for n in layers if n.name not in outer]
    edges = edges or ("float" if inner else "binary")
    chosen = layers if edges == "binary" else inner
    if not chosen:
        raise UsageError(f"the network has no layer between its first and its last, and these are {edges}")
    formats: dict[str, Format] = {n.inputs[1]: _scaled(graph, n) for n in chosen}
    latent = {name: _latent(graph.constants[name], MODES[mode].stochastic) for name in formats}
    if edges == "int8":
        formats |= {n.inputs[1]: _eight_bits(graph, n) for n in layers if n.name in outer}
    made = graph.with_constants(latent)
    if MODES[mode].activations:
        made, signs = _with_signs(made, [n for n in chosen if n.inputs[0] not in graph.inputs])
        formats |= dict.fromkeys(signs, Binary.of())
    return made, Plan(mode, formats, {"binary": mode, "edges": edges})


def packed_bytes(graph: Graph, plan: Plan) -> int:
    """Return the bytes of all constants, eight one-bit weights a byte, with four bytes for each of their scales."""
    forms = (plan.formats.get(name) for name in graph.constants)
    return weight_bytes(graph, plan) + sum(4 * len(form.scale) for form in forms if isinstance(form, Binary))


def _latent(weight: NDArray[np.floating], stochastic: bool) -> NDArray[np.float32]:
    """Weights within [-1, 1], their signs kept; where signs are drawn, a mean weight keeps its own at odds 3 to 1."""
    size = np.abs(weight)
    top = 2 * size.mean() if stochastic else size.max(initial=0)
    latent: NDArray[np.float32] = np.clip(weight / top if top > 0 else weight, -1, 1).astype(np.float32)
    return latent


def _scaled(graph: Graph, node: Node) -> Binary:
    weight = np.abs(graph.constants[node.inputs[1]].astype(np.float64))
    means = weight.reshape(len(weight), -1).mean(1)
    return Binary.of(tuple(max(float(np.float32(m)), SMALLEST_SCALE) for m in means), 0)


def _eight_bits(graph: Graph, node: Node) -> Affine:
    weight = np.abs(graph.constants[node.inputs[1]])
    tops = weight.reshape(len(weight), -1).max(1) / 127
    return Affine(8, tuple(max(float(np.float32(t)), SMALLEST_SCALE) for t in tops), (0,), axis=0, narrow=True)


# --- signs -----------------------------------------------------------------------------------------------------------
def _with_signs(graph: Graph, layers: Sequence[Node]) -> tuple[Graph, list[str]]:
    """Return the graph with a sign before each of these layers, and the signs' names."""
    sources = dict.fromkeys(node.inputs[0] for node in layers)
    open_ = _without_rectifiers(graph, sources)
    signs = {name: f"{name}.sign" for name in sources}
    changed = {node.name for node in layers}
    nodes: list[Node] = []
    for node in open_.nodes:
        if node.name in changed:
            name = node.inputs[0]
            if not any(known.output == signs[name] for known in nodes):
                nodes.append(Node(signs[name], "identity", (name,), signs[name]))
            node = replace(node, inputs=(signs[name], *node.inputs[1:]))
        nodes.append(node)
    tensors = {new: Tensor(new, open_.tensors[old].shape, "activation") for old, new in signs.items()}
    return replace(open_, nodes=tuple(nodes), tensors={**open_.tensors, **tensors}), list(signs.values())


def _without_rectifiers(graph: Graph, tensors: Sequence[str] | Mapping[str, object]) -> Graph:
    """Return the graph without the activations whose values reach these tensors unchanged."""
    reached, waiting = set[str](), list(tensors)
    while waiting:
        name = waiting.pop()
        node = graph.producer(name)
        if node is None or name in reached:
            continue
        reached.add(name)
        if node.op in _PASSING or node.op == "clip":
            waiting += [i for i in node.inputs if i not in graph.constants]

    def opened(node: Node) -> Node:
        if node.output not in reached:
            return node
        if node.op == "clip":
            return Node(node.name, "identity", node.inputs, node.output)
        return replace(node, attributes={**node.attributes, "clip": None}) if "clip" in node.attributes else node

    return replace(graph, nodes=tuple(opened(node) for node in graph.nodes))
