"""Instructions of the C kernels on Cortex-M: per product of layers of usual sizes, and per frame of Fast-SCNN.

    python benchmarks/c_instructions.py --data ../shared/data/packages --models ../shared/models/fastscnn_packages

QEMU counts them (``-icount shift=0``), of programs compiled with ``-O2``; all codes are those of the reference.
Unpacking of weights is within the counts. Without ``--models`` the frame is left out. Writes
``benchmarks/results/c_instructions.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine  # the script's own folder, not a package

from bitfront.graph import count, passes
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.measure import emulated
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import build
from bitfront.runtimes import c_source
from bitfront.runtimes.c_emulated import firmware, hashes
from bitfront.simulate import reference
from bitfront.stats.qmn import choose
from bitfront.store import atomic_json, atomic_write
from bitfront.verbs.artifacts import calibration_images
from bitfront.verbs.opening import open_both

RESULT = Path(__file__).with_name("results") / "c_instructions.json"
NET = "onnx/fastscnn_96a0.125t2r1pp0.onnx"
CORES = ("cortex_m3", "cortex_m4", "cortex_m7", "cortex_m55")
WEIGHT_BITS = (8, 16, 6, 4, 3, 2, 1)
N_CALIBRATE, TOGETHER = 64, 8


@dataclass(frozen=True)
class Layer:
    """A network of one layer; numbers are counted per product, or per output where there are none."""

    name: str
    op: str
    shape: tuple[int, int, int]
    channels: int = 0
    kernel: int = 1
    stride: int = 1
    groups: int = 1

    def graph(self) -> Graph:
        b, rng, k = Builder(), np.random.default_rng(0), self.kernel
        x = b.input("image", (1, *self.shape))
        c, h, w = self.shape
        match self.op:
            case "conv":
                weight = rng.normal(0, (c // self.groups * k * k) ** -0.5, (self.channels, c // self.groups, k, k))
                inputs = [
                    x,
                    b.constant("w", weight, "weight"),
                    b.constant("b", rng.normal(0, 0.1, self.channels), "bias"),
                ]
                rest = {"strides": [self.stride] * 2, "pads": [k // 2] * 4, "dilations": [1, 1], "groups": self.groups}
                y = b.node("conv", self.op, inputs, clip=[0.0, float("inf")], **rest)
            case "dense":
                flat = b.node("reshape", "flat", [x], shape=[-1, c * h * w])
                weight = b.constant("w", rng.normal(0, c**-0.5, (self.channels, c * h * w)), "weight")
                y = b.node("dense", self.op, [flat, weight], clip=None)
            case "add":
                y = b.node("add", self.op, [x, x], clip=[0.0, float("inf")])
            case "resize":
                y = b.node("resize", self.op, [x], mode="linear", size=[2 * h, 2 * w], coordinates="half_pixel")
            case "max_pool":
                window = {"kernel": [k, k], "strides": [self.stride] * 2, "pads": [0] * 4, "dilations": [1, 1]}
                y = b.node("max_pool", self.op, [x], **window)
            case _:
                y = b.node(self.op, self.op, [x])
        return b.build([y])

    @property
    def n_products(self) -> int:
        graph = self.graph()
        return count.count(graph).macs or int(np.prod(graph.tensors[graph.outputs[0]].shape))


LAYERS = (
    Layer("3x3, 32 to 32 channels, 16x16", "conv", (32, 16, 16), 32, 3),
    Layer("1x1, 32 to 32 channels, 16x16", "conv", (32, 16, 16), 32),
    Layer("1x1, 16 to 16 channels, 16x16", "conv", (16, 16, 16), 16),
    Layer("depthwise 3x3, 32 channels, 16x16", "conv", (32, 16, 16), 32, 3, 1, 32),
    Layer("first 3x3, 3 to 8 channels, stride 2, 96x96", "conv", (3, 96, 96), 8, 3, 2),
    Layer("dense, 256 to 64", "dense", (256, 1, 1), 64),
)
OTHERS = (
    Layer("add, 32 channels, 16x16", "add", (32, 16, 16)),
    Layer("linear resize by 2, 16 channels, 12x12", "resize", (16, 12, 12)),
    Layer("linear resize by 2, 1 channel, 48x48", "resize", (1, 48, 48)),
    Layer("max pool 2x2, 16 channels, 16x16", "max_pool", (16, 16, 16), 0, 2, 2),
    Layer("global average, 32 channels, 16x16", "global_average_pool", (32, 16, 16)),
    Layer("SiLU, 32 channels, 16x16", "silu", (32, 16, 16)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    cases = [(layer, bits, "half_even") for layer in LAYERS for bits in WEIGHT_BITS]
    cases += [(layer, 8, "half_up") for layer in LAYERS]
    cases += [(layer, 8, "half_even") for layer in OTHERS]
    nets = [(graph, planned(graph, bits, rounding)) for layer, bits, rounding in cases for graph in [layer.graph()]]
    counted = {core: [sum(layers) for layers in counts(nets, core)] for core in CORES}
    rows = [
        {
            "layer": layer.name, "per": "product" if layer in LAYERS else "output",
            "weight_bits": bits, "rounding": rounding,
            **{core: round(counted[core][i] / layer.n_products, 3) for core in CORES},
        }
        for i, (layer, bits, rounding) in enumerate(cases)
    ]  # fmt: skip
    frame = frames(args.models, args.data) if args.models and args.data else []
    head = {"benchmark": "c_instructions", "command": "python benchmarks/c_instructions.py", "machine": machine()}
    tools = {"counted_with": emulated.version(), "flags": emulated.RELEASE}
    atomic_json(args.result, {**head, **tools, "network": NET, "layers": rows, "frame": frame})
    atomic_write(args.result.with_suffix(".md"), table(rows, frame).encode())


def planned(graph: Graph, bits: int, rounding: str) -> Plan:
    """Activations of 8 bits; formats that fit an image of noise."""
    values = reference.run(
        graph, np.random.default_rng(1).normal(0, 1, image_shape(graph)).astype(np.float32), keep="*"
    )
    forms: dict[str, Any] = {name: choose(value, 8, "max") for name, value in values.items()}
    forms |= {
        n: choose(v, bits, "max", signed=True) for n, v in graph.constants.items() if graph.tensors[n].kind == "weight"
    }
    for node in graph.nodes:
        if node.op in ("reshape", "max_pool"):
            forms[node.output] = forms[node.inputs[0]]
    return Plan("fixed_point", forms, {"rounding": rounding})


def image_shape(graph: Graph) -> tuple[int, ...]:
    return (1, *graph.tensors[graph.inputs[0]].shape[1:])


def counts(nets: Sequence[tuple[Graph, Plan]], name: str) -> list[tuple[int, ...]]:
    """Return the instructions of every layer of networks; stops where a code is not that of the reference."""
    core, found = emulated.CORES[name], []
    for first in range(0, len(nets), TOGETHER):
        made, wanted = [], []
        for i, (graph, plan) in enumerate(nets[first : first + TOGETHER]):
            written = c_source.write(graph, plan, f"net{i}")
            image = np.random.default_rng(2).normal(0, 1, image_shape(graph)).astype(np.float32)[0]
            made.append(firmware(written, [image]))
            wanted += hashes(graph, plan, written, [image])
        ran = emulated.run(made, core)
        if [frame.hashed for frame in ran] != wanted:
            sys.exit(f"{name}: codes that are not the reference's")
        found += [frame.layers for frame in ran]
    return found


def frames(models: Path, data: Path) -> list[dict[str, Any]]:
    """Return the instructions of the layers of Fast-SCNN (96x96) with weights of 8 bits."""
    opened = open_both(str(models / NET), str(data))
    graph, plan = build(
        "qmn8", passes.prepare(opened.source.graph()), batches=calibration_images(opened, N_CALIBRATE, 0, None)
    )
    counted = {core: counts([(graph, plan)], core)[0] for core in CORES}
    return [
        {
            "layer": f"{node.op} {'x'.join(map(str, graph.tensors[node.output].shape[1:]))}",
            **{c: counted[c][i] for c in CORES},
        }
        for i, node in enumerate(graph.nodes)
    ]


def table(rows: Sequence[dict[str, Any]], frame: Sequence[dict[str, Any]]) -> str:
    """Return what is kept as Markdown."""
    lines = ["Instructions per product (layers), per output (others), per frame; codes of 8 bits, `-O2`.", ""]
    lines += [f"| layer | weights, bits | rounding | {' | '.join(CORES)} |", "|" + "---|" * (3 + len(CORES))]
    for row in rows:
        bits = row["weight_bits"] if row["per"] == "product" else ""
        lines.append(f"| {row['layer']} | {bits} | {row['rounding']} | {' | '.join(f'{row[c]:.2f}' for c in CORES)} |")
    if frame:
        total = [f"{sum(row[c] for row in frame) / 1e6:.2f} M" for c in CORES]
        lines.append(f"| a frame of Fast-SCNN (width 0.125, 96x96) | 8 | half_even | {' | '.join(total)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
