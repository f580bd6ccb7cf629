"""The report's numbers, tables, cards and page, without a browser."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import CLASSES, latency, metrics, preview, record, report_data

from bitfront.errors import UsageError
from bitfront.record import Budget, Candidate, Record, to_json
from bitfront.report import cards, compare, plots, series, tables, write, write_comparison
from bitfront.report.axes import available
from bitfront.report.candidate_view import commands
from bitfront.report.data import Curve, Preview, ReportData, from_run, score_of
from bitfront.report.page import render, render_comparison
from bitfront.report.view import MAX_CANDIDATES, page_view, visible
from bitfront.run import Run, table
from bitfront.rundb import RunDb

PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<!--<script>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "${alert(1)}",
    "$\\frac{",
    "\u2028\u2029\u202egnp.exe",
    "`;alert(1)//",
    "|x|\n# heading\n\x00\x1b[31m",
)


def small(rng: np.random.Generator, **changes: object) -> Record:
    return record(rng, 1, 256, 0.5, "int8", **changes)


# --- numbers ---------------------------------------------------------------------------------------------------------
def test_staircase_keeps_what_nothing_beats_at_no_greater_cost() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.5), (1.0, 0.4), (4.0, 0.8), (5.0, 0.95)]
    assert series.staircase(points) == ((1.0, 0.5), (3.0, 0.9), (5.0, 0.95))
    assert series.staircase([]) == ()


@settings(max_examples=25)
@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 1)), max_size=12))
def test_staircase_is_the_definition_of_the_front(points: list[tuple[float, float]]) -> None:
    line = series.staircase(points)
    for x, y in points:
        assert any(a <= x and b >= y for a, b in line)
    for p in line:
        assert not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)


def test_hypervolume_by_hand() -> None:
    # [1, 4] x 0.5 plus [2, 4] x 0.3, of 4 x 1
    assert series.hypervolume([(1.0, 0.5), (2.0, 0.8)], 4.0) == pytest.approx((3 * 0.5 + 2 * 0.3) / 4)
    assert series.hypervolume([(9.0, 1.0)], 4.0) == 0.0
    assert series.hypervolume([], 0.0) == 0.0


def test_progress_grows_and_ignores_what_was_dropped(rng: np.random.Generator) -> None:
    data = report_data(rng)
    steps = series.progress(data)
    assert [n for n, _ in steps] == list(range(1, len(data.records) + 1))
    volumes = [v for _, v in steps]
    assert volumes == sorted(volumes)
    assert 0 < volumes[-1] < 1
    dropped = replace(data, records=tuple(replace(r, status="dropped") for r in data.records))
    assert {v for _, v in series.progress(dropped)} == {0.0}


def test_plane_places_every_measured_candidate(rng: np.random.Generator) -> None:
    data = report_data(rng)
    found = series.plane(data, "latency")
    measured = {r.id: r for r in data.records if r.latency and r.val}
    assert {p.id for p in found.points} == set(measured)
    for p in found.points:
        r = measured[p.id]
        assert p.x == r.latency.value  # type: ignore[union-attr]
        assert p.y == pytest.approx(100 * r.val.value)  # type: ignore[union-attr]
        assert (p.rank > 0) == (r.status == "front")
        assert p.baseline == (r.id == data.baseline)
    assert sorted(p.rank for p in found.points if p.rank) == list(range(1, len(data.front) + 1))
    assert found.max_x == 8.0
    base = score_of(data.record(data.baseline))  # type: ignore[arg-type]
    assert found.min_y == pytest.approx(100 * (base - 0.02))  # type: ignore[operator]
    for p in found.points:
        if p.status in ("front", "dominated"):
            assert found.x_range[0] <= p.x <= found.x_range[1]
            assert found.y_range[0] <= p.y <= found.y_range[1]


def test_size_plane_is_in_kilobytes_of_1000(rng: np.random.Generator) -> None:
    r = small(rng)
    found = series.plane(ReportData("r", Path("r"), Budget(max_size_bytes=500_000), (r,)), "size")
    assert found.points[0].x == r.artifact.size_bytes / 1000  # type: ignore[union-attr]
    assert found.max_x == 500.0


def test_a_dropped_outlier_does_not_squeeze_the_rest(rng: np.random.Generator) -> None:
    good = replace(small(rng), val=metrics(rng, 0.9), status="front")
    bad = replace(record(rng, 2, 256, 1.0, "int8"), val=metrics(rng, 0.05), status="dropped")
    low, high = series.plane(ReportData("r", Path("r"), records=(good, bad)), "latency").y_range
    assert 85 < low < 90 < high < 95


@pytest.mark.parametrize(
    ("budget", "kind"),
    [
        (Budget(), "unlimited"),
        (Budget(max_latency_ms=1e6), "met"),
        (Budget(max_latency_ms=1e-6), "missed"),
        (Budget(max_latency_ms=1e6, max_size_bytes=1), "missed"),
        (Budget(min_score=0.5), "met"),
        (Budget(min_score=0.9999), "missed"),
        (Budget(max_drop=1.0), "met"),
    ],
)
def test_verdict(rng: np.random.Generator, budget: Budget, kind: str) -> None:
    data = replace(report_data(rng), budget=budget)
    verdict = series.judge(data)
    assert verdict.kind == kind
    assert verdict.record in data.front
    if kind in ("met", "unlimited"):
        assert verdict.record is not None
        assert verdict.record.id == data.chosen


def test_the_nearest_miss_is_the_one_that_misses_least(rng: np.random.Generator) -> None:
    slow, fast = (
        replace(record(rng, n, 256, w, "int8"), status="front", latency=latency(rng, ms, None))
        for n, w, ms in ((1, 1.0, 9.0), (2, 0.5, 3.0))
    )
    data = ReportData("r", Path("r"), Budget(max_latency_ms=2.0), (slow, fast), chosen=slow.id)
    verdict = series.judge(data)
    assert verdict.record == fast
    (check,) = verdict.checks
    assert check.excess == pytest.approx((fast.latency.value - 2) / 2)  # type: ignore[union-attr]
    assert math.isinf(series.checks(data, replace(fast, latency=None))[0].excess)


def test_reasons_are_counted(rng: np.random.Generator) -> None:
    lost = series.reasons(report_data(rng).records)
    assert ("dropped", "slower than float32 on this device", 5) in lost
    assert [n for *_, n in lost] == sorted((n for *_, n in lost), reverse=True)


def test_reasons_that_differ_in_numbers_only_are_one(rng: np.random.Generator) -> None:
    texts = ("slower than float32 (10.5x)", "slower than float32 (1.22x)", "differs in conv3", "differs in conv4")
    lost = series.reasons(small(rng, status="dropped", reason=text) for text in texts)
    assert lost == (
        ("dropped", "slower than float32 (1.22 to 10.5x)", 2),
        ("dropped", "differs in conv3", 1),
        ("dropped", "differs in conv4", 1),
    )


def test_data_health(rng: np.random.Generator) -> None:
    found = page_view(report_data(rng))["health"]
    assert [row[0]["text"] for row in found["parts"]["rows"]] == ["train", "val", "test"]
    assert [row[3]["value"] for row in found["parts"]["rows"]] == [1, 0, 0]
    shares = [[cell["value"] for cell in row[1:]] for row in found["classes"]["rows"]]
    assert np.sum(shares, axis=0) == pytest.approx([1, 1, 1])
    assert any("train/a.png and val/b.png" in note for note in found["notes"])
    assert any("nothing of pallet" in note for note in found["notes"])
    other = page_view(replace(report_data(rng), health={"anything": {"else": [1, 2]}}))["health"]
    assert other["parts"] is None
    assert other["other"][0]["key"] == "anything"


def test_gains_say_which_recipe_brings_no_speed(rng: np.random.Generator) -> None:
    found = {g.recipe: g for g in series.gains(report_data(rng))}
    assert found["int8"].n_faster == len(found["int8"].ratios)
    assert found["dynamic"].n_faster == 0
    assert "not fused" in found["dynamic"].notes[0]


def test_histogram_counts_every_sample(rng: np.random.Generator) -> None:
    r = small(rng, latency=latency(rng, 3.0, None))
    h = series.histogram(r)
    assert h is not None
    assert sum(h.counts) == 48
    assert len(h.edges) == len(h.counts) + 1
    assert h.edges[0] == min(r.latency.samples)  # type: ignore[union-attr]
    assert series.histogram(small(rng, latency=None)) is None


# --- text ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (3.14159, "3.14"), (41.52, "41.5"), (412.4, "412"), (12345.6, "12346"), (0.0, "0.00")],
)
def test_number(value: float, text: str) -> None:
    assert tables.number(value) == text


def test_units() -> None:
    assert tables.size(412_300) == "412 kB"
    assert tables.size(3_140_000) == "3.14 MB"
    assert tables.percent(0.93124) == "93.12"
    assert tables.points(-0.013) == "−1.30"
    assert tables.points(-0.000001) == "0.00"
    assert tables.count(1_140_000) == "1.14 M"
    assert [tables.duration(s) for s in (4.21, 41.4, 200, 7500)] == ["4.2 s", "41 s", "3 min 20 s", "2 h 5 min"]
    assert tables.metric_name("foreground_iou_image") == "foreground IoU per image"
    assert tables.metric_name("pixel_accuracy") == "pixel accuracy"


def test_a_ratio_within_the_noise_is_the_same(rng: np.random.Generator) -> None:
    assert tables.ratio(latency(rng, 1.0, 1.02)) == "same"
    assert tables.ratio(latency(rng, 1.0, 0.5)) == "0.50×"


def test_front_table(rng: np.random.Generator) -> None:
    data = report_data(rng)
    found = tables.front(data)
    assert found.ids == tuple(r.id for r in data.front)
    assert found.ids[0] == data.chosen
    assert all(len(row) == len(found.columns) for row in found.rows)
    score = [c.title for c in found.columns].index("test mIoU, %")
    assert found.rows[0][score].value == data.front[0].test.value  # type: ignore[union-attr]
    assert found.rows[0][score].note.count("to") == 1


def test_class_table_compares_one_part_only(rng: np.random.Generator) -> None:
    data = report_data(rng)
    on_test = tables.classes(data)
    base = data.record(data.baseline)
    assert on_test is not None
    assert base is not None
    assert on_test.rows[0][1].value == base.test.per_class["iou"][CLASSES[0]]  # type: ignore[union-attr]
    without = replace(data, records=tuple(replace(r, test=None) if r.id == base.id else r for r in data.records))
    on_val = tables.classes(without)
    assert on_val is not None
    assert on_val.rows[0][1].value == base.val.per_class["iou"][CLASSES[0]]  # type: ignore[union-attr]
    assert on_val.rows[-1][1].text == "–"  # the absent class


def test_terminal_tables_show_markup_as_text(rng: np.random.Generator) -> None:
    from rich.console import Console

    r = small(rng, status="failed", reason="[bold]no[/bold] \x1b[31m")
    out = io.StringIO()
    Console(file=out, width=200).print(tables.rich_table(tables.losses([r]), "[red]x"))
    assert "[bold]no[/bold]" in out.getvalue()
    assert "\x1b" not in out.getvalue()


# --- comparison ------------------------------------------------------------------------------------------------------
def test_comparison_shares_one_reference(rng: np.random.Generator) -> None:
    data = report_data(rng)
    worse = replace(
        data, name="worse", records=tuple(r for r in data.records if r.status != "front" or r.id == data.chosen)
    )
    found = compare.compare([data, worse])
    first, second = (row[1].value for row in found.rows)
    assert first is not None
    assert second is not None
    assert 0 < second < first < 1
    assert found.rows[0][1].tone == "good"


def test_budgets_are_round_and_cover_the_fronts(rng: np.random.Generator) -> None:
    data = report_data(rng)
    limits = compare.budgets([data], "latency")
    costs = [r.latency.value for r in data.front if r.latency]
    assert list(limits) == sorted(limits)
    assert min(costs) <= limits[0]
    assert max(costs) <= limits[-1]
    for limit in limits:
        best = compare.best_within(data, "latency", limit)
        assert best is not None
        assert best.latency is not None
        assert best.latency.value <= limit
        assert score_of(best) == max(score_of(r) for r in data.front if r.latency and r.latency.value <= limit)


def test_comparison_of_one_run_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two runs"):
        write_comparison([report_data(rng)], tmp_path / "compare.html")


# --- files -----------------------------------------------------------------------------------------------------------
def test_write_leaves_everything(rng: np.random.Generator, tmp_path: Path) -> None:
    data = report_data(rng, tmp_path / "run")
    page = write(data)
    assert page == tmp_path / "run" / "report.html"
    names = {p.relative_to(page.parent).as_posix() for p in page.parent.rglob("*") if p.is_file()}
    assert {"report.html", "pareto.png", "results.png", "confusion_matrix.png", "val_predictions.jpg"} <= names
    assert sum(name.endswith("CARD.md") for name in names) == len(data.front)
    assert page.stat().st_size < 8_000_000
    write_comparison([data, replace(data, name="other")], tmp_path / "compare.html")
    assert "other" in (tmp_path / "compare.html").read_text("utf-8")


EDGES = {
    "nothing": lambda d: ReportData("empty", d.path),
    "one record": lambda d: replace(d, records=d.records[:1], folders={}, chosen=""),
    "empty front": lambda d: replace(d, records=tuple(replace(r, status="dropped", reason="x") for r in d.records)),
    "all failed": lambda d: replace(
        d,
        records=tuple(
            Record(candidate=r.candidate, status="failed", reason="no space", sequence=r.sequence) for r in d.records
        ),
    ),
    "no test": lambda d: replace(d, records=tuple(replace(r, test=None) for r in d.records)),
    "no val": lambda d: replace(d, records=tuple(replace(r, val=None) for r in d.records)),
    "no latency": lambda d: replace(d, records=tuple(replace(r, latency=None) for r in d.records)),
    "no baseline": lambda d: replace(d, baseline=""),
    "no artifact": lambda d: replace(d, records=tuple(replace(r, artifact=None, agreement=None) for r in d.records)),
    "undefined score": lambda d: replace(
        d, records=tuple(replace(r, val=r.val and replace(r.val, values={"miou": None})) for r in d.records)
    ),
    "not a number": lambda d: replace(
        d,
        records=tuple(replace(r, val=r.val and replace(r.val, values={"miou": math.nan})) for r in d.records),
        curves=(Curve("x", (1,), (None,), (None,)),),
        environment={"load": math.nan},
    ),
}


@pytest.mark.parametrize("change", EDGES.values(), ids=EDGES.keys())
def test_there_is_always_a_page(rng: np.random.Generator, tmp_path: Path, change: object) -> None:
    data = change(report_data(rng, tmp_path / "run"))  # type: ignore[operator]
    text = write(data).read_text("utf-8")
    charts = json.loads(_Elements.of(text).data)
    assert set(charts["planes"]) == set(available(data.records))
    assert all(p["points"] for p in charts["planes"].values())
    render_comparison([data, data])


def test_pictures_that_are_none_are_left_out(rng: np.random.Generator) -> None:
    bad = Preview("val/x.png", {"input": b"not a picture", "label": preview(rng, "x").panels["label"]})
    data = replace(report_data(rng), previews=(bad,))
    (shown,) = page_view(data)["previews"]
    assert [p["name"] for p in shown["panels"]] == ["label"]
    assert plots.draw(data)["val_predictions.jpg"][:2] == b"\xff\xd8"


def test_many_candidates_stay_small_and_keep_the_front(rng: np.random.Generator, tmp_path: Path) -> None:
    data = report_data(rng, tmp_path)
    r = next(r for r in data.records if r.status == "dominated")
    more = tuple(
        replace(r, candidate=replace(r.candidate, knobs={**r.candidate.knobs, "n": n}), sequence=100 + n)
        for n in range(MAX_CANDIDATES + 500)
    )
    page = render(replace(data, records=(*data.records, *more)))
    assert len(page) < 8_000_000
    charts = json.loads(_Elements.of(page).data)
    assert len(charts["cards"]) == MAX_CANDIDATES
    assert {m.id for m in data.front} <= set(charts["cards"])


def test_labels_are_placed_apart() -> None:
    anchors = np.array([[50.0, 50.0], [52.0, 50.0], [54.0, 51.0], [300.0, 300.0]])
    sizes = [(60.0, 10.0)] * 4
    spots = plots.place_labels(anchors, sizes, anchors, (0.0, 0.0, 200.0, 200.0))
    boxes = [(x, y, x + 60, y + 10) for x, y in (s for s in spots if s is not None)]
    assert spots[3] is None  # outside
    assert len(boxes) >= 2
    for n, a in enumerate(boxes):
        for b in boxes[n + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        for x, y in anchors[:3]:
            assert not (a[0] < x < a[2] and a[1] < y < a[3])


# --- hostile names ---------------------------------------------------------------------------------------------------
class _Elements(HTMLParser):
    """What a browser would see: tags, attributes, and the inert data."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.data = ""
        self._inside = False

    @classmethod
    def of(cls, text: str) -> _Elements:
        parser = cls()
        parser.feed(text)
        return parser

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._inside = ("id", "data") in attrs

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.data += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def hostile_part(text: str) -> dict[str, object]:
    fault = {"reason": text, "hint": text}
    return {"n": 1, "faults": [fault], "notes": {text: 1}, "pixels": {text: 1}, "sizes": {text: 1}}


