"""Damage .tflite and .onnx files at random, describe, open and run them: a result or one clear line, never a crash.

    python benchmarks/fuzz_models.py [N] [--kinds tflite onnx] [--more FILE.tflite ...] [--seed S] [--out FILE]

``N`` files of each kind. The process that opens them stands for a user's: it is started anew after a crash, and crashes
are counted. Files are ours (with a digest) and the same networks as somebody else's (without).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import BitfrontError, DataError
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import build
from bitfront.registry import load

SIZE = 16
CONTRACT, OUTPUT = InputContract(SIZE, SIZE), OutputContract()
ENGINES = {"tflite": "litert", "onnx": "onnxruntime"}
WORDS = (0, 1, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 4)


def network() -> Graph:
    rng = np.random.default_rng(0)
    b = Builder()
    x = b.input("image", (1, 3, SIZE, SIZE))
    for name, oc, groups in (("a", 8, 1), ("b", 8, 8), ("c", 8, 1), ("head", 4, 1)):
        ic = b.shape(x)[1] // groups
        weight = b.constant(f"{name}.w", rng.normal(0, 0.3, (oc, ic, 3, 3)), "weight")
        bias = b.constant(f"{name}.b", rng.normal(0, 0.1, oc), "bias")
        y = b.node(
            "conv", name, [x, weight, bias],
            strides=[2, 2] if name == "a" else [1, 1], pads=[1] * 4, dilations=[1, 1], groups=groups, clip=[0.0, 6.0],
        )  # fmt: skip
        x = b.node("add", "sum", [x, y], clip=None) if name == "c" else y
    return b.build([b.node("resize", "up", [x], mode="linear", size=[SIZE, SIZE], coordinates="half_pixel")])


def sound_files(kind: str, folder: Path, more: list[Path]) -> list[bytes]:
    """Float and integer files, ours and as somebody else's."""
    engine = load("runtime", ENGINES[kind])()
    images = [np.random.default_rng(1).normal(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)]
    found = []
    for recipe in ("float32", "dynamic", "int8"):
        graph, plan = build(recipe, network(), batches=images)
        found.append(engine.export(graph, plan, folder / recipe, CONTRACT, OUTPUT).read_bytes())
        found.append(foreign(kind, graph, plan, found[-1]))
    return found + [path.read_bytes() for path in more if path.suffix == f".{kind}"]


def foreign(kind: str, graph: Graph, plan: Plan, ours: bytes) -> bytes:
    if kind == "tflite":
        from bitfront.runtimes import litert_writer

        writer, inputs, outputs, _ = litert_writer.write(graph, plan, CONTRACT)
        return writer.model.finish(inputs, outputs, {})
    import onnx

    model = onnx.load_model_from_string(ours)
    del model.metadata_props[:]
    return model.SerializeToString()


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Overwrite aligned words, flip bits, cut, insert or drop."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(changed) or 1))
        match int(rng.integers(6)):
            case 0 | 1:
                changed[at // 4 * 4 : at // 4 * 4 + 4] = int(rng.choice(WORDS)).to_bytes(4, "little")
            case 2:
                changed[at : at + 1] = bytes([int(rng.integers(256))])
            case 3:
                changed[at : at + 8] = rng.bytes(8)
            case 4 if rng.random() < 0.3:
                del changed[at:]
            case 5 if rng.random() < 0.5:
                changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(changed)


def outcome(kind: str, path: Path) -> str:
    engine = load("runtime", ENGINES[kind])()
    try:
        found = engine.describe(path, preprocess="unit").input
        if found.height * found.width > 2**20:
            raise DataError("an input of absurd size", hint="")
        session = engine.open(path)
        session.run(np.zeros((1, found.channels, found.height, found.width), np.float32))
        session.close()
    except BitfrontError as error:
        clear = "\n" not in str(error) and len(str(error)) < 700
        return type(error).__name__ if clear else f"unclear: {error}"
    except Exception:
        return "traceback: " + traceback.format_exc()
    return "result"


def worker(kind: str, folder: str, first: int, last: int) -> None:
    """Open files ``first`` to ``last``; a line for each, so that who reads them sees where it ended."""
    for number in range(first, last):
        line = {"case": number, "outcome": outcome(kind, Path(folder) / f"{number}.{kind}")}
        print(json.dumps(line), flush=True)


def run(kind: str, n: int, seed: int, more: list[Path]) -> dict[str, object]:
    counts: Counter[str] = Counter()
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        sound = sound_files(kind, Path(name), more)
        for number in range(n):
            rng = np.random.default_rng([seed, number])
            (Path(name) / f"{number}.{kind}").write_bytes(damage(sound[number % len(sound)], rng))
        first = 0
        while first < n:
            command = [sys.executable, __file__, "--worker", kind, name, str(first), str(n)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            for line in lines:
                word = line["outcome"].partition(":")[0]
                counts[word] += 1
                if word in ("traceback", "unclear"):
                    problems.append(f"case {line['case']}: {line['outcome']}")
            first += len(lines)
            if first < n:
                counts["crash"] += 1
                problems.append(f"case {first}: the process ended with {done.returncode}")
                first += 1
    return {"cases": n, "seed": seed, "outcomes": dict(counts), "problems": problems}


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        kind, folder, first, last = sys.argv[2:6]
        worker(kind, folder, int(first), int(last))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int, nargs="?", default=300)
    parser.add_argument("--kinds", nargs="+", default=list(ENGINES))
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="files of others to damage as well")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/fuzz_models.json")
    options = parser.parse_args()
    from machine import machine  # the script's own folder, not a package

    start = time.perf_counter()
    found = {kind: run(kind, options.n, options.seed, options.more) for kind in options.kinds}
    report = {"kinds": found, "seconds": round(time.perf_counter() - start, 1), "machine": machine()}
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found))
    return 1 if any(row["problems"] for row in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
