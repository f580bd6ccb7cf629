"""What every dataset of the catalogue promises, on a tiny example of each layout."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitfront.batches import calibration, evaluation, training
from bitfront.contracts import IGNORE, Dataset, InputContract
from bitfront.errors import BitfrontError, DataError, UsageError
from bitfront.record import from_json, to_json
from bitfront.registry import load, names
from bitfront.scan import Health, examine


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(path.as_posix().encode()))
    Image.fromarray(rng.integers(0, 256, (24, 36, 3)).astype(np.uint8)).save(path)


def mask(path: Path, values: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), (24, 36))).save(path)


def folder(root: Path) -> Path:
    for part in ("train", "val"):
        for i in range(3):
            image(root / part / f"images/{i}.jpg")
            mask(root / part / f"masks/{i}.png", [0, 1])
    return root


def camvid(root: Path) -> Path:
    image(root / "train/a.png")
    mask(root / "trainannot/a.png", [0, 3, 11])
    return root


def cityscapes(root: Path) -> Path:
    image(root / "leftImg8bit/train/x/x_0_leftImg8bit.png")
    mask(root / "gtFine/train/x/x_0_gtFine_labelIds.png", [0, 7, 33])
    return root


def voc(root: Path) -> Path:
    image(root / "JPEGImages/a.jpg")
    mask(root / "SegmentationClass/a.png", [0, 20, 255])
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("a\n", encoding="utf-8")
    return root


def ade20k(root: Path) -> Path:
    image(root / "images/training/a.jpg")
    mask(root / "annotations/training/a.png", [0, 1, 150])
    return root


def coco_stuff(root: Path) -> Path:
    image(root / "images/train2017/000000000001.jpg")
    mask(root / "stuffthingmaps/train2017/000000000001.png", [0, 89, 91, 181, 255])
    return root


def described(root: Path) -> Path:
    image(root / "pictures/images/a.jpg")
    mask(root / "pictures/labels/a.png", [0, 1, 255])
    text = "train: pictures/images\nmasks_dir: labels\nnames: [background, box]\n"
    (root / "data.yaml").write_text(text, encoding="utf-8")
    return root


def annotated(root: Path) -> Path:
    box = "<bndbox><xmin>2</xmin><ymin>1</ymin><xmax>5</xmax><ymax>4</ymax></bndbox>"
    for i in range(12):
        image(root / f"JPEGImages/{i}.jpg")
        thing = f"<object><name>{'ant' if i % 2 else 'bee'}</name><difficult>{i % 3 // 2}</difficult>{box}</object>"
        text = f"<annotation><filename>{i}.jpg</filename>{thing}</annotation>"
        (root / "Annotations").mkdir(parents=True, exist_ok=True)
        (root / f"Annotations/{i}.xml").write_text(text, encoding="utf-8")
    return root


def class_folder(root: Path) -> Path:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            for i in range(12 if part == "train" else 2):
                image(root / part / name / f"{i}.jpg")
    return root


def label_table(root: Path) -> Path:
    for i in range(24):
        image(root / f"pictures/{i}.jpg")
    rows = [f"pictures/{i}.jpg,{'cat' if i % 2 else 'dog'}" for i in range(24)]
    (root / "labels.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    return root


def mnist(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 40), ("t10k", 10)):
        images, labels = rng.integers(0, 256, (n, 6, 5), np.uint8), np.arange(n, dtype=np.uint8) % 10
        for what, array in (("images", images), ("labels", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            with gzip.open(root / f"{prefix}-{what}-idx{array.ndim}-ubyte.gz", "wb") as file:
                file.write(head + array.tobytes())
    return root


EXAMPLES: dict[str, Callable[[Path], Path | None]] = {
    "ade20k": ade20k,
    "annotated": annotated,
    "camvid": camvid,
    "class_folder": class_folder,
    "csv": label_table,
    "digits": lambda root: None,
    "mnist": mnist,
    "cityscapes": cityscapes,
    "coco_stuff": coco_stuff,
    "conveyor": lambda root: None,
    "folder": folder,
    "voc": voc,
    "yaml": described,
}
GENERAL = {"annotated", "folder", "class_folder", "csv"}
"""Layouts that others may look like."""
OPTIONS: dict[str, dict[str, Any]] = {"conveyor": {"size": 48, "n_train": 4, "n_val": 2, "n_test": 1}}
EACH = pytest.mark.parametrize("name", names("dataset"))


@pytest.fixture
def opened(name: str, tmp_path: Path) -> Dataset:
    assert name in EXAMPLES, f"add a tiny example of the layout '{name}' to EXAMPLES"
    dataset: Dataset = load("dataset", name).open(EXAMPLES[name](tmp_path), **OPTIONS.get(name, {}))
    return dataset


@EACH
def test_members(name: str, opened: Dataset) -> None:
    assert isinstance(opened, Dataset)
    info = opened.info
    assert info.classes
    assert len(set(info.classes)) == len(info.classes) < IGNORE
    assert set(info.tasks) <= {"segmentation", "detection", "classification"}
    assert len(info.palette) in (0, len(info.classes))
    assert info.background is None or 0 <= info.background < len(info.classes)
    assert opened.parts()
    assert set(opened.parts()) <= {"train", "val", "test"}


@EACH
def test_samples(name: str, opened: Dataset) -> None:
    for part_name in opened.parts():
        part = opened.part(part_name)
        assert len({s.id for s in part}) == len(part) > 0
        for sample in part:
            height, width = sample.image.shape[:2]
            assert sample.image.shape == (height, width, 3)
            assert sample.image.dtype == np.uint8
            assert "\\" not in sample.id
            if "segmentation" in opened.info.tasks:
                assert sample.mask is not None
                assert sample.mask.shape == (height, width)
                assert sample.mask.dtype == np.uint8
                assert set(np.unique(sample.mask)) <= {*range(len(opened.info.classes)), IGNORE}
            if opened.info.tasks == ("classification",):
                assert sample.label in range(len(opened.info.classes))
            if sample.boxes is not None:
                assert sample.labels is not None
                assert sample.boxes.dtype == np.float32
                assert sample.boxes.shape == (len(sample.labels), 4)
        again = part[0]
        assert np.array_equal(again.image, part[0].image)
        assert part[-1].id == part[len(part) - 1].id
        assert len(part[:1]) == 1
        with pytest.raises(IndexError):
            part[len(part)]


@EACH
def test_files_and_digest(name: str, opened: Dataset) -> None:
    for part_name in opened.parts():
        files = opened.files(part_name)
        assert len(files) in (0, len(opened.part(part_name)))
        assert all(p.is_file() for pair in files for p in pair if p is not None)
        assert opened.digest(part_name) == opened.digest(part_name)
        assert len(opened.digest(part_name)) == 64
    assert len({opened.digest(p) for p in opened.parts()}) == len(opened.parts())


@EACH
def test_layouts_are_told_apart(name: str, opened: Dataset, tmp_path: Path) -> None:
    recognised = {n for n in names("dataset") if load("dataset", n).recognises(tmp_path)}
    assert recognised - GENERAL <= {name}
    if opened.files(opened.parts()[0]):
        assert name in recognised
        assert opened.files(opened.parts()[0])[0][0].is_relative_to(tmp_path)
    assert not load("dataset", name).recognises(tmp_path / "nothing")


@EACH
def test_missing_parts_and_folders(name: str, opened: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown part 'trian'"):
        opened.part("trian")
    for absent in {"train", "val", "test"} - set(opened.parts()):
        with pytest.raises(DataError, match=f"part '{absent}'"):
            opened.part(absent)
    with pytest.raises(BitfrontError, match=r"."):
        load("dataset", name).open(tmp_path / "nothing at all")
    with pytest.raises((TypeError, UsageError), match=r"unknown|unexpected"):
        load("dataset", name).open(EXAMPLES[name](tmp_path / "again"), no_such_option=1)


@EACH
def test_the_stages_take_it(name: str, opened: Dataset, rng: np.random.Generator) -> None:
    part, contract = opened.part(opened.parts()[0]), InputContract(32, 32)
    batch, samples = next(evaluation(part, contract, 2))
    assert batch.images.shape == (len(samples), 3, 32, 32)
    assert next(training(part, contract, 1, rng)).images.shape == (1, 3, 32, 32)
    assert len(calibration(part, contract, 1, rng)) == 1
    health = examine(opened)
    assert health.faults == ()
    assert from_json(Health, to_json(health)) == health
