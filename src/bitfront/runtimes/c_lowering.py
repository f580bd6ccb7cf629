"""Graph and plan -> calls of the C kernels: what every operator's lowering is given, and its checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import OperatorError, UsageError
from bitfront.graph.ir import Graph, Node
from bitfront.quant.formats import Qmn
from bitfront.quant.plan import Plan
from bitfront.runtimes.c_program import Array, Held, Place, Step
from bitfront.simulate import fixed_point

__all__ = ["MAX_LEFT", "MAX_RIGHT", "Lowering", "Rule", "broadcast_steps", "overwritable", "shift_of"]

MAX_BITS = 16
MAX_LEFT, MAX_RIGHT = 16, 31
"""Shifts beyond these give what these give: all codes saturate, or become 0."""

LIMITS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(
        ("in_h", "in_w", "in_c", "out_h", "out_w", "out_c", "groups", "block", "channels", "outer", "inner"),
        (0, 65535),
    ),
    **dict.fromkeys(("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w"), (0, 255)),
    **dict.fromkeys(("pad_top", "pad_left"), (-32768, 32767)),
}
"""Field of a kernel's struct -> least and largest value that it takes."""


def shift_of(shift: int) -> int:
    """Return a shift within what kernels take; of sums below 2**30, and codes, the result is the same."""
    return max(-MAX_LEFT, min(MAX_RIGHT, shift))


@dataclass(slots=True)
class Lowering:
    """A program under construction."""

    graph: Graph
    plan: Plan
    scratch_bytes: int
    """What a layer's scratch should not exceed; it may have to."""
    streamed: bool = False
    """Whether the input comes row by row."""
    rooms: Mapping[str, int] = field(default_factory=dict)
    """Output of a node -> bytes of scratch that are free there anyway."""
    held: dict[str, Held] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    _known: dict[tuple[str, bytes], str] = field(default_factory=dict)

    @property
    def even(self) -> int:
        """1 for half to even."""
        return int(fixed_point.rounding_of(self.plan) == "half_even")

    def form(self, node: Node, name: str) -> Qmn:
        """Return the format of a tensor beside a node. Raises UsageError for one that is not fixed point."""
        form = self.plan.formats.get(name)
        if isinstance(form, Qmn) and form.bits <= MAX_BITS:
            return form
        what = "stays float32" if form is None else f"has the format {type(form).__name__} of {form.bits} bits"
        raise UsageError(
            f"c_fixed cannot write node '{node.name}' ({node.op}): tensor '{name}' {what}",
            hint="every tensor must be Qmn of at most 16 bits: use the recipe qmn8 or a searched plan",
        )

    def budget(self, node: Node) -> int:
        """Return what a node's scratch should not exceed."""
        return max(self.scratch_bytes, self.rooms.get(node.output, 0))

    def hold(self, node: Node, form: Qmn | None = None, **rest: Any) -> Held:
        """Say how a node's output lies in memory."""
        shape = self.graph.tensors[node.output].shape[1:]
        held = Held(tuple(shape), form, **rest)
        self.held[node.output] = held
        return held

    def input(self, node: Node, position: int = 0) -> tuple[Held, Place]:
        """Return an operand, an activation or a constant, and where it is."""
        name = node.inputs[position]
        if name not in self.graph.constants:
            held = self.held[name]
            if held.form is None:
                raise self.unsupported(node, "it reads class indices")
            return held, Place("tensor", name)
        form = self.form(node, name)
        shape = self.graph.tensors[name].shape
        batched = len(shape) in (2, 4) and shape[0] == 1
        held = Held(tuple(shape[1:] if batched else shape), form)
        codes = held.to_memory(form.encode(self.graph.constants[name]).astype(held.dtype))
        return held, Place("array", self.array("c", codes, f"{name} of {node.name}"))

    def array(self, kind: str, values: NDArray[Any], what: str) -> str:
        """Add a constant array and return its name; equal ones are kept once."""
        key = (values.dtype.name, values.tobytes())
        if key not in self._known:
            self._known[key] = name = f"{kind}_{len(self.arrays)}"
            self.arrays[name] = Array(values, what)
        return self._known[key]

    def unsupported(self, node: Node, why: str) -> OperatorError:
        """Return the error to raise."""
        return OperatorError(
            f"c_fixed cannot write node '{node.name}' ({node.op}): {why}",
            hint="use another runtime, or leave the operator out of the network",
        )

    def check(self, node: Node, fields: Mapping[str, int | str]) -> Mapping[str, int | str]:
        """Return the fields. Raises OperatorError for a size that the kernels' structs cannot hold."""
        for key, value in fields.items():
            low, high = LIMITS.get(key, (-(2**31), 2**31 - 1))
            if not isinstance(value, str) and not low <= value <= high:
                raise self.unsupported(node, f"its {key} is {value}, and kernels take up to {high}")
        return fields

    def bounds(self, node: Node, y: Qmn) -> dict[str, int | str]:
        """Return the fields ``lo`` and ``hi``: the codes of a fused clip within the format."""
        clip = (node["lo"], node["hi"]) if node.op == "clip" else node.attributes.get("clip")
        low, high = fixed_point.code_bounds(y, clip)
        return {"lo": low, "hi": high}


Rule = Callable[[Lowering, Node], Step]
"""Lowers one node."""


def overwritable(held: Held, *sources: tuple[Held, Place]) -> tuple[str, ...]:
    """Return the tensors whose memory an output can take element by element: equal shapes and bytes."""
    return tuple(
        place.name
        for source, place in sources
        if place.kind == "tensor" and (source.sizes, source.dtype.itemsize) == (held.sizes, held.dtype.itemsize)
    )


def broadcast_steps(held: Held, sizes: Sequence[int], n_axes: int) -> list[int]:
    """Return the steps in memory, axis by axis of the output in the order of memory; 0 where it repeats."""
    own = [1] * (n_axes - len(held.sizes)) + list(held.sizes)
    steps = [int(np.prod(own[i + 1 :])) for i in range(n_axes)]
    return [step if n > 1 or sizes[i] == 1 else 0 for i, (n, step) in enumerate(zip(own, steps, strict=True))]
