"""Evaluations on disk, one line each: a search that was killed reads them back and loses nothing.

The file's name holds the content id of everything that an evaluation depends on (network, formats, images, scoring,
genes), so evaluations of another network or other data are never read. A line that was cut off by a kill is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from bitfront.errors import DataError
from bitfront.record import content_id
from bitfront.search.evaluations import Row
from bitfront.store import io_errors

__all__ = ["Journal"]


class Journal:
    """The rows of one search, kept as they come; use as a context."""

    def __init__(self, folder: Path, *identity: str) -> None:
        """Name the file below ``folder``; ``identity`` is what evaluations depend on."""
        self.path = folder / f"evaluations-{content_id(*identity)[:16]}.jsonl"
        self._file: IO[str] | None = None

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._cut()
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def rows(self) -> Sequence[Row]:
        """Return what is stored, in the order it was added. Raises DataError for a file that is none of ours."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]  # what has no end was cut off
        try:
            return [Row.from_json(json.loads(line)) for line in lines]
        except (ValueError, DataError) as error:
            raise DataError(f"{self.path}: not a search's evaluations: {error}", hint="remove the file") from error

    def add(self, row: Row) -> None:
        """Keep a row. Raises SpaceError when the disk is full."""
        assert self._file is not None
        with io_errors(self.path):
            self._file.write(json.dumps(row.to_json(), separators=(",", ":")) + "\n")
            self._file.flush()

    def _cut(self) -> None:
        """Remove a last line that has no end."""
        if self.path.exists():
            data = self.path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                self.path.write_bytes(whole)
