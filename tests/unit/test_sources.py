"""MODEL and DATA arguments: what is recognised, what is refused, and the one clear line that says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bitfront import sources
from bitfront.contracts import DataInfo, InputContract, OutputContract
from bitfront.errors import DataError, UsageError
from bitfront.models.tiny import Tiny
from bitfront.sources import Source, open_data, open_model
from bitfront.tasks.segmentation import Segmentation
from bitfront.train.checkpoints import save_checkpoint

TASK = Segmentation()
BINARY = DataInfo("belt", ("background", "package"), background=0)
STREET = DataInfo("street", ("sky", "road", "car"))


def opened(text: str | Path, info: DataInfo = BINARY, **options: object) -> Source:
    return open_model(str(text), task=TASK, info=info, **options)  # type: ignore[arg-type]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A described checkpoint of the tiny net, one logit, trained at 64x96."""
    torch.manual_seed(0)
    path = tmp_path / "mine.safetensors"
    options = {"classes": 1, "channels": 3, "width": 1.0}
    contract = InputContract(64, 96, mean=(0.5,) * 3, std=(0.5,) * 3)
    header = {"model": "tiny", "options": options, "classes": BINARY.classes, "input": contract}
    save_checkpoint(path, Tiny(**options).build(), header)
    return path


# --- models ----------------------------------------------------------------------------------------------------------
def test_a_catalogue_model_takes_its_classes_from_the_data() -> None:
    assert opened("tiny").options["classes"] == 1
    street = opened("tiny", STREET)
    assert (street.options["classes"], street.output.readout) == (3, "argmax")
    assert street.build().logits.out_channels == 3
    assert (street.kind, street.sized, street.input.mean) == ("catalogue", False, InputContract(1, 1).mean)


def test_settings_fix_knobs() -> None:
    source = opened("tiny", settings={"width": 0.5, "resolution": (64, 96)})
    assert "width" not in source.knobs
    assert (source.input.height, source.input.width, source.sized) == (64, 96, True)
    assert source.build().logits.in_channels == 8
    assert opened("tiny").build({"width": 0.5}).logits.in_channels == 8


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"widht": 1}, "unknown option of tiny 'widht'", "did you mean 'width'"),
        ({"resolution": (60, 64)}, "multiples of 8, not 60x64", "64x64"),
        ({"width": (0.5, 1.0)}, "'width' has several values", "choose one"),
        ({"resolution": ((64, 64), (96, 96))}, "'resolution' has several values", "choose one"),
        ({"classes": 7}, "7 output channels does not fit the 2 classes", "one channel a class"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        opened("tiny", settings=settings)
    assert hint in caught.value.hint


def test_the_data_may_say_how_to_feed() -> None:
    info = DataInfo("x", ("a", "b"), preprocess={"mean": [0.1, 0.2, 0.3], "std": 0.5, "resize": "nearest"})
    contract = opened("tiny", info).input
    assert (contract.mean, contract.std, contract.resize) == ((0.1, 0.2, 0.3), (0.5,) * 3, "nearest")
    assert opened("tiny", info, preprocess="signed").input.mean == (0.5,) * 3
    raw = opened("tiny", preprocess="raw").input
    assert raw.std == pytest.approx((1 / 255,) * 3)
    with pytest.raises(UsageError, match="unknown preprocessing 'imagenett'"):
        opened("tiny", preprocess="imagenett")
    grey = opened("tiny", settings={"channels": 1}).input
    assert (grey.color, len(grey.mean)) == ("y", 1)


@pytest.mark.parametrize("name", ["tinny", "nothing.safetensors", "nothing.onnx"])
def test_models_that_are_not_there(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}'"):
        opened(name)


def test_other_files_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match="is no model file"):
        opened(tmp_path / "a.txt")


# --- checkpoints -----------------------------------------------------------------------------------------------------
def test_a_checkpoint_describes_itself(checkpoint: Path) -> None:
    source = opened(checkpoint)
    assert (source.kind, source.name, source.sized, source.notes) == ("checkpoint", "tiny", True, ())
    assert (source.input.height, source.input.width, source.input.mean) == (64, 96, (0.5,) * 3)
    torch.manual_seed(0)
    same = Tiny(classes=1).build().state_dict()
    assert all(torch.equal(v, same[k]) for k, v in source.build().state_dict().items())
    graph = source.graph()
    assert graph.tensors[graph.inputs[0]].shape == (1, 3, 64, 96)


