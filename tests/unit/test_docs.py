"""The manual is true: tables come from the program, examples run, links lead somewhere, nothing is left out."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

import bitfront
from bitfront import cli, errors
from bitfront.catalog import CATALOG
from bitfront.cli.app import COMMANDS
from bitfront.sources import open_data
from bitfront.verbs.data import convert

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MANUAL = [page for page in PAGES if page.name != "architecture.md"]
EACH = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def make_tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@EACH
def test_tables_are_those_of_the_program(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert make_tables().rewritten(text) == text, "run: .venv/bin/python docs/make_tables.py"


@EACH
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_everything_is_named() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in MANUAL)
    commands = [f"`bitfront {name}`" for group in COMMANDS.values() for name in group]
    plugins = [f"`{name.partition('/')[2]}`" for name in CATALOG]
    kinds = [n for n, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, errors.BitfrontError)]
    public = [f"`{name}`" for name in bitfront.__all__ if not name.startswith("_")]
    missing = [name for name in [*commands, *plugins, *kinds, *public] if name not in text]
    assert not missing


@pytest.mark.parametrize("name", [n for n in bitfront.__all__ if not n.startswith("_")])
def test_public_names_exist_and_are_documented(name: str) -> None:
    assert getattr(bitfront, name).__doc__
    assert name in dir(bitfront)


def test_commands_are_functions_whatever_is_imported() -> None:
    importlib.import_module("bitfront.train.loop")
    assert all(
        inspect.isfunction(getattr(bitfront, name)) for name in bitfront.__all__ if name.islower() and name[0] != "_"
    )


def test_what_is_not_public_says_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fti'"):
        _ = bitfront.fti


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few scenes named ``packages``, where examples run."""
    convert(open_data("conveyor", size=64, n_train=12, n_val=4, n_test=4), tmp_path / "packages")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(mark before it, language, text) of every fenced block."""
    text = page.read_text(encoding="utf-8")
    return [(m[1] or "", m[2], m[3]) for m in re.finditer(r"(?:<!-- (.*?) -->\n)?```(\w+)\n(.*?)```", text, re.S)]


@pytest.mark.parametrize("page", [p for p in MANUAL if "<!-- run -->" in p.read_text()], ids=lambda page: page.name)
def test_commands_of_a_page_run(page: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n_run = 0
    for mark, _, text in blocks(page):
        if mark.startswith("file: "):
            (place / mark.removeprefix("file: ")).write_text(text)
        if mark != "run":
            continue
        for line in text.splitlines():
            tokens = shlex.split(line, comments=True)
            if tokens:
                code = cli.main(tokens[1:])
                captured = capsys.readouterr()
                # a front of a network trained for a second may be empty or miss a budget; everything else must work
                assert code == 0, f"{line}\n{captured.err}"
                n_run += 1
    assert n_run


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "python.md"], ids=lambda page: page.name)
def test_python_of_a_page_runs(page: Path, place: Path) -> None:
    code = "\n".join(text for _, language, text in blocks(page) if language == "python")
    exec(compile(code, page.name, "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", MANUAL, ids=lambda page: page.name)
def test_commands_that_are_shown_exist(page: Path) -> None:
    names = {name for group in COMMANDS.values() for name in group}
    shown = re.findall(r"`bitfront (\w+)", page.read_text(encoding="utf-8"))
    for _, _, text in blocks(page):
        shown += re.findall(r"^bitfront (\w+)", text, re.M)
    assert set(shown) <= names
