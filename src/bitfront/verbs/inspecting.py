"""inspect: what a model costs, before anything is trained or measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitfront.errors import DataError
from bitfront.graph import count, files, passes
from bitfront.graph.ir import Graph
from bitfront.registry import load
from bitfront.sources import Source
from bitfront.verbs.companions import companions
from bitfront.verbs.opening import open_both

__all__ = ["Inspection", "inspect"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model's parameters, operations and memory at one resolution and batch 1."""

    name: str
    kind: str
    """``catalogue``, ``checkpoint``, ``factory``, ``onnx`` or ``artifact``."""
    parameters: int
    """What the model's home framework counts; see :mod:`bitfront.graph.count`."""
    trainable_parameters: int
    macs: int | None
    """Multiply-accumulates as the usual summary tools count them; ``None`` when the graph cannot be captured."""
    conv_macs: int | None
    """Products of convolutions and dense layers alone."""
    activation_bytes: int | None
    """All outputs of all operations, float32."""
    peak_bytes: int | None
    """Most activation bytes alive at once after BatchNorm and activations are folded, float32."""
    resolution: tuple[int, int]
    channels: int
    classes: int
    """Output channels."""
    options: Mapping[str, Any]
    knobs: Mapping[str, tuple[Any, ...]]
    """What a search may vary."""
    operators: Mapping[str, int]
    """Operator -> how many of them."""
    notes: tuple[str, ...] = ()


def inspect(
    model: str,
    *,
    data: str | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
) -> Inspection:
    """Count a model at its resolution (or ``settings["resolution"]``).

    ``data`` gives the classes where the model does not. Raises UsageError, DataError.
    """
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    source = opened.source
    notes = list(source.notes)
    graph: Graph | None = None
    try:
        graph = source.graph()
    except DataError as error:
        if source.kind == "artifact":
            return _counted_file(source, notes)
        reference = companions(source.path).reference if source.path and source.kind == "onnx" else None
        if source.kind == "onnx" and reference is None:
            raise
        graph = files.load(reference)[0] if reference else None
        notes.append(
            "counted on the reference beside the file"
            if reference
            else f"{error}: nothing but parameters can be counted"
        )
    counts = count.count(graph) if graph else None
    parameters, trainable = _parameters(source)
    operators: dict[str, int] = {}
    for node in graph.nodes if graph else ():
        operators[node.op] = operators.get(node.op, 0) + 1
    found = parameters if parameters is not None else counts.parameters if counts else 0
    return Inspection(
        name=source.name,
        kind=source.kind,
        parameters=found,
        trainable_parameters=found if trainable is None else trainable,
        macs=counts.macs if counts else None,
        conv_macs=counts.conv_macs if counts else None,
        activation_bytes=counts.activation_bytes if counts else None,
        peak_bytes=count.count(passes.prepare(graph)).peak_bytes if graph else None,
        resolution=(source.input.height, source.input.width),
        channels=source.input.channels,
        classes=graph.tensors[graph.outputs[0]].shape[1] if graph else len(source.output.classes),
        options=source.options,
        knobs=source.knobs,
        operators=dict(sorted(operators.items())),
        notes=tuple(notes),
    )


def _counted_file(source: Source, notes: list[str]) -> Inspection:
    """What can be counted in a file that only its runtime reads."""
    engine = load("runtime", source.runtime)()
    if not hasattr(engine, "count"):
        raise DataError(f"{engine.name} counts nothing in '{source.path}'", hint="inspect the network it was made from")
    parameters, macs, operators = engine.count(source.path)
    return Inspection(
        name=source.name,
        kind=source.kind,
        parameters=parameters,
        trainable_parameters=parameters,
        macs=macs,
        conv_macs=macs,
        activation_bytes=None,
        peak_bytes=None,
        resolution=(source.input.height, source.input.width),
        channels=source.input.channels,
        classes=len(source.output.classes),
        options={},
        knobs={},
        operators=operators,
        notes=(*notes, "counted in the file, with the operators' names there; no reference lies beside it"),
    )


def _parameters(source: Source) -> tuple[int | None, int | None]:
    """Return all and the trainable parameters of a torch network; ``None`` for files.

    A family whose home framework counts running statistics among the parameters says ``counts_statistics``; what a
    module has for training only (its ``training_only``) is not counted.
    """
    if source.runtime:
        return None, None
    module = source.build()
    left_out = tuple(getattr(module, "training_only", ()))
    counted = [p for name, p in module.named_parameters() if not name.startswith(left_out)]
    if getattr(source.family, "counts_statistics", False):
        counted += [b for name, b in module.named_buffers() if not name.endswith("num_batches_tracked")]
    return sum(p.numel() for p in counted), sum(p.numel() for p in counted if p.requires_grad)
