"""Train Fast-SCNN from scratch on CamVid (11 classes) and write the curve, mIoU and per-class table.

    python benchmarks/camvid_training.py --data ../shared/data/camvid --work camvid_run

The result file is written after every validation; started again with the same arguments, the training goes on where it
was. Scores are taken at the size of the original images (480 x 360), on the part ``val``.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from machine import machine

from bitfront.contracts import InputContract
from bitfront.data.camvid import CamVid
from bitfront.models.fast_scnn import FastScnn
from bitfront.store import atomic_json
from bitfront.tasks.segmentation import Segmentation, median_frequency
from bitfront.train.loop import Epoch, TrainOptions, train
from bitfront.train.scoring import score_module

RESULT = Path(__file__).with_name("results") / "camvid_fast_scnn.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the training's state")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--epochs", type=int, default=180)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--weight-power", type=float, default=0.5, help="class weights: median frequency to this power")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    data = CamVid.open(args.data)
    parts = data.part("train"), data.part("val")
    weights = tuple(round(w**args.weight_power, 4) for w in median_frequency(parts[0], data.info))
    task = Segmentation(class_weights=weights)
    model = FastScnn(classes=task.channels(data.info))
    options = TrainOptions(
        epochs=args.epochs,
        batch_size=args.batch_size,
        rate=args.rate,
        schedule="cosine",
        warmup_steps=90,
        weight_decay=0.01,
        validate_every=3,
        augment="thesis_000",
    )
    torch.manual_seed(args.seed)
    module = model.build()
    report = {
        "benchmark": "camvid_training",
        "command": " ".join(["python", "benchmarks/camvid_training.py", *sys.argv[1:]]),
        "machine": machine(),
        "model": {"name": model.name, **asdict(model), "parameters": sum(p.numel() for p in module.parameters())},
        "size": args.size,
        "images": {"train": len(parts[0]), "val": len(parts[1])},
        "options": asdict(options),
        "class_weights": dict(zip(data.info.classes, weights, strict=True)),
        "seed": args.seed,
        "finished": False,
        "curve": [],
    }
    curve: dict[int, Epoch] = {}

    def on_epoch(epoch: Epoch) -> None:
        curve[epoch.index] = epoch
        line = f"{time.strftime('%H:%M:%S')} epoch {epoch.index + 1}/{args.epochs} loss {epoch.loss:.4f}"
        print(line, f"rate {epoch.rate:.2e} miou {epoch.score} {epoch.seconds:.1f} s", flush=True)
        if epoch.score is not None:
            write(report, list(curve.values()), args.result)

    contract = InputContract(*args.size)
    header = {"model": model.name, "options": asdict(model)}
    trained = train(
        module, task, data.info, *parts, contract, options, args.work / "state", args.seed, on_epoch, header=header
    )
    metrics = score_module(module, task, data.info, parts[1], contract)
    report |= {
        "finished": True,
        "best_epoch": trained.best_epoch + 1,
        "values": metrics.values,
        "definitions": metrics.definitions,
        "interval_95": metrics.interval,
        "per_class": metrics.per_class,
        "confusion": metrics.confusion,
    }
    write(report, list(trained.epochs), args.result)
    print("best epoch", trained.best_epoch + 1, metrics.values, metrics.per_class["iou"], flush=True)


def write(report: dict, epochs: list[Epoch], path: Path) -> None:
    report["curve"] = [
        {"epoch": e.index + 1, "rate": e.rate, "loss": e.loss, "miou": e.score, "seconds": round(e.seconds, 2)}
        for e in epochs
    ]
    report["seconds"] = round(sum(e.seconds for e in epochs), 1)
    report["best_miou"] = max((e.score for e in epochs if e.score is not None), default=None)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_json(path, report)


if __name__ == "__main__":
    main()
