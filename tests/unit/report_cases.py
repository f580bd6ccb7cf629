"""A run that never happened: realistic report data for the tests of the report."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bitfront.contracts import InputContract, Metrics, OutputContract
from bitfront.record import Agreement, Artifact, Budget, Candidate, Measurement, Record
from bitfront.report.data import Curve, Preview, ReportData

CLASSES = ("background", "parcel", "polybag", "envelope", "tube", "pallet")
CPU = "Intel Xeon 8581C (avx2, avx512f, avx512_vnni)"
SPEED = {"float32": 1.0, "float16": 1.04, "dynamic": 1.6, "int8": 0.42, "int8_portable": 0.55}
BYTES = {"float32": 4.0, "float16": 2.0, "dynamic": 1.15, "int8": 1.08, "int8_portable": 1.08}
LOSS = {"float32": 0.0, "float16": 0.0001, "dynamic": 0.002, "int8": 0.0018, "int8_portable": 0.011}


def metrics(rng: np.random.Generator, value: float, n: int = 60, classes: tuple[str, ...] = CLASSES) -> Metrics:
    iou: dict[str, float | None] = {c: float(np.clip(value + rng.normal(0, 0.03), 0, 1)) for c in classes}
    iou[classes[-1]] = None
    k = len(classes)
    confusion = rng.integers(0, 900, (k, k)) + np.diag(rng.integers(20_000, 90_000, k))
    return Metrics(
        score="miou",
        values={"miou": value, "miou_image": value - 0.013, "pixel_accuracy": 0.9 + value / 12, "foreground_iou": None},
        definitions={
            "miou": "mean over classes of intersection / union, summed over the whole part; absent classes left out",
            "miou_image": "the same per image, then the mean over images",
            "pixel_accuracy": "share of labelled pixels that are right",
            "foreground_iou": "intersection / union of all classes but the background",
        },
        per_class={"iou": iou},
        n=n,
        interval=(value - 0.012, value + 0.011),
        confusion=tuple(tuple(int(v) for v in row) for row in confusion),
        per_sample={f"val/{i:03d}.png": float(np.clip(value + rng.normal(0, 0.05), 0, 1)) for i in range(12)},
    )


def latency(rng: np.random.Generator, ms: float, ratio: float | None) -> Measurement:
    samples = ms * (1 + rng.gamma(2.0, 0.012, 48))
    return Measurement(
        value=float(np.median(samples)),
        unit="ms",
        p90=float(np.quantile(samples, 0.9)),
        iqr=float(np.subtract(*np.quantile(samples, [0.75, 0.25]))),
        n=48,
        cpu=ms,
        ratio=ratio,
        noise_floor=0.031,
        samples=tuple(float(s) for s in samples),
    )


def record(rng: np.random.Generator, sequence: int, size: int, width: float, recipe: str, **changes: Any) -> Record:
    candidate = Candidate("fast_scnn", {"resolution": [size, size], "width": width}, recipe, "onnxruntime", "ab" * 32)
    score = 0.958 - 0.09 * (96 / size) ** 1.2 - 0.02 / (4 * width) - LOSS[recipe] + float(rng.normal(0, 0.002))
    ms = 0.35 + 21 * (size / 512) ** 2 * width * SPEED[recipe]
    base = 0.35 + 21 * width * (size / 512) ** 2
    n_parameters = int(1_140_000 * width**1.7)
    contract = InputContract(size, size)
    values: dict[str, Any] = {
        "candidate": candidate,
        "status": "dominated",
        "artifact": Artifact(
            path=f"artifacts/{candidate.id}/model.onnx",
            runtime="onnxruntime",
            recipe=recipe,
            size_bytes=int(n_parameters * BYTES[recipe]) + 24_000,
            sha256=candidate.id * 5 + "abcd",
            input=contract,
            output=OutputContract(classes=CLASSES),
        ),
        "val": metrics(rng, score),
        "latency": latency(rng, ms, ms / base),
        "agreement": Agreement(
            verified=True,
            max_code_difference=0 if recipe == "float32" else 1,
            unit="codes of the output",
            differing_fraction=0.0002,
            readout_agreement=0.99993,
            tolerance=1,
            first_difference=None,
            n_images=32,
            runtime="onnxruntime 1.31.0",
            cpu=CPU,
            when="2026-03-01T10:14:00+00:00",
            reference="numpy integer reference",
        ),
        "parameters": n_parameters,
        "macs": int(2.3e9 * width * (size / 512) ** 2),
        "activation_bytes": 8 * size * size,
        "peak_bytes": int(6 * size * size * width * 4),
        "train_seconds": 41.0,
        "seconds": 58.0,
        "sequence": sequence,
    }
    return Record(**(values | changes))


def report_data(rng: np.random.Generator, path: Path = Path("runs/packages"), **changes: Any) -> ReportData:
    """About thirty candidates: a front of six, dominated, dropped and failed ones."""
    records = []
    for size in (512, 384, 256, 160, 96):
        for width in (1.0, 0.5):
            for recipe in ("float32", "int8") if width == 0.5 else ("float32", "int8", "dynamic", "int8_portable"):
                records.append(record(rng, len(records) + 1, size, width, recipe))
    records = [_judged(r) for r in records]
    measured = [r for r in records if r.status == "dominated"]
    best = [r for r in measured if not any(_beats(o, r) for o in measured)]
    best = sorted(best, key=lambda r: r.latency.value if r.latency else 0.0)
    keep = {r.id for r in best}
    records = [
        replace(r, status="front", test=metrics(rng, r.val.value - 0.004, 120)) if r.id in keep and r.val else r
        for r in records
    ]
    base = replace(records[0], test=metrics(rng, 0.931, 120))
    records[0] = base
    members = [r for r in records if r.status == "front"]
    knee = members[len(members) // 2]
    ordered = [knee, *(m for m in members if m is not knee)]
    names = ["knee", "most_accurate", "fastest", "smallest", "balanced", "step", "step", "step"]
    values: dict[str, Any] = {
        "name": "packages",
        "path": path,
        "budget": Budget(max_latency_ms=8.0, max_size_bytes=1_300_000, max_drop=0.02),
        "records": tuple(records),
        "baseline": base.id,
        "chosen": knee.id,
        "folders": {m.id: f"{n:02d}_{names[min(n - 1, 7)]}" for n, m in enumerate(ordered, 1)},
        "curves": curves(rng),
        "previews": tuple(preview(rng, f"val/top_{n:04d}.png") for n in range(3)),
        "health": {
            "dataset": "packages",
            "parts": {
                part: {
                    "n": n,
                    "n_examined": n,
                    "faults": [{"reason": "side_0031.jpg: truncated", "hint": "copy it again"}] * (part == "train"),
                    "notes": {"EXIF orientation applied": 3} if part == "train" else {},
                    "pixels": {c: 0 if c == "pallet" else 1000 * n // (k + 1) for k, c in enumerate(CLASSES)},
                    "empty_classes": ["pallet"],
                    "sizes": {"480x640": n},
                }
                for part, n in (("train", 412), ("val", 60), ("test", 120))
            },
            "leaks": [["train/a.png", "val/b.png"]],
            "notes": ["masks are read as class indices"],
        },
        "environment": {
            "bitfront": "0.1.0", "python": "3.11.9", "numpy": "2.4.1", "onnxruntime": "1.31.0", "torch": "2.13.0",
            "cpu_model": "Intel Xeon 8581C", "cores": 2, "flags": ["avx2", "avx512f", "avx512_vnni"], "load": 0.41,
        },
        "config": {"model": "fast_scnn", "data": "packages", "device": "host", "seed": 0},
        "config_text": "model: fast_scnn\ndata: packages\nseed: 0\nbudget:\n  max_latency_ms: 8.0\n  max_drop: 0.02\n",
        "command": "bitfront fit fast_scnn packages --max-latency 8ms --max-size 1300kB --max-drop 0.02 --seed 0",
        "events": ({"time": "2026-03-01T10:00:00+00:00", "stage": "data", "text": "592 images scanned, 1 left out"},),
        "when": "2026-03-01T10:00:00+00:00",
        "seconds": 1503.0,
    }  # fmt: skip
    return ReportData(**(values | changes))


def _judged(r: Record) -> Record:
    if r.candidate.recipe == "dynamic":
        note = "its quantizers run on every call and its convolutions are not fused"
        return replace(r, status="dropped", reason="slower than float32 on this device", notes=(note,))
    if r.candidate.recipe != "int8_portable":
        return r
    if r.sequence % 4:
        return replace(r, status="dropped", reason="loses 1.1 points against float")
    reason = "verification: first difference at ppm.conv3"
    return replace(r, status="failed", reason=reason, val=None, latency=None, artifact=None, agreement=None)


def _beats(a: Record, b: Record) -> bool:
    mine, other = _costs(a), _costs(b)
    return a is not b and all(x <= y for x, y in zip(mine, other, strict=True))


def _costs(r: Record) -> tuple[float, float, int]:
    assert r.val is not None
    assert r.latency is not None
    assert r.artifact is not None
    return -r.val.value, r.latency.value, r.artifact.size_bytes


def curves(rng: np.random.Generator) -> tuple[Curve, ...]:
    found = []
    for size in (512, 384, 256, 160, 96):
        epochs = tuple(range(1, 25 if size > 96 else 9))
        loss = tuple(float(1.1 * np.exp(-e / 6) + 0.09 + rng.normal(0, 0.01)) for e in epochs)
        score = tuple(None if e % 2 else float(0.95 - 0.5 * np.exp(-e / 4) - 6 / size) for e in epochs)
        found.append(Curve(f"{size}x{size} width=0.5", epochs, loss, score))
    return tuple(found)


def preview(rng: np.random.Generator, sample: str) -> Preview:
    """A grey belt with two boxes, as the networks see it."""
    image = np.full((120, 160, 3), 96, np.uint8) + rng.integers(0, 24, (120, 160, 1), np.uint8)
    mask = np.zeros((120, 160), bool)
    mask[30:80, 20:70] = mask[50:110, 95:140] = True
    image[mask] = (176, 132, 84)
    shifted, other = np.roll(mask, 3, axis=1), np.roll(mask, 5, axis=0)
    return Preview(
        sample,
        {
            "input": jpeg(image),
            "label": jpeg(_tint(image, mask)),
            "float": jpeg(_tint(image, shifted)),
            "quantized": jpeg(_tint(image, other)),
            "difference": jpeg(np.where((shifted != other)[..., None], (230, 60, 40), image // 2).astype(np.uint8)),
        },
        note="foreground IoU 71.2 % float, 69.8 % quantized",
    )


def _tint(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    out = image.copy()
    out[mask] = (out[mask] * 0.5 + np.array([36, 84, 216]) * 0.5).astype(np.uint8)
    return out


def jpeg(image: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG")
    return out.getvalue()


def searched_data(rng: np.random.Generator) -> ReportData:
    """A run of ``bitfront search``: one network, three plans, score and flash, nothing timed."""
    recipes = (("float32", "", 60_000, 0.95), ("int8", "", 20_000, 0.949), ("bits_w3.8_a8.0", "a", 9_000, 0.93),
               ("bits_w5.4_a8.0", "b", 12_000, 0.94), ("bits_w7.9_a8.0", "c", 17_000, 0.948))  # fmt: skip
    records = []
    for n, (recipe, plan, flash, score) in enumerate(recipes, 1):
        r = record(rng, n, 256, 1.0, "float32" if recipe == "float32" else "int8", latency=None, peak_bytes=262_144)
        assert r.artifact is not None
        artifact = replace(r.artifact, recipe=recipe, size_bytes=2 * flash)
        candidate = replace(r.candidate, recipe=recipe, plan=plan)
        status = "dominated" if recipe == "float32" else "front"
        changes: dict[str, Any] = {"candidate": candidate, "artifact": artifact, "flash_bytes": flash, "status": status}
        records.append(replace(r, val=metrics(rng, score), **changes))
    members = records[1:]
    folders = {r.id: f"{n:02d}_step" for n, r in enumerate(members, 1)}
    return ReportData(
        "search", Path("runs/search"), records=tuple(records), baseline=records[0].id, chosen=members[-1].id,
        folders=folders, config={"objectives": ["score", "flash"]},
    )  # fmt: skip


def stages_value() -> list[dict[str, Any]]:
    """A run's value ``stages``: two stages of two networks."""

    def network(size: int, width: float, score: float, macs: float, front: bool) -> dict[str, Any]:
        knobs = {"width": width, "resolution": [size, size]}
        label = f"{size}x{size} width={width}"
        return {
            "label": label, "knobs": knobs, "score": score, "macs": macs, "parameters": 6e5 * width, "front": front,
        }  # fmt: skip

    return [
        {
            "name": "resolution",
            "description": "smaller inputs",
            "thesis": "1",
            "networks": [network(128, 1.0, 0.7, 1e8, False), network(256, 1.0, 0.9, 4e8, True)],
            "records": ["a", "b"],
        },
        {
            "name": "width",
            "description": "width of the blocks",
            "thesis": "4",
            "networks": [network(256, 0.25, 0.8, 5e7, True), network(256, 0.5, 0.905, 1e8, True)],
            "records": ["c", "d"],
        },
    ]
