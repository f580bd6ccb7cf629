"""Find plug-ins by name: the catalogue's lines first, then the entry points of installed packages."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from bitfront.catalog import CATALOG, KINDS
from bitfront.errors import BitfrontError, UsageError, unknown_name

__all__ = ["load", "names", "runtime_of"]


def names(kind: str) -> tuple[str, ...]:
    """Return the names of one kind of plug-in, sorted; imports none of them. Raises UsageError for unknown kinds."""
    if kind not in KINDS:
        raise unknown_name("kind of plug-in", kind, KINDS)
    own = {key.partition("/")[2] for key in CATALOG if key.startswith(f"{kind}/")}
    return tuple(sorted(own | set(_foreign(kind))))


def load(kind: str, name: str) -> Any:
    """Return the plug-in ``name`` of ``kind``.

    Raises UsageError when there is none, or when another package's plug-in cannot be imported.
    """
    known = names(kind)
    line = CATALOG.get(f"{kind}/{name}")
    if line is not None:
        module, _, attribute = line.partition(":")
        return getattr(importlib.import_module(module), attribute)
    if name not in known:
        raise unknown_name(kind, name, known)
    point = _foreign(kind)[name]
    try:
        return point.load()
    except BitfrontError:
        raise
    except Exception as error:
        raise UsageError(
            f"{kind} '{name}' of package '{point.value}' does not load: {type(error).__name__}: {error}",
            hint="reinstall or remove that package",
        ) from error


def runtime_of(path: Path | str) -> str:
    """Return the name of the runtime that reads files with this ending; empty when none does."""
    suffix = Path(path).suffix.lower()
    found = (name for name in names("runtime") if (engine := load("runtime", name)).suffix == suffix and _reads(engine))
    return next(found, "") if suffix else ""


def _reads(engine: Any) -> bool:
    """Whether a runtime can say how a file is fed, so that it needs nothing beside it."""
    return hasattr(engine, "describe")


def _foreign(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"bitfront.{kind}")}
