"""Explore thesis 001's space on the packages with a tenth of its trainings, and set both fronts side by side.

    python benchmarks/packages_space.py --data ../shared/data/packages --golden ../shared/golden \
        [--weights ../shared/models/fastscnn_packages]

The thesis trained 36 + 29 + 14 configurations of Fast-SCNN (tables 4.7, 4.9, 4.12, 4.15, 4.19, 4.22). Their knobs, as a
declared space with one size more (64), go to ``bitfront.fit`` with the stages ``given`` (published 512-pixel weights as
they are; nothing without ``--weights``) and ``promising`` (seven trainings, chosen by the pipeline). Then the files of
the front are timed in turns beside the thesis's baseline, Fast-SCNN(1, 6, 3, 1) in float32 at 512 x 512, and for every
point of the thesis's front the best file that is at least as fast, relative to that baseline, is named.

Scores: foreground IoU at the size of the photographs, mean over images, as in the thesis; here on ``val`` (the thesis
scored other photographs of the same belt). Started again with the same ``--runs`` it goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from machine import machine

import bitfront
from bitfront.contracts import InputContract, OutputContract
from bitfront.graph import capture, passes
from bitfront.measure import timing
from bitfront.models.fast_scnn import FastScnn
from bitfront.pipeline import resume
from bitfront.quant import recipes
from bitfront.run import Run
from bitfront.store import atomic_json, atomic_write
from bitfront.verbs.artifacts import open_runtime

RESULTS = Path(__file__).with_name("results")
SPACE = {
    "resolution": [(side, side) for side in (512, 256, 224, 192, 160, 128, 96, 64)],
    "channels": [3, 1],
    "width": [0.125, 0.25, 0.5, 0.75, 1.0],
    "expansion": [2, 4, 6],
    "repeats": [1, 2, 3],
    "pyramid": [False, True],
}
SCORE = "foreground_iou_image"
STAGES = ("given", "promising")
RECIPES = ("int8_mixed",)
THESIS_TRAININGS = {
    "input data, tables 4.7 and 4.9": 14,
    "network, tables 4.12, 4.15, 4.19": 29,
    "both, table 4.22": 36,
}
BASELINE_FPS = 4.5372
"""Thesis 001, table 4.12: Fast-SCNN(1, 6, 3, 1) at 512 x 512 on a Raspberry Pi 4."""
TOLERANCE = 0.005


def thesis_front(golden: Path) -> list[dict]:
    """Return the thesis's front over all its stages, the fastest first: name, IoU, latency relative to its baseline."""
    with (golden / "001_pareto_fronts_computed.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["set"] in ("stages2-6", "stage7")]
    points = sorted(((float(r["fps"]), float(r["iou"]), r["point"]) for r in rows), reverse=True)
    front: list[dict] = []
    for fps, iou, name in points:
        if not front or iou > front[-1]["iou"]:
            front.append({"point": name, "iou": iou, "ratio": BASELINE_FPS / fps})
    return front


def explore(args: argparse.Namespace) -> Run:
    """Run the fit, or go on with it."""
    folder = args.runs / args.name
    if folder.exists():
        return resume(folder)
    return bitfront.fit(
        "fast_scnn", str(args.data), weights=args.weights, settings={"classes": 1}, space=SPACE, stages=STAGES,
        recipes=RECIPES, epochs=args.epochs, score=SCORE, runs=args.runs, name=args.name,
    )  # fmt: skip


def timed(run: Run, data: Path, seconds: float) -> dict[str, object]:
    """Return the latencies of the front's files and of the thesis's baseline (fresh weights), measured in turns."""
    runtime = open_runtime("onnxruntime")
    image = np.random.default_rng(0)
    sessions, images = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        module = FastScnn(classes=1).build().eval()
        graph, plan = recipes.build("float32", passes.prepare(capture.from_module(module, (1, 3, 512, 512))), None, [])
        contract = InputContract(512, 512)
        path = runtime.export(graph, plan, Path(folder), contract, OutputContract("threshold"))
        sessions["baseline"] = runtime.open(path, 1)
        images["baseline"] = image.normal(size=(1, 3, 512, 512)).astype(np.float32)
        for member in run.front:
            own = member.record.artifact.input
            sessions[member.id] = runtime.open(member.model, 1)
            images[member.id] = image.normal(size=(1, own.channels, own.height, own.width)).astype(np.float32)
        found = timing.measure(sessions, images, "baseline", seconds=seconds)
        for session in sessions.values():
            session.close()
    return found


def compared(points: list[dict], files: list[dict]) -> list[dict]:
    """Return for every point of the thesis the best file that is as fast, and by how much it is better."""
    rows = []
    for point in points:
        fast = [f for f in files if f["ratio"] <= point["ratio"]]
        best = max(fast, key=lambda f: f["iou"], default=None)
        row = {**point, "ours": best["label"] if best else None, "our_ratio": best["ratio"] if best else None}
        row["our_iou"] = best["iou"] if best else None
        row["difference"] = best["iou"] - point["iou"] if best else None
        row["holds"] = best is not None and row["difference"] >= -TOLERANCE
        rows.append(row)
    return rows


def short(knobs: dict) -> str:
    """Return a configuration as the thesis writes it."""
    side, grey = knobs["resolution"][0], " grey" if knobs["channels"] == 1 else ""
    pyramid = "pp" if knobs["pyramid"] else ""
    return f"{side}x{side}{grey} a{knobs['width']:g}t{knobs['expansion']}r{knobs['repeats']}{pyramid}"


def table(report: dict) -> str:
    """Return the comparison as Markdown."""
    lines = [
        f"{report['n_trainings']} trainings against the thesis's {report['thesis_trainings']}; "
        f"{report['seconds'] / 60:.0f} min wall time, {report['cpu_seconds'] / 60:.0f} min CPU; "
        f"latency as a share of Fast-SCNN(1, 6, 3, 1) in float32 at 512 x 512 (here {report['baseline_ms']:.1f} ms).",
        "",
        "| thesis | latency, % | IoU, % | ours, as fast | latency, % | IoU, % | difference, points |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["comparison"]:
        ours = [row["ours"] or "none", "", "", ""]
        if row["ours"]:
            ours = [row["ours"], f"{100 * row['our_ratio']:.2f}", f"{100 * row['our_iou']:.2f}"]
            ours.append(f"{100 * row['difference']:+.2f}" + ("" if row["holds"] else " (worse)"))
        lines.append(f"| {row['point']} | {100 * row['ratio']:.2f} | {100 * row['iou']:.2f} | {' | '.join(ours)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--golden", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--name", default="packages_space")
    parser.add_argument("--epochs", type=int, default=80, help="of a training from scratch; from weights 40 %% or more")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the comparison of latencies")
    parser.add_argument("--result", type=Path, default=RESULTS / "packages_space.json")
    args = parser.parse_args()

    run = explore(args)
    used = resource.getrusage(resource.RUSAGE_SELF)
    latencies = timed(run, args.data, args.seconds)
    files = []
    for member in run.front:
        record, latency = member.record, latencies[member.id]
        files.append(
            {
                "label": f"{short(record.candidate.knobs)} {record.candidate.recipe}",
                "knobs": record.candidate.knobs,
                "recipe": record.candidate.recipe,
                "iou": record.val.values[SCORE],
                "ratio": latency.ratio,
                "latency_ms": latency.value,
                "size_bytes": record.artifact.size_bytes,
                "verified": record.agreement.verified,
                "trained_here": record.train_seconds is not None,
            }
        )
    files.sort(key=lambda f: f["ratio"])
    comparison = compared(thesis_front(args.golden), files)
    trainings = {r.train_seconds: r.candidate.knobs for r in run.records() if r.train_seconds is not None}
    report = {
        "benchmark": "packages_space",
        "command": " ".join(["python", "benchmarks/packages_space.py", *sys.argv[1:]]),
        "machine": machine(),
        "part": "val",
        "score": "foreground IoU at the photographs' size, mean over images",
        "space": SPACE,
        "stages": STAGES,
        "given_weights": str(args.weights is not None),
        "epochs": args.epochs,
        "thesis_trainings": sum(THESIS_TRAININGS.values()),
        "thesis_trainings_counted": THESIS_TRAININGS,
        "n_trainings": len(trainings),
        "trainings": [{"knobs": k, "seconds": round(s, 1)} for s, k in trainings.items()],
        "seconds": round(run.seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "baseline_ms": latencies["baseline"].value,
        "front": files,
        "comparison": comparison,
        "worst_difference": min((r["difference"] for r in comparison if r["difference"] is not None), default=None),
        "best_difference": max((r["difference"] for r in comparison if r["difference"] is not None), default=None),
        "holds": all(row["holds"] for row in comparison),
    }
    args.result.parent.mkdir(parents=True, exist_ok=True)
    atomic_json(args.result, report)
    atomic_write(args.result.with_suffix(".md"), table(report).encode())
    print(table(report))


if __name__ == "__main__":
    main()
