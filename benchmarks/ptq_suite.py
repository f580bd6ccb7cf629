"""The suite ``ptq`` on trained networks: every recipe in every engine, as ``bitfront benchmark --suite ptq`` runs it.

    python benchmarks/ptq_suite.py --data ../shared/data/packages \
        --net ../shared/models/fastscnn_packages/fastscnn_a1.0t6r1pp1.safetensors --runs runs/ptq

Several ``--net`` one after another; started again with the same ``--runs`` it goes on where it was. Scores are those of
the files on val, at the size of the photographs; times are thread CPU time of one thread, all files of a network in
turns; the ratio is against float32 in the same engine, and a file counts as faster or slower beyond the noise floor.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from machine import machine

from bitfront.cli.suites import suite_answer
from bitfront.pipeline import resume, suite
from bitfront.run import Run
from bitfront.store import atomic_json, atomic_write

RESULT = Path(__file__).with_name("results") / "ptq_suite.json"
ALLOWED = 0.005
"""Loss of score that full 8-bit files may have."""
EIGHT_BITS = ("int8", "int8_mixed", "int8_compact", "int8_full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--net", nargs="+", required=True, help="MODEL, or MODEL@SIDE for another input size")
    parser.add_argument("--runtime", nargs="+", default=[])
    parser.add_argument("--recipe", nargs="+", default=[])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()

    nets = []
    for net in args.net:
        model, _, side = net.partition("@")
        name = f"ptq_{Path(model).stem}{f'_{side}' if side else ''}"
        settings = {"resolution": (int(side), int(side))} if side else {}
        place = args.runs / name
        run = resume(place) if place.exists() else suite(
            "ptq", model, args.data, runtimes=args.runtime, recipes=args.recipe, settings=settings, limit=args.limit,
            retrain="never", runs=args.runs, name=name,
        )  # fmt: skip
        nets.append(told(run))
        write(args.result, nets)


def told(run: Run) -> dict[str, Any]:
    """Return what a suite measured, and how its 8-bit files stand to float."""
    answer = suite_answer(run).data
    files = [{k: v for k, v in f.items() if k not in ("id", "path")} for f in answer["files"]]
    floats = {f["runtime"]: f for f in files if f["recipe"] == "float32"}
    score = run.config["score"] or next(r.val.score for r in run.records() if r.val)
    noise = {(r.candidate.runtime, r.candidate.recipe): r.latency.noise_floor for r in run.records() if r.latency}
    eight = [
        {
            "runtime": f["runtime"],
            "recipe": f["recipe"],
            "points_lost": round(100 * (floats[f["runtime"]]["values"][score] - f["values"][score]), 3),
            "keeps_score": floats[f["runtime"]]["values"][score] - f["values"][score] <= ALLOWED,
            "time_to_float": f["ratio"] and round(f["ratio"], 3),
            "noise_floor": noise.get((f["runtime"], f["recipe"])),
            "size_to_float": round(f["size_bytes"] / floats[f["runtime"]]["size_bytes"], 3),
            "verified": f["verified"],
        }
        for f in files
        if f["recipe"] in EIGHT_BITS and f["runtime"] in floats
    ]
    record = run.records()[0]
    return {
        "network": run.name.removeprefix("ptq_"),
        "knobs": record.candidate.knobs,
        "score": score,
        "n_val": next(r.val.n for r in run.records() if r.val),
        "eight_bits": eight,
        "files": files,
        "surprises": answer["surprises"],
        "seconds": round(run.seconds, 1),
        "table": (run.path / "ptq.md").read_text(encoding="utf-8"),
    }


def write(result: Path, nets: list[dict[str, Any]]) -> None:
    plain = [{k: v for k, v in net.items() if k != "table"} for net in nets]
    facts = {"benchmark": "ptq_suite", "command": " ".join(["python", *sys.argv]), "machine": machine(), "nets": plain}
    atomic_json(result, facts)
    text = "".join(f"# {net['network']}\n\n{net['n_val']} images of val.\n\n{net['table']}\n" for net in nets)
    atomic_write(result.with_suffix(".md"), text.encode())


if __name__ == "__main__":
    main()
