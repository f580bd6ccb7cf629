"""The wheel, installed elsewhere: with torch it fits, without it `.onnx` files still work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bitfront import cli
from bitfront.sources import open_data
from bitfront.verbs.data import convert

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def without_torch(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the core alone."""
    folder = tmp_path_factory.mktemp("core")
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    return folder / "bin"


def run(*command: object, cwd: Path | None = None, code: int = 0) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_the_wheel_holds_what_the_report_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "bitfront/py.typed" in names
    wanted = [
        p
        for p in (ROOT / "src" / "bitfront").rglob("*")
        if p.suffix in (".j2", ".css", ".js", ".py", ".c", ".h", ".json")
    ]
    assert {p.relative_to(ROOT / "src").as_posix() for p in wanted} <= set(names)
    assert not [name for name in names if name.endswith((".onnx", ".safetensors"))]


def test_without_torch(without_torch: Path, tmp_path: Path) -> None:
    data, made = tmp_path / "data", tmp_path / "tiny.safetensors"
    convert(open_data("conveyor", size=64, n_train=8, n_val=4, n_test=4), data)
    assert cli.main(["train", "tiny", str(data), "--epochs", "1", "--set", "resolution=64", "--out", str(made)]) == 0
    assert cli.main(["quantize", str(made), str(data), "--out", str(tmp_path / "int8.onnx")]) == 0
    program = without_torch / "bitfront"
    assert run(program, "--help", cwd=tmp_path)
    assert "missing" in json.loads(run(program, "doctor", "--json", cwd=tmp_path))["torch"]
    assert "fast_scnn" in run(program, "list", cwd=tmp_path)
    scored = json.loads(run(program, "evaluate", "int8.onnx", "data", "--json", cwd=tmp_path))
    assert scored["metrics"]["n"] == 4
    assert json.loads(run(program, "verify", "int8.onnx", "data", "--json", cwd=tmp_path))["verified"]
    assert json.loads(run(program, "benchmark", "int8.onnx", "--time", "1s", "--json", cwd=tmp_path))["artifacts"]
    assert run(program, "predict", "int8.onnx", "data/val/images", "--out", "pictures", cwd=tmp_path)
    assert run(program, "inspect", "int8.onnx", cwd=tmp_path)
    run(program, "fit", "fast_scnn", "data", cwd=tmp_path, code=2)
    run(program, "evaluate", "tiny.safetensors", "data", cwd=tmp_path, code=2)
