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
    true = _annotations([(boxes, labels, ignored.astype(int)) for boxes, labels, ignored in truths], "iscrowd")
    guess = _annotations([(boxes, labels, scores) for boxes, scores, labels in found], "score")
    judge = COCOeval_faster(
        *(
            COCO({"images": images, "categories": categories, "annotations": rows}, print_function=_LOG.debug)
            for rows in (true, guess)
        ),
        iouType="bbox",
        print_function=_LOG.debug,
    )
    judge.params.iouThrs, judge.params.maxDets = THRESHOLDS, [MAX_FOUND]
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    judge.accumulate()
    precision = np.asarray(judge.eval["precision"], np.float64).reshape(len(THRESHOLDS), -1, n_classes)
    return np.where(precision.min(axis=1) < 0, np.nan, precision.mean(axis=1))


def _annotations(images: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]], last: str) -> list[dict[str, Any]]:
    """COCO's rows of the boxes, the classes and one more number, called ``last``, of each image."""
    boxes = np.concatenate([own.astype(np.float64).reshape(-1, 4) for own, _, _ in images])
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    columns = (
        np.repeat(np.arange(len(images)), [len(own) for own, _, _ in images]) + 1,
        np.concatenate([labels for _, labels, _ in images]) + 1,
        np.concatenate([boxes[:, :2], sides], axis=1),
        sides.prod(axis=1),
        np.concatenate([more for _, _, more in images]),
    )
    return [
        {"id": n, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": 0, last: more}
        for n, (image, label, box, area, more) in enumerate(zip(*(c.tolist() for c in columns), strict=True), 1)
    ]
