"""MNIST and data in its form (LeCun, Cortes and Burges 1998): grey images and classes in idx files, also gzipped.

``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same with ``t10k`` for the test part. A tenth of the
train part is val, chosen by ``seed``, the same share of every class.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import DataInfo
from bitfront.data.files import is_file, require_folder
from bitfront.data.labelled import VAL_SHARE, ArrayDataset, ArrayPart, check_share, split
from bitfront.errors import DataError, LabelError

__all__ = ["Mnist", "read_idx"]

CLASSES = tuple("0123456789")
PREFIXES = {"train": "train", "test": "t10k"}
MAX_BYTES = 2 << 30
UBYTE = 0x08
HINT = "copy or download the file again"


class Mnist(ArrayDataset):
    """Images and classes in idx files."""

    @classmethod
    def open(
        cls, root: Path | None, *, classes: Sequence[str] = CLASSES, val: float = VAL_SHARE, seed: int = 0
    ) -> Mnist:
        """Open the files in ``root``. Raises DataError for missing or damaged files, LabelError for other classes."""
        root = require_folder(root, "the MNIST reader")
        check_share(val, "val")
        found = {part: _read_part(root, prefix, len(classes)) for part, prefix in PREFIXES.items()}
        arrays = {part: arrays for part, arrays in found.items() if arrays is not None}
        if not arrays:
            raise DataError(f"{root}: found no MNIST files", hint="expected train-images-idx3-ubyte(.gz) and others")
        notes: tuple[str, ...] = ()
        if "train" in arrays:
            images, labels = arrays.pop("train")
            places = split(labels.tolist(), seed, val, 0.0)
            arrays |= {part: (images[chosen], labels[chosen]) for part, chosen in places.items()}
            notes = (f"no val part: {val:.0%} of the train images are val, chosen by seed {seed}",)
        info = DataInfo("mnist", tuple(classes), tasks=("classification",), augment="none")
        return cls(info, {part: ArrayPart(part, *held) for part, held in arrays.items()}, notes)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Say whether there are idx files of these names."""
        return any(_file(root, prefix, "images", 3) for prefix in PREFIXES.values())


def _read_part(root: Path, prefix: str, n_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    paths = [_file(root, prefix, what, n_dims) for what, n_dims in (("images", 3), ("labels", 1))]
    if paths[0] is None and paths[1] is None:
        return None
    if paths[0] is None or paths[1] is None:
        raise DataError(f"{paths[0] or paths[1]}: stands alone", hint="images and labels belong together")
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise LabelError(f"{paths[1]}: {len(labels)} labels, but {len(images)} images in {paths[0].name}", hint=HINT)
    if labels.max() >= n_classes:
        raise LabelError(
            f"{paths[1]}: holds class {labels.max()}, but there are {n_classes} classes", hint="name all with classes"
        )
    return images, labels.astype(np.int64)


def _file(root: Path, prefix: str, what: str, n_dims: int) -> Path | None:
    names = [f"{prefix}-{what}{joint}idx{n_dims}-ubyte{end}" for joint in "-." for end in ("", ".gz")]
    return next((root / name for name in names if is_file(root / name)), None)


def read_idx(path: Path, n_dims: int) -> NDArray[np.uint8]:
    """Return the array in an idx file of unsigned bytes, plain or gzipped.

    The header is two zero bytes, the type (8), the number of axes and, big-endian, the length of each.

    Raises DataError for another header, an empty array, and files that are shorter or longer than they say.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * n_dims)
            shape = _shape(path, head, n_dims)
            n_bytes = math.prod(shape)
            data = file.read(n_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged: {error}", hint=HINT) from error
    if len(data) != n_bytes:
        size = "x".join(map(str, shape))
        what = f"ends after {len(data)} of" if len(data) < n_bytes else "holds more than"
        raise DataError(f"{path}: {what} the {n_bytes} bytes that its header says ({size})", hint=HINT)
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(path: Path, head: bytes, n_dims: int) -> tuple[int, ...]:
    if len(head) != 4 + 4 * n_dims:
        raise DataError(f"{path}: too short to be an idx file ({len(head)} bytes)", hint=HINT)
    if head[:2] != b"\0\0" or head[2] != UBYTE or head[3] != n_dims:
        raise DataError(
            f"{path}: begins with {head[:4].hex()}, not with 0000{UBYTE:02x}{n_dims:02x}",
            hint=f"this must be an idx file of unsigned bytes with {n_dims} axes",
        )
    shape: tuple[int, ...] = struct.unpack(f">{n_dims}I", head[4:])
    if not 0 < math.prod(shape) <= MAX_BYTES:
        raise DataError(f"{path}: says that it holds {'x'.join(map(str, shape))} bytes", hint=HINT)
    return shape
