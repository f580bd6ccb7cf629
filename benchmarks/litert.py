"""Recipes in LiteRT on a trained Fast-SCNN: latency against float32 in the same run, score, size, agreement, kernels.

    python benchmarks/litert.py --data ../shared/data/packages --models ../shared/models/fastscnn_packages

Protocol of ``bitfront.measure.timing``: one thread, alternating, thread CPU time alone, median of paired ratios, A/A
control. Scores are those of the exported files on the validation images, at the size behind @.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from int8_latency import trained  # the script's own folder, not a package
from machine import machine

from bitfront import batches
from bitfront.contracts import InputContract, OutputContract, Part, Session
from bitfront.data.folder import Folder
from bitfront.graph import capture, passes
from bitfront.measure import timing, verify
from bitfront.measure.system import cpu
from bitfront.quant import recipes
from bitfront.runtimes.litert import LiteRt
from bitfront.stats import ranges
from bitfront.store import atomic_json
from bitfront.tasks.segmentation import Segmentation

RESULT = Path(__file__).with_name("results") / "litert.json"
RECIPES = ("float32", "float16", "dynamic", "int8", "int8_compact", "int8_full", "int8_full_u8", "int16x8", "int4")
N_CALIBRATE, N_VERIFY = 16, 2
RUNTIME = LiteRt()
OUTPUT = OutputContract("threshold")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument(
        "--nets",
        nargs="+",
        default=["onnx/fastscnn_256a0.125t6r2pp0.onnx@256", "fastscnn_a0.25t6r3pp1@512", "fastscnn_a1.0t6r1pp0@512"],
    )
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--images", type=int, default=0, help="score on so many validation images (0: all)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing for each net")
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = Folder.open(args.data)
    parts = {name: data.part(name) for name in ("train", "val")}
    if args.images:
        chosen = np.linspace(0, len(parts["val"]) - 1, args.images).astype(int)
        parts["val"] = [parts["val"][int(i)] for i in chosen]
    report = {
        "benchmark": "litert",
        "command": " ".join(["python", "benchmarks/litert.py", *sys.argv[1:]]),
        "machine": machine(),
        "cpu_flags": list(cpu()[1]),
        "engine": f"{RUNTIME.name} {RUNTIME.version()}",
        "nets": [row(args, data, parts, net) for net in args.nets],
    }
    atomic_json(args.result, report)


def row(args: argparse.Namespace, data: Folder, parts: dict[str, Part], net: str) -> dict:
    name, _, text = net.partition("@")
    size = int(text)
    if name.endswith(".onnx"):
        graph = passes.prepare(capture.from_onnx(args.models / name, (size, size)))
    else:
        graph = trained(args.models / f"{name}.safetensors", size)
    contract = InputContract(size, size)
    images = batches.calibration(parts["train"], contract, N_CALIBRATE, np.random.default_rng(0))
    probes = batches.calibration(parts["val"], contract, N_VERIFY, np.random.default_rng(0))
    seen = ranges.collect(graph, images, RUNTIME.observe(graph))
    found: dict[str, dict] = {}
    sessions: dict[str, Session] = {}
    with tempfile.TemporaryDirectory() as folder:
        for recipe in args.recipes:
            made, plan = recipes.build(recipe, graph, seen, images, observe=RUNTIME.observe)
            path = RUNTIME.export(made, plan, Path(folder) / recipe, contract, OUTPUT)
            agreement = verify.compare(RUNTIME, path, made, plan, contract, OUTPUT, probes, float_graph=graph)
            sessions[recipe] = session = RUNTIME.open(path)
            found[recipe] = {
                "size_bytes": path.stat().st_size,
                **score(session, data, parts["val"], contract),
                "verified": agreement.verified,
                "max_code_difference": agreement.max_code_difference,
                "readout_agreement": agreement.readout_agreement,
                "first_difference": agreement.first_difference,
                "exceptions": list(agreement.exceptions),
                "kernels": session.kernels,
                "operators": dict(session.operators()),
            }
            print(net, recipe, found[recipe]["verified"], found[recipe]["miou"], flush=True)
        times = timing.measure(sessions, images[0], "float32", seconds=args.seconds, clock=cpu_clock)
    base = found["float32"]
    for name, measured in times.items():
        found[name] |= {
            "size_ratio": round(found[name]["size_bytes"] / base["size_bytes"], 3),
            "miou_drop": round(base["miou"] - found[name]["miou"], 5),
            "cpu_ms": round(measured.cpu or 0, 3),
            "ratio": round(measured.ratio or 0, 3),
            "speedup": round(1 / measured.ratio, 2) if measured.ratio else None,
            "noise_floor": round(measured.noise_floor or 0, 3),
            "said": timing.difference(measured),
        }
        print(net, size, name, {k: v for k, v in found[name].items() if k != "exceptions"}, flush=True)
    return {"net": net, "size": [size, size], "recipes": found}


def cpu_clock() -> tuple[float, float]:
    """Thread CPU time for both clocks: on a busy machine long runs are preempted, and short ones are not."""
    now = time.thread_time()
    return now, now


def score(session: Session, data: Folder, part: Part, contract: InputContract) -> dict:
    task = Segmentation()
    meter = task.meter(data.info)
    for batch, samples in batches.evaluation(part, contract, 1):
        sizes = [sample.image.shape[:2] for sample in samples]
        for prediction, sample in zip(task.predict(session.run(batch.images), OUTPUT, sizes), samples, strict=True):
            meter.add(prediction, sample)
    values = meter.result().values
    return {name: round(values[name], 5) for name in ("miou", "foreground_iou")}


if __name__ == "__main__":
    main()
