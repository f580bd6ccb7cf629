"""Latency: how long artifacts take, which of two is faster, and below which difference nobody can say.

The protocol, for sessions ``a``, ``b``, ... and a baseline:

1. Warm up each session until the medians of two blocks in a row agree.
2. Go through all sessions in rounds, forwards and backwards in turn (A B B A), with the baseline in between every few
   of them. Fast networks run several times a visit.
3. Compare each visit with the baseline's visits before and behind it; the median of these paired ratios is the result.
4. The baseline takes part a second time, as if it were another network. How far that ratio is from 1 (A/A control) is
   the noise floor: smaller differences mean nothing.

With one thread, time is thread CPU time: on a shared machine wall time measures the neighbours. With more threads, or
when the engine computes outside the caller's thread, it is wall time. Medians throughout, never a minimum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import Session
from bitfront.errors import unknown_name
from bitfront.measure.system import load_per_core
from bitfront.record import Measurement

__all__ = ["difference", "measure"]

Clock = Callable[[], tuple[float, float]]
"""Returns (wall seconds, CPU seconds of the calling thread)."""

BLOCK = 3
"""Runs of a warm-up block."""
MAX_BLOCKS = 10
AGREEMENT = 0.05
"""Two warm-up medians this close (relative) end the warm-up."""
VISIT_S, MAX_REPEATS = 0.03, 20
"""A visit runs a session for about so long."""
GROUP = 3
"""Sessions between two visits to the baseline."""
MAX_ROUNDS = 100
N_SAMPLES = 48
"""Samples kept of each session."""
OWN_THREAD = 0.1
"""The engine computes in the caller's thread if at least this share of wall time is the thread's CPU time."""
BUSY = 1.25
"""Wall over CPU time from which the machine counts as busy."""


def system_clock() -> tuple[float, float]:
    """Return (wall seconds, CPU seconds of this thread), both from an arbitrary start."""
    return time.perf_counter(), time.thread_time()


@dataclass(slots=True)
class _Entry:
    """A session under test."""

    session: Session
    image: NDArray[np.float32]
    repeats: int = 1
    runs: list[tuple[float, float]] = field(default_factory=list)
    """(wall, CPU) seconds of every run."""
    ratios: list[tuple[float, float]] = field(default_factory=list)
    """(wall, CPU) ratio to the baseline of every visit."""


def measure(
    sessions: Mapping[str, Session],
    images: NDArray[np.float32] | Mapping[str, NDArray[np.float32]],
    baseline: str,
    *,
    seconds: float = 10.0,
    min_rounds: int = 8,
    threads: int = 1,
    device: str = "host",
    clock: Clock = system_clock,
) -> dict[str, Measurement]:
    """Time sessions against each other; milliseconds of one call of ``run``.

    Args:
        sessions: opened artifacts by name.
        images: one batch ``(b, c, h, w)`` for all, or one for each name.
        baseline: the session that ratios refer to.
        seconds: wall time to spend after the warm-up, all sessions together.
        min_rounds: rounds to make even if that takes longer.
        threads: how many threads the sessions were opened with.
        device: name of the machine, for the record.
        clock: (wall, thread CPU) seconds.

    Raises:
        UsageError: the baseline is not among the sessions.
    """
    if baseline not in sessions:
        raise unknown_name("baseline", baseline, sessions)
    feeds = images if isinstance(images, Mapping) else dict.fromkeys(sessions, images)
    entries = {name: _Entry(session, feeds[name]) for name, session in sessions.items()}
    base = entries[baseline]
    twin = _Entry(base.session, base.image)
    others = [twin, *(entry for entry in entries.values() if entry is not base)]
    for entry in (base, *others):
        _warm_up(entry, threads, clock)
    _rounds(base, others, seconds, min_rounds, clock)
    by_cpu = all(_in_own_thread(entry, threads) for entry in (base, *others))
    note, floor = _note(base, by_cpu), _error([r[by_cpu] for r in twin.ratios])
    base.ratios = [(1.0, 1.0)]
    return {
        name: replace(_result(entry, floor, by_cpu), threads=threads, device=device, note=note)
        for name, entry in entries.items()
    }


def difference(measurement: Measurement) -> str:
    """Say in words how a measurement compares with its baseline: ``1.8x faster``, ``no difference``, ..."""
    ratio = measurement.ratio
    if ratio is None:
        return "not compared"
    if abs(ratio - 1) <= (measurement.noise_floor or 0.0):
        return "no difference"
    factor, word = (1 / ratio, "faster") if ratio < 1 else (ratio, "slower")
    return f"{factor:.{1 if factor >= 1.1 else 2}f}x {word}"


# --- running ---------------------------------------------------------------------------------------------------------
def _run(entry: _Entry, n: int, clock: Clock) -> list[tuple[float, float]]:
    spent = []
    for _ in range(n):
        wall, cpu = clock()
        entry.session.run(entry.image)
        wall_end, cpu_end = clock()
        spent.append((wall_end - wall, cpu_end - cpu))
    return spent


def _warm_up(entry: _Entry, threads: int, clock: Clock) -> None:
    """Run until two medians in a row agree, ten blocks at most; then choose the repeats of a visit."""
    before = 0.0
    for _ in range(MAX_BLOCKS):
        runs = _run(entry, BLOCK, clock)
        entry.runs = runs
        now = float(np.median([run[_in_own_thread(entry, threads)] for run in runs]))
        if abs(now - before) <= AGREEMENT * now:
            break
        before = now
    entry.repeats = int(np.clip(np.ceil(VISIT_S / max(now, 1e-9)), 1, MAX_REPEATS))
    entry.runs = []


def _visit(entry: _Entry, clock: Clock) -> NDArray[np.float64]:
    """Run a session ``repeats`` times; return its median (wall, CPU)."""
    runs = _run(entry, entry.repeats, clock)
    entry.runs += runs
    return np.maximum(np.median(runs, axis=0), 1e-9)


def _rounds(base: _Entry, others: list[_Entry], seconds: float, min_rounds: int, clock: Clock) -> None:
    start = clock()[0]
    for done in range(1, MAX_ROUNDS + 1):
        order = others if done % 2 else others[::-1]
        before = _visit(base, clock)
        for first in range(0, len(order), GROUP):
            group = order[first : first + GROUP]
            visits = [_visit(entry, clock) for entry in group]
            after = _visit(base, clock)
            for entry, visit in zip(group, visits, strict=True):
                wall, cpu = 2 * visit / (before + after)
                entry.ratios.append((float(wall), float(cpu)))
            before = after
        spent = clock()[0] - start
        if done >= min_rounds and spent * (done + 1) / done > seconds:
            return


# --- statistics ------------------------------------------------------------------------------------------------------
def _in_own_thread(entry: _Entry, threads: int) -> bool:
    wall, cpu = np.median(entry.runs, axis=0)
    return bool(threads == 1 and cpu >= OWN_THREAD * wall)


def _error(ratios: Sequence[float]) -> float:
    """Return how wrong the median of paired ratios may be, given ratios whose truth is 1.

    The larger of its distance from 1 and the half width of a 95 % interval about a median, 1.57 IQR / sqrt(n)
    (McGill, Tukey, Larsen 1978, "Variations of box plots"): a lucky median does not make a quiet machine.
    """
    return max(abs(float(np.median(ratios)) - 1), _half_width(ratios))


def _half_width(values: Sequence[float]) -> float:
    low, high = np.percentile(values, [25, 75])
    return float(1.57 * (high - low) / np.sqrt(len(values)))


def _note(base: _Entry, by_cpu: bool) -> str:
    wall, cpu = np.median(base.runs, axis=0)
    load = load_per_core()
    if not by_cpu:
        return "wall time" + (f"; load {load} per core" if load is not None else "")
    return f"busy machine: wall time is {wall / cpu:.1f}x CPU time" if wall > BUSY * cpu else ""


def _result(entry: _Entry, floor: float, by_cpu: bool) -> Measurement:
    milliseconds = 1000 * np.asarray(entry.runs)
    chosen, ratios = milliseconds[:, int(by_cpu)], [r[by_cpu] for r in entry.ratios]
    low, value, high, p90 = np.percentile(chosen, [25, 50, 75, 90])
    ratio = float(np.median(ratios))
    picked: NDArray[Any] = chosen[np.linspace(0, len(chosen) - 1, min(N_SAMPLES, len(chosen))).astype(int)]
    return Measurement(
        value=float(value),
        unit="ms",
        p90=float(p90),
        iqr=float(high - low),
        n=len(chosen),
        cpu=float(np.median(milliseconds[:, 1])) if by_cpu else None,
        wall=float(np.median(milliseconds[:, 0])),
        ratio=ratio,
        noise_floor=max(floor, _half_width(ratios) / ratio),
        samples=tuple(float(f"{v:.5g}") for v in picked),
    )
