"""Streaming dynamic ranges: what values every tensor takes, in memory that does not grow with the data.

Each tensor has one :class:`Range`: extremes, channel means and a histogram of at most 2048 bins. Bins have a width of
``2**exponent`` and are anchored at zero, and the exponent is the smallest that lets the extremes fit, so a histogram is
a function of the values alone: however the data are split into batches, and in whatever order parts are merged, the
counts are the same, and widening (two bins become one) loses none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DataError
from bitfront.graph.ir import Graph

__all__ = ["BINS", "RULES", "Range", "Ranges", "Rule", "collect"]

BINS = 2048
"""Most bins that a histogram has; at least half of them are in use unless all values are nearly equal."""

RULES = ("minmax", "percentile", "mse")
"""How :meth:`Range.choose` sets the ends: the extremes, a quantile, or the least quantization error."""

Rule = str
Observe = Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]

_FINEST = 22
"""Bins are no finer than the largest magnitude by this many bits: float32 itself has 24."""


@dataclass(frozen=True, slots=True, eq=False)
class Range:
    """The values one tensor took."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    exponent: int
    """A bin is ``2**exponent`` wide."""
    start: int
    """Index of the first bin: bin ``i`` of ``counts`` holds values in ``[start + i, start + i + 1) * 2**exponent``."""
    counts: NDArray[np.int64]
    """Number of values in each bin, from that of ``low`` to that of ``high``."""
    sums: NDArray[np.float64]
    """``(c,)`` sum of the values of each channel (axis 1)."""

    @classmethod
    def of(cls, values: NDArray[Any]) -> Range:
        """Return the range of float ``values`` ``(b, c, ...)``. Raises ValueError when empty or not finite."""
        x = np.asarray(values, np.float32)
        if x.size == 0:
            raise ValueError("no values")
        low, high = float(x.min()), float(x.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("values are not finite")
        axes = tuple(i for i in range(x.ndim) if i != 1)
        sums = np.atleast_1d(x.sum(axes, dtype=np.float64))
        exponent = _exponent(low, high)
        index = np.floor(np.ldexp(x.ravel(), -exponent, dtype=np.float64)).astype(np.int64)  # exact: a power of two
        start = int(index.min())
        return cls(low, high, exponent, start, np.bincount(index - start).astype(np.int64), sums)

    @property
    def count(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum())

    @property
    def means(self) -> NDArray[np.float64]:
        """``(c,)`` mean of each channel."""
        return self.sums * self.sums.size / self.count

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return float(self.sums.sum() / self.count)

    def __add__(self, other: Range) -> Range:
        """Return the range of the values of both. Raises ValueError when they have different channels."""
        if self.sums.shape != other.sums.shape:
            raise ValueError(f"ranges of {self.sums.size} and {other.sums.size} channels")
        low, high = min(self.low, other.low), max(self.high, other.high)
        exponent = _exponent(low, high)
        parts = [(r.start >> exponent - r.exponent, r._coarse(exponent)) for r in (self, other)]
        start = min(s for s, _ in parts)
        counts = np.zeros(max(s + c.size for s, c in parts) - start, np.int64)
        for s, c in parts:
            counts[s - start : s - start + c.size] += c
        return Range(low, high, exponent, start, counts, self.sums + other.sums)

    def _coarse(self, exponent: int) -> NDArray[np.int64]:
        """Return the counts in bins of ``2**exponent``, not finer than ours, from the first that is in use."""
        index = np.arange(self.start, self.start + self.counts.size) >> exponent - self.exponent
        counts = np.zeros(int(index[-1] - index[0]) + 1, np.int64)
        np.add.at(counts, index - index[0], self.counts)
        return counts

    def quantile(self, fraction: float) -> float:
        """Return the value below which ``fraction`` of the values lie, exact to one bin."""
        edges = np.ldexp(np.arange(self.start, self.start + self.counts.size + 1, dtype=np.float64), self.exponent)
        below = np.concatenate([[0], np.cumsum(self.counts)])
        return float(np.clip(np.interp(fraction * self.count, below, edges), self.low, self.high))

    def choose(
        self,
        rule: Rule = "minmax",
        bits: int = 8,
        *,
        symmetric: bool = False,
        percentile: float = 99.99,
    ) -> tuple[float, float]:
        """Return ``(low, high)`` to quantize this tensor over; the ends always enclose zero.

        ``symmetric`` makes ``low == -high``. ``percentile`` is the share of values, in per cent, that the rule of that
        name keeps, the rest being cut off evenly at both ends. ``mse`` cuts where rounding and clipping errors together
        are least (Banner et al. 2019, "Post training 4-bit quantization", section 3, on the histogram instead of a
        Laplacian). Raises ValueError for an unknown rule.
        """
        if rule == "minmax":
            low, high = self.low, self.high
        elif rule == "percentile":
            tail = (1 - percentile / 100) / 2
            low, high = self.quantile(tail), self.quantile(1 - tail)
        elif rule == "mse":
            return self._least_error(bits, symmetric)
        else:
            raise ValueError(f"unknown range rule '{rule}'; known: {', '.join(RULES)}")
        return _enclose(low, high, symmetric)

    def error(self, low: float, high: float, bits: int) -> float:
        """Return the mean squared error of rounding to ``2**bits`` levels over ``[low, high]``, from the histogram."""
        step = (high - low) / (2**bits - 1)
        if step <= 0:
            return float(np.dot(self.centres() ** 2, self.counts) / self.count)
        x = self.centres()
        zero = round(-low / step)
        codes = np.clip(np.rint(x / step) + zero, 0, 2**bits - 1)
        return float(np.dot(((codes - zero) * step - x) ** 2, self.counts) / self.count)

    def centres(self) -> NDArray[np.float64]:
        """Return ``(bins,)`` the values that stand for the bins of ``counts``: their middles, within the extremes."""
        middle = np.arange(self.start, self.start + self.counts.size) + 0.5
        centres: NDArray[np.float64] = np.clip(np.ldexp(middle, self.exponent), self.low, self.high)
        return centres

    def _least_error(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Cut both ends together, then each alone, in steps of 1 % of the range."""
        low, high = _enclose(self.low, self.high, symmetric)
        shares = [n / 100 for n in range(100, 4, -1)]
        tries = [(low * s, high * s) for s in shares]
        low, high = self._best(tries, bits)
        if not symmetric:
            low, high = self._best([(low * s, high) for s in shares], bits)
            low, high = self._best([(low, high * s) for s in shares], bits)
        return low, high

    def _best(self, tries: Iterable[tuple[float, float]], bits: int) -> tuple[float, float]:
        return min(tries, key=lambda ends: self.error(ends[0], ends[1], bits))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "low": self.low,
            "high": self.high,
            "exponent": self.exponent,
            "start": self.start,
            "counts": self.counts.tolist(),
            "sums": self.sums.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Range:
        """Rebuild a range. Raises KeyError."""
        counts, sums = np.asarray(data["counts"], np.int64), np.asarray(data["sums"], np.float64)
        return cls(data["low"], data["high"], data["exponent"], data["start"], counts, sums)


def _exponent(low: float, high: float) -> int:
    """Return the smallest exponent whose bins cover ``[low, high]`` in at most ``BINS`` of them."""
    magnitude = max(abs(low), abs(high), 2.0**-100)
    exponent = math.frexp(magnitude)[1] - _FINEST
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= BINS:
        exponent += 1
    return exponent


def _enclose(low: float, high: float, symmetric: bool) -> tuple[float, float]:
    low, high = min(low, 0.0), max(high, 0.0)
    top = max(-low, high)
    return (-top, top) if symmetric else (low, high)


@dataclass(frozen=True, slots=True, eq=False)
class Ranges(Mapping[str, Range]):
    """The range of every observed tensor, by name."""

    tensors: Mapping[str, Range] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Range:
        """Return the range of one tensor. Raises KeyError."""
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.tensors)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.tensors)

    def __add__(self, other: Ranges) -> Ranges:
        """Return the ranges over the data of both."""
        both = {n: self.tensors[n] + r if n in self.tensors else r for n, r in other.tensors.items()}
        return Ranges({**self.tensors, **both})

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {name: r.to_json() for name, r in self.tensors.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ranges:
        """Rebuild ranges. Raises KeyError."""
        return cls({name: Range.from_json(r) for name, r in data.items()})


def collect(graph: Graph, batches: Iterable[NDArray[np.float32]], observe: Observe | None = None) -> Ranges:
    """Return the ranges of every input and activation of ``graph`` over ``batches`` of images ``(b, c, h, w)``.

    ``observe(images)`` returns the float values of the graph's tensors by name (the graph's inputs may be left out); by
    default the reference executor computes them. One batch is held at a time. Raises DataError without batches, when a
    tensor is not finite, or when one was never observed.
    """
    values = observe or _reference(graph)
    wanted = [t.name for kind in ("input", "activation") for t in graph.named(kind)]
    found: dict[str, Range] = {}
    for images in batches:
        seen = {graph.inputs[0]: images, **values(images)}
        for name in wanted:
            if name in seen:
                part = _checked(name, seen[name])
                found[name] = found[name] + part if name in found else part
    if not found:
        raise DataError("no images to calibrate on", hint="give the data a train part")
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(f"calibration never saw tensor '{missing[0]}' ({len(missing)} in all)")
    return Ranges(found)


def _reference(graph: Graph) -> Observe:
    from bitfront.simulate import reference

    return lambda images: reference.run(graph, images, keep="*")


def _checked(name: str, values: NDArray[Any]) -> Range:
    try:
        return Range.of(values)
    except ValueError as error:
        raise DataError(
            f"calibration: tensor '{name}': {error}",
            hint="the model overflows on these images: check its preprocessing and its weights",
        ) from error
