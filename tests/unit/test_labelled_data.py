"""Readers of images with a class: idx files, class folders, CSV tables, digits; their splits and what they refuse."""

from __future__ import annotations

import contextlib
import gzip
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitfront.batches import evaluation
from bitfront.contracts import DataInfo, InputContract
from bitfront.data.labelled import held_out, in_order, split
from bitfront.data.mnist import read_idx
from bitfront.errors import BitfrontError, DataError, LabelError, UsageError
from bitfront.scan import examine
from bitfront.sources import open_data
from bitfront.verbs.data import convert


def picture(path: Path, level: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 9, 3), level, np.uint8)).save(path)


def idx(path: Path, array: np.ndarray, head: bytes | None = None, tail: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    start = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() if head is None else head
    data = start + array.astype(np.uint8).tobytes() + tail
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def mnist(root: Path, rng: np.random.Generator, ending: str = ".gz", n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    images, labels = rng.integers(0, 256, (n, 5, 4), np.uint8), np.arange(n, dtype=np.uint8) % 10
    idx(root / f"train-images-idx3-ubyte{ending}", images)
    idx(root / f"train-labels-idx1-ubyte{ending}", labels)
    return images, labels


# --- splits ----------------------------------------------------------------------------------------------------------
def test_splits_keep_the_share_of_every_class(rng: np.random.Generator) -> None:
    labels = rng.permutation([0] * 100 + [1] * 40 + [2] * 3 + [3]).tolist()
    parts = split(labels, 0, 0.1, 0.1)
    assert sorted(i for part in parts.values() for i in part) == list(range(144))
    assert Counter(labels[i] for i in parts["test"]) == {0: 10, 1: 4}
    assert Counter(labels[i] for i in parts["val"]) == {0: 10, 1: 4}
    assert parts == split(labels, 0, 0.1, 0.1)
    assert parts != split(labels, 1, 0.1, 0.1)
    assert all(part == sorted(part) for part in parts.values())
    assert not held_out([0, 1, 1], 0.99, 0)[0], "the last image of a class stays in train"


def test_numbers_in_names_are_numbers() -> None:
    assert in_order(["10", "9", "b", "a2", "a10", "a2"]) == ("9", "10", "a2", "a10", "b")


# --- idx files -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_are_read(ending: str, tmp_path: Path, rng: np.random.Generator) -> None:
    images, labels = mnist(tmp_path, rng, ending)
    opened = open_data(str(tmp_path))
    assert opened.info.name == "mnist"
    assert (opened.info.tasks, opened.info.augment) == (("classification",), "none")
    assert opened.parts() == ("train", "val")
    found = {s.image[..., 0].tobytes(): s.label for name in opened.parts() for s in opened.part(name)}
    assert found == {i.tobytes(): int(c) for i, c in zip(images, labels, strict=True)}
    assert [len(opened.part(p)) for p in opened.parts()] == [50, 10]
    assert (opened.part("train")[0].image[..., 0] == opened.part("train")[0].image[..., 2]).all()
    health = examine(opened)
    assert health.parts["train"].images == dict.fromkeys("0123456789", 5)
    assert health.parts["train"].n_examined == 50


HEAD = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2])


