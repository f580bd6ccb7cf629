"""YAML from strangers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bitfront.errors import UsageError
from bitfront.safeyaml import MAX_BYTES, read


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_values_and_lines(tmp_path: Path) -> None:
    document = read(write(tmp_path, "# comment\na: 1e-3\nb:\n  - yes\n  - {c: 2, no: on}\nset:\n  width: 0.25\n"))
    assert document.values == {"a": 1e-3, "b": ["yes", {"c": 2, "no": "on"}], "set": {"width": 0.25}}
    assert document.lines[("set", "width")] == 7
    assert document.lines[("b", 1, "c")] == 5
    assert document.where("set", "height").endswith("x.yaml:6: set.height")
    assert document.where("nothing").endswith("x.yaml: nothing")


def test_empty_and_byte_order_mark(tmp_path: Path) -> None:
    assert read(write(tmp_path, "# nothing\n")).values == {}
    assert read(write(tmp_path, b"\xef\xbb\xbfa: 1")).values == {"a": 1}


BOMB = "a: &a [x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2\n", ":2: the key 'a' stands twice"),
        ("s:\n  a: 1\n  a: 2\n", ":3: the key 'a' stands twice"),
        (BOMB, "anchors and aliases"),
        ("a: !!python/object/apply:os.system [ls]\n", "tags"),
        ("a: !x 1\n", "tags"),
        ("[" * 20000, "nested deeper"),
        ("a: 1\n---\nb: 2\n", "only one document"),
        ("- 1\n", "the top must be"),
        ("hello", "the top must be"),
        ("a: [1\nb: }", ":2: not YAML"),
        ("a:\n\t- b", ":2: not YAML"),
        ("a: 2001-99-99\n", "not YAML"),
        ("a: \x00", "not YAML"),
        (b"a: \xff\xfe", "not UTF-8"),
        ("# " + "x" * MAX_BYTES, "larger than"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)) as error:
        read(write(tmp_path, text))
    assert error.value.hint


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="cannot read"):
        read(tmp_path)
