"""Look at all data before it is used: every file decoded once, faults named, classes counted, leaks found.

A few unreadable files (MAX_BAD_SHARE, at most MAX_BAD_FILES) are left out and listed; more of them, or a single label
that contradicts its image or its classes, stop the work. What was found is cached by the content of the files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitfront.contracts import DataInfo, Dataset, Part, Sample
from bitfront.errors import BitfrontError, DataError, LabelError
from bitfront.record import content_id, digest_file, from_json, to_json
from bitfront.store import atomic_write

__all__ = ["MAX_BAD_FILES", "MAX_BAD_SHARE", "Fault", "Health", "PartHealth", "examine", "scan", "without"]

MAX_BAD_SHARE = 0.01
MAX_BAD_FILES = 100
"""More unreadable files than this share, or this number, are no accident: the data must be repaired."""

NAMED = 8
"""Classes that a warning names."""
GENERATED = 100
"""Of generated data, which has nothing that could be damaged, so many samples of a part are looked at."""

VERSION = 1
"""Part of the cache key: raise when decoding or the checks change."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many are done and how many there are."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """One sample that cannot be used as it is."""

    part: str
    index: int
    """Position in the part."""
    reason: str
    """What is wrong, with the file's path."""
    hint: str
    label: bool = False
    """The labels contradict their image or their classes: such samples are never left out in silence."""


@dataclass(frozen=True, slots=True)
class PartHealth:
    """What one part of a dataset holds."""

    n: int
    n_examined: int
    faults: tuple[Fault, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)
    """What had to be done to read the files -> number of samples."""
    pixels: Mapping[str, int] = field(default_factory=dict)
    """Class -> labelled pixels; empty without masks."""
    ignored_pixels: int = 0
    empty_classes: tuple[str, ...] = ()
    """Classes without a pixel (or box, or image): they have no score in this part."""
    boxes: Mapping[str, int] = field(default_factory=dict)
    """Class -> boxes; empty without boxes."""
    images: Mapping[str, int] = field(default_factory=dict)
    """Class -> images of that class; empty without image labels."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """``960x540`` (width x height) -> number of images, most frequent first."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a dataset holds and what is wrong with it; goes to JSON as it is."""

    dataset: str
    parts: Mapping[str, PartHealth]
    leaks: tuple[tuple[str, ...], ...] = ()
    """Samples with the same image in more than one part, as ``part/id``."""
    notes: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All faults of all parts."""
        return tuple(fault for part in self.parts.values() for fault in part.faults)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should be known but stops nothing, one line each."""
        lines = [f"{f.part}: left out: {f.reason}" for f in self.faults if not f.label]
        for name, part in self.parts.items():
            lines += [f"{name}: {n} samples: {note}" for note, n in part.notes.items()]
            if part.empty_classes and part.n_examined == part.n:
                lines.append(f"{name}: nothing of {_few(part.empty_classes)}: no score for them here")
        lines += [f"the same image stands in {' and '.join(leak)}: scores are too good" for leak in self.leaks[:20]]
        if len(self.leaks) > 20:
            lines.append(f"and {len(self.leaks) - 20} more images that stand in more than one part")
        return (*self.notes, *lines)

    def error(self) -> DataError | None:
        """Return what makes the data unusable, or ``None``."""
        n = sum(part.n for part in self.parts.values())
        labels = [fault for fault in self.faults if fault.label]
        if labels:
            more = f" (and {len(labels) - 1} more samples with such labels)" if len(labels) > 1 else ""
            return LabelError(labels[0].reason + more, hint=labels[0].hint)
        if len(self.faults) > min(MAX_BAD_FILES, MAX_BAD_SHARE * n):
            first = self.faults[0]
            return DataError(
                f"{len(self.faults)} of {n} samples cannot be used, up to {MAX_BAD_SHARE:.0%} are left out; "
                f"the first: {first.reason}",
                hint=f"{first.hint}; 'bitfront data check' lists them all",
            )
        return None

    def usable(self, name: str, part: Part) -> Part:
        """Return the part without the samples that have faults."""
        return without(part, [fault.index for fault in self.parts[name].faults])


