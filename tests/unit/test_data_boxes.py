"""Readers of boxes: text files beside images, and what labelling tools export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bitfront.augment import AUGMENTS
from bitfront.batches import evaluation, training
from bitfront.contracts import InputContract
from bitfront.data.annotated import Annotated
from bitfront.data.box_lines import read_boxes
from bitfront.errors import BitfrontError, DataError, LabelError, UsageError
from bitfront.images import png
from bitfront.scan import examine
from bitfront.sources import open_data
from bitfront.verbs.data import convert

CLASSES = ("ant", "bee")


def picture(path: Path, size: tuple[int, int] = (40, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.full((*size, 3), 90, np.uint8)))


def lines(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    return path


def described(root: Path, text: str = "names: [ant, bee]\n") -> Path:
    for part, rows in (("train", ["0 .5 .5 .25 .5\n1 .1 .2 .2 .4\n", ""]), ("val", ["1 .5 .5 1 1\n"])):
        for i, row in enumerate(rows):
            picture(root / part / f"images/{i}.png")
            (root / part / "labels").mkdir(exist_ok=True)
            if row:
                (root / part / f"labels/{i}.txt").write_text(row, encoding="utf-8")
    (root / "data.yaml").write_text(f"train: train/images\nval: val/images\n{text}", encoding="utf-8")
    return root / "data.yaml"


def test_lines_become_boxes_in_pixels(tmp_path: Path) -> None:
    text = "0 0.5 0.5 0.25 0.5\n\n1 1.0 0.5 0.5 1\n1 .1 .1 .3 .1 .3 .6\n0 .5 .5 0 .1\n"
    boxes, labels = read_boxes(lines(tmp_path, text), (40, 80), CLASSES)
    np.testing.assert_allclose(boxes, [[30, 10, 50, 30], [60, 0, 80, 40], [8, 4, 24, 24]], atol=1e-4)
    assert labels.tolist() == [0, 1, 1]
    assert labels.dtype == np.int64
    assert boxes.dtype == np.float32
    assert read_boxes(None, (40, 80), CLASSES)[0].shape == (0, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 .5 .5 .1 .1\n2 .5 .5 .1 .1\n", r"a\.txt:2: class 2, but there are 2 classes"),
        ("0.5 .5 .5 .1 .1\n", "class 0.5"),
        ("0 .5 .5 .1\n", "has 4 numbers"),
        ("0 120 40 30 20\n", "120 is no share"),
        ("0 .5 .5 nan .1\n", "is no share"),
        ("ant .5 .5 .1 .1\n", "not all numbers"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_boxes(lines(tmp_path, text), (40, 80), CLASSES)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a\.txt: cannot be read"):
        read_boxes(tmp_path / "a.txt", (40, 80), CLASSES)


def test_a_yaml_with_boxes_is_for_detection(tmp_path: Path) -> None:
    data = open_data(str(described(tmp_path)))
    assert data.info.tasks == ("detection",)
    assert data.info.augment == "detection"
    a, b = data.part("train")
    assert (a.mask, b.mask) == (None, None)
    np.testing.assert_allclose(a.boxes, [[30, 10, 50, 30], [0, 0, 16, 16]], atol=1e-4)
    assert b.boxes is not None
    assert len(b.boxes) == 0
    assert examine(data, ("train",)).parts["train"].boxes == {"ant": 1, "bee": 1}


def test_changed_boxes_change_the_data(tmp_path: Path) -> None:
    path = described(tmp_path)
    before = open_data(str(path)).digest("train")
    cache = tmp_path / "cache"
    assert not examine(open_data(str(path)), ("train",), cache).faults
    (tmp_path / "train/labels/0.txt").write_text("7 .5 .5 .2 .2\n", encoding="utf-8")
    after = open_data(str(path))
    assert after.digest("train") != before
    assert "class 7" in examine(after, ("train",), cache).faults[0].reason


def test_boxes_and_masks_may_stand_together(tmp_path: Path) -> None:
    path = described(tmp_path)
    for part, n in (("train", 2), ("val", 1)):
        for i in range(n):
            (tmp_path / part / "masks").mkdir(exist_ok=True)
            (tmp_path / part / f"masks/{i}.png").write_bytes(png(np.ones((40, 80), np.uint8)))
    data = open_data(str(path))
    assert data.info.tasks == ("segmentation", "detection")
    sample = data.part("train")[0]
    assert sample.mask is not None
    assert sample.boxes is not None


def test_one_class_is_enough_for_boxes_and_coco_names_its_own(tmp_path: Path) -> None:
    assert open_data(str(described(tmp_path / "a", "names: coco\n"))).info.classes[79] == "toothbrush"
    (tmp_path / "b").mkdir()
    path = described(tmp_path / "b", "names: [ant]\n")
    assert open_data(str(path)).info.classes == ("ant",)
    with pytest.raises(LabelError, match="class 1, but there are 1 classes"):
        open_data(str(path)).part("train")[0]


def test_missing_boxes_are_an_error(tmp_path: Path) -> None:
    path = described(tmp_path)
    for file in (tmp_path / "val/labels").glob("*"):
        file.rename(file.with_name("other.txt"))
    with pytest.raises(DataError, match=r"none of the 1 images in .* has boxes there"):
        open_data(str(path))


def coco(root: Path) -> Path:
    for i in range(10):
        picture(root / f"images/{i}.png")
    content = {
        "images": [{"id": 7 * i, "file_name": f"{i}.png", "height": 40, "width": 80} for i in range(10)],
        "categories": [{"id": 90, "name": "bee"}, {"id": 3, "name": "ant"}],
        "annotations": [
            {"id": i, "image_id": 7 * i, "category_id": (3, 90)[i % 2], "bbox": [10, 5, 20, 10], "iscrowd": i // 9,
             "area": 200, **({"segmentation": {"size": [40, 80], "counts": [0, 3200]}} if i == 9 else {})}
            for i in range(10)
        ],
    }  # fmt: skip
    (root / "annotations").mkdir()
    (root / "annotations/instances.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def test_coco_files_are_read_where_they_lie(tmp_path: Path) -> None:
    data = open_data(str(coco(tmp_path)))
    assert isinstance(data, Annotated)
    assert data.info.classes == ("ant", "bee")  # by their ids, whatever these are
    assert [len(data.part(p)) for p in data.parts()] == [8, 1, 1]
    samples = {s.id: s for name in data.parts() for s in data.part(name)}
    assert len(samples) == 10
    np.testing.assert_array_equal(samples["images/1.png"].boxes, [[10, 5, 30, 15]])
    assert samples["images/1.png"].labels.tolist() == [1]
    assert samples["images/9.png"].ignored.tolist() == [True]
    again = open_data(str(tmp_path))
    assert [again.digest(p) for p in again.parts()] == [data.digest(p) for p in data.parts()]


def test_exports_of_label_studio_are_read_as_a_file_or_its_folder(tmp_path: Path) -> None:
    value = {"x": 25, "y": 50, "width": 50, "height": 25, "rotation": 0, "rectanglelabels": ["ant"]}
    size = {"original_width": 80, "original_height": 40}
    tasks = [
        {
            "id": i,
            "data": {"image": f"/data/upload/1/0a1b2c3d-{i}.png"},
            "annotations": [{"result": [{"type": "rectanglelabels", **size, "value": value}]}],
        }
        for i in range(10)
    ]
    for i in range(10):
        picture(tmp_path / f"images/{i}.png")
    (tmp_path / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
    for place in (tmp_path / "export.json", tmp_path):
        data = open_data(str(place))
        assert data.info.classes == ("ant",)
        np.testing.assert_allclose(data.part("val")[0].boxes, [[20, 20, 60, 30]])
    with pytest.raises(DataError, match="no such file"):
        open_data(str(tmp_path / "gone.json"))


def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    coco(tmp_path)
    picture(tmp_path / "images/0.png", (80, 40))
    data = Annotated.open(tmp_path, val=0)
    with pytest.raises(LabelError, match=r"was annotated at 80x40, .* is 40x80"):
        data.part("train")[0]


def test_options_are_checked(tmp_path: Path) -> None:
    coco(tmp_path)
    assert Annotated.open(tmp_path, classes=("bee",)).info.classes == ("bee",)
    with pytest.raises(UsageError, match="no object has the label 'wasp'"):
        Annotated.open(tmp_path, classes=("wasp",))
    with pytest.raises(UsageError, match="val must be a share"):
        Annotated.open(tmp_path, val=1.5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BitfrontError, match="holds no annotations"):
        Annotated.open(tmp_path / "empty")


def test_boxes_survive_a_conversion(tmp_path: Path) -> None:
    made = convert(open_data(str(coco(tmp_path / "a"))), tmp_path / "b")
    data, back = open_data(str(tmp_path / "a")), open_data(str(made.path))
    for part in data.parts():
        for a, b in zip(data.part(part), back.part(part), strict=True):
            np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-4)
            assert a.labels.tolist() == b.labels.tolist()


def test_what_does_not_count_is_not_learned(tmp_path: Path) -> None:
    part = Annotated.open(coco(tmp_path), val=0).part("train")
    contract = InputContract(32, 32, fit="letterbox")
    batch, samples = next(evaluation(part, contract, 10))
    assert [len(b) for b in batch.boxes] == [1] * 9 + [0]
    assert samples[9].boxes is not None
    assert len(samples[9].boxes) == 1
    np.testing.assert_allclose(batch.boxes[0], [[4, 10, 12, 14]], atol=1e-5)
    assert sum(len(b) for b in next(training(part, contract, 10, np.random.default_rng(0))).boxes) == 9


def test_a_mosaic_moves_boxes_with_their_pixels(tmp_path: Path) -> None:
    """Every picture is black but for its object; so in every mosaic the bright pixels are those in boxes."""
    for i in range(6):
        canvas = np.zeros((40, 80, 3), np.uint8)
        canvas[15:25, 20 + 4 * i : 32 + 4 * i] = 255
        (tmp_path / "train/images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train/labels").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"train/images/{i}.png").write_bytes(png(canvas))
        text = f"0 {(26 + 4 * i) / 80} 0.5 {12 / 80} 0.25\n"
        (tmp_path / f"train/labels/{i}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "data.yaml").write_text("train: train/images\nnames: [a]\n", encoding="utf-8")
    part = open_data(str(tmp_path)).part("train")
    contract = InputContract(64, 64, mean=(0.0,) * 3, std=(1.0,) * 3, fit="letterbox", resize="nearest")
    augment = type(AUGMENTS["detection"])(flip=0.5, mosaic=1.0)
    found = 0
    for batch in training(part, contract, 6, np.random.default_rng(0), augment):
        for image, boxes in zip(batch.images, batch.boxes, strict=True):
            inside = np.zeros((64, 64), bool)
            for x1, y1, x2, y2 in np.rint(boxes).astype(int):
                inside[y1:y2, x1:x2] = True
                found += 1
            assert ((image[0] > 0.5) != inside).mean() < 0.04  # rounding, and slivers of objects that have no box
    assert found > 6
