"""YOLOv5n against files of the original network: the same boxes with its weights, the same objects on its picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from bitfront.contracts import Head, InputContract, OutputContract, Prediction
from bitfront.decode import read_image
from bitfront.images import preprocess
from bitfront.models.yolo_v5 import EPSILON, STRIDES, YoloV5n
from bitfront.tasks.detection import Detection
from bitfront.train.checkpoints import load_into
from bitfront.weights import arrays

pytestmark = pytest.mark.shared
CLASSES = tuple(map(str, range(80)))
FILE_HEAD = Head("decoded", layout="bnk", unit=0.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def fed(size: int) -> InputContract:
    return InputContract(size, size, mean=(0.0,) * 3, std=(1.0,) * 3, fit="letterbox", resize="bilinear_plain")


def picture(shared: Path) -> np.ndarray:
    return read_image(shared / "data/coco8/bus.jpg")


def boxes(outputs: np.ndarray, head: Head, shape: tuple[int, ...], size: int) -> Prediction:
    output = OutputContract("boxes", classes=CLASSES, head=head)
    task = Detection(confidence=0.25, iou=0.45)
    (found,) = task.predict(outputs, output, [(shape[0], shape[1])], fed(size))
    return found


def computed(net: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net.eval()(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize(("size", "persons"), [(640, 4), (320, 3)])
def test_published_weights_find_the_persons_and_the_bus(size: int, persons: int, shared: Path) -> None:
    net, image = YoloV5n().build(), picture(shared)
    load_into(net, arrays(shared / "models/yolov5n/yolov5n_coco_fp16.safetensors", YoloV5n))
    found = boxes(computed(net, preprocess(image, fed(size))[None]), YoloV5n().head, image.shape, size)
    assert sorted(found.labels.tolist()) == [0] * persons + [5]


def folded(shared: Path, constants: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of thesis 004's files under our keys, each in the norm's place what was folded into a bias.

    Names and biases come from the quantized ONNX file, weights from the float16 one, found by their likeness.
    """
    model = onnx.load(shared / "models/yolov5n/yolov5n_quant.onnx")
    known = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    state: dict[str, np.ndarray] = {}
    for name in (key.removesuffix("_quantized") for key in known if key.endswith("weight_quantized")):
        scale, zero = (known[f"{name}_{what}"].astype(np.float32).reshape(-1, 1, 1, 1) for what in SCALES)
        coarse = (known[f"{name}_quantized"].astype(np.float32) - zero) * scale
        alike = [c for c in constants if c.shape == coarse.shape]
        weight = max(alike, key=lambda c: np.corrcoef(c.ravel(), coarse.ravel())[0, 1])
        ours, bias = YoloV5n.rename(name), known[name.replace("weight", "bias")]
        state[ours] = weight
        if ours.startswith("predict"):
            state[ours.replace("weight", "bias")] = bias
            continue
        ones, norm = np.ones_like(bias), ours.replace("conv.weight", "bn.")
        state |= {f"{norm}weight": ones, f"{norm}bias": bias, f"{norm}running_mean": 0 * ones}
        state[f"{norm}running_var"] = (1 - EPSILON) * ones
    return state


SCALES = ("scale", "zero_point")


def test_with_the_weights_of_a_file_it_computes_what_the_file_does(shared: Path) -> None:
    """Every one of 25200 places, scores and boxes; the file is in float16."""
    litert: Any = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(str(shared / "models/yolov5n/yolov5n.tflite"))
    interpreter.allocate_tensors()
    details = [t for t in interpreter.get_tensor_details() if t["dtype"] == np.float16 and len(t["shape"]) == 4]
    constants = [interpreter.get_tensor(t["index"]).astype(np.float32).transpose(0, 3, 1, 2) for t in details]
    net, image = YoloV5n().build(), picture(shared)
    load_into(net, folded(shared, constants))
    x = preprocess(image, fed(640))[None]
    raw = computed(net, x)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    interpreter.invoke()
    theirs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    scores, start = 1 / (1 + np.exp(-raw[0, 4:].T)), 0
    for cells in (640 // stride for stride in STRIDES):  # theirs are ordered by level, anchor, row, column
        block = slice(start, start + 3 * cells**2)
        place = theirs[0, block, 4:].reshape(3, cells**2, 81).transpose(1, 0, 2).reshape(-1, 81)
        assert np.abs(place - scores[block]).max() < 0.01
        start = block.stop
    ours, other = (boxes(y, head, image.shape, 640) for y, head in ((raw, YoloV5n().head), (theirs, FILE_HEAD)))
    assert ours.labels.tolist() == other.labels.tolist()
    assert np.abs(ours.boxes - other.boxes).max() < 0.5
    assert np.abs(ours.scores - other.scores).max() < 0.001
    wanted = csv.DictReader((shared / "golden/yolov5n_detections_oracle.csv").read_text().splitlines())
    for row in (row for row in wanted if row["size"] == "640"):  # of the dynamically quantized file: wider margins
        box = np.array([float(row[key]) for key in ("x1", "y1", "x2", "y2")])
        distance = np.abs(ours.boxes - box).max(axis=1)
        nearest = int(distance.argmin())
        assert ours.labels[nearest] == int(row["class"])
        assert distance[nearest] < 15
        assert ours.scores[nearest] == pytest.approx(float(row["score"]), abs=0.1)
