"""data check, data show, data convert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from bitfront.cli import units
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
    """Return the share of every class in every part: of the labelled pixels, and of the images with a class."""
    found = []
    for what in ("pixels", "images"):
        parts = {name: getattr(part, what) for name, part in health.parts.items() if getattr(part, what)}
        names = list(next(iter(parts.values()), ()))
        rows = [(c, *(percent(counts[c] / max(1, sum(counts.values()))) for counts in parts.values())) for c in names]
        found += [table(("class", *(f">{name} {what}" for name in parts)), rows)] if parts else []
    return found


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


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Rules:
    """How annotations become masks, and masks annotations."""

    images: Annotated[Path | None, Parameter(help="Folder of the annotated images [default: beside them].")] = None
    classes: Annotated[str | None, Parameter(help="Labels that count, in order, as a,b [default: all].")] = None
    unlabelled: Annotated[str, Parameter(help="Class of pixels that no object covers, or ignore.")] = "background"
    overlap: Annotated[
        str, Parameter(help="Which of two objects is on top: the smaller, or the later in the file.")
    ] = "smaller"
    boxes: Annotated[str, Parameter(help="Objects that have only a box: ignore its pixels, or fill it.")] = "ignore"
    val: Annotated[str | None, Parameter(help="Share of the images to set aside as val, e.g. 20%.")] = None
    skip_missing: Annotated[
        bool, Parameter(help="Leave out pictures whose image file is missing.", negative=(), show_default=False)
    ] = False
    shapes: Annotated[str, Parameter(help="What masks become: polygons, or rle (COCO, label_studio).")] = "polygons"
    tolerance: Annotated[
        float, Parameter(help="Pixels that polygons may leave the outline by, to have fewer corners.")
    ] = 0.0


@app.command
def convert(
    data: DataText = None,
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder to make.")],
    to: Annotated[str, Parameter(help="masks, coco, label_studio or voc.")] = "masks",
    from_: Annotated[
        str | None,
        Parameter(
            name="--from", help="Format of annotations: coco, label_studio, voc or labelme [default: found out]."
        ),
    ] = None,
    rules: Rules = Rules(),
    overwrite: Annotated[
        bool, Parameter(help="Replace a folder that this command made.", negative=(), show_default=False)
    ] = False,
    part: PartName = None,
    seed: Seed = None,
    reader: Reader = None,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Write data as folders of images and masks with a data YAML, or as annotations for a labelling tool.

    DATA may also be annotations: a JSON file of COCO, label-studio or labelme, or a folder with such files or with the
    XML files of VOC. Boxes go to PART/labels.
    """
    given = shared.fill(data=data, part=part, seed=seed, reader=reader)
    text = required(given["data"], "DATA")
    work = _Conversion(out, to, given, rules, {"overwrite": overwrite, "progress": shared.progress()})
    annotated = not given["reader"] and (from_ is not None or _is_annotated(text))
    made = work.annotations(text, from_ or "") if annotated else work.data(_open(data, reader, shared))
    work.common["progress"].clear()
    folder = made.path.parent if made.path.suffix == ".yaml" else made.path
    lines = [f"{n} images of {name} in {folder}" for name, n in made.images.items()]
    if to == "masks":
        lines.append(f"use it as DATA: {made.path}")
    found = {"path": str(made.path), "images": made.images, "notes": list(made.notes)}
    return Answer(found, lines, notes=made.notes)


@dataclass(frozen=True)
class _Conversion:
    """Where to, and how."""

    out: Path
    to: str
    given: Mapping[str, Any]
    rules: Rules
    common: Mapping[str, Any]

    def annotations(self, text: str, kind: str) -> Any:
        """Convert annotations."""
        from bitfront.verbs.converting import Painting, from_annotations
        from bitfront.verbs.labelling import reformat

        rules = self.rules
        options = {"kind": kind, "folder": rules.images, "part": self.given["part"] or "", **self.common}
        source = Path(text).expanduser()
        if self.to != "masks":
            return reformat(source, self.to, self.out, skip_missing=rules.skip_missing, **options)
        painting = Painting(
            classes=tuple(name.strip() for name in (rules.classes or "").split(",") if name.strip()),
            unlabelled=rules.unlabelled,
            overlap=rules.overlap,
            boxes=rules.boxes,
            val=units.fraction(rules.val, "--val") if rules.val else 0.0,
            seed=self.given["seed"] or 0,
            skip_missing=rules.skip_missing,
        )
        return from_annotations(source, self.out, painting=painting, **options)

    def data(self, dataset: Any) -> Any:
        """Convert a dataset."""
        from bitfront.verbs.data import convert as write
        from bitfront.verbs.labelling import Tracing, from_data

        parts = (self.given["part"],) if self.given["part"] else ()
        if self.to == "masks":
            return write(dataset, self.out, parts=parts, **self.common)
        tracing = Tracing(self.rules.shapes, self.rules.tolerance)
        return from_data(dataset, self.to, self.out, parts=parts, tracing=tracing, **self.common)


def _is_annotated(text: str) -> bool:
    """Whether DATA is annotations rather than a dataset: a JSON file, or a folder that no reader knows."""
    from bitfront.annotations.opening import looks_annotated
    from bitfront.registry import load, names

    path = Path(text).expanduser()
    if not path.exists():
        return path.suffix.lower() == ".json"
    readers = [name for name in names("dataset") if name != "annotated"]  # which reads the boxes only
    known = path.is_dir() and any(load("dataset", name).recognises(path) for name in readers)
    return not known and looks_annotated(path)
