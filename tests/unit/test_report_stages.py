"""Stages in the report, and costs that follow what was measured."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import report_data, searched_data, stages_value
from test_report import PAYLOADS, _Elements

from bitfront.report import compare, plots, series, tables, write
from bitfront.report.axes import AXES, available, cost
from bitfront.report.data import ReportData, from_run
from bitfront.report.page import render
from bitfront.report.stage_view import stage_chart, stage_files, stage_table, stage_tables, stage_views
from bitfront.report.stages import first_network, read_stages
from bitfront.report.table_files import csv_text
from bitfront.report.tables import NONE
from bitfront.report.view import page_view
from bitfront.run import Run
from bitfront.rundb import RunDb

JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 99), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)


# --- costs -----------------------------------------------------------------------------------------------------------
def test_the_axes_are_those_that_were_measured(rng: np.random.Generator) -> None:
    data, searched = report_data(rng), searched_data(rng)
    assert available(data.records) == ("latency", "size", "ram")
    assert available(searched.records) == ("size", "flash")
    assert available([replace(r, peak_bytes=n) for n, r in enumerate(searched.records)]) == ("size", "flash", "ram")
    assert available(replace(r, val=None, test=None) for r in data.records) == ()
    r = searched.records[-1]
    assert r.artifact is not None
    assert r.flash_bytes is not None
    assert [cost(r, axis) for axis in AXES] == [
        None, None, None, r.artifact.size_bytes / 1000, r.flash_bytes / 1000, 262.144
    ]  # fmt: skip


def test_without_latency_the_page_starts_with_size(rng: np.random.Generator) -> None:
    data = searched_data(rng)
    view = page_view(data)
    charts = view["charts"]
    assert charts["axis"] == "size"
    assert [axis["label"] for axis in view["axes"]] == ["Size", "Flash"]
    assert set(charts["planes"]) == {"size", "flash"}
    assert charts["progress"][-1][1] > 0
    assert series.plane(data, "flash").points[0].x == min(r.flash_bytes / 1000 for r in data.records)  # type: ignore[operator]
    page = render(data)
    assert "– ms" not in page
    assert ">Latency<" not in page
    assert plots.draw(data)["pareto.png"][:4] == b"\x89PNG"


def test_tiles_without_a_number_are_left_out(rng: np.random.Generator) -> None:
    data = searched_data(rng)
    tiles = {t["name"]: t for t in page_view(data)["verdict"]["tiles"]}
    assert list(tiles) == ["mIoU, val", "Flash", "File size", "Verified"]
    best = series.judge(data).record
    assert best is not None
    assert tiles["Flash"]["value"] == tables.size(best.flash_bytes)
    assert [t["name"] for t in page_view(report_data(rng))["verdict"]["tiles"]] == [
        "mIoU, test", "Latency, p50", "File size", "Verified",
    ]  # fmt: skip
    alone = replace(data, baseline="")
    assert page_view(alone)["verdict"]["headline"].endswith(" kB")


def test_tables_have_the_columns_that_have_values(rng: np.random.Generator) -> None:
    data = searched_data(rng)
    titles = [c.title for c in tables.front(data).columns]
    assert titles == ["#", "Configuration", "val mIoU, %", "flash, kB", "size, kB", "Verified"]
    assert "p50, ms" not in [c.title for c in tables.candidates(data).columns]
    full = [c.title for c in tables.front(report_data(rng)).columns]
    assert "latency, ms" in full
    assert "flash, kB" not in full
    none = tables.front(replace(data, records=()))
    assert len(none.columns) > len(titles)  # nothing tells which are empty
    for found in (tables.front(data), tables.candidates(data), tables.recipes(data)):
        assert all(len(row) == len(found.columns) for row in found.rows)


def test_searched_plans_are_one_recipe(rng: np.random.Generator) -> None:
    found = tables.recipes(searched_data(rng))
    assert [(row[0].text, row[1].value) for row in found.rows] == [("float32", 1), ("int8", 1), ("searched bits", 3)]


def test_runs_are_compared_by_what_all_have(rng: np.random.Generator) -> None:
    data, searched = report_data(rng), searched_data(rng)
    assert compare.shared_axes([data, data]) == ("latency", "size")
    assert compare.shared_axes([data, searched]) == ("size",)
    assert compare.shared_axes([searched, ReportData("r", Path("r"))]) == ("size",)
    view = compare.comparison_view([searched, replace(searched, name="other")])
    assert list(view["charts"]["fronts"]) == ["size", "flash"]
    assert "against file size" in view["sentence"]
    assert "fastest, ms" not in [c["title"] for c in view["runs"]["columns"]]


# --- stages ----------------------------------------------------------------------------------------------------------
def test_stages_are_compared_with_the_first_network() -> None:
    stages = read_stages(json.loads(json.dumps(stages_value())))
    base = first_network(stages)
    assert base is not None
    assert base.label == "256x256 width=1.0"
    table = stage_table(stages[1], base, "miou")
    assert [c.title for c in table.columns][1] == "mIoU, %"
    best, worse = table.rows
    assert [cell.text for cell in best] == ["256x256 width=0.5", "90.50", "+0.50", "100 M", "0.25×", "300 k", "front"]
    assert [cell.text for cell in worse][1:5] == ["80.00", "−10.00", "50.0 M", "0.12×"]
    assert stage_table(stages[0], base).rows[0][0].note == "compared with"


def test_stages_as_files() -> None:
    stages = read_stages(stages_value())
    found = stage_files(stages, "miou")
    assert set(found) == {"stages.csv", "stages.md", "stages.png"}
    assert found["stages.png"][:4] == b"\x89PNG"
    rows = list(csv.DictReader(io.StringIO(found["stages.csv"].decode())))
    assert [(r["Stage"], r["Network"]) for r in rows[:2]] == [
        ("resolution", "256x256 width=1.0"), ("resolution", "128x128 width=1.0"),
    ]  # fmt: skip
    assert float(rows[2]["mIoU, %"]) == 90.5
    assert stage_files((), "miou") == {}
    assert stage_files(read_stages([{"name": "resolution", "networks": []}]), "miou") == {}
    bare = read_stages([stages_value()[0], {"name": "a", "networks": [{"label": "x", "score": 0.5}]}])
    assert all(len(row) == 8 for row in stage_tables(bare, "miou").rows)


def test_the_plane_of_stages() -> None:
    chart = stage_chart(read_stages(stages_value()), "miou")
    assert chart is not None
    assert chart["line"] == ((50.0, 80.0), (100.0, 90.5))
    assert [s["name"] for s in chart["stages"]] == ["resolution", "width"]
    points = [p for s in chart["stages"] for p in s["points"]]
    assert all(chart["x_range"][0] <= p["x"] <= chart["x_range"][1] for p in points)
    assert all(chart["y_range"][0] <= p["y"] <= chart["y_range"][1] for p in points)


@settings(max_examples=25, deadline=None)
@given(JUNK)
def test_damaged_stages_cost_no_report(junk: Any) -> None:
    networks = [{"label": "x", "score": 0.5, "macs": junk, "parameters": junk, "front": junk}, {"score": junk}, junk]
    for value in (junk, [junk], [{"name": junk, "networks": junk}], [{"name": junk, "networks": networks}]):
        stages = read_stages(value)
        json.dumps([stage_views(stages, "miou"), stage_chart(stages, "miou")], allow_nan=False)
        if first_network(stages) is not None:
            csv_text(stage_tables(stages, "miou"))


def hostile_stages(text: str) -> list[dict[str, Any]]:
    network = {"label": text, "knobs": {text: text}, "score": 0.5, "macs": 1e6, "parameters": 10.0, "front": True}
    return [{"name": text, "description": text, "thesis": text, "networks": [network], "records": [text]}]


@pytest.mark.parametrize("text", PAYLOADS)
def test_names_of_stages_stay_text(tmp_path: Path, text: str) -> None:
    data = ReportData("r", tmp_path, stages=read_stages(hostile_stages(text)))
    plain = _Elements.of(render(replace(data, stages=read_stages(hostile_stages("name")))))
    seen = _Elements.of(render(data))
    assert seen.tags == plain.tags
    assert [name for name, _ in seen.attributes] == [name for name, _ in plain.attributes]
    json.loads(seen.data)
    table = stage_files(data.stages, "miou")["stages.md"].decode()
    assert "<script" not in table
    assert "<img" not in table
    assert len(table.splitlines()) == 3


def test_stages_come_from_the_run(tmp_path: Path) -> None:
    with RunDb(tmp_path / "run") as db:
        db.put("config", {"model": "x"})
        db.put("stages", stages_value())
    data = from_run(Run.open(tmp_path / "run"))
    assert [len(s.networks) for s in data.stages] == [2, 2]
    page = write(data).read_text("utf-8")
    assert "resolution: smaller inputs (stage 1 of thesis 001)" in page
    assert {"stages.csv", "stages.md", "stages.png"} <= {p.name for p in data.path.iterdir()}


def test_scores_of_thesis_001_stand_beside_the_same_configurations() -> None:
    knobs = {"resolution": [256, 256], "width": 1.0, "expansion": 6, "repeats": 3, "pyramid": False}
    networks = [
        {"label": "known", "score": 0.95, "knobs": knobs},
        {"label": "luma", "score": 0.93, "knobs": {**knobs, "channels": 1}},
        {"label": "new", "score": 0.9, "knobs": {**knobs, "resolution": [250, 250]}},
        {"label": "odd", "score": 0.8, "knobs": {**knobs, "resolution": "x", "width": None}},
    ]
    value = [{"name": "retraining", "networks": networks}]
    (stage,) = read_stages(value, "fast_scnn", "packages")
    assert [n.published for n in stage.networks] == [0.9729, None, None, None]
    (luma,) = read_stages([{**value[0], "name": "channels"}], "fast_scnn", "packages")
    assert [n.published for n in luma.networks] == [None, 0.9542, None, None]
    table = stage_table(stage, None)
    column = [c.title for c in table.columns].index("thesis 001, %")
    assert [row[column].text for row in table.rows] == ["97.29", NONE, NONE, NONE]
    assert all(n.published is None for n in read_stages(value, "tiny", "packages")[0].networks)
    assert "thesis 001, %" not in [c.title for c in stage_table(read_stages(value)[0], None).columns]
