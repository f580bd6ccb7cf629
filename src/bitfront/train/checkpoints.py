"""Checkpoints: safetensors files (no code inside) whose metadata says what the weights are.

The metadata key ``bitfront`` holds JSON: at least ``model``, ``options``, ``task``, ``classes`` and ``input`` of a
network that can be opened again. Files of others have none; their header is empty. Needs no torch.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from bitfront.errors import DataError
from bitfront.record import to_json
from bitfront.store import atomic_write

__all__ = ["decode", "encode", "load_checkpoint", "load_into", "read_header", "save_checkpoint"]

KEY = "bitfront"
MAX_HEADER_BYTES = 1_000_000
"""A header larger than this is refused; real ones hold a few kB, states of a training up to some hundred kB."""
MAX_TABLE_BYTES = 100_000_000
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

State = dict[str, NDArray[Any]]


def save_checkpoint(path: Path, module: Any, header: Mapping[str, Any]) -> None:
    """Write the weights of a torch module (or a mapping of arrays or tensors) atomically.

    Raises SpaceError, UsageError as :func:`bitfront.store.atomic_write`; ValueError for weights that are not finite.
    """
    state = module.state_dict() if hasattr(module, "state_dict") else module
    arrays = {key: _array(value) for key, value in state.items()}
    for key, value in arrays.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"'{key}' is not finite; a checkpoint never holds that")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, encode(arrays, header))


def load_checkpoint(path: Path) -> tuple[dict[str, Any], State]:
    """Return the header (empty for files of others) and the arrays; float16 and bfloat16 become float32.

    Raises DataError for what is no safetensors file.
    """
    try:
        return decode(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def read_header(path: Path) -> dict[str, Any]:
    """Return the header alone, without reading the weights. Raises DataError."""
    try:
        with path.open("rb") as file:
            size = file.read(8)
            length = struct.unpack("<Q", size)[0] if len(size) == 8 else 0
            if not 2 <= length <= MAX_TABLE_BYTES:
                raise _not_ours(path)
            table = file.read(length)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return _header(table, path)


def load_into(
    module: Any, state: Mapping[str, NDArray[Any]], what: str = "checkpoint", prefixes: tuple[str, ...] = ()
) -> None:
    """Load arrays into a torch module; every key and shape must fit. DataError names the first that does not.

    With ``prefixes`` only the keys that begin so, on both sides, are looked at; the rest of the module stays.
    """
    import torch

    own = {key: value for key, value in module.state_dict().items() if key.startswith(prefixes or "")}
    state = {key: value for key, value in state.items() if key.startswith(prefixes or "")}
    for key, value in own.items():
        if key not in state:
            if key.endswith("num_batches_tracked"):
                continue
            raise DataError(
                f"{what}: no weights for '{key}'", hint="is it a checkpoint of this network and its options?"
            )
        if tuple(state[key].shape) != tuple(value.shape):
            raise DataError(
                f"{what}: '{key}' has shape {tuple(state[key].shape)}, the network wants {tuple(value.shape)}",
                hint="is it a checkpoint of this network and its options?",
            )
    extra = next((key for key in state if key not in own), None)
    if extra is not None:
        raise DataError(f"{what}: the network has no '{extra}'", hint="is it a checkpoint of this network?")
    tensors = {key: torch.from_numpy(np.array(state[key])) for key in own if key in state}
    module.load_state_dict(tensors, strict=False)


def encode(arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> bytes:
    """Return the file's bytes. Raises ValueError when the header is too large."""
    text = json.dumps(to_json(header), sort_keys=True)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"the header has {len(text)} bytes, more than {MAX_HEADER_BYTES}")
    data: bytes = save({k: np.array(v, order="C") for k, v in arrays.items()}, {KEY: text})
    return data


def decode(data: bytes, path: Path) -> tuple[dict[str, Any], State]:
    """Header and arrays of a file's bytes. Raises DataError naming ``path``."""
    try:
        tensors: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise _not_ours(path, str(error)) from error
    length = struct.unpack("<Q", data[:8])[0]
    return _header(data[8 : 8 + length], path), {name: _decode(name, t, path) for name, t in tensors}


def _decode(name: str, tensor: Mapping[str, Any], path: Path) -> NDArray[Any]:
    kind, raw = tensor["dtype"], tensor["data"]
    if kind == "BF16":
        values: NDArray[Any] = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif kind in DTYPES:
        values = np.frombuffer(raw, DTYPES[kind])
    else:
        raise DataError(f"{path}: tensor '{name}' has the type {kind}, which no network here has")
    values = values.astype(np.float32) if kind == "F16" else values
    return values.reshape(tensor["shape"])


def _header(table: bytes, path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(table).get("__metadata__") or {}
        text = metadata.get(KEY, "{}")
        if len(text) > MAX_HEADER_BYTES:
            raise DataError(f"{path}: its header has {len(text)} bytes, more than {MAX_HEADER_BYTES}")
        header = json.loads(text)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise _not_ours(path) from error
    if not isinstance(header, dict):
        raise _not_ours(path)
    return header


def _not_ours(path: Path, why: str = "") -> DataError:
    return DataError(
        f"{path} is not a readable safetensors file{f' ({why})' if why else ''}",
        hint="pickled .pt and .pth files run code when opened: save the state dict with safetensors.torch.save_file",
    )


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    array: NDArray[Any] = value.detach().cpu().contiguous().numpy()
    return array
