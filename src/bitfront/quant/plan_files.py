"""Plans as JSON and as files, so that a search's candidate can be trained, exported or looked at on its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitfront.errors import DataError, UsageError, one_line
from bitfront.graph.ir import Graph
from bitfront.quant.formats import Affine, Binary, Float16, Float32, Format, Qmn
from bitfront.quant.plan import Plan
from bitfront.record import from_json, to_json
from bitfront.store import atomic_write

__all__ = ["check", "load", "plan_from_json", "plan_to_json", "save"]

SCHEMA = 1
MAX_BYTES = 64 << 20
MAX_BITS = 32

_FORMATS: Mapping[str, type[Any]] = {c.__name__: c for c in (Affine, Binary, Qmn, Float16, Float32)}


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return plain data."""
    return {
        "recipe": plan.recipe,
        "options": to_json(plan.options),
        "formats": {name: [type(form).__name__, to_json(form)] for name, form in plan.formats.items()},
    }


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """Read what :func:`plan_to_json` gave. Raises KeyError, TypeError or ValueError for anything else."""
    formats: dict[str, Format] = {n: from_json(_FORMATS[kind], form) for n, (kind, form) in data["formats"].items()}
    for name, form in formats.items():
        if not 1 <= form.bits <= MAX_BITS:
            raise ValueError(f"'{name}' has {form.bits} bits")
    return Plan(str(data["recipe"]), formats, dict(data["options"]))


def save(path: Path, plan: Plan) -> None:
    """Write a plan, atomically. Raises SpaceError, UsageError."""
    text = json.dumps({"schema": SCHEMA, **plan_to_json(plan)}, indent=1)
    atomic_write(path, text.encode())


def load(path: Path, graph: Graph | None = None) -> Plan:
    """Read what :func:`save` wrote; with a ``graph``, a plan of its tensors.

    Raises UsageError for no such file, one of a newer bitfront or a plan of another network, DataError for anything
    else.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES} bytes", hint="this is no plan")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="is the name right?") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({one_line(str(error))})", hint="was it changed or cut?") from None
    try:
        if data["schema"] > SCHEMA:
            raise UsageError(f"{path} was written by a newer bitfront", hint="update bitfront")
        plan = plan_from_json(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise DataError(f"{path} is no plan of bitfront ({reason})", hint="was it changed or cut?") from None
    if graph is not None:
        check(graph, plan)
    return plan


def check(graph: Graph, plan: Plan) -> None:
    """Raise UsageError when a plan names a tensor that the graph does not have, or more channels than it has."""
    for name, form in plan.formats.items():
        if name not in graph.tensors:
            raise UsageError(
                f"the plan gives a format to '{name}', which the network does not have",
                hint="is it the plan of this network at this size?",
            )
        shape = graph.tensors[name].shape
        if isinstance(form, Affine) and form.axis is not None:
            wanted = shape[form.axis] if 0 <= form.axis < len(shape) else None
            if wanted != len(form.scale):
                raise UsageError(
                    f"the plan has {len(form.scale)} scales for '{name}' of shape {shape}", hint="is it its plan?"
                )
