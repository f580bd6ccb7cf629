"""Semantic segmentation: one class for every pixel.

A network has one output channel a class (the largest logit wins, the lowest index on ties), or a single channel for one
class of objects on a background (class 1 where the logit is > 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitfront import images
from bitfront.contracts import IGNORE, Batch, DataInfo, Head, InputContract, OutputContract, Part, Prediction, Sample
from bitfront.errors import UsageError, unknown_name
from bitfront.tasks.segmentation_meter import SegmentationMeter
from bitfront.tasks.segmentation_scorer import SegmentationScorer

if TYPE_CHECKING:
    import torch

__all__ = ["Segmentation", "median_frequency"]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The task; its fields are options of the loss and of the interval."""

    class_weights: tuple[float, ...] = ()
    """Weight of each class in the loss; empty: all 1."""
    dice: float = 0.0
    """Weight of the soft Dice term (Milletari et al. 2016, V-Net, section 3) beside the cross-entropy."""
    bootstrap: int = 1000
    """Resamplings of the 95 % interval; 0 for none."""
    seed: int = 0
    """Seed of the resampling."""

    name: ClassVar[str] = "segmentation"

    def channels(self, info: DataInfo) -> int:
        """One for one class of objects on a background, else one a class."""
        return 1 if len(info.classes) == 2 and info.background == 0 else len(info.classes)

    def output(self, channels: int, info: DataInfo, head: Head | None = None) -> OutputContract:
        """The read-out; no head is needed. Raises UsageError when the channels do not fit the classes."""
        k = len(info.classes)
        if channels == k and k > 1:
            return OutputContract("argmax", classes=info.classes)
        if channels == 1 and k == 2:
            return OutputContract("threshold", 0.0, classes=info.classes)
        raise UsageError(
            f"a network with {channels} output channels does not fit the {k} classes of '{info.name}'",
            hint="one channel a class, or a single one for two classes; choose data with the classes it was trained on",
        )

    def loss(
        self, outputs: torch.Tensor, batch: Batch, info: DataInfo, output: OutputContract | None = None
    ) -> torch.Tensor:
        """Cross-entropy, mean over the pixels that are not ignored; of one channel, binary cross-entropy with logits.

        ``outputs`` are logits ``(b, k, h, w)`` at the size of ``batch.masks``. A batch without labelled pixel gives 0.
        """
        import torch

        if batch.masks is None:
            raise UsageError("segmentation trains on masks, and this batch has none")
        target = torch.from_numpy(batch.masks).to(outputs.device).long()
        keep = target != IGNORE
        weights = torch.tensor(self._weights(info), device=outputs.device)
        pixel_weights = weights[torch.where(keep, target, 0)] * keep
        losses = _pixel_losses(outputs.float(), torch.where(keep, target, 0))
        loss = (losses * pixel_weights).sum() / pixel_weights.sum().clamp(min=1e-9)
        return loss + self.dice * _soft_dice(outputs.float(), target, keep) if self.dice else loss

    def predict(
        self,
        outputs: NDArray[Any],
        output: OutputContract,
        sizes: Sequence[tuple[int, int]],
        fed: InputContract | None = None,
    ) -> list[Prediction]:
        """Read label maps off ``(b, k, h, w)`` outputs, then resize each to its image by nearest neighbour."""
        maps = read_out(outputs, output)
        return [Prediction(mask=images.resize(m, size, "nearest")) for m, size in zip(maps, sizes, strict=True)]

    def meter(self, info: DataInfo, score: str = "") -> SegmentationMeter:
        """Return a fresh meter. Raises UsageError for unknown scores."""
        return SegmentationMeter(info, score, bootstrap=self.bootstrap, seed=self.seed)

    def scorer(
        self,
        samples: Sequence[Sample],
        output: OutputContract,
        info: DataInfo,
        score: str = "",
        fed: InputContract | None = None,
    ) -> SegmentationScorer:
        """Return a scorer of raw outputs for these samples. Raises UsageError for unknown scores, DataError."""
        return SegmentationScorer(samples, info, score, read=lambda outputs: read_out(outputs, output))

    def draw(self, image: NDArray[np.uint8], prediction: Prediction, info: DataInfo) -> NDArray[np.uint8]:
        """Overlay a prediction, with a legend."""
        if prediction.mask is None:
            return image
        drawn: NDArray[np.uint8] = images.overlay(image, prediction.mask, info)
        return drawn

    def _weights(self, info: DataInfo) -> tuple[float, ...]:
        weights = self.class_weights or (1.0,) * len(info.classes)
        if len(weights) != len(info.classes):
            raise UsageError(
                f"{len(weights)} class weights do not fit the {len(info.classes)} classes of '{info.name}'"
            )
        return weights


