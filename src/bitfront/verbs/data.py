"""Look at a dataset and rewrite it as plain folders."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from bitfront import images
from bitfront.annotations.pictures import RECORD
from bitfront.contracts import IGNORE, DataInfo, Dataset, Sample
from bitfront.errors import DataError, UsageError
from bitfront.store import atomic_json, atomic_write, new_folder, write_file

__all__ = ["Converted", "Progress", "convert", "description", "show", "write_boxes"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion wrote."""

    path: Path
    """The data YAML, a DATA argument of every command; of other formats the folder."""
    images: dict[str, int]
    """Part -> number of images."""
    notes: tuple[str, ...] = ()


def show(dataset: Dataset, out: Path, *, part: str = "", n: int = 12, columns: int = 4, seed: int = 0) -> list[str]:
    """Draw ``n`` random samples of a part with their labels into one JPEG; return their ids.

    Raises UsageError, DataError.
    """
    if out.suffix.lower() not in (".jpg", ".jpeg"):
        raise UsageError(f"--out: '{out}' is not a .jpg file", hint="for example --out samples.jpg")
    samples = dataset.part(part or dataset.parts()[0])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(samples))[:n])
    pictures, ids = [], []
    for index in chosen:
        sample = samples[int(index)]
        pictures.append(images.label(_thumbnail(sample, dataset.info), _caption(sample, dataset.info)))
        ids.append(sample.id)
    if not pictures:
        raise DataError("there is nothing to show", hint="`bitfront data check` says what there is")
    height = max(p.shape[0] for p in pictures)
    padded = [np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0))) for p in pictures]
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, images.jpeg(images.tile(padded, columns)))
    return ids


def _caption(sample: Sample, info: DataInfo) -> str:
    named = sample.label is not None and sample.label < len(info.classes)
    return f"{info.classes[sample.label]}: {sample.id}" if named and sample.label is not None else sample.id


def _thumbnail(sample: Sample, info: DataInfo, width: int = 320) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    height = max(1, round(sample.image.shape[0] * width / sample.image.shape[1]))
    image = images.resize(sample.image, (height, width))
    if sample.mask is None:
        return image
    return images.overlay(image, images.resize(sample.mask, (height, width), "nearest"), info)


def convert(
    dataset: Dataset,
    out: Path,
    *,
    parts: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write a dataset as ``out/PART/{images,masks}/*.png`` with ``classes.txt`` and a ``data.yaml``.

    Masks hold class indices, 255 = ignore; boxes go to ``out/PART/labels/*.txt`` (:func:`write_boxes`). Data whose
    images have a class and nothing else becomes ``out/PART/CLASS/*.png`` with ``classes.txt``; the path is then the
    folder.

    Raises UsageError when ``out`` is not empty (unless ``overwrite``, and a conversion made it before), DataError,
    SpaceError; nothing is left behind then.
    """
    counts: dict[str, int] = {}
    boxed = False
    by_class = dataset.info.tasks == ("classification",)
    folders = _folders(dataset.info.classes) if by_class else ()
    with new_folder(out, replaceable=RECORD if overwrite else "") as place:
        for name in parts or dataset.parts():
            samples = dataset.part(name)
            digits = len(str(len(samples)))
            for index in range(len(samples)):
                sample = samples[index]
                file = f"{index:0{digits}d}_{_plain(sample.id)}.png"
                home = folders[sample.label] if by_class and sample.label is not None else "images"
                write_file(place / name / home / file, images.png(sample.image))
                if sample.mask is not None:
                    write_file(place / name / "masks" / file, images.png(sample.mask))
                if sample.boxes is not None and sample.labels is not None:
                    boxed = True
                    rows = zip(sample.labels.tolist(), sample.boxes.tolist(), strict=True)
                    height, width = sample.image.shape[:2]
                    write_boxes(place / name / "labels" / Path(file).stem, rows, (height, width))
                if progress:
                    progress(f"write {name}", index + 1, len(samples))
            counts[name] = len(samples)
        write_file(place / "classes.txt", "".join(f"{name}\n" for name in dataset.info.classes).encode())
        if not by_class:
            write_file(
                place / "data.yaml", description(dataset.info.classes, dataset.info.background, counts, boxes=boxed)
            )
        atomic_json(place / RECORD, {"source": dataset.info.name, "from": "data", "to": "masks"})
    return Converted(out if by_class else out / "data.yaml", counts)


def write_boxes(target: Path, boxes: Iterable[tuple[int, Sequence[float]]], size: tuple[int, int]) -> None:
    """Write classes and boxes (x1 y1 x2 y2, pixels of an image of ``size``) as ``target``.txt.

    One line a box: class, x and y of its centre, width, height, as shares of the image's.
    """
    height, width = size
    lines = []
    for label, (x1, y1, x2, y2) in boxes:
        shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(" ".join([str(label), *(f"{share:.8g}" for share in shares)]) + "\n")
    write_file(target.with_name(f"{target.name}.txt"), "".join(lines).encode())


def _folders(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the classes as names of folders. Raises DataError for those that cannot be."""
    for name in classes:
        if name in ("", ".", "..") or name[0] in "._" or set(name) & set('/\\:*?"<>|') or not name.isprintable():
            raise DataError(f"class '{name}' cannot be the name of a folder", hint="rename it")
    return tuple(classes)


def _plain(text: str) -> str:
    """Return the last part of an id without its ending and with nothing that a file system minds."""
    stem = Path(text.rpartition("/")[2]).stem or "image"
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in stem)[:80]


def description(
    classes: Sequence[str], background: int | None, parts: Mapping[str, int], *, boxes: bool = False
) -> bytes:
    """Return the data YAML of a folder with ``PART/{images,masks}``, and ``PART/labels`` when there are boxes."""
    values = {
        "path": ".",
        **{name: f"{name}/images" for name in parts},
        "masks_dir": "masks",
        **({"labels_dir": "labels"} if boxes else {}),
        "names": dict(enumerate(classes)),
        "ignore_label": IGNORE,
        **({} if background is None else {"background": background}),
    }
    out = io.BytesIO()
    writer: Any = YAML(typ="safe")
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.allow_unicode = True
    writer.dump(values, out)
    return out.getvalue()
