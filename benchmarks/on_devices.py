"""A trained Fast-SCNN (96x96) on emulated Cortex-M: int8 beside plans searched for flash and instructions.

    python benchmarks/on_devices.py --data ../shared/data/packages --models ../shared/models/fastscnn_packages

``bitfront search --device cortex_m4`` chooses the bits. Every file of its front, and ``qmn8`` in both roundings, is
scored as C on this machine (val, and train and val together), linked and counted on emulated Cortex-M4, M7 and M55. A
row dominates ``qmn8`` when it is nowhere worse in score (val), flash and instructions, and somewhere better.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import machine  # the script's own folder, not a package

import bitfront
from bitfront.contracts import Part
from bitfront.device import Device
from bitfront.fitting.config import BitSearch
from bitfront.graph import files, passes
from bitfront.measure import emulated, on_device
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import build
from bitfront.registry import load
from bitfront.runtimes.c_fixed import CFixed
from bitfront.store import atomic_json
from bitfront.verbs.artifacts import calibration_images
from bitfront.verbs.opening import Opened, open_both
from bitfront.verbs.scoring import score_file

RESULT = Path(__file__).with_name("results") / "on_devices.json"
NET = "onnx/fastscnn_96a0.125t2r1pp0.onnx"
CORES = ("cortex_m4", "cortex_m7", "cortex_m55")
BOARDS = ("stm32h7",)
N_CALIBRATE = 64


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
    parts = {"val": parts["val"], "all": [*parts["train"], *parts["val"]]}
    flat = passes.prepare(opened.source.graph())
    graph, plan = build("qmn8", flat, batches=calibration_images(opened, N_CALIBRATE, 0, None))
    half_up = replace(plan, options={**plan.options, "rounding": "half_up"})
    plans: dict[str, tuple[Any, Plan]] = {"qmn8": (graph, plan), "qmn8, half up": (graph, half_up)}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        float_score, found = searched(model, str(args.data), args.evaluations, home / "runs")
        rows = [
            row(name, *pair, opened, parts, home / str(i)) for i, (name, pair) in enumerate((plans | found).items())
        ]
    for core in CORES:
        for r in rows:
            r.setdefault("dominates_qmn8_on", []).extend([core] if dominates(r, rows[0], core) else [])
    report = {
        "benchmark": "on_devices",
        "command": " ".join(["python", "benchmarks/on_devices.py", *sys.argv[1:]]),
        "machine": machine(),
        "counted_with": emulated.version(),
        "network": NET,
        "n_images": {name: len(part) for name, part in parts.items()},
        "float_score": float_score,
        "rows": rows,
    }
    atomic_json(args.result, report)


def searched(model: str, data: str, evaluations: int, runs: Path) -> tuple[float, dict[str, Any]]:
    """Search the bits for a Cortex-M4; returns float's score, and every plan that became a file."""
    bits = BitSearch("surrogate", evaluations=evaluations, n_members=8)
    run = bitfront.search(model, data, bits=bits, device="cortex_m4", runs=runs)
    records = [r for r in run.records() if r.artifact and r.candidate.plan and r.val]
    floats = next(r for r in run.records() if r.candidate.recipe == "float32" and r.val)
    ordered = sorted(records, key=lambda r: (-r.val.value, r.artifact.size_bytes))
    named = {f"{n}: {r.candidate.recipe}": r for n, r in enumerate(ordered, 1)}
    paths = {name: (run.path / r.artifact.path).with_suffix(files.SUFFIX) for name, r in named.items()}
    return floats.val.value, {name: files.load(path) for name, path in paths.items()}


def row(name: str, graph: Any, plan: Plan, opened: Opened, parts: dict[str, Part], home: Path) -> dict[str, Any]:
    """Export, score, link and count one file."""
    engine = CFixed()
    path = engine.export(graph, plan, home, opened.source.input, opened.source.output)
    scores = {part: score_file(engine, path, opened, samples) for part, samples in parts.items()}
    constants, ram = engine.footprint(path)
    found: dict[str, Any] = {
        "name": name,
        "score": scores["val"].score,
        "scores": {part: scored.value for part, scored in scores.items()},
        "foreground_iou": {part: scored.values.get("foreground_iou") for part, scored in scores.items()},
        "constants_bytes": constants,
        "ram_bytes": ram,
        "rounding": str(plan.options.get("rounding", "half_even")),
        "weight_bits": sorted(form.bits for t, form in plan.formats.items() if graph.tensors[t].kind == "weight"),
    }
    for name_of in (*CORES, *BOARDS):
        device: Device = load("device", name_of)
        modelled = on_device.modelled(device, graph, plan, (constants, ram))
        if device.board:
            found[name_of] = {"modelled_ms": modelled.latency_ms, "residual": modelled.residual}
            continue
        told = on_device.counted(modelled, device, engine, path)
        found[name_of] = {
            "instructions": told.counted_instructions,
            "modelled_instructions": told.instructions,
            "flash_bytes": told.linked_bytes,
        }
    return found


def dominates(a: dict[str, Any], b: dict[str, Any], core: str) -> bool:
    """Whether row ``a`` is nowhere worse than ``b``, and somewhere better."""
    x, y = ((-r["scores"]["val"], r[core]["flash_bytes"], r[core]["instructions"]) for r in (a, b))
    return x != y and all(p <= q for p, q in zip(x, y, strict=True))


if __name__ == "__main__":
    main()
