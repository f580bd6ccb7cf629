"""Pareto fronts: dominance, ranks, hypervolume, knee, and what a budget allows.

Functions on ``points`` take float arrays ``(n, m)`` of *costs*: every column is minimised, and NaN (not measured)
counts as infinitely bad. Functions on records read the costs through :class:`bitfront.contracts.Objective`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import Objective
from bitfront.record import Budget, Record

__all__ = [
    "clusters",
    "costs",
    "dominates",
    "feasible",
    "front",
    "hypervolume",
    "knee",
    "nearest_miss",
    "ranks",
    "violations",
]

Points = NDArray[np.float64]


# --- points ----------------------------------------------------------------------------------------------------------
def dominates(a: Sequence[float] | Points, b: Sequence[float] | Points) -> bool:
    """Say whether costs ``a`` are nowhere worse than costs ``b`` and somewhere better."""
    x, y = _clean(np.asarray([a, b], np.float64))
    return bool((x <= y).all() and (x < y).any())


def ranks(points: Points) -> NDArray[np.int64]:
    """Return the front that each point lies on: 0 for those nothing dominates, 1 once these are removed, and so on.

    Source: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II", section III-A.
    """
    x = _clean(points)
    beats = _dominance(x)
    result = np.full(len(x), -1, np.int64)
    n_better, rank = beats.sum(0), 0
    while (result < 0).any():
        current = (n_better == 0) & (result < 0)
        result[current] = rank
        n_better = n_better - beats[current].sum(0)
        rank += 1
    return result


def hypervolume(points: Points, reference: Sequence[float]) -> float:
    """Return the volume that two- or three-dimensional ``points`` dominate, up to the ``reference`` point; exact.

    Points that are not better than the reference everywhere add nothing. Raises ValueError for other dimensions.
    """
    limit = np.asarray(reference, np.float64)
    if limit.size not in (2, 3):
        raise ValueError(f"the hypervolume is defined here for 2 or 3 objectives, not {limit.size}")
    x = _clean(points).reshape(-1, limit.size)
    x = x[(x < limit).all(1)]
    if limit.size == 2:
        return _area(x, limit)
    x = x[np.argsort(x[:, 2], kind="stable")]
    heights = np.diff(np.append(x[:, 2], limit[2]))
    return float(sum(_area(x[: i + 1, :2], limit[:2]) * height for i, height in enumerate(heights) if height > 0))


def knee(points: Points) -> int:
    """Return the index of the knee: the point farthest below the chord (plane) through the extremes of the front.

    With costs scaled to [0, 1] over the points, that chord is ``sum = 1``, so the knee has the least sum; it is never a
    dominated point. Ties go to the lowest index. Source: Das 1999, "On characterizing the knee of the Pareto curve".
    Raises ValueError without points.
    """
    x = _clean(points)
    if not len(x):
        raise ValueError("no points, no knee")
    members = np.flatnonzero(~_dominance(x).any(0))
    x = x[members]
    finite = np.isfinite(x)
    low = np.where(finite, x, np.inf).min(0)
    span = np.where(finite, x, -np.inf).max(0) - low
    scaled = np.where(span > 0, (x - low) / np.where(span > 0, span, 1.0), np.where(finite, 0.0, np.inf))
    return int(members[np.argmin(scaled.sum(1))])


def clusters(positions: Sequence[float], n: int) -> list[int]:
    """Return the cluster of each number, 0 for the lowest: the ``n`` groups with the least squared deviations.

    Exact, by dynamic programming over the sorted numbers. Fewer groups than ``n`` where there are fewer different
    numbers. Source: Fisher 1958, "On grouping for maximum homogeneity".
    """
    x = np.asarray(positions, np.float64)
    values = np.unique(x)
    weights = np.array([(x == v).sum() for v in values], np.float64)
    n, k = min(n, len(values)), len(values)
    sums = [np.concatenate([[0.0], np.cumsum(weights * values**p)]) for p in range(3)]

    def deviation(i: int, j: int) -> float:
        """Of the values ``i .. j - 1`` as one group."""
        mass, first, second = (s[j] - s[i] for s in sums)
        return float(second - first * first / mass)

    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(0, 0): (0.0, ())}
    for groups in range(1, n + 1):
        for j in range(groups, k + 1):
            options = ((i, best[groups - 1, i]) for i in range(groups - 1, j) if (groups - 1, i) in best)
            best[groups, j] = min((cost + deviation(i, j), (*starts, i)) for i, (cost, starts) in options)
    starts = values[list(best[n, k][1])] if k else values
    return [int(np.searchsorted(starts, v, side="right")) - 1 for v in x]


def _clean(points: Points) -> Points:
    x = np.asarray(points, np.float64)
    return np.where(np.isnan(x), np.inf, x)


def _dominance(x: Points) -> NDArray[np.bool_]:
    """Return ``(n, n)``: row dominates column."""
    result = np.zeros((len(x), len(x)), np.bool_)
    for i, row in enumerate(x):  # one row at a time: memory stays O(n m)
        result[i] = (row <= x).all(1) & (row < x).any(1)
    return result


def _area(x: Points, limit: Points) -> float:
    """Return the area between points ``(n, 2)`` and a corner that they all dominate."""
    x = x[np.lexsort((x[:, 1], x[:, 0]))]
    area, top = 0.0, float(limit[1])
    for left, low in x:
        if low < top:
            area += (limit[0] - left) * (top - low)
            top = float(low)
    return float(area)


# --- records ---------------------------------------------------------------------------------------------------------
def costs(records: Sequence[Record], objectives: Sequence[Objective]) -> Points:
    """Return ``(n, m)`` costs of records: what is maximised is negated, what was not measured is NaN."""
    table = np.full((len(records), len(objectives)), np.nan)
    for column, objective in enumerate(objectives):
        sign = -1.0 if objective.maximize else 1.0
        for row, record in enumerate(records):
            value = objective.value(record)
            table[row, column] = np.nan if value is None else sign * value
    return table


def front(
    records: Sequence[Record], objectives: Sequence[Objective], noise: Mapping[str, float] | None = None
) -> tuple[Record, ...]:
    """Return the records that nothing dominates, best by the first objective first.

    ``noise`` maps the name of an objective to the relative difference below which two values count as equal (latency:
    the noise floor of its measurement). Values of such an objective are grouped from the lowest up, each group reaching
    that far above its lowest member; so whatever is left out has a member of the front that is no worse beyond the
    noise. Records that are equal in everything are one: the lowest id stays. Records with an unmeasured objective are
    left out.
    """
    ordered = sorted(records, key=lambda r: r.id)
    table = costs(ordered, objectives)
    measured = np.flatnonzero(~np.isnan(table).any(1))
    ordered, table = [ordered[i] for i in measured], table[measured]
    for column, objective in enumerate(objectives):
        table[:, column] = _grouped(table[:, column], (noise or {}).get(objective.name, 0.0))
    _, first = np.unique(table, axis=0, return_index=True)
    best = [i for i in first if not any(dominates(row, table[i]) for row in table)]
    return tuple(ordered[i] for i in sorted(best, key=lambda i: (table[i].tolist(), ordered[i].id)))


def _grouped(values: Points, tolerance: float) -> Points:
    """Replace each value by the lowest of its group; a group reaches ``tolerance`` (relative) above its lowest."""
    result = values.copy()
    start, limit = 0.0, -math.inf
    for i in np.argsort(values, kind="stable"):
        if values[i] > limit:
            start = float(values[i])
            limit = start + abs(start) * tolerance
        result[i] = start
    return result


def violations(record: Record, budget: Budget, float_score: float | None = None) -> list[str]:
    """Say how a record breaks a budget, one readable line each; empty when it fits.

    ``float_score`` is the score of the float baseline, which ``max_drop`` refers to.
    """
    return [text for _, text in _misses(record, budget, float_score)]


def feasible(records: Sequence[Record], budget: Budget, float_score: float | None = None) -> tuple[Record, ...]:
    """Return the records that fit a budget, in order."""
    return tuple(r for r in records if not _misses(r, budget, float_score))


def nearest_miss(
    records: Sequence[Record], budget: Budget, float_score: float | None = None
) -> tuple[Record, str] | None:
    """Return the record that breaks a budget least (sum of relative excesses, then id), and how; or ``None``."""
    ranked = [
        (sum(e for e, _ in misses), r.id, r, misses) for r in records if (misses := _misses(r, budget, float_score))
    ]
    if not ranked:
        return None
    _, _, record, misses = min(ranked, key=lambda entry: entry[:2])
    return record, "; ".join(text for _, text in misses)


def _misses(record: Record, budget: Budget, float_score: float | None) -> list[tuple[float, str]]:
    """Return (relative excess, text) of each limit that is broken."""
    latency_ms = record.latency.value if record.latency else None
    there = record.on_device
    size_bytes = record.artifact.size_bytes if record.artifact else None
    size_bytes, what = (there.flash_bytes, "flash") if there else (size_bytes, "size")
    size_kb = None if size_bytes is None else size_bytes / 1000
    ram_bytes = there.ram_bytes if there else record.peak_bytes
    ram_kb = None if ram_bytes is None else ram_bytes / 1000
    score = record.val.values.get(record.val.score) if record.val else None
    max_kb = None if budget.max_size_bytes is None else budget.max_size_bytes / 1000
    max_ram_kb = None if budget.max_ram_bytes is None else budget.max_ram_bytes / 1000
    found = [_above("latency", latency_ms, budget.max_latency_ms, "ms"), _above(what, size_kb, max_kb, "kB")]
    found.append(_above("RAM", ram_kb, max_ram_kb, "kB"))
    if budget.min_score is not None:
        found.append(_below("score", score, budget.min_score))
    if budget.max_drop is not None and float_score is not None:
        found.append(_below("score", score, float_score - budget.max_drop, f" ({float_score:.4f} of float)"))
    return [miss for miss in found if miss is not None]


def _above(name: str, value: float | None, limit: float | None, unit: str) -> tuple[float, str] | None:
    if limit is None or (value is not None and value <= limit):
        return None
    if value is None or math.isnan(value):
        return math.inf, f"{name} not measured"
    excess = (value - limit) / limit if limit > 0 else math.inf
    return excess, f"{name} {_short(value, limit)} {unit} > {limit:.4g} {unit} by {_percent(excess)}"


def _below(name: str, value: float | None, limit: float, note: str = "") -> tuple[float, str] | None:
    if value is not None and value >= limit:
        return None
    if value is None or math.isnan(value):
        return math.inf, f"{name} not measured"
    gap = limit - value
    return gap / max(abs(limit), 1e-9), f"{name} {value:.4f} < {limit:.4f} by {gap:.2g}{note}"


def _short(value: float, limit: float) -> str:
    """Write ``value`` with as many digits as it takes to see that it is not ``limit``."""
    return next((t for d in range(3, 17) if float(t := f"{value:.{d}g}") > limit), repr(value))


def _percent(fraction: float) -> str:
    return "under 1 %" if fraction < 0.01 else f"{100 * fraction:.0f} %" if math.isfinite(fraction) else "any margin"