def hostile(rng: np.random.Generator, text: str, path: Path) -> ReportData:
    """``text`` in every place where a name from outside can stand."""
    score = metrics(rng, 0.9, classes=("background", text))
    score = replace(score, score=text, values={text: 0.9}, definitions={text: text})
    base = record(rng, 1, 256, 1.0, "float32")
    assert base.agreement is not None
    assert base.artifact is not None
    r = replace(
        base,
        candidate=Candidate(text, {"resolution": [64, 64], text: text}, text, text, text, text),
        artifact=replace(base.artifact, path=f"front/x/{text}", runtime=text, recipe=text, sha256=text),
        val=score,
        test=score,
        latency=replace(latency(rng, 2.0, 0.5), device=text),
        agreement=replace(base.agreement, runtime=text, cpu=text, when=text, first_difference=text, reference=text),
        status="front",
        notes=(text,),
    )
    failed = replace(r, candidate=replace(r.candidate, weights="x"), status="failed", reason=text)
    return ReportData(
        name=text,
        path=path,
        records=(r, failed),
        baseline=r.id,
        chosen=r.id,
        folders={r.id: "01_knee"},
        curves=(Curve(text, (1, 2), (1.0, 0.5), (0.1, 0.2)),),
        previews=(replace(preview(rng, text), note=text),),
        health={"parts": {text: hostile_part(text)}, "notes": [text], "leaks": [[text, text]]},
        environment={text: text, "x": {text: [{"path": text, "reason": text}]}},
        config={"model": text, "data": text, "device": text},
        config_text=text,
        command=text,
        events=({"time": text, "stage": text, "text": text},),
        when=text,
    )


