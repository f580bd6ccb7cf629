"""The part of the space that a budget accepts: where trainings are worth their time.

Before a network is trained its size is known from below, and after a short training its score from below; both say
which networks can still end inside the limits. Latency is measured on the files, so it does not steer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitfront.fitting.config import BitSearch
from bitfront.fitting.exploration import Explored, best
from bitfront.fitting.searching import menu_options
from bitfront.quant.recipes import RECIPES
from bitfront.record import Budget

__all__ = ["Window", "fewest_bits"]


def fewest_bits(recipes: Iterable[str], searched: BitSearch) -> int:
    """Return the fewest bits that weights can get, from a recipe or from the search of bits."""
    widths = [RECIPES[name].bits for name in recipes]
    if searched.method:
        widths += menu_options(searched).weight_bits
    return min(widths)


@dataclass(frozen=True, slots=True)
class Window:
    """What networks must keep to."""

    max_parameters: float | None = None
    """More weights than this fill the largest file that is allowed, at the fewest bits."""
    floor: float | None = None
    """Least score."""
    max_drop: float | None = None
    """Largest loss of score against the best network."""

    @classmethod
    def of(cls, budget: Budget, recipes: Iterable[str], searched: BitSearch) -> Window:
        """Return the window of a budget: networks may get as few bits as a recipe has, or the search of bits."""
        n_bytes, bits = budget.max_size_bytes, fewest_bits(recipes, searched)
        return cls(None if n_bytes is None else 8 * n_bytes / bits, budget.min_score, budget.max_drop)

    def too_large(self, n_parameters: float) -> str:
        """Say why a network cannot be made small enough; empty when it may be."""
        if self.max_parameters is None or n_parameters <= self.max_parameters:
            return ""
        return f"too large for the budget: {n_parameters:,.0f} parameters, at most {self.max_parameters:,.0f} fit"

    def holds(self, network: Explored, best_score: float) -> bool:
        """Whether a network can still end inside."""
        floors = [self.floor or 0.0, best_score - self.max_drop if self.max_drop is not None else 0.0]
        return not self.too_large(network.parameters) and network.score >= max(floors)

    def best(self, known: Sequence[Explored], n: int) -> list[Explored]:
        """Return up to ``n`` networks of the front, those inside first; best score first in both parts.

        Where fewer than ``n`` lie inside, the rest comes from outside: a score may rise, and limits may move.
        """
        top = max((e.score for e in known), default=0.0)
        inside = [e for e in known if self.holds(e, top)]
        found = best(inside, n)
        taken = {e.architecture.id for e in found}
        others = [e for e in best(known, n) if e.architecture.id not in taken]
        return found + others[: n - len(found)]
