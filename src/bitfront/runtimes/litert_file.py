"""TFLite files as data: checked before any engine sees them, and the contract that bitfront wrote into them.

LiteRT trusts what it opens. So a file is first parsed here within limits; one that bitfront wrote holds a digest of
itself, and any other is opened in a child process before it is opened in this one (:mod:`.litert_probe`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import DataError, one_line
from bitfront.record import SCHEMA, from_json, to_json
from bitfront.runtimes.litert_model import IDENTIFIER, schema

__all__ = ["KEY", "Layer", "Model", "TensorFacts", "header", "read", "sealed"]

KEY = "bitfront"
"""Name of the metadata entry that holds the contract as JSON."""
MAX_TABLES = 100_000
"""Tensors, operators or buffers of one file."""
MAX_ELEMENTS = 2**33
_DIGEST = re.compile(rb'"digest":"([0-9a-f]{64})"')
_EMPTY = b'"digest":"' + b"0" * 64 + b'"'


@dataclass(frozen=True, slots=True, eq=False)
class TensorFacts:
    """A tensor of a file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """A name of the schema's ``TensorType``."""
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    limits: tuple[float, float] | None
    """Smallest and largest value as the file says; most do not."""
    constant: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """An operator of a file."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A file that was found whole."""

    data: bytes
    tensors: tuple[TensorFacts, ...]
    layers: tuple[Layer, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    facts: Mapping[str, Any] | None
    """What bitfront wrote into it: ``schema, tool, recipe, plan, graph``; ``None`` for other people's files."""
    input: InputContract | None = None
    output: OutputContract | None = None

    def producer(self, tensor: int) -> Layer | None:
        """Return the operator that computes a tensor."""
        return next((layer for layer in self.layers if tensor in layer.outputs), None)

    def operators(self) -> dict[str, int]:
        """Return operator -> how many of them."""
        return dict(sorted(Counter(layer.op for layer in self.layers).items()))

    def parameters(self) -> int:
        """Return how many numbers its layers multiply with or add: constants of convolutions and dense layers."""
        names = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
        found = {i for layer in self.layers if layer.op in names for i in layer.inputs if i >= 0}
        return sum(math.prod(self.tensors[i].shape) for i in found if self._is_stored(i))

    def macs(self) -> int:
        """Return the multiply-accumulates of convolutions and dense layers at the file's own size."""
        total = 0
        for layer in self.layers:
            if layer.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                weight, out = self.tensors[layer.inputs[1]].shape, self.tensors[layer.outputs[0]].shape
                each = math.prod(weight[1:3] if layer.op.startswith("DEPTH") else weight[1:])
                total += math.prod(out) * each
        return total

    def _is_stored(self, tensor: int) -> bool:
        """Whether a tensor is a constant, or a constant's values."""
        made = self.producer(tensor)
        return self.tensors[tensor].constant or (
            made is not None and made.op == "DEQUANTIZE" and self.tensors[made.inputs[0]].constant
        )


# --- what bitfront writes --------------------------------------------------------------------------------------------
def header(contract: InputContract, output: OutputContract, **facts: Any) -> bytes:
    """Return the metadata that makes a file describe itself, with room for its digest."""
    text = {"schema": SCHEMA, "digest": "0" * 64, "input": to_json(contract), "output": to_json(output), **facts}
    return json.dumps(text, sort_keys=True, separators=(",", ":")).encode()


def sealed(data: bytes) -> bytes:
    """Return a written file with its digest filled in."""
    return data.replace(_EMPTY, b'"digest":"' + hashlib.sha256(data).hexdigest().encode() + b'"', 1)


def _is_whole(data: bytes) -> bool:
    """Whether a file that bitfront wrote still is what was written."""
    found = _DIGEST.search(data)
    if found is None:
        return False
    blank = data[: found.start()] + _EMPTY + data[found.end() :]
    return hashlib.sha256(blank).hexdigest().encode() == found[1]


# --- reading ---------------------------------------------------------------------------------------------------------
def read(path: Path) -> Model:
    """Parse a file without running anything.

    Raises DataError when it cannot be read, is no TFLite model, is damaged, or was written by a newer bitfront; and
    DeviceError when LiteRT, whose schema this takes, is not installed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}", hint="give the path of a .tflite file") from error
    if data[4:8] != IDENTIFIER:
        raise DataError(f"'{path}' is not a TFLite model or is damaged", hint="export or copy it again")
    schema()
    try:
        model = _parsed(data)
    except (ValueError, IndexError, TypeError, KeyError, struct.error, OverflowError, RecursionError) as error:
        why = one_line(str(error))[:120]
        raise DataError(f"'{path}' is not a TFLite model or is damaged: {why}", hint="export it again") from error
    if model.facts is None:
        return model
    if not _is_whole(data):
        raise DataError(f"'{path}' is damaged: it is not what bitfront wrote", hint="export or copy it again")
    if int(model.facts["schema"]) > SCHEMA:
        raise DataError(f"'{path}' was written by a newer bitfront", hint="update bitfront")
    return model


def _parsed(data: bytes) -> Model:
    """Raises ValueError and its like for anything that points outside the file or means nothing."""
    s = schema()
    root = s.Model.GetRootAsModel(data, 0)
    if not 1 <= root.SubgraphsLength() <= MAX_TABLES:
        raise ValueError("it holds no graph")
    sizes = [_bytes_of(root.Buffers(i)) for i in range(_count(root.BuffersLength()))]
    codes = [_operator_name(root.OperatorCodes(i)) for i in range(_count(root.OperatorCodesLength()))]
    graph = root.Subgraphs(0)
    tensors = tuple(_tensor(graph.Tensors(i), sizes) for i in range(_count(graph.TensorsLength())))
    layers = tuple(_layer(graph.Operators(i), codes, len(tensors)) for i in range(_count(graph.OperatorsLength())))
    inputs = _places(graph.InputsAsNumpy(), len(tensors), 0)
    outputs = _places(graph.OutputsAsNumpy(), len(tensors), 0)
    if not inputs or not outputs or not layers:
        raise ValueError("its graph is empty")
    for i in range(_count(root.MetadataLength())):
        entry = root.Metadata(i)
        if entry.Name() == KEY.encode():
            facts = json.loads(root.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
            contract = from_json(InputContract, facts.pop("input"))
            output = from_json(OutputContract, facts.pop("output"))
            return Model(data, tensors, layers, inputs, outputs, facts, contract, output)
    return Model(data, tensors, layers, inputs, outputs, None)


def _count(n: int) -> int:
    if not 0 <= n <= MAX_TABLES:
        raise ValueError(f"it claims {n} entries")
    return n


def _bytes_of(buffer: Any) -> int:
    """Size of a constant; asking for its bytes checks that they are there."""
    values = buffer.DataAsNumpy()
    return 0 if isinstance(values, int) else len(values)


def _operator_name(code: Any) -> str:
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    name = _names("BuiltinOperator").get(number)
    if name is None:
        raise ValueError(f"operator {number} is unknown")
    return name


def _names(kind: str) -> dict[int, str]:
    return {v: k for k, v in vars(getattr(schema(), kind)).items() if isinstance(v, int)}


def _tensor(tensor: Any, sizes: list[int]) -> TensorFacts:
    shape = tuple(int(n) for n in _vector(tensor.ShapeAsNumpy()))
    dtype = _names("TensorType").get(tensor.Type())
    if dtype is None or any(n < -1 for n in shape) or math.prod(abs(n) for n in shape) > MAX_ELEMENTS:
        raise ValueError(f"a tensor has shape {shape}")
    if not 0 <= tensor.Buffer() < len(sizes):
        raise ValueError("a tensor has no buffer")
    name = (tensor.Name() or b"").decode("utf-8", "replace")
    quantization = tensor.Quantization()
    scale, zero, limits = np.zeros(0, np.float32), np.zeros(0, np.int64), None
    if quantization is not None:
        scale, zero = _vector(quantization.ScaleAsNumpy()), _vector(quantization.ZeroPointAsNumpy())
        low, high = _vector(quantization.MinAsNumpy()), _vector(quantization.MaxAsNumpy())
        limits = (float(low[0]), float(high[0])) if len(low) == len(high) == 1 else None
    return TensorFacts(name, shape, dtype, scale, zero, limits, sizes[tensor.Buffer()] > 0)


def _vector(values: Any) -> NDArray[Any]:
    """Return a vector of the schema; an absent one is the number 0 there."""
    return np.zeros(0) if isinstance(values, int) else values


def _layer(operator: Any, codes: list[str], n_tensors: int) -> Layer:
    if not 0 <= operator.OpcodeIndex() < len(codes):
        raise ValueError("an operator has no code")
    inputs = _places(operator.InputsAsNumpy(), n_tensors, -1)
    return Layer(codes[operator.OpcodeIndex()], inputs, _places(operator.OutputsAsNumpy(), n_tensors, 0))


def _places(values: Any, n: int, lowest: int) -> tuple[int, ...]:
    found = tuple(int(v) for v in _vector(values))
    if len(found) > MAX_TABLES or any(not lowest <= place < n for place in found):
        raise ValueError("an operator reads a tensor that is not there")
    return found
