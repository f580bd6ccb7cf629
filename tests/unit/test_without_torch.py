"""Files are fitted, and networks refused in one line, where torch is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bitfront.contracts import InputContract, OutputContract
from bitfront.data.conveyor import Conveyor
from bitfront.graph import capture
from bitfront.graph.passes import prepare
from bitfront.models.tiny import Tiny
from bitfront.quant import recipes
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.stats import ranges
from bitfront.verbs.data import convert

WITHOUT = "import sys; sys.modules['torch'] = None; from bitfront import cli; sys.exit(cli.main(sys.argv[1:]))"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def test_a_file_is_fitted_without_torch(tmp_path: Path) -> None:
    convert(Conveyor(size=(48, 48), n_train=4, n_val=3, n_test=2), tmp_path / "belt")
    graph = prepare(capture.from_module(Tiny(classes=4).build().eval(), (1, 3, 32, 32)))
    _, plan = recipes.build("float32", graph, ranges.Ranges({}), [])
    OnnxRuntime().export(graph, plan, tmp_path, InputContract(32, 32), OutputContract())
    options = ("--effort", "single", "--recipe", "int8", "--objective", "score", "--objective", "size", "--quiet")
    done = run(tmp_path, "fit", "model.onnx", "belt", *options)
    assert done.returncode == 0, done.stderr
    assert "int8" in done.stdout


def test_a_network_is_refused_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "fit", "tiny", "conveyor", "--quiet")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: building and training networks needs torch, which is not installed",
        "hint: pip install 'bitfront[torch]'",
    ]
