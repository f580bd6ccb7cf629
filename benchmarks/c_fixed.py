"""Fixed-point C: score, flash, RAM and host time of a trained Fast-SCNN (96x96), as int8 and as searched mixed bits.

    python benchmarks/c_fixed.py --data ../shared/data/packages --models ../shared/models/fastscnn_packages

Scores are those of the C itself, compiled on this machine; "all" is train and val together. Flash is the constants and,
where ``arm-none-eabi-gcc`` is installed, the program for a Cortex-M4 (-Os, unused functions left out). The time is CPU
time of one frame inside the C program (-O3), and of ONNX Runtime with one thread, in turns.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine  # the script's own folder, not a package

import bitfront
from bitfront.contracts import Part
from bitfront.fitting.config import BitSearch
from bitfront.graph import files, passes
from bitfront.measure import verify
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import build
from bitfront.runtimes import c_source, c_tree
from bitfront.runtimes.c_fixed import CFixed
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.store import atomic_json
from bitfront.verbs.artifacts import calibration_images
from bitfront.verbs.opening import open_both
from bitfront.verbs.scoring import score_file

RESULT = Path(__file__).with_name("results") / "c_fixed.json"
NET = "onnx/fastscnn_96a0.125t2r1pp0.onnx"
N_CALIBRATE, N_VERIFY, N_FRAMES = 64, 8, 300
CLOCK = """\
#include <stdio.h>
#include <time.h>
#include "model.h"
static uint8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(8)));
int main(void) {
    int i;
    const clock_t began = clock();
    for (i = 0; i < %d; i++) { model_run(arena); }
    printf("%%.6f", 1e3 * (double)(clock() - began) / CLOCKS_PER_SEC / %d);
    return 0;
}
"""
CORTEX_M4 = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--evaluations", type=int, default=200, help="of the bit search")
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    model = str(args.models / NET)
    opened = open_both(model, str(args.data))
    assert opened.dataset is not None
    parts: dict[str, Part] = {name: opened.dataset.part(name) for name in ("train", "val")}
    parts["all"] = [*parts["train"], *parts["val"]]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        flat = passes.prepare(opened.source.graph())
        graphs = {"float32": (flat, Plan("float32"))}
        graphs["qmn8"] = build("qmn8", flat, batches=calibration_images(opened, N_CALIBRATE, 0, None))
        graphs |= mixed(model, str(args.data), args.evaluations, home)
        rows = [row(name, *pair, opened, parts, home / name) for name, pair in graphs.items()]
    report = {
        "benchmark": "c_fixed",
        "command": " ".join(["python", "benchmarks/c_fixed.py", *sys.argv[1:]]),
        "machine": machine(),
        "compiler": CFixed().version(),
        "network": NET,
        "n_images": {name: len(part) for name, part in parts.items()},
        "rows": rows,
    }
    atomic_json(args.result, report)


def mixed(model: str, data: str, evaluations: int, home: Path) -> dict[str, Any]:
    """Search the bits, flash against score; returns the members at a loss of at most one point, smallest first."""
    run = bitfront.search(
        model, data, bits=BitSearch("surrogate", evaluations=evaluations), runtime="c_fixed", runs=home / "runs",
    )  # fmt: skip
    records = [r for r in run.records() if r.artifact and r.candidate.recipe.startswith("bits") and r.val]
    floats = next(r for r in run.records() if r.candidate.recipe == "float32" and r.val)
    near = [r for r in records if r.val.value >= floats.val.value - 0.01]
    chosen = sorted(near, key=lambda r: r.artifact.size_bytes)[:2]
    return {r.candidate.recipe: files.load((run.path / r.artifact.path).with_suffix(files.SUFFIX)) for r in chosen}


def row(name: str, graph: Any, plan: Plan, opened: Any, parts: dict[str, Part], home: Path) -> dict[str, Any]:
    """Export, verify, score and time one file."""
    runtime = OnnxRuntime() if name == "float32" else CFixed()
    contract, output = opened.source.input, opened.source.output
    path = runtime.export(graph, plan, home, contract, output)
    scores = {part: score_file(runtime, path, opened, samples).values for part, samples in parts.items()}
    found: dict[str, Any] = {"name": name, "runtime": runtime.name, "file_bytes": path.stat().st_size, "scores": scores}
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (1, contract.channels, contract.height, contract.width)).astype(np.float32)
    if name == "float32":
        found["ms"] = onnx_ms(path, image)
        return found
    written = c_source.write(graph, plan)
    probes = np.concatenate([image, image * 100])
    agreement = verify.compare(runtime, path, graph, plan, contract, output, probes)
    found["agreement"] = {"verified": agreement.verified, "max_code_difference": agreement.max_code_difference}
    bits = {name: form.bits for name, form in plan.formats.items() if graph.tensors[name].kind == "weight"}
    found |= {"weight_bits": sorted(bits.values()), **c_tree.facts(written)}
    source = home / "src"
    source.mkdir()
    for file, text in c_tree.sources(written).items():
        (source / file).write_text(text)
    return found | {"ms": c_ms(source), **cortex_m4(source)}


def onnx_ms(path: Path, image: np.ndarray) -> float:
    session = OnnxRuntime().open(path)
    times = []
    for _ in range(N_FRAMES):
        began = time.thread_time()
        session.run(image)
        times.append(time.thread_time() - began)
    session.close()
    return round(1e3 * float(np.median(times)), 4)


def c_ms(source: Path) -> float:
    (source / "clock.c").write_text(CLOCK % (N_FRAMES, N_FRAMES))
    units = [str(f) for f in source.glob("*.c")]
    subprocess.run(["cc", "-std=gnu99", "-O3", f"-I{source}", *units, "-o", source / "clock"], check=True)
    told = subprocess.run([source / "clock"], check=True, capture_output=True, text=True).stdout
    (source / "clock.c").unlink()
    return round(float(told), 4)


def cortex_m4(source: Path) -> dict[str, Any]:
    """Return the bytes of program and constants, linked with an empty main; nothing without a compiler."""
    if not shutil.which("arm-none-eabi-gcc"):
        return {}
    (source / "empty.c").write_text('#include "model.h"\nint main(void) { model_run((void *)0x20000000); return 0; }\n')
    units = [str(f) for f in source.glob("*.c")]
    sizes = {}
    for level in ("-Os", "-O2"):
        flags = ["-std=c99", level, "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-specs=nosys.specs"]
        command = ["arm-none-eabi-gcc", *CORTEX_M4, *flags, "-nostartfiles", "-Wl,-emain", f"-I{source}", *units]
        done = subprocess.run([*command, "-o", source / "arm.elf"], check=True, capture_output=True, text=True)
        assert not re.search("error", done.stderr)
        told = subprocess.run(["arm-none-eabi-size", source / "arm.elf"], check=True, capture_output=True, text=True)
        text, data, bss = (int(n) for n in told.stdout.splitlines()[1].split()[:3])
        sizes[f"cortex_m4_flash_bytes{level.replace('-', '_')}"] = text + data
        assert bss < 1000
    (source / "empty.c").unlink()
    return sizes


if __name__ == "__main__":
    main()
