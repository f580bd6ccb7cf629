"""Candidates per hour with two workers against one, and whether the front is the same.

The same space of Fast-SCNN on generated pictures is fitted with ``--workers 1`` and ``--workers 2``. Counted is the
time from the first training to the last file: what comes before (scan, forecast) and after (timing, report) is done by
one process either way. Processor time beside it says what the work costs, whoever else uses the machine. Writes
``benchmarks/results/workers.json``.

    python benchmarks/workers.py [--repeats 1] [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bitfront.data.conveyor import Conveyor
from bitfront.measure.system import system
from bitfront.pipeline import Progress, fit
from bitfront.record import digest_file
from bitfront.run import Run
from bitfront.verbs.data import convert

RESULTS = Path(__file__).parent / "results" / "workers.json"
SPACE = {"resolution": [(64, 64), (96, 96)], "width": [0.25, 0.35, 0.5, 0.75]}
QUICK = {"resolution": [(64, 64), (96, 96)], "width": [0.25, 0.5]}
WORK = ("train", "candidates")
"""Stages that are done by workers."""


def measured(data: Path, runs: Path, n: int, quick: bool) -> dict[str, Any]:
    """Fit with ``n`` workers and say how long it took."""
    times: dict[str, float] = {}

    def seen(progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage == "forecast":
            times["begin"] = now
        if progress.stage in WORK or "end" not in times:
            times["end"] = now

    load = psutil.getloadavg()[0]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run = fit(
        "fast_scnn", str(data), space=QUICK if quick else SPACE, recipes=("float32", "int8"),
        objectives=("score", "size", "macs"), epochs=4 if quick else 30, workers=n, name=f"workers{n}", runs=runs,
        progress=seen,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    records = run.records()
    last = max(times["end"], times["begin"])
    return {
        "workers": n,
        "candidates": len(records),
        "seconds": round(last - times["begin"], 1),
        "candidates_per_hour": round(3600 * len(records) / (last - times["begin"]), 1),
        "whole_run_s": round(time.monotonic() - start, 1),
        "processor_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "load": [round(load, 2), round(psutil.getloadavg()[0], 2)],
        "front": front(run),
    }


def front(run: Run) -> list[Any]:
    """Name, id, SHA-256 of the delivered file and score of every member."""
    return [(m.name, m.id, digest_file(m.model), m.score) for m in run.front]


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="half of the networks, a third of the epochs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "belt"
        convert(Conveyor(size=(96, 128), n_train=64, n_val=16, n_test=8), data)
        for repeat in range(arguments.repeats):
            for n in (1, 2) if repeat % 2 == 0 else (2, 1):
                rows.append(measured(data, Path(folder) / f"runs{repeat}", n, arguments.quick))
                print({k: v for k, v in rows[-1].items() if k != "front"}, flush=True)
    best = {n: max(r["candidates_per_hour"] for r in rows if r["workers"] == n) for n in (1, 2)}
    result = {
        "ratio": round(best[2] / best[1], 3),
        "same_front": all(row["front"] == rows[0]["front"] for row in rows),
        "quick": arguments.quick,
        "machine": system(),
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print({k: v for k, v in result.items() if k not in ("rows", "machine")})


if __name__ == "__main__":
    main()