@pytest.mark.parametrize("text", PAYLOADS)
def test_names_stay_text(rng: np.random.Generator, tmp_path: Path, text: str) -> None:
    data = hostile(rng, text, tmp_path)
    page = write(data).read_text("utf-8")
    seen, plain = _Elements.of(page), _Elements.of(render(hostile(rng, "name", tmp_path)))
    assert seen.tags == plain.tags
    assert [name for name, _ in seen.attributes] == [name for name, _ in plain.attributes]
    json.loads(seen.data)
    assert not any(
        (value or "").startswith("javascript:") for name, value in seen.attributes if name in ("href", "src")
    )
    assert "\x00" not in page
    assert "\u202e" not in page
    card = (tmp_path / "front" / "01_knee" / "CARD.md").read_text("utf-8")
    card = re.sub(r"^(`{3,})\n.*\n\1$", "", card, flags=re.M)  # a code block shows what is in it
    assert "<script" not in card
    assert "<img" not in card
    assert not re.search(r"^# heading", card, flags=re.M)
    assert "<script>alert" not in render_comparison([data, data])


def test_the_policy_names_the_only_script_and_style(rng: np.random.Generator) -> None:
    import base64
    import hashlib

    page = render(report_data(rng))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    allowed = policy[1].replace("&#39;", "'")
    for tag in ("script", "style"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in allowed
    assert allowed.startswith("default-src 'none'")
    assert "unsafe" not in allowed
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert " style=" not in page


def test_commands_are_quoted_for_a_shell(rng: np.random.Generator) -> None:
    import shlex

    r = small(rng, status="front")
    data = ReportData("r", Path("-x; rm -rf $HOME"), records=(r,), folders={r.id: "01_knee"})
    (_, command), *_ = commands(data, r)
    assert shlex.split(command) == ["bitfront", "predict", "./-x; rm -rf $HOME/front/01_knee/model.onnx", "IMAGE"]


def test_visible_keeps_text_and_shows_controls() -> None:
    assert visible({"ä\n": ["日本", "\x07\u202e\udcff"]}) == {"ä\n": ["日本", "\\x07\\u202e\\udcff"]}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", '=HYPERLINK("http://x")', "\t=1"])
def test_spreadsheets_see_no_formula(rng: np.random.Generator, text: str) -> None:
    r = small(rng, status="failed", reason=text, candidate=Candidate(text, {text: text}, text, text))
    for row in csv.reader(io.StringIO(table([r]))):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in row)


