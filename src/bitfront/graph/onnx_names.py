"""Names in ONNX files: long ones cost more bytes than the weights of a small network.

A written file spells the full name of a tensor once, as the name of the node that computes it (which is what viewers
and profilers show); wherever tensors are connected a short one stands, ``@`` and a number in base 36.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

__all__ = ["expand", "shorten"]

_SHORT = "@"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_UNNAMED = ("DequantizeLinear", "Cast")
"""Nodes whose output another node's name tells."""
_ROLES = {1: "weight", 2: "bias"}
_SHARED_BYTES = 16
"""Initializers up to this size are stored once when they are equal: scales, zero points, sizes."""


def shorten(model: onnx.ModelProto) -> None:
    """Give the tensors of a model short names, and equal small initializers one; in place.

    Inputs and outputs keep their names.
    """
    graph = model.graph
    short: dict[str, str] = {value.name: value.name for value in (*graph.input, *graph.output)}
    numbers = _numbers()

    def rename(name: str) -> str:
        if name and name not in short:
            short[name] = next(numbers)
        return short.get(name, "")

    kept: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    for tensor in list(graph.initializer):
        key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        if len(tensor.raw_data) <= _SHARED_BYTES and tensor.raw_data and key in kept:
            short[tensor.name] = kept[key]
            graph.initializer.remove(tensor)
        else:
            kept[key] = tensor.name = rename(tensor.name)
    for node in graph.node:
        if node.op_type in _UNNAMED:
            node.ClearField("name")
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]


def expand(model: onnx.ModelProto) -> None:
    """Undo :func:`shorten` as far as node names tell, in place; models with long names stay as they are."""
    graph = model.graph
    full: dict[str, str] = {}
    taken = {value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        if node.name and node.output[0].startswith(_SHORT) and node.name not in taken:
            full[node.output[0]] = node.name
            taken.add(node.name)
    for node in graph.node:
        name, _, tag = full.get(node.input[0], "").rpartition("@")
        dequantizes = node.op_type == "DequantizeLinear" and tag in ("codes", "shifted")
        if dequantizes and node.output[0].startswith(_SHORT):
            full[node.output[0]] = f"{name}@values" if name in taken else name
    for tensor in graph.initializer:
        if tensor.name.startswith(_SHORT) and (name := _role(graph, tensor.name)) and name not in taken:
            full[tensor.name] = name
            taken.add(name)
    for tensor in graph.initializer:
        tensor.name = full.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [full.get(name, name) for name in node.input]
        node.output[:] = [full.get(name, name) for name in node.output]


def _role(graph: onnx.GraphProto, tensor: str) -> str:
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == tensor and node.name:
                return f"{node.name.partition('@')[0]}.{_ROLES.get(position, f'constant{position}')}"
    return ""


def _numbers() -> Iterator[str]:
    n = 0
    while True:
        digits, rest = "", n
        while rest or not digits:
            rest, last = divmod(rest, len(_DIGITS))
            digits = _DIGITS[last] + digits
        yield _SHORT + digits
        n += 1
