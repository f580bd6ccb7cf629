"""Show the inner tensors of an ONNX model: declare them as outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

__all__ = ["declare", "expose"]

_HELD = ("codes", "half")
"""``t@codes`` and ``t@half`` are what a tensor ``t`` is held as, and stand before ``t``; see
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
        if node.input[0] in constants or (tag == "half" and tensor in inputs):
            continue
        if tag in _HELD:
            shown.setdefault(tensor, name)
        elif "@" not in name:
            shown.setdefault(name, name)
    declare(model, list(shown.values()))
    return [(name, tensor) for tensor, name in shown.items()]
