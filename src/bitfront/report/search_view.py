"""What the page says of a bit search, as plain data; the script draws the pictures, the tables need none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bitfront.report import tables
from bitfront.report.search_series import Plane, plane, progress, worst
from bitfront.report.search_tables import known_columns, members_table, stat_table, why_cells
from bitfront.report.searches import FLOAT_BITS, Member, Search, Tensor, bits_label
from bitfront.report.tables import Cell

__all__ = ["MAX_SEARCHES", "search_charts", "search_views"]

MAX_SEARCHES = 12
"""A page shows no more; the files have all."""
MAX_POINTS = 5000
"""Points in one picture; of more, the latest."""
N_FIXED_COLUMNS = 5
"""Columns of the table of tensors that do not depend on the plan."""
GROUPS = (("weight", "Weights"), ("activation", "Activations"), ("bias", "Biases"))


def search_views(searches: Sequence[Search], labels: Mapping[str, str], metric: str) -> list[dict[str, Any]]:
    """What the template reads of every search; ``labels`` names the candidates that plans became."""
    return [_view(s, labels, tables.metric_name(metric)) for s in searches[:MAX_SEARCHES]]


def search_charts(searches: Sequence[Search], metric: str) -> list[dict[str, Any]]:
    """What the script reads of every search."""
    return [_charts(s, tables.metric_name(metric)) for s in searches[:MAX_SEARCHES]]


# --- for the template ------------------------------------------------------------------------------------------------
def _view(s: Search, labels: Mapping[str, str], metric: str) -> dict[str, Any]:
    picks = _picks(s)
    first = _first(s, picks)
    return {
        "title": s.architecture or "the network",
        "sentence": _sentence(s),
        "result": _result(s, metric),
        "has_distortion": "distortion" in known_columns(s.tensors),
        "has_scores": any(w.score is not None for t in s.tensors for w in t.widths),
        "costs": [c.title for c in s.costs],
        "has_points": bool(s.costs and (s.points or s.members)),
        "level": tables.percent(s.level),
        "cost": s.costs[0].label if s.costs else "",
        "members": tables.plain(members_table(s, labels)) if s.members else None,
        "groups": [{"key": key, "title": title} for key, title in GROUPS if _has_rows(s, key)],
        "legend": _widths(s),
        "picks": [name for name, _ in picks],
        "first": first,
        "why": tables.plain(stat_table(s.tensors, dict(picks[first][1]))) if picks else None,
        "hurts": _hurts(s, picks[first][1]) if picks else "",
        "odds": any(_odds(t) for t in s.tensors),
    }


def _sentence(s: Search) -> str:
    searched = sum(t.fixed is None for t in s.tensors)
    if not s.points and not s.members:
        return f"{len(s.tensors)} tensors."
    parts = [f"{s.method} search" if s.method else "search"]
    if s.seed is not None:
        parts.append(f"seed {s.seed}")
    if s.n_evaluations is not None:
        parts.append(f"{s.n_evaluations:,.0f} full evaluations".replace(",", " "))
    if s.seconds is not None:
        parts.append(tables.duration(s.seconds))
    parts.append(f"{searched} of {len(s.tensors)} tensors searched")
    text = ", ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def _result(s: Search, metric: str) -> str:
    """The plan that the floor asks for, in one sentence."""
    m = s.at_level()
    if m is None:
        return ""
    reached = s.level is not None and m.score >= s.level
    floor = "the floor" if s.floor is not None else "one point below float"
    what = f"Smallest plan above {floor}" if reached else f"No plan reaches {floor}; the most accurate"
    costs = ", ".join(_cost(s, n, value) for n, value in enumerate(m.costs))
    gap = "" if s.float_score is None else f", {tables.points(m.score - s.float_score)} points to float"
    return f"{what}: {costs}, {tables.percent(m.score)} % {metric}{gap}; {bits_label(s, m.bits)}."


def _cost(s: Search, n: int, value: float) -> str:
    """A cost in words: ``size 129 kB (4.8× smaller than float)``."""
    cost = s.costs[n]
    text = f"{cost.label.removesuffix(f', {cost.unit}')} {tables.number(cost.factor * value)} {cost.unit}".strip()
    smaller = cost.name in ("flash", "size_bytes") and s.float_bytes and value > 0
    return f"{text} ({s.float_bytes / value:.1f}× smaller than float)" if smaller else text


def _picks(s: Search) -> list[tuple[str, Mapping[str, int]]]:
    """The plans to look at: those put forward, then every tensor at one width."""
    found: list[tuple[str, Mapping[str, int]]] = [(_pick_name(s, m), m.bits) for m in s.members]
    for bits in _widths(s):
        if bits != FLOAT_BITS:
            found.append((f"{bits} bits everywhere", {t.name: t.at_least(bits) for t in s.tensors}))
    return found


def _pick_name(s: Search, m: Member) -> str:
    cost = f"{tables.number(s.costs[0].factor * m.costs[0])} {s.costs[0].unit}, " if s.costs else ""
    return f"{m.number}: {cost}{tables.percent(m.score)} %{', dropped' if m.dropped else ''}"


def _first(s: Search, picks: Sequence[Any]) -> int:
    m = s.at_level()
    if m is not None:
        return m.number - 1
    return next((n for n, (name, _) in enumerate(picks) if name.startswith("8 ")), 0)


def _widths(s: Search) -> list[int]:
    own = {b for m in s.members for b in m.bits.values()} | {w.bits for t in s.tensors for w in t.widths}
    return sorted(b for b in own if 2 <= b <= 16 or b == FLOAT_BITS)


def _has_rows(s: Search, group: str) -> bool:
    """Whether to draw a group: biases only when they were searched."""
    own = [t for t in s.tensors if t.group == group]
    return bool(s.members) and bool(own) and (group != "bias" or any(t.fixed is None for t in own))


def _hurts(s: Search, bits: Mapping[str, int]) -> str:
    found = worst(s, bits)
    if not found:
        return ""
    listed = ", ".join(f"{w.tensor.name} ({w.bits} bits, {100 * w.share:.0f} %)" for w in found)
    return f"Most of the distortion: {listed}."


# --- for the script --------------------------------------------------------------------------------------------------
def _charts(s: Search, metric: str) -> dict[str, Any]:
    picks = _picks(s)
    steps = progress(s)
    extra = known_columns(s.tensors)
    index = {t.name: n for n, t in enumerate(s.tensors)}
    return {
        "title": s.architecture,
        "metric": metric,
        "float_score": None if s.float_score is None else 100 * s.float_score,
        "floor": None if s.floor is None else 100 * s.floor,
        "planes": [_plane(plane(s, axis)) for axis in range(len(s.costs))] if s.points or s.members else [],
        "hypervolume": [(n, _digits(100 * v)) for n, v in steps.hypervolume],
        "at_level": [(n, _digits(v)) for n, v in steps.at_level],
        "tensors": [_tensor(t) for t in s.tensors],
        "members": [_member(s, m) for m in s.members],
        "groups": {key: [index[t.name] for t in s.tensors if t.group == key] for key, _ in GROUPS if _has_rows(s, key)},
        "first": _first(s, picks),
        "picks": [[bits.get(t.name) for t in s.tensors] for _, bits in picks],
        "hurts": [_hurts(s, bits) for _, bits in picks],
        "why": [_why(t, {bits.get(t.name) for _, bits in picks}, extra) for t in s.tensors],
        "fixed_columns": N_FIXED_COLUMNS,
        "odds": [[n, odds] for n, t in enumerate(s.tensors) if (odds := _odds(t))],
    }


def _odds(t: Tensor) -> list[tuple[int, float | None]]:
    """Odds of a tensor that is searched."""
    return [(w.bits, _digits(w.odds)) for w in t.widths if w.odds] if t.fixed is None and len(t.widths) > 1 else []


def _plane(p: Plane) -> dict[str, Any]:
    return {
        "title": p.cost.title,
        "unit": p.cost.unit,
        "points": [(_digits(x), _digits(y)) for x, y in p.points[-MAX_POINTS:]],
        "labelled": [(_digits(x), _digits(y), text) for x, y, text in p.labelled],
        "line": [(_digits(x), _digits(y)) for x, y in p.line],
        "members": [(_digits(x), _digits(y)) for x, y in p.members],
        "views": {
            "near": {"x": p.near_x_range, "y": p.near_y_range, "log": p.near_log},
            "all": {"x": p.x_range, "y": p.y_range, "log": p.log},
        },
    }


def _tensor(t: Tensor) -> dict[str, Any]:
    return {"name": t.name, "kind": t.kind, "size": t.size, "fixed": t.fixed}


def _member(s: Search, m: Member) -> dict[str, Any]:
    name = _pick_name(s, m)
    return {
        "name": name,
        "row": name.replace(", dropped", " ✗"),
        "bits": bits_label(s, m.bits),
        "dropped": m.dropped[:300],
    }


def _why(t: Tensor, widths: set[int | None], extra: Sequence[str]) -> dict[str, list[list[Any]]]:
    """Bits -> the cells of the row that change with them."""
    return {
        "null" if bits is None else str(bits): [_cell(c) for c in why_cells(t, bits, extra)]
        for bits in sorted(widths, key=lambda b: b or 0)
    }


def _cell(c: Cell) -> list[Any]:
    return [c.text, None if c.value is None else _digits(c.value), *([c.note] if c.note else [])]


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
