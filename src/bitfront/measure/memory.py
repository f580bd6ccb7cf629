"""Peak memory of an artifact: what opening and running it adds to a process that has its engine loaded."""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitfront.contracts import Runtime
from bitfront.errors import DeviceError

__all__ = ["peak_ram", "report"]

RUNS = 3
"""Engines may allocate their arena on the second run only."""


def peak_ram(runtime: Runtime, path: Path, shape: Sequence[int], threads: int = 1, timeout_s: float = 120) -> int:
    """Return the bytes that opening ``path`` and running images of ``shape`` ``(b, c, h, w)`` takes at its peak.

    Measured in a fresh child process, so that nothing of this one counts: the highest resident memory while opening and
    running, less what was resident before, with the engine imported. Raises DeviceError when the child fails.
    """
    kind = type(runtime)
    task = {
        "module": kind.__module__,
        "name": kind.__qualname__,
        "options": asdict(runtime) if is_dataclass(runtime) and not isinstance(runtime, type) else {},
        "path": str(path.absolute()),
        "shape": list(shape),
        "threads": threads,
    }
    code = f"from bitfront.measure.memory import report; report({json.dumps(task)!r})"
    hint = "its other measurements stand; check that the file opens with 'bitfront verify'"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"peak memory of '{path}': no answer after {timeout_s:.0f} s", hint=hint) from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DeviceError(f"peak memory of '{path}': {' '.join(last) or f'exit {done.returncode}'}", hint=hint)
    return int(json.loads(done.stdout)["peak_bytes"])


def report(task: str) -> None:
    """Write the peak as JSON to file descriptor 1: the child's part of :func:`peak_ram`."""
    wanted: dict[str, Any] = json.loads(task)
    kind = getattr(importlib.import_module(wanted["module"]), wanted["name"])
    runtime: Runtime = kind(**wanted["options"])
    runtime.version()  # imports the engine
    images = np.ones(wanted["shape"], np.float32)
    gc.collect()
    _reset_peak()
    before = _resident("VmRSS")
    session = runtime.open(Path(wanted["path"]), wanted["threads"])
    for _ in range(RUNS):
        session.run(images)
    os.write(1, json.dumps({"peak_bytes": max(_resident("VmHWM") - before, 0)}).encode())


def _reset_peak() -> None:
    """Make Linux forget the highest resident memory so far."""
    try:
        handle = os.open("/proc/self/clear_refs", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(handle, b"5")
    except OSError:
        return
    finally:
        os.close(handle)


def _resident(field: str) -> int:
    """Return ``VmRSS`` or ``VmHWM`` in bytes; elsewhere than on Linux the process's peak so far stands for both."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    except (OSError, StopIteration):
        import psutil

        info = psutil.Process().memory_info()
        return int(getattr(info, "peak_wset", info.rss))
