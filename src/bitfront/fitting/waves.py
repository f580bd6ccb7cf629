"""Trainings cut into waves: those of one wave can run beside each other, because they depend on earlier waves only.

The cut depends on the jobs alone, so a run gives the same networks with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bitfront.fitting.schedule import Job

__all__ = ["MAX_WAVE", "waves"]

MAX_WAVE = 16
"""Jobs of a wave: more keep more workers busy, fewer let costly networks be given up in the light of cheap ones."""


def waves(jobs: Sequence[Job], families: Iterable[str] = ()) -> list[list[Job]]:
    """Return jobs in waves: first one size of each architecture, then the sizes that can start from it.

    Args:
        jobs: in the order of work (:func:`bitfront.fitting.schedule.schedule`).
        families: those that have a trained size already.
    """
    known = set(families)
    first: list[Job] = []
    rest: list[Job] = []
    for job in jobs:
        (rest if job.architecture.family in known else first).append(job)
        known.add(job.architecture.family)
    return [part[i : i + MAX_WAVE] for part in (first, rest) for i in range(0, len(part), MAX_WAVE)]
