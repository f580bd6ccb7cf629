"""Predict the distortion and the score of unseen genomes from one-tensor distortions and what was evaluated.

The additive model ``D = sum_i d_i(b_i)`` is corrected by what each tensor's share of it turned out to weigh,
``log D' = log D + sum_i w_i d_i(b_i) / D`` (ridge regression on measured distortions), and a monotone curve through the
evaluated candidates (isotonic regression) gives the score; a second ridge regression on the same shares explains part
of what the curve leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitfront.search.evaluations import Row
from bitfront.search.space import FLOAT, Genome, Space, Table

__all__ = ["Curve", "Predictor", "as_array", "fit", "isotonic", "ridge"]

Values = NDArray[np.float64]
TINY = 1e-12
"""Distortions are relative to the worst single tensor; those below this count as equal."""
DISTORTION_PENALTY = 0.3
SCORE_PENALTY = 3.0
"""Ridge penalties, in units of one observation of a tensor that carries the whole distortion."""


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


def ridge(features: Values, targets: Values, penalty: float) -> Values:
    """Return the coefficients ``(f,)`` that minimise ``|features w - targets|^2 + penalty |w|^2``."""
    n, f = features.shape
    if n < f:  # the dual form: n equations instead of f
        dual = np.linalg.solve(features @ features.T + penalty * np.eye(n), targets)
        return np.asarray(features.T @ dual, np.float64)
    return np.asarray(np.linalg.solve(features.T @ features + penalty * np.eye(f), features.T @ targets), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A falling curve, linear between knots, level beyond them."""

    x: Values
    y: Values

    def __call__(self, x: Values) -> Values:
        """Return the heights at ``x``."""
        return np.interp(x, self.x, self.y)

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
    distortion_weights: Values
    curve: Curve
    score_weights: Values

    def log_distortion(self, genomes: NDArray[np.int64]) -> Values:
        """Return the corrected log distortion of ``(n, genes)`` bits."""
        total, shares = _parts(self.table, genomes)
        corrected: Values = np.log(total) + shares @ self.distortion_weights
        return corrected

    def score(self, genomes: NDArray[np.int64]) -> Values:
        """Return the expected score of ``(n, genes)`` bits."""
        total, shares = _parts(self.table, genomes)
        curve = self.curve(np.log(total) + shares @ self.distortion_weights)
        expected: Values = curve + shares @ self.score_weights
        return expected

    def corrected(self, table: Table) -> Table:
        """Return one-tensor distortions multiplied by what they turned out to weigh: for the next knapsack."""
        return tuple(row * np.exp(np.clip(w, -3, 3)) for row, w in zip(table, self.distortion_weights, strict=True))


def fit(space: Space, distortions: Table, rows: Sequence[Row], lowest: float) -> Predictor:
    """Fit the model to evaluated ``rows``; scores below ``lowest`` count as ``lowest``.

    Distortions may come from full evaluations or subsets: each set of samples has its own unit. Without any, the curve
    alone is fitted.
    """
    table = _dense(space, distortions)
    rows = [r for r in rows if np.isfinite(r.evaluation.score) and any(b != FLOAT for b in r.genome)]
    total, shares = _parts(table, np.array([r.genome for r in rows], np.int64).reshape(len(rows), -1))
    weights = _distortion_weights(rows, np.log(total), shares)
    full = np.array([r.subset is None for r in rows], np.bool_)
    x = (np.log(total) + shares @ weights)[full]
    y = np.maximum([r.evaluation.score for r in rows], lowest)[full]
    curve = Curve.through(x, y)
    inside = y > lowest
    rest = ridge(shares[full][inside], (y - curve(x))[inside], SCORE_PENALTY)
    return Predictor(table, weights, curve, rest)


def _distortion_weights(rows: Sequence[Row], log_total: Values, shares: Values) -> Values:
    """Ridge on log(measured / additive), centred within each set of samples."""
    measured = np.array([r.evaluation.distortion for r in rows])
    known = np.isfinite(measured) & (measured > 0)
    if not known.any():
        return np.zeros(shares.shape[1])
    target = np.log(measured[known]) - log_total[known]
    features = shares[known]
    subsets = [row.subset for row, hit in zip(rows, known, strict=True) if hit]
    for subset in set(subsets):
        hit = np.array([s == subset for s in subsets])
        target[hit] -= np.median(target[hit])
    return ridge(features, target, DISTORTION_PENALTY)


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
