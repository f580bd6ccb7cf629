"""Runs under a limit of time: what is noted for a run that is killed, and what is left out."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitfront.contracts import InputContract
from bitfront.data.conveyor import Conveyor
from bitfront.fitting import exploring, request
from bitfront.fitting.config import Config
from bitfront.fitting.exploring import Explorer
from bitfront.fitting.forecast import Forecast
from bitfront.fitting.progress import Progress
from bitfront.fitting.space import Architecture
from bitfront.record import Budget
from bitfront.rundb import RunDb
from bitfront.verbs.data import convert
from bitfront.weights import Weights


@pytest.fixture
def explorer(tmp_path: Path) -> Any:
    convert(Conveyor(size=(32, 32), n_train=4, n_val=2, n_test=0), tmp_path / "belt")
    space = {"resolution": [(32, 32)]}
    config = Config("tiny", str(tmp_path / "belt"), space=space, budget=Budget(time_s=100.0))
    with RunDb(tmp_path) as db:
        found = Explorer(db, request.open_request(config), None)
        found.start = time.monotonic()
        yield found


def test_time_that_was_worked_is_noted_on_the_way(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []
    explorer.report = seen.append
    monkeypatch.setattr(exploring, "NOTED_EVERY_S", 0.0)
    explorer.spent_before = 50.0
    explorer.clock.tell("train", "an epoch")
    assert seen[-1].text == "an epoch"
    assert explorer.db.get("seconds") >= 50.0  # a run that is killed now goes on from here
    assert explorer.time_left() < 50.0


def test_what_does_not_fit_the_time_that_is_left_is_not_begun(explorer: Explorer) -> None:
    jobs = explorer.request.jobs()
    identity = jobs[0].architecture.id
    forecast = Forecast(4, {identity: 30.0}, {identity: 2.0}, n_recipes=5, fixed_s=10.0)
    explorer.spent_before = 35.0
    other = (jobs[0].architecture, None)
    assert len(list(explorer._trainings(jobs, forecast, [], 1.0, {"other": other}))) == 1  # 30 + 2 x 10 + 10 of 65
    explorer.spent_before = 55.0
    assert len(list(explorer._trainings(jobs, forecast, [], 1.0, {"other": other}))) == 1  # begun: it goes on
    explorer.db.put("begun", [])
    assert list(explorer._trainings(jobs, forecast, [], 1.0, {"other": other})) == []
    assert [r.reason for r in explorer.db.records()] == ["left out, the time is up"]
    (task, cost_s), *_ = explorer._trainings(jobs, forecast, [], 1.0, {})
    assert cost_s == 30.0
    assert task.options.time_limit_seconds == pytest.approx(30.0 * exploring.SLACK)


def test_given_networks_are_known_at_the_size_they_were_trained_at(explorer: Explorer) -> None:
    opened = explorer.request.opened
    weights = Weights(Path("w"), "w", "tiny", {"width": 1.0}, InputContract(32, 32))
    source = replace(opened.source, weights=(weights,))
    explorer.request = replace(explorer.request, opened=replace(opened, source=source))
    assert explorer._is_native(Architecture({"width": 1.0}, (32, 32)))
    assert not explorer._is_native(Architecture({"width": 1.0}, (64, 64)))
    assert not explorer._is_native(Architecture({"width": 0.5}, (32, 32)))


def test_a_run_that_began_on_a_crowded_machine_keeps_to_one_thread(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for load, expected in ((2.5, True), (0.2, True)):  # as when it began, also when it is resumed in calm
        monkeypatch.setattr(exploring, "load_per_core", lambda load=load: load)
        if expected and load > 1:
            explorer.db.put("crowded", None)
        assert explorer._is_crowded() == expected
    explorer.config = replace(explorer.config, budget=Budget())
    assert not explorer._is_crowded()  # without a limit the work alone decides
