"""Tasks done in worker processes and on Ray: the same values, whoever dies."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crew_cases as cases
import psutil
import pytest
from crew_cases import Desk, Die, Raise, Sleep, Square

from bitfront import pipeline
from bitfront.data.conveyor import Conveyor
from bitfront.errors import BitfrontError, DeviceError, SpaceError, UsageError
from bitfront.fitting import request
from bitfront.fitting.config import Config
from bitfront.fitting.crew import InProcess, Workers
from bitfront.fitting.ray_crew import RayCrew
from bitfront.fitting.schedule import Job
from bitfront.fitting.shop import open_shop
from bitfront.fitting.space import Architecture
from bitfront.fitting.waves import MAX_WAVE, waves
from bitfront.fitting.worker import Place, WorkerDb, absorb
from bitfront.pipeline import fit, resume
from bitfront.record import digest_file
from bitfront.run import Run
from bitfront.verbs.data import convert

HERE = str(Path(__file__).parent)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


# --- waves -----------------------------------------------------------------------------------------------------------
def job(width: float, side: int) -> Job:
    return Job(Architecture({"width": width}, (side, side)), 1.0)


def test_one_size_of_each_network_comes_first() -> None:
    jobs = [job(w, s) for s in (32, 64, 96) for w in (0.5, 1.0)]
    assert waves(jobs) == [jobs[:2], jobs[2:]]
    known = [jobs[0].architecture.family]
    assert waves(jobs, known) == [[jobs[1]], [jobs[0], *jobs[2:]]]
    assert waves([]) == []


def test_waves_have_an_end_that_does_not_depend_on_the_workers() -> None:
    jobs = [job(float(w), 32) for w in range(MAX_WAVE + 3)]
    assert waves(jobs) == [jobs[:MAX_WAVE], jobs[MAX_WAVE:]]


# --- tasks -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "run")
    desk.db.folder.mkdir()
    with desk.db:
        yield desk


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    """Two workers; the processes of one test do not serve another."""
    with Workers(2) as crew:
        yield crew


@pytest.fixture
def workers(two: Workers) -> Iterator[Workers]:
    yield two
    two.rest()


def values(pairs: list[tuple[Any, Any]]) -> dict[int, Any]:
    return {task.number: value for task, value in pairs}


def events(desk: Desk) -> list[str]:
    return [text for (text,) in desk.db._db.execute("SELECT text FROM events ORDER BY sequence")]


def test_a_dead_worker_costs_its_task_only(desk: Desk, workers: Workers, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tasks = [Square(2, str(log)), Die(3, str(log), str(tmp_path)), Die(4, "", str(tmp_path), 9), Square(5, str(log))]
    found = values(desk.do(workers, tasks))
    assert {n: found[n] for n in (2, 3, 5)} == {2: 4, 3: 9, 5: 25}
    assert isinstance(found[4], BitfrontError)
    assert str(found[4]) == "its worker process died 3 times"
    assert "memory" in found[4].hint
    assert sorted(log.read_text().split()) == ["2", "3", "5"]  # what was finished before the death is not done again
    deaths = [e for e in events(desk) if "died" in e]
    assert [e for e in deaths if e.startswith("square of 3")] == [
        "square of 3: its worker process died (exit code -9); another goes on with it"
    ]
    assert len(deaths) == 3
    assert any("at work; square of 2" in text for text in desk.told)


def test_what_is_stored_is_not_sent_to_anybody(desk: Desk, workers: Workers, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    assert values(desk.do(InProcess(), [Square(2, log), Square(3, log)])) == {2: 4, 3: 9}
    assert values(desk.do(workers, [Square(2, log), Square(3, log)])) == {2: 4, 3: 9}
    assert not workers._hands
    assert Path(log).read_text().split() == ["2", "3"]


def test_errors_come_back_as_errors(desk: Desk, workers: Workers) -> None:
    found = values(desk.do(workers, [Raise(1), Raise(2, kind="usage"), Square(3)]))
    assert str(found[1]) == "ValueError: no such number"
    assert (type(found[2]), str(found[2]), found[2].hint) == (UsageError, "not like this", "like that")
    assert found[3] == 9


def test_a_full_disk_stops_everybody(desk: Desk, workers: Workers, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    tasks = [Sleep(1, str(pid)), Raise(2, kind="space")]
    with pytest.raises(SpaceError, match="disk is full"):
        desk.do(workers, tasks)
    assert not workers._hands
    assert not (pid.exists() and psutil.pid_exists(int(pid.read_text())))


def test_a_run_that_cannot_be_opened_says_so(desk: Desk, workers: Workers) -> None:
    place = Place(cases.broken, Config(), desk.db.folder, HERE, (HERE, *sys.path))
    assert [str(v) for _, v in desk.do(workers, [Square(1)], place)] == ["the data is not here"]


def test_tasks_are_drawn_when_somebody_is_free(desk: Desk, workers: Workers) -> None:
    drawn: list[int] = []

    def tasks() -> Iterator[Square]:
        for n in range(4):
            drawn.append(n)
            yield Square(n)

    opened, runtime = cases.small(Config())
    shop = open_shop(desk.db, Config(), opened, runtime, lambda *_: None)
    running = workers.run(tasks(), shop, desk.db, desk.place)
    next(running)
    assert len(drawn) == 2
    running.close()
    assert not workers._hands


def test_a_damaged_result_is_left_out_and_done_again(desk: Desk) -> None:
    theirs = WorkerDb(desk.db.folder)
    assert [theirs.cached("a", n, lambda: 1.5) for n in range(2)] == [1.5, 1.5]
    first = min((desk.db.folder / "outbox").iterdir())
    first.write_bytes(first.read_bytes().replace(b"1.5", b"2.5"))
    absorb(desk.db)
    assert not list((desk.db.folder / "outbox").iterdir())
    assert sorted(desk.db.stored("a", n) or () for n in range(2)) == [(), (1.5,)]
    assert [theirs.cached("a", n, lambda: 1.5) for n in range(2)] == [1.5, 1.5]
    assert len(list((desk.db.folder / "outbox").iterdir())) == 1  # the other one was read from the database


ORPHAN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from bitfront.fitting.crew import Workers
from crew_cases import Desk, Sleep
if __name__ == "__main__":
    desk = Desk(Path(sys.argv[2]))
    desk.db.folder.mkdir()
    with desk.db, Workers(1) as crew:
        desk.do(crew, [Sleep(1, sys.argv[3])])
"""


