"""Post-training quantization of thesis 002's MNIST classifier: size and accuracy of every recipe.

    python benchmarks/mnist_ptq.py --data ../shared/data/mnist --work runs/mnist

The CNN with 20,410 parameters is trained in float (Adam, rate 1e-3 constant, 12 epochs, no augmentation; the thesis: 5
epochs of 60,000 images), a tenth of the train part chooses the epoch. Then every recipe of ONNX Runtime: calibrated on
300 train images, verified, scored on the test part. Thesis 002 (LiteRT): 25 % of the size with dynamic ranges, 50 %
with float16, 29 % with int8, and at most 0.06 points of accuracy apart. Checkpoints in --work are used again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from machine import machine

import bitfront
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.store import atomic_json

RESULT = Path(__file__).with_name("results") / "mnist_ptq.json"
OPTIONS = bitfront.TrainOptions(epochs=12, batch_size=32, rate=1e-3, schedule="constant", device="cpu")
N_CALIBRATE = 300
THESIS = {"dynamic": 0.25, "float16": 0.50, "int8": 0.29}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    networks = [trained(args, seed) for seed in range(args.seeds)]
    rows = []
    for recipe in OnnxRuntime.recipes:
        found = [quantized(args, network, recipe, seed) for seed, network in enumerate(networks)]
        rows.append({"recipe": recipe, "thesis_002_size_ratio": THESIS.get(recipe), **mean(found), "seeds": found})
        print({k: v for k, v in rows[-1].items() if k != "seeds"})
    report = {
        "benchmark": "mnist_ptq",
        "command": " ".join(["python", "benchmarks/mnist_ptq.py", *sys.argv[1:]]),
        "machine": machine(),
        "network": "mnist_cnn, 20,410 parameters, 28x28",
        "training": {"epochs": OPTIONS.epochs, "batch_size": OPTIONS.batch_size, "rate": OPTIONS.rate},
        "part": "test, 1,500 images; one of them is 0.067 points",
        "n_calibrate": N_CALIBRATE,
        "rows": rows,
    }
    atomic_json(args.result, report)


def trained(args, seed: int) -> Path:
    network = args.work / f"float{seed}.safetensors"
    if not network.is_file():
        bitfront.train("mnist_cnn", args.data, network, options=OPTIONS, seed=seed)
    return network


def quantized(args, network: Path, recipe: str, seed: int) -> dict:
    start = time.monotonic()
    out = args.work / f"{recipe}{seed}.onnx"
    made = bitfront.quantize(str(network), args.data, out, recipe=recipe, seed=seed, n_calibrate=N_CALIBRATE)
    before, after = made.float_metrics.values, made.metrics.values
    return {
        "accuracy_float": round(before["accuracy"], 5),
        "accuracy": round(after["accuracy"], 5),
        "macro_f1": round(after["macro_f1"], 5),
        "points_lost": round(100 * (before["accuracy"] - after["accuracy"]), 3),
        "size_bytes": made.exported.size_bytes,
        "size_ratio": round(made.exported.size_bytes / made.float_size_bytes, 4),
        "verified": made.agreement.verified,
        "max_code_difference": made.agreement.max_code_difference,
        "seconds": round(time.monotonic() - start, 1),
    }


def mean(found: list[dict]) -> dict:
    numbers = ("accuracy_float", "accuracy", "points_lost", "size_ratio")
    averages = {key: round(sum(f[key] for f in found) / len(found), 5) for key in numbers}
    return {**averages, "verified": all(f["verified"] for f in found)}


if __name__ == "__main__":
    main()
