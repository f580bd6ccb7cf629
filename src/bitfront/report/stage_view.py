"""What the page and the files say of a run's stages: a table each, and one plane of score against operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bitfront.report.figures import INK, MUTED, SERIES, encode, log_axis, plain_figure, quiet_fonts, short
from bitfront.report.search_files import table_files
from bitfront.report.series import staircase, x_range, y_range
from bitfront.report.stages import StageNetwork, StageResult, first_network
from bitfront.report.tables import NONE, Cell, Column, Table, count, metric_name, percent, plain, points

__all__ = ["stage_chart", "stage_files", "stage_table", "stage_tables", "stage_views"]

MARKERS = "osD^vP"
"""Of matplotlib; the page's script draws the same ones in this order."""


def stage_table(stage: StageResult, base: StageNetwork | None, metric: str = "score") -> Table:
    """Return the networks of one stage, the best first, compared with ``base``."""
    columns = (
        Column("Network"),
        Column(f"{metric_name(metric)}, %", numeric=True),
        Column("points", numeric=True),
        Column("thesis 001, %", numeric=True),
        Column("MACs", numeric=True),
        Column("share of MACs", numeric=True),
        Column("parameters", numeric=True),
        Column("On the front so far"),
    )
    return Table(columns, tuple(_row(n, base) for n in stage.networks)).filled()


def _row(n: StageNetwork, base: StageNetwork | None) -> tuple[Cell, ...]:
    change = None if base is None else n.score - base.score
    share = n.macs / base.macs if base is not None and base.macs and n.macs is not None else None
    tone = "" if change is None or abs(change) < 0.005 else "good" if change > 0 else "bad"
    return (
        Cell(n.label, note="compared with" if n is base else ""),
        Cell(percent(n.score), 100 * n.score),
        Cell(points(change), None if change is None else 100 * change, tone),
        Cell(NONE if n.published is None else percent(n.published), n.published),
        Cell(count(n.macs), n.macs),
        Cell(NONE if share is None else f"{share:.2f}×", share),
        Cell(count(n.parameters), n.parameters),
        Cell("front" if n.front else "", tone="good" if n.front else ""),
    )


def stage_tables(stages: Sequence[StageResult], metric: str) -> Table:
    """Return the networks of all stages as one table."""
    base = first_network(stages)
    tables = [stage_table(s, base, metric) for s in stages]
    widest = max(tables, key=lambda t: len(t.columns))
    rows = [
        (Cell(s.name), *(_cell(t, row, column) for column in widest.columns))
        for s, t in zip(stages, tables, strict=True)
        for row in t.rows
    ]
    return Table((Column("Stage"), *widest.columns), tuple(rows))


def _cell(table: Table, row: Sequence[Cell], column: Column) -> Cell:
    return row[table.columns.index(column)] if column in table.columns else Cell(NONE)


# --- the page --------------------------------------------------------------------------------------------------------
def stage_views(stages: Sequence[StageResult], metric: str) -> dict[str, Any] | None:
    """Return what the template reads; ``None`` where no stage tried anything."""
    base = first_network(stages)
    if base is None:
        return None
    return {
        "base": base.label,
        "has_points": any(n.macs for s in stages for n in s.networks),
        "stages": [{"title": _title(s), "table": plain(stage_table(s, base, metric))} for s in stages if s.networks],
    }


def _title(s: StageResult) -> str:
    named = ": ".join(text for text in (s.name, s.description) if text)
    return f"{named} (stage {s.thesis} of thesis 001)" if s.thesis else named


def stage_chart(stages: Sequence[StageResult], metric: str) -> dict[str, Any] | None:
    """Return what the script reads: millions of operations and per cent; ``None`` where there is nothing to draw."""
    found = [(s, [(n, n.macs / 1e6, 100 * n.score) for n in s.networks if n.macs]) for s in stages]
    places = [(x, y) for _, points in found for _, x, y in points]
    if not places:
        return None
    x, log = x_range([x for x, _ in places], None)
    return {
        "metric": metric_name(metric),
        "x_range": x,
        "y_range": y_range([y for _, y in places], None),
        "log": log,
        "line": staircase(places),
        "stages": [
            {"name": s.name, "points": [{"label": n.label, "x": x, "y": y, "front": n.front} for n, x, y in own]}
            for s, own in found
            if own
        ],
    }


# --- files -----------------------------------------------------------------------------------------------------------
def stage_files(stages: Sequence[StageResult], metric: str) -> dict[str, bytes]:
    """Return file name -> content of the stages' table and picture; empty where no stage tried anything."""
    if first_network(stages) is None:
        return {}
    found = table_files("stages", stage_tables(stages, metric))
    chart = stage_chart(stages, metric)
    return found if chart is None else {**found, "stages.png": _picture(chart)}


def _picture(chart: dict[str, Any]) -> bytes:
    figure, (ax,) = plain_figure(7, 4.6)
    if chart["log"]:
        log_axis(ax)
    ax.set_xlim(*chart["x_range"])
    ax.set_ylim(*chart["y_range"])
    ax.set_xlabel("MACs, M", color=MUTED, fontsize=9)
    ax.set_ylabel(f"{short(chart['metric'], 40)}, % (val)", color=MUTED, fontsize=9, parse_math=False)
    x, y = zip(*chart["line"], strict=True)
    ax.step([*x, chart["x_range"][1]], [*y, y[-1]], where="post", color=INK, linewidth=1.1, label="front", zorder=2)
    for n, stage in enumerate(chart["stages"]):
        own = stage["points"]
        ax.scatter(
            [p["x"] for p in own],
            [p["y"] for p in own],
            s=44,
            marker=MARKERS[n % len(MARKERS)],
            color=SERIES[n % len(SERIES)],
            edgecolors="white",
            label=f"{n + 1}  {short(stage['name'], 40)}",
            clip_on=False,
            zorder=3,
        )
    shown = figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8, labelcolor=MUTED)
    for text in shown.get_texts():
        text.set_parse_math(False)
    with quiet_fonts():
        return encode(figure)
