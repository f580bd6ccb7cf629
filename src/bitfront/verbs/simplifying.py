"""Simplify an ONNX file with onnxslim: kept only where it gets smaller and answers the same."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import InputContract, Runtime
from bitfront.errors import BitfrontError, one_line
from bitfront.store import atomic_write

__all__ = ["simplify"]

TIME_LIMIT_S = 120.0
N_PROBES = 4
TOLERANCE = 1e-5
"""Largest difference of the answers, of their range."""
_CHILD = """
import sys, onnx, onnxslim
model = onnxslim.slim(onnx.load(sys.argv[1]))
del model.graph.value_info[:]
onnx.save(model, sys.argv[2])
"""


def simplify(path: Path, engine: Runtime, contract: InputContract, time_limit_s: float = TIME_LIMIT_S) -> str:
    """Put a simplified file in place of ``path`` if it is smaller and answers the same; return a line that says so.

    onnxslim runs in a process of its own, within a time limit. Both files answer images of noise. Raises SpaceError.
    """
    if path.suffix != ".onnx":
        return f"not simplified: {engine.name} does not read ONNX files"
    if importlib.util.find_spec("onnxslim") is None:
        return "not simplified: onnxslim is not installed (pip install 'bitfront[simplify]')"
    with tempfile.TemporaryDirectory(prefix="bitfront-") as folder:
        slim = Path(folder) / "slim.onnx"
        try:
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, str(path), str(slim)],
                capture_output=True, text=True, errors="replace", timeout=time_limit_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"not simplified: onnxslim took longer than {time_limit_s:g} s"
        if done.returncode or not slim.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            return f"not simplified: onnxslim fails: {one_line(lines[-1])[:200]}"
        before, after = path.stat().st_size, slim.stat().st_size
        if after >= before:
            return f"not simplified: onnxslim makes it no smaller ({after:,} bytes instead of {before:,})"
        shape = (N_PROBES, contract.channels, contract.height, contract.width)
        images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        try:
            wanted, found = _answers(engine, path, images), _answers(engine, slim, images)
        except BitfrontError as error:
            return f"not simplified: the simplified file does not run: {error}"
        if not _are_same(found, wanted):
            return "not simplified: the simplified file answers otherwise"
        atomic_write(path, slim.read_bytes())
    return f"simplified by onnxslim: {after:,} bytes instead of {before:,}"


def _answers(engine: Runtime, path: Path, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return what a file answers to each image."""
    session = engine.open(path, 1)
    try:
        return [np.asarray(session.run(images[i : i + 1]), np.float32) for i in range(len(images))]
    finally:
        session.close()


def _are_same(found: list[NDArray[np.float32]], wanted: list[NDArray[np.float32]]) -> bool:
    span = max(float(np.ptp(values)) for values in wanted)
    return all(
        a.shape == b.shape and bool(np.all(np.abs(a - b) <= TOLERANCE * span))
        for a, b in zip(found, wanted, strict=True)
    )
