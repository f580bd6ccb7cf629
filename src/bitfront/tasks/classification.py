"""Image classification: one class for every image.

A network has one output a class (the largest logit wins, the lowest index on ties), or a single one for two classes
(class 1 where the logit is > 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitfront import images
from bitfront.contracts import Batch, DataInfo, Head, InputContract, OutputContract, Prediction, Sample
from bitfront.errors import UsageError, unknown_name
from bitfront.tasks.classification_meter import ClassificationMeter
from bitfront.tasks.classification_scorer import ClassificationScorer

if TYPE_CHECKING:
    import torch

__all__ = ["Classification", "read_out", "two_sided"]

MIN_DRAWN = 160
"""Smaller pictures are enlarged by a whole factor before a class is written on them, pixels."""


@dataclass(frozen=True, slots=True)
class Classification:
    """The task; its fields are options of the loss and of the interval."""

    class_weights: tuple[float, ...] = ()
    """Weight of each class in the loss; empty: all 1."""
    label_smoothing: float = 0.0
    """Share of the probability that is spread over all classes (Szegedy et al. 2016, section 7)."""
    bootstrap: int = 1000
    """Resamplings of the 95 % interval; 0 for none."""
    seed: int = 0
    """Seed of the resampling."""

    name: ClassVar[str] = "classification"

    def channels(self, info: DataInfo) -> int:
        """One a class."""
        return len(info.classes)

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
        """Cross-entropy, mean over the images; of one channel, binary cross-entropy with logits.

        ``outputs`` are logits ``(b, k)`` or ``(b, k, 1, 1)``. Raises UsageError without labels, or for maps.
        """
        import torch
        import torch.nn.functional as F

        if batch.label is None:
            raise UsageError("classification trains on labels of whole images, and this batch has none")
        logits = outputs.float().flatten(1) if outputs.ndim == 4 and outputs.shape[2:] == (1, 1) else outputs.float()
        if logits.ndim != 2:
            raise UsageError(
                f"classification needs one logit a class, and this network gives {tuple(outputs.shape)}",
                hint="choose a model that does classification",
            )
        target = torch.from_numpy(batch.label).to(outputs.device)
        weights = torch.tensor(self._weights(info), device=outputs.device)
        if logits.shape[1] > 1:
            return F.cross_entropy(logits, target, weights, label_smoothing=self.label_smoothing)
        wanted = target.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits[:, 0], wanted, reduction="none")
        return (losses * weights[target]).sum() / weights[target].sum().clamp(min=1e-9)

    def predict(
        self,
        outputs: NDArray[Any],
        output: OutputContract,
        sizes: Sequence[tuple[int, int]],
        fed: InputContract | None = None,
    ) -> list[Prediction]:
        """Read the class of each image off ``(b, k)`` outputs; ``sizes`` are not needed."""
        labels, logits = read_out(outputs, output), two_sided(outputs, output)
        return [Prediction(label=int(i), scores=row) for i, row in zip(labels, logits, strict=True)]

    def meter(self, info: DataInfo, score: str = "") -> ClassificationMeter:
        """Return a fresh meter. Raises UsageError for unknown scores."""
        return ClassificationMeter(info, score, bootstrap=self.bootstrap, seed=self.seed)

    def scorer(
        self,
        samples: Sequence[Sample],
        output: OutputContract,
        info: DataInfo,
        score: str = "",
        fed: InputContract | None = None,
    ) -> ClassificationScorer:
        """Return a scorer of raw outputs for these samples. Raises UsageError for unknown scores, DataError."""
        return ClassificationScorer(
            samples, info, score, read=lambda outputs: (read_out(outputs, output), two_sided(outputs, output))
        )

    def draw(self, image: NDArray[np.uint8], prediction: Prediction, info: DataInfo) -> NDArray[np.uint8]:
        """Return the image, enlarged when it is tiny, under a strip that names the class and its probability."""
        if prediction.label is None:
            return image
        factor = max(1, -(-MIN_DRAWN // image.shape[1]))
        large = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
        return images.label(large, _caption(prediction, info))

    def _weights(self, info: DataInfo) -> tuple[float, ...]:
        weights = self.class_weights or (1.0,) * len(info.classes)
        if len(weights) != len(info.classes):
            raise UsageError(
                f"{len(weights)} class weights do not fit the {len(info.classes)} classes of '{info.name}'"
            )
        return weights


def read_out(outputs: NDArray[Any], contract: OutputContract) -> NDArray[np.int64]:
    """Return the class of each image ``(b,)`` of outputs ``(b, k)`` or ``(b, k, 1, 1)`` (``labels``: also ``(b,)``)."""
    flat = outputs.reshape(len(outputs), -1)
    if contract.readout == "argmax":
        labels: NDArray[np.int64] = flat.argmax(axis=1).astype(np.int64)
        return labels
    if contract.readout == "threshold":
        return (flat[:, 0] > contract.threshold).astype(np.int64)
    if contract.readout == "labels":
        return flat[:, 0].astype(np.int64)
    raise unknown_name("read-out", contract.readout, ("argmax", "threshold", "labels"))


def two_sided(outputs: NDArray[Any], contract: OutputContract) -> NDArray[np.float32]:
    """Return a logit for every class, ``(b, k)``; a single one becomes two; ``labels`` have none (``(b, 0)``)."""
    flat = outputs.reshape(len(outputs), -1).astype(np.float32)
    if contract.readout == "labels":
        return flat[:, :0]
    if contract.readout == "threshold":
        return np.concatenate([np.full_like(flat[:, :1], contract.threshold), flat[:, :1]], axis=1)
    return flat


def _caption(prediction: Prediction, info: DataInfo) -> str:
    assert prediction.label is not None
    known = 0 <= prediction.label < len(info.classes)
    name = info.classes[prediction.label] if known else f"class {prediction.label}"
    if prediction.scores is None or not prediction.scores.size:
        return name
    shifted = np.exp(prediction.scores - prediction.scores.max())
    return f"{name} {100 * float(shifted[prediction.label] / shifted.sum()):.0f} %"
