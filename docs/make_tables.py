"""Rewrite the tables of the manual from the program; a test checks that nobody forgot to.

Run in the checkout: ``.venv/bin/python docs/make_tables.py``. A table stands between ``<!-- table: NAME -->`` and
``<!-- end -->``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from bitfront import errors
from bitfront.cli.app import COMMANDS, app
from bitfront.cli.config import Config
from bitfront.fitting.exploration import STAGES
from bitfront.verbs.looking import LISTED, catalogue

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def table(*rows: tuple[str, ...]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def commands() -> str:
    return table(
        ("command", "what it does"),
        *((f"`bitfront {name}`", text) for group in COMMANDS.values() for name, (_, text) in group.items()),
    )


def options() -> str:
    return "\n\n".join(_options(name) for name in _command_names())


def _command_names() -> Iterator[str]:
    for group in COMMANDS.values():
        for name in group:
            yield from [f"data {sub}" for sub in ("check", "show", "convert")] if name == "data" else [name]


def _options(name: str) -> str:
    line = app()
    for part in name.split():
        line = line[part]
    rows, positional = [], []
    for argument in line.assemble_argument_collection():
        if not argument.show or "Output" in {group.name for group in argument.parameter.group or ()}:
            continue
        text = argument.parameter.help or ""
        if all(n.startswith("-") for n in argument.names):
            rows.append((f"`{argument.name}`", text))
        else:
            positional.append((f"`{argument.name}`", text))
    head = f"### bitfront {name}\n\n{_first_paragraphs(line)}"
    return head + ("\n\n" + table(("argument or option", ""), *positional, *rows) if positional or rows else "")


def _first_paragraphs(line: object) -> str:
    doc = inspect.getdoc(line.default_command) or ""  # type: ignore[attr-defined]
    return doc.strip()


def listed(what: str) -> str:
    return table((what, ""), *((f"`{name}`", text) for name, text in catalogue(what).items()))


def exit_codes() -> str:
    rows: dict[int, list[str]] = {}
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.BitfrontError) and kind.__module__ == errors.__name__:
            first = (kind.__doc__ or "").partition(".\n")[0].partition("\n")[0].rstrip(".")
            rows.setdefault(kind.exit_code, []).append(f"`{kind.__name__}`: {first}")
    found = [("0", "done")] + [(str(code), "; ".join(texts)) for code, texts in sorted(rows.items())]
    return table(("exit code", "exception and meaning"), *found)


def config_keys() -> str:
    return table(
        ("key", "meaning"), *((f"`{key}`", field.description or "") for key, field in Config.model_fields.items())
    )


def stages() -> str:
    return table(("stages", ""), *((f"`{stage.name}`", stage.description) for stage in STAGES.values()))


TABLES = {
    "stages": stages,
    "commands": commands,
    "options": options,
    "exit_codes": exit_codes,
    "config_keys": config_keys,
}


def make(name: str) -> str:
    return listed(name) if name in LISTED else TABLES[name]()


def rewritten(text: str) -> str:
    """Return a page with its tables made anew."""

    def replace(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n{make(found[1])}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", replace, text, flags=re.S)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewritten(page.read_text(encoding="utf-8")), encoding="utf-8")
