"""Predict the score of unseen genomes from one-tensor distortions and what was evaluated.

The additive model ``log D = log sum_i d_i(b_i)`` is corrected by kernel ridge regression: each tensor's share of the
distortion weighs more or less than its one-tensor statistics say (a linear kernel over the shares), and genomes whose
shares are alike err alike (an exponential kernel over the Hellinger distance of the shares). A monotone curve through
the evaluated candidates (isotonic regression) turns the corrected distortion into a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitfront.search.evaluations import Row
from bitfront.search.space import FLOAT, Genome, Space, Table

__all__ = ["Curve", "Predictor", "as_array", "fit", "isotonic"]

Values = NDArray[np.float64]
TINY = 1e-12
"""Distortions are relative to the worst single tensor; those below this count as equal."""
WEIGHT_SPREAD = 0.7
"""Expected spread of what a tensor's distortion weighs, in units of its logarithm."""
REST_SPREAD = 0.3
"""Expected spread of what that leaves, in the same unit."""
REACH = 0.1
"""Squared Hellinger distance at which the rest of two genomes is no longer alike."""
NOISE = 0.002
"""Of a score: differences that no model explains."""
HALF_WIDTH = 0.3
"""Of the difference that gives the curve's slope, in units of log distortion."""


# --- regression ------------------------------------------------------------------------------------------------------
def isotonic(values: Sequence[float] | Values, weights: Sequence[float] | Values | None = None) -> Values:
    """Return the non-increasing sequence closest to ``values`` in weighted squares.

    Pool adjacent violators; source: Barlow et al. 1972, "Statistical inference under order restrictions", 1.2.
    """
    y = np.asarray(values, np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    means: list[float] = []
    masses: list[float] = []
    counts: list[int] = []
    for value, mass in zip(y.tolist(), w.tolist(), strict=True):
        means.append(value)
        masses.append(mass)
        counts.append(1)
        while len(means) > 1 and means[-2] < means[-1]:
            total = masses[-2] + masses[-1]
            means[-2:] = [(means[-2] * masses[-2] + means[-1] * masses[-1]) / total]
            masses[-2:] = [total]
            counts[-2:] = [counts[-2] + counts[-1]]
    return np.repeat(means, counts)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A falling curve, linear between knots, level beyond them."""

    x: Values
    y: Values

    def __call__(self, x: Values) -> Values:
        """Return the heights at ``x``."""
        return np.interp(x, self.x, self.y)

    def inverse(self, y: Values) -> Values:
        """Return where the curve has heights ``y``; beyond its ends, the ends."""
        return np.interp(-y, -self.y, self.x)

    def slope(self, x: Values) -> Values:
        """Return the mean slope around ``x``."""
        steps: Values = (self(x + HALF_WIDTH) - self(x - HALF_WIDTH)) / (2 * HALF_WIDTH)
        return steps

    @staticmethod
    def through(x: Values, y: Values) -> Curve:
        """Return the curve through the blocks of the isotonic fit of points, each at its mean ``x``."""
        order = np.argsort(x, kind="stable")
        xs, fitted = x[order], isotonic(y[order])
        _, start, counts = np.unique(-fitted, return_index=True, return_counts=True)
        knots = np.array([xs[s : s + n].mean() for s, n in zip(start, counts, strict=True)])
        return Curve(knots, fitted[start])


# --- the model -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """A fitted model; see the module."""

    table: Values
    """Distortion by gene and bits, ``(genes, 33)``."""
    curve: Curve
    shares: Values
    """Of the evaluated genomes, ``(n, genes)``."""
    dual: Values
    """Weights of the evaluated genomes in the correction, ``(n,)``."""

    def score(self, genomes: NDArray[np.int64]) -> Values:
        """Return the expected score of ``(n, genes)`` bits."""
        total, shares = _parts(self.table, genomes)
        return self.curve(np.log(total) + _kernel(shares, self.shares) @ self.dual)

    def corrected(self, table: Table) -> Table:
        """Return one-tensor distortions multiplied by what they turned out to weigh: for the next knapsack."""
        weights = np.clip(WEIGHT_SPREAD**2 * self.dual @ self.shares, -3, 3)
        return tuple(row * np.exp(w) for row, w in zip(table, weights, strict=True))


def fit(space: Space, distortions: Table, rows: Sequence[Row], lowest: float) -> Predictor:
    """Fit the model to the full evaluations among ``rows``; scores below ``lowest`` count as ``lowest``.

    A score says where on the curve its genome lies, the less precisely the flatter the curve is there. Needs at least
    one finite score of a genome that is not all float32.
    """
    table = _dense(space, distortions)
    rows = [r for r in rows if r.subset is None and np.isfinite(r.evaluation.score) and min(r.genome) < FLOAT]
    total, shares = _parts(table, as_array([r.genome for r in rows]))
    scores = np.maximum([r.evaluation.score for r in rows], lowest)
    x = np.log(total)
    curve = Curve.through(x, scores)
    where = curve.inverse(scores)
    noise = NOISE / np.maximum(-curve.slope(where), NOISE / 10)
    dual = np.asarray(np.linalg.solve(_kernel(shares, shares) + np.diag(noise**2), where - x), np.float64)
    return Predictor(table, curve, shares, dual)


def _kernel(a: Values, b: Values) -> Values:
    """Covariance of two genomes' corrections: each tensor weighs otherwise, and genomes that are alike err alike."""
    alike = np.exp((np.sqrt(a) @ np.sqrt(b).T - 1) / REACH)
    return np.asarray(WEIGHT_SPREAD**2 * a @ b.T + REST_SPREAD**2 * alike, np.float64)


def _dense(space: Space, distortions: Table) -> Values:
    table = np.zeros((len(space.genes), FLOAT + 1))
    for i, (gene, row) in enumerate(zip(space.genes, distortions, strict=True)):
        table[i, list(gene.widths)] = row
    return table


def _parts(table: Values, genomes: NDArray[np.int64]) -> tuple[Values, Values]:
    """Return the additive distortion ``(n,)`` and each gene's share of it ``(n, genes)``."""
    parts = table[np.arange(len(table)), genomes]
    total = np.maximum(parts.sum(1), TINY)
    return total, parts / total[:, None]


def as_array(genomes: Sequence[Genome]) -> NDArray[np.int64]:
    """Return ``(n, genes)`` bits."""
    return np.array(genomes, np.int64)
