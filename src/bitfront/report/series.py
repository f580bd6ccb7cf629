"""Numbers behind the pictures: computed once here, drawn by the page and by matplotlib."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bitfront.record import Record, content_id
from bitfront.report.axes import AXES, Axis, available, cost, limit
from bitfront.report.data import ReportData, latency_ms, recipe_of, score_of
from bitfront.search import front

__all__ = [
    "Check",
    "Gain",
    "Histogram",
    "Plane",
    "Point",
    "Verdict",
    "checks",
    "gains",
    "histogram",
    "hypervolume",
    "judge",
    "plane",
    "progress",
    "reasons",
    "score_floor",
    "staircase",
    "x_range",
    "y_range",
]


@dataclass(frozen=True, slots=True)
class Point:
    """One candidate in a plane: ``x`` in the axis's unit, ``y`` the score in per cent."""

    id: str
    x: float
    y: float
    status: str
    rank: int
    """1.. on the front, in the table's order; 0 elsewhere."""
    baseline: bool
    chosen: bool
    label: str


@dataclass(frozen=True, slots=True)
class Plane:
    """A Pareto plot: score against one cost."""

    axis: Axis
    metric: str
    points: tuple[Point, ...]
    line: tuple[tuple[float, float], ...]
    """Corners of the front in this plane, from cheap to costly."""
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    """Covers all but dropped candidates; those outside are drawn at the edge."""
    log: bool
    max_x: float | None
    """The budget's limit, in the axis's unit."""
    min_y: float | None
    """The budget's lowest score, in per cent."""


def score_floor(data: ReportData) -> float | None:
    """The lowest score that the budget allows, in [0, 1]; ``None`` when it allows any."""
    floors = [data.budget.min_score] if data.budget.min_score is not None else []
    base = data.record(data.baseline)
    score = None if base is None else score_of(base)
    if data.budget.max_drop is not None and score is not None:
        floors.append(score - data.budget.max_drop)
    return max(floors, default=None)


def plane(data: ReportData, axis: str) -> Plane:
    """Place every candidate that has a score and a cost. ``axis`` is a key of :data:`AXES`."""
    ranks = {r.id: n for n, r in enumerate(data.front, 1)}
    points = []
    for record in data.records:
        x, y = cost(record, axis), score_of(record)
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
            points.append(
                Point(
                    id=record.id,
                    x=x,
                    y=100 * y,
                    status=record.status,
                    rank=ranks.get(record.id, 0),
                    baseline=record.id == data.baseline,
                    chosen=record.id == data.chosen,
                    label=data.label(record),
                )
            )
    points.sort(key=lambda p: (p.x, p.y, p.id))
    floor = score_floor(data)
    max_x = limit(data.budget, axis)
    core = [p for p in points if p.status != "dropped" or p.baseline] or points
    x_limits, log = x_range([p.x for p in core], max_x)
    return Plane(
        axis=AXES[axis],
        metric=data.metric,
        points=tuple(points),
        line=staircase((p.x, p.y) for p in points if p.rank),
        x_range=x_limits,
        y_range=y_range([p.y for p in core], None if floor is None else 100 * floor),
        log=log,
        max_x=max_x,
        min_y=None if floor is None else 100 * floor,
    )


