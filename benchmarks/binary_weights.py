"""Weights of one bit: what is left of accuracy and size, on MNIST's digits, scikit-learn's digits and packages.

    python benchmarks/binary_weights.py --mnist ../shared/data/mnist --packages ../shared/data/packages
        --work runs/binary --weights ../shared/models/fastscnn_packages/fastscnn_a0.25t6r3pp1.safetensors

Each network is trained in float (on packages from a published checkpoint), then a few epochs with the signs of its
weights, in every way there is (``bitfront train --recipe bwn`` and the like). The MNIST CNN has two layers only, and
both are binary; of Fast-SCNN the first and the last layer stay float. Scores are of verified files in ONNX Runtime.
Bytes: all constants packed, eight one-bit weights a byte and a float scale of each output channel; and the file, where
ONNX takes two bits a sign. val also chooses the epoch. One seed. Checkpoints and rows in --work are used again.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from machine import machine

import bitfront
from bitfront.graph import files
from bitfront.quant.binary import MODES, packed_bytes
from bitfront.quant.plan import Plan, weight_bytes
from bitfront.store import atomic_json
from bitfront.verbs.quantized_training import train_quantized

RESULT = Path(__file__).with_name("results") / "binary_weights.json"
FLOAT = bitfront.TrainOptions(epochs=12, batch_size=32, rate=1e-3, schedule="constant", device="cpu")
UNDER = bitfront.TrainOptions(epochs=6, batch_size=64, rate=1e-2, end_rate=1e-4, device="cpu")
CASES = {
    "mnist": ("mnist_cnn", {}, FLOAT, UNDER),
    "digits": ("mnist_cnn", {}, replace(FLOAT, epochs=20), replace(UNDER, epochs=12, batch_size=32)),
    "packages": (
        "fast_scnn",
        {"width": 0.25, "resolution": (128, 128)},
        replace(FLOAT, epochs=4, batch_size=8, rate=2e-3, schedule="cosine"),
        replace(UNDER, epochs=4, batch_size=8, rate=5e-3),
    ),
}
"""Data -> network, its settings, the training in float and the one with signs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", required=True)
    parser.add_argument("--packages", required=True)
    parser.add_argument("--weights", type=Path, help="checkpoint that the network for packages starts from")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and files")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--only", nargs="*", default=list(CASES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    data = {"mnist": args.mnist, "digits": "digits", "packages": args.packages}
    rows = []
    for name in args.only:
        network = trained(args, name, data[name])
        for mode in MODES:
            cached = args.work / f"{name}-{mode}.json"
            if not cached.is_file():
                atomic_json(cached, measured(args, name, data[name], network, mode))
            rows.append(json.loads(cached.read_text()))
            print({k: rows[-1][k] for k in ("data", "mode", "float", "before", "trained", "packed_share", "verified")})
    report = {
        "benchmark": "binary_weights",
        "command": " ".join(["python", "benchmarks/binary_weights.py", *sys.argv[1:]]),
        "machine": machine(),
        "modes": {name: mode.description for name, mode in MODES.items()},
        "rows": rows,
    }
    atomic_json(args.result, report)


def trained(args, name: str, data: str) -> Path:
    model, settings, options, _ = CASES[name]
    network = args.work / f"{name}.safetensors"
    if not network.is_file():
        weights = args.weights if name == "packages" else None
        bitfront.train(model, data, network, options=options, settings=settings, weights=weights)
    return network


def measured(args, name: str, data: str, network: Path, mode: str) -> dict:
    options = CASES[name][3]
    place = args.work / f"{name}-{mode}.onnx"
    made = train_quantized(str(network), data, place, recipe=mode, options=options)
    graph, plan = files.load(place.with_suffix(files.SUFFIX))
    n_bytes, n_float = packed_bytes(graph, plan), weight_bytes(graph, Plan("float32"))
    score = made.metrics.score
    return {
        "data": name,
        "network": CASES[name][0],
        "mode": mode,
        "edges": plan.options["edges"],
        "score": score,
        "part": made.part,
        "float": round(made.float_metrics.value, 5),
        "before": round(made.before.value, 5),
        "trained": round(made.metrics.value, 5),
        "in_training": round(made.trained.best_score, 5),
        "epochs": options.epochs,
        "rate": options.rate,
        "float_bytes": n_float,
        "packed_bytes": n_bytes,
        "packed_share": round(n_bytes / n_float, 4),
        "file_bytes": made.exported.size_bytes,
        "float_file_bytes": made.float_size_bytes,
        "verified": made.agreement.verified,
        "max_code_difference": made.agreement.max_code_difference,
        "train_seconds": round(made.trained.seconds, 1),
    }


if __name__ == "__main__":
    main()
