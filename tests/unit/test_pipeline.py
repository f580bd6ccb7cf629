"""fit from end to end on a tiny network, and each of its decisions by hand."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bitfront import pipeline
from bitfront.contracts import DataInfo, Device, InputContract, Metrics, OutputContract
from bitfront.data.conveyor import Conveyor
from bitfront.errors import DataError, Interrupted, SpaceError, UsageError
from bitfront.fitting import candidates, request, stages, tasks, training
from bitfront.fitting.config import Config
from bitfront.fitting.delivery import baseline, choose_front, cluster_names, drop, pick_names, with_latency
from bitfront.fitting.forecast import Forecast, fitted
from bitfront.fitting.progress import Clock, Progress
from bitfront.fitting.schedule import nearest, schedule, train_options, usual_epochs
from bitfront.fitting.space import EFFORTS, Architecture, architectures, choose_recipes
from bitfront.fitting.training import Training, hopeless
from bitfront.objectives.latency import Latency
from bitfront.objectives.score import Score
from bitfront.objectives.size import Size
from bitfront.pipeline import fit, plan, resume
from bitfront.record import Agreement, Artifact, Budget, Candidate, Measurement, Record, digest_file, varying_knobs
from bitfront.registry import load
from bitfront.run import Run
from bitfront.rundb import RunDb, damaged
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.sources import Source, open_model
from bitfront.tasks.segmentation import Segmentation
from bitfront.verbs.data import convert
from bitfront.weights import Weights

INFO = DataInfo("belt", ("background", "package"), background=0)
QUICK: dict[str, Any] = {
    "recipes": ("int8",),
    "settings": {"resolution": (32, 32), "width": 0.5},
    "objectives": ("score", "size", "macs"),
    "epochs": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a few pictures of packages in all three parts."""
    place = tmp_path_factory.mktemp("data") / "belt"
    convert(Conveyor(size=(48, 64), n_train=12, n_val=8, n_test=4), place)
    return str(place)


@pytest.fixture
def fitted_once(base: Run, tmp_path: Path) -> Path:
    """A copy of a finished run that a test may change."""
    return Path(shutil.copytree(base.path, tmp_path / "copy"))


@pytest.fixture(scope="module")
def base(data: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small finished run without its report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.report, "write", lambda run: None)
        return quick(data, tmp_path_factory.mktemp("base"))


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the page out: it has its own tests."""
    monkeypatch.setattr(pipeline.report, "write", lambda run: None)


def quick(data: str, runs: Path, **options: Any) -> Run:
    """Fit a tiny network in about a second."""
    torch.set_num_threads(1)
    return fit("tiny", data, runs=runs, name="quick", **{**QUICK, **options})


@pytest.fixture(scope="module")
def finished(data: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that every test may read and none may change."""
    seen: list[Progress] = []
    options: dict[str, Any] = {
        "settings": {"resolution": (32, 32), "width": (0.5, 1.0)}, "objectives": ("score", "latency", "size")
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "TIMING_S", 0.5)
        run = quick(data, tmp_path_factory.mktemp("runs"), progress=seen.append, **options)
    assert {p.stage for p in seen} >= {"scan", "forecast", "train", "candidates", "time", "test", "front", "end"}
    assert all(0 <= p.done <= 1 and (p.seconds_left is None or p.seconds_left >= 0) for p in seen)
    return run


class Renamed(OnnxRuntime):
    """A second engine, with other recipes."""

    name = "other"
    recipes = ("float32", "int8")


HOST = Device("host", "this machine", runtimes=("onnxruntime", "other"))


# --- end to end ------------------------------------------------------------------------------------------------------
def test_a_run_has_every_file_that_it_promises(finished: Run) -> None:
    names = "bitfront.yaml env.json run.db results.csv pareto.csv pareto.png report.html log.txt previews/index.json"
    assert [name for name in names.split() if not (finished.path / name).is_file()] == []
    assert finished.finished
    assert finished.met
    assert finished.seconds > 0
    assert damaged(finished.path) == []
    assert not (finished.path / "reserve").exists()
    assert not list(finished.path.rglob("*.tmp"))
    assert not list(finished.path.rglob("last.safetensors"))


