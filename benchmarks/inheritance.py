"""Whether weights cut from a larger network are a better start than fresh ones, at equal epochs.

    python benchmarks/inheritance.py --data ../shared/data/packages --models ../shared/models/fastscnn_packages

A parent is trained at the small size, from published weights; children are trained for a few epochs, once from fresh
weights and once from what is cut from the parent, with the same seed, rate and data. Scores: foreground IoU (mean of
images) of the best epoch on val.
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
from bitfront.contracts import InputContract
from bitfront.data.folder import Folder
from bitfront.fitting.inheritance import cut
from bitfront.graph import capture
from bitfront.models.fast_scnn import FastScnn
from bitfront.store import atomic_json
from bitfront.tasks.segmentation import Segmentation
from bitfront.train.checkpoints import load_into
from bitfront.train.loop import train
from bitfront.train.options import TrainOptions
from bitfront.train.state import arrays_of
from bitfront.weights import arrays

RESULT = Path(__file__).with_name("results") / "inheritance.json"
PARENT_EPOCHS, RATE, PARENT_RATE = 24, 5e-3, 2e-3
GREY = {"channels": 1, "color": "y", "mean": (0.449,), "std": (0.226,)}
PAIRS = (
    ("a0.25t6r3pp1", {"width": 0.25, "expansion": 6, "repeats": 1, "pyramid": False}),
    ("a0.25t6r3pp1", {"width": 0.25, "expansion": 2, "repeats": 3}),
    ("a0.25t6r3pp1", {"width": 0.25, "expansion": 4, "repeats": 2, "pyramid": False}),
    ("a0.125t6r2pp0", {"width": 0.125, "expansion": 2, "repeats": 1, "pyramid": False}),
    ("a0.25t6r3pp1", {"width": 0.25, "channels": 1}),
    ("a0.25t6r3pp1", {"width": 0.125}),
    ("a0.5t6r3pp1", {"width": 0.25, "expansion": 2, "repeats": 2, "pyramid": False}),
)
"""Published parent, options of the child. The last two are narrower than their parents."""


class Bench:
    """Data and settings that all trainings share."""

    def __init__(self, data: Folder, side: int, epochs: int) -> None:
        self.info, self.side, self.epochs = data.info, side, epochs
        self.parts = batches.cached(data.part("train")), batches.cached(data.part("val"))

    def train(self, module: torch.nn.Module, channels: int, *, epochs: int, rate: float, seed: int) -> list[float]:
        """Return the scores along the way."""
        contract = InputContract(self.side, self.side, **(GREY if channels == 1 else {}))
        every = max(1, epochs // 4)
        options = TrainOptions(epochs=epochs, rate=rate, validate_every=every, score="foreground_iou_image")
        task = Segmentation(dice=1.0)
        with tempfile.TemporaryDirectory() as folder:
            done = train(module, task, self.info, *self.parts, contract, options, Path(folder), seed)
        return [round(e.score, 4) for e in done.epochs if e.score is not None]

    def parent(self, path: Path) -> tuple[torch.nn.Module, float]:
        """Return published weights trained further at the small size, and their score."""
        state = arrays(path, FastScnn)
        options = FastScnn.recognise({key: value.shape for key, value in state.items()}, path.stem)
        module = FastScnn(**options).build()
        load_into(module, state)
        return module, max(self.train(module, 3, epochs=PARENT_EPOCHS, rate=PARENT_RATE, seed=0))

    def child(self, parent: torch.nn.Module, options: dict, *, inherits: bool, seed: int) -> list[float]:
        """Return the scores of one training of a child."""
        torch.manual_seed(seed)
        model = FastScnn(**{"classes": 1, **options})
        module = model.build()
        if inherits:
            own = arrays_of(module)
            graph = capture.from_module(parent.eval(), (1, 3, self.side, self.side))
            load_into(module, {**own, **cut(graph, arrays_of(parent), {k: v.shape for k, v in own.items()})})
        return self.train(module, model.channels, epochs=self.epochs, rate=RATE, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(Folder.open(args.data), args.side, args.epochs)
    parents, rows = {}, []
    for name, options in PAIRS:
        if name not in parents:
            parents[name] = bench.parent(args.models / f"fastscnn_{name}.safetensors")
        parent, score = parents[name]
        row = {"parent": name, "parent_score": score, "child": options, "fresh": [], "inherited": []}
        for seed in range(args.seeds):
            row["fresh"].append(bench.child(parent, options, inherits=False, seed=seed))
            row["inherited"].append(bench.child(parent, options, inherits=True, seed=seed))
        gains = np.array([max(i) - max(f) for i, f in zip(row["inherited"], row["fresh"], strict=True)])
        row["gain_points"] = [round(100 * g, 2) for g in gains.tolist()]
        rows.append(row)
        print(name, options, "gain in points:", row["gain_points"], flush=True)
    report = {
        "benchmark": "inheritance",
        "command": " ".join(["python", "benchmarks/inheritance.py", *sys.argv[1:]]),
        "machine": machine(),
        "side": args.side,
        "epochs": args.epochs,
        "rate": RATE,
        "pairs": rows,
    }
    atomic_json(args.result, report)


if __name__ == "__main__":
    main()
