"""What quantizing one tensor at a time does: to the score (metric stats), and to the raw outputs (distortion).

The score saturates: most tensors lose nothing alone, so it cannot rank them. The distortion ranks all of them, needs
two to four samples, and nearly adds up over tensors.
"""

from __future__ import annotations

import math

import numpy as np

from bitfront.errors import DataError
from bitfront.search.evaluations import Evaluations, Subset
from bitfront.search.space import Table

__all__ = ["distortion_stats", "metric_stats", "spread"]


def metric_stats(evaluations: Evaluations) -> tuple[Table, float]:
    """Return the score with one tensor quantized at a time, and that of float. Source: thesis 000, 4.5.

    One full evaluation per searched gene and width, and one for float; failures count as score 0.
    """
    space = evaluations.space
    genomes = [genome for _, genome in space.one_tensor()]
    float_score, *scores = (e.score for e in evaluations([space.float32, *genomes]))
    evaluations.report("metric stats", f"{len(genomes)} widths of {len(space.free)} tensors")
    return space.table([s if math.isfinite(s) else 0.0 for s in scores]), float_score


def distortion_stats(evaluations: Evaluations, subset: Subset) -> Table:
    """Return the mean squared change of the raw outputs with one tensor quantized at a time, relative to the largest.

    Failures count ten times the worst. Raises DataError when the evaluator tells no distortion.
    """
    space = evaluations.space
    genomes = [genome for _, genome in space.one_tensor()]
    values = np.array([e.distortion for e in evaluations(genomes, subset)])
    if genomes and not np.isfinite(values).any():
        raise DataError("the evaluator tells no distortion of the raw outputs", hint="use the method genetic")
    worst = float(np.max(values, initial=0.0, where=np.isfinite(values)))
    scaled = values / worst if worst > 0 else values
    evaluations.report("distortion", f"{len(genomes)} widths of {len(space.free)} tensors on {len(subset)} samples")
    return space.table(np.where(np.isfinite(scaled), scaled, 10.0).tolist())


def spread(n_samples: int, n: int) -> Subset:
    """Return ``n`` indices that lie evenly in ``range(n_samples)``; all of them when there are no more."""
    return tuple(int((i + 0.5) * n_samples / n) for i in range(n)) if n < n_samples else tuple(range(n_samples))