@pytest.mark.parametrize(
    ("head", "n", "message"),
    [
        (HEAD, 7, r"ends after 7 of the 8 bytes that its header says \(2x2x2\)"),
        (HEAD, 9, "holds more than the 8 bytes"),
        (HEAD[:11], 0, r"too short to be an idx file \(11 bytes\)"),
        (b"", 0, r"too short to be an idx file \(0 bytes\)"),
        (bytes([0, 0, 13]) + HEAD[3:], 8, "begins with 00000d03, not with 00000803"),
        (bytes([0, 0, 8, 1]) + HEAD[4:], 8, "begins with 00000801"),
        (b"\x89PNG" + HEAD[4:], 8, "begins with 89504e47"),
        (HEAD[:4] + bytes(12), 0, "says that it holds 0x0x0"),
        (HEAD[:4] + b"\xff" * 12, 8, "says that it holds 4294967295x"),
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_damaged_idx_files(head: bytes, n: int, message: str, ending: str, tmp_path: Path) -> None:
    path = idx(tmp_path / f"x{ending}", np.zeros(n, np.uint8), head)
    with pytest.raises(DataError, match=message) as error:
        read_idx(path, 3)
    assert error.value.hint


def test_damaged_gzip_files(tmp_path: Path, rng: np.random.Generator) -> None:
    path = idx(tmp_path / "x.gz", rng.integers(0, 256, (20, 20, 20)))
    whole = path.read_bytes()
    for cut in (0, 1, 9, 12, 40, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"damaged|too short|ends after"):
            read_idx(path, 3)
    for _ in range(40):
        broken = bytearray(whole)
        broken[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        with contextlib.suppress(DataError):
            assert read_idx(path, 3).shape == (20, 20, 20)


def test_images_and_labels_belong_together(tmp_path: Path, rng: np.random.Generator) -> None:
    mnist(tmp_path, rng, "")
    idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(59))
    with pytest.raises(LabelError, match="59 labels, but 60 images"):
        open_data(str(tmp_path))
    idx(tmp_path / "train-labels-idx1-ubyte", np.full(60, 10))
    with pytest.raises(LabelError, match="holds class 10, but there are 10 classes"):
        open_data(str(tmp_path))
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="stands alone"):
        open_data(f"mnist:{tmp_path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found no MNIST files"):
        open_data(str(tmp_path / "empty"), "mnist")


@pytest.mark.shared
def test_the_real_digits(shared: Path) -> None:
    opened = open_data(str(shared / "data/mnist"))
    assert {p: len(opened.part(p)) for p in opened.parts()} == {"train": 6300, "val": 700, "test": 1500}
    assert opened.part("train")[0].image.shape == (28, 28, 3)


def test_digits_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_data("digits")
    assert sum(len(opened.part(p)) for p in opened.parts()) == 1797
    image = opened.part("val")[0].image
    assert (image.shape, image.max()) == ((8, 8, 3), 255)
    with pytest.raises(UsageError, match="nothing is read"):
        open_data("digits:.")
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match="not installed") as error:
        open_data("digits")
    assert error.value.hint == "pip install 'bitfront[digits]'"


# --- class folders ---------------------------------------------------------------------------------------------------
def test_class_folders_with_parts(tmp_path: Path) -> None:
    for part, n in (("train", 10), ("valid", 2), ("test", 3)):
        for name in ("cat", "dog"):
            for i in range(n):
                picture(tmp_path / part / name / f"{i}.png")
        picture(tmp_path / part / "dog/sub/x.png")
    opened = open_data(str(tmp_path))
    assert (opened.info.classes, opened.parts()) == (("cat", "dog"), ("train", "val", "test"))
    assert [len(opened.part(p)) for p in opened.parts()] == [21, 5, 7]
    last = opened.part("val")[4]
    assert (last.id, last.label, last.mask) == ("valid/dog/sub/x.png", 1, None)
    batch, _ = next(evaluation(opened.part("val"), InputContract(4, 4), 5))
    assert batch.label is not None
    assert batch.label.tolist() == [0, 0, 1, 1, 1]
    assert batch.masks is None


def test_class_folders_without_parts_are_split(tmp_path: Path) -> None:
    for name in ("2", "10", "_hidden", ".git"):
        for i in range(20):
            picture(tmp_path / name / f"{i}.png", i)
    opened = open_data(str(tmp_path))
    assert opened.info.classes == ("2", "10")
    assert {p: Counter(s.label for s in opened.part(p)) for p in opened.parts()} == {
        "train": {0: 16, 1: 16}, "val": {0: 2, 1: 2}, "test": {0: 2, 1: 2},
    }  # fmt: skip
    assert "10% of the images are val, 10% are test" in opened.notes[0]
    assert len({opened.digest(p) for p in opened.parts()}) == 3


