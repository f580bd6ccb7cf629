"""Pictures of validation images: which networks stand side by side, and what they are called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from report_cases import metrics, record

from bitfront.contracts import DataInfo, Prediction, Sample
from bitfront.fitting import previews
from bitfront.fitting.previews import rivals, write_previews
from bitfront.record import Record

INFO = DataInfo("boxes", ("background", "box"), background=0)


def made(rng: np.random.Generator, n: int, recipe: str, score: float, **changes: Any) -> Record:
    found = record(rng, n, 256, 0.5, "int8")
    candidate = replace(found.candidate, recipe=recipe, **changes)
    return replace(found, candidate=candidate, val=metrics(rng, score))


def test_rivals_are_other_files_of_the_same_network(rng: np.random.Generator) -> None:
    shown = made(rng, 1, "bits_w4.0", 0.7, plan="p1")
    int8, worse = made(rng, 2, "int8", 0.71), made(rng, 3, "int8_mixed", 0.5)
    records = [
        shown, made(rng, 4, "bits_w5.0", 0.72, plan="p2"), made(rng, 5, "float32", 0.73), worse, int8,
        made(rng, 6, "int8", 0.9, weights="other"), replace(made(rng, 7, "dynamic", 0.8), status="failed"),
        replace(made(rng, 8, "float16", 0.8), artifact=None),
    ]  # fmt: skip
    assert rivals(shown, records) == [int8, worse]
    assert rivals(shown, records, limit=1) == [int8]
    assert [r.candidate.plan for r in rivals(int8, records)] == ["p2", ""]


def test_networks_stand_side_by_side(rng: np.random.Generator, tmp_path: Path, monkeypatch: Any) -> None:
    image = rng.integers(0, 255, (120, 160, 3), np.uint8)
    mask = np.zeros((120, 160), np.uint8)
    mask[20:60, 30:90] = 1
    twin, int8 = made(rng, 1, "float32", 0.8), made(rng, 2, "int8", 0.7)
    shown = made(rng, 3, "bits_w4.3_a8.0", 0.75, plan="p")
    assert shown.val is not None
    samples = [Sample(id=name, image=image, mask=mask) for name in shown.val.per_sample]

    def answer(_runtime: Any, _opened: Any, _folder: Path, r: Record, _sample: Sample) -> Prediction:
        return Prediction(mask=np.roll(mask, {twin.id: 0, int8.id: 2, shown.id: 5}[r.id], axis=1))

    monkeypatch.setattr(previews, "_answer", answer)
    names = {shown.id: "surrogate, 4.3-bit weights, 8-bit activations"}
    opened: Any = SimpleNamespace(info=INFO)
    runtime: Any = None
    write_previews(tmp_path, runtime, opened, samples, shown=shown, twin=twin, others=[int8], names=names)
    listed = json.loads((tmp_path / "previews" / "index.json").read_text())
    assert len(listed) == 4
    assert list(listed[0]["panels"]) == ["input", "label", "float", "int8", names[shown.id], "difference"]
    files = [name for entry in listed for name in entry["panels"].values()]
    assert len(set(files)) == len(files) == len(list((tmp_path / "previews").glob("*.jpg")))
    write_previews(tmp_path, runtime, opened, samples, shown=shown, twin=twin)
    listed = json.loads((tmp_path / "previews" / "index.json").read_text())
    assert list(listed[0]["panels"]) == ["input", "label", "float", "quantized", "difference"]
