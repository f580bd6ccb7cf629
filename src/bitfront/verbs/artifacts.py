"""Artifacts as verbs make them: where they go, what is written beside them, what is said of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront import batches
from bitfront.contracts import Runtime
from bitfront.errors import DeviceError, UsageError
from bitfront.graph import files
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.record import digest_file, to_json
from bitfront.registry import load, runtime_of
from bitfront.sources import Source
from bitfront.stats.ranges import Observe
from bitfront.store import atomic_write
from bitfront.verbs.opening import Opened, usable_part

__all__ = [
    "N_CALIBRATE",
    "N_VERIFY",
    "Exported",
    "artifact_path",
    "calibration_images",
    "describe",
    "manifest_of",
    "observer",
    "open_runtime",
    "size_of",
    "write_artifact",
]

N_CALIBRATE = 64
N_VERIFY = 8


@dataclass(frozen=True, slots=True)
class Exported:
    """A written artifact."""

    path: Path
    recipe: str
    runtime: str
    resolution: tuple[int, int]
    size_bytes: int
    sha256: str
    seconds: float
    notes: tuple[str, ...] = ()


def open_runtime(name: str = "", path: Path | str = "") -> Runtime:
    """Return a runtime that works here: by name, else the one that reads files like ``path``, else ONNX Runtime.

    Raises UsageError for unknown names, DeviceError saying what to install.
    """
    runtime: Runtime = load("runtime", name or runtime_of(path) or "onnxruntime")()
    missing = runtime.missing()
    if missing:
        raise DeviceError(f"{runtime.name} cannot be used here: {missing}", hint="`bitfront doctor` says what works")
    return runtime


def artifact_path(out: Path | str, engine: Runtime) -> Path:
    """Return where an artifact goes. Raises UsageError for names that the runtime does not read."""
    place = Path(out)
    if place.suffix != engine.suffix:
        raise UsageError(
            f"--out: '{place}' does not end in {engine.suffix}", hint=f"{engine.name} reads no other files"
        )
    if place.is_dir():
        raise UsageError(f"--out: '{place}' is a folder", hint=f"name a file, e.g. {place / ('model' + engine.suffix)}")
    return place


def write_artifact(engine: Runtime, graph: Graph, plan: Plan, source: Source, place: Path) -> None:
    """Write an artifact and, beside it, its reference. Raises UsageError for formats without a place, SpaceError."""
    with tempfile.TemporaryDirectory() as folder:  # a runtime names its files itself
        made = engine.export(graph, plan, Path(folder), source.input, source.output)
        place.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(place, made.read_bytes())
    files.save(place.with_suffix(files.SUFFIX), graph, plan)


def size_of(engine: Runtime, path: Path) -> int:
    """Return the bytes that an artifact takes: what its runtime says it takes on a device, else those of its file."""
    told = getattr(engine, "size", None)
    return int(told(path)) if told else path.stat().st_size


def describe(  # noqa: PLR0917
    place: Path, recipe: str, engine: Runtime, source: Source, began: float, notes: tuple[str, ...]
) -> Exported:
    """Return what is said of an artifact that was begun at ``began`` (``time.monotonic``)."""
    size = (source.input.height, source.input.width)
    n_bytes, digest, seconds = size_of(engine, place), digest_file(place), time.monotonic() - began
    return Exported(place, recipe, engine.name, size, n_bytes, digest, seconds, notes)


def manifest_of(made: Exported, source: Source, model: str, data: str | None) -> dict[str, Any]:
    """Return an artifact's manifest, as far as it does not depend on what was measured."""
    return {
        "schema": 1,
        "path": made.path.name,
        "sha256": made.sha256,
        "size_bytes": made.size_bytes,
        "runtime": made.runtime,
        "recipe": made.recipe,
        "input": to_json(source.input),
        "output": to_json(source.output),
        "model": model,
        "model_sha256": source.digest,
        "data": data,
    }


def calibration_images(opened: Opened, n: int, seed: int, cache: Path | None) -> list[NDArray[np.float32]]:
    """Return images to calibrate on, of the train part where there is one."""
    assert opened.dataset is not None
    there = opened.dataset.parts()
    part, _ = usable_part(opened.dataset, "train" if "train" in there else there[0], cache=cache)
    return batches.calibration(part, opened.source.input, n, np.random.default_rng(seed))


def observer(engine: Runtime) -> Callable[[Graph], Observe] | None:
    """Return a runtime's own way to see inner tensors, faster than the reference executor, if it offers one."""
    return getattr(engine, "observe", None)
