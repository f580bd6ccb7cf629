"""Knowledge distillation of a detector on generated packages: labels alone, outputs, features, both; several seeds.

python benchmarks/distillation.py --work WORK          # the teacher, then every student; goes on where it stopped
python benchmarks/distillation.py --work WORK --table  # the table of what is finished
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from machine import machine

from bitfront.record import to_json
from bitfront.train.distill_options import METHODS, DistillOptions
from bitfront.train.loop import train
from bitfront.train.options import preset
from bitfront.train.scoring import score_module
from bitfront.verbs.opening import open_both
from bitfront.verbs.teaching import Teacher, distilling

RESULTS = Path(__file__).parent / "results"
METRICS = ("map50", "map")
NAMES = {
    "labels": "labels alone",
    "clipped": "labels alone, gradient limited",
    "outputs": "outputs (OBKD)",
    "features": "features (FIKD)",
    "both": "both",
}
"""Ways to train. Imitating a feature limits the gradient, too: ``clipped`` does that alone."""


def trained(args: argparse.Namespace, name: str, model: str, n_train: int, epochs: int, seed: int, **more) -> dict:
    """Train one network, or read what was measured before; scored on the test part."""
    place = args.work / f"{name}.json"
    if place.is_file():
        return json.loads(place.read_text())
    opened = open_both(model, "conveyor", task="detection", settings={"resolution": (args.size, args.size)})
    source, parts = opened.source, {name: opened.dataset.part(name) for name in ("train", "val", "test")}
    parts["train"] = [parts["train"][i] for i in range(n_train)]
    options = replace(preset("detection"), epochs=epochs, validate_every=args.validate_every, device="cpu")
    torch.manual_seed(seed)
    module, n_steps = source.build(), max(1, n_train // options.batch_size)
    make = distilling(more.get("teacher"), opened, n_steps, seed)
    start = time.process_time()

    def on_epoch(epoch: object) -> None:
        score = "" if epoch.score is None else f", mAP@.5 {epoch.score:.4f}"
        print(f"{name} {epoch.index + 1}/{epochs}: loss {epoch.loss:.3f}{score}", file=sys.stderr, flush=True)

    done = train(
        module,
        opened.task,
        opened.info,
        parts["train"],
        parts["val"],
        source.input,
        options,
        args.work / name,
        seed,
        on_epoch,
        header={"model": source.name, "options": to_json(source.options)},
        output=source.output,
        distiller=make(module) if make else None,
    )
    metrics = score_module(module, opened.task, opened.info, parts["test"], source.input, output=source.output)
    found = {
        "name": name,
        "model": model,
        "parameters": sum(p.numel() for p in module.parameters()),
        "n_train": n_train,
        "seed": seed,
        "best_epoch": done.best_epoch + 1,
        "val_map50": done.best_score,
        "test": {key: metrics.values[key] for key in METRICS},
        "test_interval": metrics.interval,
        "wall_seconds": done.seconds,
        "cpu_seconds": time.process_time() - start,
    }
    place.write_text(json.dumps(found))
    return found


def measure(args: argparse.Namespace) -> None:
    """Train the teacher, then each seed's students."""
    torch.set_num_threads(1)
    trained(args, "teacher", args.teacher, args.teacher_images, args.teacher_epochs, 100)
    checkpoint = args.work / "teacher" / "best.safetensors"
    for seed in range(args.seeds):
        for method in NAMES:
            options = DistillOptions(method, factor=args.factor) if method in METHODS else None
            if method == "clipped":
                options = DistillOptions("features", imitate_after=1_000_000)
            teacher = Teacher(str(checkpoint), options=options) if options else None
            name = f"{method}-{seed}"
            trained(args, name, args.student, args.images, args.epochs, seed, teacher=teacher)


def written(args: argparse.Namespace) -> None:
    """Write what is finished as JSON and as a table."""
    runs = [json.loads(p.read_text()) for p in sorted(args.work.glob("*.json"))]
    teacher = next(r for r in runs if r["name"] == "teacher")
    students: dict[str, dict[int, dict]] = {}
    for run in runs:
        method, _, seed = run["name"].partition("-")
        if seed:
            students.setdefault(method, {})[int(seed)] = run["test"]
    seeds = sorted(set.intersection(*(set(runs) for runs in students.values())))
    rows = []
    for method in (m for m in NAMES if m in students):
        values = {key: np.array([100 * students[method][s][key] for s in seeds]) for key in METRICS}
        gains = {key: values[key] - [100 * students["labels"][s][key] for s in seeds] for key in METRICS}
        rows.append(
            {
                "method": method,
                "values": {key: v.tolist() for key, v in values.items()},
                "mean": {key: float(v.mean()) for key, v in values.items()},
                "spread": {key: float(v.std(ddof=1)) if len(seeds) > 1 else None for key, v in values.items()},
                "gain": {key: float(v.mean()) for key, v in gains.items()},
                "gain_spread": {key: float(v.std(ddof=1)) if len(seeds) > 1 else None for key, v in gains.items()},
            }
        )
    settings = {key: value for key, value in vars(args).items() if key not in ("work", "table")}
    found = {
        "command": "python benchmarks/distillation.py --work WORK",
        "settings": settings,
        "options": asdict(DistillOptions("both", factor=args.factor)),
        "seeds": seeds,
        "teacher": teacher,
        "students": rows,
        "runs": runs,
        "machine": machine(),
    }
    (RESULTS / "distillation.json").write_text(json.dumps(found, indent=1))
    (RESULTS / "distillation.md").write_text(table(args, teacher, rows, len(seeds)))


def table(args: argparse.Namespace, teacher: dict, rows: list[dict], n: int) -> str:
    """Return the table as Markdown; points of mAP on the test part."""

    def pair(mean: float, spread: float | None, sign: str = "") -> str:
        return f"{mean:{sign}.1f}" + ("" if spread is None else f" ± {spread:.1f}")

    lines = [
        f"Conveyor detection at {args.size} px. Student {args.student}: {args.images} images, {args.epochs} epochs, "
        f"{n} seeds. Teacher {args.teacher}: {args.teacher_images} images, {args.teacher_epochs} epochs. mAP on the "
        "test part in per cent, mean ± standard deviation over seeds; the gain is over labels alone, seed by seed.",
        "",
        "| trained on | mAP@.5 | gain | mAP@.5:.95 | gain |",
        "|---|---|---|---|---|",
        f"| teacher | {100 * teacher['test']['map50']:.1f} | | {100 * teacher['test']['map']:.1f} | |",
    ]
    for row in rows:
        cells = []
        for key in METRICS:
            gain = "" if row["method"] == "labels" else pair(row["gain"][key], row["gain_spread"][key], "+")
            cells += [pair(row["mean"][key], row["spread"][key]), gain]
        lines.append(f"| {NAMES[row['method']]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--teacher", default="yolo_v5m")
    parser.add_argument("--student", default="yolo_v5n")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--teacher-images", type=int, default=400)
    parser.add_argument("--teacher-epochs", type=int, default=10)
    parser.add_argument("--validate-every", type=int, default=4)
    parser.add_argument("--factor", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.table:
        measure(args)
    written(args)


if __name__ == "__main__":
    main()
