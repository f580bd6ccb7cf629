"""A detector trained from scratch on blood cells (BCCD), and its files: mAP, time and size of every recipe.

python benchmarks/bccd.py train DATA --epochs 160 --work WORK
python benchmarks/bccd.py files DATA --work WORK
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from machine import machine

from bitfront.train.options import preset
from bitfront.verbs.training import train

RESULTS = Path(__file__).parent / "results"


def trained(args: argparse.Namespace) -> dict[str, object]:
    """Train (or go on), writing the curve as it grows."""
    torch.set_num_threads(1)
    options = replace(preset("detection"), epochs=args.epochs, time_limit_seconds=args.time)

    def on_epoch(epoch: object) -> None:
        if epoch.score is not None:
            text = f"epoch {epoch.index + 1}: loss {epoch.loss:.3f}, mAP@.5 {epoch.score:.4f}"
            print(text, file=sys.stderr, flush=True)

    settings = {"resolution": (args.size, args.size)}
    out = args.work / f"{args.model}.safetensors"
    done = train(args.model, args.data, out, options=options, settings=settings, seed=args.seed, on_epoch=on_epoch)
    return {
        "model": args.model,
        "resolution": [args.size, args.size],
        "epochs": args.epochs,
        "best_epoch": done.best_epoch + 1,
        "values": dict(done.metrics.values),
        "per_class": {k: dict(v) for k, v in done.metrics.per_class.items()},
        "interval": done.metrics.interval,
        "n_images": done.metrics.n,
        "seconds": done.seconds,
        "stopped": done.stopped,
        "curve": [{"epoch": e.index + 1, "loss": e.loss, "map50": e.score, "seconds": e.seconds} for e in done.epochs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train",))
    parser.add_argument("data")
    parser.add_argument("--model", default="yolo_v5n")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--time", type=float, help="seconds after which to finish with the best epoch so far")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("bccd"))
    parser.add_argument("--result", type=Path, default=RESULTS / "bccd_training.json")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    start = time.time()
    found = trained(args)
    found |= {"command": f"python benchmarks/bccd.py train DATA --epochs {args.epochs} --size {args.size}"}
    args.result.write_text(json.dumps({**found, "machine": machine(), "wall_seconds": time.time() - start}, indent=1))


if __name__ == "__main__":
    main()
