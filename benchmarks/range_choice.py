"""All weights at few bits, without training: what the choice of ranges, equalization and rounding make of it.

    python benchmarks/range_choice.py --data ../shared/data/packages --work runs/range_choice NET...

NET is an ONNX file or a checkpoint. Weights have one power-of-two format per tensor (``per_channel``: a shift for every
output channel), biases 16 bits, activations are float32. Foreground IoU of images of the part ``val`` at their own
size, exactly simulated. Images beyond 256 x 256: every width on 16 images, and 2 to 6 bits on all 40. Each network's
rows are kept in the folder ``--work``: started again, the same command goes on where it was.

Calibration: 32 images of the part ``train``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from bitfront import batches
from bitfront.graph import passes
from bitfront.graph.ir import Graph
from bitfront.quant.menu import Menu, MenuOptions, build_menu
from bitfront.quant.plan import Plan
from bitfront.quant.rounding import MAX_BITS, round_weights
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.simulate.fast import Fast
from bitfront.stats.ranges import collect
from bitfront.store import atomic_json
from bitfront.tasks.segmentation import Segmentation
from bitfront.verbs.opening import open_both

RESULT = Path(__file__).with_name("results") / "range_choice.json"
BITS = (10, 8, 7, 6, 5, 4, 3, 2)
FEW_BITS = (6, 4, 3, 2)
N_CALIBRATION, N_SWEEP = 32, 16
LARGE = 256 * 256
PLAIN = {"activation_bits": (), "equalized": False, "bias_correction": False, "layer_rounding": False}
SCHEMES = {
    "thesis_000": {**PLAIN, "rule": "max"},
    "mse": PLAIN,
    "equalized_max": {**PLAIN, "equalized": True, "rule": "max"},
    "equalized": {**PLAIN, "equalized": True},
    "equalized_corrected": {**PLAIN, "equalized": True, "bias_correction": True},
    "per_channel": {**PLAIN, "per_channel": True, "bias_correction": True},
    "layer_rounding": {"activation_bits": ()},
}
WALKED = "network_rounding"
"""``layer_rounding``, but every layer with the inputs that it gets from the rounded ones before it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="+", type=Path, metavar="NET")
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    networks = []
    for path in args.nets:
        kept = args.work / f"{path.stem}.json"
        known = json.loads(kept.read_text()) if kept.is_file() else {}
        for row in measure(path, args.data, known):
            atomic_json(kept, row)
        networks.append(json.loads(kept.read_text()))
    report = {
        "benchmark": "range_choice",
        "command": " ".join(["python", "benchmarks/range_choice.py", *sys.argv[1:]]),
        "machine": machine(),
        "networks": networks,
    }
    atomic_json(args.result, report)


def measure(path: Path, data: str, known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what is known of one network after each scheme that was not."""
    schemes = {**SCHEMES, WALKED: SCHEMES["layer_rounding"]}
    if schemes.keys() <= known.get("seconds", {}).keys():
        return
    opened = open_both(str(path), data)
    graph = passes.prepare(opened.source.graph())
    contract = opened.source.input
    observe = OnnxRuntime().observe
    calibration = batches.calibration(opened.dataset.part("train"), contract, N_CALIBRATION, np.random.default_rng(0))
    ranges = collect(graph, calibration, observe(graph))
    shape = graph.tensors[graph.inputs[0]].shape
    large = shape[2] * shape[3] > LARGE
    judges = {n: Judge(opened, graph, n) for n in ((N_SWEEP, 40) if large else (40,))}
    row: dict[str, Any] = known or {
        "network": path.stem,
        "size": list(shape[2:]),
        "weights": sum(1 for _ in graph.named("weight")),
        "float": {str(n): round(judge(graph, Plan("float32")), 5) for n, judge in judges.items()},
        "iou": {str(n): {} for n in judges},
        "seconds": {},
    }
    for scheme, options in schemes.items():
        if scheme in row["seconds"]:
            continue
        start = time.process_time()
        given = None if options.get("equalized", True) else ranges
        menu = build_menu(graph, given, calibration, MenuOptions(weight_bits=BITS, **options), observe)
        seconds = round(time.process_time() - start, 1)
        for n, judge in judges.items():
            scores = row["iou"][str(n)][scheme] = {}
            for bits, candidate, plan in finished(menu, scheme, calibration, BITS if n == min(judges) else FEW_BITS):
                scores[str(bits)] = round(judge(candidate, plan), 5)
            print(path.stem, n, scheme, scores, flush=True)
        row["clips"] = [sum(clip.dropped for clip in menu.clips), len(menu.clips)]
        row["seconds"][scheme] = seconds
        yield row


def finished(
    menu: Menu, scheme: str, calibration: list[np.ndarray], widths: tuple[int, ...]
) -> Iterator[tuple[int, Graph, Plan]]:
    """Yield the graph and the plan of a menu for every width."""
    for bits in widths:
        plan = menu.plan({d.tensor: 16 if d.kind == "bias" else bits for d in menu.dishes})
        graph = menu.finished(plan)
        if scheme != WALKED:
            yield bits, graph, plan
        elif bits <= MAX_BITS:
            yield bits, round_weights(menu.graph, plan, calibration), plan


class Judge:
    """Scores graphs on images of the validation part."""

    def __init__(self, opened: Any, graph: Graph, n_images: int) -> None:
        part = opened.dataset.part("val")
        chosen = np.unique(np.linspace(0, len(part) - 1, min(n_images, len(part))).astype(int))
        samples = [part[int(i)] for i in chosen]
        read = batches.evaluation(samples, opened.source.input, 8)
        self.images = np.concatenate([batch.images for batch, _ in read])
        task, info = Segmentation(), opened.info
        self.scorer = task.scorer(samples, task.output(graph.tensors[graph.outputs[0]].shape[1], info), info)

    def __call__(self, graph: Graph, plan: Plan) -> float:
        """Return the foreground IoU."""
        counts: list[Any] = []
        for positions, outputs in Fast(graph, self.images, batch_size=4, n_cuts=0).values(plan):
            counts += self.scorer.count(positions, outputs[graph.outputs[0]].numpy())
        return self.scorer.score(counts)


if __name__ == "__main__":
    main()
