"""``kill -9`` at random moments of a fit, then resume: nothing finished is lost and the front is the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_fit.py"


def kill(n: int, seed: int, out: Path, *options: str) -> None:
    """Run the benchmark in a process of its own and hold its promises."""
    command = [sys.executable, str(SCRIPT), "--kills", str(n), "--seed", str(seed), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text("utf-8"))
    bad = [o for o in result["outcomes"] if o["problem"] or o["n_lost"] or not o["same_front"] or o["names"]]
    assert bad == []
    assert len(result["outcomes"]) == n
    assert result["front"]


def test_two_kills(tmp_path: Path) -> None:
    kill(2, 7, tmp_path / "result.json", "--quick")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twelve_kills(tmp_path: Path) -> None:
    kill(12, 1, tmp_path / "result.json")
