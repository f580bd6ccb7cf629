"""Kill a small fit with ``kill -9`` at random moments, resume it, and compare with a run that nobody killed.

Held: every result that was committed before the kill is still there, unchanged and not computed again; the front is
the same, file by file. Writes ``benchmarks/results/kill_fit.json``.

    python benchmarks/kill_fit.py [--kills 50] [--seed 0] [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch  # imported once: the children are forks

from bitfront.data.conveyor import Conveyor
from bitfront.errors import BitfrontError
from bitfront.pipeline import fit, resume
from bitfront.record import digest_file
from bitfront.run import Run
from bitfront.rundb import damaged
from bitfront.verbs.data import convert

RESULTS = Path(__file__).parent / "results" / "kill_fit.json"
SIZES = [(32, 32), (64, 64)]
FORK = multiprocessing.get_context("fork")


@dataclass
class Outcome:
    """What happened to one run that was killed."""

    killed_after_s: float
    n_results_before: int
    """Results that were committed when the kill came."""
    n_lost: int
    """Of these: how many were gone, changed or computed again after the resume."""
    same_front: bool
    stage: str = ""
    """The last finished stage."""
    problem: str = ""
    names: list[str] = field(default_factory=list)
    """Files whose hash is not the one in the database."""
    front: list[Any] = field(default_factory=list)
    """What came out, where it is not the same."""


def make_data(folder: Path) -> str:
    """Write a few generated pictures as files and return the folder."""
    convert(Conveyor(size=(48, 64), n_train=16, n_val=8, n_test=4), folder / "belt")
    return str(folder / "belt")


def small_fit(runs: Path, name: str) -> Run:
    """A fit of a few seconds, in which nothing depends on time."""
    return fit(
        "tiny",
        str(runs.parent / "belt"),
        space={"resolution": SIZES[: 1 if (runs.parent / "quick").exists() else 2], "width": [0.5, 1.0]},
        recipes=("float32", "int8"),
        objectives=("score", "size", "macs"),
        epochs=2,
        name=name,
        runs=runs,
    )


def front_of(run: Run) -> list[tuple[str, str, str, float]]:
    """Name, id, SHA-256 of the delivered file and score of every member."""
    return [(m.name, m.id, digest_file(m.model), m.score) for m in run.front]


def committed(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Key -> stage, payload and order of every finished result, as a killed process left them."""
    path = folder / "run.db"
    if not path.is_file():
        return {}
    with sqlite3.connect(path) as db:
        try:
            rows = db.execute("SELECT key, stage, payload, sequence, seconds FROM results ORDER BY sequence").fetchall()
        except sqlite3.OperationalError:  # killed before the tables were there
            rows = []
    db.close()
    return {key: tuple(rest) for key, *rest in rows}


def child(work: Any, *arguments: Any) -> multiprocessing.process.BaseProcess:
    """Start work in a fork that can be killed without harm to this process."""

    def quiet() -> None:
        torch.set_num_threads(1)
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    process = FORK.Process(target=quiet)
    process.start()
    return process


def kill_one(runs: Path, name: str, after_s: float, reference: list[tuple[str, str, str, float]]) -> Outcome:
    """Start a run, kill it, resume it to the end, compare."""
    process = child(small_fit, runs, name)
    time.sleep(after_s)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    folder = runs / name
    before = committed(folder)
    last = next(reversed(before.values()))[0] if before else ""
    outcome = Outcome(round(after_s, 3), len(before), 0, False, last)
    again = child(_finish, runs, name)
    again.join()
    if again.exitcode:
        outcome.problem = "the resumed run failed"
        return outcome
    run = Run.open(max(runs.glob(f"{name}*"), key=lambda p: p.stat().st_ctime))
    after = committed(run.path)
    if run.path == folder:
        outcome.n_lost = sum(after.get(key) != value for key, value in before.items())
    else:
        outcome.n_lost = len(before)
    front = front_of(run)
    outcome.same_front = front == reference
    outcome.front = [] if outcome.same_front else front
    outcome.names = damaged(run.path)
    return outcome


def _finish(runs: Path, name: str) -> None:
    try:
        resume(runs / name)
    except BitfrontError:  # killed before the run had begun: there is nothing to resume
        if committed(runs / name):
            raise
        small_fit(runs, name)


def benchmark(n_kills: int, seed: int, folder: Path, quick: bool = False) -> dict[str, Any]:
    """Run once undisturbed, then with kills; return all that was seen."""
    make_data(folder)
    runs = folder / "runs"
    if quick:
        (folder / "quick").touch()
    rng = np.random.default_rng(seed)
    start = time.monotonic()
    process = child(small_fit, runs, "undisturbed")
    process.join()
    seconds = time.monotonic() - start
    if process.exitcode:
        raise RuntimeError("the undisturbed run failed")
    reference = front_of(Run.open(runs / "undisturbed"))
    outcomes = []
    for n in range(n_kills):
        outcome = kill_one(runs, f"killed{n:03d}", float(rng.uniform(0, seconds)), reference)
        outcomes.append(outcome)
        print(f"{n + 1:3d}/{n_kills} killed after {outcome.killed_after_s:6.2f} s: {outcome}", file=sys.stderr)
    return {
        "n_kills": n_kills,
        "seed": seed,
        "undisturbed_s": round(seconds, 2),
        "front": reference,
        "n_results": len(committed(runs / "undisturbed")),
        "n_lost": sum(o.n_lost for o in outcomes),
        "n_different_fronts": sum(not o.same_front for o in outcomes),
        "n_damaged_files": sum(len(o.names) for o in outcomes),
        "machine": platform.processor() or platform.machine(),
        "outcomes": [asdict(o) for o in outcomes],
    }


def main() -> None:
    """Run the benchmark and keep its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two networks instead of four")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = benchmark(arguments.kills, arguments.seed, Path(folder), arguments.quick)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print({k: v for k, v in result.items() if k not in ("outcomes", "front")})


if __name__ == "__main__":
    main()