def test_workers_end_with_the_process_that_hired_them(tmp_path: Path) -> None:
    script, said = tmp_path / "script.py", tmp_path / "pid"
    script.write_text(ORPHAN)
    with subprocess.Popen([sys.executable, str(script), HERE, str(tmp_path / "run"), str(said)]) as process:
        until(lambda: said.exists() and said.read_text())
        worker = psutil.Process(int(said.read_text()))
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def until(done: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def test_wrong_crews_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="0 workers do nothing"):
        fit("tiny", workers=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="Ray, which is not installed") as caught:
        fit("tiny", ray="local")
    assert caught.value.hint == "pip install 'bitfront[ray]'"


# --- a whole run -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("data") / "belt"
    convert(Conveyor(size=(32, 32), n_train=8, n_val=4, n_test=2), place)
    return str(place)


@pytest.fixture(scope="module", autouse=True)
def only_what_crews_do() -> Iterator[None]:
    """Leave out the page and the processes that measure memory: they have their own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.report, "write", lambda run: (run.path / "report.html").write_text(""))
        patch.setattr(pipeline.Work, "_ram", lambda self, record: None)
        yield


def crewed(data: str, runs: Path, **how: Any) -> Run:
    space = {"resolution": [(32, 32)], "width": [0.5, 1.0]}
    options: dict[str, Any] = {"recipes": ("float32",), "objectives": ("score", "size", "macs"), "epochs": 4}
    return fit("tiny", data, space=space, name="crew", runs=runs, **{**options, **how})


def outcome(run: Run) -> Any:
    trained = sorted((t["label"], t["sha256"], t["best_score"]) for t in run.trainings().values())
    assert len(trained) == 2
    return [(m.name, m.id, digest_file(m.model), m.score) for m in run.front], trained


@pytest.fixture(scope="module")
def one(data: str, only_what_crews_do: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run with one worker."""
    return crewed(data, tmp_path_factory.mktemp("one"), workers=1)


def half_trained(data: str) -> list[list[str]]:
    return [line.split() for line in (Path(data).parent / cases.EPOCHS).read_text().splitlines()]


def check_one_was_killed(data: str) -> None:
    """Hold that a training was cut at its half, and went on from there in another process."""
    assert not (Path(data).parent / cases.KILL).exists()
    seen = half_trained(data)
    twice = [(macs, share) for _, macs, share in seen if share == "0.5"]
    cut = next(key for key in twice if twice.count(key) == 2)
    shares = [share for _, macs, share in seen if macs == cut[0]]
    processes = list(dict.fromkeys(pid for pid, macs, _ in seen if macs == cut[0]))
    assert shares == ["0.25", "0.5", "0.5", "0.75", "1.0"]
    assert len(processes) == 2


@pytest.fixture
def deadly(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker at half of a training is killed."""
    (Path(data).parent / cases.EPOCHS).unlink(missing_ok=True)
    (Path(data).parent / cases.KILL).touch()
    monkeypatch.setattr(request, "reopen", cases.deadly)


@pytest.mark.usefixtures("deadly")
def test_two_workers_one_of_them_killed_give_the_front_of_one(data: str, tmp_path: Path, one: Run) -> None:
    run = crewed(data, tmp_path, workers=2, track=("mlflow",))
    assert outcome(run) == outcome(one)
    assert run.front
    check_one_was_killed(data)
    assert sum("another goes on with it" in e.text for e in run.events) == 1
    assert not list((run.path / "outbox").iterdir())
    assert not list((run.path / "trainings").rglob("last.safetensors"))
    curves = list((tmp_path / "tracking").rglob("metrics/*/loss"))
    assert len(curves) == 2
    assert all(len(curve.read_text().splitlines()) == 4 for curve in curves)


def test_a_run_goes_on_without_the_workers_that_it_began_with(one: Run, tmp_path: Path) -> None:
    again = Path(shutil.copytree(one.path, tmp_path / "again"))
    for path in (again / "trainings").rglob("best.safetensors"):
        path.unlink()
    assert outcome(resume(again)) == outcome(one)


@needs_ray
@pytest.mark.usefixtures("deadly")
def test_ray_with_a_worker_killed_gives_the_same_front(
    data: str, tmp_path: Path, one: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: set[str] = set()

    def look(self: RayCrew) -> None:
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            places.update(c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN)

    monkeypatch.setattr(RayCrew, "rest", look)
    run = crewed(data, tmp_path, workers=2, ray="local")
    assert places
    assert places <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}  # nobody listens to other machines
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert outcome(run) == outcome(one)
    check_one_was_killed(data)


@needs_ray
def test_no_cluster_at_an_address_is_one_clear_line() -> None:
    with pytest.raises(DeviceError, match=r"nothing answers at '127\.0\.0\.1:1'") as caught, RayCrew("127.0.0.1:1"):
        pass
    assert "--ray local" in caught.value.hint
