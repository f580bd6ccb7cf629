"""The bit search as a stage of fit and as a command, on a tiny trained network."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bitfront import cli, pipeline
from bitfront.data.conveyor import Conveyor
from bitfront.errors import Interrupted, UsageError
from bitfront.fitting import stages, tasks, tuning
from bitfront.fitting.config import BitSearch
from bitfront.fitting.searching import alone, menu_options, usual_evaluations
from bitfront.graph import files
from bitfront.pipeline import fit, resume
from bitfront.pipeline import search as search_bits
from bitfront.quant.plan import weight_bytes
from bitfront.run import Run
from bitfront.safeyaml import read
from bitfront.search.evaluations import Evaluation, Row
from bitfront.search.space import FLOAT, Gene, Space
from bitfront.verbs.data import convert

BITS = BitSearch("surrogate", weight_bits=(2, 4, 8), evaluations=45, n_members=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("data") / "belt"
    convert(Conveyor(size=(48, 64), n_train=24, n_val=8, n_test=4), place)
    return str(place)


@pytest.fixture(scope="module")
def checkpoint(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    code = cli.main(["train", "tiny", data, "--out", str(path), "--epochs", "4", "--set", "resolution=32", "--quiet"])
    assert code == 0
    return str(path)


@pytest.fixture(scope="module")
def searched(data: str, checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.report, "write", lambda run: None)
        return search_bits(checkpoint, data, bits=BITS, runs=tmp_path_factory.mktemp("runs"), name="bits")


def test_members_are_verified_files_beside_float_and_int8(searched: Run) -> None:
    records = searched.records()
    names = [r.candidate.recipe for r in records]
    assert names[:2] == ["float32", "int8"]
    members = [r for r in records if r.candidate.plan]
    assert 1 <= len(members) <= 3
    assert len({r.id for r in records}) == len(records)
    for record in members:
        assert record.candidate.recipe.startswith("bits_w")
        assert record.agreement is not None
        assert record.agreement.verified
        assert record.agreement.max_code_difference == 0
        assert record.artifact is not None
        graph, plan = files.load((searched.path / record.artifact.path).with_suffix(files.SUFFIX))
        assert {form.bits for form in plan.formats.values()} <= {2, 4, 6, 8, 10, 16}
        assert record.flash_bytes is not None
        assert record.flash_bytes >= weight_bytes(graph, plan)
    assert searched.front
    assert {m.record.candidate.plan != "" for m in searched.front} >= {True}


def test_the_run_tells_what_the_search_saw(searched: Run) -> None:
    (told,) = searched.value("searches")
    assert told["method"] == "surrogate"
    assert told["seed"] == searched.config.get("seed", 0)
    assert told["n_evaluations"] <= 45
    assert told["costs"] == ["flash"]
    assert any(point["front"] for point in told["points"])
    made = [member for member in told["front"] if member["candidate"]]
    assert {m["candidate"] for m in made} == {r.id for r in searched.records() if r.candidate.plan}
    by_id = {r.id: r for r in searched.records()}
    for member in made:
        record = by_id[member["candidate"]]
        assert record.val is not None
        assert member["score"] == pytest.approx(record.val.value, abs=1e-12)  # simulated as it runs
        assert member["costs"] == [record.flash_bytes]
        assert set(member["bits"]) == {gene["name"] for gene in told["genes"]}
    tensors = {t["name"]: t for t in told["tensors"]}
    weights = [t for t in tensors.values() if t["kind"] == "weight"]
    assert all([w["bits"] for w in t["widths"]] == [2, 4, 8] for t in weights)
    assert all(w["distortion"] is not None for t in weights for w in t["widths"])
    assert json.dumps(told)


def test_scores_of_one_tensor_are_those_on_all_samples() -> None:
    space = Space((Gene("a", "weight", (4, 8), 10), Gene("b", "weight", (4, 8), 20)))
    rows = [
        Row((4, FLOAT), None, Evaluation(0.5, 0.1), 0.0),
        Row((4, FLOAT), (0, 1), Evaluation(0.6, 0.2), 0.0),
        Row((FLOAT, 8), (0, 1), Evaluation(0.7, 0.05), 0.0),
        Row((FLOAT, 4), None, Evaluation(0.4), 0.0),
        Row((8, 8), None, Evaluation(0.9, 0.01), 0.0),
    ]
    found = alone(rows, space)
    assert found == {
        ("a", 4): {"distortion": 0.2, "score": 0.5},
        ("b", 8): {"distortion": 0.05},
        ("b", 4): {"score": 0.4},
    }


def test_the_configuration_can_be_used_again(searched: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitfront.cli import config

    stored = config.load(searched.path / "bitfront.yaml", searched.path)
    assert stored["bits"]["method"] == "surrogate"
    assert stored["bits"]["weight_bits"] == [2, 4, 8]
    assert "bits" in read(searched.path / "bitfront.yaml").values


def test_an_interrupted_search_goes_on(
    data: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: Run
) -> None:
    monkeypatch.setattr(pipeline.report, "write", lambda run: None)
    make = tasks.make_candidate
    n_made = 0

    def interrupted(*args: Any, **options: Any) -> Any:
        nonlocal n_made
        n_made += 1
        if n_made == 3:
            raise KeyboardInterrupt
        return make(*args, **options)

    monkeypatch.setattr(tasks, "make_candidate", interrupted)
    with pytest.raises(Interrupted, match="finished is kept"):
        search_bits(checkpoint, data, bits=BITS, runs=tmp_path, name="bits")
    journal = next((tmp_path / "bits" / "search").iterdir())
    before = journal.read_bytes()
    monkeypatch.setattr(tasks, "make_candidate", make)
    run = resume(tmp_path / "bits")
    assert journal.read_bytes() == before  # nothing evaluated again
    assert [r.id for r in run.records()] == [r.id for r in searched.records()]
    assert [m.id for m in run.front] == [m.id for m in searched.front]


def test_the_front_is_screened_on_images_that_the_search_did_not_see() -> None:
    from bitfront.fitting.searching import _split

    large, small, train = (Conveyor(size=(8, 8), n_train=n, n_val=4, n_test=4).part("train") for n in (40, 31, 12))
    seen, unseen = _split({"val": large, "train": train})
    assert (len(seen), len(unseen)) == (30, 10)
    assert {s.id for s in seen}.isdisjoint(s.id for s in unseen)
    assert _split({"val": small, "train": train}) == (small, train)
    assert _split({"val": small}) == (small, ())


def test_shifts_per_channel_are_counted_as_they_were_searched(
    data: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.report, "write", lambda run: None)
    bits = BitSearch("uniform", weight_bits=(4, 8), per_channel=True, n_members=1)
    run = search_bits(checkpoint, data, bits=bits, runs=tmp_path)
    (member,) = [m for m in run.value("searches")[0]["front"] if m["candidate"]]
    record = next(r for r in run.records() if r.id == member["candidate"])
    assert member["costs"] == [record.flash_bytes]
    assert record.agreement is not None
    assert record.agreement.verified


def test_fit_searches_the_best_networks(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.report, "write", lambda run: None)
    monkeypatch.setattr(stages, "TIMING_S", 0.2)
    run = fit(
        "tiny", data, settings={"resolution": (32, 32), "width": (0.5, 1.0)}, recipes=("int8",), epochs=1,
        objectives=("score", "flash"), bits=BitSearch("uniform", weight_bits=(4, 8), n_networks=2), runs=tmp_path,
    )  # fmt: skip
    assert 1 <= len(run.value("searches")) <= 2
    assert any(r.candidate.plan for r in run.records())


def test_a_search_that_fails_costs_itself_only(
    data: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.report, "write", lambda run: None)

    def broken(*args: Any, **options: Any) -> Any:
        raise ValueError("no")

    monkeypatch.setattr(tasks, "search_network", broken)
    run = search_bits(checkpoint, data, bits=BITS, runs=tmp_path)
    assert [r.candidate.recipe for r in run.records()] == ["float32", "int8"]
    assert any("not searched: ValueError: no" in e.text for e in run.events)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (BitSearch("best"), "unknown search method 'best'"),
        (BitSearch("surrogate", weight_bits=(1, 8)), "weight_bits: 1 bits"),
        (BitSearch("surrogate", weight_bits=()), "weight_bits: no bits"),
        (BitSearch("surrogate", activation_bits=(32,)), "activation_bits: 32 bits"),
        (BitSearch("surrogate", costs=("speed",)), "unknown cost of a bit search 'speed'"),
    ],
)
def test_impossible_searches_are_refused_at_once(bits: BitSearch, message: str, data: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        fit("tiny", data, bits=bits, runs=tmp_path)
    assert not any(tmp_path.iterdir())


def test_widths_that_nothing_is_saved_by_are_not_searched() -> None:
    assert menu_options(BitSearch("surrogate")).activation_bits == (8,)
    assert menu_options(BitSearch("nsga2", costs=("flash", "ram"))).activation_bits == (8, 16)
    assert menu_options(BitSearch("genetic")).activation_bits == (8, 16)
    assert menu_options(BitSearch("surrogate", activation_bits=())).activation_bits == ()
    assert not menu_options(BitSearch("genetic")).equalized
    assert menu_options(BitSearch("genetic", equalized=True)).equalized
    assert usual_evaluations(BitSearch("genetic")) is None
    assert usual_evaluations(BitSearch("tpe")) == 200


# --- the command line ------------------------------------------------------------------------------------------------
@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(*tokens: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(token) for token in tokens])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_search_from_the_command_line(call: Callable[..., Any], data: str, checkpoint: str, tmp_path: Path) -> None:
    options = ("--weight-bits", "2,4,8", "--evaluations", 12, "--members", 1, "--max-drop", "5%")
    code, out, err = call("search", checkpoint, data, *options, "--json", "--quiet")
    assert code == 0, err
    found = json.loads(out)
    assert found["met"]
    assert Path(found["report"]).is_file()
    assert any("bits_w" in member["label"] for member in found["front"])
    code, out, _ = call("search", checkpoint, data, "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["plan"]["weight_bits"] == [2, 3, 4, 6, 8, 16]
    code, _, err = call("search", checkpoint, data, "--weight-bits", "two")
    assert code == 2
    assert "'two' is no list of widths" in err
    code, _, err = call("search", "tiny", data)
    assert code == 2
    assert "no weights" in err


def test_fit_takes_the_search_from_options_and_configuration(
    call: Callable[..., Any], data: str, tmp_path: Path
) -> None:
    options = ("tiny", data, "--set", "resolution=32", "--set", "width=0.5", "--epochs", 1, "--recipe", "int8")
    rest = ("--objective", "score", "--objective", "flash", "--json", "--quiet")
    Path("bitfront.yaml").write_text("bits: {method: surrogate, weight_bits: [4, 8], n_members: 1}\n")
    code, out, err = call("fit", *options, *rest, "--bits", "uniform")
    assert code == 0, err
    (told,) = Run.open(json.loads(out)["run"]).value("searches")
    assert told["method"] == "uniform"
    assert {tuple(g["choices"]) for g in told["genes"] if g["kind"] == "weight"} == {(4, 8)}
    Path("bitfront.yaml").write_text("bits: {method: surrogate, widths: [4]}\n")
    code, _, err = call("fit", *options)
    assert code == 2
    assert "bitfront.yaml:1" in err


def test_stats_from_the_command_line(call: Callable[..., Any], data: str, checkpoint: str) -> None:
    code, out, err = call(
        "stats", checkpoint, data, "--metric", "--calibrate", 4, "--out", "s.csv", "--json", "--quiet"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["float_score"] > 0
    with Path("s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(t["widths"]) for t in found["tensors"])
    scores = [w["score"] for t in found["tensors"] for w in t["widths"]]
    assert all(s is not None for s in scores)
    assert {r["kind"] for r in rows} == {"input", "weight", "bias", "activation"}
    wide = [w for t in found["tensors"] for w in t["widths"] if w["bits"] == 16]
    assert all(abs(w["drop"]) < 0.05 and w["clipped"] < 1e-3 for w in wide)
    code, out, _ = call("stats", checkpoint, data, "--calibrate", 2, "--activation-bits", "float", "--out", "s.html")
    assert code == 0
    assert "integer and fractional bits" in out
    assert Path("s.html").read_text("utf-8").startswith("<!doctype html>")
    assert Path("s_tensors.csv").is_file()
    for wrong, message in ((("--out", "s.txt"), ".json or .html"), (("--weight-bits", "40"), "40 bits")):
        code, _, err = call("stats", checkpoint, data, *wrong)
        assert code == 2
        assert message in err


def test_members_that_lose_are_trained_under_their_plans(data: str, checkpoint: str, tmp_path: Path) -> None:
    bits = replace(BITS, n_trained=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.report, "write", lambda run: None)
        patch.setattr(tuning, "LEAST_LOSS", -1.0)  # this network has hardly learned anything to lose
        run = search_bits(checkpoint, data, bits=bits, runs=tmp_path, name="trained")
        assert [r.id for r in resume(run.path).records()] == [r.id for r in run.records()]
    trained = [r for r in run.records() if r.candidate.recipe.endswith("_trained")]
    assert trained
    (told,) = run.value("searches")
    for record in trained:
        assert record.agreement is not None
        assert record.agreement.verified
        assert record.val is not None
        assert record.artifact is not None
        graph, _ = files.load((run.path / record.artifact.path).with_suffix(files.SUFFIX))
        before = [m["score"] for m in told["front"] if m["candidate"] == record.id]
        assert all(record.val.value >= score for score in before)
        assert graph.nodes


def test_a_training_that_fails_costs_itself_only(data: str, checkpoint: str, tmp_path: Path) -> None:
    def broken(*_: Any) -> None:
        raise UsageError("the training diverges")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.report, "write", lambda run: None)
        patch.setattr(tuning, "LEAST_LOSS", -1.0)
        patch.setattr(tasks, "train_plan", broken)
        run = search_bits(checkpoint, data, bits=replace(BITS, n_trained=1), runs=tmp_path, name="broken")
    reasons = {r.candidate.recipe: r.reason for r in run.records() if r.status == "failed"}
    assert len(reasons) == 1
    (recipe, reason) = next(iter(reasons.items()))
    assert recipe.endswith("_trained")
    assert reason == "training: the training diverges"
    assert any(m.record.candidate.plan for m in run.front)


def test_searches_and_trainings_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def searching(*_: Any, time_s: float | None, **__: Any) -> Any:
        seen["search"] = time_s
        result = SimpleNamespace(float_score=0.9, front=[], n_evaluations=1.0)
        return SimpleNamespace(members=["m"], result=result, network=None, recipe=lambda genome: "bits")

    def training(shop: Any, searched: Any, member: Any, time_s: float | None) -> None:
        seen.setdefault("trainings", []).append(time_s)

    monkeypatch.setattr(tasks, "search_network", searching)
    monkeypatch.setattr(tasks, "train_plan", training)
    monkeypatch.setattr(tasks, "_network", lambda *_: None)
    monkeypatch.setattr(tasks, "picked", lambda *_, **__: [])
    monkeypatch.setattr(tasks, "summary", lambda *_: {})
    members = [SimpleNamespace(genome=(n,)) for n in range(2)]
    monkeypatch.setattr(tasks, "worth_training", lambda known, score, n: members[:n])
    runtime = SimpleNamespace(name="x", recipes=("float32",))
    shop: Any = SimpleNamespace(parts={"train": [0]}, target=runtime, runtime=runtime, made=lambda record: None)
    for n_trained in (2, 0):
        architecture: Any = SimpleNamespace(label="net")
        tasks.SearchTask(architecture, None, replace(BITS, n_trained=n_trained), None, None, 100.0)(shop)
        spent = seen["search"] + sum(seen.pop("trainings", []))
        assert spent == pytest.approx(100.0)


def test_the_smallest_members_within_each_loss_are_worth_training() -> None:
    def member(score: float, cost: float) -> Any:
        return SimpleNamespace(score=score, costs=(cost,), genome=(int(cost),))

    members = [member(0.899, 9), member(0.88, 6), member(0.86, 5), member(0.8, 4), member(0.65, 3), member(0.1, 2)]
    assert tuning.worth_training(members, 0.9, 3) == [members[4], members[3], members[2]]
    assert tuning.worth_training(members, 0.9, 1) == [members[4]]
    assert tuning.worth_training(members[:1], 0.9, 3) == []
