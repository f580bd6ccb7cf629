"""ONNX files, read with care: bytes -> a checked model of a known operator set, weights inside.

A file may come from anywhere, so nothing in it is trusted: external data must be plain files beside the model (no links
of any kind, no way out of its folder), a tensor must hold its values in one place only, and operators of other domains,
functions and training information are refused.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, numpy_helper, version_converter

from bitfront.errors import DataError, one_line
from bitfront.graph import onnx_names

__all__ = ["MIN_OPSET", "load"]

MIN_OPSET, OPSET = 9, 18
"""Older files are refused; files below ``OPSET`` are upgraded to it."""
MAX_BYTES = 2**31
"""Largest file, external data included (protobuf's own limit)."""
VALUE_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
HINT = "export the model again, or get it from where it was made"


def load(source: str | Path | bytes) -> ModelProto:
    """Return a checked model of operator set 18 or newer with all values inside.

    Raises:
        DataError: no such file, not an ONNX model, damaged, larger than 2 GiB, or unsafe in one of the ways above.
    """
    path = None if isinstance(source, bytes) else Path(source)
    name = f"'{path}'" if path is not None else "the ONNX model"
    data = source if isinstance(source, bytes) else _read(Path(source), name)
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise DataError(f"{name} is not an ONNX model, or is damaged", hint=HINT) from error
    _refuse_unsafe(model, name)
    _load_external(model, path, name)
    for tensor in _tensors(model.graph):
        _check_tensor(tensor, name)
    for output in model.graph.output:  # engines do not need it, the checker does
        if output.type.WhichOneof("value") == "tensor_type":
            output.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
        model = _upgrade(model, name)
        if model.producer_name == "bitfront":
            onnx_names.expand(model)
        return model
    except DataError:
        raise
    except Exception as error:  # the checker and the converter raise whatever they like
        reason = one_line(str(error).strip().split("\n")[0])[:160]
        raise DataError(f"{name} is not a valid ONNX model: {reason}", hint=HINT) from error


def _read(path: Path, name: str) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{name} has {size} bytes, more than {MAX_BYTES}", hint="use a smaller model")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {name}: {reason}", hint="give the path of an .onnx file") from error


def _refuse_unsafe(model: ModelProto, name: str) -> None:
    domains = sorted({n.domain for n in _nodes(model.graph)} - {"", "ai.onnx"})
    if domains:
        ops = sorted({n.op_type for n in _nodes(model.graph) if n.domain in domains})
        raise DataError(
            f"{name} uses operators of other domains ({', '.join(domains)}): {', '.join(ops)}",
            hint="export it with ONNX's own operators only",
        )
    for what, found in (
        ("functions", model.functions),
        ("training information", model.training_info),
        ("sparse tensors", model.graph.sparse_initializer),
    ):
        if len(found):
            raise DataError(f"{name} holds {what}", hint="export a plain inference model")
    if not model.graph.node or not model.graph.output:
        raise DataError(f"{name} holds no network", hint=HINT)


def _nodes(graph: GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in _nodes(graph):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            yield from attribute.g.initializer
            for inner in attribute.graphs:
                yield from inner.initializer


def _check_tensor(tensor: TensorProto, name: str) -> None:
    """Refuse a tensor with values in two fields, or with more or fewer values than its shape says."""
    what = f"{name}: tensor '{tensor.name}'"
    filled = [field for field in VALUE_FIELDS if len(getattr(tensor, field))]
    if len(filled) > 1:
        raise DataError(f"{what} holds its values twice ({', '.join(filled)})", hint="do not trust this file")
    try:
        array = numpy_helper.to_array(tensor)
    except Exception as error:
        raise DataError(f"{what} is damaged", hint=HINT) from error
    if any(d < 0 for d in tensor.dims) or array.size != math.prod(tensor.dims):
        raise DataError(f"{what} is damaged", hint=HINT)


def _load_external(model: ModelProto, path: Path | None, name: str) -> None:
    """Read values kept in other files into the model, after checking those files."""
    budget = MAX_BYTES
    for tensor in _tensors(model.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        what = f"{name}: external data '{entries.get('location', '')}' of tensor '{tensor.name}'"
        if path is None:
            raise DataError(f"{what} is not there", hint="give the path of the .onnx file, with its data beside it")
        if any(len(getattr(tensor, field)) for field in VALUE_FIELDS):
            raise DataError(f"{what}: the file holds its values twice", hint="do not trust this file")
        data = _read_external(path.parent, entries, what)
        budget -= len(data)
        if budget < 0:
            raise DataError(f"{name} is larger than {MAX_BYTES} bytes", hint="use a smaller model")
        tensor.raw_data = data
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT


def _read_external(folder: Path, entries: dict[str, str], what: str) -> bytes:
    location = entries.get("location", "")
    parts = Path(location).parts
    if not parts or Path(location).is_absolute() or ".." in parts or "\\" in location or "\0" in location:
        raise DataError(f"{what} lies outside the model's folder", hint="do not trust this file")
    file = folder
    try:
        for part in parts:  # no link on the way, so what is checked is what is opened
            file = file / part
            if file.is_symlink():
                raise DataError(f"{what} is a link", hint="put the file itself beside the model")
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as handle:  # noqa: PTH123 - of a descriptor
            info = os.fstat(handle.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
                raise DataError(f"{what} is a link or no plain file", hint="put the file itself beside the model")
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", info.st_size - offset))
            if offset < 0 or length < 0 or offset + length > info.st_size:
                raise DataError(f"{what} is shorter than the model says", hint=HINT)
            handle.seek(offset)
            return handle.read(length)
    except (OSError, ValueError) as error:
        raise DataError(f"{what} cannot be read: {error}", hint="put the file beside the model") from error


def _upgrade(model: ModelProto, name: str) -> ModelProto:
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version < MIN_OPSET:
        raise DataError(f"{name} has operator set {version}", hint=f"export it with opset {MIN_OPSET} or newer")
    return model if version >= OPSET else version_converter.convert_version(model, OPSET)
