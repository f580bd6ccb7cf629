"""Fit Fast-SCNN to photographs of packages at the seven sizes of thesis 001's table 4.7, and set the two side by side.

    python benchmarks/packages_fit.py --data ../shared/data/packages --weights ../shared/models/fastscnn_packages

Starts from trained 512 x 512 checkpoints; every smaller size is trained further. Started again with the same ``--runs``
it goes on where it was. Scores: foreground IoU at the size of the photographs (960 x 540), on the part ``val`` (the
thesis used another part of the same photographs); latency: this machine, one thread.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from machine import machine

import bitfront
from bitfront.pipeline import resume
from bitfront.store import atomic_json

RESULT = Path(__file__).with_name("results") / "packages_fit.json"
THESIS = {512: 0.9788, 256: 0.9729, 224: 0.9708, 192: 0.9723, 160: 0.9641, 128: 0.9564, 96: 0.9393}
"""Thesis 001, table 4.7: foreground IoU per image, mean, of Fast-SCNN(1, 6, 3, 0) retrained at each size."""
SETTINGS = {"classes": 1, "width": 1.0, "expansion": 6, "repeats": 1, "pyramid": False}
RECIPES = ("int8", "int8_mixed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--sides", type=int, nargs="+", default=list(THESIS))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--name", default="packages")
    parser.add_argument("--epochs", type=int, default=60, help="of a training from scratch; from weights 40 %% of it")
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()

    folder = args.runs / args.name
    if folder.exists():
        run = resume(folder)
    else:
        space = {"resolution": [(side, side) for side in args.sides]}
        run = bitfront.fit(
            "fast_scnn", str(args.data), weights=args.weights, settings=SETTINGS, space=space, recipes=RECIPES,
            epochs=args.epochs, runs=args.runs, name=args.name,
        )  # fmt: skip
    front = {member.id for member in run.front}
    rows = []
    for record in run.records():
        if record.val is None or record.artifact is None:
            continue
        side = record.candidate.knobs["resolution"][0]
        rows.append(
            {
                "side": side,
                "recipe": record.candidate.recipe,
                "status": record.status,
                "reason": record.reason,
                "on_front": record.id in front,
                "foreground_iou_image": record.val.values["foreground_iou_image"],
                "foreground_iou": record.val.values["foreground_iou"],
                "thesis_foreground_iou_image": THESIS.get(side),
                "latency_ms": record.latency.value if record.latency else None,
                "ratio_to_float": record.latency.ratio if record.latency else None,
                "noise_floor": record.latency.noise_floor if record.latency else None,
                "size_bytes": record.artifact.size_bytes,
                "ram_bytes": record.ram_bytes,
                "verified": record.agreement.verified if record.agreement else None,
                "max_code_difference": record.agreement.max_code_difference if record.agreement else None,
            }
        )
    rows.sort(key=lambda row: (-row["side"], row["recipe"]))
    floats = {row["side"]: row for row in rows if row["recipe"] == "float32"}
    for row in rows:
        row["iou_against_float"] = row["foreground_iou"] - floats[row["side"]]["foreground_iou"]
    report = {
        "benchmark": "packages_fit",
        "command": " ".join(["python", "benchmarks/packages_fit.py", *sys.argv[1:]]),
        "machine": machine(),
        "settings": SETTINGS,
        "seconds": round(run.seconds, 1),
        "epochs": args.epochs,
        "part": "val",
        "thesis": "001, table 4.7",
        "rows": rows,
    }
    args.result.parent.mkdir(parents=True, exist_ok=True)
    atomic_json(args.result, report)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
