"""Where ONNX Runtime spends its time, node by node, from its own profiler."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DataError
from bitfront.measure.profile import OperatorTime
from bitfront.runtimes.onnx_session import OnnxSession

__all__ = ["profile"]

DTYPES = {"float": "float32", "double": "float64"}
"""ONNX Runtime's words that are not numpy's."""


def profile(path: Path, images: NDArray[np.float32], threads: int, n_runs: int) -> list[OperatorTime]:
    """Return the median time of every node over ``n_runs`` runs on ``images`` ``(b, c, h, w)``, in order of execution.

    Raises DataError when the file or the images cannot be run.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = OnnxSession(path, threads, profile_prefix=str(Path(folder, "profile")))
        try:
            for _ in range(n_runs + 1):
                session.run(images)
            written = session.end_profiling()
        finally:
            session.close()
        try:
            events = json.loads(Path(written).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"ONNX Runtime wrote no profile of '{path}'", hint="try again") from error
    found: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            found.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    return [_operator(name, runs) for name, runs in found.items()]


def _operator(name: str, runs: list[Mapping[str, Any]]) -> OperatorTime:
    """The first run warms up."""
    facts = runs[0].get("args", {})
    types = [next(iter(shape), "") for shape in facts.get("output_type_shape", [])]
    dtype = types[0] if types else ""
    ms = median(float(event["dur"]) for event in runs[1:] or runs) / 1000
    return OperatorTime(name, str(facts.get("op_name", "")), ms, DTYPES.get(dtype, dtype))
