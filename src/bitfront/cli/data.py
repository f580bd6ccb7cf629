"""data check, data show, data convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from bitfront.cli.console import Answer
from bitfront.cli.options import DataText, Seed, Shared, required

__all__ = ["app", "convert", "show"]

app = App(name="data", help="Check, show or convert a dataset.")

Reader = Annotated[str | None, Parameter(help="Reader of the data folder, when it is not recognised.")]
PartName = Annotated[str | None, Parameter(help="train, val or test.")]


def _open(data: str | None, reader: str | None, shared: Shared) -> Any:
    from bitfront.sources import open_data

    given = shared.fill(data=data, reader=reader)
    return open_data(required(given["data"], "DATA"), given["reader"] or "")


@app.command
def show(
    data: DataText = None,
    /,
    *,
    out: Annotated[Path, Parameter(help="Picture to write (.jpg).")] = Path("samples.jpg"),
    part: PartName = None,
    n: Annotated[int, Parameter(help="How many samples, drawn at random.")] = 12,
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
