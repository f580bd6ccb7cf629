"""TFLite flatbuffers: tensors and operators put together, and taken apart again.

The schema is the one that LiteRT ships (``ai_edge_litert.schema_py_generated``). Constants are aligned to 16 bytes, as
its kernels want them; equal constants are stored once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DeviceError

__all__ = ["ALIGNMENT", "ModelWriter", "pack", "schema"]

ALIGNMENT = 16
VERSION = 3
IDENTIFIER = b"TFL3"
WIDE_CODES = 127
"""Operator codes from here on have no room in the old 8-bit field."""
PACKED_BITS = {"INT4": 4, "INT2": 2}


@cache
def schema() -> Any:
    """Return the module of the schema. Raises DeviceError when LiteRT is not installed."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise DeviceError(f"LiteRT is not usable: {error}", hint="pip install 'bitfront[litert]'") from error
    return schema_py_generated


class ModelWriter:
    """The tensors and operators written so far; every tensor is known by its index."""

    def __init__(self) -> None:
        s = schema()
        self.tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[str, int] = {}
        self._buffers: list[Any] = [s.BufferT()]  # the first is empty, by convention
        self._stored: dict[bytes, int] = {}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        *,
        data: NDArray[Any] | None = None,
        scale: Sequence[float] = (),
        zero_point: Sequence[int] = (),
        axis: int = 0,
    ) -> int:
        """Add a tensor and return its index.

        Args:
            name: what it is called in the file.
            shape: its sizes.
            dtype: a name of the schema's ``TensorType``; data of ``INT4`` and ``INT2`` are packed here.
            data: values of a constant.
            scale: of its codes, one or one per entry of ``axis``; empty for floats and indices.
            zero_point: of its codes.
            axis: the quantized axis where there are several scales.
        """
        s = schema()
        made = s.TensorT()
        made.name, made.shape, made.type = name, np.asarray(shape, np.int32), getattr(s.TensorType, dtype)
        made.hasRank = True
        made.buffer = 0 if data is None else self._buffer(_packed(data, dtype))
        if len(scale):
            made.quantization = s.QuantizationParametersT()
            made.quantization.scale = np.asarray(scale, np.float32)
            made.quantization.zeroPoint = np.asarray(zero_point, np.int64)
            made.quantization.quantizedDimension = axis
        self.tensors.append(made)
        return len(self.tensors) - 1

    def operator(
        self, op: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", **fields: Any
    ) -> None:
        """Add an operator of the schema's ``BuiltinOperator``, with the fields of its options table."""
        s = schema()
        made = s.OperatorT()
        made.opcodeIndex = self._codes.setdefault(op, len(self._codes))
        made.inputs, made.outputs = np.asarray(inputs, np.int32), np.asarray(outputs, np.int32)
        if options:
            made.builtinOptionsType = getattr(s.BuiltinOptions, options)
            made.builtinOptions = getattr(s, f"{options}T")()
            for key, value in fields.items():
                setattr(made.builtinOptions, key, value)
        self._operators.append(made)

    def finish(self, inputs: Sequence[int], outputs: Sequence[int], metadata: Mapping[str, bytes]) -> bytes:
        """Return the file."""
        s = schema()
        graph, model = s.SubGraphT(), s.ModelT()
        graph.tensors, graph.operators, graph.name = self.tensors, self._operators, "main"
        graph.inputs, graph.outputs = np.asarray(inputs, np.int32), np.asarray(outputs, np.int32)
        model.version, model.description, model.subgraphs = VERSION, "bitfront", [graph]
        model.operatorCodes = [self._code(op) for op in self._codes]
        model.metadata = []
        for name in sorted(metadata):
            entry = s.MetadataT()
            entry.name, entry.buffer = name, self._buffer(np.frombuffer(metadata[name], np.uint8))
            model.metadata.append(entry)
        model.buffers = self._buffers
        return pack(model)

    def _code(self, op: str) -> Any:
        s = schema()
        made = s.OperatorCodeT()
        made.builtinCode = getattr(s.BuiltinOperator, op)
        made.deprecatedBuiltinCode = min(made.builtinCode, WIDE_CODES)
        return made

    def _buffer(self, data: NDArray[np.uint8]) -> int:
        key = data.tobytes()
        if key not in self._stored:
            made = schema().BufferT()
            made.data = data
            self._stored[key] = len(self._buffers)
            self._buffers.append(made)
        return self._stored[key]


def pack(model: Any) -> bytes:
    """Return the bytes of a ``ModelT``; equal models give equal bytes."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    places = [_aligned(builder, buffer.data) for buffer in model.buffers]
    for buffer, place in zip(model.buffers, places, strict=True):
        buffer.Pack = _packer(place)
    vectors: dict[bytes, int] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors or ():
            if tensor.quantization is not None:
                _share(tensor.quantization, vectors)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _aligned(builder: Any, data: NDArray[np.uint8] | None) -> int:
    """Write the bytes of a constant at a multiple of ``ALIGNMENT``; returns where, 0 for none."""
    if data is None or not len(data):
        return 0
    builder.StartVector(1, len(data), ALIGNMENT)
    builder.head -= len(data)
    builder.Bytes[builder.head : builder.head + len(data)] = data.tobytes()
    return int(builder.EndVector())


def _packer(place: int) -> Any:
    s = schema()

    def write(builder: Any) -> int:
        s.BufferStart(builder)
        if place:
            s.BufferAddData(builder, place)
        return int(s.BufferEnd(builder))

    return write


def _share(quantization: Any, vectors: dict[bytes, int]) -> None:
    """Let tables of quantization parameters store equal vectors once: the zero points of weights and biases."""
    s, parts = schema(), ("min", "max", "scale", "zeroPoint")

    def write(builder: Any) -> int:
        places = {}
        for part in parts:
            values = getattr(quantization, part)
            if values is None or isinstance(values, int) or not len(values):
                continue
            array = np.asarray(values, np.int64 if part == "zeroPoint" else np.float32)
            key = part.encode() + array.tobytes()
            if key not in vectors:
                vectors[key] = builder.CreateNumpyVector(array)
            places[part] = vectors[key]
        s.QuantizationParametersStart(builder)
        for part, place in places.items():
            getattr(s, f"QuantizationParametersAdd{part[0].upper()}{part[1:]}")(builder, place)
        if quantization.quantizedDimension:
            s.QuantizationParametersAddQuantizedDimension(builder, quantization.quantizedDimension)
        return int(s.QuantizationParametersEnd(builder))

    quantization.Pack = write


def _packed(data: NDArray[Any], dtype: str) -> NDArray[np.uint8]:
    """Return the bytes of a constant: two or four narrow codes a byte, the first in the low bits."""
    bits = PACKED_BITS.get(dtype)
    if bits is None:
        return np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
    a_byte = 8 // bits
    codes = np.zeros(-(-data.size // a_byte) * a_byte, np.uint8)
    codes[: data.size] = data.reshape(-1).astype(np.int8).view(np.uint8) & ((1 << bits) - 1)
    shifts = np.arange(a_byte, dtype=np.uint8) * bits
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(codes.reshape(-1, a_byte) << shifts, axis=1).astype(np.uint8)
    return packed
