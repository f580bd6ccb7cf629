"""Samples become float batches: in order for evaluation, shuffled and augmented for training, a few to calibrate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from bitfront.augment import AUGMENTS, Augment, Corner, Geometry, draw_color, draw_corners, draw_geometry, of_corner
from bitfront.contracts import Batch, InputContract, Part, Sample
from bitfront.errors import DataError, UsageError
from bitfront.images import preprocess, resize

__all__ = ["AUGMENTS", "CACHE_BYTES", "Augment", "cached", "calibration", "evaluation", "training"]

CACHE_BYTES = 2 << 30
"""How much decoded data :func:`cached` keeps unless told otherwise; what goes beyond is decoded each time."""


def evaluation(
    part: Part, contract: InputContract, batch_size: int, limit: int | None = None
) -> Iterator[tuple[Batch, list[Sample]]]:
    """Yield batches of preprocessed images, in order, with the samples they come from; the last may be smaller.

    Masks and boxes of a batch are in the network's pixels; those of the samples in the image's own.
    """
    _check(part, batch_size)
    n = len(part) if limit is None else min(limit, len(part))
    for start in range(0, n, batch_size):
        samples = [part[i] for i in range(start, min(start + batch_size, n))]
        images = np.stack([preprocess(sample.image, contract) for sample in samples])
        yield _batch(images, [_place(sample, _whole(sample, contract)) for sample in samples]), samples


def training(
    part: Part, contract: InputContract, batch_size: int, rng: np.random.Generator, augment: Augment = AUGMENTS["none"]
) -> Iterator[Batch]:
    """Yield the batches of one epoch: shuffled, augmented, all of them full (a part smaller than one makes one batch).

    The batches depend on ``rng`` alone. Wrap ``part`` in :func:`cached` once before the first epoch.
    """
    _check(part, batch_size)
    order = rng.permutation(len(part))
    seeds = rng.integers(1 << 63, size=len(part))
    n_batches = max(1, len(part) // batch_size)
    for chosen in np.array_split(order[: n_batches * batch_size], n_batches):
        images = np.empty((len(chosen), contract.channels, contract.height, contract.width), np.float32)
        placed = []
        for index, out in zip(chosen, images, strict=True):
            rng = np.random.default_rng(seeds[index])
            own, corners = [], []
            for i, (top, left, corner) in _mosaic(part, int(index), contract, augment, rng):
                sample, native = _working(part, i, contract, augment)
                change = augment if corner is contract else of_corner(augment)
                geometry = _geometry(sample, native, corner, change, rng)
                window = out[:, top : top + corner.height, left : left + corner.width]
                draw_color(augment, rng).normalized(geometry.image(sample.image, contract.resize), contract, window)
                own.append(_shifted(_place(sample, geometry), top, left))
                corners.append((top, left, corner))
            placed.append(own[0] if len(own) == 1 else _joined(part[int(index)].id, own, corners, out.shape[1:]))
        yield _batch(images, placed)


def _mosaic(
    part: Part, first: int, contract: InputContract, augment: Augment, rng: np.random.Generator
) -> Iterator[tuple[int, Corner]]:
    """Yield which images make an input, and where: the first alone, or with three others in corners."""
    if not augment.mosaic or rng.random() >= augment.mosaic:
        yield first, (0, 0, contract)
        return
    chosen = rng.permutation([first, *rng.integers(len(part), size=3)])
    yield from zip(chosen.tolist(), draw_corners(contract, rng), strict=True)


def _shifted(sample: Sample, top: int, left: int) -> Sample:
    offset = np.array([left, top, left, top], np.float32)
    return sample if sample.boxes is None else replace(sample, boxes=sample.boxes + offset)


def _joined(id_: str, placed: Sequence[Sample], corners: Sequence[Corner], size: tuple[int, ...]) -> Sample:
    """The labels of a mosaic; a kind of label is there only when all its images have it."""
    masks = [sample.mask for sample in placed if sample.mask is not None]
    boxes = [sample.boxes for sample in placed if sample.boxes is not None]
    labels = [sample.labels for sample in placed if sample.labels is not None]
    mask = np.empty(size, np.uint8) if len(masks) == len(placed) else None
    if mask is not None:
        for own, (top, left, corner) in zip(masks, corners, strict=True):
            mask[top : top + corner.height, left : left + corner.width] = own
    whole = len(boxes) == len(labels) == len(placed)
    return Sample(
        id_,
        placed[0].image,
        mask,
        np.concatenate(boxes) if whole else None,
        np.concatenate(labels) if whole else None,
    )


def calibration(part: Part, contract: InputContract, n: int, rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """Return ``n`` different images (all, when there are fewer), preprocessed as for evaluation, ``(1, c, h, w)``."""
    _check(part, n)
    chosen = np.sort(rng.choice(len(part), min(n, len(part)), replace=False))
    return [preprocess(part[int(i)].image, contract)[None] for i in chosen]


def cached(
    part: Part,
    contract: InputContract | None = None,
    augment: Augment = AUGMENTS["none"],
    max_bytes: int = CACHE_BYTES,
) -> Part:
    """Return ``part`` keeping its decoded samples in memory, up to ``max_bytes``.

    With a ``contract``, for :func:`training`: samples are kept just above the size that the network and ``augment``
    need, antialiased once. Without, for :func:`evaluation`: at their own size.
    """
    return _Cached(part, contract, augment, max_bytes)


class _Cached(Sequence[Sample]):
    def __init__(self, part: Part, contract: InputContract | None, augment: Augment, max_bytes: int) -> None:
        self.part = part
        self.contract = contract
        self.augment = augment
        self.free_bytes = max_bytes
        self.kept: dict[int, tuple[Sample, tuple[int, int]]] = {}

    def __len__(self) -> int:
        return len(self.part)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.working(index)[0]

    def working(self, index: int) -> tuple[Sample, tuple[int, int]]:
        """Return a sample at its working size, and its image's own (height, width)."""
        index = range(len(self))[index]
        if index in self.kept:
            return self.kept[index]
        sample = self.part[index]
        native = (sample.image.shape[0], sample.image.shape[1])
        if self.contract is not None:
            sample = _shrink(sample, self.contract, self.augment)
        n_bytes = sample.image.nbytes + (sample.mask.nbytes if sample.mask is not None else 0)
        if n_bytes <= self.free_bytes:
            self.free_bytes -= n_bytes
            self.kept[index] = (sample, native)
        return sample, native


