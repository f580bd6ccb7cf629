"""The files for boards: checked by their linters, and the script run on real artifacts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitfront.contracts import InputContract, OutputContract
from bitfront.graph import capture
from bitfront.graph.passes import prepare
from bitfront.models.tiny import Tiny
from bitfront.quant import recipes
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.stats import ranges

BOARDS = Path(__file__).parents[2] / "boards"
SCRIPT = BOARDS / "board.sh"


def linter(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize(("name", "file"), [("hadolint", "Dockerfile"), ("shellcheck", "board.sh")])
def test_linters_find_nothing(name: str, file: str) -> None:
    done = subprocess.run([linter(name), BOARDS / file], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BITFRONT": f"{Path(sys.executable).parent / 'bitfront'}"}
    command = ["sh", str(SCRIPT), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_script_times_every_artifact_below_a_folder(tmp_path: Path) -> None:
    graph = prepare(capture.from_module(Tiny().build().eval(), (1, 3, 32, 32)))
    _, plan = recipes.build("float32", graph, ranges.Ranges({}), [])
    for name in ("01 knee", "02_fast"):
        OnnxRuntime().export(graph, plan, tmp_path / "front" / name, InputContract(32, 32), OutputContract())
    done = run("benchmark", "front", "results", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results").glob("*-onnx.json")
    assert done.stdout.strip() == str(path.relative_to(tmp_path))
    timed = json.loads(path.read_text())["artifacts"]
    assert [entry["path"] for entry in timed] == ["front/01 knee/model.onnx", "front/02_fast/model.onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("unknown",), "error: unknown command 'unknown'; 'board.sh help' lists them"),
        (("benchmark", "gone"), "error: no folder 'gone' with artifacts"),
        (("benchmark", "."), "error: no .onnx or .tflite file below '.'"),
        (("evaluate", "."), "error: evaluate needs a folder of artifacts and DATA"),
        (("install", "gone"), "error: no folder 'gone': make it with 'board.sh pack' on a computer with a network"),
        (("pack",), "error: pack works in the repository: no pyproject.toml here"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run(*arguments, folder=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (2, message)
    assert "benchmark front results" in run("help", folder=tmp_path).stdout