def read_out(outputs: NDArray[Any], contract: OutputContract) -> NDArray[np.uint8]:
    """Return label maps ``(b, h, w)`` of outputs ``(b, k, h, w)`` (``labels``: also ``(b, h, w)``)."""
    if contract.readout == "argmax":
        return _largest(outputs)
    if contract.readout == "threshold":
        return (outputs[:, 0] > contract.threshold).astype(np.uint8)
    if contract.readout == "labels":
        return (outputs[:, 0] if outputs.ndim == 4 else outputs).astype(np.uint8)
    raise unknown_name("read-out", contract.readout, ("argmax", "threshold", "labels"))


def _largest(outputs: NDArray[Any]) -> NDArray[np.uint8]:
    """``outputs.argmax(axis=1)``, the lowest index on ties, channel by channel: several times faster on maps."""
    best = outputs[:, 0].copy()
    labels = np.zeros(best.shape, np.uint8)
    for k in range(1, outputs.shape[1]):
        better = outputs[:, k] > best
        np.copyto(best, outputs[:, k], where=better)
        labels[better] = k
    return labels


def median_frequency(part: Part, info: DataInfo) -> tuple[float, ...]:
    """Median frequency balancing (Eigen and Fergus 2015, section 4.3.2): weights for the classes of ``info``.

    The frequency of a class is its share of the pixels of the images that show it; its weight is the median frequency
    divided by its own. Classes that no image shows weigh 0.
    """
    k = len(info.classes)
    pixels, seen = np.zeros(k), np.zeros(k)
    for sample in part:
        if sample.mask is not None:
            counts = np.bincount(sample.mask[sample.mask < k].ravel(), minlength=k)
            pixels += counts
            seen += counts.sum() * (counts > 0)
    shown = pixels > 0
    frequency = np.divide(pixels, seen, out=np.ones(k), where=shown)
    if not shown.any():
        return (1.0,) * k
    return tuple(float(w) for w in np.where(shown, np.median(frequency[shown]) / frequency, 0.0))


def _pixel_losses(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """``(b, k, h, w)`` and ``(b, h, w)`` without ignored pixels -> ``(b, h, w)``."""
    import torch.nn.functional as F

    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], (target == 1).to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, target, reduction="none")


def _soft_dice(logits: torch.Tensor, target: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """1 - mean Dice of probabilities and labels over the classes that the batch shows."""
    import torch

    binary = logits.shape[1] == 1
    probability = logits.sigmoid() if binary else logits.softmax(dim=1)
    classes = torch.arange(1 if binary else 0, 2 if binary else logits.shape[1], device=logits.device)
    label = (target[:, None] == classes[None, :, None, None]).to(logits.dtype)
    probability = probability * keep[:, None]
    overlap, both = (probability * label).sum((0, 2, 3)), (probability + label).sum((0, 2, 3))
    shown = label.sum((0, 2, 3)) > 0
    dice = (2 * overlap / both.clamp(min=1e-9))[shown]
    return 1 - dice.mean() if shown.any() else logits.sum() * 0
