"""Rewrites that keep what a graph computes: fold BatchNorm, fuse activations, drop what is dead.

A fused node keeps the name of its layer (``classifier.conv``) and the name of the last tensor that it replaces, so
nothing downstream is renamed. After :func:`prepare` a graph holds no ``batch_norm`` and no ``identity``, every ``conv``
and ``dense`` has a bias (zeros where the layer had none: one rule for quantization, bias correction and exporters), and
clips stand alone only behind other operators than ``conv``, ``dense`` and ``add``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Graph, Node, Tensor

__all__ = ["add_biases", "drop_dead", "fold_batch_norm", "fuse_clip", "fuse_nearest", "fuse_pad", "prepare"]

FUSING = ("conv", "dense", "add")


def prepare(graph: Graph) -> Graph:
    """Return the graph made ready for inference, quantization and export. Idempotent."""
    graph = fuse_pad(fuse_nearest(graph))
    n_nodes = -1
    while n_nodes != len(graph.nodes):
        n_nodes = len(graph.nodes)
        graph = drop_dead(fuse_clip(fold_batch_norm(drop_dead(graph))))
    return add_biases(graph)


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold every ``batch_norm`` into the ``conv`` or ``dense`` before it or, without padding, behind it.

    One that has no such neighbour becomes a depthwise 1x1 convolution (of maps) or a product and a sum (of vectors).
    With s = gamma / sqrt(variance + epsilon): w' = s w, b' = beta + s (b - mean), in float64. (Jacob et al. 2018,
    "Quantization and training of neural networks for efficient integer-arithmetic-only inference", 3.2.)
    """
    draft = _Draft(graph)
    for node in graph.nodes:
        if node.op != "batch_norm":
            continue
        source, target = draft.sole_producer(node), draft.sole_consumer(node)
        if source is not None and source.op in ("conv", "dense") and source["clip"] is None:
            _fold_backward(draft, source, node)
        elif target is not None and target.op in ("conv", "dense") and not any(target.attributes.get("pads", ())):
            _fold_forward(draft, node, target)
        else:
            _unfold(draft, node)
    return draft.graph()


def fuse_clip(graph: Graph) -> Graph:
    """Make every ``clip`` part of the ``conv``, ``dense``, ``add`` or ``clip`` whose output only it reads."""
    draft = _Draft(graph)
    for original in graph.nodes:
        if original.op != "clip":
            continue
        node = draft.node(original.name)
        source = draft.sole_producer(node)
        if source is None or source.op not in (*FUSING, "clip"):
            continue
        lo, hi = node["lo"], node["hi"]
        first = (source["lo"], source["hi"]) if source.op == "clip" else source["clip"] or (-np.inf, np.inf)
        bounds = [float(min(max(bound, lo), hi)) for bound in first]
        fused = {"lo": bounds[0], "hi": bounds[1]} if source.op == "clip" else {"clip": bounds}
        draft.merge(source, node, replace(source, attributes={**source.attributes, **fused}, output=node.output))
    return draft.graph()


def fuse_pad(graph: Graph) -> Graph:
    """Make every ``pad`` with zeros part of the ``conv`` that alone reads its output."""
    draft = _Draft(graph)
    for node in graph.nodes:
        if node.op != "pad" or node["value"] != 0:
            continue
        target = draft.sole_consumer(node)
        if target is not None and target.op == "conv":
            pads = [a + b for a, b in zip(node["pads"], target["pads"], strict=True)]
            fused = replace(target, inputs=(node.inputs[0], *target.inputs[1:]))
            draft.remove(node)
            draft.replace(target, replace(fused, attributes={**target.attributes, "pads": pads}))
    return draft.graph()


def fuse_nearest(graph: Graph) -> Graph:
    """Make one ``resize`` of every nearest-neighbour enlargement that is spelled in reshapes and concatenations.

    Maps (c, h, w) become (c, h, w, 1), m of them side by side (c, h, m w), n of those side by side (c, n h, m w).
    """
    draft = _Draft(graph)
    for node in graph.nodes:
        chain = [node]
        for op in ("concat", "reshape", "concat", "reshape"):
            source = draft.sole_producer(chain[-1]) if chain[-1].op != op else None
            if source is None or source.op != op or len(set(source.inputs)) != 1:
                break
            chain.append(source)
        if len(chain) == 5 and node.op == "reshape" and _is_nearest(chain, graph.tensors):
            for link in chain[1:]:
                draft.remove(link)
            size = list(graph.tensors[node.output].shape[2:])
            how = {"mode": "nearest", "size": size, "coordinates": "asymmetric", "rounding": "floor"}
            draft.replace(node, Node(node.name, "resize", chain[-1].inputs, node.output, how))
    return draft.graph()