# --- cards -----------------------------------------------------------------------------------------------------------
def test_card_says_how_to_feed_and_what_is_known(rng: np.random.Generator) -> None:
    data = report_data(rng)
    r = data.front[0]
    text = cards.card(data, r)
    assert r.artifact is not None
    for needed in (
        f"{r.artifact.input.width} x {r.artifact.input.height}",
        "mean 0.485, 0.456, 0.406",
        "bilinear",
        r.artifact.sha256,
        "95 % interval",
        "tolerance 1",
        "2026-03-01",
        "bitfront predict",
        "absent classes left out",
    ):
        assert needed in text
    assert "Not scored on a test part" in cards.card(data, replace(r, test=None))
    quantized = replace(r.artifact, input=replace(r.artifact.input, dtype="uint8", scale=0.02, zero_point=128))
    assert "round(value / 0.02) + 128" in cards.card(data, replace(r, artifact=quantized))


# --- a run folder ----------------------------------------------------------------------------------------------------
def test_from_run(rng: np.random.Generator, tmp_path: Path) -> None:
    data = report_data(rng)
    folder = tmp_path / "packages"
    folder.mkdir()
    with RunDb(folder) as db:
        for r in data.records:
            db.record(r)
        db.put("config", {"model": "fast_scnn", "budget": to_json(data.budget)})
        db.put("verdict", {"met": True, "chosen": data.chosen, "miss": ""})
        db.put("front", [{"id": i, "name": n} for i, n in data.folders.items()])
        db.event("data", "592 images scanned")
    read = from_run(Run.open(folder))
    assert read.budget == data.budget
    assert [r.id for r in read.front] == [r.id for r in data.front]
    assert read.chosen == data.chosen
    base = read.record(read.baseline)
    assert base is not None
    assert score_of(base) == max(score_of(r) or 0 for r in data.records if r.candidate.recipe == "float32")
    assert read.events[0]["text"] == "592 images scanned"
    assert write(Run.open(folder)).is_file()