def _check(part: Part, n: int) -> None:
    if not len(part):
        raise DataError("this part of the data is empty", hint="see 'bitfront data check'")
    if n < 1:
        raise UsageError(f"a batch needs at least one image, not {n}")


def _working(part: Part, index: int, contract: InputContract, augment: Augment) -> tuple[Sample, tuple[int, int]]:
    if isinstance(part, _Cached) and part.contract is not None:
        return part.working(index)
    sample = part[index]
    return _shrink(sample, contract, augment), (sample.image.shape[0], sample.image.shape[1])


def _shrink(sample: Sample, contract: InputContract, augment: Augment) -> Sample:
    """Return the sample at its working size: enough pixels for a crop of middling size, never more than it has."""
    height, width = sample.image.shape[:2]
    share = augment.mean_crop
    need_h, need_w = contract.height / share, contract.width / share
    if contract.fit == "letterbox" or augment.square:
        factor = (max if augment.square else min)(need_h / height, need_w / width)
        need_h, need_w = height * factor, width * factor
    size = (min(height, round(need_h)), min(width, round(need_w)))
    if size == (height, width):
        return sample
    factors = np.array([size[1] / width, size[0] / height] * 2, np.float32)
    return replace(
        sample,
        image=resize(sample.image, size, contract.resize),
        mask=None if sample.mask is None else resize(sample.mask, size, "nearest"),
        boxes=None if sample.boxes is None else sample.boxes * factors,
    )


def _geometry(
    sample: Sample, native: tuple[int, int], contract: InputContract, augment: Augment, rng: np.random.Generator
) -> Geometry:
    """Draw a warp that reads the sample at its working size but is the same whatever that size is."""
    drawn = draw_geometry(augment, contract, native, rng)
    height, width = sample.image.shape[:2]
    return Geometry(np.diag([width / native[1], height / native[0], 1.0]) @ drawn.matrix, drawn.size)


def _whole(sample: Sample, contract: InputContract) -> Geometry:
    """The whole image onto the input, as :func:`bitfront.images.preprocess` puts it."""
    size = (sample.image.shape[0], sample.image.shape[1])
    return draw_geometry(AUGMENTS["none"], contract, size, np.random.default_rng(0))


def _place(sample: Sample, geometry: Geometry) -> Sample:
    """Return the sample's labels moved by ``geometry``; the image is not touched."""
    boxes, labels = sample.boxes, sample.labels
    if boxes is not None:
        if sample.ignored is not None:
            boxes, labels = boxes[~sample.ignored], None if labels is None else labels[~sample.ignored]
        boxes, kept = geometry.boxes(boxes)
        labels = None if labels is None else labels[kept]
    mask = None if sample.mask is None else geometry.mask(sample.mask)
    return replace(sample, mask=mask, boxes=boxes, labels=labels, ignored=None)


def _batch(images: NDArray[np.float32], samples: Sequence[Sample]) -> Batch:
    """Collect labels; a kind of label is there only when all samples have it."""
    masks = [s.mask for s in samples if s.mask is not None]
    boxes = tuple(s.boxes for s in samples if s.boxes is not None)
    labels = tuple(s.labels for s in samples if s.labels is not None)
    whole = [s.label for s in samples if s.label is not None]
    n = len(samples)
    return Batch(
        images,
        np.stack(masks) if len(masks) == n else None,
        boxes if len(boxes) == n else (),
        labels if len(labels) == n else (),
        np.array(whole, np.int64) if len(whole) == n else None,
        tuple(s.id for s in samples),
    )