def test_every_candidate_is_recorded_verified_and_scored(finished: Run) -> None:
    records = finished.records()
    assert [(r.candidate.knobs["width"], r.candidate.recipe) for r in records] == [
        (0.5, "float32"), (0.5, "int8"), (1.0, "float32"), (1.0, "int8"),
    ]  # fmt: skip
    for r in records:
        assert r.status in ("front", "dominated", "dropped")
        assert (r.status == "dropped") == bool(r.reason)
        assert r.agreement is not None
        assert r.agreement.verified
        assert r.val is not None
        assert r.val.n == 8
        assert r.artifact is not None
        assert digest_file(finished.path / r.artifact.path) == r.artifact.sha256
        assert (r.test is not None) == (r.status == "front")
        assert r.parameters
        assert r.macs
        assert [e["epoch"] for e in finished.epochs(r.id)] == [1]
    timed = [r for r in records if r.latency is not None]
    assert {r.id for r in timed} >= {r.id for r in records if r.candidate.recipe == "float32"}
    assert all(r.latency.ratio == 1 for r in timed if r.candidate.recipe == "float32" and r.latency)


def test_front_folders_are_copies_that_describe_themselves(finished: Run) -> None:
    assert finished.front
    assert finished.front[0].name == "01_knee"
    assert finished.front[0].id == finished.verdict["chosen"]
    for member in finished.front:
        manifest = json.loads((member.path / "manifest.json").read_text("utf-8"))
        assert not member.model.is_symlink()
        assert digest_file(member.model) == manifest["sha256"] == member.record.artifact.sha256  # type: ignore[union-attr]
        assert manifest["input"]["height"] == 32
        assert set(manifest["metrics"]) == {"val", "test"}
        assert manifest["definitions"]["miou"]
        assert Path(manifest["data"]).name == "belt"
        assert json.loads((member.path / "verify.json").read_text("utf-8"))["verified"]
        assert (member.path / "CARD.md").read_text("utf-8").startswith("# tiny")
        assert (member.path / "model.reference.safetensors").is_file()
    rows = list(csv.DictReader((finished.path / "pareto.csv").read_text("utf-8").splitlines()))
    assert [row["id"] for row in rows] == [member.id for member in finished.front]


def test_previews_show_the_worst_image(finished: Run) -> None:
    listed = json.loads((finished.path / "previews" / "index.json").read_text("utf-8"))
    assert listed[0]["note"].startswith("worst: miou")
    panels = set(listed[0]["panels"])
    assert panels >= {"input", "label", "float", "quantized", "difference"}
    others = panels - {"input", "label", "float", "quantized", "difference"}
    assert all(re.match("(fastest|smallest|best): 32x32 width=", name) for name in others)
    assert all((finished.path / "previews" / f).read_bytes()[:2] == b"\xff\xd8" for f in listed[0]["panels"].values())


def outcome(run: Run) -> list[tuple[str, str, str, float]]:
    return [(m.name, m.id, digest_file(m.model), m.score) for m in run.front]