def test_a_foreign_checkpoint_is_recognised_and_the_choice_is_said(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    module = Tiny(classes=1, width=0.5).build()
    save_checkpoint(path, {k: v.numpy() for k, v in module.state_dict().items()}, {})
    source = opened(path)
    assert (source.name, source.options["width"], source.sized) == ("tiny", 0.5, False)
    assert "512x512 with imagenet normalization" in source.notes[0]
    assert opened(path, settings={"resolution": (64, 64)}).input.height == 64


def test_pickles_are_opened_only_without_their_code(tmp_path: Path) -> None:
    module = Tiny(classes=1).build()
    torch.save({"state_dict": module.state_dict()}, tmp_path / "a.pt")
    source = opened(tmp_path / "a.pt")
    assert source.name == "tiny"
    assert torch.equal(source.build().logits.weight, module.logits.weight)
    torch.save(module, tmp_path / "b.pt")
    with pytest.raises(DataError, match="could run code when opened"):
        opened(tmp_path / "b.pt")
    (tmp_path / "c.pth").write_bytes(b"no zip")
    with pytest.raises(DataError, match="is damaged"):
        opened(tmp_path / "c.pth")


def test_unknown_weights(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", {"w": np.zeros(3, np.float32)}, {})
    with pytest.raises(DataError, match="no model of the catalogue has the weights"):
        opened(tmp_path / "x.safetensors")


def test_a_checkpoint_of_other_classes(checkpoint: Path) -> None:
    with pytest.raises(DataError, match=r"2 classes \(background, package\), and 'street' has 3"):
        opened(checkpoint, STREET)
    with pytest.raises(UsageError, match="'width' cannot be changed"):
        opened(checkpoint, settings={"width": 0.5})


def test_a_folder_of_weights_serves_the_architectures_it_fits(tmp_path: Path, checkpoint: Path) -> None:
    small = Tiny(classes=1, width=0.5).build()
    save_checkpoint(tmp_path / "small.safetensors", {k: v.numpy() for k, v in small.state_dict().items()}, {})
    header = {"model": "tiny", "options": {"classes": 1, "channels": 3, "width": 1.0}, "input": InputContract(32, 32)}
    save_checkpoint(tmp_path / "a32.safetensors", Tiny(classes=1).build(), header)
    source = opened("tiny", weights=tmp_path)
    assert source.weights_for({"width": 0.5}, (64, 96)).path.name == "small.safetensors"  # type: ignore[union-attr]
    assert source.weights_for({"width": 1.0}, (64, 96)).path == checkpoint  # type: ignore[union-attr]
    assert source.weights_for({"width": 1.0}, (32, 32)).path.name == "a32.safetensors"  # type: ignore[union-attr]
    assert source.weights_for({"width": 2.0}, (32, 32)) is None
    assert torch.equal(source.build({"width": 0.5}).logits.weight, small.logits.weight)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no checkpoint of tiny"):
        opened("tiny", weights=tmp_path / "none")


@pytest.mark.shared
def test_published_checkpoints_are_recognised(shared: Path) -> None:
    source = opened(shared / "models/fastscnn_packages/fastscnn_a0.25t6r3pp1.safetensors")
    assert (source.name, source.options["width"], source.input.height) == ("fast_scnn", 0.25, 512)
    family = opened("fast_scnn", weights=shared / "models/fastscnn_packages")
    found = family.weights_for({"width": 0.125, "expansion": 2, "repeats": 1, "pyramid": False}, (512, 512))
    assert found is not None
    assert found.path.stem == "fastscnn_a0.125t2r1pp0"
    default = family.weights_for({"width": 0.125}, (512, 512))  # expansion 6, repeats 3 and the pyramid are defaults
    assert default is not None
    assert default.path.stem == "fastscnn_a0.125t6r3pp1"
    family.build({"width": 0.125})


# --- factories -------------------------------------------------------------------------------------------------------
FACTORY = """
import torch
from torch import nn

def small(channels=3, depth=4):
    return nn.Sequential(nn.Conv2d(channels, depth, 3, padding=1), nn.ReLU(), nn.Conv2d(depth, 1, 1))

def classed(classes):
    return nn.Conv2d(3, classes, 1)

class Family:
    knobs = {"depth": (4, 8)}
    size_multiple = 4
    def __init__(self, classes=1, depth=4): self.depth = depth
    def build(self): return small(depth=self.depth)

def broken(): raise RuntimeError("no weights\\nhere")
def number(): return 3
def pair(): return nn.ModuleList([nn.Conv2d(3, 1, 1)])
def pooled(): return nn.AdaptiveAvgPool2d(1)
value = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the current folder with several factories."""
    import sys

    (tmp_path / "mynets.py").write_text(FACTORY)
    (tmp_path / "badnets.py").write_text("import not_there_at_all")
    (tmp_path / "syntax.py").write_text("def (")
    monkeypatch.chdir(tmp_path)
    yield "mynets"
    for name in ("mynets", "badnets", "syntax"):
        sys.modules.pop(name, None)


def test_anyones_own_network(nets: str) -> None:
    source = opened("mynets:small", settings={"depth": 6, "resolution": (32, 32)})
    assert (source.kind, source.name, source.output.readout) == ("factory", "mynets:small", "threshold")
    assert source.build()[0].out_channels == 6
    assert opened("mynets:classed", STREET).build().out_channels == 3
    family = opened("mynets:Family")
    assert (family.knobs, family.size_multiple) == ({"depth": (4, 8)}, 4)
    assert family.build({"depth": 8})[0].out_channels == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mynets:smal", "'mynets' has no 'smal'"),
        ("mynets:value", "'mynets:value' is a int"),
        ("mynets:broken", "RuntimeError: no weights here"),
        ("mynets:number", "gives a int"),
        ("mynets:pair", r"fails on an image \(1, 3, 256, 256\)"),
        ("mynets:pooled", r"answers an image \(1, 3, 256, 256\) with \(1, 3, 1, 1\)"),
        ("notthere:x", "cannot import 'notthere': there is none"),
        ("badnets:x", "it imports 'not_there_at_all', which is not installed"),
        ("syntax:x", "'syntax' fails on import: SyntaxError"),
        ("a-b:x", "is not package.module:factory"),
    ],
)
def test_factories_that_do_not_work(nets: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(text)


def test_settings_of_a_factory(nets: str) -> None:
    with pytest.raises(UsageError, match="takes no 'widht'") as caught:
        opened("mynets:small", settings={"widht": 1})
    assert "channels, depth" in caught.value.hint


# --- ONNX ------------------------------------------------------------------------------------------------------------
def test_an_onnx_file_is_described_by_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"x")
    found = SimpleNamespace(
        input=InputContract(64, 64), output=OutputContract("threshold"), any_size=False, notes=("fed like ImageNet",)
    )
    runtime = SimpleNamespace(describe=lambda path, preprocess, info: found)
    monkeypatch.setattr(sources, "load", lambda kind, name: lambda: runtime)
    source = opened(path)
    assert (source.kind, source.name, source.sized, source.notes) == ("onnx", "net", True, ("fed like ImageNet",))
    with pytest.raises(UsageError, match="takes 64x64 only"):
        opened(path, settings={"resolution": (96, 96)})
    with pytest.raises(UsageError, match="is fixed"):
        opened(path, settings={"width": 1})
    with pytest.raises(UsageError, match="cannot be trained"):
        source.build()


