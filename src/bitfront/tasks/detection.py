"""Object detection: a box, a class and a score for every object.

A network's head (:class:`bitfront.contracts.Head`) says how its outputs code boxes. They are decoded, greedily
suppressed where they overlap, brought back to the image's pixels and clipped to it. The classes are those of the data
without its background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitfront import images
from bitfront.contracts import Batch, DataInfo, Head, InputContract, OutputContract, Prediction, Sample
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.tasks.detection_boxes import areas, restored
from bitfront.tasks.detection_decode import KINDS, Candidates, candidates
from bitfront.tasks.detection_draw import draw_boxes
from bitfront.tasks.detection_loss import Gains, detection_loss
from bitfront.tasks.detection_meter import DetectionMeter
from bitfront.tasks.detection_nms import nms
from bitfront.tasks.detection_scorer import DetectionScorer

if TYPE_CHECKING:
    import torch

__all__ = ["Detection"]


@dataclass(frozen=True, slots=True)
class Detection:
    """The task; its fields are options of the read-out, the loss and the interval.

    The read-out's defaults are those for scoring, where every box down to a low score counts; for pictures take a
    confidence of 0.25 and an ``iou`` of 0.45.
    """

    confidence: float = 0.001
    """Boxes with a score above it are found."""
    iou: float = 0.6
    """Boxes of a class that overlap a better one more than this, intersection over union, are dropped."""
    max_boxes: int = 300
    """Boxes of an image at most."""
    multi_label: bool = True
    """A place stands for every class above the confidence instead of its best one."""
    class_agnostic: bool = False
    """Boxes of different classes suppress each other, too."""
    box_gain: float = 0.05
    """Weight of the boxes in the loss of a YOLO."""
    objectness_gain: float = 1.0
    class_gain: float = 0.5
    balance: tuple[float, ...] = (4.0, 1.0, 0.4)
    """Weight of the objectness of each level, from fine to coarse (of several; a single one has 1)."""
    anchor_ratio: float = 4.0
    """An anchor of YOLOv5 answers for boxes whose sides differ from its own less than this many times."""
    bootstrap: int = 1000
    """Resamplings of the 95 % interval; 0 for none."""
    seed: int = 0
    """Seed of the resampling."""

    name: ClassVar[str] = "detection"

    def channels(self, info: DataInfo) -> int:
        """The number of classes of objects."""
        return len(info.objects)

    def output(self, channels: int, info: DataInfo, head: Head | None = None) -> OutputContract:
        """The read-out of a network for ``channels`` classes of objects.

        Raises UsageError without a head, for an unknown kind, and when the classes do not fit.
        """
        names = tuple(info.classes[i] for i in info.objects)
        if channels != len(names) or not names:
            raise UsageError(
                f"a detector of {channels} classes does not fit the {len(names)} classes of objects of '{info.name}'",
                hint="choose data with the classes that it was trained on",
            )
        if head is None:
            raise UsageError("this network has no head that gives boxes", hint="choose a model that does detection")
        if head.kind not in KINDS:
            raise unknown_name("kind of head", head.kind, KINDS)
        return OutputContract("boxes", classes=names, head=head)

    def loss(self, outputs: torch.Tensor, batch: Batch, info: DataInfo, output: OutputContract) -> torch.Tensor:
        """The loss of the head's kind (:mod:`bitfront.tasks.detection_loss`); images without objects are fine.

        ``outputs`` is raw ``(b, k, n)``. Raises UsageError without boxes or a head, DataError for boxes of classes that
        are no objects.
        """
        if len(batch.boxes) != len(batch.images) or len(batch.labels) != len(batch.images):
            raise UsageError("detection trains on boxes, and this batch has none", hint="use data that has boxes")
        labels = [info.among_objects(own) for own in batch.labels]
        for name, own in zip(batch.ids, labels, strict=False):
            if (own < 0).any():
                raise DataError(
                    f"{name}: a box of a class that is none of the objects of '{info.name}'",
                    hint="use data without boxes of the background",
                )
        gains = Gains(self.box_gain, self.objectness_gain, self.class_gain, self.balance, self.anchor_ratio)
        size = (batch.images.shape[2], batch.images.shape[3])
        return detection_loss(outputs, batch.boxes, labels, size=size, output=output, gains=gains)

    def predict(
        self, outputs: NDArray[Any], output: OutputContract, sizes: Sequence[tuple[int, int]], fed: InputContract
    ) -> list[Prediction]:
        """Read boxes off raw outputs ``(b, k, n)``, in pixels of the images. Boxes wholly
        outside are left out. Raises DataError for outputs that do not fit the head.
        """
        found = candidates(outputs, output, fed, self.confidence, self.multi_label)
        suppressed = output.head is not None and output.head.kind == "boxes"
        return [self._prediction(one, size, fed, suppressed) for one, size in zip(found, sizes, strict=True)]

    def meter(self, info: DataInfo, score: str = "") -> DetectionMeter:
        """Return a fresh meter. Raises UsageError for unknown scores."""
        return DetectionMeter(info, score, bootstrap=self.bootstrap, seed=self.seed)

    def scorer(
        self, samples: Sequence[Sample], output: OutputContract, info: DataInfo, score: str, fed: InputContract
    ) -> DetectionScorer:
        """Return a scorer of raw outputs for these samples. Raises UsageError for unknown scores, DataError."""
        return DetectionScorer(
            samples, info, score, read=lambda outputs, sizes: self.predict(outputs, output, sizes, fed)
        )

    def draw(self, image: NDArray[np.uint8], prediction: Prediction, info: DataInfo) -> NDArray[np.uint8]:
        """Return the image, enlarged when it is tiny, with a frame, a name and a score for every box."""
        boxes, labels, scores = prediction.boxes, prediction.labels, prediction.scores
        if boxes is None or labels is None:
            return image
        known, palette = np.array(info.objects), images.colors(info)
        at = known[np.clip(labels, 0, len(known) - 1)]
        shown = [""] * len(at) if scores is None else [f" {100 * float(s):.0f} %" for s in scores]
        names = [info.classes[i] + score for i, score in zip(at, shown, strict=True)]
        return draw_boxes(image, boxes, names, [(int(r), int(g), int(b)) for r, g, b in palette[at]])

    def _prediction(self, found: Candidates, size: tuple[int, int], fed: InputContract, suppressed: bool) -> Prediction:
        if suppressed:
            kept = np.argsort(-found.scores, kind="stable")[: self.max_boxes]
        else:
            labels = None if self.class_agnostic else found.labels
            kept = nms(found.boxes, found.scores, labels, self.iou, self.max_boxes)
        boxes = restored(found.boxes[kept], size, fed)
        inside = areas(boxes) > 0
        kept = kept[inside]
        return Prediction(boxes=boxes[inside], labels=found.labels[kept], scores=found.scores[kept])
