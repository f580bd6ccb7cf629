"""``bitfront fit fast_scnn DATA --time 10m``, killed twice on the way and resumed: does it end in time, with the same?

    python benchmarks/time_limit.py --data ../shared/data/packages

Every session is a process of its own, from its start to its end or its ``kill -9``; their wall times are added. A run
under a limit of time plans by steps that it times, so two runs plan differently. The comparison therefore is a second
run that takes over the first one's plan (its forecasts) and is killed never: it has to come to the same trainings, the
same scores and the same files. Latencies differ, so fronts may.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import machine

from bitfront.run import Run
from bitfront.store import atomic_json

RESULT = Path(__file__).with_name("results") / "time_limit.json"
ALLOWED_S = 30.0


def session(arguments: list[str], kill_after_s: float | None) -> dict[str, Any]:
    """Run a command of bitfront, kill it after a while; return what happened."""
    load, start = os.getloadavg()[0], time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "bitfront", *arguments], stdout=subprocess.DEVNULL)
    try:
        code: int | None = process.wait(kill_after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        code = None
    return {"seconds": round(time.monotonic() - start, 1), "exit_code": code, "load": round(load, 2)}


def take_over_plan(source: Path, target: Path) -> int:
    """Copy the forecasts of a run into the database of another one; return how many."""
    with sqlite3.connect(target) as db:
        db.execute("ATTACH ? AS other", (str(source),))
        db.execute("DELETE FROM results WHERE stage = 'forecast'")
        found = db.execute("INSERT INTO results SELECT * FROM other.results WHERE stage = 'forecast'").rowcount
    db.close()
    return found


def facts(run: Run) -> dict[str, Any]:
    """Return what has to be the same, and what may differ."""
    records = {r.id: r for r in run.records()}
    return {
        "files": {
            r.candidate.label: {"score": r.val.value, "sha256": r.artifact.sha256, "verified": r.agreement.verified}
            for r in records.values()
            if r.val is not None and r.artifact is not None and r.agreement is not None
        },
        "dropped": sorted(f"{r.candidate.label}: {r.reason}" for r in records.values() if r.artifact is None),
        "front": [member.record.candidate.label for member in run.front],
        "front_verified": all(m.record.agreement is not None and m.record.agreement.verified for m in run.front),
        "working_seconds": round(run.seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kill-after", type=float, nargs="+", default=[150.0, 200.0], help="seconds of each session")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--compare", action="store_true", help="also the run that is never killed")
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()

    limit = ["fit", "fast_scnn", str(args.data), "--time", f"{round(60 * args.minutes)}s", "--runs", str(args.runs)]
    folder = args.runs / "killed"
    sessions = [session([*limit, "--name", "killed"], args.kill_after[0])]
    sessions += [session(["resume", str(folder)], seconds) for seconds in args.kill_after[1:]]
    sessions.append(session(["resume", str(folder)], None))
    run = Run.open(folder)
    total = sum(s["seconds"] for s in sessions)
    report: dict[str, Any] = {
        "benchmark": "time_limit",
        "command": " ".join(["python", "benchmarks/time_limit.py", *sys.argv[1:]]),
        "machine": machine(),
        "limit_seconds": 60 * args.minutes,
        "sessions": sessions,
        "total_seconds": round(total, 1),
        "in_time": total <= 60 * args.minutes + ALLOWED_S,
        "killed": facts(run),
        "plan": [event.text for event in run.events if event.stage == "forecast"],
    }
    atomic_json(args.result, report)
    print(f"{total:.0f} s in {len(sessions)} sessions, front of {len(run.front)}", flush=True)
    if args.compare:
        report |= compared(args, report["killed"], folder)
        atomic_json(args.result, report)
        print({k: report[k] for k in ("same_files", "same_front")})


def compared(args: argparse.Namespace, killed: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the same plan without being killed and compare."""
    whole = args.runs / "whole"
    limit = ["fit", "fast_scnn", str(args.data), "--time", f"{round(60 * args.minutes)}s", "--runs", str(args.runs)]
    started = subprocess.Popen([sys.executable, "-m", "bitfront", *limit, "--name", "whole"], stdout=subprocess.DEVNULL)
    while not (whole / "run.db").is_file() or not has_config(whole / "run.db"):
        time.sleep(0.2)
    started.send_signal(signal.SIGKILL)  # it has begun and planned nothing yet
    started.wait()
    n_plans = take_over_plan(folder / "run.db", whole / "run.db")
    done = session(["resume", str(whole)], None)
    other = facts(Run.open(whole))
    return {
        "whole_session": done,
        "whole": other,
        "n_plans_taken_over": n_plans,
        "same_files": killed["files"] == other["files"],
        "same_front": killed["front"] == other["front"],
    }


def has_config(path: Path) -> bool:
    """Whether a run was begun."""
    with sqlite3.connect(path) as db:
        try:
            found = db.execute("SELECT 1 FROM meta WHERE name = 'config'").fetchone() is not None
        except sqlite3.OperationalError:
            found = False
    db.close()
    return found


if __name__ == "__main__":
    main()