@pytest.mark.usefixtures("no_report")
def test_a_finished_run_is_read_back(base: Run, fitted_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("finished work is done again")

    monkeypatch.setattr(training, "_train", fail)
    monkeypatch.setattr(candidates, "_make", fail)
    again = resume(fitted_once)
    assert outcome(again) == outcome(base)
    assert again.records() == base.records()


def test_engines_compete_on_one_front(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "TIMING_S", 0.2)
    monkeypatch.setattr(request, "open_runtime", lambda name: Renamed() if name == "other" else OnnxRuntime())
    monkeypatch.setattr(request, "load", lambda kind, name: HOST if kind == "device" else load(kind, name))
    run = quick(data, tmp_path, runtimes=("other",), recipes=("int8", "dynamic"), objectives=("score", "latency"))
    found = {(r.candidate.runtime, r.candidate.recipe): r for r in run.records()}
    assert set(found) == {
        ("onnxruntime", "float32"), ("onnxruntime", "int8"), ("onnxruntime", "dynamic"),
        ("other", "float32"), ("other", "int8"),
    }  # fmt: skip
    assert {r.artifact.runtime for r in found.values() if r.artifact} == {"onnxruntime", "other"}
    assert len({r.artifact.path for r in found.values() if r.artifact}) == 5
    assert varying_knobs(r.candidate for r in found.values()) == {"runtime"}
    assert found["other", "int8"].candidate.named({"runtime"}) == "32x32 int8 other"
    assert resume(run.path).records() == run.records()


@pytest.mark.usefixtures("no_report")
def test_the_same_seed_gives_the_same_files(base: Run, data: str, tmp_path: Path) -> None:
    assert outcome(quick(data, tmp_path)) == outcome(base)


@pytest.mark.usefixtures("no_report")
def test_damaged_files_are_made_again(base: Run, fitted_once: Path) -> None:
    record = base.records()[0]
    assert record.artifact is not None
    path = fitted_once / record.artifact.path
    path.write_bytes(b"broken")
    assert damaged(fitted_once) == [record.artifact.path]
    again = resume(fitted_once)
    assert digest_file(path) == record.artifact.sha256
    assert [r.id for r in again.records()] == [r.id for r in base.records()]


@pytest.mark.usefixtures("no_report")
def test_ctrl_c_keeps_what_was_finished(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = candidates._make
    calls: list[str] = []

    def interrupted(*arguments: Any) -> Any:
        calls.append("")
        if len(calls) == 2:
            raise KeyboardInterrupt
        return make(*arguments)

    monkeypatch.setattr(candidates, "_make", interrupted)
    with pytest.raises(Interrupted, match="stopped") as caught:
        quick(data, tmp_path)
    place = tmp_path / "quick"
    assert caught.value.hint == f"`bitfront resume {place}` goes on"
    assert [e.stage for e in Run.open(place).events][-1] == "interrupted"
    assert len(Run.open(place).records()) == 1
    run = resume(place)
    assert len(calls) == 3
    assert len(run.records()) == 2


@pytest.mark.usefixtures("no_report")
def test_a_full_disk_stops_the_run(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise SpaceError("no space left", hint="free some")

    monkeypatch.setattr(candidates, "_make", full)
    with pytest.raises(SpaceError, match="no space left"):
        quick(data, tmp_path)
    run = Run.open(tmp_path / "quick")
    assert not run.finished
    assert len(run.trainings()) == 1
    assert not (run.path / "reserve").exists()


@pytest.mark.usefixtures("no_report")
def test_a_candidate_that_fails_costs_only_itself(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = candidates._make

    def broken(network: Any, candidate: Candidate, *rest: Any) -> Any:
        if candidate.recipe == "int8":
            raise ValueError("no such\nkernel")
        return make(network, candidate, *rest)

    monkeypatch.setattr(candidates, "_make", broken)
    float_, int8 = quick(data, tmp_path).records()
    assert (float_.status, int8.status, int8.reason) == ("front", "failed", "int8: ValueError: no such kernel")


def test_a_training_that_fails_costs_only_its_network(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*_: Any, **__: Any) -> Any:
        raise UsageError("the training diverges")

    monkeypatch.setattr(training, "_train", diverges)
    run = quick(data, tmp_path)
    assert [(r.status, r.reason) for r in run.records()] == [("failed", "training: the training diverges")]
    assert (run.front, run.met, run.verdict["miss"]) == ([], False, "no candidate is verified and keeps the score")
    assert (run.path / "report.html").is_file()
    monkeypatch.undo()
    monkeypatch.setattr(pipeline.report, "write", lambda run: None)
    again = resume(run.path)
    assert "failed" not in {r.status for r in again.records()}
    assert again.front


@pytest.mark.usefixtures("no_report")
def test_a_budget_that_nothing_meets_names_the_nearest_miss(fitted_once: Path) -> None:
    with RunDb(fitted_once) as db:
        db.put("config", {**db.get("config"), "budget": {"max_size_bytes": 100}})
    run = resume(fitted_once)
    assert not run.met
    assert run.front[0].name == "01_nearest_miss"
    assert "size" in run.verdict["miss"]
    assert sorted(p.name for p in (run.path / "front").iterdir()) == sorted(m.name for m in run.front)


@pytest.mark.usefixtures("no_report")
def test_given_weights_are_used_as_they_are_at_their_own_size(base: Run, data: str, tmp_path: Path) -> None:
    weights = next((base.path / "trainings").rglob("best.safetensors"))
    sizes = {"resolution": [(32, 32), (40, 40)]}
    run = fit(str(weights), data, runs=tmp_path, **{**QUICK, "settings": {}, "recipes": ("float32",)}, space=sizes)
    native, other = sorted(run.records(), key=lambda r: r.candidate.knobs["resolution"])
    assert native.val == base.records()[0].val
    assert (native.train_seconds, len(run.trainings())) == (None, 1)
    assert other.train_seconds is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": ("scroe",)}, "unknown objective 'scroe'"),
        ({"objectives": ()}, "needs an objective"),
        ({"recipes": ("int9",)}, "unknown recipe 'int9'"),
        ({"effort": "huge"}, "unknown effort 'huge'"),
        ({"retrain": "never"}, "nothing may be trained"),
        ({"retrain": "sometimes"}, "unknown --retrain 'sometimes'"),
        ({"space": {"widht": [1]}}, "unknown knob of tiny 'widht'"),
        ({"space": {"resolution": [(33, 33)]}}, "multiples of 8"),
        ({"space": {"width": []}}, "no value for 'width'"),
        ({"limit": 1}, "leaves too little"),
        ({"score": "mioux"}, "mioux"),
        ({"device": "hots"}, "unknown device 'hots'"),
        ({"runtime": "onnx"}, "unknown runtime 'onnx'"),
        ({"name": "a/b"}, "cannot name a run"),
    ],
)
def test_wrong_options_leave_no_run_behind(data: str, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fit("tiny", data, runs=tmp_path / "runs", **options)
    assert not list(tmp_path.glob("runs/*"))


def test_resume_needs_a_run_that_began(tmp_path: Path) -> None:
    with RunDb(tmp_path):
        pass
    with pytest.raises(UsageError, match="stopped before it began"):
        resume(tmp_path)


def test_plan_leaves_nothing_behind(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"model": "tiny", "data": data, "recipes": ("int8",), "epochs": 1}
    space = {"resolution": [[32, 32]], "width": [0.5, 1.0]}
    found = plan(Config(**options, space=space))
    assert found["networks"] == ["32x32 width=0.5", "32x32 width=1.0"]
    assert found["stages"] == []
    assert (found["trainings"], found["recipes"], found["evaluations"]) == (2, ["float32", "int8"], 4)
    assert found["seconds"] > 0
    staged = plan(Config(**options, effort="intermediate"))
    assert staged["stages"] == ["resolution", "retraining", "width", "combination"]
    assert staged["networks"] == ["24x32 width=1.0"] or len(staged["networks"]) == staged["trainings"]
    assert not list(tmp_path.iterdir())


# --- space -----------------------------------------------------------------------------------------------------------
def source(**options: Any) -> Source:
    return open_model("tiny", task=Segmentation(), info=INFO, **options)


def test_the_default_space_has_the_shape_of_the_data() -> None:
    found = architectures(source(), (540, 960), EFFORTS["entry"])
    assert [a.size for a in found] == [(288, 512), (216, 384), (144, 256)]
    small = architectures(source(), (70, 70), EFFORTS["entry"])
    assert {a.size for a in small} == {(72, 72)}


def test_settings_and_space_replace_the_defaults() -> None:
    one = architectures(source(settings={"width": 0.5, "resolution": (64, 64)}), (256, 256), EFFORTS["entry"])
    assert [(a.size, a.options["width"], a.label) for a in one] == [((64, 64), 0.5, "64x64 width=0.5")]
    asked = architectures(
        source(), (256, 256), EFFORTS["entry"], {"width": [1.0], "resolution": [(64, 64), (32, 48), (64, 64)]}
    )
    assert [a.size for a in asked] == [(64, 64), (32, 48)]
    assert len({a.family for a in asked}) == 1
    assert len({a.id for a in asked}) == 2


def test_recipes_begin_with_float32() -> None:
    supported = ("float32", "float16", "dynamic", "int8")
    assert choose_recipes(None, supported) == supported
    assert choose_recipes(["int8", "int8"], supported) == ("float32", "int8")
    with pytest.raises(UsageError, match="no runtime of the run exports 'int8_portable'"):
        choose_recipes(["int8_portable"], supported)


# --- schedule --------------------------------------------------------------------------------------------------------
def test_fresh_families_grow_from_their_smallest_size() -> None:
    space = {"resolution": [(96, 96), (32, 32), (64, 64)], "width": [0.5, 1.0]}
    shapes = architectures(source(), (256, 256), EFFORTS["entry"], space)
    jobs = schedule(source(), shapes, "auto")
    got = [(j.architecture.size[0], j.architecture.options["width"], j.share) for j in jobs]
    assert [(s, w) for s, w, share in got if share == 1.0] == [(32, 0.5), (32, 1.0)]
    for width in (0.5, 1.0):
        assert [s for s, w, _ in got if w == width] == [32, 64, 96]
    assert all(share in (0.4, 1.0) for _, _, share in got)


def given_weights(kind: str, size: tuple[int, int] | None) -> Source:
    weights = Weights(Path("w"), "w", "tiny", {"width": 1.0}, InputContract(*size) if size else None)
    opened = source(settings={"width": 1.0})
    return replace(opened, kind=kind, weights=(weights,), input=opened.contract((64, 64)))


@pytest.mark.parametrize(("kind", "size"), [("catalogue", (64, 64)), ("checkpoint", (64, 64)), ("checkpoint", None)])
def test_given_weights_go_away_from_their_own_size(kind: str, size: tuple[int, int] | None) -> None:
    opened = given_weights(kind, size)
    sizes = {"resolution": [(32, 32), (48, 48), (64, 64), (96, 96)]}
    shapes = architectures(opened, (64, 64), EFFORTS["entry"], sizes)
    order = [(j.architecture.size[0], j.share) for j in schedule(opened, shapes, "auto")]
    assert order == [(64, 0.0), (48, 0.4), (96, 0.4), (32, 0.4)]
    assert [j.share for j in schedule(opened, shapes, "never")] == [0.0] * 4
    assert all(j.share for j in schedule(opened, shapes, "always"))


def test_foreign_weights_were_trained_at_the_usual_size() -> None:
    opened = given_weights("catalogue", None)
    shapes = architectures(opened, (64, 64), EFFORTS["entry"], {"resolution": [(64, 64), (256, 256), (512, 512)]})
    jobs = schedule(opened, shapes, "auto")
    assert [(j.architecture.size[0], j.share) for j in jobs] == [(512, 0.0), (256, 0.4), (64, 0.8)]


def shape(size: int, width: float = 1.0) -> Architecture:
    return Architecture({"width": width}, (size, size))


def trained(name: str = "a", scores: tuple[float | None, ...] = (), **options: Any) -> Training:
    curve = [{"epoch": n, "score": s} for n, s in enumerate(scores, 1)]
    facts = {
        "label": name,
        "weights": "w",
        "sha256": "",
        "macs": 1.0,
        "parameters": 1,
        "epochs": len(scores),
        **options,
    }
    return Training(id=name, best_score=0.0, seconds=1.0, stopped="completed", curve=curve, **facts)


def test_the_nearest_size_of_the_same_family_is_the_start() -> None:
    done = [(shape(32), trained("a")), (shape(96), trained("b")), (shape(64, 0.5), trained("c"))]
    assert nearest(shape(64), done, source()) == done[1]
    assert nearest(shape(40), done, source()) == done[0]
    assert nearest(shape(64, 2.0), done, source()) is None


def test_epochs_follow_the_size_of_the_data() -> None:
    assert [usual_epochs(Config(), n) for n in (10, 400, 100_000)] == [100, 20, 6]
    assert usual_epochs(Config(effort="intermediate"), 400) == 40
    assert usual_epochs(Config(epochs=3), 400) == 3
    options = train_options(Config(), 5, 40)
    assert (options.batch_size, options.validate_every, options.rate) == (5, 5, 5e-3)


def test_small_steps_take_one_thread_whatever_the_machine() -> None:
    torch.set_num_threads(3)
    with training.threads_for(1e6):
        assert torch.get_num_threads() == 1
        with training.threads_for(1e12):
            assert torch.get_num_threads() == os.cpu_count()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)


# --- forecast --------------------------------------------------------------------------------------------------------
FORECAST = Forecast(20, {"a": 100.0, "b": 200.0, "c": 700.0}, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, (), 2, 12.0)


def test_the_forecast_adds_up() -> None:
    assert FORECAST.seconds == 1000 + 8 + 12
    assert replace(FORECAST, left_out=("c",)).seconds == 300 + 6 + 12
    assert fitted(FORECAST, None) == FORECAST


@pytest.mark.parametrize(
    ("available", "epochs", "left_out"),
    [(10_000, 80, ()), (2000, 35, ()), (600, 10, ()), (100, 3, ("c",)), (10, 3, ("c", "b"))],
)
def test_a_limit_of_time_costs_epochs_first_then_networks(
    available: float, epochs: int, left_out: tuple[str, ...]
) -> None:
    found = fitted(FORECAST, available)
    assert (found.epochs, found.left_out) == (epochs, left_out)
    if available > 100:
        assert found.seconds <= available


def test_the_clock_believes_the_forecast_first_and_the_pace_later() -> None:
    seen: list[Progress] = []
    times: Iterator[float] = iter([0.0, 0.0, 20.0, 50.0])
    clock = Clock(seen.append, lambda: next(times))
    clock.tell("scan", "a")
    clock.plan(100.0)
    clock.begin(10.0)
    clock.tell("train", "b", 0.1)
    clock.begin(90.0)
    clock.tell("train", "c")
    clock.finish()
    clock.tell("end", "d")
    got = [(p.done, p.seconds_left) for p in seen]
    assert got == [(0.0, None), (0.01, 99.0), (0.1, pytest.approx(90 * 2.0)), (1.0, 0.0)]


# --- hopeless --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("share", "scores", "macs", "parameters", "given_up"),
    [
        (0.5, [0.5, 0.6], 2.0, 2, True),
        (0.25, [0.5], 2.0, 2, False),  # too early
        (1.0, [0.5, 0.6], 2.0, 2, False),  # done anyway
        (0.5, [0.5, 0.68], 2.0, 2, False),  # within the margin
        (0.5, [0.5, 0.6], 0.5, 2, False),  # this one is cheaper
        (0.5, [0.5, 0.6], 2.0, 0, False),  # this one is smaller
        (0.5, [], 2.0, 2, False),  # nothing known
    ],
)
def test_a_training_is_given_up_in_the_light_of_a_cheaper_better_one(
    share: float, scores: list[float], macs: float, parameters: int, given_up: bool
) -> None:
    rival = trained("small", (0.3, 0.7, None, 0.95))
    assert bool(hopeless(share, scores, macs, parameters, [rival])) == given_up


def test_rivals_are_compared_at_the_same_share_of_their_epochs() -> None:
    late = trained("late", (0.1, 0.1, 0.1, 0.99))
    assert hopeless(0.5, [0.5], 2.0, 2, [late]) is None
    assert "late costs less and had 0.990" in str(
        hopeless(0.99, [0.5], 2.0, 2, [trained("late", (0.1, 0.99))] * 0 + [trained("late", (0.99, 0.99))])
    )


@pytest.mark.usefixtures("no_report")
def test_a_hopeless_training_is_dropped_with_the_reason(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "hopeless", lambda share, scores, macs, n, rivals: "given up: x" if rivals else None)
    run = quick(data, tmp_path, settings={"resolution": (32, 32), "width": (0.5, 1.0)}, recipes=("float32",))
    assert sorted((r.status, r.reason) for r in run.records()) == [("dropped", "given up: x"), ("front", "")]
    assert not list((run.path / "trainings").rglob("last.safetensors"))


# --- delivery --------------------------------------------------------------------------------------------------------
def made(recipe: str = "float32", score: float = 0.9, ratio: float | None = None, **facts: Any) -> Record:
    size, ms, width, verified = (
        facts.get(k, d) for k, d in {"size": 100, "ms": 1.0, "width": 1.0, "verified": True}.items()
    )
    candidate = Candidate("tiny", {"width": width, "resolution": [32, 32]}, recipe, "onnxruntime", "w")
    agreement = Agreement(verified, 0, "", 0.0, 1.0, 1, None if verified else "conv3", 8, "ort", "cpu", "now")
    artifact = Artifact(
        "candidates/x/model.onnx", "onnxruntime", recipe, size, "", InputContract(32, 32), OutputContract()
    )
    latency = None if ratio is None else Measurement(ms, "ms", ratio=ratio, noise_floor=0.02)
    metrics = Metrics("miou", {"miou": score}, {})
    return Record(
        candidate,
        "dominated",
        artifact=artifact,
        val=metrics,
        latency=latency,
        agreement=agreement,
        macs=int(100 * width),
    )


def test_what_loses_against_its_float_twin_is_dropped() -> None:
    reasons = [
        r.reason
        for r in drop([made(), made("int8", 0.895), made("dynamic", 0.5), made("float16", verified=False)], Budget())
    ]
    assert reasons == ["", "", "loses 40.0 points of miou against float32", "not verified: first differs in conv3"]
    lenient = drop([made(), made("int8", 0.86)], Budget(max_drop=0.05))
    assert [r.status for r in lenient] == ["dominated", "dominated"]
    other = drop([made(), made("int8", 0.5, width=0.5)], Budget())
    assert [r.status for r in other] == ["dominated", "dominated"]  # no twin, nothing to lose against


@pytest.mark.parametrize(("ratio", "status"), [(0.5, "dominated"), (1.01, "dominated"), (1.05, "dropped")])
def test_what_is_slower_than_float_beyond_the_noise_is_dropped(ratio: float, status: str) -> None:
    assert drop([made(ratio=1.0), made("int8", ratio=ratio)], Budget())[1].status == status


def test_ratios_are_against_ones_own_float_twin() -> None:
    records = [made(), made(width=0.5), made("int8", width=0.5)]
    times = dict(zip([r.id for r in records], [(4.0, 1.0), (2.0, 0.5), (1.0, 0.25)], strict=True))
    measured = {key: Measurement(ms, "ms", ratio=ratio, noise_floor=0.01) for key, (ms, ratio) in times.items()}
    got = [
        (r.latency.value, r.latency.ratio, r.latency.noise_floor) for r in with_latency(records, measured) if r.latency
    ]
    assert got == [(4.0, 1.0, 0.01), (2.0, 1.0, 0.01), (1.0, 0.5, 0.02)]


def test_the_baseline_is_the_best_float() -> None:
    records = [made(score=0.8), made(score=0.9, width=0.5), made("int8", 0.99)]
    assert baseline(records) == records[1]
    assert baseline([made("int8")]) is None


AXES = [Score(), Latency(), Size()]


def test_the_knee_of_what_meets_the_budget_is_recommended() -> None:
    records = [
        made(score=0.9, ms=4, size=400, ratio=1.0),
        made(score=0.88, ms=2, size=200, ratio=1.0, width=0.5),
        made(score=0.5, ms=1, size=100, ratio=1.0, width=0.25),
    ]
    members, verdict = choose_front(records, AXES, Budget())
    assert (members[0], verdict["met"]) == (records[1], True)
    members, verdict = choose_front(records, AXES, Budget(min_score=0.89))
    assert (members[0], verdict["chosen"]) == (records[0], records[0].id)
    assert len(members) == 3
    members, verdict = choose_front(records, AXES, Budget(max_latency_ms=0.9))
    assert (members[0], verdict["met"]) == (records[2], False)
    assert "latency" in verdict["miss"]


def test_dropped_and_failed_records_are_never_on_the_front() -> None:
    records = [replace(made(score=0.9, ratio=1.0), status=s, reason="x") for s in ("dropped", "failed")]
    assert choose_front(records, AXES, Budget())[0] == []


def test_members_are_named_after_what_they_are_best_at() -> None:
    facts = ((0.8, 2, 20, 1), (0.9, 4, 40, 2), (0.7, 1, 10, 0.5), (0.75, 1.5, 15, 0.7))
    a, b, c, d = (made(score=s, ms=m, size=z, ratio=1.0, width=w) for s, m, z, w in facts)
    names = ["01_knee", "02_best", "03_fastest", "04_32x32_width0.7_float32"]
    assert pick_names([a, b, c, d], True) == names
    assert pick_names([b], False) == ["01_nearest_miss"]
    assert pick_names([], True) == []


def test_what_is_recommended_can_be_picked() -> None:
    facts = ((0.8, 2, 20, 1), (0.9, 4, 40, 2), (0.7, 1, 12, 0.5), (0.75, 1.5, 10, 0.7))
    records = [made(score=s, ms=m, size=z, ratio=1.0, width=w) for s, m, z, w in facts]
    objectives = (Score(), Latency(), Size())
    for pick, index in (("best", 1), ("fastest", 2), ("smallest", 3)):
        members, verdict = choose_front(records, objectives, Budget(), pick)
        assert verdict["chosen"] == members[0].id == records[index].id
        assert pick_names(members, True, pick)[0] == f"01_{pick}"
    members, verdict = choose_front(records, objectives, Budget(min_score=0.78), "fastest")
    assert verdict["chosen"] == records[0].id  # of those that meet the budget
    with pytest.raises(UsageError, match="unknown --pick 'cheapest'"):
        request.open_request(Config(pick="cheapest"))


def test_a_member_can_be_picked_by_its_id() -> None:
    facts = ((0.8, 2, 20, 1), (0.9, 4, 40, 2), (0.7, 1, 10, 0.5))
    records = [made(score=s, ms=m, size=z, ratio=1.0, width=w) for s, m, z, w in facts]
    members, verdict = choose_front(records, AXES, Budget(min_score=0.99), records[2].id[:6])
    assert members[0] is records[2]
    assert (verdict["chosen"], verdict["met"]) == (records[2].id, False)
    assert pick_names(members, False, records[2].id[:6])[0] == "01_picked"
    with pytest.raises(UsageError, match="--pick 0123 is none of the members"):
        choose_front(records, AXES, Budget(), "0123")


def test_the_front_falls_into_a_fast_a_balanced_and_an_accurate_part() -> None:
    facts = ((0.95, 9.0, 90), (0.94, 8.0, 80), (0.9, 3.0, 30), (0.89, 2.8, 28), (0.5, 1.0, 10))
    records = [made(score=s, ms=m, size=z, ratio=1.0, width=m) for s, m, z in facts]
    assert cluster_names(records, AXES) == ["accurate", "accurate", "balanced", "balanced", "fast"]
    assert cluster_names([records[0], records[4]], AXES) == ["accurate", "fast"]
    assert cluster_names(records[:1], AXES) == cluster_names(records[:1], [Latency()]) == ["balanced"]
    assert choose_front(records, AXES, Budget())[1]["clusters"][records[4].id] == "fast"


def test_fit_alone_explores_what_takes_minutes() -> None:
    def sizes(**options: Any) -> list[str]:
        return [a.label for a in request.open_request(Config(**options)).architectures]

    assert sizes()[:2] == ["64x64 width=0.25", "96x96 width=0.25"]
    assert len(sizes()) == 6
    assert sizes(settings={"width": 1.0}, space={"resolution": [(32, 32)]}) == ["32x32 width=1.0"]


def test_names_are_plain() -> None:
    assert pipeline._default_name(Config(model="/a b/net.onnx", data="../ü/data.yaml")) == "net_data"
    assert pipeline._default_name(Config(model="my.nets:build", data="camvid:/x/CamVid")) == "build_CamVid"


def test_errors_that_stop_a_run_are_not_swallowed() -> None:
    assert DataError not in tasks.STOPPING
    assert {SpaceError, Interrupted} <= set(tasks.STOPPING)
