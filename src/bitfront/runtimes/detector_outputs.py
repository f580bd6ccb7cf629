"""Which detector's outputs a file has, by their shapes and numbers, and what is to be known to read them.

Known are the exports of YOLOv5 (one list of decoded places, those of strides 8, 16 and 32), the maps of YOLOv2 (five
anchors a cell at stride 32), and the four outputs of TensorFlow's detectors, which suppress by themselves: boxes,
classes, scores, count. Not a plug-in itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.anchors import YOLO_V2_COCO, YOLO_V2_STRIDE, YOLO_V2_VOC
from bitfront.class_names import COCO_CLASSES, COCO_IDS, VOC_CLASSES, usual_names
from bitfront.contracts import DataInfo, Head, OutputContract
from bitfront.errors import DataError, unknown_name

__all__ = ["DECODERS", "FourOutputs", "Read", "four_outputs", "joined", "recognise"]

DECODERS = ("yolo_v5", "yolo_v2", "ssd", "decoded", "boxes")
"""What a user may call a file's outputs."""
YOLO_V5_STRIDES, YOLO_V5_ANCHORS = (8, 16, 32), 3
BOX = 5
"""Numbers of a place besides its classes: x, y, w, h, objectness."""
LARGEST_SHARE = 2.0
"""Coordinates that never exceed it are shares of the input; those of pixels do at some place of every image."""
SSD_SIZE = (300, 300)
TOLERANCE = 0.05
"""How far from 0..1 a score may be that was stored in 8 bits."""


@dataclass(frozen=True, slots=True)
class Read:
    """How to read and feed a detector's file."""

    output: OutputContract
    note: str
    preprocess: str = "unit"
    """How such networks are usually fed."""
    fit: str = "letterbox"
    resize: str = "bilinear"
    size: tuple[int, int] = (640, 640)
    """Where the file leaves it open."""


@dataclass(frozen=True, slots=True)
class FourOutputs:
    """Positions of the four outputs of a detector that suppresses by itself."""

    boxes: int
    classes: int
    scores: int
    count: int
    first_id: int
    """Number of the first class."""

    @property
    def places(self) -> tuple[int, int, int, int]:
        """All four, in this order."""
        return self.boxes, self.classes, self.scores, self.count


def four_outputs(names: Sequence[str]) -> FourOutputs | None:
    """Find the four outputs by their names, as TensorFlow's exporters give them; ``None`` for other files."""
    if len(names) == 4 and all("Detection_PostProcess" in name for name in names):
        return FourOutputs(0, 1, 2, 3, first_id=0)
    plain = [name.partition(":")[0].rpartition("/")[2] for name in names]
    wanted = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
    if all(name in plain for name in wanted):
        boxes, classes, scores, count = (plain.index(name) for name in wanted)
        return FourOutputs(boxes, classes, scores, count, first_id=1)
    return None


def joined(boxes: NDArray[Any], classes: NDArray[Any], scores: NDArray[Any], count: NDArray[Any]) -> NDArray[Any]:
    """Return the four outputs as one, ``(b, 6, n)``: x1 y1 x2 y2 score class; beyond ``count`` the score is 0.

    ``boxes`` are ``(b, n, 4)`` y1 x1 y2 x2, classes and scores ``(b, n)``, ``count`` ``(b,)``.
    """
    there = np.arange(scores.shape[1]) < count.reshape(-1, 1)
    columns = [boxes[..., 1], boxes[..., 0], boxes[..., 3], boxes[..., 2], np.where(there, scores, 0), classes]
    return np.stack([column.astype(np.float32) for column in columns], axis=1)


def recognise(
    names: Sequence[str],
    values: NDArray[Any],
    size: tuple[int, int],
    *,
    decoder: str = "",
    info: DataInfo | None = None,
    path: str = "",
) -> Read | None:
    """Return how to read a file's outputs as boxes; ``None`` where nothing says that they are.

    Args:
        names: of all outputs, in order.
        values: what a session gives for a black image: the first output, or the four of a detector as one.
        size: height and width of the input.
        decoder: one of :data:`DECODERS`, where the shapes do not say.
        info: names the classes, where their number is right.
        path: the file, for messages.

    Raises:
        UsageError: an unknown decoder.
        DataError: outputs that are not what ``decoder`` says.
    """
    if decoder and decoder not in DECODERS:
        raise unknown_name("decoder", decoder, DECODERS)
    four = four_outputs(names)
    found = None
    if four is not None and decoder in ("", "ssd"):
        found = _suppressed(four, info)
    elif decoder in ("", "yolo_v2") and values.ndim == 4:
        found = _maps(values.shape, size, decoder, info)
    elif decoder == "boxes" and values.ndim == 3:
        found = _boxes(values, info)
    elif decoder in ("", "yolo_v5", "decoded") and values.ndim == 3 and values.dtype.kind == "f":
        found = _list(values, size, decoder, info)
    if found is None and decoder:
        raise DataError(
            f"'{path}' gives {' x '.join(map(str, values.shape))}, which '{decoder}' does not read",
            hint="yolo_v5, decoded: (1, n, 5 + classes); yolo_v2: (1, 5 (5 + classes), h, w); boxes: (1, n, 6); ssd: "
            "TensorFlow's four outputs",
        )
    return found


