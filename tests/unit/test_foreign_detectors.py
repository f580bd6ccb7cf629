"""Other people's detectors: recognised by their outputs, or read as they are told to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detector_cases import N_PLACES, SIZE, onnx_file, places, tflite_file

from bitfront.class_names import COCO_CLASSES, COCO_IDS, VOC_CLASSES, named_classes, usual_names
from bitfront.contracts import DataInfo
from bitfront.errors import DataError, UsageError
from bitfront.runtimes.detector_outputs import four_outputs, joined
from bitfront.verbs.answering import answered, with_thresholds
from bitfront.verbs.opening import Opened, open_both, open_session

FOUND = [(20.0, 30.0, 10.0, 20.0, 0.9, 2), (50.0, 40.0, 8.0, 6.0, 0.5, 0)]
BOXES = [[15.0, 20.0, 25.0, 40.0], [46.0, 37.0, 54.0, 43.0]]
NAMES = ("detection_boxes:0", "detection_classes:0", "detection_scores:0", "num_detections:0")


def ask(opened: Opened, size: tuple[int, int] = (SIZE, SIZE)) -> tuple[list[str], np.ndarray, list[float]]:
    session = open_session(opened.source)
    task = with_thresholds(opened.task, {"confidence": 0.25, "iou": 0.45})
    found, _ = answered(session, task, opened.source, np.zeros((*size, 3), np.uint8))
    session.close()
    assert found.boxes is not None
    assert found.labels is not None
    assert found.scores is not None
    return [opened.info.classes[i] for i in found.labels], found.boxes, [round(float(s), 3) for s in found.scores]


@pytest.mark.parametrize("unit", [1.0, 1 / SIZE])
@pytest.mark.parametrize("first", ["places", "numbers"])
def test_places_of_yolo_v5_in_pixels_and_in_shares(unit: float, first: str, tmp_path: Path) -> None:
    values = places(4, FOUND, unit)
    path = onnx_file(tmp_path / "m.onnx", {"output": values if first == "places" else values.transpose(0, 2, 1)})
    opened = open_both(str(path), None)
    fed = opened.source.input
    assert (opened.task.name, fed.fit, fed.mean, fed.std) == ("detection", "letterbox", (0.0,) * 3, (1.0,) * 3)
    names, boxes, scores = ask(opened)
    assert names == ["class_2", "class_0"]
    np.testing.assert_allclose(boxes, BOXES, atol=1e-3)
    assert scores == [0.9, 0.5]


def test_boxes_come_back_from_a_letterbox(tmp_path: Path) -> None:
    opened = open_both(str(onnx_file(tmp_path / "m.onnx", {"output": places(4, FOUND, 1.0)})), None)
    _, boxes, _ = ask(opened, (64, 128))  # half the size, 16 rows of border above
    np.testing.assert_allclose(boxes[0], [30, 8, 50, 48], atol=1e-3)


@pytest.mark.parametrize("unit", [1.0, 1 / SIZE])
def test_tflite_files_are_read_alike(unit: float, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    opened = open_both(str(tflite_file(tmp_path / "m.tflite", {"Identity": places(4, FOUND, unit)})), None)
    assert opened.source.input.std == (1.0,) * 3
    names, boxes, _ = ask(opened)
    assert names == ["class_2", "class_0"]
    np.testing.assert_allclose(boxes, BOXES, atol=1e-3)


def test_data_and_labels_name_the_classes(tmp_path: Path) -> None:
    path = str(onnx_file(tmp_path / "m.onnx", {"output": places(4, FOUND, 1.0)}))
    assert ask(open_both(path, None, labels="a,b, c ,d"))[0] == ["c", "a"]
    with pytest.raises(DataError, match=r"4 classes .*3 classes"):
        open_both(path, None, labels="a,b,c")
    coco = onnx_file(tmp_path / "coco.onnx", {"output": places(80, FOUND, 1.0)})
    assert open_both(str(coco), None).info.classes == COCO_CLASSES


def test_two_classes_are_two_objects(tmp_path: Path) -> None:
    opened = open_both(str(onnx_file(tmp_path / "m.onnx", {"output": places(2, FOUND[1:], 1.0)})), None)
    assert opened.info.objects == (0, 1)
    assert ask(opened)[0] == ["class_0"]


def test_maps_of_yolo_v2(tmp_path: Path) -> None:
    """Cell row 1, column 0, anchor 3 of VOC: all other objectness is low."""
    values = np.zeros((1, 5, 25, 2, 2), np.float32)
    values[:, :, 4] = -9
    values[0, 3, :, 1, 0] = [0, 0, -1, -1, 9] + [0] * 6 + [12] + [0] * 13
    values = values.reshape(1, 125, 2, 2)
    opened = open_both(str(onnx_file(tmp_path / "m.onnx", {"grid": values})), None)
    assert opened.info.classes == VOC_CLASSES
    names, boxes, scores = ask(opened)
    assert names == [VOC_CLASSES[6]]
    assert scores == [1.0]
    w, h = 9.42 * 32 * np.exp(-1), 5.11 * 32 * np.exp(-1)
    np.testing.assert_allclose(boxes[0], [0, 48 - h / 2, min(16 + w / 2, SIZE), SIZE], atol=1e-2)
    other = onnx_file(tmp_path / "k3.onnx", {"grid": np.zeros((1, 40, 2, 2), np.float32)})
    assert open_both(str(other), None).task.name == "segmentation"
    named = open_both(str(other), None, decoder="yolo_v2")
    assert len(named.source.output.classes) == 3


def test_networks_that_scale_pixels_are_fed_pixels(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", {"output": places(4, FOUND, 1.0)}, first="Mul")
    assert open_both(str(path), None).source.input.std == (pytest.approx(1 / 255),) * 3


def ssd_outputs(names: tuple[str, ...], first_id: int) -> dict[str, np.ndarray]:
    """A person, what COCO does not name (12), a toothbrush (90), and one beyond the count."""
    boxes = np.array([[[0.1, 0.2, 0.5, 0.4]] * 4], np.float32)
    classes = np.array([[1, 12, 90, 1]], np.float32) - 1 + first_id
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    return dict(zip(names, (boxes, classes, scores, np.array([3.0], np.float32)), strict=True))


def test_four_outputs_of_tensorflow(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "ssd.onnx", ssd_outputs(NAMES, 1), shape=("n", "h", "w", 3))
    opened = open_both(str(path), None)
    fed = opened.source.input
    assert (fed.height, fed.width, fed.fit, fed.dtype) == (300, 300, "stretch", "uint8")
    names, boxes, scores = ask(opened, (100, 200))
    assert names == ["person", "toothbrush"]
    assert scores == [0.9, 0.7]
    np.testing.assert_allclose(boxes[0], [40, 10, 80, 50], atol=1e-3)


def test_four_outputs_of_tflite(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    names = tuple(f"TFLite_Detection_PostProcess{tail}" for tail in ("", ":1", ":2", ":3"))
    opened = open_both(str(tflite_file(tmp_path / "ssd.tflite", ssd_outputs(names, 0))), None)
    assert ask(opened)[0] == ["person", "toothbrush"]


def test_four_outputs_in_any_order() -> None:
    found = four_outputs([f"Postprocessor/{name}" for name in reversed(NAMES)])
    assert found is not None
    assert found.places == (3, 2, 1, 0)
    assert four_outputs(["output", "350", "416", "482"]) is None


def test_joined_outputs_end_where_the_count_says() -> None:
    boxes = np.arange(16, dtype=np.float32).reshape(2, 2, 4)
    both = joined(boxes, np.ones((2, 2)), np.full((2, 2), 0.5), np.array([1, 2]))
    assert both.shape == (2, 6, 2)
    assert both[0, :, 0].tolist() == [1, 0, 3, 2, 0.5, 1]
    assert both[:, 4].tolist() == [[0.5, 0], [0.5, 0.5]]


def test_boxes_after_suppression_have_to_be_named(tmp_path: Path) -> None:
    values = np.array([[[10, 20, 30, 40, 0.8, 1], [0, 0, 9, 9, 0.1, 0]]], np.float32)
    path = str(onnx_file(tmp_path / "m.onnx", {"output": values}))
    with pytest.raises(DataError, match="neither a map nor a class"):
        open_both(path, None)
    names, boxes, _ = ask(open_both(path, None, decoder="boxes", labels="cat,dog"))
    assert names == ["dog"]
    np.testing.assert_allclose(boxes, [[10, 20, 30, 40]])


def test_decoded_places_of_any_number_have_to_be_named(tmp_path: Path) -> None:
    path = str(onnx_file(tmp_path / "m.onnx", {"output": places(4, FOUND, 1.0)[:, :40]}))
    assert ask(open_both(path, None, decoder="decoded"))[0] == ["class_2", "class_0"]


@pytest.mark.parametrize("decoder", ["yolo_v2", "ssd", "boxes"])
def test_a_wrong_decoder_says_so(decoder: str, tmp_path: Path) -> None:
    path = str(onnx_file(tmp_path / "m.onnx", {"output": places(4, FOUND, 1.0)}))
    with pytest.raises(DataError, match=f"1 x {N_PLACES} x 9, which '{decoder}' does not read"):
        open_both(path, None, decoder=decoder)
    with pytest.raises(UsageError, match="unknown decoder 'yolo'"):
        open_both(path, None, decoder="yolo")


def test_raw_numbers_are_no_places(tmp_path: Path) -> None:
    values = places(4, FOUND, 1.0)
    values[..., 4:] = 8 * values[..., 4:] - 4
    with pytest.raises(DataError, match="neither a map nor a class"):
        open_both(str(onnx_file(tmp_path / "m.onnx", {"output": values})), None)


def test_names_of_classes(tmp_path: Path) -> None:
    assert named_classes("COCO") == COCO_CLASSES
    assert len(named_classes("voc")) == 20
    path = tmp_path / "names.txt"
    path.write_text("cat\n\n dog \n", encoding="utf-8")
    assert named_classes(str(path)) == ("cat", "dog")
    assert usual_names(3) == ("class_0", "class_1", "class_2")
    for text, message in ((" , ", "names no class"), ("a,b,a", "'a' is there twice"), ("no/file.txt", "no file")):
        with pytest.raises(UsageError, match=message):
            named_classes(text)


def test_numbers_of_coco_belong_to_its_classes() -> None:
    assert dict(zip(COCO_CLASSES, COCO_IDS, strict=True))["stop sign"] == 13
    assert DataInfo("", COCO_CLASSES).objects == tuple(range(80))
