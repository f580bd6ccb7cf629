"""The run's database: every finished piece of work under the content id of its inputs.

``run.db`` is the truth of a run; all other files can be rebuilt from it or from what it names. One process writes (see
:func:`bitfront.store.hold`); readers open it read-only at any time. A stage that is asked for again with the same
inputs is read back instead of computed: that is all that resuming is. Nothing is pickled; every payload carries its
checksum, and a damaged one is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bitfront import __version__
from bitfront.errors import DataError, SpaceError, UsageError
from bitfront.record import Record, content_id, digest_file, from_json, to_json
from bitfront.store import hold, remove_temporaries, reserve

__all__ = [
    "DATABASE",
    "RESERVE_BYTES",
    "SCHEMA",
    "Result",
    "RunDb",
    "damaged",
    "read",
    "read_records",
    "read_result",
    "read_results",
    "read_value",
    "result_key",
    "work_out",
]

DATABASE = "run.db"
SCHEMA = 1
"""Version of the tables; a higher one is refused."""
RESERVE_BYTES = 64 << 20
"""Space kept while a run works, given back when the disk is full so that the last results can still be written."""
BUSY_TIMEOUT_S = 5.0

TABLES = """
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, payload TEXT NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS results(key TEXT PRIMARY KEY, stage TEXT NOT NULL, payload TEXT NOT NULL,
    sha256 TEXT NOT NULL, sequence INTEGER NOT NULL, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS files(key TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL, PRIMARY KEY(key, path));
CREATE TABLE IF NOT EXISTS records(id TEXT PRIMARY KEY, payload TEXT NOT NULL, sha256 TEXT NOT NULL,
    sequence INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS events(sequence INTEGER PRIMARY KEY, time TEXT NOT NULL, stage TEXT NOT NULL,
    text TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Result:
    """A finished piece of work as it is stored."""

    key: str
    """Content id of stage, version and inputs."""
    stage: str
    payload: str
    """The value as JSON."""
    files: Sequence[tuple[str, str, int]]
    """Path relative to the run folder, SHA-256 and bytes of every file that it stands for."""
    seconds: float


def result_key(stage: str, inputs: Any) -> str:
    """Return the key of a stage's result for these inputs."""
    return content_id(stage, __version__, inputs)


def work_out(
    folder: Path, stage: str, inputs: Any, compute: Callable[[], Any], files: Callable[[Any], Iterable[str]]
) -> Result:
    """Compute a result; see :meth:`RunDb.cached`. What ``compute`` raises is passed on."""
    start = time.monotonic()
    value = to_json(compute())
    rows = [(path, digest_file(folder / path), (folder / path).stat().st_size) for path in sorted(set(files(value)))]
    return Result(result_key(stage, inputs), stage, json.dumps(value), rows, time.monotonic() - start)


class RunDb:
    """The writing side. Use as a context: it holds the run's lock and the reserve of disk space."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reused = 0
        """Results that were read back instead of computed."""
        self.repaired = 0
        """Stored results that were damaged and computed again."""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> RunDb:
        """Lock the folder, clear what an interrupted process left, open and check the database.

        Raises BusyError, SpaceError, DataError (damaged), UsageError (written by a newer bitfront, or not writable).
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(hold(self.folder))
            remove_temporaries(self.folder)
            self._reserve = self.folder / "reserve"
            stack.callback(self.release_reserve)
            reserve(self._reserve, RESERVE_BYTES)
            with _database_errors(self.folder):
                self._db = sqlite3.connect(self.folder / DATABASE, timeout=BUSY_TIMEOUT_S, isolation_level=None)
                stack.callback(self._db.close)
                self._db.execute("PRAGMA journal_mode=TRUNCATE")
                self._db.execute("PRAGMA synchronous=FULL")
                _check(self._db, self.folder)
                self._db.executescript(TABLES)
                self.put("schema", SCHEMA)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the database, give the reserve back, release the lock."""
        self._stack.close()

    def release_reserve(self) -> None:
        """Give the reserved disk space back."""
        self._reserve.unlink(missing_ok=True)

    # --- values by name ---------------------------------------------------------------------------------------------
    def put(self, name: str, value: Any) -> None:
        """Store a plain value or frozen dataclass under a name."""
        payload = json.dumps(to_json(value))
        self._write("INSERT OR REPLACE INTO meta VALUES(?, ?, ?)", name, payload, _sha256(payload))

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value stored by :meth:`put`."""
        with _database_errors(self.folder):
            return read_value(self._db, name, default)

    # --- finished work ----------------------------------------------------------------------------------------------
    def cached(
        self,
        stage: str,
        inputs: Any,
        compute: Callable[[], Any],
        files: Callable[[Any], Iterable[str]] = lambda value: (),
    ) -> Any:
        """Return ``compute()`` as plain JSON data, or what it returned before for the same stage and inputs.

        ``files`` names, for a value, the files (relative to the run folder) it stands for. A stored value counts only
        while its own checksum and those of its files are right. What ``compute`` raises is passed on; nothing is
        stored then.
        """
        stored = self.stored(stage, inputs)
        if stored is not None:
            self.reused += 1
            return stored[0]
        result = work_out(self.folder, stage, inputs, compute, files)
        self.keep(result)
        return json.loads(result.payload)

    def stored(self, stage: str, inputs: Any) -> tuple[Any] | None:
        """Return what :meth:`cached` would read back, or ``None`` when it would compute."""
        key = result_key(stage, inputs)
        found = read_result(self._db, self.folder, key)
        if found is None and self._db.execute("SELECT 1 FROM results WHERE key = ?", (key,)).fetchone():
            self.repaired += 1
        return found

    def keep(self, result: Result) -> None:
        """Store a result, in place of one with the same key."""
        with self._transaction() as db:
            db.execute("DELETE FROM files WHERE key = ?", (result.key,))
            db.executemany("INSERT INTO files VALUES(?, ?, ?, ?)", [(result.key, *row) for row in result.files])
            db.execute(
                "INSERT OR REPLACE INTO results VALUES(?, ?, ?, ?, ?, ?)",
                (
                    result.key,
                    result.stage,
                    result.payload,
                    _sha256(result.payload),
                    self._next("results"),
                    result.seconds,
                ),
            )

    # --- records and events -----------------------------------------------------------------------------------------
    def record(self, record: Record) -> None:
        """Store a record, or replace the one of the same candidate; the order of first storing is kept."""
        row = self._db.execute("SELECT sequence FROM records WHERE id = ?", (record.id,)).fetchone()
        sequence = row[0] if row else self._next("records")
        payload = json.dumps(to_json(record))
        self._write("INSERT OR REPLACE INTO records VALUES(?, ?, ?, ?)", record.id, payload, _sha256(payload), sequence)

    def records(self) -> list[Record]:
        """Return all records, in order of first storing."""
        with _database_errors(self.folder):
            return read_records(self._db)

    def keep_records(self, ids: Iterable[str]) -> None:
        """Forget the records of all other candidates: what an earlier session could not make, this one may have."""
        stale = sorted({record.id for record in self.records()} - set(ids))
        with self._transaction() as db:
            db.executemany("DELETE FROM records WHERE id = ?", [(identity,) for identity in stale])

    def event(self, stage: str, text: str) -> None:
        """Add a line to the run's log."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._write("INSERT INTO events VALUES(?, ?, ?, ?)", self._next("events"), now, stage, text)

    def _next(self, table: str) -> int:
        return int(self._db.execute(f"SELECT coalesce(max(sequence), 0) + 1 FROM {table}").fetchone()[0])

    def _write(self, statement: str, *values: Any) -> None:
        with self._transaction() as db:
            db.execute(statement, values)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _database_errors(self.folder):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


# --- reading ---------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def read(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a run's database read-only, also while another process writes. Raises UsageError, DataError."""
    path = folder / DATABASE
    if not path.is_file():
        raise UsageError(f"{folder} is not a run folder: it has no {DATABASE}", hint="`bitfront runs` lists the runs")
    with _database_errors(folder):
        _roll_back(path)
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as db:
            _check(db, folder)
            yield db


def _roll_back(path: Path) -> None:
    """Let SQLite undo what a killed writer left half done; a read-only connection may not."""
    journal = path.with_name(path.name + "-journal")
    if journal.is_file() and journal.stat().st_size:
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as db,
        ):
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()


def read_value(db: sqlite3.Connection, name: str, default: Any = None) -> Any:
    """Return a value stored by :meth:`RunDb.put`."""
    row = db.execute("SELECT payload, sha256 FROM meta WHERE name = ?", (name,)).fetchone()
    return default if row is None else _load(*row)


def read_records(db: sqlite3.Connection) -> list[Record]:
    """Return all records, in order of first storing."""
    rows = db.execute("SELECT payload, sha256, sequence FROM records ORDER BY sequence").fetchall()
    return [from_json(Record, {**_load(payload, sha256), "sequence": number}) for payload, sha256, number in rows]


def read_results(db: sqlite3.Connection, stage: str) -> list[Any]:
    """Return all stored values of a stage, in order of storing."""
    rows = db.execute("SELECT payload, sha256 FROM results WHERE stage = ? ORDER BY sequence", (stage,)).fetchall()
    return [_load(*row) for row in rows]


def read_result(db: sqlite3.Connection, folder: Path, key: str) -> tuple[Any] | None:
    """Return the value of a result, ``None`` when there is none or it or one of its files is damaged."""
    row = db.execute("SELECT payload, sha256 FROM results WHERE key = ?", (key,)).fetchone()
    if row is None or _sha256(row[0]) != row[1]:
        return None
    files = db.execute("SELECT path, sha256, size_bytes FROM files WHERE key = ?", (key,)).fetchall()
    return (json.loads(row[0]),) if all(_intact(folder / path, *rest) for path, *rest in files) else None


def _load(payload: str, sha256: str) -> Any:
    if _sha256(payload) != sha256:
        raise sqlite3.DatabaseError("a stored value does not have its checksum")
    return json.loads(payload)


def damaged(folder: Path) -> list[str]:
    """Return the files named by a run's database that are missing or changed, relative to the folder."""
    with read(folder) as db:
        rows = db.execute("SELECT path, sha256, size_bytes FROM files ORDER BY path").fetchall()
    return [path for path, *rest in rows if not _intact(folder / path, *rest)]


def _check(db: sqlite3.Connection, folder: Path) -> None:
    if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("quick_check failed")
    if not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]:
        return
    schema = int(read_value(db, "schema", SCHEMA))
    if schema > SCHEMA:
        raise UsageError(
            f"{folder} was written by a newer bitfront (schema {schema}; this one knows {SCHEMA})",
            hint="update bitfront, or start a new run",
        )


@contextlib.contextmanager
def _database_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            hint = f"free some space, then `bitfront resume {folder}` goes on where it stopped"
            raise SpaceError(f"no space left to write {folder / DATABASE}", hint=hint) from error
        raise UsageError(f"cannot use {folder / DATABASE}: {error}", hint="may this folder be written?") from error
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"{folder / DATABASE} is damaged: {error}",
            hint="what lies in its front/ folder is whole if `bitfront verify` says so; start a new run for the rest",
        ) from error


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _intact(path: Path, sha256: str, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes and digest_file(path) == sha256
