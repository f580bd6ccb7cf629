# ruff: noqa: E501
"""Hundreds of wrong commands, files and configurations: one line, a hint, the right exit code, never a traceback."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitfront import cli
from bitfront.cli.app import COMMANDS

EXPECTED = {2, 3, 5}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of things that are not what they seem."""
    folder = tmp_path_factory.mktemp("bad")
    for name in ("empty.onnx", "empty.safetensors", "empty.yaml", "empty.png", "empty.pt"):
        (folder / name).write_bytes(b"")
    noise = np.random.default_rng(1).bytes(2000)
    for ending in ("onnx", "safetensors", "pt", "png", "yaml", "txt", "tflite"):
        (folder / f"noise.{ending}").write_bytes(noise)
    (folder / "evil.pt").write_bytes(pickle.dumps({"a": print}))
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "other.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    huge = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "huge.safetensors").write_bytes(len(huge).to_bytes(8, "little") + huge)
    (folder / "nothing").mkdir()
    (folder / "images_only" / "images").mkdir(parents=True)
    pixels = np.zeros((8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "black.png")
    Image.fromarray(pixels[:4, :, 0]).save(folder / "small_mask.png")
    Image.fromarray(pixels[:, :, 0] + 77).save(folder / "mask77.png")
    Image.fromarray(pixels).save(folder / "mask.jpg")
    broken = folder / "broken"
    for kind in ("images", "masks"):
        (broken / "train" / kind).mkdir(parents=True)
        (broken / "train" / kind / "a.png").write_bytes(noise)
    (folder / "broken_module.py").write_text("import this_does_not_exist\n")
    (folder / "raises.py").write_text("def build():\n    raise RuntimeError('no\\nluck')\n\nnumber = 3\n")
    (folder / "wrong.py").write_text("def build():\n    return 'a net'\n")
    return folder


def names() -> list[str]:
    return [name for group in COMMANDS.values() for name in group]


def options() -> Iterator[list[str]]:
    for name in names():
        yield [name, "--no-such-option"]
        yield [name, "--no-such-option=3", "x"]
        yield [name, "--config", "none.yaml", "--json", "--nonsense"]
        yield [name, "a", "b", "c", "d", "--x"]
        yield [name, "--json=maybe"]
    for wrong in ("fits", "evalute", "", "-x", "--jsn", "fit evaluate", "run", "☃"):
        yield [wrong, "x"]
    for sub in ("check", "show", "convert"):
        yield ["data", sub]
        yield ["data", sub, "no_such_data"]
        yield ["data", sub, "conveyr", "--reader", "no_such_reader"]
    yield ["data", "chek"]


def units() -> Iterator[list[str]]:
    for option in ("--max-latency", "--max-size", "--min-score", "--max-drop", "--time"):
        for text in ("", "x", "-1", "1y", "nan", "inf", "1e999", "33 parsecs", "0x10"):
            yield ["fit", "tiny", "conveyor", f"{option}={text}", "--dry-run"]
    for text in ("", "0", "abc", "1x", "99999999", "256x320x3", "-64", "1.5", "64xx64"):
        yield ["inspect", "tiny", "--set", f"resolution={text}"]
    for text in (
        "",
        "=",
        "width",
        "width=",
        "width=wide",
        "widht=1",
        "=3",
        "a b=c",
        "width=-1",
        "width=1e9",
        "classes=0",
    ):
        yield ["inspect", "tiny", "--set", text]
    yield ["inspect", "tiny", "--set", "width=0.5,1"]
    yield ["inspect", "tiny", "--set", "resolution=100"]
    yield ["inspect", "tiny", "--set", "width=1", "--set", "width=1"]
    for option, text in (
        ("--effort", "heroic"), ("--recipe", "int7"), ("--objective", "fame"), ("--device", "toaster"), ("--runtime", "abacus"),
        ("--retrain", "maybe"), ("--task", "telepathy"), ("--score", "luck"), ("--limit", "x"), ("--seed", "1.5"),
        ("--threads", "many"), ("--weights", "none"), ("--reader", "none"), ("--preprocess", "none"), ("--limit", "1"),
    ):  # fmt: skip
        yield ["fit", "tiny", "conveyor", "--dry-run", option, text]
    for option, text in (
        ("--epochs", "0"), ("--batch-size", "0"), ("--learning-rate", "-1"), ("--schedule", "steep"), ("--augment", "wild"),
        ("--time", "soon"), ("--patience", "-1"), ("--out", "x.pt"), ("--epochs", "x"),
    ):  # fmt: skip
        yield ["train", "tiny", "conveyor", "--out", "x.safetensors", "--dry-run", option, text]


MODELS = (
    "none.onnx", "none.safetensors", "nothing", "no_such_model", "fast_scn", "", " ", ".", "/", "~", "\x00", "a\nb", "x" * 3000,
    "empty.onnx", "empty.safetensors", "empty.pt", "noise.onnx", "noise.safetensors", "noise.pt", "noise.txt", "noise.tflite",
    "evil.pt", "other.safetensors", "huge.safetensors", "broken_module:build", "raises:build", "raises:number", "raises:none",
    "wrong:build", "no.such:thing", "os:system", ":", "a:", ":b", "a:b:c", "../x:y", "tiny.onnx", "☃",
)  # fmt: skip


def models() -> Iterator[list[str]]:
    for text in MODELS:
        for verb in (["evaluate"], ["inspect"], ["predict"], ["fit"]):
            tail = {"evaluate": ["conveyor"], "inspect": [], "predict": ["black.png", "--out", "o"]}
            yield (
                [*verb, "--", text, *tail["evaluate"]]
                if verb == ["evaluate"]
                else (
                    ["fit", text, "conveyor", "--dry-run"]
                    if verb == ["fit"] and text
                    else [*verb, text, *tail.get(verb[0], [])]
                )
            )
    for text in ("none.onnx", "nothing", "noise.onnx", "empty.onnx", "noise.txt", ""):
        yield ["verify", text]
        yield ["benchmark", text, "--time", "1s"]


DATA = (
    "none", "nothing", "noise.txt", "noise.yaml", "empty.yaml", "images_only", "broken", "", "\x00", "none.yaml", "conveyr",
    "folder:nothing", "camvid:nothing", "voc:none", "cityscapes:nothing", "ade20k:nothing", "conveyor:nothing", "☃", "x" * 3000,
)  # fmt: skip


def data() -> Iterator[list[str]]:
    for text in DATA:
        yield ["evaluate", "tiny", text]
        yield ["data", "check", text]
        yield ["fit", "tiny", text, "--dry-run"]
    for image, mask in (
        ("none.png", "mask77.png"), ("black.png", "none.png"), ("noise.png", "mask77.png"), ("black.png", "noise.png"),
        ("empty.png", "empty.png"), ("black.png", "small_mask.png"), ("black.png", "mask77.png"), ("black.png", "mask.jpg"),
        ("nothing", "nothing"), ("noise.txt", "noise.txt"),
    ):  # fmt: skip
        yield ["evaluate", "tiny", "--image", image, "--mask", mask]
    for images in ("none", "nothing", "noise.png", "empty.png", "noise.txt", ""):
        yield ["predict", "tiny", images, "--out", "o"]
    yield ["predict", "tiny", "black.png", "--out", "black.png"]
    yield ["predict", "tiny"]
    yield ["predict", "tiny", "black.png", "--camera", "0"]
    yield ["predict", "tiny", "black.png", "--confidence", "0.5"]
    yield ["predict", "tiny", "black.png", "--labels", "no/such/file.txt"]
    yield ["predict", "tiny", "--camera", "987"]
    yield ["predict", "yolo_v5n", "black.png", "--confidence", "25"]
    yield ["predict", "yolo_v5n", "black.png", "--set", "classes=3", "--labels", "a,b"]
    yield ["predict", "yolo_v5n", "missing.mp4"]
    for name in ("none", "nothing", "", "../..", "\x00", "noise.txt"):
        yield ["report", name]
        yield ["resume", name]
        yield ["compare", name, name]


CASES = [*options(), *units(), *models(), *data()]


def test_there_are_enough() -> None:
    assert len(CASES) > 400


@pytest.mark.parametrize("start", range(0, len(CASES), 40))
def test_wrong_commands(
    start: int, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wrong = []
    for tokens in CASES[start : start + 40]:
        code = cli.main(tokens)
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        clear = [line for line in lines if line.startswith("error: ")] and [
            line for line in lines if line.startswith("hint: ")
        ]
        if code not in EXPECTED or not clear or "Traceback" in captured.err + captured.out:
            wrong.append((tokens if len(str(tokens)) < 200 else tokens[:1], code, captured.err[-600:]))
    assert not wrong, "\n".join(map(str, wrong))


def mutated(rng: np.random.Generator, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        kind, at = rng.integers(3), int(rng.integers(len(changed) + 1))
        if kind == 0:
            del changed[at : at + int(rng.integers(1, 9))]
        elif kind == 1:
            changed[at:at] = rng.bytes(int(rng.integers(1, 5)))
        elif at < len(changed):
            changed[at] = int(rng.choice(list(b'{}[]:,-#&*!|>"\n\t 0ax\xff')))
    return bytes(changed)


CONFIG = (
    b"model: tiny\ndata: conveyor\nmax_latency: 33ms\nmax_size: 400kB\nseed: 3\nset:\n  width: 0.5\n  resolution: 64\n"
)


def test_mutated_configurations(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    n_refused = 0
    for _ in range(150):
        (tmp_path / "bitfront.yaml").write_bytes(mutated(rng, CONFIG))
        code = cli.main(["runs"])
        captured = capsys.readouterr()
        assert code in (0, 2), (tmp_path / "bitfront.yaml").read_bytes() + captured.err.encode()
        n_refused += code == 2
    assert n_refused > 50


def test_mutated_pictures(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save("image.png")
    Image.fromarray(rng.integers(0, 2, (16, 16), np.uint8)).save("mask.png")
    image, mask = Path("image.png").read_bytes(), Path("mask.png").read_bytes()
    assert zlib.crc32(image) != zlib.crc32(mask)
    for turn in range(30):
        Path("image.png").write_bytes(mutated(rng, image) if turn % 2 else image)
        Path("mask.png").write_bytes(mask if turn % 2 else mutated(rng, mask))
        code = cli.main(["evaluate", "tiny", "--image", "image.png", "--mask", "mask.png", "--set", "resolution=16"])
        captured = capsys.readouterr()
        assert code in (0, 3), captured.err