def scan(
    dataset: Dataset, part_names: Sequence[str] = (), cache: Path | None = None, progress: Progress | None = None
) -> Health:
    """Examine parts (all, when none is named) and insist that they can be used. Raises DataError, LabelError."""
    health = examine(dataset, part_names, cache, progress)
    error = health.error()
    if error is not None:
        raise error
    return health


def examine(
    dataset: Dataset, part_names: Sequence[str] = (), cache: Path | None = None, progress: Progress | None = None
) -> Health:
    """Examine parts (all, when none is named) and return all that was found, however bad.

    ``cache`` is a folder for what was found, by content; without it (or when it cannot be written) every file is
    decoded again.
    """
    parts, images = {}, defaultdict(list)
    for name in part_names or dataset.parts():
        findings = _part_findings(dataset, name, cache, progress)
        parts[name] = _summary(name, len(dataset.part(name)), findings, dataset.info)
        for finding in findings:
            if finding.image:
                images[finding.image].append((name, f"{name}/{finding.id}"))
    leaks = [tuple(i for _, i in found) for found in images.values() if len({part for part, _ in found}) > 1]
    return Health(dataset.info.name, parts, tuple(leaks), tuple(getattr(dataset, "notes", ())))


def without(part: Part, bad: Sequence[int]) -> Part:
    """Return ``part`` without the samples at the positions ``bad``, decoding nothing."""
    left_out = frozenset(bad)
    return _View(part, [i for i in range(len(part)) if i not in left_out]) if left_out else part


class _View(Sequence[Sample]):
    def __init__(self, part: Part, kept: Sequence[int]) -> None:
        self.part = part
        self.kept = kept

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return _View(self.part, self.kept[index])
        return self.part[self.kept[index]]


# --- one sample ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Finding:
    """All that is remembered of one sample."""

    id: str
    index: int
    image: str = ""
    """SHA-256 of the image's bytes."""
    size: str = ""
    notes: tuple[str, ...] = ()
    pixels: tuple[int, ...] = ()
    """Pixels of each label that occurs, by :attr:`values`."""
    values: tuple[int, ...] = ()
    boxes: tuple[int, ...] = ()
    """Class of each box."""
    label: int | None = None
    reason: str = ""
    hint: str = ""
    is_label_fault: bool = False


@runtime_checkable
class _Explains(Protocol):
    """A part that says how it read a sample and what its labels mean."""

    @property
    def identity(self) -> object: ...

    def decode(self, index: int) -> tuple[Sample, tuple[str, ...]]: ...


def _look(part: Part, index: int, identity: str, image: str) -> _Finding:
    try:
        sample, notes = part.decode(index) if isinstance(part, _Explains) else (part[index], ())
    except BitfrontError as error:
        is_label = isinstance(error, LabelError)
        return _Finding(identity, index, image, reason=str(error), hint=error.hint, is_label_fault=is_label)
    counts = np.zeros(256, np.int64) if sample.mask is None else np.array(Image.fromarray(sample.mask).histogram())
    values = np.flatnonzero(counts)
    height, width = sample.image.shape[:2]
    return _Finding(
        sample.id,
        index,
        image or hashlib.sha256(sample.image.tobytes()).hexdigest(),
        f"{width}x{height}",
        tuple(notes),
        tuple(int(n) for n in counts[values]),
        tuple(int(v) for v in values),
        () if sample.labels is None else tuple(int(v) for v in sample.labels),
        sample.label,
    )


