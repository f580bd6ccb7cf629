"""Text that is safe inside C: identifiers, comments, numbers and arrays; the same bytes for the same values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import UsageError

__all__ = ["C_TYPES", "array", "check_name", "comment", "struct"]

C_TYPES: Mapping[str, str] = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
}
"""Type of numpy -> type of C."""
WIDTH = 116
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_KEYWORDS = frozenset(
    """
    auto break case char const continue default do double else enum extern float for goto if inline int long register
    restrict return short signed sizeof static struct switch typedef union unsigned void volatile while asm class
    delete new private public protected template this throw try using virtual main bool true false
    """.split()  # noqa: SIM905
)


def check_name(name: str) -> str:
    """Return a prefix of C identifiers. Raises UsageError for one that is not fit to be one."""
    if not _NAME.fullmatch(name) or name in _KEYWORDS or name.startswith("bf_"):
        raise UsageError(
            f"'{name}' cannot begin the names of C functions",
            hint="use a small letter, then small letters, digits and _; no word of C or C++",
        )
    return name


def comment(text: str, limit: int = 80) -> str:
    """Return text that can stand in a comment: printable ASCII on one line that neither ends nor begins one.

    Of other characters the code stands there; so too of ``?`` (trigraphs), a backslash (which would join lines) and
    ``/`` beside ``*`` or another.
    """
    safe = "".join(c if " " <= c <= "~" and c not in "\\?" else f"<{ord(c):x}>" for c in text)
    safe = safe.replace("*/", "*<2f>").replace("/*", "<2f>*").replace("//", "/<2f>")
    return safe if len(safe) <= limit else f"{safe[: limit - 3]}..."


def array(name: str, values: NDArray[Any], what: str = "") -> str:
    """Return the definition of a constant array."""
    numbers = values.ravel().tolist()
    suffix = "U" if values.dtype == np.uint32 else ""
    longest = max((len(str(v)) for v in (min(numbers, default=0), max(numbers, default=0))), default=1) + len(suffix)
    n = max(1, (WIDTH - 3) // (longest + 2))
    rows = (numbers[i : i + n] for i in range(0, len(numbers), n))
    body = "".join(f"    {', '.join(map(str, row))},\n" for row in rows)
    if suffix:
        body = body.replace(",", f"{suffix},")
    head = f"/* {comment(what)} */\n" if what else ""
    return f"{head}static const {C_TYPES[values.dtype.name]} {name}[{len(numbers)}] = {{\n{body}}};\n"


def struct(kind: str, name: str, fields: Mapping[str, int | str]) -> str:
    """Return the definition of a constant struct; fields are set by name."""
    parts = [f".{key} = {value}" for key, value in fields.items()]
    lines, line = [], "   "
    for part in parts:
        if len(line) + len(part) + 2 > WIDTH:
            lines.append(line)
            line = "   "
        line += f" {part},"
    lines.append(line)
    return f"static const {kind} {name} = {{\n" + "\n".join(lines) + "\n};\n"
