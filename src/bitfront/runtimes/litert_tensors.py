"""Tensors in a TFLite file: their layout, their formats, their constants.

Maps are NHWC, so a graph's ``(n, c, h, w)`` is ``(n, h, w, c)`` here; tensors of other ranks keep their axes. Codes of
up to 8 bits are int8, of up to 16 bits int16; LiteRT's kernels know no unsigned ones with scales per channel, so those
of unsigned 8-bit formats are stored 128 lower, with the zero point there: they stand for the same values.

A tensor keeps its name. What stands beside it is told by a suffix: ``t@shifted`` (codes 128 lower than the plan's),
``t@codes`` (codes of a graph input), ``t@value`` (the values of codes), ``t@float``, ``t@unclipped`` and the like.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import UsageError
from bitfront.graph.ir import Graph, Node
from bitfront.quant.formats import Affine, Float16, integer
from bitfront.quant.plan import Plan
from bitfront.runtimes.litert_model import ModelWriter

__all__ = ["SHIFT", "TensorWriter", "nhwc", "nhwc_axis"]

SHIFT = 128
"""How far codes of unsigned 8-bit formats lie above those in the file."""
PACKED_FROM = 64
"""Elements from which 4-bit weights are packed."""
_NONE, _RELU, _RELU_N1_TO_1, _RELU6 = 0, 1, 2, 3
_FUSED = {(0.0, math.inf): _RELU, (-1.0, 1.0): _RELU_N1_TO_1, (0.0, 6.0): _RELU6}
"""Bounds -> the schema's ``ActivationFunctionType``."""


