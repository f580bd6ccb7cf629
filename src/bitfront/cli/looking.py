"""list, doctor, version, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bitfront import __version__
from bitfront.cli.console import Answer, number, size, table
from bitfront.cli.options import ModelOptions, ModelText, Set, Shared, knobs, required

__all__ = ["doctor", "inspect", "list_", "version"]


def version(*, shared: Shared = Shared()) -> Answer:  # noqa: B008 - frozen
    """Print the version."""
    return Answer({"version": __version__}, [__version__])


def list_(
    what: Annotated[
        str | None,
        Parameter(help="models, datasets, tasks, runtimes, devices, objectives, trackers, recipes, methods or stages."),
    ] = None,
    /,
    *,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """List what there is by name; all kinds when none is given."""
    from bitfront.fitting.exploration import STAGES
    from bitfront.verbs.looking import LISTED, catalogue

    stages = {name: stage.description for name, stage in STAGES.items()}
    kinds = [what] if what else [*LISTED, "stages"]
    found = {kind: stages if kind == "stages" else catalogue(kind) for kind in kinds}
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
    emulator = found["emulator"]
    rows.append(("Cortex-M emulator", emulator.get("version") or f"no: {emulator['missing']}"))
    rows.append(("cuda", found["torch"].get("cuda") or "no"))
    rows += [(key, value) for key, value in found["system"].items() if isinstance(value, (str, int, float))]
    rows.append(("free disk space", size(found["free_bytes"])))
    rows += [(f"limit: {key}", number(value)) for key, value in found["limits"].items()]
    return Answer(found, [table(["", ""], rows)])


def inspect(
    model: ModelText = None,
    /,
    *,
    data: Annotated[str | None, Parameter(help="Data that gives the classes, where the model does not.")] = None,
    set_: Set = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Count a model's parameters, operations and memory at one resolution, batch 1."""
    from bitfront.record import to_json
    from bitfront.verbs.inspecting import inspect as count

    found = count(
        required(shared.fill(model=model)["model"], "MODEL"),
        data=data,
        settings=knobs(set_, shared),
        **model_options.fill(shared),
    )
    shared.notes(found.notes)
    height, width = found.resolution
    rows = [
        ("parameters", number(found.parameters)),
        ("trainable parameters", number(found.trainable_parameters)),
        ("multiply-accumulates", number(found.macs)),
        ("of convolutions alone", number(found.conv_macs)),
        ("activations, all", size(found.activation_bytes)),
        ("activations, alive at once", size(found.peak_bytes)),
        ("input", f"{found.channels} x {height} x {width}"),
        ("output channels", number(found.classes)),
        *((f"option {key}", value) for key, value in found.options.items()),
        *((f"knob {key}", ", ".join(map(str, values))) for key, values in found.knobs.items()),
    ]
    data_ = to_json(found)
    return Answer({**data_, "size": data_["resolution"]}, [table((found.name, f">{found.kind}"), rows)])
