"""Average precision by the COCO evaluation of faster-coco-eval."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.tasks.detection_boxes import Truth
from bitfront.tasks.detection_matching import MAX_FOUND, THRESHOLDS, Found

__all__ = ["coco_average_precision"]

_LOG = logging.getLogger(__name__)


def coco_average_precision(truths: Sequence[Truth], found: Sequence[Found], n_classes: int) -> NDArray[np.float64]:
    """Return ``(10, K)``: the average precision at THRESHOLDS of each class; NaN for classes without true boxes.

    ``truths`` and ``found`` hold the boxes of each image; ignored ones are crowds.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    images = [{"id": i + 1, "height": 1, "width": 1} for i in range(len(truths))]
    categories = [{"id": c + 1, "name": str(c)} for c in range(n_classes)]
    annotations = [
        _annotation(i, box, label, iscrowd=int(crowd))
        for i, truth in enumerate(truths)
        for box, label, crowd in zip(*truth, strict=True)
    ]
    detections = [
        _annotation(i, box, label, score=float(score))
        for i, (boxes, scores, labels) in enumerate(found)
        for box, label, score in zip(boxes, labels, scores, strict=True)
    ]
    true, guess = (
        COCO({"images": images, "categories": categories, "annotations": rows}, print_function=_LOG.debug)
        for rows in (_numbered(annotations), _numbered(detections))
    )
    judge = COCOeval_faster(true, guess, iouType="bbox", print_function=_LOG.debug)
    judge.params.iouThrs, judge.params.maxDets = THRESHOLDS, [MAX_FOUND]
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    judge.accumulate()
    precision = np.asarray(judge.eval["precision"], np.float64).reshape(len(THRESHOLDS), -1, n_classes)
    return np.where(precision.min(axis=1) < 0, np.nan, precision.mean(axis=1))


def _numbered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "id": n} for n, row in enumerate(rows, 1)]


def _annotation(image: int, box: NDArray[Any], label: int, **more: float) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(v) for v in box)
    sides = max(0.0, x2 - x1), max(0.0, y2 - y1)
    return {
        "image_id": image + 1,
        "category_id": int(label) + 1,
        "bbox": [x1, y1, *sides],
        "area": sides[0] * sides[1],
        "iscrowd": 0,
        **more,
    }
