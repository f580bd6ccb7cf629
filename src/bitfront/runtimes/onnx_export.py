"""A graph and its plan as one ``.onnx`` file that describes itself; what the engines that read ONNX share."""

from __future__ import annotations

from pathlib import Path

import bitfront
from bitfront.contracts import InputContract, OutputContract
from bitfront.graph import onnx_names
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.runtimes import onnx_file, onnx_writer
from bitfront.store import atomic_write

__all__ = ["SUFFIX", "export"]

SUFFIX = ".onnx"


def export(  # noqa: PLR0917 - the order of Runtime.export
    graph: Graph,
    plan: Plan,
    folder: Path,
    contract: InputContract,
    output: OutputContract,
    full_names: bool = False,
) -> Path:
    """Write ``folder/model.onnx`` and return its path; equal arguments give equal bytes.

    The batch axis is free, except with dynamic quantization: its ranges would depend on who shares a batch.
    ``full_names`` writes every tensor's full name wherever it stands. Raises UsageError for formats that ONNX does not
    have, SpaceError when the disk is full.
    """
    facts = {"tool": f"bitfront {bitfront.__version__}", "recipe": plan.recipe, "plan": plan.id, "graph": graph.id}
    model = onnx_writer.write(
        graph,
        plan,
        contract,
        metadata=onnx_file.header(contract, output, **facts),
        batch=1 if plan.options.get("dynamic") else None,
    )
    if not full_names:
        onnx_names.shorten(model)
    path = folder / f"model{SUFFIX}"
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(path, model.SerializeToString(deterministic=True))
    return path
