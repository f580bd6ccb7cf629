"""Annotations of labelling tools -> folders of images, masks and boxes with a data YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitfront import images
from bitfront.annotations.locating import Item, image_of, is_turned, locate
from bitfront.annotations.opening import SOURCES, open_annotations
from bitfront.annotations.pictures import RECORD
from bitfront.annotations.shapes import IGNORED, Annotations, Picture, boxes_of, paint
from bitfront.contracts import IGNORE
from bitfront.decode import EXTENSIONS, Decoded
from bitfront.errors import DataError, LabelError, UsageError, unknown_name
from bitfront.store import atomic_json, new_folder, write_file
from bitfront.verbs.data import Converted, Progress, description, write_boxes

__all__ = ["Item", "Painting", "from_annotations", "image_of", "is_turned", "locate", "write_image"]


@dataclass(frozen=True, slots=True)
class Painting:
    """How objects become label maps."""

    classes: tuple[str, ...] = ()
    """Labels that count, in order; empty: all. What has another label is left out."""
    unlabelled: str = "background"
    """The class of pixels that no object covers (the first, when ``classes`` does not name it), or ``ignore``."""
    overlap: str = "smaller"
    """What is on top: the ``smaller`` object, or the ``later`` one in the file."""
    boxes: str = "ignore"
    """Objects that only have a box: ``ignore`` its pixels, or ``fill`` it as the object."""
    val: float = 0.0
    """Share of the images to set aside as val, when all of the source is train."""
    seed: int = 0
    """Of the choice of these images."""
    skip_missing: bool = False
    """Leave out what has no image file, instead of an error."""

    def __post_init__(self) -> None:
        """Check every value. Raises UsageError."""
        for what, value, known in (
            ("--overlap", self.overlap, ("smaller", "later")),
            ("--boxes", self.boxes, ("ignore", "fill")),
        ):
            if value not in known:
                raise unknown_name(what, value, known)
        if not 0 <= self.val < 1:
            raise UsageError(f"--val must be a share below 1, not {self.val:g}", hint="for example --val 20%")


@dataclass(slots=True)
class _Count:
    """What happened on the way."""

    labelled: int = 0
    covered: int = 0
    empty: int = 0
    turned: int = 0
    box_only: int = 0
    unnamed: int = 0

    def notes(self, painting: Painting, with_masks: bool) -> list[str]:
        """Return a line for everything that somebody should know."""
        if not with_masks:
            return ["all objects have only boxes: there are labels, but no masks (--boxes fill paints them)"]
        share = self.covered / max(1, self.labelled)
        fate = "their pixels are ignored (--boxes fill paints them)" if painting.boxes == "ignore" else "it is filled"
        lines = {
            f"{self.unnamed} objects with labels that --classes does not name are left out": self.unnamed,
            f"{self.empty} objects cover no pixel centre of their picture": self.empty,
            f"{self.box_only} objects have only a box: {fate}": self.box_only,
            f"{share:.2%} of the labelled pixels belong to objects of two classes: the {painting.overlap} one is on "
            "top (--overlap)": self.covered,
            f"{self.turned} images with an EXIF orientation are written upright, as PNG": self.turned,
        }
        return [text for text, n in lines.items() if n]


def from_annotations(
    source: Path | str,
    out: Path | str,
    *,
    kind: str = "",
    folder: Path | None = None,
    part: str = "",
    painting: Painting | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Paint annotations as ``out/PART/{images,masks,labels}`` with ``classes.txt`` and a ``data.yaml``.

    ``labels`` holds the boxes: one text file an image, one line a box: class, x and y of its centre, width, height, as
    shares of the image's. There are no masks when all objects have only boxes (unless those are to be filled).

    Args:
        source: a file or folder of annotations.
        out: folder to make; it must not exist or be empty.
        kind: one of SOURCES; empty to find out.
        folder: where the images are; by default beside the annotations.
        part: the part that these images are, where the source does not say (default train).
        painting: classes and rules.
        overwrite: replace a folder that a conversion made before.
        progress: called with what is done.

    Raises:
        UsageError: wrong names, or ``out`` is in use.
        DataError: annotations or images that cannot be used, with file and item; nothing is left behind.
        SpaceError: the disk is full; nothing is left behind.
    """
    rules = painting or Painting()
    source, out = Path(source), Path(out)
    opened = open_annotations(source, kind, part)
    if opened is None:
        raise UsageError(f"'{source}' holds no annotations", hint=f"known formats: {', '.join(SOURCES)}")
    found = opened[1]
    objects = [a for pictures in found.parts.values() for picture in pictures for a in picture.annotations]
    with_masks = rules.boxes == "fill" or not objects or any(a.region for a in objects)
    names, values = _values(found, rules, with_masks)
    items, notes = locate(found, source, folder, skip_missing=rules.skip_missing)
    notes += tuple(f"no object has the label '{n}'" for n in names if n not in (*found.classes, rules.unlabelled))
    items = _split(items, rules)
    work = _Work(rules, values, with_masks, items)
    n_images = {name: len(chosen) for name, chosen in items.items()}
    with new_folder(out, replaceable=RECORD if overwrite else "") as place:
        for name, chosen in items.items():
            for done, item in enumerate(chosen, 1):
                work.write(place / name, item)
                if progress:
                    progress(f"write {name}", done, len(chosen))
        write_file(place / "classes.txt", "".join(f"{name}\n" for name in names).encode())
        background = names.index(rules.unlabelled) if rules.unlabelled in names else None
        write_file(place / "data.yaml", description(names, background, n_images, boxes=work.with_boxes))
        atomic_json(place / RECORD, {"source": str(source), "from": opened[0], "to": "masks", "rules": rules})
    return Converted(out / "data.yaml", n_images, (*found.notes, *notes, *work.count.notes(rules, with_masks)))