# --- kinds -----------------------------------------------------------------------------------------------------------
def _suppressed(four: FourOutputs, info: DataInfo | None) -> Read:
    names = _objects(info) or COCO_CLASSES
    counted = COCO_IDS if len(names) == len(COCO_IDS) else tuple(range(1, len(names) + 1))
    ids = tuple(i - 1 + four.first_id for i in counted)
    head = Head("boxes", unit=0.0, ids=ids)
    note = "the four outputs of TensorFlow's detectors: boxes after suppression"
    return Read(OutputContract("boxes", classes=names, head=head), note, "signed", "stretch", size=SSD_SIZE)


def _maps(shape: Sequence[int], size: tuple[int, int], decoder: str, info: DataInfo | None) -> Read | None:
    """Maps of YOLOv2; without being told, only those for the classes of VOC and COCO."""
    n_anchors = len(YOLO_V2_VOC)
    n_classes, rest = divmod(shape[1], n_anchors)
    n_classes -= BOX
    usual = (len(VOC_CLASSES), len(COCO_CLASSES))
    if rest or n_classes < 1 or tuple(shape[2:]) != tuple(-(-side // YOLO_V2_STRIDE) for side in size):
        return None
    if not decoder and n_classes not in usual:
        return None
    cells = YOLO_V2_COCO if n_classes == len(COCO_CLASSES) else YOLO_V2_VOC
    anchors = tuple((w * YOLO_V2_STRIDE, h * YOLO_V2_STRIDE) for w, h in cells)
    head = Head("yolo_v2", (YOLO_V2_STRIDE,), (anchors,), layout="maps")
    note = f"maps of YOLOv2, {n_classes} classes, anchors of {'COCO' if cells == YOLO_V2_COCO else 'VOC'}"
    return Read(_output(head, n_classes, info), note, size=(416, 416))


def _list(values: NDArray[Any], size: tuple[int, int], decoder: str, info: DataInfo | None) -> Read | None:
    """Decoded places ``(b, n, 5 + K)`` or ``(b, 5 + K, n)``; without being told, as many as YOLOv5 has."""
    n = YOLO_V5_ANCHORS * sum((size[0] // s) * (size[1] // s) for s in YOLO_V5_STRIDES)
    whole = not any(side % YOLO_V5_STRIDES[-1] for side in size)
    if whole and n in values.shape[1:]:
        first = values.shape[1] == n
    elif decoder == "decoded":
        first = values.shape[1] > values.shape[2]
    else:
        return None
    places = values[0] if first else values[0].T
    n_classes = places.shape[1] - BOX
    scores = places[:, 4:]
    if n_classes < 1 or scores.min() < -TOLERANCE or scores.max() > 1 + TOLERANCE:  # raw numbers
        return None
    unit = 0.0 if np.abs(places[:, :4]).max() <= LARGEST_SHARE else 1.0
    head = Head("decoded", layout="bnk" if first else "bkn", unit=unit)
    what = "YOLOv5's places" if len(places) == n else f"{len(places)} places"
    note = f"{what}, decoded, {n_classes} classes, in {'pixels' if unit else 'shares of the input'}"
    return Read(_output(head, n_classes, info), note, resize="bilinear_plain" if len(places) == n else "bilinear")


def _boxes(values: NDArray[Any], info: DataInfo | None) -> Read | None:
    """Boxes after suppression ``(b, n, 6)`` or ``(b, 6, n)``: x1 y1 x2 y2 score class."""
    if 6 not in values.shape[1:]:
        return None
    first = values.shape[2] == 6
    corners = values[0, :, :4] if first else values[0, :4]
    unit = 0.0 if corners.size and 0 < np.abs(corners).max() <= LARGEST_SHARE else 1.0
    head = Head("boxes", layout="bnk" if first else "bkn", unit=unit)
    names = _objects(info) or COCO_CLASSES
    note = f"boxes after suppression, in {'pixels' if unit else 'shares of the input'}"
    return Read(OutputContract("boxes", classes=names, head=head), note)


# --- classes ---------------------------------------------------------------------------------------------------------
def _output(head: Head, n_classes: int, info: DataInfo | None) -> OutputContract:
    names = _objects(info)
    return OutputContract("boxes", classes=names if len(names) == n_classes else usual_names(n_classes), head=head)


def _objects(info: DataInfo | None) -> tuple[str, ...]:
    return tuple(info.classes[i] for i in info.objects) if info else ()
