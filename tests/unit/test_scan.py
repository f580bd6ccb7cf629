"""The scan finds every planted fault, raises no false alarm, remembers what it saw, and says what leaks."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitfront.contracts import DataInfo, Sample
from bitfront.data.conveyor import Conveyor
from bitfront.data.folder import Folder
from bitfront.errors import DataError, LabelError
from bitfront.record import from_json, to_json
from bitfront.scan import Health, examine, scan, without

SIZE = (24, 32)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def make(root: Path, n: int, rng: np.random.Generator, parts: tuple[str, ...] = ("train",)) -> Path:
    """``n`` sound samples per part."""
    for part in parts:
        (root / part / "images").mkdir(parents=True)
        (root / part / "masks").mkdir(parents=True)
        for i in range(n):
            image = Image.fromarray(rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8))
            image.save(root / part / f"images/{i:04d}.{'png' if i % 3 else 'jpg'}")
            mask = rng.integers(0, 3, SIZE).astype(np.uint8)
            mask[0] = 255
            Image.fromarray(mask).save(root / part / f"masks/{i:04d}.png")
    return root


def opened(root: Path) -> Folder:
    return Folder.open(root, classes=["background", "box", "bag"])


def image_of(root: Path, i: int) -> Path:
    return root / f"train/images/{i:04d}.{'png' if i % 3 else 'jpg'}"


def mask_of(root: Path, i: int) -> Path:
    return root / f"train/masks/{i:04d}.png"


NOISE = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)
PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*SIZE, 3)).astype(np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6

FAULTS: list[tuple[Callable[[Path, int], Path], bytes | None, str]] = [
    (image_of, b"", "the file is empty"),
    (mask_of, b"", "the file is empty"),
    (image_of, b"<html>404</html>", "HTML"),
    (image_of, b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
    (image_of, b"GIF89a" + bytes(40), "GIF"),
    (image_of, bytes(500), "known format"),
    (image_of, encode(PICTURE, "PNG")[:300], "PNG file"),
    (image_of, encode(PICTURE, "JPEG")[:400], "JPEG file"),
    (mask_of, encode(Image.fromarray(NOISE), "PNG")[:90], "PNG file"),
    (image_of, encode(Image.fromarray(np.zeros(SIZE, np.float32)), "TIFF"), "floating-point"),
    (image_of, encode(Image.new("I", SIZE), "TIFF"), "32-bit"),
    (mask_of, encode(Image.fromarray(NOISE), "JPEG"), "saved as JPEG"),
    (mask_of, encode(PICTURE, "PNG"), "label map in colours"),
    (mask_of, encode(Image.fromarray(NOISE.astype(np.uint16) * 1000), "PNG"), "16-bit label map"),
    (mask_of, encode(Image.fromarray(NOISE + 1), "PNG"), "label value 3"),
    (mask_of, encode(Image.fromarray(NOISE * 100), "PNG"), "label value"),
    (mask_of, encode(Image.fromarray(NOISE[:-1]), "PNG"), "mask is 32x23, its image 32x24"),
    (mask_of, encode(Image.fromarray(NOISE.T.copy()), "PNG"), "mask is 24x32"),
    (image_of, encode(PICTURE, "JPEG", exif=TURNED.tobytes()), "mask is 32x24, its image 24x32"),
    (mask_of, None, "has no label map"),
]
LABEL_FAULTS = 5


def test_500_files_with_20_planted_faults(tmp_path: Path, rng: np.random.Generator) -> None:
    root = make(tmp_path, 250, rng)  # 250 images and 250 masks
    places = rng.choice(250, len(FAULTS), replace=False)
    for place, (which, content, _) in zip(places, FAULTS, strict=True):
        path = which(root, int(place))
        path.unlink() if content is None else path.write_bytes(content)
    health = examine(opened(root))
    found = {fault.index: fault for fault in health.faults}
    assert set(found) == {int(p) for p in places}
    for place, (_, _, message) in zip(places, FAULTS, strict=True):
        assert message in found[int(place)].reason
        assert f"{int(place):04d}" in found[int(place)].reason
        assert found[int(place)].hint
    assert sum(f.label for f in health.faults) == LABEL_FAULTS
    assert health.parts["train"].sizes == {"32x24": 230}
    error = health.error()
    assert isinstance(error, LabelError)
    assert "(and 4 more samples with such labels)" in str(error)


def test_sound_data_raises_no_alarm(tmp_path: Path, rng: np.random.Generator) -> None:
    data = opened(make(tmp_path, 20, rng, ("train", "val")))
    health = scan(data)
    assert health.faults == ()
    assert health.warnings == ()
    part = health.parts["val"]
    assert (part.n, part.n_examined, part.ignored_pixels) == (20, 20, 20 * 32)
    assert sum(part.pixels.values()) == 20 * 32 * 23
    assert list(part.pixels) == ["background", "box", "bag"]
    assert from_json(Health, json.loads(json.dumps(to_json(health)))) == health


def test_up_to_one_per_cent_is_left_out(tmp_path: Path, rng: np.random.Generator) -> None:
    root = make(tmp_path, 200, rng)
    for i in (7, 100):
        image_of(root, i).write_bytes(b"")
    data = opened(root)
    health = scan(data)
    assert [line.split(":")[:2] for line in health.warnings] == [["train", " left out"]] * 2
    part = health.usable("train", data.part("train"))
    assert len(part) == 198
    assert [s.id for s in part[6:8]] == ["train/images/0006.jpg", "train/images/0008.png"]
    image_of(root, 50).write_bytes(b"")
    with pytest.raises(DataError, match=r"3 of 200 samples cannot be used, up to 1% are left out; the first: .*0007"):
        scan(data)


def test_one_wrong_label_stops_the_work(tmp_path: Path, rng: np.random.Generator) -> None:
    root = make(tmp_path, 300, rng)
    Image.fromarray(np.full(SIZE, 254, np.uint8)).save(mask_of(root, 5))
    with pytest.raises(LabelError, match=r"0005\.png: label value 254 in 768 pixels") as caught:
        scan(opened(root))
    assert "ignore_label: 254" in caught.value.hint


def test_the_same_image_in_two_parts_is_a_leak(tmp_path: Path, rng: np.random.Generator) -> None:
    root = make(tmp_path, 4, rng, ("train", "val"))
    (root / "val/images/0001.png").write_bytes((root / "train/images/0002.png").read_bytes())
    health = scan(opened(root))
    assert health.leaks == (("train/train/images/0002.png", "val/val/images/0001.png"),)
    assert "scores are too good" in health.warnings[-1]


def test_empty_classes_and_notes_are_listed(tmp_path: Path, rng: np.random.Generator) -> None:
    root = make(tmp_path, 3, rng)
    for i in range(3):
        Image.fromarray(np.zeros(SIZE, np.uint16)).save(mask_of(root, i))
    health = scan(opened(root))
    assert health.parts["train"].empty_classes == ("box", "bag")
    assert health.warnings == (
        "train: 3 samples: mask: 16-bit label map",
        "train: nothing of box, bag: no score for them here",
    )


def test_what_was_seen_is_remembered_by_content(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = make(tmp_path / "data", 6, rng), tmp_path / "cache"
    image_of(root, 4).write_bytes(b"")
    first = examine(opened(root), cache=cache)
    decoded: list[Path] = []
    real = Folder.part

    def watched(self: Folder, name: str) -> object:
        part = real(self, name)
        whole = part.decode  # type: ignore[attr-defined]
        part.decode = lambda i: decoded.append(part.pairs[i].image) or whole(i)  # type: ignore[attr-defined]
        return part

    monkeypatch.setattr(Folder, "part", watched)
    assert examine(opened(root), cache=cache) == first
    assert decoded == []
    Image.fromarray(np.ones(SIZE, np.uint8)).save(mask_of(root, 2))
    changed = examine(opened(root), cache=cache)
    assert decoded == [image_of(root, 2)]
    assert changed.parts["train"].pixels != first.parts["train"].pixels
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes().replace(b'"index": 1', b'"index": 2'))
    assert examine(opened(root), cache=cache) == changed  # the checksum shows the damage: all is decoded again
    assert len(decoded) == 1 + 6
    Folder.open(root, classes=["a", "b", "c"])
    examine(Folder.open(root, classes=["a", "b", "c", "d"]), cache=cache)
    assert len(decoded) == 1 + 6 + 6  # other classes, other meaning


def test_an_unwritable_cache_does_no_harm(tmp_path: Path, rng: np.random.Generator) -> None:
    root = make(tmp_path / "data", 2, rng)
    (tmp_path / "file").write_bytes(b"")
    assert scan(opened(root), cache=tmp_path / "file/sub").faults == ()


def test_progress_and_chosen_parts(tmp_path: Path, rng: np.random.Generator) -> None:
    seen: list[tuple[str, int, int]] = []
    data = opened(make(tmp_path, 3, rng, ("train", "val", "test")))
    health = scan(data, ("val",), progress=lambda *args: seen.append(args))
    assert list(health.parts) == ["val"]
    assert seen == [("scan val", 1, 3), ("scan val", 2, 3), ("scan val", 3, 3)]


def test_generated_data_is_sampled() -> None:
    health = scan(Conveyor(size=(48, 48), n_train=120, n_val=5, n_test=0))
    assert (health.parts["train"].n, health.parts["train"].n_examined) == (120, 100)
    assert health.parts["val"].n_examined == 5
    assert health.leaks == ()
    assert sum(health.parts["val"].images.values()) == 5
    assert set(health.parts["train"].boxes) == {"background", "carton", "mailer", "tube"}


def test_without() -> None:
    part = [Sample(str(i), np.zeros((1, 1, 3), np.uint8)) for i in range(5)]
    assert [s.id for s in without(part, [1, 3])] == ["0", "2", "4"]
    assert without(part, []) is part
    assert without(part, [0])[-1].id == "4"
    assert DataInfo("x", ()).classes == ()