# --- data ------------------------------------------------------------------------------------------------------------
def write_folder(root: Path) -> None:
    for kind, value in (("images", 200), ("masks", 1)):
        (root / "train" / kind).mkdir(parents=True)
        shape = (8, 8, 3) if kind == "images" else (8, 8)
        Image.fromarray(np.full(shape, value, np.uint8)).save(root / "train" / kind / "a.png")


def test_a_folder_is_recognised_and_a_reader_may_be_chosen(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert open_data(str(tmp_path)).parts() == ("train",)
    assert open_data(f"folder:{tmp_path}").parts() == ("train",)
    assert open_data(str(tmp_path), reader="folder").parts() == ("train",)


def test_a_yaml_file_may_choose_a_reader_and_its_options(tmp_path: Path) -> None:
    for folder, pixels in (
        ("images", np.zeros((4, 4, 3), np.uint8)),
        ("stuffthingmaps", np.full((4, 4), 20, np.uint8)),
    ):
        path = tmp_path / f"coco/{folder}/val2017/1.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels).save(path)
    described = tmp_path / "farm.yaml"
    described.write_text("reader: coco_stuff\npath: coco\nkeep: [horse, cow]\nother: rest\n", encoding="utf-8")
    data = open_data(str(described))
    assert data.info.classes == ("horse", "cow", "rest")
    assert (data.part("val")[0].mask == 1).all()
    for text, message in (
        ("reader: coco_stuf", r"farm\.yaml:1: reader: no reader 'coco_stuf'"),
        ("reader: yaml", "no reader 'yaml'"),
        ("reader: [coco_stuff]", "no reader"),
        ("reader: coco_stuff\npath: coco\nkep: [cow]", r"farm\.yaml:3: kep: 'coco_stuff' has no such option"),
        ("reader: coco_stuff\npath: coco\nroot: coco", "has no such option"),
        ("reader: coco_stuff\npath: coco\nkeep: 3", "these options do not fit 'coco_stuff'"),
    ):
        described.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=message):
            open_data(str(described))


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dataset and no folder 'conveyer'") as caught:
        open_data("conveyer")
    assert "did you mean 'conveyor'" in caught.value.hint
    with pytest.raises(UsageError, match="has no layout that bitfront knows") as caught:
        open_data(str(tmp_path))
    assert "train/images" in caught.value.hint
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file, not a dataset"):
        open_data(str(tmp_path / "a.png"))
    with pytest.raises(UsageError, match="unknown dataset 'foldr'"):
        open_data(str(tmp_path), reader="foldr")


def test_a_folder_that_two_readers_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = {"folder": True, "voc": True, "camvid": False}
    reader = {name: SimpleNamespace(recognises=lambda root, yes=yes: yes) for name, yes in claims.items()}
    monkeypatch.setattr(sources, "names", lambda kind: tuple(claims))
    monkeypatch.setattr(sources, "load", lambda kind, name: reader[name])
    assert sources._reader(tmp_path, tuple(claims)) == "voc"
    claims["camvid"] = True
    reader["camvid"] = reader["voc"]
    with pytest.raises(UsageError, match="looks like voc and like camvid"):
        open_data(str(tmp_path))
