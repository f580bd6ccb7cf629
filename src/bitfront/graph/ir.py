"""The graph: what a network computes, as immutable numpy data.

A graph is a list of nodes in execution order. Every tensor has one name, one producer and a static shape whose first
axis is the batch (written 1; executors accept any batch). Activations are NCHW float32 in meaning; formats come with a
:class:`bitfront.quant.plan.Plan` that maps tensor names to formats.

Operators (inputs -> one output; ``w`` = constant). Attributes are plain JSON data.

=====================  =====================  ==========================================================================
op                     inputs                 attributes
=====================  =====================  ==========================================================================
``conv``               x, weight[, bias]      strides (2), pads (top, left, bottom, right), dilations (2), groups,
                                              clip ``[lo, hi]`` or None (a fused activation); weight (oc, ic/g, kh, kw)
``dense``              x, weight[, bias]      clip; x (n, k), weight (oc, k)
``batch_norm``         x, gamma, beta, mean,  epsilon
                       variance
``add sub mul div``    a, b                   clip (``add`` only); numpy broadcasting, either may be constant
``clip``               x                      lo, hi (``relu`` is lo 0 hi inf, ``relu6`` lo 0 hi 6)
``leaky_relu``         x                      alpha
``sigmoid tanh exp``   x                      none; also ``silu``, ``hard_swish``, ``sqrt``, ``neg``
``hard_sigmoid``       x                      alpha, beta: clip(alpha x + beta, 0, 1)
``softmax``            x                      axis
``max_pool``           x                      kernel (2), strides (2), pads (4), dilations (2)
``average_pool``       x                      kernel, strides, pads, count_include_pad
``global_average_pool`` x                     none; (n, c, 1, 1)
``reduce_mean``        x                      axes, keepdims
``resize``             x                      mode ``nearest|linear``, size (h, w), coordinates
                                              ``align_corners|half_pixel|pytorch_half_pixel|asymmetric``,
                                              rounding ``floor|round_prefer_floor`` (nearest only)
``concat``             several                axis
``pad``                x                      pads (top, left, bottom, right), value
``slice``              x                      axis, start, stop, step
``reshape``            x                      shape, first entry -1 = batch kept (``[-1, 2028]``)
``transpose``          x                      perm
``argmax``             x                      axis, keepdims; int64
``identity``           x                      none
=====================  =====================  ==========================================================================

An axis is never negative. A clip bound may be ``inf`` or ``-inf``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from bitfront.record import content_id

__all__ = ["OPERATORS", "Graph", "Node", "Tensor"]

OPERATORS = frozenset(
    [
        "conv",
        "dense",
        "batch_norm",
        "add",
        "sub",
        "mul",
        "div",
        "clip",
        "leaky_relu",
        "sigmoid",
        "tanh",
        "exp",
        "sqrt",
        "neg",
        "silu",
        "hard_swish",
        "hard_sigmoid",
        "softmax",
        "max_pool",
        "average_pool",
        "global_average_pool",
        "reduce_mean",
        "resize",
        "concat",
        "pad",
        "slice",
        "reshape",
        "transpose",
        "argmax",
        "identity",
    ]
)
"""Every operator a graph may hold."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor."""

    name: str
    shape: tuple[int, ...]
    kind: str
    """``input``, ``activation``, ``weight`` (of conv, dense), ``bias`` (of conv, dense), ``constant`` (any other that
    training changes) or ``buffer`` (constants that it does not: running statistics, literals)."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation; its single output tensor is named ``output``."""

    name: str
    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        """Return an attribute. Raises KeyError."""
        return self.attributes[key]


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes in execution order, every tensor by name, and the values of the constant ones."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    constants: Mapping[str, NDArray[Any]]
    """Float32 values of weights, biases and constants."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that the graph is well formed. Raises ValueError naming the node or tensor at fault."""
        known = set(self.inputs) | set(self.constants)
        for node in self.nodes:
            if node.op not in OPERATORS:
                raise ValueError(f"node '{node.name}': unknown operator '{node.op}'")
            for name in node.inputs:
                if name not in known:
                    raise ValueError(f"node '{node.name}': input '{name}' is not computed before it")
            if node.output in known:
                raise ValueError(f"node '{node.name}': tensor '{node.output}' has two producers")
            known.add(node.output)
        for name in (*known, *self.outputs):
            if name not in self.tensors:
                raise ValueError(f"tensor '{name}' has no shape")
        for name in self.outputs:
            if name not in known:
                raise ValueError(f"output '{name}' is never computed")
        for name, value in self.constants.items():
            if tuple(value.shape) != self.tensors[name].shape:
                raise ValueError(f"constant '{name}': shape {value.shape} is not {self.tensors[name].shape}")

    @property
    def id(self) -> str:
        """Content id of the whole graph, constants included."""
        return content_id(self.nodes, dict(sorted(self.tensors.items())), self.constants, self.outputs)

    def producer(self, tensor: str) -> Node | None:
        """Return the node that computes ``tensor``; ``None`` for inputs and constants."""
        return next((n for n in self.nodes if n.output == tensor), None)

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        """Return the nodes that read ``tensor``."""
        return tuple(n for n in self.nodes if tensor in n.inputs)

    def named(self, kind: str) -> Iterator[Tensor]:
        """Yield the tensors of one kind, in execution order of their first use."""
        seen: set[str] = set()
        for node in self.nodes:
            for name in (*node.inputs, node.output):
                if name not in seen and self.tensors[name].kind == kind:
                    seen.add(name)
                    yield self.tensors[name]

    def with_constants(self, values: Mapping[str, NDArray[Any]]) -> Graph:
        """Return the same graph with some constants replaced (same shapes)."""
        return replace(self, constants={**self.constants, **values})
