"""Suites: one trained network in every way there is, everything measured, and a sentence for every surprise.

``ptq`` is the study of thesis 002: float32, dynamic, float16 and integer recipes, in every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bitfront.fitting.delivery import twins
from bitfront.measure.timing import difference
from bitfront.record import Record

__all__ = ["SUITES", "surprises"]

SUITES: Mapping[str, str] = {
    "ptq": "every recipe of post-training quantization in every engine",
}
LOSS, GAIN = 0.01, 0.005
"""Loss of score that is said, gain that is said."""
LARGER = 1.0
"""Size relative to float32 from which a file counts as not smaller."""
ENGINES_APART = 1.25
"""Ratio of the times of one recipe in two engines from which it is said."""

Explain = Callable[[Record, Record], str]


def surprises(records: Sequence[Record], explain: Explain) -> list[str]:
    """Say what one would not expect of smaller numbers: slower, larger, much worse or better, not verified, failed.

    Args:
        records: all of a suite, measured.
        explain: where the time of the first goes, compared with the second; asked for files that are slower.
    """
    twin_of = twins(records)
    found: list[str] = []
    for r in records:
        name, twin = f"{r.candidate.runtime} {r.candidate.recipe}", twin_of.get(r.id)
        if r.artifact is None:
            found.append(f"{name}: {r.reason}")
            continue
        if r.agreement is not None and not r.agreement.verified:
            where = r.agreement.first_difference or "the output"
            found.append(f"{name} is not verified: it first differs in {where}")
        if twin is None or twin.id == r.id or twin.artifact is None:
            continue
        found += _against_twin(r, twin, name, explain)
    return found + _between_engines(records)


def _against_twin(r: Record, twin: Record, name: str, explain: Explain) -> list[str]:
    found = []
    assert r.artifact is not None
    assert twin.artifact is not None
    if r.val is not None and twin.val is not None:
        change = 100 * (r.val.value - twin.val.value)
        if change < -100 * LOSS or change > 100 * GAIN:
            word = "loses" if change < 0 else "gains"
            found.append(f"{name} {word} {abs(change):.1f} points of {r.val.score} against float32")
    if r.artifact.size_bytes >= LARGER * twin.artifact.size_bytes:
        n, m = r.artifact.size_bytes / 1000, twin.artifact.size_bytes / 1000
        found.append(f"{name} is no smaller than float32: {n:.1f} kB against {m:.1f} kB")
    latency = r.latency
    if latency is not None and latency.ratio is not None and latency.ratio > 1 + (latency.noise_floor or 0.0):
        found.append(f"{name} is {difference(latency)} than float32: {explain(r, twin)}")
    return found


def _between_engines(records: Sequence[Record]) -> list[str]:
    found = []
    for recipe in dict.fromkeys(r.candidate.recipe for r in records):
        timed = [r for r in records if r.candidate.recipe == recipe and r.latency is not None]
        timed.sort(key=lambda r: r.latency.value if r.latency else 0.0)
        if len(timed) < 2:
            continue
        fast, slow = timed[0], timed[-1]
        assert fast.latency is not None
        assert slow.latency is not None
        factor = slow.latency.value / fast.latency.value
        if factor > ENGINES_APART:
            found.append(
                f"{recipe} is {factor:.1f}x faster in {fast.candidate.runtime} ({fast.latency.value:.3g} ms) than in "
                f"{slow.candidate.runtime} ({slow.latency.value:.3g} ms)"
            )
    return found
