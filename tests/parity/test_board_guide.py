"""The guide to a board, every step of it; ``make test-arm`` runs it."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from bitfront import cli
from bitfront.measure import emulated
from bitfront.sources import open_data
from bitfront.verbs.data import convert

NEEDS = emulated.missing()
pytestmark = [pytest.mark.arm, pytest.mark.skipif(bool(NEEDS), reason=NEEDS or "-"), pytest.mark.timeout(600)]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "from-fit-to-a-board.md"


def test_the_lamp_blinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(open_data("conveyor", size=64, n_train=12, n_val=4, n_test=4), tmp_path / "packages")
    monkeypatch.chdir(tmp_path)
    printed = ""
    for mark, text in re.findall(r"<!-- (.*?) -->\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        if mark.startswith("file: "):
            (tmp_path / mark.removeprefix("file: ")).write_text(text)
        elif mark == "python":
            exec(compile(text, PAGE.name, "exec"), {"__name__": "example"})
        elif mark.startswith("run"):
            assert [cli.main(shlex.split(line)[1:]) for line in text.splitlines()] == [0] * len(text.splitlines())
        else:
            done = subprocess.run(["sh", "-ec", text], capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, done.stderr
            printed += done.stdout + done.stderr
    lamps = re.findall(r"USERLED1' .* -> (\d+)%", printed)[-5:]
    assert lamps == ["100", "0", "100", "0", "100"], "pictures 1 to 5; the first one leaves it off"
    assert len(re.findall("^(an object|nothing)$", printed, re.M)) == 6
