"""Anchors of published detectors, which neither their files nor their outputs hold."""

from __future__ import annotations

__all__ = ["YOLO_V2_COCO", "YOLO_V2_STRIDE", "YOLO_V2_VOC"]

YOLO_V2_STRIDE = 32
YOLO_V2_COCO = ((0.57273, 0.677385), (1.87446, 2.06253), (3.33843, 5.47434), (7.88282, 3.52778), (9.77052, 9.16828))
YOLO_V2_VOC = ((1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52))
"""Width and height in cells: YOLOv2 and its tiny form as trained on COCO, the tiny form as trained on VOC."""
