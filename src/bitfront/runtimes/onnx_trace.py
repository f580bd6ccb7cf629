"""Show the inner tensors of an ONNX model: declare them as outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from bitfront.runtimes.onnx_writer import codes_name

__all__ = ["declare", "expose"]

_SUFFIX = codes_name("")


def declare(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Make the named tensors outputs of the model, in place; the engine infers their types."""
    have = {value.name for value in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in have)


def expose(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """Make a written model's inner tensors outputs, in place.

    Returns ``(name in the file, name in the graph)`` in execution order: the codes of a quantized tensor stand for it,
    a float tensor for itself; what lies between (``t@float``, ``t@half``, ...) is left out.
    """
    constants = {initializer.name for initializer in model.graph.initializer}
    made = [name for node in model.graph.node for name in node.output if name]
    coded = {name.removesuffix(_SUFFIX) for name in made if name.endswith(_SUFFIX)}
    stored = {name for node in model.graph.node if node.input and node.input[0] in constants for name in node.output}
    tensors = []
    for name in made:
        if name.endswith(_SUFFIX):
            tensors.append((name, name.removesuffix(_SUFFIX)))
        elif "@" not in name and name not in coded and name not in stored:
            tensors.append((name, name))
    declare(model, [source for source, _ in tensors])
    return tensors
