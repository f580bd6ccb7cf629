"""Synthetic nets for the searches: distortions that nearly add up, a score that saturates, images that differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bitfront.search.evaluations import Evaluation, Subset
from bitfront.search.front import hypervolume
from bitfront.search.space import FLOAT, Gene, Genome, Space


def make_space(
    n: int, seed: int = 0, bits: tuple[int, ...] = (4, 8, 12, 16), activation_bits: tuple[int, ...] = ()
) -> Space:
    """``n`` weights of very different sizes; with ``activation_bits`` an activation after each of them."""
    rng = np.random.default_rng([seed, n])
    genes = []
    for i in range(n):
        genes.append(Gene(f"w{i}", "weight", bits, int(np.exp(rng.normal(6, 1.5))) + 1))
        if activation_bits:
            genes.append(Gene(f"a{i}", "activation", activation_bits, int(np.exp(rng.normal(8, 1))) + 1))
    return Space(tuple(genes))


class Landscape:
    """Distortion: ``sum d_i 4^-b`` plus ``interaction`` of neighbours; the score falls from .96 as the harm passes 1.

    Harm is distortion where the tensors matter unequally: by factors of e^(``unequal`` * normal).
    """

    float_score = 0.96

    def __init__(
        self, space: Space, seed: int = 0, interaction: float = 0.0, unequal: float = 0.0, n_samples: int = 40
    ) -> None:
        rng = np.random.default_rng([seed, 99])
        self.space, self.n_samples, self.interaction = space, n_samples, interaction
        self.scale = np.exp(rng.normal(0, 2.5, len(space.genes))) * 20  # one tensor at 4 bits: .00..1
        self.pairs = rng.normal(0, 1, len(space.genes) - 1)
        self.matters = np.exp(unequal * rng.normal(0, 1, len(space.genes)))
        self.images = np.exp(rng.normal(0, 0.3, n_samples))
        self.n_genomes = 0

    def parts(self, genome: Sequence[int]) -> np.ndarray:
        bits = np.array(genome)
        return np.where(bits == FLOAT, 0.0, self.scale * 4.0 ** -bits.astype(float))

    def together(self, parts: np.ndarray) -> float:
        cross = self.pairs * np.sqrt(parts[1:] * parts[:-1])
        return float(max(parts.sum() + self.interaction * cross.sum(), 0.05 * parts.sum()))

    def score(self, genome: Sequence[int], subset: Subset | None = None) -> float:
        images = self.images if subset is None else self.images[list(subset)]
        harm = self.together(self.parts(genome) * self.matters)
        return float(np.mean(self.float_score / (1 + (3 * harm * images) ** 1.5)))

    def __call__(self, genomes: Sequence[Genome], subset: Subset | None, /) -> Iterator[Evaluation]:
        images = self.images if subset is None else self.images[list(subset)]
        for genome in genomes:
            self.n_genomes += 1
            distortion = self.together(self.parts(genome)) * float(images.mean()) * 1e-10
            yield Evaluation(self.score(genome, subset), distortion)


def volume(space: Space, points: Sequence[tuple[float, float]], floor: float, float_score: float) -> float:
    """Hypervolume of (score, size in bits), both scaled: smallest to largest, floor to float."""
    low, high = space.static_bits(space.smallest), space.static_bits(space.largest)
    costs = [((float_score - s) / (float_score - floor), (size - low) / (high - low)) for s, size in points]
    return hypervolume(np.array(costs).reshape(-1, 2), (1.0, 1.0))