class _Work:
    """Writes pictures with masks and boxes, and counts what happens."""

    def __init__(
        self, rules: Painting, values: Mapping[str, int], with_masks: bool, items: Mapping[str, list[Item]]
    ) -> None:
        self.rules, self.values, self.with_masks, self.count = rules, values, with_masks, _Count()
        objects = [a for chosen in items.values() for item in chosen for a in item.picture.annotations]
        self.count.unnamed = sum(a.label not in values for a in objects)
        self.count.box_only = sum(a.region is None for a in objects)
        self.with_boxes = any(a.box for a in objects)
        self.unlabelled = values.get(rules.unlabelled, IGNORE)

    def write(self, place: Path, item: Item) -> None:
        image = image_of(item)
        self.count.turned += is_turned(image)
        write_image(place / "images" / item.stem, item.path, image)
        size = (image.pixels.shape[0], image.pixels.shape[1])
        if self.with_masks:
            self._write_mask(place / "masks" / item.stem, item.picture, size)
        if self.with_boxes:
            boxes = [(label, box) for label, box, _ in boxes_of(item.picture, size, self.values)]
            write_boxes(place / "labels" / item.stem, boxes, size)

    def _write_mask(self, target: Path, picture: Picture, size: tuple[int, int]) -> None:
        try:
            painted = paint(
                picture,
                size,
                self.values,
                unlabelled=self.unlabelled,
                smaller_on_top=self.rules.overlap == "smaller",
                fill_boxes=self.rules.boxes == "fill",
            )
        except ValueError as error:
            raise LabelError(str(error), hint="export it again, or remove this item") from None
        self.count.labelled += painted.n_labelled
        self.count.covered += painted.n_covered
        self.count.empty += painted.n_empty
        write_file(target.with_name(f"{target.name}.png"), images.png(painted.mask))


def _values(found: Annotations, rules: Painting, with_masks: bool) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the names of the classes, and label -> value in the masks. Raises UsageError, DataError."""
    names = rules.classes or tuple(name for name in found.classes if name != IGNORED)
    if rules.classes and not set(rules.classes) & set(found.classes):
        raise unknown_name("label", names[-1], found.classes)
    if with_masks and rules.unlabelled not in (IGNORED, *names):
        names = (rules.unlabelled, *names)
    if len(set(names)) != len(names) or not 1 + with_masks <= len(names) <= 254:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise DataError(
            f"there would be {len(names)} classes ({shown}); 2 to 254 different ones are needed",
            hint="choose them with --classes a,b",
        )
    if any(not name.isprintable() for name in names):
        raise DataError("a label has a line break or the like in its name", hint="rename it")
    return names, {**{name: i for i, name in enumerate(names)}, IGNORED: IGNORE}


def _split(items: dict[str, list[Item]], rules: Painting) -> dict[str, list[Item]]:
    """Set a share of the train part aside as val. Raises UsageError where that is not possible."""
    if not rules.val:
        return items
    if set(items) != {"train"}:
        raise UsageError(f"--val: the source has the parts {', '.join(items)}", hint="leave --val out")
    everything = items["train"]
    n_val = round(rules.val * len(everything))
    if not 0 < n_val < len(everything):
        raise UsageError(f"--val leaves {n_val} of {len(everything)} images for val", hint="choose another share")
    chosen = set(np.random.default_rng(rules.seed).permutation(len(everything))[:n_val].tolist())
    return {
        "train": [item for i, item in enumerate(everything) if i not in chosen],
        "val": [item for i, item in enumerate(everything) if i in chosen],
    }


# --- images ----------------------------------------------------------------------------------------------------------
def write_image(target: Path, path: Path | None, image: Decoded) -> Path:
    """Copy an image file, or write its pixels as PNG when it has to be turned or has an unusual ending."""
    as_it_is = path is not None and path.suffix.lower() in EXTENSIONS and not is_turned(image)
    place = target.with_name(target.name + (path.suffix.lower() if path and as_it_is else ".png"))
    write_file(place, path.read_bytes() if path and as_it_is else images.png(image.pixels))
    return place
