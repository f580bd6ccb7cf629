"""Quantization-aware training: what a few epochs recover of what few bits lose.

    python benchmarks/qat.py --data ../shared/data/packages --weights ../shared/models/fastscnn_packages --work runs/qat

Fast-SCNN of width 0.25 from 512-pixel weights, first trained on in float at 256 x 256. Then all weights get few bits
(one power-of-two format per tensor, biases 16 bits, activations float): by the rule of thesis 000 (the smallest m that
covers the maximum, nothing equalized), and equalized with the least squared error and corrected biases. Each plan is
trained with ``bitfront.verbs.quantized_training``; scores are foreground IoU of files in ONNX Runtime, at the size of
the original images of val. val also chooses the best epoch, as in a float training. Trainings of --work are used again.
The rates were chosen by hand: higher where more was lost. One seed.
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
from bitfront.graph import files, passes
from bitfront.quant.menu import MenuOptions, build_menu
from bitfront.quant.plan import weight_bytes
from bitfront.record import digest_file
from bitfront.store import atomic_json
from bitfront.train.options import preset
from bitfront.verbs.artifacts import calibration_images
from bitfront.verbs.opening import open_both
from bitfront.verbs.quantized_training import train_quantized

RESULT = Path(__file__).with_name("results") / "qat.json"
SETTINGS = {"width": 0.25, "resolution": (256, 256)}
FLOAT = bitfront.TrainOptions(epochs=40, rate=4e-3, device="cpu")
THESIS = MenuOptions((2, 3, 4, 8), (), (16,), "max", equalized=False, bias_correction=False, layer_rounding=False)
OURS = MenuOptions((2, 3, 4, 8), (), (16,), "mse", layer_rounding=False)
CASES = (
    ("thesis rule", THESIS, 4, None, 4e-3),
    ("thesis rule", THESIS, 4, 0.0, 4e-3),
    ("equalized, mse, corrected", OURS, 4, None, 5e-4),
    ("equalized, mse, corrected", OURS, 3, None, 1e-3),
)
"""Name, formats, bits of the weights, share of the training before ranges are learned, rate."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder of published checkpoints")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and files")
    parser.add_argument("--epochs", type=int, default=preset("quantized").epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    network = args.work / "float.safetensors"
    if not network.is_file():
        weights = args.weights / "fastscnn_a0.25t6r3pp1.safetensors"
        bitfront.train("fast_scnn", args.data, network, options=FLOAT, settings=SETTINGS, weights=weights)
    rows = []
    for position, (name, menu, bits, learn_ranges, rate) in enumerate(CASES):
        cached = args.work / f"{position}.json"
        if not cached.is_file():
            atomic_json(cached, measure(args, network, position, name, menu, bits, learn_ranges, rate))
        rows.append(json.loads(cached.read_text()))
        print(*(rows[-1][k] for k in ("formats", "weight_bits", "learn_ranges", "float", "before", "trained")))
    report = {
        "benchmark": "qat",
        "command": " ".join(["python", "benchmarks/qat.py", *sys.argv[1:]]),
        "machine": machine(),
        "network": "Fast-SCNN, width 0.25, expansion 6, 3 repeats, pyramid; 256 x 256",
        "float_training": {"from": "fastscnn_a0.25t6r3pp1, 512 x 512", "epochs": FLOAT.epochs, "rate": FLOAT.rate},
        "float_sha256": digest_file(network),
        "part": "val, 40 images; it also chooses the best epoch",
        "score": "foreground_iou",
        "seed": args.seed,
        "rows": rows,
    }
    atomic_json(args.result, report)


def measure(args, network, position, name, menu_options, bits, learn_ranges, rate) -> dict:
    options = replace(preset("quantized"), epochs=args.epochs, rate=rate, device="cpu")
    opened = open_both(str(network), args.data)
    graph = passes.prepare(opened.source.graph())
    menu = build_menu(graph, batches=calibration_images(opened, 64, args.seed, None), options=menu_options)
    widths = {dish.tensor: 16 if dish.kind == "bias" else bits for dish in menu.dishes}
    plan = menu.plan(widths, name)
    stored = args.work / f"{position}{files.SUFFIX}"
    files.save(stored, menu.finished(plan), plan)
    made = train_quantized(
        str(network),
        args.data,
        args.work / f"{position}.onnx",
        plan=stored,
        learn_ranges=learn_ranges,
        options=options,
        seed=args.seed,
        part="val",
    )
    score = "foreground_iou"
    floats = [v.size for n, v in menu.graph.constants.items() if menu.graph.tensors[n].kind != "buffer"]
    return {
        "formats": name,
        "weight_bits": bits,
        "bias_bits": 16,
        "learn_ranges": learn_ranges,
        "epochs": args.epochs,
        "rate": rate,
        "float": round(made.float_metrics.values[score], 5),
        "before": round(made.before.values[score], 5),
        "trained": round(made.metrics.values[score], 5),
        "in_training": round(made.trained.best_score, 5),
        "best_epoch": made.trained.best_epoch + 1,
        "curve": [round(epoch.score, 5) for epoch in made.trained.epochs],
        "verified": made.agreement.verified,
        "max_code_difference": made.agreement.max_code_difference,
        "weight_bytes": weight_bytes(menu.graph, plan),
        "float_bytes": 4 * sum(floats),
        "train_seconds": round(made.trained.seconds, 1),
    }


if __name__ == "__main__":
    main()
