"""YAML 1.2 from people and strangers: plain data only, with the line of every key.

Refused: files over 1 MB, aliases and anchors (they multiply), tags, duplicate keys, nesting deeper than 50, more than
one document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    MappingStartEvent,
    ScalarEvent,
)

from bitfront.errors import UsageError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "Document", "read"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Document:
    """A mapping and where its keys stand."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[tuple[str | int, ...], int]
    """Path of keys and list positions -> line, from 1."""

    def where(self, *keys: str | int) -> str:
        """Return ``file:line: key`` for the deepest of ``keys`` whose line is known."""
        for n in range(len(keys), 0, -1):
            if keys[:n] in self.lines:
                return f"{self.path}:{self.lines[keys[:n]]}: {'.'.join(map(str, keys))}"
        return f"{self.path}: {'.'.join(map(str, keys))}" if keys else str(self.path)


def read(path: Path) -> Document:
    """Read a YAML file whose top is a mapping. Raises UsageError that names file and line."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="is the name right?") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})", hint="save it as UTF-8") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: larger than {MAX_BYTES} bytes", hint="this is not a configuration file")
    try:
        lines = _walk(path, text)
        values = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UsageError(f"{path}{line}: not YAML: {problem}", hint="write `key: value`, one a line") from None
    except (ValueError, RecursionError, OverflowError) as error:  # impossible dates, numbers beyond any type
        raise UsageError(f"{path}: not YAML: {error}", hint="put the value in quotes") from None
    if values is None:
        return Document(path, {}, lines)
    if not isinstance(values, dict):
        raise UsageError(f"{path}:1: the top must be `key: value` lines", hint="see the page on file formats")
    return Document(path, {str(key): value for key, value in values.items()}, lines)


@dataclass
class _Level:
    """An open mapping or list while walking the events."""

    is_mapping: bool
    prefix: tuple[str | int, ...]
    key: str | None = None
    n: int = 0

    def take(self, value: str | None) -> tuple[str | int, ...] | None:
        """Return the path that a scalar (``value``) or a collection (``None``) belongs to; ``None``: it is a key."""
        if not self.is_mapping:
            self.n += 1
            return (*self.prefix, self.n - 1)
        if self.key is None:
            self.key = value or ""
            return None
        key, self.key = self.key, None
        return (*self.prefix, key)


def _walk(path: Path, text: str) -> dict[tuple[str | int, ...], int]:
    """Check the events of a YAML text against the limits; return the line of every key."""
    lines: dict[tuple[str | int, ...], int] = {}
    levels: list[_Level] = []
    documents = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        line = event.start_mark.line + 1
        if isinstance(event, CollectionEndEvent):
            levels.pop()
            continue
        if isinstance(event, DocumentStartEvent):
            documents += 1
        _refuse(path, line, event, len(levels), documents)
        if not isinstance(event, (ScalarEvent, CollectionStartEvent)):
            continue
        scalar = event.value if isinstance(event, ScalarEvent) else None
        place = levels[-1].take(scalar) if levels else ()
        if place is None:
            key = (*levels[-1].prefix, scalar or "")
            if key in lines:
                raise UsageError(f"{path}:{line}: the key '{scalar}' stands twice", hint="keep one of them")
            lines[key] = line
        elif place and isinstance(place[-1], int):
            lines[place] = line
        if isinstance(event, CollectionStartEvent):
            levels.append(_Level(isinstance(event, MappingStartEvent), place or ()))
    return lines


def _refuse(path: Path, line: int, event: object, depth: int, documents: int) -> None:
    tag = getattr(event, "tag", None)
    reason = ""
    if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
        reason = "anchors and aliases (& and *) are not allowed"
    elif tag is not None and str(tag) not in ("", "None", "!"):
        reason = f"tags ({tag}) are not allowed"
    elif depth > MAX_DEPTH:
        reason = f"nested deeper than {MAX_DEPTH}"
    elif documents > 1:
        reason = "only one document is allowed"
    if reason:
        raise UsageError(f"{path}:{line}: {reason}", hint="write the values out")
