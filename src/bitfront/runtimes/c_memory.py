"""Where tensors lie in one block of memory: buffers that are alive at the same time do not overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["ALIGNMENT", "Buffer", "Layout", "lower_bound", "lower_bounds", "overlaps", "place"]

ALIGNMENT = 4
"""Every buffer begins at a multiple of so many bytes."""
MAX_TRIED = 2000
"""Buffers times attempts, for every order."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of memory and when it is in use."""

    name: str
    n_bytes: int
    first: int
    """First node, by position, at which it is alive."""
    last: int
    """Last one, included."""

    def meets(self, other: Buffer) -> bool:
        """Whether both are alive at one node."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets of buffers."""

    offsets: dict[str, int]
    n_bytes: int
    """Bytes of the whole block."""
    bound: int
    """Most bytes alive at one node: no layout takes less."""


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """Return the largest sum of the bytes, aligned, that are alive at one node."""
    return max(lower_bounds(buffers, 1 + max((b.last for b in buffers), default=-1)), default=0)


def lower_bounds(buffers: Sequence[Buffer], n_nodes: int) -> list[int]:
    """Return the bytes, aligned, that are alive at each of so many nodes."""
    return [sum(_aligned(b.n_bytes) for b in buffers if b.first <= i <= b.last) for i in range(n_nodes)]


def place(buffers: Sequence[Buffer]) -> Layout:
    """Return offsets: buffers in several orders (largest first, longest-lived, ...), each at its lowest free place.

    While the bound is not reached, the buffer that lies highest comes first instead, some times. The best is taken.
    """
    bound = lower_bound(buffers)
    best: Layout | None = None
    for key in _ORDERS:
        order = sorted(buffers, key=key)
        for _ in range(1 + MAX_TRIED // max(1, len(buffers))):
            offsets = _greedy(order)
            highest = max(order, key=lambda b: offsets[b.name] + _aligned(b.n_bytes), default=None)
            total = 0 if highest is None else offsets[highest.name] + _aligned(highest.n_bytes)
            if best is None or total < best.n_bytes:
                best = Layout(offsets, total, bound)
            if best.n_bytes == bound:
                return best
            assert highest is not None
            order = [highest, *(b for b in order if b is not highest)]
    assert best is not None
    return best


def overlaps(buffers: Sequence[Buffer], layout: Layout) -> list[tuple[str, str]]:
    """Return the pairs that are alive together and share bytes: none, in a layout that is right."""
    placed = [(layout.offsets[b.name], b) for b in buffers if b.n_bytes]
    return [
        (a.name, b.name)
        for n, (i, a) in enumerate(placed)
        for j, b in placed[n + 1 :]
        if a.meets(b) and i < j + b.n_bytes and j < i + a.n_bytes
    ]


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def _greedy(buffers: Sequence[Buffer]) -> dict[str, int]:
    placed: list[tuple[int, int, Buffer]] = []
    for buffer in buffers:
        size, at = _aligned(buffer.n_bytes), 0
        for start, end, other in sorted(placed, key=lambda p: p[0]):
            if other.meets(buffer):
                if at + size <= start:
                    break
                at = max(at, end)
        placed.append((at, at + size, buffer))
    return {buffer.name: start for start, _, buffer in placed}


_ORDERS: tuple[Callable[[Buffer], tuple[float, ...]], ...] = (
    lambda b: (-b.n_bytes, b.first),
    lambda b: (-b.n_bytes, -b.last),
    lambda b: (b.first - b.last, -b.n_bytes),
    lambda b: (-b.n_bytes * (1 + b.last - b.first), b.first),
    lambda b: (b.first, -b.n_bytes),
    lambda b: (-b.last, -b.n_bytes),
)
