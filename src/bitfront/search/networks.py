"""A bit search's evaluator on a real network: genomes -> score and distortion, by fast simulation of the exact codes.

Nothing is kept between searches but what :class:`bitfront.search.evaluations.Evaluations` stores, and that is keyed by
:attr:`NetworkEvaluator.id`: network, formats, images and labels' identities all enter it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import Scorer
from bitfront.graph.ir import Graph
from bitfront.quant.menu import Dish, Menu
from bitfront.record import content_id
from bitfront.search.evaluations import Evaluation, Subset
from bitfront.search.sensitivity import spread
from bitfront.search.space import FLOAT, Gene, Genome, Space

__all__ = ["NetworkEvaluator", "bits_of", "space_of"]

N_COMPARED = 8
"""Samples on which raw outputs are compared in an evaluation on all of them."""
BATCH_ELEMENTS = 1 << 20
"""Of the largest activation, over the images of a batch: what is written is soon read, and should still be near."""


def space_of(menu: Menu) -> Space:
    """Return the genes of a menu: a tensor with one width only is fixed."""
    return Space(tuple(_gene(dish) for dish in menu.dishes))


def _gene(dish: Dish) -> Gene:
    widths = tuple(sorted(dish.formats))
    return Gene(dish.tensor, dish.kind, widths, dish.size, fixed=widths[0] if len(widths) == 1 else None)


def bits_of(space: Space, genome: Genome) -> dict[str, int]:
    """Return tensor -> bits."""
    return {gene.name: bits for gene, bits in zip(space.genes, genome, strict=True)}


def _batch_size(graph: Graph, n_images: int) -> int:
    """Return how many images to execute together, in batches of about equal size."""
    largest = max(math.prod(graph.tensors[node.output].shape[1:]) for node in graph.nodes)
    n_batches = -(-n_images // max(4, BATCH_ELEMENTS // largest))
    return -(-n_images // n_batches)


@dataclass(frozen=True, slots=True, eq=False)
class _Float:
    """An output of the float network for one image."""

    values: NDArray[np.float32]
    variance: float

    @staticmethod
    def of(values: NDArray[np.float32]) -> _Float:
        return _Float(values.copy(), float(np.var(values, dtype=np.float64)) + 1e-12)

    def distance(self, values: NDArray[np.float32]) -> float:
        """Return the mean squared difference in units of the variance."""
        difference = (values - self.values).ravel()
        return float(difference @ difference) / difference.size / self.variance


class NetworkEvaluator:
    """Evaluates genomes of one menu on fixed images; see :class:`bitfront.search.evaluations.Evaluate`."""

    def __init__(
        self,
        menu: Menu,
        space: Space,
        images: NDArray[np.float32],
        scorer: Scorer,
        *,
        identity: str = "",
        batch_size: int = 0,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        """Make ready.

        Args:
            menu: formats by tensor and bits.
            space: genes; their names are tensors of the menu.
            images: ``(n, c, h, w)`` float32, preprocessed.
            scorer: scores the outputs of the samples that the images were made of.
            identity: content id of the samples and of how they are scored.
            batch_size: images that are executed together; 0: as suits the size of the activations.
            device: ``cpu``, ``cuda`` or ``auto``.
            **options: of :class:`bitfront.simulate.fast.Fast`.

        Raises:
            DataError: the images do not fit the network.
            UsageError: no CUDA device.
        """
        self.menu, self.space = menu, space
        batch_size = batch_size or _batch_size(menu.graph, len(images))
        from bitfront.simulate.fast import Fast  # with torch, which runs without a bit search do not need

        self.fast = Fast(menu.graph, images, batch_size=batch_size, device=device, variants=menu.variants, **options)
        self._scorer = scorer
        self.n_images = len(images)
        self._floats: dict[int, list[_Float]] = {}
        self.id = content_id(
            menu.graph.id,
            [(d.tensor, dict(d.formats)) for d in menu.dishes],
            list(menu.variants.items()),
            menu.options,
            images,
            identity,
        )

    def __call__(self, genomes: Sequence[Genome], subset: Subset | None) -> Iterator[Evaluation]:
        """Evaluate ``genomes`` on the samples of ``subset``, one by one."""
        for genome in genomes:
            yield self._evaluate(genome, subset)

    def _evaluate(self, genome: Genome, subset: Subset | None) -> Evaluation:
        compared = frozenset(spread(self.n_images, N_COMPARED) if subset is None else subset)
        plan = self.menu.plan(bits_of(self.space, genome))
        is_float = all(bits == FLOAT for bits in genome)
        counts: list[Any] = []
        distances: list[float] = []
        for positions, outputs in self.fast.values(plan, subset):
            values = [output.cpu().numpy() for output in outputs.values()]
            counts += self._scorer.count(positions, values[0])
            for row, position in enumerate(positions):
                if position not in compared:
                    continue
                distances.append(0.0 if is_float else _distance([v[row] for v in values], self._float(position)))
        return Evaluation(self._scorer.score(counts), float(np.mean(distances)))

    def _float(self, position: int) -> list[_Float]:
        """Return the float network's outputs for one image: always those of its whole batch, which sums alike."""
        if position not in self._floats:
            first = position // self.fast.batch_size * self.fast.batch_size
            batch = range(first, min(first + self.fast.batch_size, self.n_images))
            (positions, outputs), *_ = self.fast.values(self.menu.plan({}), batch)
            values = [output.cpu().numpy() for output in outputs.values()]
            self._floats[position] = [_Float.of(v[positions.index(position)]) for v in values]
        return self._floats[position]


def _distance(values: Sequence[NDArray[np.float32]], floats: Sequence[_Float]) -> float:
    """Return the mean squared difference, in units of each output's variance, averaged over the outputs."""
    return float(np.mean([f.distance(v) for v, f in zip(values, floats, strict=True)]))
