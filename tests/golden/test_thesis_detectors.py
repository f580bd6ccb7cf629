"""Thesis 004's own detector files in the detector: what they find on YOLOv5's picture of a bus."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import bitfront

pytestmark = pytest.mark.shared
PICTURE = "data/coco8/bus.jpg"


def detections(shared: Path, name: str) -> list[dict[str, object]]:
    found = bitfront.predict(str(shared / "models/yolov5n" / name), shared / PICTURE)
    assert found.report["thresholds"]["confidence"] == 0.25
    return list(found.report["predictions"][0]["detections"])


@pytest.mark.parametrize(
    ("name", "persons"),
    [("yolov5n.tflite", 4), ("yolov5n_quant.tflite", 3), ("yolov5n_quant.onnx", 4), ("yolov5n_quant_320.onnx", 3)],
)
def test_files_of_the_thesis_find_the_persons_and_the_bus(name: str, persons: int, shared: Path) -> None:
    if name.endswith(".tflite"):
        pytest.importorskip("ai_edge_litert")
    found = detections(shared, name)
    assert sorted(str(d["label"]) for d in found) == ["bus"] + ["person"] * persons
    rows = list(csv.DictReader((shared / "golden/yolov5n_detections_oracle.csv").read_text().splitlines()))
    assert json.dumps(found)
    for row in (row for row in rows if row["model"] == name):  # dynamic quantization differs from CPU to CPU
        box = np.array([float(row[key]) for key in ("x1", "y1", "x2", "y2")])
        nearest = min(found, key=lambda d: np.abs(np.array(d["box"]) - box).max())
        assert nearest["label"] == ("person" if row["class"] == "0" else "bus")
        assert np.abs(np.array(nearest["box"]) - box).max() < 10
        assert nearest["score"] == pytest.approx(float(row["score"]), abs=0.05)


def test_published_weights_by_name(shared: Path) -> None:
    found = bitfront.predict(
        "yolo_v5n", shared / PICTURE, weights=shared / "models/yolov5n/yolov5n_coco_fp16.safetensors"
    )
    assert sorted(d["label"] for d in found.report["predictions"][0]["detections"]) == ["bus"] + ["person"] * 4
    assert found.report["model"]["size_bytes"] == 3795428
