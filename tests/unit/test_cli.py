"""The command line, in process: results, --json, exit codes, configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitfront import cli
from bitfront.cli.app import COMMANDS
from bitfront.sources import open_data
from bitfront.verbs.data import convert


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


Call = Callable[..., Done]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run one command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(*tokens: object) -> Done:
        capsys.readouterr()
        code = cli.main([str(token) for token in tokens])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few generated scenes as a folder of images and masks."""
    folder = tmp_path_factory.mktemp("data") / "small"
    convert(open_data("conveyor", size=64, n_train=12, n_val=4, n_test=4), folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    options = ["--epochs", "1", "--set", "resolution=64", "--set", "width=0.5", "--quiet"]
    assert cli.main(["train", "tiny", str(data), "--out", str(path), *options]) == 0
    return path


# --- what is there ---------------------------------------------------------------------------------------------------
def names() -> list[str]:
    return [name for group in COMMANDS.values() for name in group]


def test_every_command_of_the_first_release_is_there() -> None:
    wanted = (
        "fit search train evaluate predict quantize export verify benchmark report compare resume runs inspect stats "
        "list doctor prune distill"
    )
    assert set(wanted.split()) | {"data", "version"} == set(names())


def test_help_names_every_command(call: Call) -> None:
    done = call("--help")
    assert done.code == 0
    assert all(name in done.out for name in names())
    assert call().out == done.out


@pytest.mark.parametrize("name", names())
def test_every_command_has_help_that_describes_its_options(call: Call, name: str) -> None:
    done = call(name, "--help")
    assert done.code == 0
    assert COMMANDS[next(g for g in COMMANDS if name in COMMANDS[g])][name][1].split()[0] in done.out
    if name != "data":
        assert "--json" in done.out


def test_version(call: Call) -> None:
    from bitfront import __version__

    assert call("version").out.strip() == __version__
    assert call("--version").out.strip() == __version__
    assert call("version", "--json").json == {"version": __version__}


def test_list_and_doctor(call: Call) -> None:
    found = call("list", "--json").json
    assert {"fast_scnn", "tiny"} <= {item["name"] for item in found["models"]}
    assert "int8" in {item["name"] for item in found["recipes"]}
    assert all(item["description"] for items in found.values() for item in items), found
    assert "onnxruntime" in call("list", "runtimes").out
    doctor = call("doctor", "--json")
    assert doctor.code == 0
    assert doctor.json["runtimes"]["onnxruntime"]["version"]
    assert doctor.json["limits"]["image_pixels"] == 64_000_000


def test_inspect(call: Call) -> None:
    found = call("inspect", "tiny", "--set", "classes=3", "--set", "resolution=32x64", "--json").json
    assert found["resolution"] == [32, 64]
    assert found["classes"] == 3
    assert found["parameters"] == found["trainable_parameters"] > 1000
    assert found["macs"] >= found["conv_macs"] > 0
    assert found["activation_bytes"] > found["peak_bytes"] > 0


def test_inspect_counts_what_the_home_framework_counts(call: Call) -> None:
    found = call("inspect", "q_seg2", "--set", "resolution=32", "--json").json
    assert (found["parameters"], found["trainable_parameters"]) == (3_946_680, 3_902_328)


def test_a_preset_of_a_training_and_its_changes(call: Call, data: Path, tmp_path: Path) -> None:
    command = (
        "train",
        "tiny",
        data,
        "--preset",
        "thesis_000",
        "--dry-run",
        "--json",
        "--out",
        tmp_path / "m.safetensors",
    )
    assert call(*command).json["evaluations"] == 40
    assert call(*command, "--epochs", "3").json["evaluations"] == 3
    assert "did you mean 'thesis_000'?" in call(*command[:4], "thesis_00", *command[5:]).err


# --- steps -----------------------------------------------------------------------------------------------------------
def test_train_writes_a_checkpoint_that_evaluates(call: Call, checkpoint: Path, data: Path) -> None:
    done = call("evaluate", checkpoint, data, "--json")
    assert done.code == 0, done.err
    metrics = done.json["metrics"]
    assert {"miou", "miou_image", "pixel_accuracy", "dice", "per_class"} <= metrics.keys()
    assert metrics["n"] == 4
    assert done.json["part"] == "test"
    assert "'test'" in done.err
    assert done.json["resolution"] == [64, 64]
    assert set(metrics["per_class"]["iou"]) == {"background", "carton", "mailer", "tube"}
    other = call("evaluate", checkpoint, data, "--part", "train", "--limit", "5", "--json")
    assert other.json["metrics"]["n"] == 5
    table = call("evaluate", checkpoint, data)
    assert "miou" in table.out
    assert "%" in table.out


def test_evaluate_one_picture(call: Call, checkpoint: Path, data: Path) -> None:
    image = sorted((data / "val" / "images").iterdir())[0]
    mask = data / "val" / "masks" / image.name
    done = call("evaluate", checkpoint, "--image", image, "--mask", mask, "--json")
    assert done.code == 0, done.err
    assert done.json["metrics"]["n"] == 1
    assert call("evaluate", checkpoint, "--image", image).code == 2


def test_train_dry_run(call: Call, data: Path, tmp_path: Path) -> None:
    options = ["--reader", "folder", "--epochs", "3", "--batch-size", "4", "--set", "resolution=64", "--json"]
    done = call("train", "tiny", data, "--out", tmp_path / "x.safetensors", "--dry-run", *options)
    assert done.json["plan"]["steps"] == 9
    assert not list(tmp_path.iterdir())


def test_predict_draws_every_image(call: Call, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    done = call("predict", checkpoint, data / "val" / "images", "--out", tmp_path / "o", "--masks", "--json")
    assert done.code == 0, done.err
    assert len(done.json["files"]) == 8
    for path in done.json["files"]:
        with Image.open(path) as picture:
            assert picture.size == (64, 64)


def test_export_verify_benchmark(call: Call, checkpoint: Path, data: Path) -> None:
    made = call("export", checkpoint, "--out", "f.onnx", "--json")
    assert made.code == 0, made.err
    assert made.json["size_bytes"] == Path("f.onnx").stat().st_size
    quantized = call("quantize", checkpoint, data, "--out", "q.onnx", "--json")
    assert quantized.code == 0, quantized.err
    assert quantized.json["verified"] is True
    checked = call("verify", "q.onnx", data, "--json")
    assert checked.code == 0, checked.err
    assert checked.json["verified"] is True
    assert checked.json["max_code_difference"] <= 1
    assert checked.json["first_difference"] is None
    timed = call("benchmark", "f.onnx", "q.onnx", "--time", "0.2s", "--json").json["artifacts"]
    assert [item["path"] for item in timed] == ["f.onnx", "q.onnx"]
    assert all(item["latency_ms"] > 0 and item["size_bytes"] > 0 for item in timed)
    assert timed[0]["ratio"] == 1
    assert call("inspect", "q.onnx", "--json").json["macs"] == call("inspect", "f.onnx", "--json").json["macs"] > 0
    scored = call("evaluate", "q.onnx", data, "--json").json
    assert scored["runtime"] == "onnxruntime"
    assert scored["metrics"]["miou"] == pytest.approx(quantized.json["metrics"]["miou"], abs=1e-9)


def test_verify_notices_a_changed_file(call: Call, checkpoint: Path) -> None:
    assert call("export", checkpoint, "--out", "f.onnx").code == 0
    data = bytearray(Path("f.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    Path("f.onnx").write_bytes(data)
    done = call("verify", "f.onnx", "--json")
    assert done.code == 6
    assert done.json["error"]["type"] == "VerificationError"
    assert call("benchmark", "f.onnx").code == 6


def test_verify_notices_another_network(call: Call, checkpoint: Path, data: Path) -> None:
    """The file of one network beside the reference of another: right hash, wrong numbers."""
    assert call("export", checkpoint, "--out", "f.onnx").code == 0
    other = "other.safetensors"
    train = ["train", "tiny", data, "--out", other, "--epochs", "1", "--seed", "7"]
    assert call(*train, "--set", "resolution=64", "--set", "width=0.5").code == 0
    assert call("export", other, "--out", "g.onnx").code == 0
    Path("g.reference.safetensors").replace("f.reference.safetensors")
    done = call("verify", "f.onnx", data, "--json")
    assert done.code == 6
    assert done.json["verified"] is False
    assert done.json["first_difference"]


def test_data(call: Call, data: Path) -> None:
    shown = call("data", "show", data, "--out", "s.jpg", "--n", "3", "--json")
    assert len(shown.json["samples"]) == 3
    assert np.asarray(Image.open("s.jpg")).shape[2] == 3
    made = call("data", "convert", data, "--part", "val", "--out", "c", "--json")
    assert made.json["images"] == {"val": 4}
    assert call("data", "convert", data, "--out", "c").code == 2


def test_runs_of_nothing(call: Call) -> None:
    assert call("runs", "--json").json == {"runs": []}
    assert call("compare", "a", "b").code == 2


# --- configuration ---------------------------------------------------------------------------------------------------
def test_the_configuration_file_gives_options_and_the_command_line_wins(call: Call, tmp_path: Path) -> None:
    (tmp_path / "bitfront.yaml").write_text("model: tiny\nset:\n  classes: 3\n  resolution: 32x64\n")
    assert call("inspect", "--json").json["resolution"] == [32, 64]
    found = call("inspect", "--set", "resolution=64", "--json").json
    assert (found["resolution"], found["classes"]) == ([64, 64], 3)
    (tmp_path / "other.yaml").write_text("model: tiny\nset: {width: 0.5}\n")
    assert call("inspect", "--config", "other.yaml", "--json").json["options"]["width"] == 0.5


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("modle: tiny\n", "bitfront.yaml:1: modle is not an option"),
        ("model: tiny\nwidth: 0.25\n", "bitfront.yaml:2: width is not an option"),
        ("model: tiny\nseed: many\n", "bitfront.yaml:2: seed"),
        ("model: tiny\nseed: -1\n", "bitfront.yaml:2: seed"),
        ("model: [1, 2]\n", "bitfront.yaml:1: model"),
        ("model: tiny\nset:\n  width: {a: 1}\n", "bitfront.yaml:3: set.width"),
        ("model: tiny\nmodel: tiny\n", "bitfront.yaml:2:"),
    ],
)
def test_a_wrong_configuration_names_line_and_key(call: Call, tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "bitfront.yaml").write_text(text)
    done = call("inspect", "tiny")
    assert done.code == 2
    assert where in done.err
    assert "hint:" in done.err


def test_a_misspelt_key_is_guessed(call: Call, tmp_path: Path) -> None:
    (tmp_path / "bitfront.yaml").write_text("max_latencyy: 33ms\n")
    assert "did you mean 'max_latency'?" in call("inspect", "tiny").err


# --- failures --------------------------------------------------------------------------------------------------------
def test_errors_are_a_line_and_a_hint_and_json_too(call: Call) -> None:
    done = call("evaluate", "fast_scn", "conveyor", "--json")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "hint: did you mean 'fast_scnn'?" in done.err
    assert done.json["error"] | {"type": "UsageError", "exit_code": 2} == done.json["error"]


def test_a_fault_of_ours_is_one_line_and_a_log(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitfront.verbs import looking

    def broken(what: str) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(looking, "catalogue", broken)
    done = call("list", "--json")
    assert done.code == 70
    assert done.err.splitlines()[0] == "error: internal error: ZeroDivisionError: two lines"
    log = tmp_path / "state" / "bitfront" / "log.txt"
    assert "ZeroDivisionError" in log.read_text()
    assert str(log) in done.err
    assert done.json["error"]["exit_code"] == 70


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 75), (MemoryError(), 70)]
)
def test_interruption_and_a_full_disk(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    from bitfront.verbs import looking

    def fails(what: str) -> None:
        raise error

    monkeypatch.setattr(looking, "catalogue", fails)
    assert call("list").code == code


def test_stray_prints_do_not_spoil_json(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitfront.verbs import looking

    def chatty(what: str) -> dict[str, str]:
        print("chatter")
        return {"a": "b"}

    monkeypatch.setattr(looking, "catalogue", chatty)
    done = call("list", "models", "--json")
    assert done.json == {"models": [{"name": "a", "description": "b"}]}
    assert "chatter" in done.err


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bitfront"]
    done = subprocess.run([*command, "list", "modls"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "did you mean 'models'?" in done.stderr
    piped = subprocess.run(
        f"{sys.executable} -m bitfront list | true", shell=True, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in piped.stderr
    assert "BrokenPipe" not in piped.stderr


def test_fresh_weights_are_said_to_be_fresh(call: Call, data: Path) -> None:
    done = call("evaluate", "tiny", data, "--limit", "1", "--set", "resolution=64")
    assert "tiny is untrained" in done.err
