"""A graph and its plan as one file, so that an artifact's reference can be computed again anywhere, any time.

The file is a safetensors file: the constants, and as metadata the JSON of nodes, tensors and formats. Reading it
executes nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from bitfront.errors import DataError, UsageError, one_line
from bitfront.graph.ir import Graph, Node, Tensor
from bitfront.quant.plan import Plan
from bitfront.quant.plan_files import plan_from_json, plan_to_json
from bitfront.record import from_json, to_json
from bitfront.store import atomic_write

__all__ = ["SUFFIX", "beside", "facts", "load", "save"]

SUFFIX = ".reference.safetensors"
"""Ending of such files; an artifact ``model.onnx`` has its reference in ``model.reference.safetensors`` beside it."""
SCHEMA = 1
MAX_BYTES = 2 << 30


def save(path: Path, graph: Graph, plan: Plan, facts: Mapping[str, Any] | None = None) -> None:
    """Write ``graph`` and ``plan``, atomically; ``facts`` are kept with them. Raises SpaceError, UsageError."""
    header = {
        "schema": SCHEMA,
        "nodes": [_node(node) for node in graph.nodes],
        "tensors": to_json(list(graph.tensors.values())),
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "plan": plan_to_json(plan),
        **({"facts": to_json(facts)} if facts else {}),
    }
    constants = {name: np.ascontiguousarray(value) for name, value in graph.constants.items()}
    atomic_write(path, save_tensors(constants, {"bitfront": json.dumps(header)}))


def beside(artifact: Path) -> Graph:
    """Return the graph of the reference beside an artifact. Raises DataError when none lies there, UsageError."""
    path = artifact.with_suffix(SUFFIX)
    if not path.is_file():
        raise DataError(
            f"'{artifact}' can be run, not taken apart: no reference lies beside it ({path.name})",
            hint="give the network it was made from",
        )
    return load(path)[0]


def load(path: Path) -> tuple[Graph, Plan]:
    """Read what :func:`save` wrote.

    Raises UsageError for no such file or one written by a newer bitfront, DataError for anything else.
    """
    data = _bytes(path)
    with _damage(path):
        header = _header(data, path)
        tensors = [from_json(Tensor, item) for item in header["tensors"]]
        graph = Graph(
            tuple(_read_node(item) for item in header["nodes"]),
            {tensor.name: tensor for tensor in tensors},
            load_tensors(data),
            tuple(header["inputs"]),
            tuple(header["outputs"]),
        )
        return graph, plan_from_json(header["plan"])


def facts(path: Path) -> dict[str, Any]:
    """Return what else :func:`save` was told to keep; raises as :func:`load`."""
    data = _bytes(path)
    with _damage(path):
        return dict(_header(data, path).get("facts", {}))


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES} bytes", hint="this is no reference file")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="is the name right?") from None


def _header(data: bytes, path: Path) -> Any:
    header = json.loads(_metadata(data)["bitfront"])
    if header["schema"] > SCHEMA:
        raise UsageError(f"{path} was written by a newer bitfront", hint="update bitfront")
    return header


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Say of all that a damaged file can cause that it is no reference file."""
    try:
        yield
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise DataError(f"{path} is no reference file of bitfront ({reason})", hint="was it changed or cut?") from error


def _metadata(data: bytes) -> Any:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]


def _node(node: Node) -> list[Any]:
    """Attributes keep ``inf`` apart from the text "inf": JSON has no infinities."""
    return [node.name, node.op, list(node.inputs), node.output, _pack(dict(node.attributes))]


def _read_node(item: list[Any]) -> Node:
    name, op, inputs, output, attributes = item
    return Node(name, op, tuple(inputs), output, _unpack(attributes))


def _pack(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, Mapping):
        return {str(k): _pack(v) for k, v in value.items()}
    return [_pack(v) for v in value] if isinstance(value, (list, tuple)) else to_json(value)


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        return float(value["float"]) if value.keys() == {"float"} else {k: _unpack(v) for k, v in value.items()}
    return tuple(_unpack(v) for v in value) if isinstance(value, list) else value
