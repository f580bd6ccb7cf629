"""bitfront prune, in process, on small generated scenes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitfront import cli
from bitfront.sources import open_data
from bitfront.verbs.data import convert
from bitfront.verbs.pruning import prune

SIZE = ["--set", "resolution=32"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scenes") / "small"
    convert(open_data("conveyor", size=32, n_train=8, n_val=4, n_test=4), folder)
    return str(folder)


@pytest.fixture(scope="module")
def trained(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("network") / "tiny.safetensors"
    assert cli.main(["train", "tiny", data, "--out", str(path), "--epochs", "1", *SIZE, "--quiet"]) == 0
    return str(path)


Call = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run prune with --json in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(*tokens: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = cli.main(["prune", *tokens, "--time", "0.1s", "--json"])
        found = capsys.readouterr()
        assert "Traceback" not in found.out + found.err
        return code, json.loads(found.out), found.err

    return run


def test_channels_are_gone_from_the_file(call: Call, trained: str, data: str) -> None:
    code, found, err = call(trained, data, "--out", "p.onnx", "--share", "0.5", "--epochs", "1", "--multiple", "1")
    assert code == 0, err
    assert found["verified"]
    assert found["size_bytes"] == Path("p.onnx").stat().st_size < found["unpruned"]["size_bytes"]
    assert found["parameters"] < 0.6 * found["unpruned"]["parameters"]
    assert found["macs"] < 0.6 * found["unpruned"]["macs"]
    assert [step["n_epochs"] for step in found["steps"]] == [1]
    assert found["ratio"] > 0
    assert not Path("p.onnx.training").exists()
    assert {path.name for path in Path().iterdir()} >= {"p.onnx", "p.manifest.json", "p.reference.safetensors"}


def test_a_pruned_file_is_pruned_again_and_quantized(call: Call, trained: str, data: str) -> None:
    assert call(trained, data, "--out", "a.onnx", "--epochs", "0", "--multiple", "1")[0] == 0
    options = ["--out", "b.onnx", "--epochs", "1", "--steps", "2", "--multiple", "2", "--recipe", "int8"]
    code, found, err = call("a.onnx", data, *options)
    assert code == 0, err
    assert found["recipe"] == "int8"
    assert [step["share"] for step in found["steps"]] == pytest.approx([0.15, 0.3])
    assert found["steps"][0]["channels_left"] > found["steps"][1]["channels_left"]


def test_zeros_make_no_file_smaller_and_it_says_so(call: Call, trained: str, data: str) -> None:
    for method in ("unstructured", "global"):
        code, found, err = call(trained, data, "--out", f"{method}.onnx", "--method", method, "--epochs", "1")
        assert code == 0, err
        assert found["zeros"] == pytest.approx(0.3, abs=0.01)
        assert found["size_bytes"] >= 0.99 * found["unpruned"]["size_bytes"]
        assert any("only whole channels" in note for note in found["notes"])


def test_nothing_pruned_and_not_trained_is_the_network(call: Call, trained: str, data: str) -> None:
    code, found, err = call(trained, data, "--out", "same.onnx", "--share", "0", "--epochs", "0")
    assert code == 0, err
    assert found["drop"] == 0
    assert found["parameters"] == found["unpruned"]["parameters"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--share", "1"], "cannot be pruned"),
        (["--share", "-0.2"], "cannot be pruned"),
        (["--method", "structed"], "structured"),
        (["--recipe", "int9"], "int9"),
    ],
)
def test_what_makes_no_sense_is_one_line(call: Call, trained: str, data: str, options: list[str], says: str) -> None:
    code, found, _ = call(trained, data, "--out", "p.onnx", *options)
    assert code == 2
    assert says in found["error"]["message"] + found["error"]["hint"]
    assert not Path("p.onnx").exists()


def test_a_dry_run_counts_and_writes_nothing(call: Call, trained: str, data: str) -> None:
    code, found, err = call(trained, data, "--out", "p.onnx", "--share", "0.5", "--dry-run")
    assert code == 0, err
    assert found["plan"]["parameters"][1] < found["plan"]["parameters"][0]
    assert not list(Path().iterdir())


def test_an_interrupted_pruning_goes_on(trained: str, data: str, tmp_path: Path) -> None:
    from bitfront.train.options import preset

    options = preset("quantized").__class__(epochs=3, rate=1e-3)
    seen: list[int] = []

    def interrupt(epoch: Any) -> None:
        seen.append(epoch.index)
        if epoch.index == 1:
            raise KeyboardInterrupt

    arguments: dict[str, Any] = {"options": options, "multiple": 1, "seconds": 0.1}
    with pytest.raises(KeyboardInterrupt):
        prune(trained, data, tmp_path / "p.onnx", on_epoch=interrupt, **arguments)
    again: list[int] = []
    done = prune(trained, data, tmp_path / "p.onnx", on_epoch=lambda e: again.append(e.index), **arguments)
    whole = prune(trained, data, tmp_path / "q.onnx", **arguments)
    assert again[0] >= 1
    assert done.exported.sha256 == whole.exported.sha256
