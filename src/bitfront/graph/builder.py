"""Build a graph node by node: unique names, shapes computed, constants kept once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfront.errors import DataError
from bitfront.graph.ir import Graph, Node, Tensor
from bitfront.graph.shapes import output_shape

__all__ = ["Builder"]


class Builder:
    """A graph under construction. Every method returns the name of the tensor it adds."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._tensors: dict[str, Tensor] = {}
        self._constants: dict[str, NDArray[np.float32]] = {}
        self._names: set[str] = set()
        self._reserved: set[str] = set()

    def reserve(self, names: Sequence[str]) -> None:
        """Keep names for tensors that will be added under exactly these names."""
        self._reserved.update(names)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return the shape of a tensor added before."""
        return self._tensors[tensor].shape

    def is_index(self, tensor: str) -> bool:
        """Whether a tensor holds whole numbers: what ``argmax`` gives."""
        return any(n.op == "argmax" and n.output == tensor for n in self._nodes)

    def input(self, name: str, shape: Sequence[int]) -> str:
        """Add the network's input, float32 of ``shape`` with batch 1."""
        self._tensors[name] = Tensor(name, tuple(shape), "input")
        return name

    def constant(self, name: str, value: ArrayLike, kind: str = "buffer") -> str:
        """Add a constant (stored float32); one of the same name and values is shared."""
        array = np.array(value, np.float32)
        known = self._constants.get(name)
        if known is not None and known.shape == array.shape and np.array_equal(known, array, equal_nan=True):
            return name
        name = self._free(name, self._tensors)
        array.flags.writeable = False
        self._tensors[name] = Tensor(name, array.shape, kind)
        self._constants[name] = array
        return name

    def node(self, op: str, name: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node; its output tensor is named like the node unless ``output`` says otherwise.

        Raises DataError when the inputs' shapes do not fit the operator.
        """
        name = self._free(name or op, self._names)
        try:
            shape = output_shape(op, attributes, [self.shape(i) for i in inputs])
        except ValueError as error:
            raise DataError(f"layer '{name}': {error}", hint="check the model's input size") from error
        output = output or self._free(name, {*self._tensors, *self._reserved})
        self._names.add(name)
        self._tensors[output] = Tensor(output, shape, "activation")
        self._nodes.append(Node(name, op, tuple(inputs), output, attributes))
        return output

    def build(self, outputs: Sequence[str]) -> Graph:
        """Return the finished graph."""
        inputs = tuple(t.name for t in self._tensors.values() if t.kind == "input")
        return Graph(tuple(self._nodes), self._tensors, self._constants, inputs, tuple(outputs))

    def _free(self, name: str, taken: set[str] | dict[str, Tensor]) -> str:
        free, n = name, 0
        while free in taken:
            n += 1
            free = f"{name}_{n}"
        return free
