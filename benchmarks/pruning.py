"""Structured pruning of a trained network against narrower networks that were trained as such: score, size, time.

python benchmarks/pruning.py --data DATA --models CHECKPOINTS --network fastscnn_a0.75t6r3pp1 --work WORK
python benchmarks/pruning.py --data DATA --models CHECKPOINTS --network yolo_v5n --size 320 --score map50 --work WORK

Every checkpoint of CHECKPOINTS that --front names becomes a float and an int8 file; the network is pruned by every
share, trained for a few epochs, and becomes the same. All files of ONNX Runtime, one thread, timed in turns in one
process; scores on the val part, which also chose the best of the few epochs.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import machine

from bitfront.graph import files
from bitfront.graph.count import count
from bitfront.measure import timing
from bitfront.registry import load
from bitfront.store import atomic_json
from bitfront.train.options import preset
from bitfront.verbs.making import export, quantize
from bitfront.verbs.pruning import prune
from bitfront.verbs.scoring import evaluate

RESULTS = Path(__file__).with_name("results")


def pruned(args: argparse.Namespace, method: str, share: float) -> dict[str, object]:
    """Prune, train, and write a float file; return what is known of it."""
    out = args.work / f"{args.network}-{method}-{share:g}-{args.steps}-{args.epochs}.onnx"
    options = replace(preset("quantized"), epochs=max(1, args.epochs // args.steps), rate=args.rate, score=args.score)
    if not out.exists():
        prune(
            str(args.models / f"{args.network}.safetensors"), args.data, out, share=share, method=method,
            steps=args.steps, options=options, settings=settings(args), live_norm=args.live_norm, seconds=1, part="val",
            on_epoch=lambda e: print(f"  {share:g}: epoch {e.index + 1}, {e.score}", file=sys.stderr, flush=True),
        )  # fmt: skip
    how = json.loads(out.with_suffix(".manifest.json").read_text())["pruned"]
    return described(args, out, {"pruned": {**how, "epochs": options.epochs * args.steps}})


def given(args: argparse.Namespace, name: str, size: int) -> dict[str, object]:
    """Return what is known of a checkpoint as a float file, at the size of the others or a smaller one."""
    out = args.work / f"{name}{'' if size == args.size else f'-at-{size}'}.onnx"
    if not out.exists():
        at = {"resolution": (size, size)}
        export(str(args.models / f"{name}.safetensors"), out, data=args.data, settings=at)
    return described(args, out, {})


def described(args: argparse.Namespace, out: Path, facts: dict[str, object]) -> dict[str, object]:
    """Return what is known of a float file and its int8 twin, which is written if it is not there."""
    rounded = out.with_name(f"{out.stem}-int8.onnx")
    if not rounded.exists():
        quantize(str(out), args.data, rounded, part="val", score=args.score)
    counts = count(files.load(out.with_suffix(files.SUFFIX))[0])
    found = {"name": out.stem, **facts, "parameters": counts.parameters, "macs": counts.macs, "files": {}}
    for recipe, path in (("float32", out), ("int8", rounded)):
        metrics = evaluate(str(path), args.data, part="val", score=args.score).metrics
        values = {name: value for name, value in metrics.values.items() if value is not None}
        found["files"][recipe] = {"score": metrics.value, "metrics": values, "size_bytes": path.stat().st_size}
    print(found["name"], [f["score"] for f in found["files"].values()], file=sys.stderr, flush=True)
    return found


def timed(args: argparse.Namespace, rows: list[dict[str, object]]) -> None:
    """Time all files in turns; ratios are to the unpruned network in float."""
    engine = load("runtime", "onnxruntime")()
    written = {(row["name"], recipe): file for row in rows for recipe, file in row["files"].items()}
    paths = {key: args.work / f"{key[0]}{'' if key[1] == 'float32' else '-int8'}.onnx" for key in written}
    sessions = {"/".join(key): engine.open(path, 1) for key, path in paths.items()}
    sizes = {"/".join(key): engine.describe(path).input.height for key, path in paths.items()}
    rng = np.random.default_rng(0)
    images = {name: rng.normal(size=(1, 3, size, size)).astype(np.float32) for name, size in sizes.items()}
    found = timing.measure(sessions, images, f"{args.network}/float32", seconds=args.seconds)
    for key, file in written.items():
        measured = found["/".join(key)]
        file |= {"latency_ms": measured.value, "ratio": measured.ratio, "noise_floor": measured.noise_floor}


def dominating(rows: list[dict[str, object]], cost: str) -> list[dict[str, object]]:
    """Return the pruned files that are better than some given file in score and in one cost, and worse in neither."""
    flat = [
        {"name": r["name"], "recipe": k, "is_pruned": "pruned" in r, **f} for r in rows for k, f in r["files"].items()
    ]
    found = []
    for a in (f for f in flat if f["is_pruned"]):
        beaten = [f"{b['name']}/{b['recipe']}" for b in flat if not b["is_pruned"] and beats(a, b, cost)]
        by_given = [f"{b['name']}/{b['recipe']}" for b in flat if not b["is_pruned"] and beats(b, a, cost)]
        found.append({"file": f"{a['name']}/{a['recipe']}", "dominates": beaten, "dominated_by": by_given})
    return found


def beats(a: dict[str, object], b: dict[str, object], cost: str) -> bool:
    """Whether a file is at least as good as another in score and cost, and better in one beyond the noise of time."""
    margin = max(a["noise_floor"] or 0, b["noise_floor"] or 0) * b[cost] if cost == "ratio" else 0
    return a["score"] >= b["score"] and a[cost] <= b[cost] - margin and (a["score"], a[cost]) != (b["score"], b[cost])


def settings(args: argparse.Namespace) -> dict[str, object]:
    return {"resolution": (args.size, args.size)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--front", nargs="*", default=[])
    parser.add_argument("--shares", nargs="*", type=float, default=[0.3, 0.5, 0.7])
    parser.add_argument("--methods", nargs="*", default=["structured"])
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--live-norm", type=float)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--smaller", nargs="*", type=int, default=[], help="the unpruned network at these sizes, too")
    parser.add_argument("--score", default="")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--result", default="pruning")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    rows = [pruned(args, method, share) for method in args.methods for share in args.shares]
    rows += [given(args, name, args.size) for name in dict.fromkeys([args.network, *args.front])]
    rows += [given(args, args.network, size) for size in args.smaller]
    timed(args, rows)
    report = {
        "benchmark": "pruning",
        "command": f"python benchmarks/pruning.py --data DATA --models MODELS --network {args.network} --work WORK",
        "options": {k: v for k, v in vars(args).items() if k not in ("data", "models", "work", "result")},
        "machine": machine(),
        "resolution": [args.size, args.size],
        "rows": rows,
        "against_given": {cost: dominating(rows, cost) for cost in ("size_bytes", "ratio")},
    }
    atomic_json(RESULTS / f"{args.result}.json", report)


if __name__ == "__main__":
    main()
