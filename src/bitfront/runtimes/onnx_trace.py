"""Show the inner tensors of an ONNX model: declare them as outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

__all__ = ["declare", "expose"]

_HELD = ("codes", "half")
"""``t@codes`` and ``t@half`` are what a tensor ``t`` is held as; see :mod:`bitfront.runtimes.onnx_writer`."""


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
    computed = [n for n in model.graph.node if n.input[0] not in constants]
    names = [name for node in computed for name in node.output[:1]]
    held = {name.rpartition("@")[0]: name for name in names if name.rpartition("@")[2] in _HELD}
    tensors = [(name, tensor) for tensor, name in held.items()]
    tensors += [(name, name) for name in names if "@" not in name and name not in held]
    order = {name: i for i, name in enumerate(names)}
    tensors.sort(key=lambda pair: order[pair[0]])
    declare(model, [source for source, _ in tensors])
    return tensors
