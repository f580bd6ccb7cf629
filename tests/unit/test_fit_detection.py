"""Detection through the commands: a small front, its report, integers, and a search on average precision."""

from __future__ import annotations

import pytest

from bitfront import pipeline
from bitfront.fitting import stages
from bitfront.fitting.config import BitSearch, Config
from bitfront.fitting.schedule import train_options, usual_epochs
from bitfront.pipeline import fit, search
from bitfront.run import Run
from bitfront.sources import open_data

SETTINGS = {"resolution": (64, 64), "width": 0.0625}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "belt.yaml"
    path.write_text("reader: conveyor\nsize: 64\nn_train: 12\nn_val: 6\nn_test: 4\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "TIMING_S", 0.2)
        return fit(
            "yolo_v5n", data, task="detection", settings=SETTINGS, recipes=("float32", "int8"), epochs=1,
            runs=tmp_path_factory.mktemp("runs"), name="boxes",
        )  # fmt: skip


def test_generated_data_can_be_described(data: str) -> None:
    dataset = open_data(data)
    assert [len(dataset.part(p)) for p in dataset.parts()] == [12, 6, 4]


def test_files_are_verified_and_scored_by_average_precision(run: Run) -> None:
    records = {r.candidate.recipe: r for r in run.records()}
    assert set(records) == {"float32", "int8"}
    for record in records.values():
        assert record.val is not None
        assert record.val.score == "map50"
        assert {"map50", "map", "precision", "recall", "f1"} <= set(record.val.values)
        assert record.agreement.verified
        assert record.artifact.output.head.kind == "yolo_v5"
        assert record.artifact.output.classes == ("carton", "mailer", "tube")
    assert records["int8"].artifact.size_bytes < records["float32"].artifact.size_bytes


def test_the_report_shows_boxes(run: Run) -> None:
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "map50" in page
    assert "carton" in page
    assert list((run.path / "previews").glob("*_label.jpg"))


def test_bits_are_searched_by_average_precision(run: Run, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.report, "write", lambda run: None)
    monkeypatch.setattr(stages, "TIMING_S", 0.2)
    weights = next(run.path.glob("trainings/*/best.safetensors"))
    found = search(
        str(weights), data, bits=BitSearch("uniform", weight_bits=(6, 8)), runs=run.path / "more", name="bits"
    )
    assert any(r.candidate.plan and r.agreement.verified for r in found.records())


def test_boxes_are_trained_longer_and_with_mosaics() -> None:
    assert usual_epochs(Config(), 400, "detection") == 2 * usual_epochs(Config(), 400)
    assert train_options(Config(), 400, 10, task="detection").augment == "detection"
    assert train_options(Config(augment="none"), 400, 10, task="detection").augment == "none"
    assert train_options(Config(learning_rate=0.1), 400, 10, task="detection").rate == 0.1