def _is_nearest(chain: Sequence[Node], tensors: Mapping[str, Tensor]) -> bool:
    """Whether the nodes, from the last to the first, repeat columns and then rows."""
    _, rows, _, columns, first = chain
    shapes = [tensors[name].shape[1:] for name in (first.inputs[0], *(node.output for node in reversed(chain)))]
    if len(shapes[0]) != 3 or columns["axis"] != 4 or rows["axis"] != 3:
        return False
    (c, h, w), m, n = shapes[0], len(columns.inputs), len(rows.inputs)
    return shapes[1:] == [(c, h, w, 1), (c, h, w, m), (c, h, m * w), (c, h, n * m * w), (c, n * h, m * w)]


def drop_dead(graph: Graph) -> Graph:
    """Drop nodes that change nothing, nodes whose output nothing needs, and constants that no node reads."""
    draft = _Draft(graph)
    for node in graph.nodes:
        if _is_identity(node, graph.tensors):
            draft.bypass(node)
    needed = set(draft.outputs)
    for node in reversed(list(draft.nodes.values())):
        if node.output in needed:
            needed.update(node.inputs)
        else:
            draft.remove(node)
    draft.constants = {name: value for name, value in draft.constants.items() if name in needed}
    return draft.graph()


def add_biases(graph: Graph) -> Graph:
    """Give every ``conv`` and ``dense`` without a bias one of zeros."""
    draft = _Draft(graph)
    for node in graph.nodes:
        if node.op in ("conv", "dense") and len(node.inputs) == 2:
            zeros = np.zeros(graph.tensors[node.inputs[1]].shape[0])
            draft.replace(
                node, replace(node, inputs=(*node.inputs, draft.constant(f"{node.name}.bias", zeros, "bias")))
            )
    return draft.graph()


class _Draft:
    """A graph being rewritten."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = {n.name: n for n in graph.nodes}
        self.tensors = dict(graph.tensors)
        self.constants: dict[str, NDArray[Any]] = dict(graph.constants)
        self.inputs, self.outputs = graph.inputs, graph.outputs

    def graph(self) -> Graph:
        """Return the result, without the tensors that are gone."""
        nodes = tuple(self.nodes.values())
        names = {*self.inputs, *self.constants, *(n.output for n in nodes)}
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in names}
        return Graph(nodes, tensors, self.constants, self.inputs, self.outputs)

    def node(self, name: str) -> Node:
        return self.nodes[name]

    def readers(self, tensor: str) -> list[Node]:
        return [n for n in self.nodes.values() if tensor in n.inputs]

    def sole_producer(self, node: Node) -> Node | None:
        """The node that computes the first input, when nothing else reads that tensor."""
        tensor = node.inputs[0]
        if tensor in self.outputs or len(self.readers(tensor)) != 1:
            return None
        return next((n for n in self.nodes.values() if n.output == tensor), None)

    def sole_consumer(self, node: Node) -> Node | None:
        """The only node that reads the output, as its first input."""
        readers = self.readers(node.output)
        if node.output in self.outputs or len(readers) != 1 or readers[0].inputs[0] != node.output:
            return None
        return readers[0]

    def replace(self, old: Node, *new: Node) -> None:
        """Put other nodes in a node's place."""
        items: list[Node] = []
        for node in self.nodes.values():
            items += new if node is old else [node]
        self.nodes = {n.name: n for n in items}

    def remove(self, node: Node) -> None:
        del self.nodes[node.name]

    def merge(self, source: Node, node: Node, merged: Node) -> None:
        """Let one node do the work of two neighbours."""
        self.remove(node)
        self.replace(source, merged)

    def bypass(self, node: Node) -> None:
        """Remove a node whose output equals its input; a graph's output keeps its name."""
        node = self.nodes[node.name]
        tensor = node.inputs[0]
        if node.output not in self.outputs:
            self.remove(node)
            self._rename(node.output, tensor)
        elif tensor not in (*self.outputs, *self.inputs, *self.constants):
            self.remove(node)
            self._rename(tensor, node.output)

    def _rename(self, old: str, new: str) -> None:
        for n in list(self.nodes.values()):
            inputs = tuple(new if i == old else i for i in n.inputs)
            self.nodes[n.name] = replace(n, inputs=inputs, output=new if n.output == old else n.output)

    def constant(self, name: str, value: NDArray[Any], kind: str) -> str:
        """Add a float32 constant under a free name."""
        free, n = name, 0
        while free in self.tensors:
            n += 1
            free = f"{name}_{n}"
        array = value.astype(np.float32)
        self.tensors[free], self.constants[free] = Tensor(free, array.shape, kind), array
        return free

    def own(self, node: Node, name: str, value: NDArray[Any], kind: str) -> str:
        """Change a constant in place when ``node`` alone reads it; otherwise give the node its own copy."""
        if len(self.readers(name)) > 1:
            return self.constant(f"{node.name}.{kind}", value, kind)
        self.constants[name] = value.astype(np.float32)
        return name


