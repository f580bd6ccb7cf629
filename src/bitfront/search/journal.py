"""Evaluations on disk, one line each: a search that was killed reads them back and loses nothing.

The file's name holds the content id of everything that an evaluation depends on (network, formats, images, scoring,
genes), so evaluations of another network or other data are never read. A line that was cut off by a kill is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bitfront.errors import DataError
from bitfront.record import content_id
from bitfront.search.evaluations import Row
from bitfront.store import Lines

__all__ = ["Journal"]


class Journal:
    """The rows of one search, kept as they come; use as a context."""

    def __init__(self, folder: Path, *identity: str) -> None:
        """Name the file below ``folder``; ``identity`` is what evaluations depend on."""
        self._lines = Lines(folder / f"evaluations-{content_id(*identity)[:16]}.jsonl")

    @property
    def path(self) -> Path:
        """The file."""
        return self._lines.path

    def __enter__(self) -> Journal:
        self._lines.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()

    def rows(self) -> Sequence[Row]:
        """Return what is stored, in the order it was added. Raises DataError for a file that is none of ours."""
        try:
            return [Row.from_json(json.loads(line)) for line in self._lines.read()]
        except (ValueError, DataError) as error:
            raise DataError(f"{self.path}: not a search's evaluations: {error}", hint="remove the file") from error

    def add(self, row: Row) -> None:
        """Keep a row. Raises SpaceError when the disk is full."""
        self._lines.add(json.dumps(row.to_json(), separators=(",", ":")).encode())