def staircase(points: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Points that no other one beats at no greater cost (x: less is better, y: more), from cheap to costly."""
    line: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if not line or y > line[-1][1]:
            line.append((x, y))
    return tuple(line)


def hypervolume(points: Iterable[tuple[float, float]], max_x: float) -> float:
    """Share of the rectangle [0, max_x] x [0, 1] dominated by points (cost, score in [0, 1]); in [0, 1]."""
    costs = np.array([(x, -y) for x, y in points]).reshape(-1, 2)
    return front.hypervolume(costs, (max_x, 0.0)) / max_x if max_x > 0 else 0.0


def progress(data: ReportData) -> tuple[tuple[int, float], ...]:
    """Hypervolume of score against the first cost that was measured: ``(n evaluations, share in [0, 1])`` after each.

    The reference corner is score 0 at the largest cost in the run. Dropped and failed candidates count as evaluations
    and add nothing; where no cost was measured there is no hypervolume.
    """
    axes = available(data.records)
    if not axes:
        return ()
    records = sorted(data.records, key=lambda r: (r.sequence, r.id))
    usable = {r.id: (x, y) for r in records if (x := cost(r, axes[0])) is not None and (y := score_of(r)) is not None}
    max_x = max((x for x, _ in usable.values()), default=0.0)
    seen: list[tuple[float, float]] = []
    steps = []
    for n, record in enumerate(records, 1):
        if record.id in usable and record.status in ("front", "dominated"):
            seen = list(staircase([*seen, usable[record.id]]))
        steps.append((n, hypervolume(seen, max_x)))
    return tuple(steps)


def reasons(records: Iterable[Record]) -> tuple[tuple[str, str, int], ...]:
    """Status, reason and number of the candidates that were dropped or failed, most frequent first.

    Reasons that differ in their numbers only are one: ``slower than float32 (1.22 to 3.40x)``.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for r in records:
        if r.status in ("dropped", "failed"):
            reason = r.reason or "no reason given"
            groups.setdefault((r.status, NUMBER.sub("#", reason)), []).append(reason)
    lost = [(status, _merged(texts), len(texts)) for (status, _), texts in groups.items()]
    return tuple(sorted(lost, key=lambda entry: (-entry[2], entry[:2])))


NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")
"""A number that is not part of a name."""


def _merged(texts: Sequence[str]) -> str:
    found = iter(zip(*(NUMBER.findall(text) for text in texts), strict=True))

    def span(_: re.Match[str]) -> str:
        values = sorted(next(found), key=float)
        return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"

    return NUMBER.sub(span, texts[0])


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of latency samples of one candidate."""

    id: str
    label: str
    edges: tuple[float, ...]
    """Milliseconds, one more than counts."""
    counts: tuple[int, ...]


def histogram(record: Record, n_bins: int = 24) -> Histogram | None:
    """Bin the latency samples of a record between their minimum and their 98th percentile; ``None`` below five.

    What lies beyond falls into the last bin, so that one hiccup of the machine does not flatten the rest.
    """
    samples = sorted(s for s in (record.latency.samples if record.latency else ()) if math.isfinite(s))
    if len(samples) < 5:
        return None
    low, high = samples[0], samples[math.ceil(0.98 * (len(samples) - 1))]
    width = (high - low) / n_bins or max(abs(low), 1e-3) / n_bins
    counts = [0] * n_bins
    for sample in samples:
        counts[min(n_bins - 1, int((sample - low) / width))] += 1
    edges = tuple(low + n * width for n in range(n_bins + 1))
    return Histogram(record.id, record.candidate.label, edges, tuple(counts))


@dataclass(frozen=True, slots=True)
class Gain:
    """What one recipe does to latency, against float32 of the same configuration."""

    recipe: str
    ratios: tuple[float, ...]
    """Latency / latency of float32, sorted; below 1 is faster."""
    n_faster: int
    """How many are faster by more than the noise floor."""
    notes: tuple[str, ...]
    """What the records say of those that are not."""


def gains(data: ReportData) -> tuple[Gain, ...]:
    """Compare the latency of every recipe with float32 at the same knobs."""
    floats = {_knobs(r): r for r in data.records if r.candidate.recipe == "float32" and latency_ms(r)}
    found = []
    for recipe in dict.fromkeys(recipe_of(r) for r in data.records if r.candidate.recipe != "float32"):
        pairs = [
            (r, r.latency.ratio if r.latency and r.latency.ratio is not None else ms / base)
            for r in data.records
            if recipe_of(r) == recipe
            and (ms := latency_ms(r)) is not None
            and (twin := floats.get(_knobs(r))) is not None
            and (base := latency_ms(twin))
        ]
        slow = [r for r, ratio in pairs if ratio >= 1 - _floor(r)]
        notes = dict.fromkeys(note for r in slow for note in r.notes)
        if pairs:
            ratios = tuple(sorted(ratio for _, ratio in pairs))
            found.append(Gain(recipe, ratios, len(pairs) - len(slow), tuple(notes)[:3]))
    return tuple(found)


def _knobs(record: Record) -> str:
    return content_id(record.candidate.model, record.candidate.knobs)


def _floor(record: Record) -> float:
    return 0.0 if record.latency is None else record.latency.noise_floor or 0.0


# --- verdict ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Check:
    """One limit of the budget against one record."""

    name: str
    """``latency``, ``size``, ``flash``, ``RAM`` or ``score``."""
    value: float | None
    """ms, bytes or a score in [0, 1]; ``None`` when not measured."""
    limit: float
    met: bool

    @property
    def excess(self) -> float:
        """By how much the limit is missed, relative to it; 0 when met, infinite when not measured."""
        if self.met:
            return 0.0
        return math.inf if self.value is None else abs(self.value - self.limit) / max(abs(self.limit), 1e-12)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the budget is met, and by what."""

    kind: str
    """``met``, ``missed``, ``unlimited`` (no budget was set) or ``empty`` (no verified artifact)."""
    record: Record | None
    """The chosen artifact, or the nearest miss."""
    checks: tuple[Check, ...] = ()


def checks(data: ReportData, record: Record) -> tuple[Check, ...]:
    """Hold a record against every limit of the budget. The score is that of the val part, which drove the search."""
    budget, found = data.budget, []
    if budget.max_latency_ms is not None:
        found.append(_at_most("latency", latency_ms(record), budget.max_latency_ms))
    if budget.max_size_bytes is not None:
        size = None if record.artifact is None else record.artifact.size_bytes
        name, size = ("flash", record.on_device.flash_bytes) if record.on_device else ("size", size)
        found.append(_at_most(name, None if size is None else float(size), budget.max_size_bytes))
    if budget.max_ram_bytes is not None:
        ram = record.on_device.ram_bytes if record.on_device else record.peak_bytes
        found.append(_at_most("RAM", None if ram is None else float(ram), budget.max_ram_bytes))
    floor = score_floor(data)
    if floor is not None:
        score = score_of(record)
        found.append(Check("score", score, floor, score is not None and score >= floor))
    return tuple(found)


def judge(data: ReportData) -> Verdict:
    """Say whether the front meets the budget; when it does not, name the member that misses by the least."""
    members, base = data.front, data.record(data.baseline)
    if not members:
        return Verdict("empty", None)
    float_score = None if base is None else score_of(base)
    fitting = front.feasible(members, data.budget, float_score)
    if not fitting:
        miss = front.nearest_miss(members, data.budget, float_score)
        assert miss is not None
        return Verdict("missed", miss[0], checks(data, miss[0]))
    preferred = [r for r in fitting if r.id == data.chosen]
    best = preferred[0] if preferred else max(fitting, key=lambda r: (score_of(r) or 0.0, r.id))
    held = checks(data, best)
    return Verdict("met" if held else "unlimited", best, held)


def _at_most(name: str, value: float | None, limit: float) -> Check:
    return Check(name, value, float(limit), value is not None and value <= limit)


def x_range(values: Sequence[float], limit: float | None) -> tuple[tuple[float, float], bool]:
    """Limits of a cost axis that show all values and a limit that is not far out, and whether it is logarithmic."""
    known = [v for v in values if v > 0]
    if not known:
        return (0.0, limit * 1.2 if limit else 1.0), False
    low, high = min(known), max(known)
    if limit and limit < 4 * high:  # a limit far out would only squeeze the points
        low, high = min(low, limit), max(high, limit)
    if high / low > 5:
        return (low / 1.25, high * 1.25), True
    pad = 0.08 * (high - low) or 0.2 * high
    return (max(0.0, low - pad), high + pad), False


def y_range(values: Sequence[float], floor: float | None) -> tuple[float, float]:
    """Limits of a score axis in per cent that show all values and the budget's floor."""
    known = [*values, *([floor] if floor is not None else [])]
    if not known:
        return 0.0, 100.0
    low, high = min(known), max(known)
    pad = 0.1 * (high - low) or 1.0
    return max(0.0, low - pad), min(100.0 + 0.02 * (high - low), high + pad)
