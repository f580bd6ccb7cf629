"""What the numbers were measured on: CPU and the flags that change results, memory, load, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["cpu", "load_per_core", "system"]

FLAGS = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "neon",
    "asimd",
    "asimddp",
    "fphp",
    "asimdhp",
    "i8mm",
    "bf16",
    "sve",
)
"""CPU flags that choose other kernels, and so may change speed and integer results, as the kernel spells them."""
PACKAGES = ("bitfront", "numpy", "onnx", "onnxruntime", "ai-edge-litert", "torch")


def system() -> dict[str, Any]:
    """Return facts on this machine as plain JSON data; what cannot be read is ``None``. Imports no engine."""
    import psutil

    model, flags = cpu()
    return {
        "cpu": model,
        "cpu_flags": list(flags),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "cores_allowed": _allowed_cores(),
        "ram_bytes": int(psutil.virtual_memory().total),
        "os": platform.platform(),
        "python": platform.python_version(),
        "load_per_core": load_per_core(),
        "governor": _line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def cpu() -> tuple[str, tuple[str, ...]]:
    """Return the CPU's model name and those of its flags that change results, in the order of ``FLAGS``."""
    model, flags = "", set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in ("model name", "Model", "Hardware") and not model:
            model = value
        elif key in ("flags", "Features") and not flags:
            flags = set(value.split())
    return model or platform.processor() or platform.machine(), tuple(f for f in FLAGS if f in flags)


def load_per_core() -> float | None:
    """Return the load average of the last minute, divided by the number of cores."""
    try:
        return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)
    except (OSError, AttributeError):  # not on Windows
        return None


def _allowed_cores() -> int | None:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count()


def _line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
