"""`bitfront data convert`: annotations of labelling tools to mask folders and back, and what is wrong with them."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as oracle
from pycocotools.coco import COCO

from bitfront import cli
from bitfront.annotations.polygons import components, joined, trace
from bitfront.annotations.run_lengths import encode_brush
from bitfront.errors import DataError, LabelError, UsageError
from bitfront.images import png
from bitfront.sources import open_data
from bitfront.verbs.converting import Painting, from_annotations
from bitfront.verbs.labelling import Tracing, from_data, reformat

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

W, H = 16, 12
SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]
"""A polygon over columns 2-5, rows 1-4."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path: Path, size: tuple[int, int] = (W, H), orientation: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (90, 120, 30))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


def mask_at(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def boxes_at(path: Path) -> list[list[float]]:
    return [[float(v) for v in line.split()] for line in path.read_text().splitlines()]


def coco(*annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One picture a.png of 16x12, categories 3 = cat and 7 = dog."""
    items = [{"id": i, "image_id": 1, "category_id": 3, "iscrowd": 0, **a} for i, a in enumerate(annotations, 1)]
    base = {
        "images": [{"id": 1, "file_name": "a.png", "width": W, "height": H}],
        "annotations": items,
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    return base | more


def written(name: str, content: Any) -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(json.dumps(content), encoding="utf-8")
    return Path(name)


def region(kind: str, label: str, **value: Any) -> dict[str, Any]:
    """A result of label-studio."""
    return {
        "id": "r", "type": f"{kind}labels", "original_width": W, "original_height": H, "image_rotation": 0,
        "value": {f"{kind}labels": [label], **value},
    }  # fmt: skip


def task(*results: dict[str, Any], image: str = "/data/upload/1/0123abcd-a.png", **more: Any) -> dict[str, Any]:
    return {"id": 5, "data": {"image": image}, "annotations": [{"result": list(results)}], **more}


PERCENT_SQUARE = [[100 * x / W, 100 * y / H] for x, y in np.reshape(SQUARE, (-1, 2)).tolist()]


# --- what is read ----------------------------------------------------------------------------------------------------
def test_coco_polygons_run_lengths_and_crowds(place: Path) -> None:
    picture(place / "a.png")
    inside = np.zeros((H, W), np.uint8)
    inside[8:10, 3:9] = 1
    packed = oracle.encode(np.asfortranarray(inside))
    plain = [H * 14, 2, H * 2 - 2]
    source = written(
        "labels.json",
        coco(
            {"segmentation": [SQUARE, [10, 1, 12, 1, 12, 3, 10, 3]], "bbox": [2, 1, 10, 4]},
            {"segmentation": {"size": [H, W], "counts": packed["counts"].decode()}, "category_id": 7},
            {"segmentation": {"size": [H, W], "counts": plain}, "category_id": 7, "iscrowd": 1, "bbox": [14, 0, 1, 2]},
        ),
    )
    made = from_annotations(source, "out")
    mask = mask_at(place / "out/train/masks/a.png")
    assert (mask == 1).sum() == 16 + 4
    assert (mask[8:10, 3:9] == 2).all()
    assert mask[:2, 14].tolist() == [2, 2]
    assert (mask == 2).sum() == 12 + 2
    data = open_data(str(made.path))
    assert data.info.classes == ("background", "cat", "dog")
    assert data.info.background == 0
    assert boxes_at(place / "out/train/labels/a.txt") == [
        pytest.approx([1, 7 / 16, 3 / 12, 10 / 16, 4 / 12]),
        pytest.approx([2, 6 / 16, 9 / 12, 6 / 16, 2 / 12]),
    ]
    assert (open_data("folder:out").part("train")[0].mask == mask).all()


def test_coco_polygons_are_those_of_pycocotools_but_for_the_outline(place: Path, rng: np.random.Generator) -> None:
    picture(place / "a.png", (90, 70))
    angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
    ring = np.stack([45 + 35 * np.cos(angle), 35 + 25 * np.sin(angle)], axis=1).ravel().tolist()
    images = [{"id": 1, "file_name": "a.png", "width": 90, "height": 70}]
    from_annotations(written("l.json", coco({"segmentation": [ring]}, images=images)), "out")
    ours = mask_at(place / "out/train/masks/a.png") == 1
    theirs = oracle.decode(oracle.frPyObjects([ring], 70, 90))[..., 0] == 1
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.97


def test_label_studio_polygons_strokes_ellipses_and_boxes(place: Path) -> None:
    picture(place / "images/a.png")
    stroke = np.zeros((H, W), bool)
    stroke[9:11, 1:4] = True
    source = written(
        "export.json",
        [
            task(
                region("polygon", "Schachtel äö", points=PERCENT_SQUARE, closed=True),
                region("brush", "tape", format="rle", rle=encode_brush(stroke)),
                region("ellipse", "tape", x=75.0, y=50.0, radiusX=12.5, radiusY=100 * 2 / H, rotation=0),
                region("rectangle", "seal", x=50.0, y=0.0, width=12.5, height=100 * 1 / H, rotation=0),
                {"type": "choices", "value": {"choices": ["bright"]}},
            )
        ],
    )
    made = from_annotations(source, "out")
    mask = mask_at(place / "out/train/masks/a.png")
    assert Path("out/classes.txt").read_text(encoding="utf-8").split("\n")[:4] == [
        "background", "Schachtel äö", "seal", "tape",
    ]  # fmt: skip
    assert (mask[1:5, 2:6] == 1).all()
    assert (mask == 1).sum() == 16
    assert (mask[9:11, 1:4] == 3).all()
    assert (mask == 3).sum() == 6 + 12
    assert mask[0].tolist().count(255) == 2
    assert any("only a box" in note for note in made.notes)
    assert open_data(str(made.path)).info.classes[1] == "Schachtel äö"
    assert boxes_at(place / "out/train/labels/a.txt")[3] == pytest.approx([2, 9 / 16, 0.5 / 12, 2 / 16, 1 / 12])


def test_label_studio_turned_boxes_and_ellipses(place: Path) -> None:
    picture(place / "a.png", (20, 20))
    sized = {"original_width": 20, "original_height": 20}
    box = region("rectangle", "x", x=50, y=25, width=25, height=10, rotation=90) | sized
    ellipse = region("ellipse", "x", x=25, y=50, radiusX=20, radiusY=5, rotation=90) | sized
    from_annotations(written("e.json", [task(box, ellipse, image="a.png")]), "out")
    turned, _ = boxes_at(place / "out/train/labels/a.txt")
    assert turned == pytest.approx([1, 0.45, 0.375, 0.1, 0.25])
    ys, xs = np.nonzero(mask_at(place / "out/train/masks/a.png") == 1)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (7, 12, 4, 5)


def test_label_studio_json_min_and_separate_labels(place: Path) -> None:
    picture(place / "a.png")
    sized = {"original_width": W, "original_height": H}
    small = [
        {"id": 1, "image": "/data/upload/a.png", "label": [{"points": PERCENT_SQUARE, "polygonlabels": ["x"], **sized}]}
    ]
    from_annotations(written("min.json", small), "out")
    assert mask_at(place / "out/train/masks/a.png").sum() == 16
    shape = {"id": "p", "type": "polygon", "value": {"points": PERCENT_SQUARE}, **sized}
    label = {"id": "p", "type": "labels", "value": {"labels": ["x"]}, **sized}
    both = {**label, "value": {"labels": ["x"], "points": PERCENT_SQUARE}}
    for results in ([shape, label], [shape, both]):
        written("apart.json", [task(*results)])
        from_annotations("apart.json", "apart", overwrite=True)
        assert mask_at(place / "apart/train/masks/a.png").sum() == 16
        assert len(boxes_at(place / "out/train/labels/a.txt") if Path("apart/train/labels").exists() else [0]) == 1


def test_label_studio_counts_the_last_annotation_and_leaves_open_tasks_out(place: Path) -> None:
    for name in "abc":
        picture(place / f"{name}.png")
    cancelled = {"was_cancelled": True, "result": [region("polygon", "no", points=PERCENT_SQUARE)]}
    first = {"result": [region("polygon", "old", points=PERCENT_SQUARE)]}
    last = {"result": [region("polygon", "new", points=PERCENT_SQUARE)]}
    source = written(
        "e.json",
        [
            {"id": 1, "data": {"image": "a.png"}, "annotations": [first, last, cancelled]},
            {"id": 2, "data": {"image": "b.png"}, "annotations": [cancelled]},
            {"id": 3, "data": {"image": "c.png"}, "annotations": [{"result": []}]},
        ],
    )
    made = from_annotations(source, "out")
    assert made.images == {"train": 2}
    assert Path("out/classes.txt").read_text().split() == ["background", "new"]
    assert mask_at(place / "out/train/masks/c.png").sum() == 0
    assert made.notes == (
        "1 tasks without an annotation are left out", "1 tasks have several annotations: the last one counts",
    )  # fmt: skip


VOC = """<annotation><filename>{name}</filename>
<size><width>16</width><height>12</height><depth>3</depth></size>{objects}
</annotation>"""
BOX = "<bndbox><xmin>3</xmin><ymin>2</ymin><xmax>6</xmax><ymax>5</ymax></bndbox>"
ROBOFLOW = "<polygon><x1>2</x1><y1>1</y1><x2>6</x2><y2>1</y2><x3>6</x3><y3>5</y3><x4>2</x4><y4>5</y4></polygon>"
LABELME = (
    "<polygon>" + "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in [(2, 1), (6, 1), (6, 5), (2, 5)]) + "</polygon>"
)


@pytest.mark.parametrize("polygon", [ROBOFLOW, LABELME])
def test_voc_boxes_and_polygons(place: Path, polygon: str) -> None:
    picture(place / "JPEGImages/a.jpg")
    Path("Annotations").mkdir()
    objects = f"<object><name>cat</name>{BOX}{polygon}</object><object><deleted>1</deleted></object>"
    Path("Annotations/a.xml").write_text(VOC.format(name="a.jpg", objects=objects))
    from_annotations(place, "out")
    mask = mask_at(place / "out/train/masks/a.png")
    assert (mask[1:5, 2:6] == 1).all()
    assert mask.sum() == 16
    assert boxes_at(place / "out/train/labels/a.txt") == [pytest.approx([1, 4 / 16, 3 / 12, 4 / 16, 4 / 12])]


def test_voc_lists_give_the_parts_and_boxes_alone_give_no_masks(place: Path) -> None:
    for name in ("a", "b", "c"):
        picture(place / f"JPEGImages/{name}.jpg")
        Path("Annotations").mkdir(exist_ok=True)
        Path(f"Annotations/{name}.xml").write_text(
            VOC.format(name=f"{name}.jpg", objects=f"<object><name>cat</name>{BOX}</object>")
        )
    Path("ImageSets/Main").mkdir(parents=True)
    Path("ImageSets/Main/train.txt").write_text("a\n")
    Path("ImageSets/Main/val.txt").write_text("b\n")
    made = from_annotations(place, "out")
    assert made.images == {"train": 1, "val": 1}
    assert not list(place.glob("out/*/masks"))
    assert boxes_at(place / "out/val/labels/b.txt") == [pytest.approx([0, 4 / 16, 3 / 12, 4 / 16, 4 / 12])]
    assert [n for n in made.notes if "no list" in n]
    assert [n for n in made.notes if "only boxes" in n]
    assert (
        mask_at(
            from_annotations(place, "filled", painting=Painting(boxes="fill")).path.parent / "val/masks/b.png"
        ).sum()
        == 16
    )


def test_labelme_shapes(place: Path) -> None:
    picture(place / "a.png")
    shapes = [
        {"label": "x", "shape_type": "polygon", "points": np.reshape(SQUARE, (-1, 2)).tolist()},
        {"label": "x", "shape_type": "circle", "points": [[12, 6], [12, 8]]},
        {"label": "y", "shape_type": "rectangle", "points": [[9, 12], [7, 10]]},
        {"label": "y", "shape_type": "point", "points": [[9, 12]]},
    ]
    source = written("a.json", {"shapes": shapes, "imagePath": "..\\pics\\a.png", "imageHeight": H, "imageWidth": W})
    made = from_annotations(source, "out")
    mask = mask_at(place / "out/train/masks/a.png")
    assert (mask == 1).sum() == 16 + 12
    assert (mask == 255).sum() == 4
    assert "1 points and lines are left out" in made.notes


# --- rules -----------------------------------------------------------------------------------------------------------
def painted(place: Path, content: Any, **rules: Any) -> np.ndarray:
    if not (place / "a.png").exists():
        picture(place / "a.png")
    from_annotations(written("l.json", content), "out", painting=Painting(**rules), overwrite=True)
    return mask_at(place / "out/train/masks/a.png")


def test_classes_choose_and_order_the_labels(place: Path) -> None:
    content = coco({"segmentation": [SQUARE]}, {"segmentation": [[8, 1, 10, 1, 10, 3, 8, 3]], "category_id": 7})
    assert np.bincount(painted(place, content).ravel()).tolist() == [172, 16, 4]
    assert np.bincount(painted(place, content, classes=("dog", "cat")).ravel()).tolist() == [172, 4, 16]
    assert np.bincount(painted(place, content, classes=("dog",)).ravel()).tolist() == [188, 4]
    assert np.bincount(painted(place, content, classes=("dog", "background")).ravel()).tolist() == [4, 188]
    assert open_data("out").info.background == 1
    mask = painted(place, content, unlabelled="ignore")
    assert {int(v): int((mask == v).sum()) for v in np.unique(mask)} == {0: 16, 1: 4, 255: 172}
    assert painted(place, content, unlabelled="cat").sum() == 4
    with pytest.raises(UsageError, match="unknown label 'dgo'") as error:
        painted(place, content, classes=("dgo",))
    assert "did you mean 'dog'?" in error.value.hint


def test_overlaps_are_decided_by_size_or_order_and_told(place: Path) -> None:
    content = coco({"segmentation": [SQUARE]}, {"segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]], "category_id": 7})
    assert (painted(place, content) == 1).sum() == 16
    assert (painted(place, content, overlap="later") == 1).sum() == 0
    made = from_annotations("l.json", "again")
    assert made.notes == (
        "19.75% of the labelled pixels belong to objects of two classes: the smaller one is on top (--overlap)",
    )


def test_ignored_regions(place: Path) -> None:
    content = coco({"segmentation": [SQUARE]}, categories=[{"id": 3, "name": "ignore"}, {"id": 7, "name": "dog"}])
    assert (painted(place, content) == 255).sum() == 16
    assert open_data("out").info.classes == ("background", "dog")


def test_a_share_is_set_aside_as_val(place: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "width": W, "height": H} for i in range(10)]
    for i in range(10):
        picture(place / f"{i}.png")
    source = written("l.json", coco(images=images))
    made = from_annotations(source, "out", painting=Painting(val=0.3))
    assert made.images == {"train": 7, "val": 3}
    names = {p.name for p in place.glob("out/val/images/*")}
    from_annotations(source, "same", painting=Painting(val=0.3))
    assert {p.name for p in place.glob("same/val/images/*")} == names
    from_annotations(source, "other", painting=Painting(val=0.3, seed=1))
    assert {p.name for p in place.glob("other/val/images/*")} != names
    with pytest.raises(UsageError, match="leaves 0 of 10"):
        from_annotations(source, "none", painting=Painting(val=0.01))


def test_parts_of_a_folder_are_told_by_the_names(place: Path) -> None:
    for name, part in (("a", "train"), ("b", "val")):
        picture(place / f"images/{name}.png")
        images = [{"id": 1, "file_name": f"{name}.png", "width": W, "height": H}]
        written(f"annotations/instances_{part}2017.json", coco({"segmentation": [SQUARE]}, images=images))
    assert from_annotations(place, "out").images == {"train": 1, "val": 1}
    assert from_annotations("annotations/instances_val2017.json", "one").images == {"val": 1}
    assert from_annotations("annotations/instances_val2017.json", "two", part="test").images == {"test": 1}
    written("annotations/more.json", coco())
    with pytest.raises(UsageError, match=r"more\.json: cannot tell which part"):
        from_annotations(place, "three")


# --- images ----------------------------------------------------------------------------------------------------------
def test_an_image_with_an_exif_orientation(place: Path) -> None:
    """Drawn as it is shown: written upright. Drawn as it is stored: refused, with the cause."""
    picture(place / "a.jpg", (W, H), orientation=6)
    shown = [{"id": 1, "file_name": "a.jpg", "width": H, "height": W}]
    made = from_annotations(written("l.json", coco({"segmentation": [SQUARE]}, images=shown)), "out")
    assert mask_at(place / "out/train/masks/a.png").shape == (W, H)
    assert mask_at(place / "out/train/images/a.png").shape == (W, H, 3)
    assert "1 images with an EXIF orientation are written upright, as PNG" in made.notes
    stored = [{"id": 1, "file_name": "a.jpg", "width": W, "height": H}]
    with pytest.raises(LabelError, match=r"was annotated at 16x12, .*a\.jpg is 12x16") as error:
        from_annotations(written("l.json", coco({"segmentation": [SQUARE]}, images=stored)), "no")
    assert "EXIF" in error.value.hint
    assert not Path("no").exists()
    assert sorted(p.name for p in place.glob(".no*")) == []


def test_images_are_copied_to_the_byte(place: Path) -> None:
    original = picture(place / "a.png").read_bytes()
    painted(place, coco())
    assert Path("out/train/images/a.png").read_bytes() == original


def test_the_same_name_in_two_folders(place: Path) -> None:
    for folder in ("x", "y"):
        picture(place / f"pics/{folder}/a.png")
    images = [{"id": i, "file_name": f"{f}/a.png", "width": W, "height": H} for i, f in ((1, "x"), (2, "y"))]
    source = written("l.json", coco({"segmentation": [SQUARE]}, images=images))
    made = from_annotations(source, "out", folder=Path("pics"))
    assert sorted(p.relative_to("out/train/masks").as_posix() for p in Path("out").rglob("masks/*/*")) == [
        "x/a.png",
        "y/a.png",
    ]
    part = open_data(str(made.path)).part("train")
    assert [int(part[i].mask.sum()) for i in range(2)] == [16, 0]
    images[0]["file_name"] = "elsewhere/a.png"
    with pytest.raises(DataError, match=r"'elsewhere/a\.png' could be .*x/a\.png or .*y/a\.png"):
        from_annotations(written("l.json", coco(images=images)), "no", folder=Path("pics"))


def test_the_end_of_a_path_tells_files_of_one_name_apart(place: Path) -> None:
    for folder_, size in (("x", (W, H)), ("y", (8, 6))):
        picture(place / f"pics/deep/{folder_}/a.png", size)
    images = [{"id": 1, "file_name": "/home/me/y/a.png", "width": 8, "height": 6}]
    with pytest.raises(DataError, match="could be"):
        from_annotations(written("l.json", coco(images=images)), "no", folder=Path("pics"))
    images = [{"id": 1, "file_name": "y/a.png", "width": 8, "height": 6}]
    from_annotations(written("l.json", coco(images=images)), "out", folder=Path("pics"))
    assert mask_at(place / "out/train/images/a.png").shape == (6, 8, 3)


def test_names_that_differ_only_in_their_ending(place: Path) -> None:
    for name in ("a.png", "A.jpg", "b ü.png"):
        picture(place / name)
    images = [{"id": i, "file_name": n, "width": W, "height": H} for i, n in enumerate(("a.png", "A.jpg", "b ü.png"))]
    made = from_annotations(written("l.json", coco(images=images)), "out")
    assert sorted(p.name for p in place.glob("out/train/images/*")) == ["A_2.jpg", "a.png", "b ü.png"]
    assert len(open_data(str(made.path)).part("train")) == 3


@pytest.mark.parametrize(
    "name",
    ["/home/me/pics/a.png", "C:\\pics\\a.png", "https://host/x/a.png?sig=1", "s3://bucket/a.png", "0123abcd-a.png",
     "/data/upload/3/89abcdef-a.png", "/data/local-files/?d=some/where/a.png", "../../../a.png", "%61.png"],
)  # fmt: skip
def test_an_image_is_found_whatever_machine_its_name_is_from(place: Path, name: str) -> None:
    picture(place / "deep/down/a.png")
    source = written("e.json", [task(region("polygon", "x", points=PERCENT_SQUARE), image=name)])
    if name == "%61.png":
        with pytest.raises(DataError, match="no image file"):
            from_annotations(source, "out")
        return
    from_annotations(source, "out")
    assert mask_at(place / "out/train/masks/a.png").sum() == 16


def test_nothing_outside_the_folder_is_opened(place: Path) -> None:
    picture(place / "secret.png")
    (place / "in").mkdir()
    for name in ("../secret.png", str(place / "secret.png"), "file:///" + str(place / "secret.png")):
        source = written("in/e.json", [task(region("polygon", "x", points=PERCENT_SQUARE), image=name)])
        with pytest.raises(DataError, match="no image file"):
            from_annotations(source, "out")


def test_missing_images_are_counted_or_left_out(place: Path) -> None:
    picture(place / "a.png")
    images = [{"id": i, "file_name": n, "width": W, "height": H} for i, n in ((1, "a.png"), (2, "b.png"), (3, "c.png"))]
    source = written("l.json", coco({"segmentation": [SQUARE]}, images=images))
    with pytest.raises(
        DataError, match=r"l\.json: images\[1\] \(id 2\): no image file 'b\.png' \(and 1 more\)"
    ) as error:
        from_annotations(source, "out")
    assert "--images" in error.value.hint
    made = from_annotations(source, "out", painting=Painting(skip_missing=True))
    assert made.images == {"train": 1}
    assert "2 pictures without an image file are left out" in made.notes
    with pytest.raises(UsageError, match="no folder 'nowhere'"):
        from_annotations(source, "no", folder=Path("nowhere"))


# --- what is wrong ---------------------------------------------------------------------------------------------------
def broken(**changes: Any) -> dict[str, Any]:
    return coco({"segmentation": [SQUARE]} | changes)


NAN = float("nan")
BAD_COCO: list[tuple[Any, str]] = [
    ([], "neither COCO nor"),
    ({"images": [], "annotations": []}, "categories: must be a list"),
    (coco(categories=[{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]), r"categories\[1\]: id 3 or name 'b'"),
    (coco(categories=[{"id": 3, "name": " "}]), r"categories\[0\]\.name: must be a text"),
    (coco(images=[{"id": 1, "file_name": "a.png"}]), r"images\[0\] \(id 1\)\.height: must be .* is missing"),
    (coco(images=2 * coco()["images"]), r"images\[1\] \(id 1\): .*images\[0\] \(id 1\) has the same id"),
    (coco(images=[]), "no annotated pictures"),
    (broken(image_id=9), r"annotations\[0\] \(id 1\): there is no image with id 9"),
    (broken(category_id=9), "no category with id 9"),
    (broken(segmentation=[[1, 2, 3]]), "a polygon has 3 numbers"),
    (broken(segmentation=[["x", 2]]), "must be a number, is 'x'"),
    (broken(segmentation=[[NAN, 2]]), "must be a number"),
    (broken(segmentation=[[1e300, 2]]), "must be a number"),
    (broken(segmentation=[[True, 2]]), "must be a number"),
    (broken(segmentation=7), "segmentation: must be a list"),
    (broken(segmentation=[], bbox=[]), "neither segmentation nor bbox"),
    (broken(segmentation=[], bbox=[0, 0, -1, 2]), "must be x, y, width, height"),
    (broken(segmentation={"size": [W, H], "counts": [W * H]}), "height and width swapped|is not the image's"),
    (broken(segmentation={"size": [H, W], "counts": [5]}), "do not fill 16x12"),
    (broken(segmentation={"size": [H, W], "counts": [-5, 5, W * H]}), "whole number from 0"),
    (broken(segmentation={"size": [H, W], "counts": "é"}), "compressed run lengths"),
    (broken(segmentation={"size": [H, W]}), "counts: must be a list, is missing"),
    (coco(images=[{"id": 1, "file_name": "a.png", "width": 99, "height": 98}]), "was annotated at 99x98"),
    (coco(categories=[]), "1 classes"),
    (coco(categories=[{"id": i, "name": f"n{i}"} for i in range(300)]), "301 classes"),
]  # fmt: skip
BAD_TASKS: list[tuple[Any, str]] = [
    ([{"data": {}, "annotations": [{"result": []}]}], r"task\[0\]: names no image"),
    ([task({**region("polygon", "x", points=[[1]])})], r"task\[0\] \(id 5\)\.result\[0\]\.points: must be pairs"),
    ([task({**region("polygon", "x", points=PERCENT_SQUARE), "original_width": None})], "original_width: must be"),
    ([task({**region("polygon", "x", points=PERCENT_SQUARE), "image_rotation": 90})], "turned by 90 degrees"),
    ([task(region("brush", "x", rle=[1, 2, 3]))], "brush run lengths have no header"),
    ([task(region("brush", "x", rle=encode_brush(np.eye(5, dtype=bool))))], "the picture needs 768"),
    ([task({**region("polygon", "x", points=PERCENT_SQUARE), "value": {"points": PERCENT_SQUARE}})], "has no label"),
    ([task(region("polygon", "x", points=PERCENT_SQUARE)), 3], r"task\[1\]: must be a JSON object"),
    ([task(region("polygon", "x", points=PERCENT_SQUARE)), task()], "is annotated there and in"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BAD_COCO + BAD_TASKS)
def test_bad_annotations_are_named_and_nothing_is_left(place: Path, content: Any, message: str) -> None:
    picture(place / "a.png")
    with pytest.raises((DataError, UsageError), match=message) as error:
        from_annotations(written("l.json", content), "out")
    assert error.value.hint
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in place.iterdir()) == ["a.png", "l.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 200_000, "nested too deeply|is not JSON"),
        ('{"images": ' + "9" * 6000 + "}", "is not JSON"),
        ("\udcff", "is not JSON"),
    ],
)
def test_files_that_are_not_json(place: Path, text: str, message: str) -> None:
    Path("l.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        from_annotations("l.json", "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "is not plain XML"),
        ("<annotation><object/></annotation>", r"object\[0\]/name: must be a text, is missing"),
        (f"<annotation><object><name>x</name>{BOX.replace('6', '-1')}</object></annotation>", "ends before it begins"),
        ("<annotation><object><name>x</name></object></annotation>", "neither bndbox nor polygon"),
        (f"<annotation><object><name>x</name>{BOX.replace('>3<', '>?<')}</object></annotation>", "must be a number"),
        ('<!DOCTYPE annotation [<!ENTITY a "b">]><annotation>&a;</annotation>', "declares a document type"),
    ],
)
def test_bad_voc_files(place: Path, text: str, message: str) -> None:
    Path("Annotations").mkdir()
    Path("Annotations/a.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        from_annotations(place, "out")


def test_a_folder_in_use_is_kept(place: Path) -> None:
    picture(place / "a.png")
    source = written("l.json", coco())
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("dear")
    with pytest.raises(UsageError, match="mine is not empty"):
        from_annotations(source, "mine")
    with pytest.raises(UsageError, match="was not made by this command"):
        from_annotations(source, "mine", overwrite=True)
    assert Path("mine/notes.txt").read_text() == "dear"
    from_annotations(source, "out")
    before = sorted(place.rglob("*"))
    with pytest.raises(DataError, match="no image with id 9"):
        from_annotations(written("bad.json", broken(image_id=9)), "out", overwrite=True)
    Path("bad.json").unlink()
    (place / "a.png").rename(place / "b.png")
    with pytest.raises(DataError, match="no image file"):
        from_annotations(source, "out", overwrite=True, folder=Path("mine"))
    (place / "b.png").rename(place / "a.png")
    assert sorted(place.rglob("*")) == before
    assert from_annotations(source, "out", overwrite=True, folder=place).images == {"train": 1}


def test_a_stop_in_the_middle_leaves_nothing(place: Path) -> None:
    picture(place / "a.png")
    source = written("l.json", coco())

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        from_annotations(source, "out", progress=stop)
    assert sorted(p.name for p in place.iterdir()) == ["a.png", "l.json"]


# --- there and back --------------------------------------------------------------------------------------------------
def folder(place: Path, masks: dict[str, np.ndarray], classes: str, part: str = "train") -> str:
    for name, mask in masks.items():
        for kind, pixels in (("images", np.zeros((*mask.shape, 3), np.uint8) + 40), ("masks", mask)):
            path = place / "data" / part / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(pixels))
    (place / "data/classes.txt").write_text(classes, encoding="utf-8")
    return "data"


WAYS = [
    ("coco", "polygons"),
    ("coco", "rle"),
    ("label_studio", "polygons"),
    ("label_studio", "rle"),
    ("voc", "polygons"),
]


@pytest.mark.parametrize(("to", "shapes"), WAYS)
@pytest.mark.parametrize("classes", ["background\nzebra\nant\nbee", "road\nsky\nbush\ntree"])
def test_masks_come_back_to_the_bit(
    place: Path, rng: np.random.Generator, to: str, shapes: str, classes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blobs with holes, ignored pixels, and the command that the program itself suggests."""
    masks = {f"s/{i}": np.kron(rng.integers(0, 5, (7, 9)), np.ones((3, 2))).astype(np.uint8) for i in range(2)}
    for mask in masks.values():
        mask[mask == 4] = 255
    masks["empty"] = np.zeros((5, 4), np.uint8)
    data = open_data(folder(place, masks, classes))
    made = from_data(data, to, "made", tracing=Tracing(shapes))
    command = next(n for n in made.notes if n.startswith("read it back with: ")).partition(": ")[2]
    assert cli.main([*shlex.split(command)[1:-1], "back"]) == 0
    capsys.readouterr()
    back = open_data("back/data.yaml")
    assert back.info.classes == data.info.classes
    assert back.info.background == data.info.background
    a, b = data.part("train"), back.part("train")
    assert len(a) == len(b) == 3
    names = {Path(s.id).stem.split("_")[-1]: s.mask for s in b}
    for sample in a:
        assert (names[Path(sample.id).stem] == sample.mask).all()


def test_what_is_written_is_coco(place: Path) -> None:
    mask = np.zeros((H, W), np.uint8)
    mask[1:5, 2:6] = 1
    mask[2, 3] = 2
    mask[9, 9] = 255
    made = from_data(open_data(folder(place, {"a": mask}, "background\nx\ny")), "coco", "made")
    found = COCO(str(made.path / "annotations/instances_train.json"))
    assert found.getCatIds() == [1, 2, 3]
    assert [c["name"] for c in found.loadCats([1, 2, 3])] == ["x", "y", "ignore"]
    for item in found.loadAnns(found.getAnnIds()):
        inside = found.annToMask(item)
        assert item["area"] == inside.sum()
        assert item["bbox"] == oracle.toBbox(found.annToRLE(item)).tolist()
        assert (mask[inside > 0] == {1: 1, 2: 2, 3: 255}[item["category_id"]]).all()


@pytest.mark.parametrize("to", ["coco", "label_studio", "voc"])
def test_annotations_are_written_in_another_format(place: Path, to: str) -> None:
    picture(place / "a.png")
    stroke = np.zeros((H, W), bool)
    stroke[9:11, 1:4] = True
    results = [
        region("polygon", "x", points=PERCENT_SQUARE),
        region("brush", "y", rle=encode_brush(stroke)),
        region("rectangle", "y", x=62.5, y=0.0, width=25.0, height=50.0),
    ]
    source = written("export.json", [task(*results)])
    from_annotations(source, "straight")
    reformat(source, to, "other")
    from_annotations("other", "round")
    assert (mask_at(place / "round/train/masks/a.png") == mask_at(place / "straight/train/masks/a.png")).all()
    straight, round_ = (boxes_at(place / f"{n}/train/labels/a.txt") for n in ("straight", "round"))
    assert sorted(round_) == [pytest.approx(box) for box in sorted(straight)]


def test_fewer_corners_on_request(place: Path) -> None:
    angle = np.arange(0, 2 * np.pi, 0.01)
    mask = np.zeros((60, 80), np.uint8)
    mask[(30 + 25 * np.sin(angle)).astype(int), (40 + 35 * np.cos(angle)).astype(int)] = 1
    mask = np.maximum.accumulate(mask, axis=1) & np.maximum.accumulate(mask[:, ::-1], axis=1)[:, ::-1]
    data = open_data(folder(place, {"a": mask}, "background\nx"))
    corners = []
    for tolerance in (0.0, 1.0):
        made = from_data(data, "coco", f"t{tolerance:g}", tracing=Tracing(tolerance=tolerance))
        content = json.loads((made.path / "annotations/instances_train.json").read_text())
        corners.append(len(content["annotations"][0]["segmentation"][0]) // 2)
        from_annotations(made.path, f"back{tolerance:g}")
        again = mask_at(place / f"back{tolerance:g}/train/masks/a.png")
        assert (again & mask).sum() / (again | mask).sum() > (0.97 if tolerance else 0.999)
    assert corners[1] < corners[0] / 3


@pytest.mark.shared
def test_real_masks_come_back(place: Path, shared: Path) -> None:
    """Polygons along the pixels are exact; within one pixel the IoU stays above 0.99; pycocotools reads the same."""
    for path in sorted((shared / "data/packages/val/masks").iterdir())[:6]:
        mask = mask_at(path)
        for component in components(mask):
            ring = joined(*trace(component))
            theirs = oracle.decode(oracle.frPyObjects([ring.ravel().tolist()], *mask.shape))[..., 0]
            area = np.s_[component.top :, component.left :]
            height, width = component.window.shape
            assert theirs.sum() == component.window.sum()
            assert (theirs[area][:height, :width] == component.window).all()
    Path("few").mkdir()
    for kind in ("images", "masks"):
        (place / "few/val" / kind).mkdir(parents=True)
        for path in sorted((shared / f"data/packages/val/{kind}").iterdir())[:6]:
            (place / "few/val" / kind / path.name).write_bytes(path.read_bytes())
    data = open_data("few")
    made = from_data(data, "label_studio", "ls", tracing=Tracing(tolerance=1.0))
    from_annotations(made.path, "back", painting=Painting(classes=("background", "object")))
    part, again = data.part("val"), open_data("back").part("val")
    for i in range(6):
        a, b = part[i].mask == 1, again[i].mask == 1
        assert (a & b).sum() / (a | b).sum() >= 0.99


# --- the command -----------------------------------------------------------------------------------------------------
@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    def run(*tokens: str) -> tuple[int, dict[str, Any], str]:
        code = cli.main([*tokens, "--json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out), captured.err

    return run


def test_the_command(place: Path, call: Any) -> None:
    picture(place / "pics/a.png")
    picture(place / "pics/b.png")
    written("export.json", [task(region("polygon", "carton", points=PERCENT_SQUARE)), task(image="b.png")])
    tokens = ("data", "convert", "export.json", "--images", "pics", "--classes", "carton", "--val", "50%")
    code, found, _ = call(*tokens, "--out", "out")
    assert code == 0
    assert found["images"] == {"train": 1, "val": 1}
    assert call("data", "check", found["path"])[0] == 0
    assert call(*tokens, "--out", "out")[0] == 2
    assert call(*tokens, "--out", "out", "--overwrite")[0] == 0
    code, found, _ = call("data", "convert", "out", "--to", "voc", "--out", "voc")
    assert code == 0
    assert "bitfront data convert voc --classes background,carton --out FOLDER" in found["notes"][-1]
    assert (place / "voc/Annotations/a.xml").is_file()
    assert call("data", "convert", "voc", "--out", "again")[0] == 0
    assert call("data", "convert", "voc", "--to", "coco", "--out", "coco")[0] == 0


@pytest.mark.parametrize(
    ("tokens", "code"),
    [
        (("nothing.json", "--out", "o"), 3),
        (("export.json", "--out", "o", "--to", "yolo"), 2),
        (("export.json", "--out", "o", "--from", "coko"), 2),
        (("export.json", "--out", "o", "--from", "coco"), 3),
        (("export.json", "--out", "o", "--from", "voc"), 3),
        (("export.json", "--out", "o", "--overlap", "larger"), 2),
        (("export.json", "--out", "o", "--boxes", "keep"), 2),
        (("export.json", "--out", "o", "--val", "150%"), 2),
        (("export.json", "--out", "o", "--part", "tset"), 2),
        (("a.png", "--out", "o"), 2),
        (("a.png", "--out", "o", "--from", "coco"), 2),
        (("conveyor", "--out", "o", "--to", "voc", "--shapes", "rle"), 2),
        (("conveyor", "--out", "o", "--to", "coco", "--tolerance", "-1"), 2),
        (("conveyor", "--out", "o", "--to", "coco", "--shapes", "dots"), 2),
    ],
)
def test_wrong_commands(place: Path, call: Any, tokens: tuple[str, ...], code: int) -> None:
    picture(place / "a.png")
    written("export.json", [task(region("polygon", "carton", points=PERCENT_SQUARE))])
    found = call("data", "convert", *tokens)
    assert found[0] == code, found
    assert found[1]["error"]["hint"]
    assert sorted(p.name for p in place.iterdir()) == ["a.png", "export.json"]


def test_errors_are_ours(place: Path, rng: np.random.Generator) -> None:
    """Annotations with any value replaced by junk end in an error of ours or work; never in a traceback."""
    picture(place / "a.png")
    good = json.dumps(
        [
            task(
                region("polygon", "x", points=PERCENT_SQUARE),
                region("brush", "y", rle=encode_brush(np.ones((H, W), bool))),
            )
        ]
    )
    good_coco = json.dumps(broken(bbox=[1, 2, 3, 4]))
    junk: list[Any] = [None, -1, 1e99, "x", [], {}, [[]], {"a": 1}, True, "\x00", [None], 2**70]

    def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
        return [at, *(p for key, v in inner for p in paths(v, (*at, key)))] if at or inner else [at]

    for text in (good, good_coco):
        for path in paths(json.loads(text))[1:]:
            content = json.loads(text)
            target = content
            for key in path[:-1]:
                target = target[key]
            target[path[-1]] = junk[int(rng.integers(len(junk)))]
            written("l.json", content)
            with contextlib.suppress(DataError, UsageError):
                from_annotations("l.json", "out", overwrite=True)