@dataclass(slots=True)
class TensorWriter:
    """The tensors written so far, by their names in the file."""

    graph: Graph
    plan: Plan
    model: ModelWriter = field(default_factory=ModelWriter)
    _held: dict[str, int] = field(default_factory=dict)
    """Tensor of the graph -> index of its codes or values."""
    _made: dict[tuple[Any, ...], int] = field(default_factory=dict)
    """What was derived once and is used again."""

    # --- what a tensor is --------------------------------------------------------------------------------------------
    def form(self, tensor: str) -> Affine | None:
        """The integer format of a tensor in the file; ``None`` for floats. Raises UsageError for codes without room."""
        form = integer(self.plan.formats.get(tensor))
        if form is None:
            return None
        wide = form.bits > 8
        if form.bits > 16 or (wide and (not form.signed or any(form.zero_point))):
            raise UsageError(
                f"tensor '{tensor}': LiteRT has no kernels for {form.bits}-bit codes "
                f"{'with a zero point' if form.bits <= 16 else 'of activations'}",
                hint="it takes up to 8 bits, or up to 16 signed ones around zero",
            )
        if not self.is_shifted(tensor):
            return form
        return replace(form, signed=True, zero_point=(form.zero_point[0] - SHIFT,))

    def is_shifted(self, tensor: str) -> bool:
        """Whether a tensor's codes lie 128 lower than those of the plan."""
        form = integer(self.plan.formats.get(tensor))
        return form is not None and form.bits == 8 and not form.signed and tensor not in self.graph.constants

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape in the file."""
        return nhwc(self.graph.tensors[tensor].shape)

    def rank(self, tensor: str) -> int:
        """Number of axes."""
        return len(self.graph.tensors[tensor].shape)

    def width(self, tensor: str) -> int:
        """Bits of the type that holds a tensor: 8 or 16 for codes, 32 for floats."""
        form = self.form(tensor)
        return 32 if form is None else 8 if form.bits <= 8 else 16

    # --- pieces ------------------------------------------------------------------------------------------------------
    def emit(self, op: str, inputs: Sequence[int], output: int, options: str = "", **fields: Any) -> int:
        """Append an operator; returns its output."""
        self.model.operator(op, inputs, [output], options, **fields)
        return output

    def scratch(self, name: str, shape: Sequence[int], form: Affine | None = None, dtype: str = "") -> int:
        """Declare a tensor: float32, or codes of a format as the file has it."""
        if form is None:
            return self.model.tensor(name, shape, dtype or "FLOAT32")
        dtype = dtype or ("INT8" if form.bits <= 8 else "INT16")
        return self.model.tensor(name, shape, dtype, scale=form.scale, zero_point=form.zero_point)

    def declare(self, tensor: str) -> int:
        """Declare a tensor of the graph as its plan has it; it can be read from here on."""
        name = f"{tensor}@shifted" if self.is_shifted(tensor) else tensor
        self._held[tensor] = self.scratch(name, self.shape(tensor), self.form(tensor))
        return self._held[tensor]

    def hold(self, tensor: str, index: int) -> None:
        """Say where a tensor of the graph is."""
        self._held[tensor] = index

    def indices(self, values: Any) -> int:
        """Store int32 constants: shapes, axes, paddings."""
        array = np.asarray(values, np.int32)
        return self._once(("indices", array.shape, array.tobytes()), lambda: self._constant("", array, "INT32"))

    def floats(self, values: Any) -> int:
        """Store float32 constants."""
        array = np.asarray(values, np.float32)
        return self._once(("floats", array.shape, array.tobytes()), lambda: self._constant("", array, "FLOAT32"))

    def _constant(self, name: str, array: NDArray[Any], dtype: str) -> int:
        return self.model.tensor(name, array.shape, dtype, data=array)

    def _once(self, key: tuple[Any, ...], make: Callable[[], int]) -> int:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    # --- reading -----------------------------------------------------------------------------------------------------
    def held(self, tensor: str) -> int:
        """Index of a computed tensor: its codes where it has a format, else its values."""
        return self._held[tensor]

    def value(self, tensor: str) -> int:
        """Index of a tensor's float32 values, laid out for a map."""
        if tensor in self.graph.constants:
            return self.constant(tensor)
        if self.form(tensor) is None:
            return self.held(tensor)
        return self._once(("value", tensor), lambda: self._dequantize(f"{tensor}@value", self.held(tensor), tensor))

    def _dequantize(self, name: str, source: int, tensor: str) -> int:
        return self.emit("DEQUANTIZE", [source], self.scratch(name, self.shape(tensor)), "DequantizeOptions")

    def codes(self, tensor: str, form: Affine) -> int:
        """Index of a computed tensor's codes in a format as the file has it."""
        if self.form(tensor) == form:
            return self.held(tensor)
        key = ("codes", tensor, form)
        return self._once(key, lambda: self._quantize(f"{tensor}@requantized", self.held(tensor), tensor, form))

    def _quantize(self, name: str, source: int, tensor: str, form: Affine) -> int:
        return self.emit("QUANTIZE", [source], self.scratch(name, self.shape(tensor), form), "QuantizeOptions")

    def constant(self, tensor: str, rank: int = 4, order: Sequence[int] = ()) -> int:
        """Index of a constant's float32 values.

        Args:
            tensor: its name; half-precision and integer ones are stored as their codes.
            rank: axes it is brought to (by numpy's rule); those of rank 4 become NHWC.
            order: axes of a weight in the file's order, instead.
        """
        return self._once(("constant", tensor, rank, tuple(order)), lambda: self._store(tensor, rank, order))

    def _store(self, tensor: str, rank: int, order: Sequence[int]) -> int:
        value, given = self.graph.constants[tensor], self.plan.formats.get(tensor)
        form = integer(given)
        axis = 0 if form is None or form.axis is None else form.axis

        def laid(array: NDArray[Any]) -> NDArray[Any]:
            if order:
                return array.transpose(order)
            array = array.reshape(*[1] * (rank - array.ndim), *array.shape) if array.ndim < rank else array
            return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array

        if form is None and not isinstance(given, Float16):
            return self._constant("", laid(value.astype(np.float32)), "FLOAT32")
        if form is None:
            codes = laid(Float16().encode(value))
            stored = self._constant("", codes, "FLOAT16")
        else:
            width = 8 if form.bits <= 8 else 16
            if form.bits > 16 or not form.signed:
                raise UsageError(f"constant '{tensor}' has {form.bits}-bit codes", hint="LiteRT takes 16 signed bits")
            codes = laid(form.encode(value)).astype(f"int{width}")
            zeros = np.broadcast_to(np.asarray(form.zero_point), len(form.scale))
            place = order.index(axis) if order else axis
            stored = self.model.tensor(
                "", codes.shape, f"INT{width}", data=codes, scale=form.scale, zero_point=zeros.tolist(), axis=place
            )
        made = self.scratch(f"{tensor}@value", codes.shape)
        return self.emit("DEQUANTIZE", [stored], made, "DequantizeOptions")

    def weight(self, tensor: str, order: Sequence[int]) -> int:
        """Index of a weight's integer codes, its axes in the file's order. Raises UsageError for a zero point."""
        form = integer(self.plan.formats[tensor])
        assert form is not None
        if any(form.zero_point) or not form.signed or form.bits > 8:
            raise UsageError(f"weight '{tensor}': LiteRT takes signed weights of up to 8 bits around zero")
        codes = form.encode(self.graph.constants[tensor]).astype(np.int8)
        laid = codes.transpose(order) if order else codes
        packed = form.bits <= 4 and codes.size >= PACKED_FROM
        axis = form.axis or 0
        return self._once(
            ("weight", tensor, tuple(order)),
            lambda: self.model.tensor(
                "", laid.shape, "INT4" if packed else "INT8", data=laid, scale=form.scale,
                zero_point=[0] * len(form.scale), axis=order.index(axis) if order else axis,
            ),
        )  # fmt: skip

    # --- writing -----------------------------------------------------------------------------------------------------
    def compute(self, node: Node, emit: Callable[[int, int], object]) -> None:
        """Declare a node's output, let ``emit(output, activation)`` write its operator, and clip what is left to clip.

        The operator works in the output's own format.
        """
        tensor, clip = node.output, node.attributes.get("clip")
        form = self.form(tensor)
        fused = _fused(clip, form)
        if fused >= 0 and (form is None or _is_full(form)):
            emit(self.declare(tensor), fused)
            return
        raw = self.scratch(f"{tensor}@unclipped", self.shape(tensor), form)
        emit(raw, _NONE)
        self.clip(tensor, raw, clip)

    def compute_float(self, node: Node, emit: Callable[[int, int], object]) -> None:
        """Do as :meth:`compute`, in float32: codes are made of the result."""
        form = self.form(node.output)
        if form is None:
            self.compute(node, emit)
            return
        clip = node.attributes.get("clip")
        fused = _fused(clip, None)
        raw = self.scratch(f"{node.output}@float", self.shape(node.output))
        emit(raw, max(fused, _NONE))
        self.quantize(node.output, raw, clip if fused < 0 else None)

    def quantize(self, tensor: str, raw: int, clip: Sequence[float] | None = None) -> None:
        """Make a tensor of float values or of codes in another format."""
        form = self.form(tensor)
        assert form is not None
        if clip is None and _is_full(form):
            self.emit("QUANTIZE", [raw], self.declare(tensor), "QuantizeOptions")
            return
        unclipped = self.scratch(f"{tensor}@unclipped", self.shape(tensor), form)
        self.emit("QUANTIZE", [raw], unclipped, "QuantizeOptions")
        self.clip(tensor, unclipped, clip)

    def clip(self, tensor: str, raw: int, clip: Sequence[float] | None, *, own: bool = True) -> None:
        """Make a tensor of ``raw``, which has its format, with MAXIMUM and MINIMUM.

        Where nothing is to be clipped it is ``raw`` itself, or a copy of it where that is another's (not ``own``).
        """
        form = self.form(tensor)
        if form is None:
            low, high = clip or (-math.inf, math.inf)
            ends = [(op, v) for op, v in (("MAXIMUM", low), ("MINIMUM", high)) if math.isfinite(v)]
        else:
            limits = np.iinfo(np.int8 if form.bits <= 8 else np.int16)
            low, high = (form.low, form.high) if clip is None else form.encode(np.asarray(clip, np.float32)).tolist()
            ends = [("MAXIMUM", low)] * (low > limits.min) + [("MINIMUM", high)] * (high < limits.max)
        for n, (op, bound) in enumerate(ends):
            last = n + 1 == len(ends)
            made = self.declare(tensor) if last else self.scratch(f"{tensor}@clipped", self.shape(tensor), form)
            raw = self.emit(op, [raw, self._bound(bound, form)], made, "MaximumMinimumOptions")
        if not ends and not own:
            self.emit("RESHAPE", [raw, self.indices(self.shape(tensor))], self.declare(tensor), "ReshapeOptions")
        elif not ends:
            self.hold(tensor, raw)
            self.model.tensors[raw].name = f"{tensor}@shifted" if self.is_shifted(tensor) else tensor

    def _bound(self, bound: float, form: Affine | None) -> int:
        if form is None:
            return self.floats(bound)
        dtype = "int8" if form.bits <= 8 else "int16"
        return self.model.tensor(
            "", (), dtype.upper(), data=np.array(bound, dtype), scale=form.scale, zero_point=form.zero_point
        )


def _fused(clip: Sequence[float] | None, form: Affine | None) -> int:
    """Return the activation that an operator with this output can do itself; -1 where there is none."""
    if clip is None:
        return _NONE
    low, high = float(clip[0]), float(clip[1])
    if form is not None:  # what the format saturates need not be clipped
        first, last = form.encode(np.asarray(clip, np.float32)).tolist()
        high = math.inf if last == form.high else high
        if first == form.low and high == math.inf:
            return _NONE
    return _FUSED.get((low, high), -1)


def _is_full(form: Affine) -> bool:
    """Whether a format uses every code of the type that holds it, so that a kernel's saturation is its own."""
    limits = np.iinfo(np.int8 if form.bits <= 8 else np.int16)
    return (form.low, form.high) == (limits.min, limits.max)


def nhwc(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a graph's shape in the file's layout."""
    if len(shape) != 4:
        return tuple(shape)
    n, c, h, w = shape
    return (n, h, w, c)


def nhwc_axis(axis: int, rank: int) -> int:
    """Return where an axis of the graph is in the file."""
    return (0, 3, 1, 2)[axis] if rank == 4 else axis
