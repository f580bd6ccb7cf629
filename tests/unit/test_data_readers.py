"""Every reader on files that the tests write: pairs, label tables, and what is said when something is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitfront.contracts import IGNORE
from bitfront.data.ade20k import Ade20k
from bitfront.data.camvid import CLASSES, COLORS, CamVid
from bitfront.data.cityscapes import Cityscapes
from bitfront.data.coco_stuff import CLASSES as STUFF
from bitfront.data.coco_stuff import NAMES, SUBSETS, CocoStuff
from bitfront.data.folder import Folder
from bitfront.data.voc import Voc
from bitfront.errors import DataError, LabelError, UsageError


def write(path: Path, pixels: object, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(pixels, np.uint8), mode)
    if mode == "P":
        image.putpalette([v for i in range(256) for v in (i, 255 - i, 7)])
    image.save(path)
    return path


def picture(path: Path, height: int = 4, width: int = 6, value: int = 90) -> Path:
    return write(path, np.full((height, width, 3), value))


def masks_of(values: list[int], height: int = 4, width: int = 6) -> np.ndarray:
    return np.resize(np.array(values, np.uint8), (height, width))


def make_folder(root: Path, masks: Mapping[str, np.ndarray], image: str = "{}/images/a{}.jpg") -> Path:
    for number, (part, mask) in enumerate(masks.items()):
        picture(root / image.format(part, number), value=number * 20)
        write(root / image.format(part, number).replace("images", "masks").replace(".jpg", ".png"), mask)
    return root


# --- folder ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("image", ["{}/images/a{}.jpg", "images/{}/a{}.jpg", "{}/images/deep/er/a{}.JPG"])
def test_folder_layouts(tmp_path: Path, image: str) -> None:
    root = make_folder(tmp_path, {"train": masks_of([0, 1]), "test": masks_of([1])}, image.replace("JPG", "jpg"))
    assert Folder.recognises(root)
    data = Folder.open(root)
    assert data.parts() == ("train", "test")
    assert data.info.classes == ("background", "object")
    assert data.info.background == 0
    sample = data.part("train")[0]
    assert sample.id == image.replace("JPG", "jpg").format("train", 0)
    assert sample.image.shape == (4, 6, 3)
    assert sample.mask is not None
    assert sample.mask.tolist() == masks_of([0, 1]).tolist()
    assert data.files("test")[0][0].name == "a1.jpg"


def test_folder_without_parts_is_train(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    write(tmp_path / "masks/a_mask.png", masks_of([0, 1, 2]))
    data = Folder.open(tmp_path)
    assert data.parts() == ("train",)
    assert data.info.classes == ("class_0", "class_1", "class_2")
    assert data.info.background is None
    with pytest.raises(DataError, match="there is no part 'val'") as caught:
        data.part("val")
    assert caught.value.hint == "it has train"
    with pytest.raises(UsageError, match="unknown part 'vla'"):
        data.part("vla")


def test_0_and_255_mean_0_and_1_when_there_is_nothing_else(tmp_path: Path) -> None:
    data = Folder.open(make_folder(tmp_path / "a", {"train": masks_of([0, 255])}))
    assert data.notes == ("masks hold 0 and 255: 255 is read as class 1",)
    assert np.array_equal(data.part("train")[0].mask, masks_of([0, 1]))
    data = Folder.open(make_folder(tmp_path / "b", {"train": masks_of([0, 1, 255])}))
    assert data.notes == ()
    assert np.array_equal(data.part("train")[0].mask, masks_of([0, 1, IGNORE]))


def test_class_names_from_argument_or_file(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train": masks_of([0, 1])})
    assert Folder.open(root, classes=["bg", "box", "bag"]).info.classes == ("bg", "box", "bag")
    (root / "classes.txt").write_text("Background\nbox\n\n", encoding="utf-8")
    data = Folder.open(root)
    assert data.info.classes == ("Background", "box")
    assert data.info.background == 0
    (root / "classes.txt").write_text("box\nbox\n", encoding="utf-8")
    with pytest.raises(UsageError, match="needs 2 to 254 different class names"):
        Folder.open(root)


def test_values_that_are_no_indices_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="hold the values 0, 38, 75, which are no class indices") as caught:
        Folder.open(make_folder(tmp_path, {"train": masks_of([0, 38, 75])}))
    assert "palette" in caught.value.hint


def test_labels_out_of_range_name_value_count_and_cause(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train": masks_of([0, 1, 2, 254])})
    data = Folder.open(root, classes=["a", "b", "c"])
    with pytest.raises(
        LabelError, match=r"a0\.png: label value 254 in 6 pixels, but the 3 classes are 0\.\.2"
    ) as caught:
        data.part("train")[0]
    assert caught.value.hint == "an 'ignore' label? set ignore_label: 254 in a data YAML"
    for values, cause in (
        ([0, 5], "palette converted to grey"),
        (list(range(12)), "lossy"),
        ([0, 1, 2, 3], "more classes"),
    ):
        write(root / "train/masks/a0.png", masks_of(values))
        with pytest.raises(LabelError, match="but the 3 classes are") as caught:
            data.part("train")[0]
        assert cause in caught.value.hint


def test_size_mismatch_and_transposed_pairs(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train": masks_of([0, 1], 3, 6), "val": masks_of([0, 1], 6, 4)})
    data = Folder.open(root)
    with pytest.raises(LabelError, match="mask is 6x3, its image 6x4") as caught:
        data.part("train")[0]
    assert "export the mask at the size" in caught.value.hint
    with pytest.raises(LabelError, match="mask is 4x6, its image 6x4") as caught:
        data.part("val")[0]
    assert "height and width are swapped" in caught.value.hint


def test_exif_turned_images_fit_the_mask_of_the_displayed_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, shape in (("turned", (6, 4)), ("raw", (4, 6))):
        path = tmp_path / name / "train/images/a.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (6, 4)).save(path, exif=exif)
        write(tmp_path / name / "train/masks/a.png", masks_of([0, 1], *shape))
    assert Folder.open(tmp_path / "turned").part("train")[0].image.shape == (6, 4, 3)
    with pytest.raises(LabelError, match="mask is 6x4, its image 4x6") as caught:
        Folder.open(tmp_path / "raw").part("train")[0]
    assert "EXIF orientation" in caught.value.hint


def test_images_without_mask_and_double_names(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train": masks_of([0, 1])})
    picture(root / "train/images/b.jpg")
    part = Folder.open(root).part("train")
    assert len(part) == 2
    with pytest.raises(DataError, match=r"b\.jpg: has no label map") as caught:
        part[1]
    assert caught.value.hint.endswith("train/masks/b.png")
    picture(root / "train/images/a0.png")
    with pytest.raises(DataError, match=r"a0\.png: has the same name as a0\.jpg"):
        Folder.open(root)


def test_folders_without_data(tmp_path: Path) -> None:
    assert not Folder.recognises(tmp_path)
    with pytest.raises(DataError, match="found no images"):
        Folder.open(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        Folder.open(tmp_path / "none")
    with pytest.raises(UsageError, match="needs a folder"):
        Folder.open(None)
    picture(tmp_path / "train/images/a.png")
    write(tmp_path / "train/masks/b.png", masks_of([0]))
    with pytest.raises(DataError, match="none of the 1 images"):
        Folder.open(tmp_path)


def test_digest_changes_with_any_file_and_with_the_meaning(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train": masks_of([0, 1]), "val": masks_of([0, 1])})
    first, other = Folder.open(root).digest("train"), Folder.open(root).digest("val")
    assert Folder.open(root).digest("train") == first
    assert Folder.open(root, classes=["a", "b"]).digest("train") != first
    write(root / "train/masks/a0.png", masks_of([1, 0]))
    data = Folder.open(root)
    changed = data.digest("train")
    assert changed != first
    assert data.digest("val") == other
    picture(root / "train/images/a0.jpg", value=1)
    assert data.digest("train") != changed  # the same object looks at the files again


def test_slices_and_hidden_files(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"train": masks_of([0, 1])})
    for name in ("b", "c"):
        picture(root / f"train/images/{name}.jpg")
        write(root / f"train/masks/{name}.png", masks_of([1]))
    (root / "train/images/._a0.jpg").write_bytes(b"junk")
    (root / "train/images/Thumbs.db").write_bytes(b"junk")
    part = Folder.open(root).part("train")
    assert [s.id for s in part] == ["train/images/a0.jpg", "train/images/b.jpg", "train/images/c.jpg"]
    assert [s.id for s in part[1:]] == ["train/images/b.jpg", "train/images/c.jpg"]
    assert part[-1].id == "train/images/c.jpg"


# --- the others ------------------------------------------------------------------------------------------------------
def test_camvid_indices_and_colours(tmp_path: Path) -> None:
    picture(tmp_path / "train/a.png")
    write(tmp_path / "trainannot/a.png", masks_of([0, 10, 11]))
    picture(tmp_path / "val/b.png")
    colors = list(COLORS)
    write(tmp_path / "val_labels/b_L.png", np.resize(np.array(colors, np.uint8), (4, 6, 3)))
    assert CamVid.recognises(tmp_path)
    data = CamVid.open(tmp_path)
    assert data.parts() == ("train", "val")
    assert len(data.info.classes) == 11
    assert np.array_equal(data.part("train")[0].mask, masks_of([0, 10, IGNORE]))
    expected = np.resize(np.array([COLORS[c] for c in colors], np.uint8), (4, 6))
    expected[expected == 11] = IGNORE
    assert np.array_equal(data.part("val")[0].mask, expected)
    write(tmp_path / "val_labels/b_L.png", np.full((4, 6, 3), 77))
    with pytest.raises(DataError, match=r"colour \(77, 77, 77\) stands for no class"):
        data.part("val")[0]


@pytest.mark.parametrize(
    ("color", "name"),
    [
        ((64, 64, 0), "Pedestrian"),
        ((0, 128, 192), "Bicyclist"),
        ((64, 128, 192), "Car"),  # SUVPickupTruck
        ((0, 0, 192), "Pavement"),  # Sidewalk
        ((128, 0, 192), "Road"),  # LaneMkgsDriv
        ((192, 192, 0), "Tree"),  # VegetationMisc
        ((64, 192, 0), "Building"),  # Wall
    ],
)
def test_camvid_merges_its_32_classes(color: tuple[int, int, int], name: str) -> None:
    assert CLASSES[COLORS[color]] == name
    assert len(COLORS) == 32 + 1  # Void among them, and the second colour of Pavement


@pytest.mark.parametrize(("kind", "stored"), [("labelIds", [7, 33, 0, 11]), ("labelTrainIds", [0, 18, 255, 2])])
def test_cityscapes(tmp_path: Path, kind: str, stored: list[int]) -> None:
    picture(tmp_path / "leftImg8bit/val/bonn/bonn_1_2_leftImg8bit.png")
    picture(tmp_path / "leftImg8bit/test/bonn/bonn_9_9_leftImg8bit.png")
    write(tmp_path / f"gtFine/val/bonn/bonn_1_2_gtFine_{kind}.png", masks_of(stored))
    write(tmp_path / "gtFine/val/bonn/bonn_1_2_gtFine_instanceIds.png", masks_of([0]))
    assert Cityscapes.recognises(tmp_path)
    data = Cityscapes.open(tmp_path)
    assert data.parts() == ("val",)
    assert data.notes == (f"labels: {kind}",)
    assert np.array_equal(data.part("val")[0].mask, masks_of([0, 18, IGNORE, 2]))
    with pytest.raises(UsageError, match="unknown kind of Cityscapes labels"):
        Cityscapes.open(tmp_path, labels="instanceIds")


@pytest.mark.parametrize("home", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc(tmp_path: Path, home: str) -> None:
    root = tmp_path / home
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("a\nb\n", encoding="utf-8")
    for name in "abc":
        picture(root / f"JPEGImages/{name}.jpg")
        write(root / f"SegmentationClass/{name}.png", masks_of([0, 20, 255]), "P")
    assert Voc.recognises(tmp_path)
    data = Voc.open(tmp_path)
    assert [s.id for s in data.part("train")] == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    assert np.array_equal(data.part("train")[0].mask, masks_of([0, 20, IGNORE]))
    assert data.info.background == 0
    assert data.info.palette[15] == (192, 128, 128)


def test_ade20k(tmp_path: Path) -> None:
    picture(tmp_path / "images/validation/a.jpg")
    write(tmp_path / "annotations/validation/a.png", masks_of([0, 1, 150]))
    assert Ade20k.recognises(tmp_path)
    data = Ade20k.open(tmp_path)
    assert len(set(data.info.classes)) == 150
    assert data.parts() == ("val",)
    assert np.array_equal(data.part("val")[0].mask, masks_of([IGNORE, 0, 149]))


def values(*wanted: str) -> list[int]:
    return [255 if name == "?" else NAMES.index(name) for name in wanted]


def make_stuff(
    root: Path, scenes: Mapping[str, list[str]], maps: str = "stuffthingmaps", images: str = "images"
) -> Path:
    for name, shown in scenes.items():
        picture(root / images / f"{name}.jpg")
        write(root / maps / f"{name}.png", masks_of(values(*shown)))
    return root


@pytest.mark.parametrize("maps", ["stuffthingmaps", "annotations", "annotations/stuffthingmaps"])
@pytest.mark.parametrize("images", ["images", "."])
def test_coco_stuff(tmp_path: Path, maps: str, images: str) -> None:
    scenes = {"train2017/1": ["person", "toothbrush", "banner", "wood", "?"], "val2017/2": ["street sign"]}
    make_stuff(tmp_path, scenes, maps, images)
    assert CocoStuff.recognises(tmp_path)
    data = CocoStuff.open(tmp_path)
    assert data.parts() == ("train", "val")
    assert (len(NAMES), len(set(STUFF)), data.info.classes) == (182, 171, STUFF)
    assert NAMES[:3] == ("person", "bicycle", "car")
    assert (NAMES[89], NAMES[91], NAMES[156], NAMES[181]) == ("toothbrush", "banner", "sky-other", "wood")
    assert np.array_equal(data.part("train")[0].mask, masks_of([0, 79, 80, 170, IGNORE]))
    assert (data.part("val")[0].mask == IGNORE).all()  # one of the ids that COCO gave up
    write(tmp_path / maps / "val2017/2.png", masks_of([182]))
    with pytest.raises(LabelError, match="label value 182"):
        data.part("val")[0]


def test_coco_stuff_with_an_open_set(tmp_path: Path) -> None:
    make_stuff(tmp_path, {"train2017/1": ["wall-brick", "wall-tile", "desk-stuff", "zebra", "?"]})
    data = CocoStuff.open(tmp_path, keep=["desk", "wall"], other="other")
    assert data.info.classes == ("desk", "wall", "other")
    assert np.array_equal(data.part("train")[0].mask, masks_of([1, 1, 0, 2, IGNORE]))
    closed = CocoStuff.open(tmp_path, keep=["desk", "wall"])
    assert np.array_equal(closed.part("train")[0].mask, masks_of([1, 1, 0, IGNORE, IGNORE]))
    assert data.digest("train") != closed.digest("train")


def test_coco_stuff_images_are_chosen(tmp_path: Path) -> None:
    scenes = {
        "train2017/1": ["wall-wood", "laptop", "zebra", "zebra"],
        "train2017/2": ["wall-wood", "laptop", "wall-tile", "?"],
        "train2017/3": ["wall-wood", "wall-wood", "wall-tile", "?"],
        "val2017/4": ["zebra"],
    }
    make_stuff(tmp_path, scenes)
    (tmp_path / "stuffthingmaps/train2017/9.png").write_bytes(b"junk")
    picture(tmp_path / "images/train2017/9.jpg")

    def chosen(**options: object) -> list[str]:
        data = CocoStuff.open(tmp_path, keep=["wall", "laptop"], other="other", **options)
        assert len(data.files("train")) == len(data.part("train"))
        return [pair.stem for pair, _ in data.files("train")]

    assert chosen() == ["1", "2", "3", "9"]
    assert chosen(shows=["laptop"]) == ["1", "2", "9"]  # what cannot be read is left for the scan to report
    assert chosen(min_share=0.6) == ["2", "3", "9"]
    assert chosen(min_share=0.6, shows=["laptop", "cow"]) == ["2", "9"]
    with pytest.raises(DataError, match="none of the 1 images of 'val' is in the subset"):
        CocoStuff.open(tmp_path, shows=["cow"]).part("val")


def test_coco_stuff_office(tmp_path: Path) -> None:
    make_stuff(tmp_path, {"train2017/1": ["desk-stuff", "person", "cow"], "train2017/2": ["cow", "cow", "desk-stuff"]})
    data = CocoStuff.open(tmp_path, subset="office")
    assert len(data.info.classes) == 20
    assert (data.info.name, data.info.classes[-1]) == ("coco_stuff_office", "other")
    assert np.array_equal(data.part("train")[0].mask, masks_of([5, 11, 19]))
    assert len(data.part("train")) == 1
    assert set(SUBSETS) == {"office"}


def test_coco_stuff_options_without_sense(tmp_path: Path) -> None:
    make_stuff(tmp_path, {"train2017/1": ["cow"]})
    for options, message in (
        ({"subset": "ofice"}, "unknown COCO-Stuff subset 'ofice'"),
        ({"keep": ["cow", "hors"]}, "unknown COCO-Stuff class 'hors'"),
        ({"shows": ["hors"]}, "unknown COCO-Stuff class 'hors'"),
        ({"keep": ["wall", "wall-tile"]}, "'wall-tile' and 'wall' both hold 'wall-tile'"),
        ({"keep": ["cow"]}, "at least two classes"),
        ({"keep": ["cow", "cat"], "other": "cat"}, "at least two classes of different names"),
        ({"min_share": 60}, "min_share must lie between 0 and 1"),
    ):
        with pytest.raises(UsageError, match=message):
            CocoStuff.open(tmp_path, **options)


@pytest.mark.parametrize("reader", [CamVid, Cityscapes, Voc, Ade20k, CocoStuff])
def test_readers_refuse_what_is_not_theirs(tmp_path: Path, reader: type[CamVid]) -> None:
    assert not reader.recognises(tmp_path)
    with pytest.raises(DataError, match="found no"):
        reader.open(tmp_path)


@pytest.mark.shared
def test_packages_and_camvid_open_directly(shared: Path) -> None:
    packages = Folder.open(shared / "data/packages")
    assert {part: len(packages.part(part)) for part in packages.parts()} == {"train": 300, "val": 40}
    assert packages.info.classes == ("background", "object")
    assert packages.info.background == 0
    sample = packages.part("val")[7]
    assert sample.image.shape == (540, 960, 3)
    assert sample.mask is not None
    assert np.unique(sample.mask).tolist() == [0, 1]
    camvid = CamVid.open(shared / "data/camvid")
    assert {part: len(camvid.part(part)) for part in camvid.parts()} == {"train": 367, "val": 101}
    mask = camvid.part("val")[0].mask
    assert mask is not None
    assert set(np.unique(mask)) <= {*range(11), IGNORE}
