"""Atomic files, the claim and lock of a run folder, the run's database, and its projections."""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitfront import store
from bitfront.cli import units
from bitfront.cli.config import load as load_options
from bitfront.contracts import InputContract, Metrics, OutputContract
from bitfront.errors import BusyError, DataError, SpaceError, UsageError
from bitfront.record import Artifact, Budget, Candidate, Measurement, Record
from bitfront.run import Run, find, project, table
from bitfront.rundb import RunDb, damaged
from bitfront.store import atomic_json, atomic_write, claim, hold, remove_temporaries


def record(width: float = 0.25, *, status: str = "front", reason: str = "") -> Record:
    """A record with everything a table shows."""
    artifact = Artifact(
        "candidates/x/model.onnx", "onnxruntime", "int8", 100, "ab", InputContract(8, 8), OutputContract()
    )
    return Record(
        Candidate("tiny", {"width": width, "resolution": [8, 8]}, "int8", "onnxruntime"),
        status,
        reason=reason,
        artifact=artifact,
        val=Metrics("miou", {"miou": 0.5}, {"miou": "mean"}),
        latency=Measurement(1.5, "ms"),
    )


# --- atomic files ----------------------------------------------------------------------------------------------------
def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    atomic_write(path, b"old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    path = tmp_path / "a.bin"
    atomic_write(path, b"old")

    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SpaceError, match="no space left to write") as caught:
        atomic_write(path, b"new")
    assert "bitfront resume" in caught.value.hint
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_limit_of_the_system(tmp_path: Path) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, old[1]))
    try:
        with pytest.raises(SpaceError, match="no space left"):
            atomic_write(tmp_path / "a", b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write .*No such file or directory"):
        atomic_write(tmp_path / "none" / "a.bin", b"")


def test_atomic_json(tmp_path: Path) -> None:
    atomic_json(tmp_path / "a.json", {"ü": float("nan"), "p": Path("a/b")})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"ü": "nan", "p": "a/b"}


