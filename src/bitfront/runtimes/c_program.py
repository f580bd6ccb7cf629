"""What a network becomes before it is text: tensors in memory, constant arrays, calls of kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Node
from bitfront.quant.formats import Qmn

__all__ = ["Array", "Call", "Held", "Place", "Program", "Step"]

TYPES = ("int8", "uint8", "int16", "uint16")
"""Types of codes, by the kernels' numbers (``BF_I8``, ...)."""


@dataclass(frozen=True, slots=True)
class Held:
    """How a tensor lies in memory: one image, maps as NHWC."""

    shape: tuple[int, ...]
    """As in the graph, without the batch."""
    form: Qmn | None
    """``None`` for class indices."""
    n_classes: int = 0
    flattened: tuple[int, int, int] | None = None
    """``(c, h, w)`` of a map that was reshaped to a vector, but lies as before."""
    order: tuple[int, ...] = ()
    """Axes of ``shape`` from the outermost in memory on; empty: ``(h, w, c)`` of maps, else as they are."""

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of ``shape`` in the order of memory."""
        return self.order or ((1, 2, 0) if len(self.shape) == 3 else tuple(range(len(self.shape))))

    @property
    def type(self) -> int:
        """Index into :data:`TYPES`."""
        if self.form is None:
            return 1 if self.n_classes <= 256 else 3
        return (0 if self.form.signed else 1) + (2 if self.form.bits > 8 else 0)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Numpy's type of the codes."""
        return np.dtype(TYPES[self.type])

    @property
    def n(self) -> int:
        """Number of codes."""
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes in memory."""
        return self.n * self.dtype.itemsize

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the axes in the order of memory: ``(h, w, c)`` of maps."""
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def steps(self) -> tuple[int, ...]:
        """How far apart neighbours along each axis of ``shape`` lie in memory, in codes."""
        inner = {axis: prod(self.sizes[i + 1 :]) for i, axis in enumerate(self.axes)}
        return tuple(inner[axis] for axis in range(len(self.shape)))

    def to_memory(self, codes: NDArray[Any], dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
        """Return the codes ``(n,)`` of a tensor of ``shape`` as they lie in memory; ``dtype`` replaces theirs."""
        if self.flattened is not None:
            return Held(self.flattened, self.form).to_memory(codes, dtype)
        return np.ascontiguousarray(codes.reshape(self.shape).transpose(self.axes), dtype or self.dtype).ravel()

    def from_memory(self, codes: NDArray[Any]) -> NDArray[Any]:
        """Return the tensor, of ``shape``, of codes as they lie in memory."""
        if self.flattened is not None:
            return Held(self.flattened, self.form).from_memory(codes).reshape(self.shape)
        return codes.reshape(self.sizes).transpose(np.argsort(self.axes)).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Array:
    """A constant array in flash."""

    values: NDArray[Any]
    what: str


@dataclass(frozen=True, slots=True)
class Place:
    """An argument of a kernel: a tensor, an array, or scratch."""

    kind: str
    """``tensor``, ``array``, ``scratch``, or ``text``: a name of C itself."""
    name: str = ""
    offset: int = 0
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a kernel."""

    function: str
    kind: str
    """Name of the struct that it takes; empty for none."""
    fields: Mapping[str, int | str]
    """Values of the struct, in order; a text is the name of an array, or ``NULL``. Without a struct: arguments behind
    the places."""
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One node."""

    node: Node
    calls: tuple[Call, ...] = ()
    scratch_bytes: int = 0
    shares: str = ""
    """Input whose memory the output is."""
    may_overwrite: tuple[str, ...] = ()
    """Inputs whose memory the output may take if nobody reads them later."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A network as calls."""

    steps: Sequence[Step]
    held: Mapping[str, Held]
    """The input and every activation."""
    arrays: Mapping[str, Array] = field(default_factory=dict)
    input: str = ""
    output: str = ""
    rounding: str = "half_even"
    window_bytes: int = 0
    """Of an input that comes row by row: what is held of it; 0: all."""
