"""Score published Fast-SCNN checkpoints on the packages' validation images, and beside them their ONNX twins.

    python benchmarks/packages_checkpoints.py --data ../shared/data/packages --models ../shared/models/fastscnn_packages

PyTorch, float32, one thread, 512 x 512: PIL's antialiased bilinear resize, logit > 0, label map resized back by nearest
neighbour.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from machine import machine

from bitfront import batches
from bitfront.contracts import InputContract, Part
from bitfront.data.folder import Folder
from bitfront.models.fast_scnn import FastScnn
from bitfront.store import atomic_json
from bitfront.tasks.segmentation import Segmentation
from bitfront.train.checkpoints import load_checkpoint, load_into
from bitfront.train.scoring import score_module

RESULT = Path(__file__).with_name("results") / "packages_checkpoints.json"
SIZE = 512


class OnnxModule(torch.nn.Module):
    """An ONNX file where a torch module is expected."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.anchor = torch.nn.Parameter(torch.zeros(1))  # says on which device the module is

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        name = self.session.get_inputs()[0].name
        return torch.from_numpy(self.session.run(None, {name: np.ascontiguousarray(x.numpy())})[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--part", default="val")
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = Folder.open(args.data)
    part = batches.cached(data.part(args.part))
    rows = []
    for path in sorted(args.models.glob("*.safetensors")):
        start = time.thread_time()
        _, state = load_checkpoint(path)
        options = FastScnn.recognise({k: v.shape for k, v in state.items()}, path.stem)
        module = FastScnn(**options).build()
        load_into(module, {FastScnn.rename(k): v for k, v in state.items()}, path.name)
        row = {"checkpoint": path.stem, "options": options, **score(module, data, part)}
        twin = args.models / "onnx" / f"{path.stem}.onnx"
        if twin.is_file():
            row["onnx_twin"] = score(OnnxModule(twin), data, part)
        rows.append(row)
        print(path.stem, row["foreground_iou"], row["foreground_iou_image"], f"{time.thread_time() - start:.1f} s")
    report = {
        "benchmark": "packages_checkpoints",
        "command": " ".join(["python", "benchmarks/packages_checkpoints.py", *sys.argv[1:]]),
        "machine": machine(),
        "part": args.part,
        "images": len(part),
        "size": [SIZE, SIZE],
        "checkpoints": rows,
    }
    atomic_json(args.result, report)


def score(module: torch.nn.Module, data: Folder, part: Part) -> dict:
    metrics = score_module(module, Segmentation(), data.info, part, InputContract(SIZE, SIZE), batch_size=1)
    names = ("foreground_iou", "foreground_iou_image", "miou", "pixel_accuracy")
    scores = {name: round(metrics.values[name], 5) for name in names}
    return {**scores, "interval_95": [round(v, 5) for v in metrics.interval]}


if __name__ == "__main__":
    main()