def _part_findings(dataset: Dataset, name: str, cache: Path | None, progress: Progress | None) -> list[_Finding]:
    part, files = dataset.part(name), dataset.files(name)
    n = len(part) if files or isinstance(part, _Explains) else min(len(part), GENERATED)
    store = _Cache.open(cache, dataset, name, part)
    found = []
    with ThreadPoolExecutor(max_workers=max(1, os.cpu_count() or 1)) as pool:
        for done, finding in enumerate(_in_order(pool, part, files, n, store), start=1):
            found.append(finding)
            if progress is not None:
                progress(f"scan {name}", done, n)
    if store is not None:
        store.save()
    return found


def _in_order(
    pool: ThreadPoolExecutor, part: Part, files: Sequence[tuple[Path, Path | None]], n: int, store: _Cache | None
) -> Iterator[_Finding]:
    def look(index: int) -> _Finding:
        image, mask = files[index] if files else (None, None)
        hashes = _hash(image), _hash(mask)
        name = image.as_posix() if image is not None else str(index)
        key = content_id(VERSION, name, hashes)
        known = store.entries.get(key) if store is not None and hashes[0] else None
        finding = known or _look(part, index, name, hashes[0])
        if store is not None:
            store.fresh[key] = finding
        return finding

    return pool.map(look, range(n))


def _hash(path: Path | None) -> str:
    try:
        return "" if path is None else digest_file(path)
    except (OSError, ValueError):
        return ""


@dataclass(slots=True)
class _Cache:
    """Findings of earlier scans in one JSON file; a damaged file counts as none."""

    path: Path
    entries: Mapping[str, _Finding]
    fresh: dict[str, _Finding] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | None, dataset: Dataset, name: str, part: Part) -> _Cache | None:
        files = dataset.files(name)
        if folder is None or not files:
            return None
        meaning = part.identity if isinstance(part, _Explains) else ""
        key = content_id(VERSION, dataset.info, str(files[0][0].parent), meaning)
        path = folder / f"scan-{name}-{key[:16]}.json"
        return cls(path, cls._read(path))

    @staticmethod
    def _read(path: Path) -> Mapping[str, _Finding]:
        try:
            data: Any = json.loads(path.read_bytes())
            if content_id(data["findings"]) != data["sha256"]:
                raise ValueError("the checksum does not match")
            return {key: from_json(_Finding, value) for key, value in data["findings"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _LOG.warning("%s: not used, the data is scanned again: %s", path, error)
            return {}

    def save(self) -> None:
        findings = to_json(self.fresh)
        data = json.dumps({"sha256": content_id(findings), "findings": findings})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self.path, data.encode())
        except (OSError, BitfrontError) as error:
            _LOG.info("%s: not kept: %s", self.path, error)


# --- one part --------------------------------------------------------------------------------------------------------
def _summary(name: str, n: int, findings: Sequence[_Finding], info: DataInfo) -> PartHealth:
    good = [f for f in findings if not f.reason]
    counts = np.zeros(256, np.int64)
    for finding in good:
        counts[list(finding.values)] += np.array(finding.pixels, np.int64)
    boxes = Counter(label for f in good for label in f.boxes)
    whole = Counter(f.label for f in good if f.label is not None)
    pixels = _by_class(counts, info) if counts.any() else {}
    kinds = [k for k in (pixels, _by_class(boxes, info), _by_class(whole, info)) if any(k.values())]
    empty = [c for c in info.classes if kinds and not kinds[0][c]]
    return PartHealth(
        n,
        len(findings),
        tuple(Fault(name, f.index, f.reason, f.hint, f.is_label_fault) for f in findings if f.reason),
        dict(Counter(note for f in good for note in f.notes).most_common()),
        pixels,
        int(counts[info.ignore_label]) if info.ignore_label < 256 else 0,
        tuple(empty),
        _by_class(boxes, info) if boxes else {},
        _by_class(whole, info) if whole else {},
        dict(Counter(f.size for f in good).most_common()),
    )


def _few(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - NAMED} more classes" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _by_class(counts: NDArray[np.int64] | Counter[int], info: DataInfo) -> dict[str, int]:
    return {name: int(counts[number]) for number, name in enumerate(info.classes)}
