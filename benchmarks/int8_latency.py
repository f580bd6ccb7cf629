"""Every recipe of ONNX Runtime on trained Fast-SCNN nets: latency against float32, score, agreement with the reference.

    python benchmarks/int8_latency.py --data ../shared/data/packages --models ../shared/models/fastscnn_packages

Protocol of ``bitfront.measure.timing``: one thread, alternating, thread CPU time, median of paired ratios, A/A control.
``torch_export`` is the same network as published in ONNX format (opset 11), where there is such a file.
Scores are those of the exported files on the validation images, at 512 and at 256 without retraining.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from machine import machine

from bitfront import batches
from bitfront.contracts import InputContract, OutputContract, Part, Session
from bitfront.data.folder import Folder
from bitfront.graph import capture, passes
from bitfront.graph.ir import Graph
from bitfront.measure import timing, verify
from bitfront.measure.system import cpu
from bitfront.models.fast_scnn import FastScnn
from bitfront.quant import recipes
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.stats import ranges
from bitfront.store import atomic_json
from bitfront.tasks.segmentation import Segmentation
from bitfront.train.checkpoints import load_checkpoint, load_into

RESULT = Path(__file__).with_name("results") / "int8_latency.json"
NETS = ("fastscnn_a0.25t6r3pp1", "fastscnn_a0.75t6r3pp1", "fastscnn_a1.0t6r1pp0")
SIZES = (512, 256)
N_CALIBRATE = 16
N_VERIFY = 4
RUNTIME = OnnxRuntime()
OUTPUT = OutputContract("threshold")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing for each net and size")
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = Folder.open(args.data)
    parts = {name: batches.cached(data.part(name)) for name in ("train", "val")}
    rows = [row(args, data, parts, net, size) for net in NETS for size in SIZES]
    report = {
        "benchmark": "int8_latency",
        "command": " ".join(["python", "benchmarks/int8_latency.py", *sys.argv[1:]]),
        "machine": machine(),
        "cpu_flags": list(cpu()[1]),
        "nets": rows,
    }
    atomic_json(args.result, report)


def trained(path: Path, size: int) -> Graph:
    _, state = load_checkpoint(path)
    module = FastScnn(**FastScnn.recognise({k: v.shape for k, v in state.items()}, path.stem)).build()
    load_into(module, {FastScnn.rename(k): v for k, v in state.items()}, path.name)
    return passes.prepare(capture.from_module(module.eval(), (1, 3, size, size)))


def row(args: argparse.Namespace, data: Folder, parts: dict[str, Part], net: str, size: int) -> dict:
    graph, contract = trained(args.models / f"{net}.safetensors", size), InputContract(size, size)
    images = batches.calibration(parts["train"], contract, N_CALIBRATE, np.random.default_rng(0))
    probes = batches.calibration(parts["val"], contract, N_VERIFY, np.random.default_rng(0))
    seen = ranges.collect(graph, images, RUNTIME.observe(graph))
    found: dict[str, dict] = {}
    sessions: dict[str, Session] = {}
    with tempfile.TemporaryDirectory() as folder:
        for recipe in RUNTIME.recipes:
            made, plan = recipes.build(recipe, graph, seen, images, observe=RUNTIME.observe)
            path = RUNTIME.export(made, plan, Path(folder) / recipe, contract, OUTPUT)
            agreement = verify.compare(RUNTIME, path, made, plan, contract, OUTPUT, probes, float_graph=graph)
            sessions[recipe] = RUNTIME.open(path)
            found[recipe] = {
                "size_bytes": path.stat().st_size,
                **score(sessions[recipe], data, parts["val"], contract),
                "verified": agreement.verified,
                "max_code_difference": agreement.max_code_difference,
                "first_difference": agreement.first_difference,
                "unit": agreement.unit,
            }
        twin = args.models / "onnx" / f"{net}.onnx"
        if twin.is_file() and size == 512:
            sessions["torch_export"], found["torch_export"] = RUNTIME.open(twin), {"size_bytes": twin.stat().st_size}
        times = timing.measure(sessions, images[0], "float32", seconds=args.seconds)
    for name, time in times.items():
        found[name] |= {
            "cpu_ms": round(time.cpu or 0, 3),
            "wall_ms": round(time.value, 3),
            "ratio": round(time.ratio or 0, 3),
            "speedup": round(1 / time.ratio, 2) if time.ratio else None,
            "noise_floor": round(time.noise_floor or 0, 3),
        }
        print(net, size, name, {k: v for k, v in found[name].items() if k not in ("unit", "wall_ms")}, flush=True)
    return {"net": net, "size": [size, size], "recipes": found}


def score(session: Session, data: Folder, part: Part, contract: InputContract) -> dict:
    task = Segmentation()
    meter = task.meter(data.info)
    for batch, samples in batches.evaluation(part, contract, 1):
        sizes = [sample.image.shape[:2] for sample in samples]
        for prediction, sample in zip(task.predict(session.run(batch.images), OUTPUT, sizes), samples, strict=True):
            meter.add(prediction, sample)
    values = meter.result().values
    return {name: round(values[name], 5) for name in ("foreground_iou", "foreground_iou_image")}


if __name__ == "__main__":
    main()
