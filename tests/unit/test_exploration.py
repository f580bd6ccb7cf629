"""Stages of thesis 001: what each proposes, and a run that goes through them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bitfront import pipeline
from bitfront.contracts import DataInfo, InputContract
from bitfront.data.conveyor import Conveyor
from bitfront.errors import UsageError
from bitfront.fitting import exploring, stages, tasks
from bitfront.fitting.config import Config
from bitfront.fitting.exploration import STAGES, Explored, best, choose_stages, propose
from bitfront.fitting.request import open_request
from bitfront.fitting.space import EFFORTS, Architecture
from bitfront.pipeline import fit
from bitfront.record import Budget
from bitfront.run import Run
from bitfront.sources import Source, open_model
from bitfront.tasks.segmentation import Segmentation
from bitfront.verbs.data import convert
from bitfront.weights import Weights

INFO = DataInfo("belt", ("background", "package"), background=0)
SIZES = ((64, 64), (48, 48), (32, 32))


@pytest.fixture(scope="module")
def source() -> Source:
    return open_model("fast_scnn", task=Segmentation(), info=INFO)


def seen(source: Source, stage: str, score: float, macs: float, size: int = 64, **options: Any) -> Explored:
    return Explored(Architecture({**source.baseline, **options}, (size, size)), score, macs, macs, stage)


def test_sizes_come_first_and_the_baseline_stays(source: Source) -> None:
    for name in ("resolution", "retraining"):
        found = propose(STAGES[name], source, SIZES, ())
        assert [a.size for a in found] == list(SIZES)
        assert {a.family for a in found} == {Architecture(source.baseline, SIZES[0]).family}
    known = [replace(seen(source, "resolution", 0.9, 10), trained=False), seen(source, "retraining", 0.9, 10, 48)]
    assert [a.size for a in propose(STAGES["retraining"], source, SIZES, known)] == [(64, 64), (32, 32)]
    assert [a.size for a in propose(STAGES["resolution"], source, SIZES, known)] == [(32, 32)]


def test_knobs_vary_at_the_largest_size(source: Source) -> None:
    wide = propose(STAGES["width"], source, SIZES, ())
    n_wide = len(source.knobs["width"]) * len(source.knobs["expansion"])
    assert len(wide) == n_wide
    assert {a.size for a in wide} == {(64, 64)}
    assert {a.options["repeats"] for a in wide} == {source.baseline["repeats"]}
    repeats = propose(STAGES["repeats"], source, SIZES, [seen(source, "retraining", 0.9, 10)])
    assert len(repeats) == len(source.knobs["repeats"]) * len(source.knobs["pyramid"]) - 1  # the baseline is known
    assert {(a.options["width"], a.options["expansion"]) for a in repeats} == {
        (source.baseline["width"], source.baseline["expansion"])
    }
    (grey,) = propose(STAGES["channels"], source, SIZES, ())
    assert grey.options["channels"] == 1
    assert source.contract(grey.size, grey.options).color == "y"
    assert source.contract(grey.size, grey.options).channels == 1


def test_what_is_on_the_front_goes_on(source: Source) -> None:
    known = [
        seen(source, "retraining", 0.95, 100),
        seen(source, "retraining", 0.94, 50, 48),
        seen(source, "retraining", 0.30, 60, 32),  # dominated
        seen(source, "width", 0.94, 20, width=0.25),
        seen(source, "width", 0.50, 30, width=0.5),  # dominated
        seen(source, "repeats", 0.951, 80, repeats=1),
    ]
    shapes = propose(STAGES["shapes"], source, SIZES, known)
    assert {a.options["width"] for a in shapes} <= {0.25, source.baseline["width"]}
    assert any(a.options["width"] == 0.25 and a.options["repeats"] == 1 for a in shapes)
    assert all(a.id not in {e.architecture.id for e in known} for a in shapes)
    combined = propose(STAGES["combination"], source, SIZES, known)
    assert {a.size for a in combined} <= {(64, 64), (48, 48)}
    assert any(a.size == (48, 48) and a.options["width"] == 0.25 for a in combined)


def test_the_best_are_spread_over_the_front(source: Source) -> None:
    known = [seen(source, "", 0.9 - 0.01 * i, 100 - 10 * i, width=i) for i in range(9)]
    known.append(seen(source, "", float("nan"), 1, width=99))
    assert [e.architecture.options["width"] for e in best(known, 3)] == [0, 4, 8]
    assert best([], 3) == []


def test_stages_have_an_order(source: Source) -> None:
    assert [s.name for s in choose_stages(["combination", "resolution"])] == ["resolution", "combination"]
    with pytest.raises(UsageError, match="unknown stage 'widht'"):
        choose_stages(["widht"])
    assert all(set(e.stages) <= set(STAGES) for e in EFFORTS.values())
    fixed = replace(source, kind="checkpoint", path=Path("net.safetensors"))
    with pytest.raises(UsageError, match="has its own inside"):
        propose(STAGES["width"], fixed, SIZES, ())


def test_nothing_is_proposed_without_weights_where_nothing_may_be_trained(source: Source) -> None:
    asked = open_request(Config("tiny", "conveyor", stages=("resolution", "retraining")))
    assert asked.jobs(STAGES["resolution"]) == []
    assert len(asked.jobs(STAGES["retraining"])) == len(asked.sizes)
    weights = Weights(Path("w"), "w", "tiny", {"width": 1.0}, InputContract(64, 64))
    opened = replace(asked.opened, source=replace(asked.opened.source, weights=(weights,)))
    given = replace(asked, opened=opened).jobs(STAGES["resolution"])
    assert len(given) == len(asked.sizes)
    assert {job.share for job in given} == {0.0}


# --- a run -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("data") / "belt"
    convert(Conveyor(size=(64, 64), n_train=16, n_val=6, n_test=2), place)
    return str(place)


def staged(data: str, runs: Path, **options: Any) -> Run:
    torch.set_num_threads(1)
    given: dict[str, Any] = {
        "stages": ("resolution", "retraining", "channels", "width", "combination"),
        "space": {"resolution": [(32, 32), (64, 64)]},
        "recipes": ("int8",),
        "objectives": ("score", "size", "macs"),
        "epochs": 3,
    }
    return fit("tiny", data, runs=runs, name="staged", **{**given, **options})


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.report, "write", lambda run: None)
    monkeypatch.setattr(stages, "TIMING_S", 0.2)


@pytest.mark.usefixtures("no_report")
def test_a_run_in_stages_tells_each_of_them(data: str, tmp_path: Path) -> None:
    run = staged(data, tmp_path)
    told = run.value("stages")
    assert [s["name"] for s in told] == ["retraining", "channels", "width", "combination"]
    labels = [{n["label"] for n in s["networks"]} for s in told]
    assert labels[0] == {"64x64 width=1.0", "32x32 width=1.0"}
    assert [n["knobs"]["channels"] for n in told[1]["networks"]] == [1]
    assert labels[2] == {"64x64 width=0.5"}
    assert labels[3] <= {"32x32 width=0.5", "32x32 width=1.0"}
    ids = [id for s in told for id in s["records"]]
    assert len(ids) == len(set(ids)) == len(run.records())
    assert run.front
    grey = next(r for r in run.records() if r.candidate.knobs.get("channels") == 1)
    assert grey.artifact is not None
    assert (grey.artifact.input.channels, grey.artifact.input.color) == (1, "y")
    assert grey.agreement is not None
    assert grey.agreement.verified


@pytest.mark.usefixtures("no_report")
def test_an_interrupted_stage_goes_on_to_the_same_front(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = staged(data, tmp_path / "whole")
    make, n = tasks.train_architecture, 0

    def interrupted(*args: Any) -> Any:
        nonlocal n
        n += 1
        if n == 4:
            raise KeyboardInterrupt
        return make(*args)

    monkeypatch.setattr(tasks, "train_architecture", interrupted)
    with pytest.raises(pipeline.Interrupted):
        staged(data, tmp_path / "cut")
    monkeypatch.setattr(tasks, "train_architecture", make)
    again = pipeline.resume(tmp_path / "cut" / "staged")
    assert [m.id for m in again.front] == [m.id for m in whole.front]
    assert again.value("stages") == whole.value("stages")


@pytest.mark.usefixtures("no_report")
def test_only_the_promising_are_trained_to_the_end(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploring, "HALVING_FROM", 2)
    asked: list[int] = []
    make = tasks.train_architecture

    def counted(shop: Any, architecture: Any, options: Any, *rest: Any) -> Any:
        asked.append(options.epochs)
        return make(shop, architecture, options, *rest)

    monkeypatch.setattr(tasks, "train_architecture", counted)
    space = {"resolution": [(64, 64), (48, 48), (32, 32), (40, 40)]}
    run = staged(data, tmp_path, stages=("retraining",), space=space, epochs=6, recipes=("float32",))
    short, full = asked[:4], asked[4:]
    assert max(short) <= 2
    assert 1 <= len(full) < 4
    lost = [r for r in run.records() if "short training" in r.reason]
    assert len(lost) + len(full) == 4
    assert all(r.status == "dropped" for r in lost)


@pytest.mark.usefixtures("no_report")
def test_what_no_recipe_makes_small_enough_is_not_trained(data: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"stages": ("width",), "space": {"resolution": [(32, 32)]}, "epochs": 1}
    run = staged(data, tmp_path, **options, budget=Budget(max_size_bytes=2000))
    lost = {r.candidate.knobs["width"]: r.reason for r in run.records() if r.artifact is None}
    assert list(lost) == [1.0]
    assert lost[1.0].startswith("too large for the budget: ")
    assert {t["label"] for t in run.trainings().values()} == {"32x32 width=0.5"}
    alone = staged(data, tmp_path / "alone", **options, budget=Budget(max_size_bytes=10))
    assert alone.trainings()  # the smallest, for a nearest miss
