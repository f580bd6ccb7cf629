"""JSON and XML from strangers: limits, and values that are what they must be or an error that says where."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from bitfront.annotations.polygons import Points
from bitfront.errors import DataError

__all__ = ["MAX_BYTES", "mapping", "number", "point_pairs", "read_json", "read_xml", "sequence", "text", "whole"]

MAX_BYTES = 1_000_000_000
"""Largest file of annotations that is read."""
MAX_COORDINATE = 1e7
MAX_XML_BYTES = 20_000_000


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises DataError."""
    data = _bytes(path, MAX_BYTES)
    try:
        return json.loads(data)
    except RecursionError:
        raise DataError(f"{path}: is nested too deeply", hint="this is no file of annotations") from None
    except ValueError as error:  # damaged JSON, not UTF-8, a number of thousands of digits
        raise DataError(f"{path}: is not JSON: {error}", hint="export it again, or copy it again") from None


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file; document types, which could hold entities, are refused. Raises DataError."""
    parser = ElementTree.XMLParser(target=_PlainTree())
    try:
        parser.feed(_bytes(path, MAX_XML_BYTES))
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: is not plain XML: {error}", hint="export it again, or copy it again") from None
    return root


class _PlainTree(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError(f"it declares a document type '{name}'")


def _bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}", hint="check the path") from error
    if len(data) > limit:
        raise DataError(f"{path}: is larger than {limit // 1_000_000} MB", hint="split it")
    return data.removeprefix(b"\xef\xbb\xbf")


# --- values ----------------------------------------------------------------------------------------------------------
def mapping(value: object, where: str) -> Mapping[str, Any]:
    """Return a JSON object. Raises DataError."""
    if not isinstance(value, dict):
        raise _wrong(where, "a JSON object", value)
    return value


def sequence(value: object, where: str) -> Sequence[Any]:
    """Return a JSON list. Raises DataError."""
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    return value


def text(value: object, where: str) -> str:
    """Return a text that is not empty, without spaces around it. Raises DataError."""
    if not isinstance(value, str) or not value.strip():
        raise _wrong(where, "a text", value)
    return value.strip()


def number(value: object, where: str) -> float:
    """Return a finite number of a size that coordinates have. Raises DataError."""
    try:
        found = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not abs(found) <= MAX_COORDINATE:
        raise _wrong(where, "a number", value)
    return found


def whole(value: object, where: str, minimum: int = 0) -> int:
    """Return a whole number of at least ``minimum``. Raises DataError."""
    found = number(value, where)
    if found != int(found) or found < minimum:
        raise _wrong(where, f"a whole number from {minimum}", value)
    return int(found)


def point_pairs(values: object, where: str) -> Points:
    """Return a list of ``[x, y]`` as corners ``(n, 2)``. Raises DataError."""
    pairs = sequence(values, where)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise DataError(f"{where}: must be pairs [x, y]", hint=_HINT)
    return np.array([[number(v, where) for v in pair] for pair in pairs], float).reshape(-1, 2)


_HINT = "export it again, or correct or remove this item"


def _wrong(where: str, what: str, value: object) -> DataError:
    shown = "missing" if value is None else repr(value)
    return DataError(f"{where}: must be {what}, is {shown if len(shown) < 40 else shown[:37] + '...'}", hint=_HINT)
