"""Bit searches in the report: numbers, tables, pictures, files and the page, without a browser."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import report_data
from search_cases import search_value
from test_report import PAYLOADS, _Elements

from bitfront.errors import UsageError
from bitfront.report import bits, palette, write, write_stats
from bitfront.report.data import ReportData
from bitfront.report.page import render
from bitfront.report.search_files import search_files, search_tables, slug
from bitfront.report.search_series import plane, progress, worst
from bitfront.report.search_tables import (
    MethodRow,
    choices_table,
    members_table,
    method_rows,
    methods_table,
    stat_table,
)
from bitfront.report.search_view import search_charts, search_views
from bitfront.report.searches import (
    Cost,
    Search,
    Tensor,
    Width,
    average_bits,
    bits_label,
    plan_labels,
    read_searches,
    read_tensors,
    with_odds,
)
from bitfront.report.table_files import csv_text, markdown
from bitfront.report.tables import Cell, Column, Table

PNG, JUNK = (
    b"\x89PNG",
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-9, 99), st.floats(), st.text(max_size=4)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
        max_leaves=8,
    ),
)


def tiny(**changes: Any) -> Search:
    """Two weights and an activation, three points, two members; numbers that a head can check."""
    value = {
        "architecture": "net",
        "method": "surrogate",
        "float_score": 0.9,
        "floor": 0.88,
        "costs": ["flash"],
        "genes": [
            {"name": "a", "kind": "weight", "size": 100, "choices": [4, 8], "fixed": None},
            {"name": "x", "kind": "activation", "size": 50, "choices": [8], "fixed": 8},
            {"name": "b", "kind": "weight", "size": 300, "choices": [4, 8], "fixed": None},
        ],
        "points": [
            {"score": 0.89, "costs": [400], "front": True},
            {"score": 0.5, "costs": [200], "front": True},
            {"score": 0.885, "costs": [250], "front": True},
            {"score": 0.87, "costs": [300], "front": False},
        ],
        "front": [
            {"candidate": "id8", "score": 0.89, "costs": [400], "bits": {"a": 8, "b": 8, "x": 8}, "dropped": ""},
            {"candidate": "", "score": 0.885, "costs": [250], "bits": {"a": 8, "b": 4, "x": 8}, "dropped": "noise"},
        ],
        "tensors": [
            {
                "name": "b", "kind": "weight", "size": 300, "low": -1.5, "high": 1.25,
                "widths": [
                    {"bits": 4, "int_bits": 1, "frac_bits": 2, "clipped": 0.01, "error": 0.06, "distortion": 0.004},
                    {"bits": 8, "int_bits": 1, "frac_bits": 6, "clipped": 0.0, "error": 0.004, "distortion": 0.001},
                ],
            }
        ],
    }  # fmt: skip
    (search,) = read_searches([value | changes])
    return search


# --- reading ---------------------------------------------------------------------------------------------------------
def test_what_a_search_stores_is_read(rng: np.random.Generator) -> None:
    value = search_value(rng)
    (search,) = read_searches(json.loads(json.dumps([value])))
    assert [t.name for t in search.tensors] == [g["name"] for g in value["genes"]]
    assert len(search.points) == len(value["points"])
    assert len(search.members) == 12
    assert sum(bool(m.dropped) for m in search.members) == 2
    assert [m.costs[0] for m in search.members] == sorted(m["costs"][0] for m in value["front"])
    assert search.tensors[3].widths[0].distortion == value["tensors"][3]["widths"][0]["distortion"]
    assert {t.fixed for t in search.tensors if t.kind == "bias"} == {16}


def test_tensors_stand_in_execution_order_with_or_without_statistics() -> None:
    search = tiny()
    assert [t.name for t in search.tensors] == ["a", "x", "b"]
    assert [w.bits for w in search.tensors[0].widths] == [4, 8]
    assert search.tensors[0].widths[0].distortion is None
    assert (search.tensors[2].low, search.tensors[2].widths[1].frac_bits) == (-1.5, 6)


@settings(max_examples=25, deadline=None)
@given(JUNK)
def test_damaged_entries_cost_no_report(junk: Any) -> None:
    base = {"architecture": "net", "costs": ["flash"]}
    keys = ("architecture", "float_score", "costs", "genes", "points", "front", "tensors", "seed", "n_evaluations")
    values = [junk, [junk], *({**base, key: junk} for key in keys), *({**base, key: [junk]} for key in keys)]
    for value in values:
        searches = read_searches([value])
        json.dumps([search_views(searches, {}, "miou"), search_charts(searches, "miou")], allow_nan=False)


@pytest.mark.parametrize(
    ("name", "label", "shown"),
    [("flash", "flash, kB", 2.0), ("ram", "RAM, kB", 2.0), ("npu", "NPU, ms", 2000.0), ("size_bytes", "size, kB", 2.0),
     ("dynamic_bits", "dynamic, kB", 0.25), ("own_cost", "own cost", 2000.0)],
)  # fmt: skip
def test_costs_have_units(name: str, label: str, shown: float) -> None:
    cost = Cost.of(name)
    assert cost.label == label
    assert cost.factor * 2000 == pytest.approx(shown)


# --- numbers ---------------------------------------------------------------------------------------------------------
def test_mean_bits_count_values_not_tensors() -> None:
    search = tiny()
    (dropped, kept) = search.members
    assert average_bits(search.tensors, dropped.bits, "weight") == pytest.approx((100 * 8 + 300 * 4) / 400)
    assert bits_label(search, dropped.bits) == "5-bit weights, 8-bit activations"
    assert plan_labels([search]) == {"id8": "surrogate, 8-bit weights, 8-bit activations"}
    assert search.uniform(kept) == "8"
    assert search.uniform(dropped) == ""


def test_only_the_biased_search_has_odds_of_its_scores() -> None:
    widths = [{"bits": 4, "score": 0.5}, {"bits": 8, "score": 0.89}]
    tensors = [{"name": "b", "kind": "weight", "size": 300, "widths": widths}]
    biased, uniform = (tiny(method=m, tensors=tensors) for m in ("genetic", "genetic_uniform"))
    assert [w.odds is not None for w in biased.tensors[-1].widths] == [True, True]
    assert search_views([biased], {}, "miou")[0]["odds"]
    assert not search_views([uniform], {}, "miou")[0]["odds"]


def test_the_plan_of_choice_is_the_smallest_at_the_floor() -> None:
    search = tiny()
    assert search.float_bytes == 1600
    assert search.at_level() == search.members[1]  # the smaller one was dropped
    kept = tuple(replace(m, dropped="") for m in search.members)
    assert replace(search, members=kept).at_level() == kept[0]
    assert replace(search, members=kept, floor=0.888).at_level() == kept[1]
    assert replace(search, members=kept, floor=0.95).at_level() == kept[1]  # none reaches it: the most accurate
    assert replace(search, members=(), points=()).at_level() is None


def test_plane_by_hand() -> None:
    p = plane(tiny(), 0)
    assert p.points == ((0.4, 89.0), (0.2, 50.0), (0.25, 88.5), (0.3, 87.0))
    assert p.line == ((0.2, 50.0), (0.25, 88.5), (0.4, 89.0))
    assert p.members == ((0.25, 88.5), (0.4, 89.0))
    assert p.labelled == ((0.4, 89.0, "uniform 8"),)
    assert p.y_range[0] < 50 < 90 < p.y_range[1]
    assert 80 < p.near_y_range[0] < 87
    assert p.near_x_range[0] > 0.2


def test_progress_by_hand() -> None:
    steps = progress(tiny())
    assert steps.at_level == ((1, 0.4), (3, 0.25), (4, 0.25))
    # of 400 x 1: nothing; (400 - 200) x 0.5; and 0.385 more from 250 on
    assert [n for n, _ in steps.hypervolume] == [1, 2, 3, 4]
    assert [v for _, v in steps.hypervolume] == pytest.approx(
        [0, 0.25, 0.25 + 150 * 0.385 / 400, 0.25 + 150 * 0.385 / 400]
    )


def test_the_tensors_that_hurt_most(rng: np.random.Generator) -> None:
    (search,) = read_searches([search_value(rng)])
    plan = search.members[0].bits
    found = worst(search, plan, 1000)
    assert sum(w.share for w in found) == pytest.approx(1)
    assert [w.share for w in found] == sorted((w.share for w in found), reverse=True)
    assert all(w.bits == plan[w.tensor.name] for w in found)


def test_odds_come_from_scores() -> None:
    widths = (Width(4, score=0.5), Width(8, score=0.9))
    (biased,) = with_odds([Tensor("t", "weight", 10, widths=widths)], 0.9)
    narrow, wide = (w.odds for w in biased.widths)
    assert narrow is not None
    assert wide is not None
    assert 0 < narrow < wide < 1
    assert narrow + wide == pytest.approx(1)
    unknown = Tensor("t", "weight", 10, widths=(Width(4), Width(8, score=0.9)))
    assert with_odds([unknown], 0.9) == (unknown,)


# --- tables ----------------------------------------------------------------------------------------------------------
def cells(table: Table, title: str) -> list[Cell]:
    column = [c.title for c in table.columns].index(title)
    return [row[column] for row in table.rows]


def test_members_table() -> None:
    found = members_table(tiny(), {"id8": "the candidate"})
    assert [c.text for c in cells(found, "flash, kB")] == ["0.250", "0.400"]
    assert [c.text for c in cells(found, "to float, points")] == ["−1.50", "−1.00"]
    assert [c.value for c in cells(found, "size to float")] == [250 / 1600, 400 / 1600]
    assert [c.text for c in cells(found, "Candidate")] == ["dropped", "the candidate"]
    assert cells(found, "Candidate")[0].note == "noise"
    short = cells(members_table(replace(tiny(), floor=0.888)), "to float, points")
    assert [(c.tone, c.note) for c in short] == [("bad", "below the floor"), ("", "")]


def test_stat_table_says_what_other_widths_would_cost() -> None:
    search = tiny()
    found = stat_table(search.tensors, search.members[1].bits)
    assert [c.text for c in cells(found, "bits")] == ["8", "8", "8"]
    assert cells(found, "format")[2].text == "Q1.6"
    narrower, wider = cells(found, "distortion, narrower")[2], cells(found, "distortion, wider")[2]
    assert (narrower.text, narrower.note, narrower.value) == ("4.0× at 4", "−150 B", pytest.approx(0.003))
    assert wider.text == "–"
    at_four = stat_table(search.tensors, 4)
    assert [c.text for c in cells(at_four, "bits")] == ["4", "8", "4"]  # x is not searched
    assert cells(at_four, "clipped, %")[2].text == "1.00"
    assert cells(at_four, "distortion, wider")[2].note == "+150 B"


def test_stat_table_has_only_columns_that_were_paid_for() -> None:
    tensors = read_tensors([{"name": "t", "kind": "weight", "size": 4, "widths": [{"bits": 8, "rounding_error": 0.5}]}])
    assert [c.title for c in stat_table(tensors, 8).columns][-1] == "rounding error"
    assert cells(stat_table(tensors, 8), "rounding error")[0].value == 0.5
    scored = (replace(tensors[0], widths=(Width(8, score=0.5),)),)
    assert cells(stat_table(scored, 8), "score alone, %")[0].text == "50.00"


def test_methods_in_the_form_of_the_thesis() -> None:
    """Table 6.1: Q-Seg1 by the search, and by the heuristic with retraining."""
    found = methods_table(
        [
            MethodRow("Q-Seg1", "GA", 0.5798, 0.5782, 15.42e6, 3.87e6, fps=4.36),
            MethodRow("Q-Seg1", "Heuristic", 0.5798, 0.5995, 15.42e6, 3.71e6, fps=5.44),
        ]
    )
    titles = [c.title for c in found.columns]
    assert titles == [
        "Network", "Method", "float mIoU, %", "mIoU, %", "mIoU to float, %",
        "float size, MB", "size, MB", "size to float, %", "fps",
    ]  # fmt: skip
    assert [c.text for c in found.rows[0]] == [
        "Q-Seg1", "GA", "57.98", "57.82", "99.72", "15.4", "3.87", "25.10", "4.36",
    ]  # fmt: skip
    assert methods_table([]).rows == ()


def test_methods_with_their_files_and_time() -> None:
    (row,) = methods_table([MethodRow("net", "ours", 0.9, 0.9, 4e6, 1e6, file_bytes=1.5e6, cpu_s=61.7)]).rows
    assert [c.text for c in row[-3:]] == ["25.00", "1.50", "62"]


def test_methods_of_a_run() -> None:
    (row,) = method_rows([tiny()])
    assert (row.network, row.method, row.score, row.size_bytes) == ("net", "surrogate", 0.89, 400)
    assert (row.weight_bits, row.activation_bits) == (8, 8)
    assert method_rows([replace(tiny(), members=())]) == []


def test_choices_table_has_a_row_for_every_width(rng: np.random.Generator) -> None:
    (search,) = read_searches([search_value(rng)])
    found = choices_table(search.tensors)
    assert len(found.rows) == sum(len(t.widths) for t in search.tensors)
    read = list(csv.DictReader(io.StringIO(csv_text(found))))
    first = search.tensors[0].widths[0]
    assert float(read[0]["distortion"]) == pytest.approx(first.distortion)
    assert float(read[0]["odds, %"]) == pytest.approx(100 * (first.odds or 0))


def test_tables_as_files_are_text() -> None:
    table = Table(
        (Column("=name|"), Column("size, kB", numeric=True)), ((Cell("<b>|*x*\n#", note="n"), Cell("1.5", 1.5)),)
    )
    lines = markdown(table).splitlines()
    assert lines == [
        "| =name\\| | size, kB |",
        "|---|--:|",
        "| &lt;b&gt;\\|\\*x\\* \\# \\(n\\) | 1.5 |",
    ]
    assert csv_text(table).splitlines() == ['\'=name|,"size, kB"', "<b>|*x* #,1.5"]


# --- pictures and files ----------------------------------------------------------------------------------------------
def test_colours_are_one_scale() -> None:
    assert set(palette.COLOURS) == {*range(2, 17), 32} == set(palette.DARK)
    assert len(set(palette.COLOURS.values())) == 16
    assert palette.ink("#ffffff") == palette.INK
    assert palette.ink("#000000") == palette.PAPER
    assert palette.style().count(".b4 {") == 2


def test_pictures_are_drawn(rng: np.random.Generator) -> None:
    (search,) = read_searches([search_value(rng, n_points=20, n_tensors=14)])
    small = search.tensors[:6]
    assert bits.heat_map(small, bits.plans_of(search)).startswith(PNG)
    assert b"<svg" in bits.intervals(small[3], 0.7, form="svg")
    assert bits.heat_map((), {}).startswith(PNG)
    assert bits.intervals(Tensor("x", "weight", 1)).startswith(PNG)


def test_files_of_a_run(rng: np.random.Generator, tmp_path: Path) -> None:
    data = replace(report_data(rng, tmp_path), searches=read_searches([search_value(rng, n_points=20, n_tensors=14)]))
    page = write(replace(data, previews=(), curves=(), records=()))
    names = {p.name for p in (page.parent / "bits").iterdir()}
    stem = "01_256x256-width-0-5"
    assert names == {
        *(f"{stem}_{picture}.png" for picture in ("front", "bits", "odds", "distortion")),
        *(f"{stem}_{table}.{ending}" for table in ("plans", "tensors", "why") for ending in ("csv", "md")),
        "methods.csv", "methods.md",
    }  # fmt: skip
    plans = list(csv.DictReader(io.StringIO((page.parent / "bits" / f"{stem}_plans.csv").read_text("utf-8"))))
    assert [float(p["flash, kB"]) for p in plans] == [m.costs[0] / 1000 for m in data.searches[0].members]


def test_a_run_without_searches_has_no_trace_of_them(rng: np.random.Generator, tmp_path: Path) -> None:
    page = write(replace(report_data(rng, tmp_path), previews=(), curves=(), records=()))
    assert not (tmp_path / "bits").exists()
    body = re.sub(r"<(style|script).*?</\1>", "", page.read_text("utf-8"), flags=re.S)
    assert "bit-search" not in body
    assert "search-0" not in body


@pytest.mark.parametrize("text", ["../../etc/passwd", "", "ä" * 9, "con/\x00", "A B"])
def test_names_of_files_are_harmless(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9_-]{1,40}", slug(text))


# --- the page --------------------------------------------------------------------------------------------------------
def test_the_page_of_a_search(rng: np.random.Generator) -> None:
    page = render(ReportData("r", Path("r"), searches=read_searches([search_value(rng)])))
    charts = json.loads(_Elements.of(page).data)
    (search,) = charts["searches"]
    assert len(search["picks"]) == 12 + 6  # and every width for all tensors
    assert len(search["why"]) == len(search["tensors"]) == 136
    picked = search["picks"][search["first"]]
    rows = re.findall(r'<tr data-tensor="(\d+)">(.*?)</tr>', page, flags=re.S)
    for (n, row), bits_, why in zip(rows, picked, search["why"], strict=True):
        shown = re.findall(r"<t[dh][^>]*>.*?<span>(.*?)</span>", row, flags=re.S)
        assert why[str(bits_)][0][0] == shown[search["fixed_columns"]] == str(bits_), n
    assert len(page) < 1_000_000


EDGES: dict[str, dict[str, Any]] = {
    "nothing": {"points": [], "front": [], "tensors": [], "genes": [], "costs": []},
    "no points": {"points": []},
    "no members": {"front": []},
    "no costs": {"costs": [], "points": [], "front": []},
    "no floor": {"floor": None},
    "no score": {"float_score": None, "floor": None},
    "no statistics": {"tensors": []},
    "only statistics": {"points": [], "front": [], "costs": [], "genes": []},
}


@pytest.mark.parametrize("changes", EDGES.values(), ids=EDGES.keys())
def test_there_is_always_a_section(rng: np.random.Generator, changes: dict[str, Any]) -> None:
    searches = read_searches([search_value(rng, n_points=8, n_tensors=14, **changes)])
    json.loads(_Elements.of(render(ReportData("r", Path("r"), searches=searches))).data)
    assert all(search_tables(searches, {}, "miou").values())


def test_pictures_of_less(rng: np.random.Generator) -> None:
    (search,) = read_searches([search_value(rng, n_points=8, n_tensors=6)])
    less = replace(search, points=(), floor=None, tensors=tuple(replace(t, widths=()) for t in search.tensors))
    assert bits.front(less).startswith(PNG)
    assert search_files([replace(less, members=())], {}, "miou").keys() == search_tables([less], {}, "").keys() - {
        "methods.csv", "methods.md", "01_256x256-width-0-5_why.csv", "01_256x256-width-0-5_why.md"
    }  # fmt: skip


def hostile_search(text: str) -> dict[str, Any]:
    """``text`` in every place where a name from outside can stand."""
    width = {"bits": 8, "int_bits": 1, "frac_bits": 6, "distortion": 0.1, "odds": 1.0, "score": 0.5}
    names = [text, f"{text}.b"]
    return {
        "architecture": text, "method": text, "float_score": 0.9, "floor": 0.5, "costs": [text],
        "genes": [{"name": n, "kind": "weight", "size": 9, "choices": [4, 8], "fixed": None} for n in names],
        "points": [{"score": 0.8, "costs": [2], "front": True, "label": text}],
        "front": [
            {"candidate": text, "score": 0.8, "costs": [2], "bits": dict.fromkeys(names, 8), "dropped": text},
            {"candidate": text, "score": 0.7, "costs": [1], "bits": dict.fromkeys(names, 4), "dropped": ""},
        ],
        "tensors": [{"name": n, "kind": text, "size": 9, "widths": [width]} for n in names],
    }  # fmt: skip


@pytest.mark.parametrize("text", PAYLOADS)
def test_names_of_tensors_stay_text(tmp_path: Path, text: str) -> None:
    def page(name: str) -> str:
        return render(ReportData("r", tmp_path, searches=read_searches([hostile_search(name)])))

    seen, plain = _Elements.of(page(text)), _Elements.of(page("name"))
    assert seen.tags == plain.tags
    assert [name for name, _ in seen.attributes] == [name for name, _ in plain.attributes]
    json.loads(seen.data)
    assert "\u202e" not in page(text)


def test_names_in_files_stay_text() -> None:
    value = hostile_search("name")
    value["genes"] = [{**value["genes"][0], "name": text} for text in PAYLOADS]
    value["front"] = [{**value["front"][0], "bits": dict.fromkeys(PAYLOADS, 8), "dropped": t} for t in PAYLOADS]
    value["tensors"] = [{**value["tensors"][0], "name": text} for text in PAYLOADS]
    assert bits.heat_map(read_searches([value])[0].tensors, {text: {text: 4} for text in PAYLOADS}).startswith(PNG)
    files = search_tables(read_searches([value]), {}, PAYLOADS[0])
    for name, content in files.items():
        if name.endswith(".md"):
            assert not re.search(r"<(script|img)|^# heading", content.decode(), flags=re.M)
        if name.endswith(".csv"):
            for row in csv.reader(io.StringIO(content.decode())):
                assert not any(cell.startswith(("=", "+", "@", "\t")) for cell in row)


# --- statistics ------------------------------------------------------------------------------------------------------
def test_page_of_statistics(rng: np.random.Generator, tmp_path: Path) -> None:
    tensors = search_value(rng, odds=False)["tensors"][:12]
    stats = {"tensors": tensors, "float_score": 0.71, "score": "miou", "rule": "max"}
    page = write_stats(stats, tmp_path / "out" / "stats.html", "net on <data>")
    text = page.read_text("utf-8")
    assert "net on &lt;data&gt;" in text
    (search,) = json.loads(_Elements.of(text).data)["searches"]
    assert search["members"] == []
    assert len(search["odds"]) > 0  # from the scores
    beside = {p.name for p in page.parent.iterdir()}
    assert beside == {"stats.html", "stats_odds.png", "stats_tensors.csv", "stats_tensors.md"}
    with pytest.raises(UsageError, match="hold no tensor"):
        write_stats({}, tmp_path / "none.html", "x")
