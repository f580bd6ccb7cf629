"""Show the inner tensors of an ONNX model: declare them as outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper, numpy_helper

__all__ = ["declare", "expose", "shifts"]

_HELD = ("codes", "shifted", "half")
"""``t@codes``, ``t@shifted`` and ``t@half`` are what a tensor ``t`` is held as, and stand before ``t``; see
:mod:`bitfront.runtimes.onnx_writer`."""


def declare(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Make the named tensors outputs of the model, in place; the engine infers their types."""
    have = {value.name for value in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in have)


def expose(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """Make a written model's inner tensors outputs, in place.

    Returns ``(name in the file, name in the graph)`` in execution order: the codes of a quantized tensor stand for it,
    a float tensor for itself; what lies between (``t@float``, ...) is left out.
    """
    constants = {initializer.name for initializer in model.graph.initializer}
    inputs = {value.name for value in model.graph.input}
    shown: dict[str, str] = {}
    for node in model.graph.node:
        name = node.output[0]
        tensor, _, tag = name.rpartition("@")
        if all(source in constants for source in node.input if source):
            constants.add(name)
            continue
        if tag == "half" and tensor in inputs:
            continue
        if tag in _HELD:
            shown.setdefault(tensor, name)
        elif "@" not in name:
            shown.setdefault(name, name)
    declare(model, list(shown.values()))
    return [(name, tensor) for tensor, name in shown.items()]


def shifts(model: onnx.ModelProto) -> dict[str, int]:
    """Return name in the file -> how far the codes there lie above those of the plan, of all ``t@shifted``."""
    values = {initializer.name: initializer for initializer in model.graph.initializer}
    return {
        node.input[0]: int(numpy_helper.to_array(values[node.input[2]]))
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0].endswith("@shifted")
    }
