"""What a bit search chooses from: genes in execution order, their sizes, and the odds of drawing each width.

A *gene* is one tensor (weight, bias or activation), a *genome* gives the bits of every gene, fixed ones included, in
execution order, so that genomes that begin alike share the beginning of the network. ``FLOAT`` (32) in a genome
means that the tensor stays float32; a search never draws it, but statistics and partial searches use it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import UsageError
from bitfront.record import content_id

__all__ = [
    "ACTIVATION_BITS",
    "FLOAT",
    "KINDS",
    "ODDS",
    "THESIS_ACTIVATION_BITS",
    "THESIS_WEIGHT_BITS",
    "WEIGHT_BITS",
    "Gene",
    "Genome",
    "Odds",
    "Space",
    "Table",
    "biased_odds",
    "uniform_odds",
]

Genome = tuple[int, ...]
"""Bits of every gene of a space."""
Table = tuple[NDArray[np.float64], ...]
"""For every gene, one number per width that it may take (``Gene.widths``)."""
Odds = Table
"""For every gene, the probability of each of its widths."""

FLOAT = 32
KINDS = ("weight", "bias", "activation")
WEIGHT_BITS = (2, 3, 4, 6, 8, 16)
ACTIVATION_BITS = (4, 6, 8, 16)
THESIS_WEIGHT_BITS = (4, 8, 12, 16)
THESIS_ACTIVATION_BITS = (8, 16)
"""Thesis 000, 5.4.2."""


@dataclass(frozen=True, slots=True)
class Gene:
    """One tensor whose bits are chosen, or fixed."""

    name: str
    """Name of the tensor in the graph."""
    kind: str
    """``weight``, ``bias`` or ``activation``."""
    choices: tuple[int, ...]
    """Bits it may take, ascending."""
    size: int
    """Elements."""
    fixed: int | None = None
    """Bits that it always has; ``None`` when they are searched."""

    def __post_init__(self) -> None:
        bits = (*self.choices, *(() if self.fixed is None else (self.fixed,)))
        if self.kind not in KINDS:
            raise UsageError(f"gene '{self.name}': unknown kind '{self.kind}'", hint=f"known: {', '.join(KINDS)}")
        if not self.choices or list(self.choices) != sorted(set(self.choices)):
            raise UsageError(f"gene '{self.name}': widths {self.choices} do not ascend")
        if not all(2 <= b <= 16 or b == FLOAT for b in bits):
            raise UsageError(f"gene '{self.name}': widths {bits} are not all in 2..16", hint=f"{FLOAT} means float32")
        if self.size < 1:
            raise UsageError(f"gene '{self.name}' has {self.size} elements")

    @property
    def widths(self) -> tuple[int, ...]:
        """The bits that a genome may give it."""
        return self.choices if self.fixed is None else (self.fixed,)


@dataclass(frozen=True)
class Space:
    """The genes of a search, in execution order. Raises UsageError when two have one name."""

    genes: tuple[Gene, ...]
    free: tuple[int, ...] = field(init=False, compare=False)
    """Positions of the genes that are searched."""

    def __post_init__(self) -> None:
        names = [g.name for g in self.genes]
        if len(set(names)) < len(names):
            raise UsageError(f"two genes are called '{next(n for n in names if names.count(n) > 1)}'")
        object.__setattr__(self, "free", tuple(i for i, g in enumerate(self.genes) if g.fixed is None))

    @property
    def id(self) -> str:
        """Content id."""
        return content_id(self.genes)

    # --- other spaces ------------------------------------------------------------------------------------------------
    def cut(self, threshold: float = 0.01, bits: int = 16) -> Space:
        """Fix weights and biases of at most ``threshold`` times their mean size. Source: thesis 000, 5.4.3."""
        static = [g.size for g in self.genes if g.kind != "activation"]
        limit = threshold * float(np.mean(static)) if static else 0.0
        small = [g.kind != "activation" and g.fixed is None and g.size <= limit for g in self.genes]
        return self._fixed(small, bits)

    def only(self, *kinds: str) -> Space:
        """Search the genes of some kinds; those of the others stay float32."""
        return self._fixed([g.kind not in kinds for g in self.genes], FLOAT)

    def _fixed(self, which: Sequence[bool], bits: int) -> Space:
        genes = (dataclasses.replace(g, fixed=bits) if hit else g for g, hit in zip(self.genes, which, strict=True))
        return Space(tuple(genes))

    # --- genomes -----------------------------------------------------------------------------------------------------
    def check(self, genome: Sequence[int]) -> Genome:
        """Return ``genome`` as a tuple. Raises UsageError for widths that a gene cannot have (``FLOAT`` is allowed)."""
        if len(genome) != len(self.genes):
            raise UsageError(f"a genome of {len(genome)} widths for {len(self.genes)} genes")
        for gene, bits in zip(self.genes, genome, strict=True):
            if bits not in gene.widths and bits != FLOAT:
                raise UsageError(f"gene '{gene.name}' cannot have {bits} bits", hint=f"it may have {gene.widths}")
        return tuple(int(b) for b in genome)

    def uniform(self, bits: int) -> Genome:
        """Return the genome with ``bits`` everywhere; where a gene lacks it, the next wider width, or its widest."""
        return tuple(next((b for b in g.widths if b >= bits), g.widths[-1]) for g in self.genes)

    @property
    def smallest(self) -> Genome:
        """Every gene at its fewest bits."""
        return tuple(g.widths[0] for g in self.genes)

    @property
    def largest(self) -> Genome:
        """Every gene at its most bits."""
        return tuple(g.widths[-1] for g in self.genes)

    @property
    def float32(self) -> Genome:
        """Nothing quantized."""
        return (FLOAT,) * len(self.genes)

    def one_tensor(self) -> list[tuple[int, Genome]]:
        """Return (gene, genome) with that gene alone quantized, for every searched gene and width, in order."""
        base = self.float32
        return [(i, (*base[:i], b, *base[i + 1 :])) for i in self.free for b in self.genes[i].choices]

    def table(self, values: Sequence[float]) -> Table:
        """Arrange ``values``, one per genome of :meth:`one_tensor`, by gene; genes that are fixed get a zero."""
        left = iter(values)
        return tuple(
            np.array([float(next(left)) for _ in g.choices]) if g.fixed is None else np.zeros(1) for g in self.genes
        )

    # --- sizes -------------------------------------------------------------------------------------------------------
    def static_bits(self, genome: Genome) -> int:
        """Return the bits of all weights and biases."""
        return sum(g.size * b for g, b in zip(self.genes, genome, strict=True) if g.kind != "activation")

    def static_bytes(self, genome: Genome) -> int:
        """Return the bytes of all weights and biases, each tensor packed and rounded up to a byte."""
        return sum(-(-g.size * b // 8) for g, b in zip(self.genes, genome, strict=True) if g.kind != "activation")

    def dynamic_bits(self, genome: Genome) -> int:
        """Return the bits of all activations: an upper bound, no buffer is used twice. Source: thesis 000, 3.1.2."""
        return sum(g.size * b for g, b in zip(self.genes, genome, strict=True) if g.kind == "activation")

    # --- drawing -----------------------------------------------------------------------------------------------------
    def draw(self, odds: Odds, rng: np.random.Generator) -> Genome:
        """Return a genome drawn gene by gene."""
        return tuple(int(rng.choice(g.widths, p=p)) for g, p in zip(self.genes, odds, strict=True))


def uniform_odds(space: Space) -> Odds:
    """Return equal odds for all widths of a gene."""
    return tuple(np.full(len(g.widths), 1 / len(g.widths)) for g in space.genes)


ODDS = ("uniform", "reversed", "inverse")
"""How genes are drawn: without statistics, and by the two readings of thesis 000, 5.4.4."""


def biased_odds(space: Space, scores: Table, float_score: float, rule: str = "inverse") -> Odds:
    """Return odds from the scores with one tensor quantized at a time. Source: thesis 000, 5.4.4.

    Width ``b`` loses ``d_b``: the mean over all wider widths ``b'`` and float of ``score_b' - score_b``, not below 0.
    ``reversed`` mirrors the losses, as the text says ("reversing and normalizing"): ``p_b ~ max d + min d - d_b``,
    equal odds without any loss; ``inverse`` takes ``p_b ~ 1 / (d_b + 0.005)``, which separates them more sharply.
    """
    if rule not in ODDS:
        raise UsageError(f"unknown odds '{rule}'", hint=f"known: {', '.join(ODDS)}")
    if rule == "uniform":
        return uniform_odds(space)
    return tuple(
        np.ones(1) if gene.fixed is not None else _odds(_losses(row, float_score), rule)
        for gene, row in zip(space.genes, scores, strict=True)
    )


def _losses(scores: NDArray[np.float64], float_score: float) -> NDArray[np.float64]:
    known = np.append(np.nan_to_num(scores, nan=0.0), float_score)
    losses = [float(np.mean(known[i + 1 :] - known[i])) for i in range(len(scores))]
    return np.maximum(losses, 0.0)


def _odds(losses: NDArray[np.float64], rule: str) -> NDArray[np.float64]:
    raw = losses.max() + losses.min() - losses if rule == "reversed" else 1 / (losses + 0.005)
    total = float(raw.sum())
    return raw / total if total > 0 else np.full(len(losses), 1 / len(losses))