def test_a_val_part_is_set_aside(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(20):
            picture(tmp_path / "train" / name / f"{i}.png")
        picture(tmp_path / "test" / name / "x.png")
    opened = open_data(str(tmp_path))
    assert [len(opened.part(p)) for p in opened.parts()] == [36, 4, 2]
    assert [len(open_data(str(tmp_path), "class_folder", val=0.5).part(p)) for p in opened.parts()] == [20, 20, 2]
    with pytest.raises(UsageError, match="val must be a share"):
        open_data(str(tmp_path), "class_folder", val=2)


def test_class_folders_that_do_not_fit(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / "train" / name / "0.png")
    picture(tmp_path / "val/eel/0.png")
    (tmp_path / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    with pytest.raises(UsageError, match="class 'eel' is not among the classes"):
        open_data(str(tmp_path))
    only = tmp_path / "only"
    picture(only / "train/cat/0.png")
    with pytest.raises(UsageError, match="no layout"):
        open_data(str(only))
    with pytest.raises(DataError, match="at least 2 different classes, has cat"):
        open_data(str(only), "class_folder")
    with pytest.raises(DataError, match="no such folder"):
        open_data(str(tmp_path / "nothing"), "class_folder")


def test_folders_of_masks_are_no_classes(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        picture(tmp_path / name / "0.png", 0)
    assert open_data(str(tmp_path)).info.tasks == ("segmentation",)


def test_unreadable_pictures_are_faults(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(10):
            picture(tmp_path / "train" / name / f"{i}.png")
    (tmp_path / "train/a/3.png").write_bytes(b"no picture")
    health = examine(open_data(str(tmp_path)), cache=tmp_path / "cache")
    assert [Path(f.reason.split(":")[0]).name for f in health.faults] == ["3.png"]
    assert health.parts["train"].images == {"a": 8, "b": 9}
    again = examine(open_data(str(tmp_path)), cache=tmp_path / "cache")
    assert again == health


# --- tables ----------------------------------------------------------------------------------------------------------
def table(root: Path, text: str, n: int = 4, name: str = "labels.csv") -> Path:
    for i in range(n):
        picture(root / f"p/{i}.png", i)
    (root / name).write_text(text, encoding="utf-8")
    return root / name


@pytest.mark.parametrize("joint", [",", ";", "\t"])
def test_tables_with_parts(joint: str, tmp_path: Path) -> None:
    rows = [
        "\ufeffPath,Label,Part",
        "p/0.png,dog,train",
        "p/1.png,cat,train",
        "",
        "p\\2.png, cat ,VAL",
        "p/3.png,dog,test",
    ]
    path = table(tmp_path, "\r\n".join(rows).replace(",", joint))
    for opened in (open_data(str(path)), open_data(str(tmp_path))):
        assert opened.info.classes == ("cat", "dog")
        labels = {p: [(s.id, s.label) for s in opened.part(p)] for p in opened.parts()}
        assert labels == {
            "train": [("p/0.png", 1), ("p/1.png", 0)], "val": [("p/2.png", 0)], "test": [("p/3.png", 1)],
        }  # fmt: skip


def test_another_class_is_other_data(tmp_path: Path) -> None:
    before = open_data(str(table(tmp_path, "path,label\np/0.png,a\np/1.png,b\np/2.png,a\n")))
    examine(before, cache=tmp_path / "cache")
    after = open_data(str(table(tmp_path, "path,label\np/0.png,b\np/1.png,b\np/2.png,a\n")))
    assert before.digest("train") != after.digest("train")
    assert examine(after, cache=tmp_path / "cache").parts["train"].images == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no columns path and label, but nothing"),
        ("file,class\na,b\n", "has no columns path and label, but file, class"),
        ("path,label\n", "names no images"),
        ("path,label\np/0.png\n", "labels.csv:2: has 1 fields, the header 2"),
        ("path,label\np/0.png,\n", "labels.csv:2: path or label is empty"),
        ("path,label,part\np/0.png,a,trian\n", "labels.csv:2: 'trian' is no part"),
        ("path,label\np/0.png,a\np/0.png,b\n", "'p/0.png' is both 'a' and 'b'"),
        ("path,label\np/0.png,a\np/1.png,b\np/0.png,a\n", "names 1 images more than once"),
        ("path,label\np/0.png,a\np/1.png,a\n", "at least 2 different classes, has a"),
        ('path,label\n"p/0.png,a\n', "cannot be read as CSV"),
    ],
)
def test_tables_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BitfrontError, match=message) as error:
        open_data(str(table(tmp_path, text)))
    assert isinstance(error.value, (DataError, UsageError))


def test_tables_that_are_no_text_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"path,label\n\xff\xfe\x00,a\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        open_data(str(path))
    with pytest.raises(DataError, match="no such file"):
        open_data(str(tmp_path / "other.csv"))
    rows = "".join(f"p/{i}.png,{'ab'[i % 2]},val\n" for i in range(6))
    opened = open_data(str(table(tmp_path, f"path,label,part\n{rows}")))
    reasons = [fault.reason for fault in examine(opened).faults]
    assert len(reasons) == 2
    assert "5.png" in reasons[1]


def test_classes_are_written_as_folders(tmp_path: Path, rng: np.random.Generator) -> None:
    mnist(tmp_path / "idx", rng)
    source = open_data(str(tmp_path / "idx"))
    made = convert(source, tmp_path / "out")
    assert (made.path, made.images) == (tmp_path / "out", {"train": 50, "val": 10})
    again = open_data(str(made.path))
    assert again.info.classes == source.info.classes
    for part in source.parts():
        pairs = [{(s.label, s.image.tobytes()) for s in data.part(part)} for data in (source, again)]
        assert pairs[0] == pairs[1]
    source.info = replace(source.info, classes=("a/b", *source.info.classes[1:]))
    with pytest.raises(DataError, match="class 'a/b' cannot be the name of a folder"):
        convert(source, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_data_says_how_it_is_augmented() -> None:
    assert DataInfo("x", ("a", "b")).augment == "light"
