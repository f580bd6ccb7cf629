"""The data YAML: what it can say, and the line that is named when it says something wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitfront.contracts import IGNORE
from bitfront.data.described import Described
from bitfront.errors import BitfrontError, DataError, LabelError, UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        for kind in ("images", "masks", "labels_png"):
            (tmp_path / part / kind).mkdir(parents=True)
        for name in ("a", "b"):
            Image.new("RGB", (6, 4)).save(tmp_path / part / "images" / f"{name}.jpg")
            mask = np.resize(np.array([0, 1, 7, 9], np.uint8), (4, 6))
            Image.fromarray(np.minimum(mask, 1)).save(tmp_path / part / "masks" / f"{name}.png")
            Image.fromarray(mask).save(tmp_path / part / "labels_png" / f"{name}.png")
    return tmp_path


def describe(root: Path, text: str) -> Path:
    path = root / "data.yaml"
    path.write_text(text, encoding="utf-8")
    return path


MINIMAL = "train: train/images\nval: val/images\nnames: [background, box]\n"


def test_minimal(root: Path) -> None:
    data = Described.open(describe(root, MINIMAL))
    assert data.parts() == ("train", "val")
    assert data.info.classes == ("background", "box")
    assert data.info.background == 0
    assert data.info.name == "data"
    sample = data.part("train")[1]
    assert sample.id == "train/images/b.jpg"
    assert sample.mask is not None
    assert sample.mask.max() == 1
    assert Described.recognises(root)
    assert Described.open(root).digest("train") == data.digest("train")


def test_everything(root: Path) -> None:
    data = Described.open(
        describe(
            root,
            """
            path: .
            train: [train/images, val/images]
            names: {0: box, 1: bag, 2: floor}
            nc: 3
            masks_dir: labels_png
            label_mapping: {7: 2, 9: ignore_label, -1: ignore_label}
            ignore_label: 255
            background: floor
            mean: [0.5, 0.5, 0.5]
            std: 0.25
            resize: bilinear_plain
            download: https://example.com/data.zip
            """,
        )
    )
    assert len(data.part("train")) == 4
    assert data.info.background == 2
    assert data.info.preprocess == {"mean": (0.5, 0.5, 0.5), "std": (0.25,), "resize": "bilinear_plain"}
    mask = data.part("train")[0].mask
    assert mask is not None
    assert mask.ravel()[:4].tolist() == [0, 1, 2, IGNORE]


def test_text_lists(root: Path) -> None:
    (root / "list.txt").write_text("train/images/b.jpg\nval/images/a.jpg\n", encoding="utf-8")
    data = Described.open(describe(root, MINIMAL.replace("train/images", "list.txt")))
    assert [s.id for s in data.part("train")] == ["train/images/b.jpg", "val/images/a.jpg"]


def test_binary_0_255_masks_are_not_read_as_ignored(root: Path) -> None:
    for path in root.glob("*/masks/*.png"):
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    data = Described.open(describe(root, MINIMAL))
    assert data.notes == ("masks hold 0 and 255: 255 is read as class 1",)
    assert data.part("val")[0].mask.max() == 1  # type: ignore[union-attr]
    explicit = Described.open(describe(root, MINIMAL + "label_mapping: {255: 1}\n"))
    assert explicit.notes == ()
    assert np.array_equal(explicit.part("val")[0].mask, data.part("val")[0].mask)


def test_another_ignore_label(root: Path) -> None:
    text = "train: train/images\nnames: [a, b]\nmasks_dir: labels_png\nignore_label: 9\nlabel_mapping: {7: 1}\n"
    mask = Described.open(describe(root, text)).part("train")[0].mask
    assert mask is not None
    assert mask.ravel()[:4].tolist() == [0, 1, 1, IGNORE]
    for path in root.glob("train/labels_png/*.png"):
        Image.fromarray(np.full((4, 6), 255, np.uint8)).save(path)
    with pytest.raises(LabelError, match="label value 255 in 24 pixels"):
        Described.open(root).part("train")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "maks_dir: x\n", r"data\.yaml:4: maks_dir: unknown key"),
        (MINIMAL + "names: [a, b]\n", r"data\.yaml:4: the key 'names' stands twice"),
        ("train: train/images\n", r"data\.yaml: names: needs a list of class names"),
        ("names: []\n", r"data\.yaml:1: names: needs 1 to 254 different names, has 0"),
        ("names: [a, a]\n", "needs 1 to 254 different names"),
        ("names: [a, 3]\n", "needs a list of class names as text"),
        ("names: {0: a, 2: b}\n", r"the numbers must be 0 to 1"),
        ("names: {x: a, y: b}\n", r"the numbers must be 0 to 1"),
        (MINIMAL + "nc: 3\n", r"data\.yaml:4: nc: says 3, but there are 2 names"),
        (MINIMAL + "background: box2\n", r"data\.yaml:4: background: 'box2' is no class"),
        (MINIMAL + "label_mapping: {7: 5}\n", r"data\.yaml:4: label_mapping.7: '5' is no class"),
        (MINIMAL + "label_mapping:\n  7: 0\n  700: 1\n", r"data\.yaml:6: label_mapping.700: '700' is no label value"),
        (MINIMAL + "label_mapping: {x: 1}\n", "'x' is no label value"),
        (MINIMAL + "label_mapping: [1]\n", "must be pairs of numbers"),
        (MINIMAL + "ignore_label: 300\n", "must be a whole number from 0 to 255"),
        (MINIMAL + "mean: [123.7, 116.3, 103.5]\n", r"mean: is meant for pixels in \[0, 1\]"),
        (MINIMAL + "mean: [.nan, 0, 0]\n", "needs one or three numbers"),
        (MINIMAL + "std: [1, 2]\n", "needs one or three numbers"),
        (MINIMAL + "std: 0\n", "must be above 0"),
        (MINIMAL + "resize: bilinaer\n", "unknown kernel 'bilinaer'"),
        (MINIMAL + "masks_dir: ../../etc\n", "must be the name of a folder"),
        (MINIMAL + "path: /nowhere/at/all\n", r"data\.yaml:4: path: no such folder"),
        (MINIMAL + "path: 7\n", "must be a folder"),
        (MINIMAL + "test: test/images\n", r"data\.yaml:4: test: no such folder"),
        (MINIMAL + "test: train\n", "has no folder 'images' in it"),
        (MINIMAL + "test: list.txt\n", "is missing or empty"),
        (MINIMAL + "test: {a: 1}\n", "must be a folder, a .txt list, or a list of both"),
        (MINIMAL + "test: [train/images, train/images]\n", "names the same image more than once"),
        (MINIMAL + f"test: {'x' * 5000}\n", "no such folder"),
        ("names: [a, b]\n", "describes no images"),
        ("names: &x [a, b]\ntrain: *x\n", "anchors and aliases"),
        ("- a\n", "the top must be"),
    ],
)
def test_faults_name_file_line_and_key(root: Path, text: str, message: str) -> None:
    with pytest.raises((UsageError, DataError), match=message) as caught:
        Described.open(describe(root, text))
    assert caught.value.hint


def test_a_guess_for_unknown_keys(root: Path) -> None:
    with pytest.raises(UsageError, match="unknown key") as caught:
        Described.open(describe(root, MINIMAL + "maks_dir: x\n"))
    assert "did you mean 'masks_dir'" in caught.value.hint


def test_missing_files(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none.yaml", None):
        with pytest.raises(BitfrontError, match=r"data\.yaml|none\.yaml|missing"):
            Described.open(place)
    assert not Described.recognises(tmp_path)
