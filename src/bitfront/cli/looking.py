"""list, doctor, version, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bitfront import __version__
from bitfront.cli.console import Answer, number, size, table
from bitfront.cli.options import Shared

__all__ = ["doctor", "list_", "version"]


def version(*, shared: Shared = Shared()) -> Answer:  # noqa: B008 - frozen
    """Print the version."""
    return Answer({"version": __version__}, [__version__])


def list_(
    what: Annotated[
        str | None, Parameter(help="models, datasets, tasks, runtimes, devices, objectives, recipes.")
    ] = None,
    /,
    *,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """List what there is by name; all kinds when none is given."""
    from bitfront.verbs.looking import LISTED, catalogue

    found = {kind: catalogue(kind) for kind in ([what] if what else LISTED)}
    data = {kind: [{"name": n, "description": d} for n, d in plugins.items()] for kind, plugins in found.items()}
    text = [table([kind, ""], plugins.items()) for kind, plugins in found.items() if plugins or what]
    return Answer(data, text)


def doctor(*, shared: Shared = Shared()) -> Answer:  # noqa: B008 - frozen
    """Say what works on this machine, and the limits. Always exits with 0."""
    from bitfront.verbs.looking import doctor as examine

    found = examine(Path.cwd())
    rows: list[tuple[str, Any]] = [("bitfront", found["bitfront"]), ("python", found["python"])]
    rows += list(found["versions"].items())
    for name, state in {**found["runtimes"], "torch": found["torch"]}.items():
        rows.append((f"{name} works", f"no: {state['missing']}" if "missing" in state else "yes"))
    rows.append(("cuda", found["torch"].get("cuda") or "no"))
    rows += [(key, value) for key, value in found["system"].items() if isinstance(value, (str, int, float))]
    rows.append(("free disk space", size(found["free_bytes"])))
    rows += [(f"limit: {key}", number(value)) for key, value in found["limits"].items()]
    return Answer(found, [table(["", ""], rows)])
