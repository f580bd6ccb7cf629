"""A plan: which format every tensor of a graph gets.

Tensors that a plan does not name stay float32. A bias without a format beside an integer weight and input is stored as
int32 at scale ``input.scale * weight.scale`` (the usual convention); one with a format is first rounded to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitfront.graph.ir import Graph
from bitfront.quant.formats import Format, integer
from bitfront.record import content_id

__all__ = ["Plan", "weight_bytes"]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Tensor name -> format, for one graph."""

    recipe: str
    """The recipe or search that made it: ``float32``, ``float16``, ``dynamic``, ``int8``, ..."""
    formats: Mapping[str, Format] = field(default_factory=dict)
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """What an exporter must know beside the formats, e.g. ``{"signed_activations": True}``."""

    @property
    def id(self) -> str:
        """Content id."""
        return content_id(self.recipe, dict(sorted(self.formats.items())), self.options)


def weight_bytes(graph: Graph, plan: Plan) -> int:
    """Return the bytes that weights, biases and constants take when packed at their formats' bits.

    A bias beside an integer weight takes 4 bytes unless the plan gives it a format. Rows are not padded.
    """
    total = 0
    for node in graph.nodes:
        for position, name in enumerate(node.inputs):
            if name not in graph.constants:
                continue
            form = plan.formats.get(name)
            bits = form.bits if form is not None else 32
            if form is None and position == 2 and integer(plan.formats.get(node.inputs[1])) is not None:
                bits = 32
            total += -(-graph.constants[name].size * bits // 8)
    return total
