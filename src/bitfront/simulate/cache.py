"""Values by key within a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Cache"]

V = TypeVar("V")


@dataclass(slots=True)
class Cache(Generic[V]):
    """Values by key, within a number of bytes; the least recently used go first."""

    n_bytes_max: int
    n_bytes: int = 0
    held: OrderedDict[Hashable, tuple[V, int]] = field(default_factory=OrderedDict)

    def __contains__(self, key: Hashable) -> bool:
        return key in self.held

    def get(self, key: Hashable) -> V | None:
        """Return a value, or ``None``."""
        found = self.held.get(key)
        if found is None:
            return None
        self.held.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: V, n_bytes: int) -> None:
        """Keep a value; the least recently used go when there is no room."""
        self.held[key] = value, n_bytes
        self.n_bytes += n_bytes
        while self.n_bytes > self.n_bytes_max and self.held:
            self.n_bytes -= self.held.popitem(last=False)[1][1]
