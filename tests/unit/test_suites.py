"""Suites: what is said of measured files, and one run on a tiny network."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_cases import report_data

from bitfront import pipeline
from bitfront.cli.suites import Suite, suite_answer
from bitfront.contracts import Device, InputContract, Metrics, OutputContract
from bitfront.data.conveyor import Conveyor
from bitfront.errors import DeviceError, UsageError
from bitfront.fitting import request, stages
from bitfront.fitting.suites import surprises
from bitfront.record import Agreement, Artifact, Candidate, Measurement, Record
from bitfront.registry import load
from bitfront.report.data import Suite as SuiteData
from bitfront.report.page import render
from bitfront.report.suite_view import suite_files, suite_table
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.verbs.data import convert


def file(recipe: str, runtime: str = "a", score: float = 0.9, ms: float = 1.0, **facts: Any) -> Record:
    agreement = Agreement(not facts.get("differs"), 0, "", 0, 1, 1, facts.get("differs"), 8, "a", "cpu", "now")
    artifact = Artifact("x", runtime, recipe, facts.get("size", 100), "", InputContract(8, 8), OutputContract())
    return Record(
        Candidate("tiny", {}, recipe, runtime, "w"),
        "dominated",
        artifact=artifact,
        val=Metrics("miou", {"miou": score}, {}),
        latency=Measurement(ms, "ms", ratio=facts.get("ratio", ms), noise_floor=0.02),
        agreement=agreement,
    )


def test_surprises_are_named_and_the_expected_is_not() -> None:
    records = [
        file("float32", size=400),
        file("int8", ms=0.6),
        file("dynamic", score=0.2, ms=5.0),
        file("float16", size=401, differs="conv3"),
        file("int4", score=0.906),
        Record(Candidate("tiny", {}, "odd", "a", "w"), "failed", "odd: no such operator"),
        file("float32", "b", ms=2.0, ratio=1.0, size=400),
    ]
    assert surprises(records, lambda own, base: f"{own.candidate.recipe} because") == [
        "a dynamic loses 70.0 points of miou against float32",
        "a dynamic is 5.0x slower than float32: dynamic because",
        "a float16 is not verified: it first differs in conv3",
        "a float16 is no smaller than float32: 0.4 kB against 0.4 kB",
        "a int4 gains 0.6 points of miou against float32",
        "a odd: odd: no such operator",
        "float32 is 2.0x faster in a (1 ms) than in b (2 ms)",
    ]


def test_the_report_of_a_suite_has_a_table_of_everything(rng: np.random.Generator) -> None:
    data = report_data(rng)
    assert "Everything measured" not in render(data)
    assert suite_files(data) == {}
    data = replace(data, suite=SuiteData("ptq", "every recipe", ("<b>int8</b> is slower",)))
    table = suite_table(data)
    assert len(table.rows) == len(data.records)
    files = suite_files(data)
    assert set(files) == {"ptq.csv", "ptq.md", "ptq.png"}
    rows = list(csv.DictReader(files["ptq.csv"].decode().splitlines()))
    assert float(rows[0]["fps"]) == pytest.approx(1000 / float(rows[0]["latency, ms"]))
    assert "- &lt;b&gt;int8" in files["ptq.md"].decode()
    page = render(data)
    assert "Everything measured" in page
    assert "&lt;b&gt;int8" in page


class Other(OnnxRuntime):
    """A second engine, which says nothing of its operators."""

    name = "other"
    recipes = ("float32", "int8")
    profile = None  # type: ignore[assignment]


class Gone(OnnxRuntime):
    """An engine that is not installed."""

    name = "gone"

    def missing(self) -> str:
        return "pip install gone"


def _load(kind: str, name: str) -> Any:
    if kind == "device":
        return Device("host", "this machine", runtimes=("onnxruntime", "gone", "other"))
    return {"other": Other, "gone": Gone}.get(name) or load(kind, name)


def test_what_thesis_004_printed_stands_beside_its_detectors(rng: np.random.Generator) -> None:
    data = report_data(rng)
    coco = OutputContract("boxes", classes=tuple(map(str, range(80))))
    records = [
        replace(
            file(recipe, "onnxruntime"),
            candidate=Candidate("yolo_v5n", {}, recipe, "onnxruntime", "w"),
            artifact=Artifact("x", "onnxruntime", recipe, 9, "", InputContract(640, 640), coco),
        )
        for recipe in ("float32", "dynamic", "int8")
    ]
    table = suite_table(replace(data, records=tuple(records), suite=SuiteData("ptq", "", ())))
    assert "thesis 004" in table.columns[-1].title
    assert [row[-1].text for row in table.rows] == ["0.69, 45.4", "0.67, 43.8", "–"]
    plain = suite_table(replace(data, records=(file("float32"),), suite=SuiteData("ptq", "", ())))
    assert all("thesis" not in column.title for column in plain.columns)


def test_a_suite_measures_every_recipe_in_every_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "load", _load)
    monkeypatch.setattr(request, "load", _load)
    monkeypatch.setattr(request, "open_runtime", lambda name: Other() if name == "other" else OnnxRuntime())
    monkeypatch.setattr(request, "choose_recipes", lambda asked, supported: ("float32", "dynamic", "int8"))
    monkeypatch.setattr(stages, "TIMING_S", 0.2)
    convert(Conveyor(size=(48, 64), n_train=8, n_val=4, n_test=2), tmp_path / "belt")
    run = pipeline.suite(
        "ptq", "tiny", str(tmp_path / "belt"), settings={"resolution": (32, 32), "width": 0.5}, epochs=1,
        runs=tmp_path / "runs", name="s",
    )  # fmt: skip
    found = {(r.candidate.runtime, r.candidate.recipe): r for r in run.records()}
    assert set(found) == {(n, r) for n in ("onnxruntime", "other") for r in Other.recipes} | {
        ("onnxruntime", "dynamic")
    }
    assert all(r.latency and r.val and r.agreement for r in found.values())
    assert any(r.ram_bytes for r in found.values())
    assert {p.name for p in run.path.glob("ptq.*")} == {"ptq.csv", "ptq.md", "ptq.png"}
    answer = suite_answer(run)
    assert len(answer.data["files"]) == 5
    assert answer.data["surprises"] == run.value("suite")["surprises"]
    index = (run.path / "previews" / "index.json").read_text()
    assert "float32 other" in index
    assert "dynamic onnxruntime" in index
    assert pipeline.resume(run.path).records() == run.records()


def test_what_a_suite_cannot_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown suite 'ptr'"):
        pipeline.suite("ptr", "tiny", "conveyor")
    with pytest.raises(UsageError, match="--limit belongs to --suite"):
        Suite(limit=3).refuse()
    monkeypatch.setattr(pipeline, "load", lambda kind, name: _load(kind, name) if kind == "device" else Gone)
    with pytest.raises(DeviceError, match="none of onnxruntime, gone, other is installed here"):
        pipeline.suite("ptq", "tiny", "conveyor")
