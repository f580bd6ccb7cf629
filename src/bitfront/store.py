"""Files that are either old or new, never half: atomic writes, and the claim and lock of a run folder.

A run folder is claimed by ``mkdir``: a second run of the same name gets ``-2``. While a process works in it, it holds a
file lock; readers need none.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from bitfront.errors import BitfrontError, BusyError, SpaceError, UsageError
from bitfront.record import to_json

__all__ = [
    "Lines",
    "append_row",
    "atomic_json",
    "atomic_write",
    "claim",
    "hold",
    "io_errors",
    "new_folder",
    "remove_temporaries",
    "replacing",
    "reserve",
    "write_file",
]

TEMPORARY = ".tmp"
"""Ending of files that are being written."""


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that at every moment its old or its new content is there, also after a power cut.

    Raises SpaceError when the disk is full and UsageError when the folder cannot be written; the old file then stays.
    """
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write, which becomes ``path`` when all went well; otherwise what was there stays.

    Raises as :func:`atomic_write`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with io_errors(path):
        try:
            with temporary.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def atomic_json(path: Path, value: Any) -> None:
    """Write plain data or a frozen dataclass as indented JSON, atomically. Raises as :func:`atomic_write`."""
    atomic_write(path, (json.dumps(to_json(value), indent=2, ensure_ascii=False) + "\n").encode())


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line to a CSV file whose header is the row's keys, written with the first; whole or not at all.

    Processes that add to one file wait for each other. Raises UsageError for a file with another header, SpaceError.
    """
    with io_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            old = path.read_bytes() if path.exists() else b""
            header, line = _csv_line(row), _csv_line(row.values())
            if old and old.partition(b"\n")[0].strip() != header.strip():
                raise UsageError(f"{path} has other columns", hint="name a file that does not exist yet")
            end = b"" if not old or old.endswith(b"\n") else b"\n"
            atomic_write(path, (old or header) + end + line)


def _csv_line(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(["" if value is None else value for value in values])
    return text.getvalue().encode()


@contextlib.contextmanager
def io_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write ``path`` into SpaceError and UsageError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = f"free some space in {path.parent}; then `bitfront resume RUN` goes on where it stopped"
            raise SpaceError(f"no space left to write {path}", hint=hint) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOENT):
            raise UsageError(
                f"cannot write {path}: {error.strerror}", hint="choose a folder that you may write"
            ) from error
        raise BitfrontError(f"cannot write {path}: {error.strerror}", hint="is the disk in order?") from error


def write_file(path: Path, data: bytes) -> None:
    """Write a new file, and the folders it needs, inside a :func:`new_folder`: nobody sees it before all is there.

    Raises as :func:`atomic_write`.
    """
    with io_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)


@contextlib.contextmanager
def new_folder(path: Path, *, replaceable: str = "") -> Iterator[Path]:
    """Give a folder to fill, which becomes ``path`` when all went well and leaves nothing behind otherwise.

    ``path`` must not exist or be empty; with ``replaceable`` a folder that holds a file of that name is replaced.
    Raises UsageError, SpaceError.
    """
    exists = path.exists() or path.is_symlink()
    if exists and (not path.is_dir() or any(path.iterdir())):
        if not replaceable:
            raise UsageError(f"{path} is not empty", hint="name a folder that does not exist yet")
        if path.is_symlink() or not (path / replaceable).is_file():
            raise UsageError(f"{path} was not made by this command: it has no {replaceable}", hint="name another one")
    home = path.resolve()
    temporary = home.with_name(f".{home.name}.{os.getpid()}{TEMPORARY}")
    replaced = home.with_name(f".{home.name}.{os.getpid()}.old{TEMPORARY}")
    with io_errors(path):
        home.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    try:
        yield temporary
        with io_errors(path):
            os.sync()  # once for all files: their content is on the disk before their folder gets its name
            if exists:
                home.rename(replaced)
            temporary.rename(home)
            _sync_folder(home.parent)
    except BaseException:
        if replaced.exists() and not home.exists():
            replaced.rename(home)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems do not sync folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_temporaries(folder: Path) -> int:
    """Remove what interrupted writes left below ``folder`` and return how many files that was."""
    left = list(folder.rglob(f".*{TEMPORARY}"))
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def reserve(path: Path, size_bytes: int) -> None:
    """Take ``size_bytes`` of the disk with a file, to be removed when space is needed. Raises SpaceError."""
    with io_errors(path), path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size_bytes)


# --- the run folder --------------------------------------------------------------------------------------------------
class Lines:
    """A file of text lines that grows one by one and survives a kill; use as a context to add.

    A last line that has no end was cut off by a kill and does not count.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Lines:
        """Open to add, without what was cut off. Raises SpaceError, UsageError."""
        with io_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            self._file.truncate(sum(len(line) + 1 for line in self.read()))
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self) -> list[bytes]:
        """Return the whole lines, without their ends; none when there is no file."""
        return self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []

    def add(self, line: bytes) -> None:
        """Write a line; it is there when this returns. Raises SpaceError when the disk is full."""
        assert self._file is not None
        with io_errors(self.path):
            self._file.write(line + b"\n")
            self._file.flush()


def claim(runs: Path, name: str) -> Path:
    """Create the folder ``runs/name`` and return it; ``name-2``, ``name-3``, ... when it exists.

    Raises UsageError for names that are not one plain folder name, and when ``runs`` cannot be written.
    """
    if not re.fullmatch(r"[\w][\w.+-]{0,99}", name):
        raise UsageError(f"'{name}' cannot name a run", hint="use letters, digits, '.', '_', '+' and '-', at most 100")
    with io_errors(runs / name):
        runs.mkdir(parents=True, exist_ok=True)
        for number in range(1, 100_000):
            folder = runs / (name if number == 1 else f"{name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    raise UsageError(f"no free name like '{name}' in {runs}", hint="choose another --name")


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder. Raises BusyError, naming the process that has it."""
    lock = FileLock(folder / "lock", timeout=0)
    holder = folder / "holder.json"
    with io_errors(folder / "lock"):
        try:
            lock.acquire()
        except Timeout:
            raise BusyError(f"{folder} is in use by {_holder(holder)}", hint="wait for it, or stop it") from None
    try:
        atomic_json(holder, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text("utf-8"))
        return f"process {int(held['pid'])} on {str(held['host'])[:100]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