# --- claim and lock --------------------------------------------------------------------------------------------------
def test_a_second_run_gets_the_next_number(tmp_path: Path) -> None:
    assert [claim(tmp_path / "runs", "a").name for _ in range(3)] == ["a", "a-2", "a-3"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a\nb", "a b", "x" * 101])
def test_names_that_are_no_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a run"):
        claim(tmp_path, name)


def _claim_many(runs: Path, n: int) -> list[str]:
    return [claim(runs, "a").name for _ in range(n)]


def test_claims_of_many_processes_are_unique(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        names = pool.starmap(_claim_many, [(tmp_path, 25)] * 4)
    assert len({name for some in names for name in some}) == 100


def test_a_held_folder_is_busy_and_names_its_holder(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(BusyError, match=f"in use by process {os.getpid()} on"), hold(tmp_path):
        pass
    with hold(tmp_path):
        pass  # free again


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from bitfront.store import hold\n"
        f"with hold(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(BusyError, match=f"process {child.pid}"), hold(tmp_path):
            pass
        child.kill()
    with hold(tmp_path):
        pass


def test_temporaries_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".a.onnx.1.tmp").write_bytes(b"half")
    (tmp_path / "a.tmp").write_bytes(b"not ours")
    assert remove_temporaries(tmp_path) == 1
    assert (tmp_path / "a.tmp").exists()


# --- the database ----------------------------------------------------------------------------------------------------
def test_work_is_done_once_for_the_same_inputs(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> dict[str, int]:
        calls.append(1)
        return {"n": len(calls)}

    for _ in range(2):
        with RunDb(tmp_path) as db:
            assert db.cached("count", {"a": 1}, work) == {"n": 1}
    with RunDb(tmp_path) as db:
        assert db.cached("count", {"a": 2}, work) == {"n": 2}
        assert db.cached("other", {"a": 1}, work) == {"n": 3}
        assert (db.reused, db.repaired) == (0, 0)


def test_failed_work_is_not_stored(tmp_path: Path) -> None:
    with RunDb(tmp_path) as db:
        with pytest.raises(ZeroDivisionError, match="zero"):
            db.cached("a", 1, lambda: 1 // 0)
        assert db.cached("a", 1, lambda: 5) == 5


def test_a_damaged_payload_is_computed_again(tmp_path: Path) -> None:
    with RunDb(tmp_path) as db:
        db.cached("a", 1, lambda: "right")
    with sqlite3.connect(tmp_path / "run.db") as raw:
        raw.execute("UPDATE results SET payload = '\"wrong\"'")
    raw.close()
    with RunDb(tmp_path) as db:
        assert db.cached("a", 1, lambda: "right again") == "right again"
        assert db.repaired == 1


@pytest.mark.parametrize("table", ["meta", "records"])
def test_a_damaged_value_is_no_number(tmp_path: Path, table: str) -> None:
    with RunDb(tmp_path) as db:
        db.put("seconds", 1111)
        db.record(record())
    path = tmp_path / "run.db"
    old, new = (b"1111", b"1112") if table == "meta" else (b'"size_bytes": 100', b'"size_bytes": 101')
    assert path.read_bytes().count(old) == 1
    path.write_bytes(path.read_bytes().replace(old, new))
    run = Run.open(tmp_path)
    with pytest.raises(DataError, match="does not have its checksum"):
        run.seconds if table == "meta" else run.records()


@pytest.mark.parametrize("damage", ["missing", "changed", "longer"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "weights.bin"

    def work() -> dict[str, str]:
        atomic_write(path, b"1234")
        return {"path": path.name}

    def ask(db: RunDb) -> None:
        db.cached("a", 1, work, files=lambda value: [value["path"]])

    with RunDb(tmp_path) as db:
        ask(db)
        ask(db)
        assert (db.reused, db.repaired) == (1, 0)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"1235" if damage == "changed" else b"12345")
    assert damaged(tmp_path) == ["weights.bin"]
    with RunDb(tmp_path) as db:
        ask(db)
        assert (db.reused, db.repaired) == (0, 1)
    assert path.read_bytes() == b"1234"


def test_two_writers_never(tmp_path: Path) -> None:
    with RunDb(tmp_path), pytest.raises(BusyError, match="in use"), RunDb(tmp_path):
        pass


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with RunDb(tmp_path) as db:
        db.put("schema", 99)
    with pytest.raises(UsageError, match=r"newer bitfront \(schema 99"), RunDb(tmp_path):
        pass
    with pytest.raises(UsageError, match="newer bitfront"):
        Run.open(tmp_path)


@pytest.mark.parametrize("at", [0, 100, 4096])
def test_a_damaged_database_is_refused_and_kept(tmp_path: Path, at: int) -> None:
    with RunDb(tmp_path) as db:
        for i in range(50):
            db.event("x", "y" * 200 + str(i))
    path = tmp_path / "run.db"
    data = bytearray(path.read_bytes())
    data[at : at + 60] = bytes(60) if at else os.urandom(60)
    path.write_bytes(data)
    with pytest.raises(DataError, match="is damaged"), RunDb(tmp_path):
        pass
    with pytest.raises(DataError, match="is damaged"):
        Run.open(tmp_path)
    assert path.read_bytes() == data


def test_the_reserve_is_there_while_working_only(tmp_path: Path) -> None:
    with RunDb(tmp_path) as db:
        assert (tmp_path / "reserve").stat().st_size == 64 << 20
        db.release_reserve()
        assert not (tmp_path / "reserve").exists()
    assert not (tmp_path / "reserve").exists()


def test_a_full_disk_under_the_database(tmp_path: Path) -> None:
    with RunDb(tmp_path) as db:
        db.event("x", "y")
        pages = db._db.execute("PRAGMA page_count").fetchone()[0]
        db._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(SpaceError, match="no space left"):
            db.put("big", "x" * 100_000)
        db._db.execute("PRAGMA max_page_count = 1000000")
        db.put("big", "small")
        assert db.get("big") == "small"


def write_forever(folder: Path) -> None:
    with RunDb(folder) as db:
        for i in range(10**6):
            db.cached("work", i, lambda i=i: {"i": i, "text": "x" * 3000})  # type: ignore[misc]
            print(i, flush=True)


def test_kill_nine_loses_no_finished_work(tmp_path: Path, rng) -> None:  # type: ignore[no-untyped-def]
    code = f"from test_store import *; write_forever(Path({str(tmp_path)!r}))"
    done = -1
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parent, text=True
        )
        assert child.stdout is not None
        while (int(line) if (line := child.stdout.readline()) else done) <= done:
            assert child.poll() is None
        time.sleep(float(rng.uniform(0, 0.2)))
        child.kill()
        printed = [int(line) for line in child.stdout.read().splitlines() if line.strip()]
        child.wait()
        child.stdout.close()
        done = max([done, *printed])
        with RunDb(tmp_path) as db:
            for i in range(done + 1):
                db.cached("work", i, lambda: pytest.fail("finished work is done again"))
            assert db.repaired == 0


def test_readers_read_while_a_writer_writes(tmp_path: Path) -> None:
    with RunDb(tmp_path) as db:
        db.put("config", {"seed": 3})
        for i in range(10):
            db.event("train", f"epoch {i}")
            run = Run.open(tmp_path)
            assert len(run.events) == i + 1
        assert run.config == {"seed": 3}


def test_a_reader_undoes_what_a_killed_writer_left(tmp_path: Path) -> None:
    with RunDb(tmp_path) as db:
        db.put("config", {"seed": 3})
    code = (
        "import os, sqlite3\n"
        f"db = sqlite3.connect({str(tmp_path / 'run.db')!r}, isolation_level=None)\n"
        "db.execute('PRAGMA journal_mode=TRUNCATE'); db.execute('PRAGMA cache_size=1'); db.execute('BEGIN IMMEDIATE')\n"
        "for i in range(300): db.execute('INSERT INTO meta VALUES(?, ?, 0)', (str(i), 'x' * 1000))\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / "run.db-journal").stat().st_size > 0
    run = Run.open(tmp_path)
    assert run.config == {"seed": 3}
    assert run.value("5") is None


# --- run and projections ---------------------------------------------------------------------------------------------
def test_records_keep_their_order_and_are_replaced(tmp_path: Path) -> None:
    a, b = record(0.25), record(0.5)
    with RunDb(tmp_path) as db:
        db.record(a)
        db.record(b)
        db.record(record(0.25, status="dropped", reason="slower than float"))
    first, second = Run.open(tmp_path).records()
    assert (first.id, first.status, first.reason, first.sequence) == (a.id, "dropped", "slower than float", 1)
    assert (second.id, second.sequence) == (b.id, 2)
    assert first.val == a.val
    assert first.artifact == a.artifact
    assert first.candidate == a.candidate


def test_a_run_reads_back_what_was_stored(tmp_path: Path) -> None:
    with RunDb(tmp_path) as db:
        db.record(record())
        db.put("config", {"budget": {"max_latency_ms": 33.0}})
        db.put("front", [{"name": "01_knee", "id": record().id}])
        db.put("training", {record().id: "t1"})
        db.put("met", True)
        db.cached("train", 1, lambda: {"id": "t1", "curve": [{"epoch": 0, "score": 0.5}]})
    run = Run.open(tmp_path)
    assert run.budget == Budget(max_latency_ms=33.0)
    member = run.front[0]
    assert member.model == tmp_path / "front" / "01_knee" / "model.onnx"
    assert (member.score, member.size_bytes, member.latency_ms, member.verified) == (0.5, 100, 1.5, False)
    assert run.met
    assert run.epochs(record().id) == [{"epoch": 0, "score": 0.5}]
    assert run.epochs("other") == []


def test_no_run_here(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run folder"):
        Run.open(tmp_path)
    (tmp_path / "belt").mkdir()
    with RunDb(tmp_path / "belt"):
        pass
    assert find(tmp_path, "belt") == tmp_path / "belt"
    with pytest.raises(UsageError, match="unknown run 'bell'") as caught:
        find(tmp_path, "bell")
    assert "did you mean 'belt'?" in caught.value.hint


def test_projections_are_rebuilt_from_the_database(tmp_path: Path) -> None:
    with RunDb(tmp_path) as db:
        db.record(record(reason="=cmd|' /C calc'!A0"))
        config = {
            "model": "tiny",
            "budget": {"max_latency_ms": 33.5, "max_size_bytes": 400_000, "min_score": None, "time_s": 60.0},
            "space": {"width": [0.25, 0.5], "resolution": [[64, 96], [32, 32]]},
            "settings": {"repeats": 1},
            "recipes": ["int8"],
            "objectives": ["score", "size"],
            "effort": "expert",
            "retrain": "never",
            "seed": 3,
        }
        db.put("config", config)
        db.event("train", "epoch 1")
    run = Run.open(tmp_path)
    project(run)
    first = {
        name: (tmp_path / name).read_bytes() for name in ("results.csv", "pareto.csv", "bitfront.yaml", "env.json")
    }
    for name in first:
        (tmp_path / name).unlink()
    project(run)
    assert first == {name: (tmp_path / name).read_bytes() for name in first}
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text("utf-8").splitlines()))
    assert rows[0]["score_val"] == "0.5"
    assert rows[0]["latency_ms"] == "1.5"
    assert rows[0]["reason"].startswith("'=cmd")
    assert "epoch 1" in (tmp_path / "log.txt").read_text("utf-8")

    settings = load_options(tmp_path / "bitfront.yaml", tmp_path)
    assert settings == {
        "model": "tiny",
        "max_latency": "33.5ms",
        "max_size": "400000B",
        "time": "60s",
        "recipe": ["int8"],
        "objectives": ["score", "size"],
        "effort": "expert",
        "retrain": "never",
        "seed": 3,
        "set": {"repeats": 1, "width": [0.25, 0.5], "resolution": ["64x96", "32x32"]},
    }
    assert units.setting("resolution", settings["set"]["resolution"]) == ((64, 96), (32, 32))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_formulas_stay_text_in_tables(start: str) -> None:
    cell = next(csv.DictReader(table([record(reason=start + "1+1")]).splitlines()))["reason"]
    assert cell.startswith("'")


def test_lines_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lines.jsonl"
    assert store.Lines(path).read() == []
    with store.Lines(path) as lines:
        lines.add(b"one")
        assert store.Lines(path).read() == [b"one"]  # there as soon as it is added
        lines.add("zwölf".encode())
    path.write_bytes(path.read_bytes() + b"cut o")
    assert store.Lines(path).read() == [b"one", "zwölf".encode()]
    with store.Lines(path) as lines:
        lines.add(b"three")
    assert path.read_bytes() == "one\nzwölf\nthree\n".encode()
