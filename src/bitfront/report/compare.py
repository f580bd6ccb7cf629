"""Several runs side by side: hypervolume, and the best score within each budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from bitfront.record import Record, to_json
from bitfront.report.axes import AXES, available, cost
from bitfront.report.data import ReportData, latency_ms, score_of
from bitfront.report.series import hypervolume, plane, x_range, y_range
from bitfront.report.tables import Cell, Column, Table, kilobytes, metric_name, milliseconds, number, percent, plain

__all__ = ["best_within", "budgets", "compare", "comparison_view", "shared_axes"]


def compare(runs: Sequence[ReportData]) -> Table:
    """One row a run: hypervolumes, the front's size, its best score, fastest and smallest member.

    A hypervolume is the share of the rectangle [0, 1] x [0, largest cost on any of the fronts] that a front dominates.
    """
    axes = shared_axes(runs)
    columns = (
        Column("Run"),
        *(Column(f"hypervolume score-{axis}, %", numeric=True) for axis in axes),
        Column("members", numeric=True),
        Column("evaluations", numeric=True),
        Column("best score, %", numeric=True),
        Column("fastest, ms", numeric=True),
        Column("smallest, kB", numeric=True),
    )
    volumes = {axis: _hypervolumes(runs, axis) for axis in axes}
    rows = []
    for n, run in enumerate(runs):
        front = run.front
        best = max((s for r in front if (s := score_of(r)) is not None), default=None)
        fastest = min((v for r in front if (v := latency_ms(r)) is not None), default=None)
        smallest = min((float(r.artifact.size_bytes) for r in front if r.artifact), default=None)
        rows.append(
            (
                Cell(run.name),
                *(_best_cell(percent(v[n]), v[n], v) for v in volumes.values()),
                Cell(str(len(front)), len(front)),
                Cell(str(len(run.records)), len(run.records)),
                Cell(percent(best), best),
                Cell(milliseconds(fastest), fastest),
                Cell(kilobytes(smallest), smallest),
            )
        )
    return Table(columns, tuple(rows)).filled()


def shared_axes(runs: Sequence[ReportData]) -> tuple[str, ...]:
    """Return up to two axes that every run has; score against file size where there is none."""
    own = [available(run.records) for run in runs]
    return tuple(axis for axis in AXES if all(axis in axes for axes in own))[:2] or ("size",)


def _best_cell(text: str, value: float | None, values: Iterable[float | None]) -> Cell:
    known = [v for v in values if v is not None]
    wins = value is not None and value == max(known) and value > min(known)
    return Cell(text, value, "good" if wins else "")


def _hypervolumes(runs: Sequence[ReportData], axis: str) -> list[float]:
    fronts = [_points(run, axis) for run in runs]
    corner = max((x for front in fronts for x, _ in front), default=0.0)
    return [hypervolume(front, corner) for front in fronts]


def _points(run: ReportData, axis: str) -> list[tuple[float, float]]:
    return [(x, y) for r in run.front if (x := cost(r, axis)) is not None and (y := score_of(r)) is not None]


def budgets(runs: Sequence[ReportData], axis: str, n: int = 6) -> tuple[float, ...]:
    """Round limits that cut the fronts of these runs into parts, from tight to loose, in the axis's unit."""
    costs = [x for run in runs for x, _ in _points(run, axis) if x > 0]
    if not costs:
        return ()
    low, high = min(costs), max(costs)
    steps = [low * (high / low) ** (k / max(1, n - 1)) for k in range(n)]
    return tuple(dict.fromkeys(_round_up(step) for step in steps))


def _round_up(value: float) -> float:
    """The next number with two significant digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.3g}")


def best_within(run: ReportData, axis: str, limit: float) -> Record | None:
    """The front's member with the best score among those that cost no more than ``limit``."""
    fitting = [r for r in run.front if (x := cost(r, axis)) is not None and x <= limit and score_of(r) is not None]
    return max(fitting, key=lambda r: (score_of(r) or 0.0, r.id), default=None)


def _best_table(runs: Sequence[ReportData], axis: str) -> Table:
    rows = []
    for limit in budgets(runs, axis):
        found = [best_within(run, axis, limit) for run in runs]
        scores = [None if r is None else score_of(r) for r in found]
        cells = [_best_cell(percent(s), s, scores) for s in scores]
        rows.append((Cell(f"≤ {number(limit)} {AXES[axis].unit}", limit), *cells))
    return Table((Column("Budget"), *(Column(f"{r.name}, %", numeric=True) for r in runs)), tuple(rows))


def comparison_view(runs: Sequence[ReportData]) -> dict[str, Any]:
    """Everything that the comparison page reads."""
    table = compare(runs)
    axes = shared_axes(runs)
    volumes = _hypervolumes(runs, axes[0])
    leader = max(range(len(runs)), key=lambda n: volumes[n])
    tied = sum(v == volumes[leader] for v in volumes) > 1
    view = {
        "names": [run.name for run in runs],
        "headline": "The fronts are equally large" if tied else f"{runs[leader].name} has the larger front",
        "sentence": f"Hypervolume of score against {AXES[axes[0]].title.lower()}: "
        + ", ".join(f"{run.name} {percent(v)} %" for run, v in zip(runs, volumes, strict=True)),
        "warnings": _warnings(runs),
        "runs": plain(table),
        "best": [{"title": AXES[axis].title, "table": plain(_best_table(runs, axis))} for axis in axes],
        "axes": [AXES[axis] for axis in axes],
        "charts": {"axis": axes[0], "fronts": {axis: _fronts(runs, axis) for axis in axes}},
    }
    data: dict[str, Any] = to_json(view)
    return data


def _warnings(runs: Sequence[ReportData]) -> list[str]:
    found = []
    for key, what in (("data", "data"), ("device", "devices")):
        if len({str(run.config.get(key, "")) for run in runs}) > 1:
            found.append(f"These runs used different {what}; their numbers are not comparable.")
    metrics = {m.score for run in runs for r in run.front if (m := r.val or r.test) is not None}
    if len(metrics) > 1:
        found.append(f"These runs were scored differently: {', '.join(sorted(metrics))}.")
    return found


def _fronts(runs: Sequence[ReportData], axis: str) -> dict[str, Any]:
    planes = [plane(run, axis) for run in runs]
    members = [[p for p in each.points if p.rank] for each in planes]
    joined = [p for points in members for p in points]
    return {
        "metric": metric_name(planes[0].metric),
        "title": AXES[axis].title,
        "unit": AXES[axis].unit,
        **_ranges(joined),
        "runs": [
            {"name": run.name, "line": each.line, "points": [asdict(p) for p in points]}
            for run, each, points in zip(runs, planes, members, strict=True)
        ],
    }


def _ranges(points: Sequence[Any]) -> dict[str, Any]:
    x, log = x_range([p.x for p in points], None)
    return {"x_range": x, "y_range": y_range([p.y for p in points], None), "log": log}
