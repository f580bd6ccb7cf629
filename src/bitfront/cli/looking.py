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
    device: Annotated[
        str | None,
        Parameter(help="What a file takes there: flash, RAM, instructions, time; `bitfront list devices`."),
    ] = None,
    set_: Set = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Count a model's parameters, operations and memory at one resolution, batch 1.

    With --device: what a file of fixed-point C, or an 8-bit file, takes on a microcontroller or a neural processor.
    """
    from bitfront.record import to_json
    from bitfront.verbs.inspecting import inspect as count

    if device is not None:
        return _on_board(required(shared.fill(model=model)["model"], "MODEL"), device)
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


def _on_board(path: str, device: str) -> Answer:
    from bitfront.measure import emulated
    from bitfront.record import to_json
    from bitfront.verbs.boards import on_board

    found = on_board(path, device)
    rows: list[tuple[str, Any]] = [("flash, program estimated from above", f"{found.flash_bytes:,} bytes")]
    if found.linked_bytes is not None:
        rows.append(("flash, linked", f"{found.linked_bytes:,} bytes"))
    rows.append(("RAM", f"{found.ram_bytes:,} bytes"))
    for text, n in (("modelled", found.instructions), ("counted", found.counted_instructions)):
        if n is not None:
            rows.append((f"instructions of an image, {text}", f"{n:,.0f}"))
    if found.latency_ms is not None:
        rows.append(("latency, modelled", f"{found.latency_ms:.3g} ms"))
    lines: list[Any] = [table((path, f">{device}"), rows), found.residual]
    if found.instructions is not None and found.counted_instructions is None:
        lines.append(f"instructions are not counted: {emulated.missing()}")
    return Answer(to_json(found), lines)
