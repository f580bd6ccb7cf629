"""Instructions of fixed-point C on Cortex-M: counted by QEMU on networks made for it, and prices fitted to them.

    python benchmarks/instructions.py

Every layer of random networks is counted on emulated Cortex-M4, M7 and M55; the prices of
``bitfront.quant.instructions`` are those of the least relative squares, none of them negative. How far they are off is
told on other networks: those of the catalogue. Writes ``src/bitfront/quant/instructions.json`` and
``benchmarks/results/instructions.json``. Run it again when kernels change.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine  # the script's own folder, not a package

from bitfront.errors import BitfrontError
from bitfront.graph import capture, passes
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.measure import emulated
from bitfront.quant import instructions
from bitfront.quant.costs import Costs, bits_of
from bitfront.quant.formats import Qmn
from bitfront.quant.plan import Plan
from bitfront.registry import load
from bitfront.runtimes import c_source
from bitfront.runtimes.c_emulated import firmware
from bitfront.simulate import fixed_point, reference
from bitfront.stats.qmn import choose
from bitfront.store import atomic_json

RESULT = Path(__file__).with_name("results") / "instructions.json"
MODEL = Path(instructions.__file__).with_name("instructions.json")
CORES = ("cortex_m4", "cortex_m7", "cortex_m55")
CHECKED = (
    ("fast_scnn", 96, {"width": 0.125, "expansion": 2, "repeats": 1, "pyramid": False}),
    ("fast_scnn", 64, {"width": 0.25}),
    ("fast_scnn", 128, {"width": 0.125}),
    ("tiny", 64, {}),
    ("mnist_cnn", 28, {"channels": 1}),
    ("tiny", 32, {"width": 4}),
    ("mobilenet_v2", 32, {"width": 0.35}),
)
"""Networks of the catalogue: name, size, options."""
PLANS = ((8, 8), (4, 8), (3, 8), (8, 16))
"""Bits of weights and activations."""
SMALL = 500
"""Instructions below which an error is not relative."""
MAX_FLAT = 2048
"""Inputs of a dense layer."""
FILLED = 0.6
"""Of a machine's memory, by networks in one program."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=int, default=120, help="random networks")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    drawn = drawn_nets(rng, args.nets)
    checked = [
        (label, (graph, plan, c_source.write(graph, plan, f"net{i}")))
        for i, (label, graph, plan) in enumerate(checked_nets(rng))
    ]
    stored: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for core in CORES:
        measured = layers(drawn, emulated.CORES[core])
        each = fitted(measured)
        own = instructions.Prices(core, each, 0.0, 0.0, 0.0, 0, "")
        found = wholes(checked, own)
        errors, errors_16 = (
            [abs(r["modelled"] / r["measured"] - 1) for r in found if r["network"].endswith(end)]
            for end in ("a8", "a16")
        )
        of_layers = [abs(own.of(done) / n - 1) for done, n in measured if n > SMALL]
        program = max(r["flash_bytes"] - r["constants_bytes"] for r in found if "flash_bytes" in r)
        stored[core] = {
            "each": {name: round(value, 4) for name, value in sorted(each.items())},
            "mean_error": round(float(np.mean(errors)), 4),
            "largest_error": round(max(errors), 4),
            "largest_error_16": round(max(errors_16), 4),
            "program_bytes": -(-program // 512) * 512,
            "counted_with": emulated.version(),
        }
        rows += [{"core": core, **r} for r in found]
        told = (
            f"{core}: {len(measured)} layers, {100 * np.mean(of_layers):.1f} %; networks {100 * np.mean(errors):.1f} %"
        )
        print(f"{told}, {100 * max(errors):.1f} % at most; program {program} bytes", file=sys.stderr)
    atomic_json(args.model, {"made_by": "benchmarks/instructions.py", "cores": stored})
    head = {"benchmark": "instructions", "command": "python benchmarks/instructions.py", "machine": machine()}
    kept = {core: {key: value for key, value in own.items() if key != "each"} for core, own in stored.items()}
    atomic_json(args.result, {**head, "n_random_networks": args.nets, "cores": kept, "rows": rows})


Drawn = tuple[Graph, Plan, c_source.Written]


# --- networks --------------------------------------------------------------------------------------------------------
def drawn_nets(rng: np.random.Generator, n: int) -> list[Drawn]:
    """Return random networks; those that C cannot have, because a layer gave nothing, are drawn again."""
    found: list[Drawn] = []
    while len(found) < n:
        graph, plan = drawn_net(rng, len(found))
        try:
            found.append((graph, plan, c_source.write(graph, plan, f"drawn{len(found)}")))
        except BitfrontError as error:
            print(f"drawn again: {error}", file=sys.stderr)
    return found


def drawn_net(rng: np.random.Generator, n: int) -> tuple[Graph, Plan]:
    """Return a network of a few random layers, kind ``n`` among them, and its plan."""
    b = Builder()
    side = int(rng.choice([6, 8, 12, 16, 24, 32]))
    first = int(rng.choice([1, 3, 3, 4, 8, 12, 16, 24, 32]))
    x = b.input("image", (1, first, side, int(side * rng.choice([1, 1, 1.5]))))
    for kind in [n % 16, *rng.integers(0, 16, 4)]:
        x = block(b, x, int(kind), rng)
    end = int(rng.integers(4))
    if end == 0:
        x = b.node("argmax", "labels", [x], axis=1, keepdims=False)
    elif end == 1:
        x = b.node("softmax", "soft", [x], axis=1)
    elif np.prod(b.shape(x)) <= MAX_FLAT:
        flat = b.node("reshape", "flat", [x], shape=[-1, int(np.prod(b.shape(x)[1:]))])
        weight = b.constant("dense.w", rng.normal(0, 0.1, (int(rng.choice([2, 10, 33])), b.shape(flat)[1])), "weight")
        x = b.node("dense", "dense", [flat, weight], clip=None)
    graph = b.build([x])
    return graph, drawn_plan(graph, rng)


def block(b: Builder, x: str, kind: int, rng: np.random.Generator) -> str:
    _, c, h, w = b.shape(x)
    channels = int(rng.choice([1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64]))
    while channels > 4 and channels * c * h * w * 9 > 3_000_000:
        channels //= 2
    stride = [int(rng.choice([1, 1, 2]))] * 2 if min(h, w) > 4 else [1, 1]
    window = {"kernel": [2, 2], "strides": [2, 2], "pads": [0] * 4}
    match kind:
        case 0 | 1 | 2:
            k = int(rng.choice([3, 3, 5]))
            return conv(b, x, channels, k, rng, strides=stride, pads=[k // 2] * 4)
        case 3 | 4 | 5:
            return conv(b, x, channels, 1, rng)
        case 6 | 7 | 8:
            return conv(b, x, c, 3, rng, strides=stride, pads=[1] * 4, groups=c)
        case 9:
            return b.node("add", "add", [x, conv(b, x, c, 1, rng)], clip=None)
        case 10:
            return b.node("concat", "cat", [x, conv(b, x, 4, 1, rng)], axis=1)
        case 11:
            size = [min(2 * h, 48), min(2 * w, 48)]
            mode = str(rng.choice(["align_corners", "half_pixel"]))
            return b.node("resize", "up", [x], mode="linear", size=size, coordinates=mode)
        case 12:
            size = [min(2 * h, 48), min(2 * w, 48)]
            return b.node("resize", "near", [x], mode="nearest", size=size, coordinates="asymmetric", rounding="floor")
        case 13:
            if min(h, w) < 4:
                return b.node("hard_swish", "bend", [x])
            return b.node("max_pool", "max", [x], dilations=[1, 1], **window)
        case 14:
            if min(h, w) < 4:
                return b.node("sigmoid", "bend", [x])
            return b.node("average_pool", "mean", [x], count_include_pad=True, **window)
        case _:
            gate = b.node("sigmoid", "gate", [conv(b, b.node("global_average_pool", "gap", [x]), c, 1, rng)])
            return b.node("mul", "gated", [x, gate])


def conv(b: Builder, x: str, channels: int, kernel: int, rng: np.random.Generator, **options: Any) -> str:
    groups = options.get("groups", 1)
    shape = (channels, b.shape(x)[1] // groups, kernel, kernel)
    weight = b.constant("w", rng.normal(0, np.prod(shape[1:]) ** -0.5, shape), "weight")
    bias = b.constant("b", rng.normal(0, 0.1, channels), "bias")
    rest = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "groups": 1, "clip": [0.0, float("inf")]}
    return b.node("conv", "conv", [x, weight, bias], **{**rest, **options})


def drawn_plan(graph: Graph, rng: np.random.Generator) -> Plan:
    """Mostly 8 bits; of every third network activations of 16, of some of these weights so wide that sums take 64."""
    wide = rng.random() < 0.4 and not any(n.op in ("softmax", "sigmoid", "hard_swish") for n in graph.nodes)
    widths = [8, 8, 4, 2, 3, 6, 5] + [12, 16, 16, 16] * wide
    weights = {name: int(rng.choice(widths)) for name in graph.constants}
    rounding = str(rng.choice(["half_even", "half_up"]))
    return plan_of(graph, rng, weights, 16 if wide else 8, rounding)


def plan_of(
    graph: Graph, rng: np.random.Generator, weights: dict[str, int], activations: int, rounding: str = "half_even"
) -> Plan:
    """Return Qmn formats that fit what the network does with an image of noise."""
    image = rng.normal(0, 1, (1, *graph.tensors[graph.inputs[0]].shape[1:])).astype(np.float32)
    forms: dict[str, Any] = {}
    for name, values in reference.run(graph, image, keep="*").items():
        if values.dtype.kind == "f":
            forms[name] = choose(values, activations, "max")
    for node in graph.nodes:
        if node.op == "softmax":
            forms[node.output] = Qmn(8, 7, forms[node.inputs[0]].signed)
        elif node.op in ("reshape", "max_pool", "identity"):
            forms[node.output] = forms[node.inputs[0]]
    for name, value in graph.constants.items():
        if graph.tensors[name].kind != "bias":
            forms[name] = choose(value, weights[name], "max", signed=True)
    return Plan("drawn", forms, {"rounding": rounding})


def checked_nets(rng: np.random.Generator) -> Iterator[tuple[str, Graph, Plan]]:
    """Yield networks of the catalogue with random weights, under several plans."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, size, options in CHECKED:
        family = load("model", name)(classes=2, **options)
        graph = passes.prepare(capture.from_module(family.build().eval(), (1, family.channels, size, size)))
        for weight_bits, activation_bits in PLANS:
            if activation_bits == 16 and any(n.op in ("softmax", "hard_swish", "sigmoid") for n in graph.nodes):
                continue
            told = [f"{key}={value}" for key, value in options.items()]
            label = " ".join([name, f"{size}x{size}", *told, f"w{weight_bits}", f"a{activation_bits}"])
            yield label, graph, plan_of(graph, rng, dict.fromkeys(graph.constants, weight_bits), activation_bits)


# --- counting and fitting --------------------------------------------------------------------------------------------
def done_by(graph: Graph, plan: Plan) -> list[dict[str, float]]:
    """Return the work of every node."""
    bits, even = bits_of(plan), fixed_point.rounding_of(plan) == "half_even"
    ways = Costs(graph).ways(bits)
    found = []
    for node, done in zip(graph.nodes, instructions.operations(graph), strict=True):
        width = bits.get(node.inputs[1], 8) if done.weights else 8
        found.append(instructions.work(done, ways[node.output], width, even=even))
    return found


def frames(nets: Sequence[Drawn], core: emulated.Core) -> Iterator[emulated.Frame]:
    """Yield an image of every network; as many of them as fit are one program."""
    room = left = FILLED * core.memory_bytes
    together: list[emulated.Firmware] = []
    for _, _, written in nets:
        x = written.program.held[written.program.input]
        needed = max(written.flash_bytes + x.n_bytes + 4096, written.memory.n_bytes)
        if together and needed > left:
            yield from emulated.run(together, core)
            left, together = room, []
        left -= needed
        together.append(firmware(written))
    yield from emulated.run(together, core)


def layers(nets: Sequence[Drawn], core: emulated.Core) -> list[tuple[dict[str, float], int]]:
    """Return the work and the instructions of every layer."""
    found: list[tuple[dict[str, float], int]] = []
    for (graph, plan, _), frame in zip(nets, frames(nets, core), strict=True):
        found += [(done, n) for done, n in zip(done_by(graph, plan), frame.layers, strict=True) if done]
    return found


def fitted(measured: Sequence[tuple[dict[str, float], int]]) -> dict[str, float]:
    """Return prices: non-negative least squares of relative errors; what is never done has none."""
    from scipy.optimize import nnls

    names = sorted({name for done, _ in measured for name in done})
    counts = np.array([[done.get(name, 0.0) for name in names] for done, _ in measured])
    target = np.array([n for _, n in measured], np.float64)
    weight = 1 / (target + SMALL)
    scale = np.maximum((counts * weight[:, None]).max(0), 1e-12)
    solution, _ = nnls(counts * weight[:, None] / scale, target * weight)
    return {name: float(value) for name, value in zip(names, solution / scale, strict=True) if value > 0}


def wholes(named: Sequence[tuple[str, Drawn]], known: instructions.Prices) -> list[dict[str, Any]]:
    """Return the instructions of networks, counted and modelled."""
    core, found = emulated.CORES[known.core], []
    counted = frames([net for _, net in named], core)
    for (name, (graph, plan, written)), frame in zip(named, counted, strict=True):
        modelled = round(sum(known.of(done) for done in done_by(graph, plan)))
        row: dict[str, Any] = {"network": name, "measured": frame.instructions, "modelled": modelled}
        if name.endswith("w8 a8"):
            _, flash = emulated.measure(firmware(written), core)
            row |= {"flash_bytes": flash, "constants_bytes": written.flash_bytes}
        found.append(row)
    return found


if __name__ == "__main__":
    main()
