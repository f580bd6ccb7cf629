"""Numbers behind the pictures of a bit search: planes, progress, what hurts most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitfront.report.searches import Cost, Search, Tensor
from bitfront.report.series import hypervolume, staircase, x_range, y_range

__all__ = ["Plane", "Progress", "Share", "plane", "progress", "worst"]

NEAR = 6.0
"""The near view reaches down to this many times the loss that the floor allows,"""
REACH = 1.25
"""and to this many times the cost of the front's most costly point."""


@dataclass(frozen=True, slots=True)
class Plane:
    """Score in per cent against one cost in its unit."""

    cost: Cost
    points: tuple[tuple[float, float], ...]
    labelled: tuple[tuple[float, float, str], ...]
    """Points with a name: baselines such as uniform bits."""
    line: tuple[tuple[float, float], ...]
    """Corners of the front, from cheap to costly."""
    members: tuple[tuple[float, float], ...]
    """One per member of the search."""
    log: bool
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    near_log: bool
    near_x_range: tuple[float, float]
    near_y_range: tuple[float, float]
    """Limits of the part around the floor."""


def plane(search: Search, axis: int) -> Plane:
    """Place all points and members of a search in the plane of its cost number ``axis``."""
    cost = search.costs[axis]
    points = [(cost.factor * p.costs[axis], 100 * p.score) for p in search.points]
    members = [(cost.factor * m.costs[axis], 100 * m.score) for m in search.members]
    labelled = [(*xy, p.label) for xy, p in zip(points, search.points, strict=True) if p.label]
    labelled += [
        (*xy, f"uniform {bits}")
        for xy, m in zip(members, search.members, strict=True)
        if (bits := search.uniform(m)) and xy not in {(x, y) for x, y, _ in labelled}
    ]
    on_front = [xy for xy, p in zip(points, search.points, strict=True) if p.front]
    kept = [xy for xy, m in zip(members, search.members, strict=True) if not m.dropped]
    line = staircase(on_front or kept)
    everything = [*points, *members]
    bounds = [100 * v for v in (search.float_score, search.level) if v is not None]
    near = _near(everything, search, max((x for x, _ in line), default=0.0))
    x_limits, log = x_range([x for x, _ in everything], None)
    near_x, near_log = x_range([x for x, _ in near], None)
    return Plane(
        cost=cost,
        points=tuple(points),
        labelled=tuple(labelled),
        line=line,
        members=tuple(members),
        log=log,
        x_range=x_limits,
        y_range=y_range([*(y for _, y in everything), *bounds], None),
        near_log=near_log,
        near_x_range=near_x,
        near_y_range=y_range([*(y for _, y in near), *bounds], None),
    )


def _near(everything: Sequence[tuple[float, float]], search: Search, max_x: float) -> Sequence[tuple[float, float]]:
    """The points not far below the floor, and not far beyond the front's most costly; all where those are too few."""
    if search.float_score is None or search.level is None:
        return everything
    lowest = 100 * (search.float_score - NEAR * max(search.float_score - search.level, 0.005))
    near = [(x, y) for x, y in everything if y >= lowest and x <= REACH * max_x]
    return near if len(near) > 2 else everything


@dataclass(frozen=True, slots=True)
class Progress:
    """How a search went, by number of full evaluations; only the steps where something changed, and the last."""

    hypervolume: tuple[tuple[int, float], ...]
    """Share, in [0, 1], of the rectangle from score 0 to 1 and cost 0 to the largest that was evaluated."""
    at_level: tuple[tuple[int, float], ...]
    """Least cost that reaches the level, in the cost's unit."""


def progress(search: Search) -> Progress:
    """Follow the first cost of a search over its evaluations."""
    if not search.costs or not search.points:
        return Progress((), ())
    factor = search.costs[0].factor
    max_x = max(p.costs[0] for p in search.points)
    line: tuple[tuple[float, float], ...] = ()
    volumes: list[tuple[int, float]] = []
    least: list[tuple[int, float]] = []
    for n, p in enumerate(search.points, 1):
        grown = staircase([*line, (p.costs[0], p.score)])
        if grown != line or n == 1:
            line = grown
            volumes.append((n, hypervolume(line, max_x)))
        reached = search.level is not None and p.score >= search.level
        if reached and (not least or factor * p.costs[0] < least[-1][1]):
            least.append((n, factor * p.costs[0]))
    last = len(search.points)
    return Progress(_ended(volumes, last), _ended(least, last))


def _ended(steps: Sequence[tuple[int, float]], last: int) -> tuple[tuple[int, float], ...]:
    return (*steps, (last, steps[-1][1])) if steps and steps[-1][0] < last else tuple(steps)


@dataclass(frozen=True, slots=True)
class Share:
    """A tensor's part in the distortion of a plan."""

    tensor: Tensor
    bits: int
    share: float


def worst(search: Search, bits: Mapping[str, int], n: int = 5) -> tuple[Share, ...]:
    """Return the tensors with the largest distortion at their bits, and their shares of the sum over all tensors."""
    found = [(t, w) for t in search.tensors if (w := t.width(bits.get(t.name))) is not None]
    known = [(t, w.bits, w.distortion) for t, w in found if w.distortion is not None and w.distortion > 0]
    total = sum(d for _, _, d in known)
    known.sort(key=lambda entry: -entry[2])
    return tuple(Share(t, b, d / total) for t, b, d in known[:n])
