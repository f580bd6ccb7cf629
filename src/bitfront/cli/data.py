"""data check, data show, data convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from bitfront.cli.console import Answer, percent, table
from bitfront.cli.options import DataText, Seed, Shared, cache_folder, required, whole

__all__ = ["app", "check", "convert", "show"]

MAX_LISTED = 20

app = App(name="data", help="Check, show or convert a dataset.")

Reader = Annotated[str | None, Parameter(help="Reader of the data folder, when it is not recognised.")]
PartName = Annotated[str | None, Parameter(help="train, val or test.")]


def _open(data: str | None, reader: str | None, shared: Shared) -> Any:
    from bitfront.sources import open_data

    given = shared.fill(data=data, reader=reader)
    return open_data(required(given["data"], "DATA"), given["reader"] or "")


@app.command
def check(
    data: DataText = None,
    /,
    *,
    part: PartName = None,
    reader: Reader = None,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Decode every file and say what the data holds and what is wrong with it.

    Exits with 3 when labels contradict their image or their classes, or when too many files cannot be read.
    """
    from bitfront.record import to_json
    from bitfront.scan import examine

    progress = shared.progress()
    dataset = _open(data, reader, shared)
    health = examine(dataset, (part,) if part else (), cache_folder(), progress)
    progress.clear()
    rows = [
        (n, p.n, len(p.faults), ", ".join(f"{s} ({k})" for s, k in list(p.sizes.items())[:3]))
        for n, p in health.parts.items()
    ]
    text: list[Any] = [table(("part", ">samples", ">faults", "sizes (width x height)"), rows), *_classes(health)]
    text += [f"{fault.part}: {fault.reason}; {fault.hint}" for fault in health.faults[:MAX_LISTED]]
    text += [f"and {len(health.faults) - MAX_LISTED} more faults (--json lists all)"] * (
        len(health.faults) > MAX_LISTED
    )
    error = health.error()
    found = {**to_json(health), "classes": list(dataset.info.classes), "warnings": list(health.warnings)}
    return Answer({**found, "usable": error is None}, text, notes=health.warnings, failure=error)


def _classes(health: Any) -> list[Any]:
    """Return the share of every class in every part, where there are masks."""
    parts = {name: part.pixels for name, part in health.parts.items() if part.pixels}
    if not parts:
        return []
    names = list(next(iter(parts.values())))
    rows = [(c, *(percent(pixels[c] / max(1, sum(pixels.values()))) for pixels in parts.values())) for c in names]
    return [table(("class", *(f">{name} pixels" for name in parts)), rows)]


@app.command
def show(
    data: DataText = None,
    /,
    *,
    out: Annotated[Path, Parameter(help="Picture to write (.jpg).")] = Path("samples.jpg"),
    part: PartName = None,
    n: Annotated[int, whole("How many samples, drawn at random.")] = 12,
    seed: Seed = None,
    reader: Reader = None,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Draw samples with their labels into one picture."""
    from bitfront.verbs.data import show as draw

    given = shared.fill(part=part, seed=seed)
    dataset = _open(data, reader, shared)
    ids = draw(dataset, out, part=given["part"] or "", n=n, seed=given["seed"] or 0)
    return Answer({"out": str(out), "samples": ids}, [f"{len(ids)} samples in {out}"])


@app.command
def convert(
    data: DataText = None,
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder to make.")],
    part: PartName = None,
    reader: Reader = None,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Write a dataset as plain folders of images and masks with a data YAML."""
    from bitfront.verbs.data import convert as write

    progress = shared.progress()
    made = write(_open(data, reader, shared), out, parts=(part,) if part else (), progress=progress)
    progress.clear()
    lines = [f"{n} images in {made.path.parent / name}" for name, n in made.images.items()]
    return Answer({"path": str(made.path), "images": made.images}, [*lines, f"use it as DATA: {made.path}"])