def _scale_and_shift(draft: _Draft, node: Node) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gamma, beta, mean, variance = (draft.constants[i].astype(np.float64) for i in node.inputs[1:])
    scale = gamma / np.sqrt(variance + node["epsilon"])
    return scale, beta - mean * scale


def _fold_backward(draft: _Draft, source: Node, node: Node) -> None:
    scale, shift = _scale_and_shift(draft, node)
    weight = draft.constants[source.inputs[1]].astype(np.float64)
    bias = draft.constants[source.inputs[2]].astype(np.float64) if len(source.inputs) == 3 else np.zeros(len(scale))
    inputs = _with_values(draft, source, weight * _along(scale, 0, weight.ndim), bias * scale + shift)
    draft.merge(source, node, replace(source, inputs=inputs, output=node.output))


def _fold_forward(draft: _Draft, node: Node, target: Node) -> None:
    scale, shift = _scale_and_shift(draft, node)
    weight = draft.constants[target.inputs[1]].astype(np.float64)
    bias = draft.constants[target.inputs[2]].astype(np.float64) if len(target.inputs) == 3 else np.zeros(len(weight))
    groups = target.attributes.get("groups", 1)
    grouped = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    bias = bias + np.einsum("goik,gi->go", grouped, shift.reshape(groups, -1)).reshape(-1)
    grouped = grouped * scale.reshape(groups, 1, -1, 1)
    inputs = _with_values(draft, target, grouped.reshape(weight.shape), bias)
    draft.remove(node)
    draft.replace(target, replace(target, inputs=(node.inputs[0], *inputs[1:])))


def _unfold(draft: _Draft, node: Node) -> None:
    scale, shift = _scale_and_shift(draft, node)
    x = node.inputs[0]
    if len(draft.tensors[x].shape) == 4:
        weight = draft.constant(f"{node.name}.folded.weight", scale.reshape(-1, 1, 1, 1), "weight")
        bias = draft.constant(f"{node.name}.folded.bias", shift, "bias")
        window = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "groups": len(scale), "clip": None}
        draft.replace(node, Node(node.name, "conv", (x, weight, bias), node.output, window))
        return
    shape = (1, -1, *[1] * (len(draft.tensors[x].shape) - 2))
    product = f"{node.name}.product"
    draft.tensors[product] = replace(draft.tensors[node.output], name=product)
    a = draft.constant(f"{node.name}.scale", scale.reshape(shape), "constant")
    b = draft.constant(f"{node.name}.shift", shift.reshape(shape), "constant")
    first = Node(product, "mul", (x, a), product)
    draft.replace(node, first, Node(node.name, "add", (product, b), node.output, {"clip": None}))


def _with_values(draft: _Draft, node: Node, weight: NDArray[Any], bias: NDArray[Any]) -> tuple[str, ...]:
    """The inputs of a ``conv`` or ``dense`` after its weight and bias have changed."""
    name = draft.own(node, node.inputs[1], weight, "weight")
    if len(node.inputs) == 3:
        return node.inputs[0], name, draft.own(node, node.inputs[2], bias, "bias")
    return node.inputs[0], name, draft.constant(f"{node.name}.bias", bias, "bias")


def _along(vector: NDArray[Any], axis: int, n_axes: int) -> NDArray[Any]:
    shape: Sequence[int] = [-1 if i == axis else 1 for i in range(n_axes)]
    return vector.reshape(shape)


def _is_identity(node: Node, tensors: Mapping[str, Tensor]) -> bool:
    a = node.attributes
    match node.op:
        case "identity":
            return True
        case "pad":
            return not any(a["pads"])
        case "clip":
            return bool(a["lo"] == -np.inf and a["hi"] == np.inf)
        case "concat":
            return len(node.inputs) == 1
        case "reshape":
            return tensors[node.inputs[0]].shape == tensors[node.output].shape
        case "transpose":
            return list(a["perm"]) == sorted(a["perm"])
        case "resize" | "slice":
            return tensors[node.inputs[0]].shape == tensors[node.output].shape and a.get("step", 1) == 1
        case "average_pool" | "max_pool":
            return list(a["kernel"]) == [1, 1] == list(a["strides"]) and not any(a["pads"])
    return False
