"""Power-of-two steps that fit: scale whole tensors so that the best step of their weights is a power of two.

A power of two may lie half an octave beside the best step of a tensor; what that costs is as much as a third of a bit.
Where all channels behind a layer may be scaled (:mod:`bitfront.graph.equalize`), one factor for all of them moves the
step of its weight to where a power of two is, and the layers that read them take the factor back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.equalize import groups, scaled
from bitfront.graph.ir import Graph
from bitfront.stats.qmn import choose, errors

__all__ = ["align"]

BITS = 4
"""Width whose steps are aligned: few bits need it most, and the best steps of other widths are not far from there."""
N_FACTORS = 8
"""Factors that are tried in an octave."""
N_VALUES = 4096
"""Values of a weight that stand for all."""


def align(graph: Graph, bits: int = BITS) -> Graph:
    """Return a graph that computes the same, with the weights' best steps of ``bits`` bits at powers of two.

    ``graph`` is prepared and equalized. Every group of channels follows the first layer that makes it; groups with
    channels that may not be scaled stay as they are.
    """
    found = groups(graph)
    makers = {side.node.name: i for i, group in enumerate(found) for side in group.sources if group.free.all()}
    readers = {side.node.name: i for i, group in enumerate(found) for side in group.targets}
    factors: dict[int, float] = {}
    for node in graph.nodes:
        i = makers.get(node.name)
        if i is not None and i not in factors:
            read = factors.get(readers.get(node.name, -1), 1.0)
            factors[i] = 1 / _best_factor(graph.constants[node.inputs[1]] * read, bits)
    return scaled(graph, found, [np.full(group.floors.size, factors.get(i, 1.0)) for i, group in enumerate(found)])


def _best_factor(weight: NDArray[np.floating], bits: int) -> float:
    """Return the factor, within half an octave of 1, after which ``weight`` loses least in the best format."""
    values = np.sort(weight.ravel())
    if values.size > N_VALUES:
        values = values[np.linspace(0, values.size - 1, N_VALUES).astype(np.intp)]

    def loss(factor: float) -> float:
        x = values * factor
        return errors(x, choose(x, bits, "mse", signed=True)).squared / factor**2

    tried = 2.0 ** (np.arange(N_FACTORS) / N_FACTORS - 0.5)
    return float(min(tried.tolist(), key=loss))
