"""Every command on images with a class: a network is trained, rounded, written, verified, scored and drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bitfront
from bitfront.contracts import DataInfo
from bitfront.errors import UsageError
from bitfront.verbs.opening import open_both, task_of
from bitfront.verbs.quantized_training import train_quantized

OPTIONS = bitfront.TrainOptions(epochs=3, batch_size=16, rate=3e-3, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey 20x20 pictures of horizontal and of vertical bars, in noise."""
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for part, n in (("train", 60), ("val", 20), ("test", 20)):
        for name in ("flat", "steep"):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 90, (20, 20))
                at = int(rng.integers(4, 14))
                pixels[(slice(at, at + 3), slice(2, 18)) if name == "flat" else (slice(2, 18), slice(at, at + 3))] = 230
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("net") / "bars.safetensors"
    made = bitfront.train("mnist_cnn", str(shapes), place, settings={"width": 0.25}, options=OPTIONS)
    assert made.resolution == (28, 28)
    assert made.metrics.value > 0.9
    return place


def test_the_task_is_seen_from_model_and_data(trained: Path, shapes: Path, tmp_path: Path) -> None:
    both = DataInfo("both", ("a", "b"), tasks=("segmentation", "classification"))
    assert task_of("mnist_cnn", both) == "classification"
    assert task_of("tiny", both) == "segmentation"
    assert task_of(str(trained), both) == "classification"
    assert task_of("package.module:factory", both) == "segmentation"
    assert task_of("mobilenet_v2") == "classification"
    bitfront.export(str(trained), tmp_path / "m.onnx")
    assert task_of(str(tmp_path / "m.onnx"), both) == "classification"
    opened = open_both(str(tmp_path / "m.onnx"), None)
    assert (opened.task.name, opened.info.classes) == ("classification", ("flat", "steep"))
    with pytest.raises(UsageError, match="'tiny' does not do classification"):
        open_both("tiny", str(shapes))
    with pytest.raises(UsageError, match="no labels for segmentation"):
        open_both("tiny", str(shapes), task="segmentation")
    with pytest.raises(UsageError, match="28x28 only"):
        open_both("mnist_cnn", str(shapes), settings={"resolution": (32, 32)})


def test_a_rounded_file_is_verified_and_scores_as_the_network(trained: Path, shapes: Path, tmp_path: Path) -> None:
    made = bitfront.quantize(str(trained), str(shapes), tmp_path / "q.onnx", n_calibrate=20)
    assert made.agreement.verified
    assert made.metrics.value > 0.9
    alone = bitfront.evaluate(str(tmp_path / "q.onnx"), str(shapes))
    assert (alone.part, alone.metrics.n, alone.metrics.score) == ("test", 40, "accuracy")
    assert alone.metrics.value == made.metrics.value
    assert bitfront.evaluate(str(trained), str(shapes)).metrics.value == made.float_metrics.value
    assert bitfront.verify(tmp_path / "q.onnx").agreement.verified
    picture = shapes / "test/flat/0.png"
    with pytest.raises(UsageError, match="--mask is a label map"):
        bitfront.evaluate(str(tmp_path / "q.onnx"), None, image=picture, mask=picture)


def test_pictures_are_named(trained: Path, shapes: Path, tmp_path: Path) -> None:
    made = bitfront.predict(str(trained), shapes / "test/steep", tmp_path / "drawn")
    assert len(made.files) == 20
    with Image.open(made.files[0]) as picture:
        assert picture.width == 160
        assert picture.height > 160


def test_one_bit_weights_are_trained_to_a_file(trained: Path, shapes: Path, tmp_path: Path) -> None:
    options = bitfront.TrainOptions(epochs=3, batch_size=16, rate=1e-2, device="cpu")
    made = train_quantized(str(trained), str(shapes), tmp_path / "b.onnx", recipe="bwn", options=options)
    assert made.agreement.verified
    assert made.agreement.max_code_difference == 0
    assert made.metrics.value > 0.8
    assert made.exported.size_bytes < made.float_size_bytes / 2
    assert json.loads(made.plan.read_text())["recipe"] == "bwn"
    with pytest.raises(UsageError, match="edges belong to binary weights"):
        train_quantized(str(trained), str(shapes), tmp_path / "i.onnx", recipe="int8", edges="int8", options=options)


def test_a_front_is_found(trained: Path, shapes: Path, tmp_path: Path) -> None:
    run = bitfront.fit(
        str(trained), str(shapes), recipes=("int8",), objectives=("score", "size"), retrain="never", runs=tmp_path,
        name="bars",
    )  # fmt: skip
    assert run.front
    record = run.records()[0]
    assert record.val is not None
    assert record.val.score == "accuracy"
    panels = json.loads((run.path / "previews/index.json").read_text())[0]["panels"]
    assert {"input", "label", "float"} <= set(panels)
    assert (run.path / "confusion_matrix.png").is_file()
