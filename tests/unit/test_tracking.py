"""Trackers: what arrives, read with each one's own reader; and that none of them can stop the work."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bitfront import tracking as room
from bitfront.errors import UsageError
from bitfront.registry import load
from bitfront.store import atomic_write
from bitfront.tracking import Tracking, require, tracking
from bitfront.train.options import Epoch

NAMES = ("tensorboard", "mlflow", "wandb")
PARAMETERS = {"model": "tiny", "settings": {"width": 0.5}, "recipes": ["int8", "float32"], "weights": None}


class Fake:
    """Keeps what it is given; fails at ``fails``."""

    name: ClassVar[str] = "fake"

    def __init__(self, fails: str = "") -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails = fails

    def _keep(self, what: str, *values: Any) -> None:
        self.calls.append((what, *values))
        if what == self.fails:
            raise ConnectionError("no\nroute")

    def parameters(self, values: Mapping[str, Any]) -> None:
        self._keep("parameters", dict(values))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._keep("log", dict(values), step)

    def artifact(self, path: Path, name: str) -> None:
        self._keep("artifact", path, name)

    def close(self) -> None:
        self._keep("close")


def everything(tracked: Tracking, file: Path) -> None:
    tracked.parameters(PARAMETERS)
    for index in range(3):
        tracked.epoch(Epoch(index, 0.01, 1 / (index + 1), 0.5 + index / 10, 2.0), "64x64 width=0.5/")
    tracked.epoch(Epoch(3, 0.01, 0.2, None, 2.0), "64x64 width=0.5/")
    tracked.artifact(file, "front/01_knee/model.onnx")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    atomic_write(path, b"weights")
    return path


# --- the room --------------------------------------------------------------------------------------------------------
def test_all_trackers_get_the_same(file: Path) -> None:
    one, two = Fake(), Fake()
    tracked = Tracking({"one": one, "two": two})
    everything(tracked, file)
    tracked.close()
    assert one.calls == two.calls
    assert one.calls[0] == (
        "parameters", {"model": "tiny", "settings.width": 0.5, "recipes": "['int8', 'float32']", "weights": None},
    )  # fmt: skip
    first = {"64x64 width=0.5/loss": 1.0, "64x64 width=0.5/score": 0.5, "64x64 width=0.5/rate": 0.01}
    assert one.calls[1] == ("log", {**first, "64x64 width=0.5/seconds": 2.0}, 1)
    assert "64x64 width=0.5/score" not in one.calls[4][1]
    assert one.calls[-2:] == [("artifact", file, "front/01_knee/model.onnx"), ("close",)]


@pytest.mark.parametrize("fails", ["parameters", "log", "artifact", "close"])
def test_one_that_fails_is_named_once_and_left_out(file: Path, fails: str) -> None:
    broken, good, notes = Fake(fails), Fake(), []
    tracked = Tracking({"broken": broken, "good": good}, notes.append)
    everything(tracked, file)
    tracked.close()
    assert notes == ["tracker 'broken' failed and is left out: ConnectionError: no route"]
    assert [c[0] for c in broken.calls].count(fails) == 1
    assert good.calls[-1] == ("close",)


def test_an_observer_of_epochs_is_kept() -> None:
    fake = Fake()
    seen: list[int] = []
    follow = Tracking({"fake": fake}).following(lambda epoch: seen.append(epoch.index) or "enough")
    assert follow(Epoch(0, 0.1, 2.0, None, 1.0)) == "enough"
    assert seen == [0]
    assert fake.calls == [("log", {"loss": 2.0, "rate": 0.1, "seconds": 1.0}, 1)]
    assert Tracking().following(None)(Epoch(0, 0.1, 2.0, None, 1.0)) is None


def test_what_cannot_be_opened_is_noted(tmp_path: Path) -> None:
    atomic_write(tmp_path / "mlruns", b"a file where a folder must be")
    notes: list[str] = []
    with tracking(("mlflow",), tmp_path, "run", notes.append) as tracked:
        tracked.log({"loss": 1.0}, 1)
    assert len(notes) == 1
    assert notes[0].startswith("tracker 'mlflow' failed and is left out: ")


def test_trackers_are_closed_when_the_work_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Fake()
    monkeypatch.setattr(room, "load", lambda kind, name: type("Opens", (), {"open": lambda folder, run: fake}))
    with pytest.raises(KeyError, match="work"), tracking(("fake",), tmp_path, "run"):
        raise KeyError("work")
    assert fake.calls == [("close",)]


def test_unknown_and_missing_trackers_are_an_error_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown tracker 'mlfow'") as error:
        require(("mlfow",))
    assert "did you mean 'mlflow'?" in error.value.hint
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("bitfront.trackers.wandb.version", lambda name: "0.99.0")
    for name in ("tensorboard", "wandb"):
        with pytest.raises(UsageError, match=rf"tracker '{name}' cannot be used: pip install 'bitfront\[{name}\]'"):
            require((name,))
    require(("mlflow",))


@pytest.mark.parametrize("name", NAMES)
def test_opening_the_catalogue_imports_no_package(name: str) -> None:
    use = f"load('tracker', '{name}').missing(); print('{name}' in sys.modules)"
    code = f"import sys; from bitfront.registry import load; {use}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


# --- TensorBoard -----------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_curves_parameters_and_files(tmp_path: Path, file: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    notes: list[str] = []
    for _ in range(2):  # a run that is resumed writes a second file
        with tracking(("tensorboard",), tmp_path, "run-1", notes.append) as tracked:
            everything(tracked, file)
    assert notes == []
    found = reader.EventAccumulator(str(tmp_path / "tensorboard/run-1"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == {f"64x64 width=0.5/{n}" for n in ("loss", "score", "rate", "seconds")}
    curve = [(e.step, e.value) for e in found.Scalars("64x64 width=0.5/loss")][-4:]
    assert curve == [(i + 1, pytest.approx(v)) for i, v in enumerate((1, 1 / 2, 1 / 3, 0.2))]
    texts = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
    assert "| settings.width | 0.5 |" in texts["parameters/text_summary"]
    assert "7 bytes, sha256 " in texts["files/front/01_knee/model.onnx/text_summary"]


# --- MLflow ----------------------------------------------------------------------------------------------------------
def test_mlflow_store_by_hand(tmp_path: Path, file: Path) -> None:
    notes: list[str] = []
    for _ in range(2):  # resumed: the same run, its curve goes on
        with tracking(("mlflow",), tmp_path, "run 1", notes.append) as tracked:
            everything(tracked, file)
    with tracking(("mlflow",), tmp_path, "run 2", notes.append) as tracked:
        tracked.log({"../../../outside": 1.0, "a/./..": 2.0, "": 3.0}, 1)
        tracked.artifact(file, "../../outside")
    assert notes == []
    runs = {(p / "tags/mlflow.runName").read_text(): p for p in tmp_path.glob("mlruns/*/*") if p.is_dir()}
    assert set(runs) == {"run 1", "run 2"}
    first = runs["run 1"]
    assert (first / "params/settings.width").read_text() == "0.5"
    lines = [line.split() for line in (first / "metrics/64x64 width_0.5/loss").read_text().splitlines()]
    assert [(float(v), int(step)) for _, v, step in lines][4:] == [(1.0, 1), (0.5, 2), (1 / 3, 3), (0.2, 4)]
    assert (first / "artifacts/front/01_knee/model.onnx").read_bytes() == b"weights"
    assert "status: 3\n" in (first / "meta.yaml").read_text()
    assert not list(tmp_path.rglob("outside")) or all(runs["run 2"] in p.parents for p in tmp_path.rglob("outside"))


def test_mlflow_reads_its_store(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("needs mlflow or mlflow-skinny")
    with tracking(("mlflow",), tmp_path, "run 1") as tracked:
        everything(tracked, file)
    code = (
        "import sys; from mlflow.tracking import MlflowClient; c = MlflowClient(sys.argv[1]);"
        "e = c.get_experiment_by_name('bitfront'); r, = c.search_runs([e.experiment_id]);"
        "print(r.info.status, r.info.run_name, r.data.params['model'],"
        " [m.step for m in c.get_metric_history(r.info.run_id, '64x64 width_0.5/loss')],"
        " [a.path for a in c.list_artifacts(r.info.run_id, 'front/01_knee')])"
    )
    quiet = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", code, (tmp_path / "mlruns").as_uri()],
        capture_output=True, text=True, check=True, timeout=110, env={**os.environ, **quiet},
    )  # fmt: skip
    assert done.stdout.strip() == "FINISHED run 1 tiny [1, 2, 3, 4] ['front/01_knee/model.onnx']"


# --- Weights & Biases ------------------------------------------------------------------------------------------------
class FakeRun(Fake):
    def __init__(self) -> None:
        super().__init__()
        self.config = self

    def update(self, values: dict[str, Any], allow_val_change: bool) -> None:
        self._keep("config", values, allow_val_change)

    def define_metric(self, name: str, step_metric: str) -> None:
        self._keep("metric", name, step_metric)

    def log(self, values: dict[str, Any]) -> None:  # type: ignore[override]
        self._keep("log", values)

    def log_artifact(self, artifact: Any) -> None:
        self._keep("artifact", artifact.name, artifact.files)

    def finish(self) -> None:
        self._keep("finish")


def fake_wandb(run: FakeRun, asked: dict[str, Any]) -> Any:
    class Artifact:
        def __init__(self, name: str, type: str) -> None:
            self.name, self.files = name, []

        def add_file(self, path: str, name: str) -> None:
            self.files.append((path, name))

    def init(**options: Any) -> FakeRun:
        asked.update(options)
        return run

    module = type(sys)("wandb")
    module.Artifact, module.init, module.Settings = Artifact, init, lambda **o: o  # type: ignore[attr-defined]
    return module


def test_wandb_is_offline_and_gets_everything(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked, notes = FakeRun(), {}, []
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(run, asked))
    monkeypatch.setattr("bitfront.trackers.wandb._silence", lambda: None)
    with tracking(("wandb",), tmp_path, "run-1", notes.append) as tracked:
        everything(tracked, file)
    assert notes == []
    assert (asked["mode"], asked["name"], asked["dir"]) == ("offline", "run-1", str(tmp_path))
    assert (
        "config",
        {"model": "tiny", "settings.width": 0.5, "recipes": "['int8', 'float32']", "weights": None},
        True,
    ) in run.calls
    assert ("artifact", "front-01_knee-model.onnx", [(str(file), "model.onnx")]) in run.calls
    logged = [c[1] for c in run.calls if c[0] == "log"]
    assert [values["step"] for values in logged] == [1, 2, 3, 4]
    assert run.calls[-1] == ("finish",)


def test_wandb_itself_stays_off_the_network(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = load("tracker", "wandb").missing()
    if missing:
        pytest.skip(f"needs wandb: {missing}")
    asked: list[Any] = []

    def refused(*address: Any, **_: Any) -> Any:
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    notes: list[str] = []
    with tracking(("wandb",), tmp_path, "run-1", notes.append) as tracked:
        everything(tracked, file)
    assert notes == []
    assert asked == []
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


# --- fit -------------------------------------------------------------------------------------------------------------
def test_fit_is_tracked_and_a_broken_tracker_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from bitfront import pipeline
    from bitfront.data.conveyor import Conveyor
    from bitfront.measure import memory
    from bitfront.verbs.data import convert

    convert(Conveyor(size=(32, 32), n_train=8, n_val=4, n_test=4), tmp_path / "data")
    fakes = {"good": Fake(), "bad": Fake("log")}
    opened: list[tuple[Path, str]] = []

    def found(kind: str, name: str) -> Any:
        if name not in fakes:
            return load(kind, name)

        def opens(folder: Path, run: str) -> Fake:
            opened.append((folder, run))
            return fakes[name]

        return type("Opens", (), {"open": staticmethod(opens), "missing": staticmethod(str)})

    monkeypatch.setattr(room, "load", found)
    monkeypatch.setattr(memory, "peak_ram", lambda *_: 1)
    monkeypatch.setattr(pipeline.report, "write", lambda run: atomic_write(run.path / "report.html", b"page"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something went on the network"))
    run = pipeline.fit(
        "tiny", str(tmp_path / "data/data.yaml"), settings={"resolution": (32, 32), "width": 0.5}, epochs=2,
        recipes=["float32"], objectives=("score", "size"), runs=tmp_path / "runs", name="r",
        track=("good", "bad", "mlflow"),
    )  # fmt: skip
    assert opened == 2 * [(tmp_path / "runs/tracking", "r")]
    calls = fakes["good"].calls
    assert calls[0][1]["settings.width"] == 0.5
    curve = [
        (values, step)
        for kind, values, step in (c for c in calls if c[0] == "log")
        if any(n.endswith("/loss") for n in values)
    ]
    assert [step for _, step in curve] == [1, 2]
    front = [c for c in calls if c[0] == "log" and "front/score" in c[1]]
    assert [c[1]["front/score"] for c in front] == [member.score for member in run.front]
    assert [c[2] for c in calls if c[0] == "artifact"] == [
        *(f"front/{member.name}/model.onnx" for member in run.front), "report.html",
    ]  # fmt: skip
    assert calls[-1] == ("close",)
    assert [c[0] for c in fakes["bad"].calls] == ["parameters", "log"]
    assert caplog.messages.count("tracker 'bad' failed and is left out: ConnectionError: no route") == 1
    assert len(list(tmp_path.glob("runs/tracking/mlruns/*/*/artifacts/front/*/model.onnx"))) == len(run.front)
