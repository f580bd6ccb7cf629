"""What there is and what works here: the catalogue and the doctor."""

from __future__ import annotations

import ast
import importlib.util
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bitfront import __version__
from bitfront.catalog import CATALOG
from bitfront.contracts import Device
from bitfront.errors import BitfrontError, one_line, unknown_name
from bitfront.registry import load, names

__all__ = ["LISTED", "catalogue", "doctor", "versions"]

LISTED = {
    "models": "model",
    "datasets": "dataset",
    "tasks": "task",
    "runtimes": "runtime",
    "devices": "device",
    "objectives": "objective",
    "trackers": "tracker",
    "recipes": "",
    "methods": "",
}
"""Word of ``bitfront list`` -> kind of plug-in; recipes and methods of bit searches are no plug-ins."""

PACKAGES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
    "pillow",
    "safetensors",
    "pydantic",
    "ruamel.yaml",
    "torch",
)


def catalogue(what: str) -> dict[str, str]:
    """Return name -> one line of description for one of :data:`LISTED`; imports no model and no engine.

    Raises UsageError for an unknown word.
    """
    if what not in LISTED:
        raise unknown_name("list", what, LISTED)
    if what == "recipes":
        from bitfront.quant.recipes import RECIPES

        return {name: recipe.description for name, recipe in RECIPES.items()}
    if what == "methods":
        from bitfront.search.methods import METHODS

        return {name: method.description for name, method in METHODS.items()}
    kind = LISTED[what]
    return {name: _description(kind, name) for name in names(kind)}


def _description(kind: str, name: str) -> str:
    """First paragraph of a plug-in's file, read without running it; devices say it themselves."""
    line = CATALOG.get(f"{kind}/{name}")
    if line is None:
        return "from another package"
    if kind == "device":
        device = load(kind, name)
        return device.description if isinstance(device, Device) else ""
    spec = importlib.util.find_spec(line.partition(":")[0])
    if spec is None or spec.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def versions() -> dict[str, str]:
    """Return package -> version, or ``not installed``."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def doctor(folder: Path) -> dict[str, Any]:
    """Return what works here: versions, engines, torch, free disk space in ``folder``, machine, limits.

    Never raises: what is broken is named in the result.
    """
    return {
        "bitfront": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "versions": versions(),
        "runtimes": {name: _runtime(name) for name in names("runtime")},
        "torch": _torch(),
        "emulator": _emulator(),
        "system": _system(),
        "free_bytes": _free_bytes(folder),
        "limits": _limits(),
    }


def _runtime(name: str) -> dict[str, str]:
    try:
        runtime = load("runtime", name)()
        missing = runtime.missing()
        return {"missing": missing} if missing else {"version": runtime.version()}
    except Exception as error:  # a broken engine is what the doctor looks for
        return {"missing": one_line(f"{type(error).__name__}: {error}")}


def _torch() -> dict[str, Any]:
    try:
        import torch
    except Exception as error:  # a broken torch fails in many ways
        reason = one_line(str(error)) or type(error).__name__
        return {"missing": f"{reason}: pip install 'bitfront[torch]'", "consequence": "only .onnx files can be used"}
    cuda = bool(torch.cuda.is_available())
    return {"version": str(torch.__version__), "cuda": torch.cuda.get_device_name(0) if cuda else None}


def _emulator() -> dict[str, str]:
    """What runs C for microcontrollers here."""
    from bitfront.measure import emulated

    missing = emulated.missing()
    if not missing:
        return {"version": emulated.version()}
    return {"missing": missing, "consequence": "instructions on a Cortex-M are modelled, not counted"}


def _system() -> Mapping[str, Any]:
    try:
        from bitfront.measure.system import system

        return system()
    except (BitfrontError, OSError, ImportError) as error:
        return {"missing": one_line(str(error))}


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _limits() -> dict[str, int]:
    from bitfront import decode, rundb, safeyaml

    return {
        "image_pixels": decode.MAX_PIXELS,
        "yaml_bytes": safeyaml.MAX_BYTES,
        "yaml_depth": safeyaml.MAX_DEPTH,
        "disk_reserve_bytes": rundb.RESERVE_BYTES,
    }
