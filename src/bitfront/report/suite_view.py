"""What the page and the files say of a suite: a table of everything, three planes of trade-offs, the surprises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bitfront.record import Record
from bitfront.report.data import ReportData, latency_ms, score_of
from bitfront.report.figures import INK, MUTED, SERIES, encode, log_axis, plain_figure, quiet_fonts, short
from bitfront.report.plots import place_labels
from bitfront.report.published import published_detector
from bitfront.report.search_files import table_files
from bitfront.report.table_files import escaped
from bitfront.report.tables import (
    NONE,
    Cell,
    Column,
    Table,
    kilobytes,
    metric_name,
    milliseconds,
    number,
    percent,
    plain,
    points,
    ratio,
    verified,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["suite_files", "suite_table", "suite_view"]

MARKERS = "osD^vP"
N_COCO = 80
"""Classes of the data that thesis 004 scored its detectors on."""


def suite_table(data: ReportData) -> Table:
    """Return every file of the suite in order: engine by engine, recipe by recipe."""
    second = _second_metric(data)
    columns: tuple[Column, ...] = (
        Column("Runtime"),
        Column("Recipe"),
        Column(f"{metric_name(data.metric)}, %", numeric=True),
        Column("points", numeric=True),
        Column(f"{metric_name(second)}, %", numeric=True),
        Column("size, kB", numeric=True),
        Column("share of float", numeric=True),
        Column("latency, ms", numeric=True),
        Column("fps", numeric=True),
        Column("time to float", numeric=True),
        Column("RAM, kB", numeric=True),
        Column("Verified"),
    )
    base = data.record(data.baseline)
    records = _ordered(data)
    rows = tuple(_row(r, base, second) for r in records)
    printed = [_printed(r) for r in records]
    if any(printed):
        columns += (Column("thesis 004, its board: s, mAP@.5 %"),)
        rows = tuple((*row, Cell(text or NONE)) for row, text in zip(rows, printed, strict=True))
    return Table(columns, rows, tuple(r.id for r in records)).filled()


def _row(r: Record, base: Record | None, second: str) -> tuple[Cell, ...]:
    value, ms, n_bytes = score_of(r), latency_ms(r), float(r.artifact.size_bytes) if r.artifact else None
    float_score = score_of(base) if base is not None else None
    change = value - float_score if value is not None and float_score is not None else None
    share = n_bytes / base.artifact.size_bytes if base is not None and base.artifact and n_bytes else None
    other = r.val.values.get(second) if r.val is not None and second else None
    fps = 1000 / ms if ms else None
    return (
        Cell(r.candidate.runtime),
        Cell(r.candidate.recipe, note=r.reason[:200]),
        Cell(percent(value), None if value is None else 100 * value),
        Cell(points(change), None if change is None else 100 * change, _tone(change)),
        Cell(percent(other), None if other is None else 100 * other),
        Cell(kilobytes(n_bytes), None if n_bytes is None else n_bytes / 1000),
        Cell(NONE if share is None else f"{share:.2f}×", share),
        Cell(milliseconds(ms), ms),
        Cell(number(fps), fps),
        Cell(ratio(r.latency), r.latency.ratio if r.latency else None),
        Cell(kilobytes(r.ram_bytes), r.ram_bytes and r.ram_bytes / 1000),
        verified(r),
    )


def _printed(r: Record) -> str:
    """What thesis 004 printed of such a file; empty where it has none."""
    c = r.candidate
    coco = r.artifact is not None and len(r.artifact.output.classes) == N_COCO
    side = r.artifact.input.height if r.artifact is not None and coco else 0
    found = published_detector(c.model, side, c.runtime, c.recipe)
    return "" if found is None else f"{found[0]:.2f}, {100 * found[1]:.1f}"


def _tone(change: float | None) -> str:
    return "" if change is None or abs(change) < 0.01 else "good" if change > 0 else "bad"


def _second_metric(data: ReportData) -> str:
    """Another score beside the one that drives the run: pixel accuracy, or what there is."""
    names = [name for r in data.records if r.val is not None for name in r.val.values if name != data.metric]
    return next((n for n in ("pixel_accuracy", "accuracy", "map", "f1") if n in names), names[0] if names else "")


def _ordered(data: ReportData) -> list[Record]:
    runtimes = list(dict.fromkeys(r.candidate.runtime for r in data.records))
    return sorted(data.records, key=lambda r: (runtimes.index(r.candidate.runtime), r.sequence, r.id))


def suite_view(data: ReportData) -> dict[str, Any] | None:
    """Return what the template reads; ``None`` where the run is no suite."""
    if data.suite is None:
        return None
    return {
        "title": data.suite.title,
        "surprises": list(data.suite.surprises),
        "table": plain(suite_table(data)),
    }


# --- files -----------------------------------------------------------------------------------------------------------
def suite_files(data: ReportData) -> dict[str, bytes]:
    """Return file name -> content: the table as CSV and Markdown with the surprises below it, and the three planes."""
    if data.suite is None:
        return {}
    files = table_files(data.suite.name, suite_table(data))
    lines = "".join(f"\n- {escaped(text)}" for text in data.suite.surprises)
    if lines:
        files[f"{data.suite.name}.md"] += f"\nWhat one would not expect:\n{lines}\n".encode("utf-8", "backslashreplace")
    if any(r.latency is not None for r in data.records):
        files[f"{data.suite.name}.png"] = _picture(data)
    return files


@dataclass(frozen=True, slots=True)
class _Axis:
    title: str
    value: Callable[[Record], float | None]
    log: bool = False


def _picture(data: ReportData) -> bytes:
    size = _Axis("size, kB", lambda r: r.artifact.size_bytes / 1000 if r.artifact else None, log=True)
    time = _Axis("latency, ms", latency_ms, log=True)
    score = _Axis(
        f"{short(metric_name(data.metric), 30)}, % (val)", lambda r: None if score_of(r) is None else 100 * _score(r)
    )
    fps = _Axis("frames a second", lambda r: None if latency_ms(r) is None else 1000 / max(latency_ms(r) or 0.0, 1e-9))
    planes = ((size, score), (time, score), (size, fps))
    with quiet_fonts():
        figure, axes = plain_figure(15, 4.8, 3)
        labels = [_plane(ax, data, x, y) for ax, (x, y) in zip(axes, planes, strict=True)]
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=6, frameon=False, fontsize=8, labelcolor=MUTED)
        figure.draw_without_rendering()
        for ax, own in zip(axes, labels, strict=True):
            _label(figure, ax, own)
        return encode(figure)


def _score(r: Record) -> float:
    return score_of(r) or 0.0


def _plane(ax: Axes, data: ReportData, x: _Axis, y: _Axis) -> list[tuple[str, float, float]]:
    """Draw one plane and return its points with their recipes."""
    if x.log:
        log_axis(ax)
    ax.set_xlabel(x.title, color=MUTED, fontsize=9)
    ax.set_ylabel(y.title, color=MUTED, fontsize=9, parse_math=False)
    found = []
    for n, runtime in enumerate(dict.fromkeys(r.candidate.runtime for r in data.records)):
        own = [
            (r.candidate.recipe, a, b)
            for r in _ordered(data)
            if r.candidate.runtime == runtime and (a := x.value(r)) is not None and (b := y.value(r)) is not None
        ]
        style: dict[str, Any] = {"marker": MARKERS[n % 6], "color": SERIES[n % 6], "edgecolors": "white"}
        ax.scatter([p[1] for p in own], [p[2] for p in own], s=46, label=short(runtime, 30), zorder=3, **style)
        found += own
    return found


def _label(figure: Figure, ax: Axes, named: Sequence[tuple[str, float, float]]) -> None:
    """Write the recipes beside their points where there is room; the table has all of them."""
    canvas: Any = figure.canvas
    renderer = canvas.get_renderer()
    texts = [
        ax.text(0, 0, short(name, 24), fontsize=7, color=INK, parse_math=False, transform=None) for name, _, _ in named
    ]
    sizes = [(e.width, e.height) for e in (t.get_window_extent(renderer) for t in texts)]
    pixels = ax.transData.transform(np.array([(a, b) for _, a, b in named]).reshape(-1, 2))
    area = ax.get_window_extent(renderer)
    for text, spot in zip(
        texts, place_labels(pixels, sizes, pixels, (area.x0, area.y0, area.x1, area.y1)), strict=True
    ):
        if spot is None:
            text.remove()
        else:
            text.set_position(spot)
