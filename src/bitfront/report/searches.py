"""What a bit search found, as values: read from the run's database, and the numbers behind its pictures.

Searches store plain data (``searches`` of a run); whatever is missing or not a number there is left out here, so that
a damaged or older entry costs a cell and not the report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitfront.search.space import Gene, Space, biased_odds

__all__ = [
    "FLOAT_BITS",
    "Cost",
    "Member",
    "Point",
    "Search",
    "Tensor",
    "Width",
    "average_bits",
    "bits_label",
    "finite",
    "mappings",
    "plan_labels",
    "read_searches",
    "read_tensors",
    "stats_of",
    "with_odds",
]

FLOAT_BITS = 32
"""Bits of a tensor that stays float32."""
BIASED = "genetic"
"""The search that draws by odds from scores."""


@dataclass(frozen=True, slots=True)
class Cost:
    """A cost that a search minimised, as it is shown."""

    name: str
    title: str
    unit: str
    factor: float
    """Shown value / stored value."""

    @property
    def label(self) -> str:
        """Return its name inside a sentence or a header, with the unit: ``size, kB``."""
        title = self.title if self.title[1:2].isupper() else self.title[:1].lower() + self.title[1:]
        return f"{title}, {self.unit}" if self.unit else title

    @staticmethod
    def of(name: str) -> Cost:
        """Read title and unit off a name: ``flash`` and ``size_bytes`` are shown in kB (1000 bytes)."""
        if name in COSTS:
            return Cost(name, *COSTS[name])
        for ending, unit, factor in UNITS:
            if name.endswith(ending):
                return Cost(name, _title(name.removesuffix(ending)), unit, factor)
        return Cost(name, _title(name), "", 1.0)


COSTS = {
    "flash": ("Flash", "kB", 1e-3),
    "ram": ("RAM", "kB", 1e-3),
    "instructions": ("Instructions, modelled", "M", 1e-6),
    "modelled_latency": ("Latency, modelled", "ms", 1.0),
    "cycles": ("Cycles", "M", 1e-6),
    "npu": ("NPU", "ms", 1.0),
}
UNITS = (("_bytes", "kB", 1e-3), ("_bits", "kB", 1 / 8000), ("_ms", "ms", 1.0), ("_s", "s", 1.0))
TITLES = {"size": "Size", "ram": "RAM", "macs": "MACs"}


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " ")[:1].upper() + name.replace("_", " ")[1:])


@dataclass(frozen=True, slots=True)
class Width:
    """What one tensor costs at one number of bits; ``None`` where nobody measured it."""

    bits: int
    int_bits: int | None = None
    frac_bits: int | None = None
    clipped: float | None = None
    """Fraction of the values beyond the format's ends."""
    error: float | None = None
    """Mean error of rounding, in the tensor's unit."""
    distortion: float | None = None
    """Of the network's outputs, with this tensor alone quantized."""
    score: float | None = None
    """With this tensor alone quantized, in [0, 1]."""
    odds: float | None = None
    """Probability that a biased search draws this width."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor with a format: a gene of the search and its statistics."""

    name: str
    kind: str
    size: int
    """Elements; of activations, of one image."""
    low: float | None = None
    high: float | None = None
    widths: tuple[Width, ...] = ()
    """Narrowest first."""
    fixed: int | None = None
    """Bits that the search left as they are."""

    @property
    def group(self) -> str:
        """``weight``, ``bias`` or ``activation``; inputs count as activations."""
        return self.kind if self.kind in ("weight", "bias") else "activation"

    def width(self, bits: int | None) -> Width | None:
        """Return the statistics at exactly ``bits`` bits."""
        return next((w for w in self.widths if w.bits == bits), None)

    def at_least(self, bits: int) -> int:
        """Return ``bits``, or the next wider width that the tensor has, or its widest."""
        if self.fixed is not None or not self.widths:
            return self.fixed or bits
        return next((w.bits for w in self.widths if w.bits >= bits), self.widths[-1].bits)

    def n_bytes(self, bits: int) -> int:
        """Return its bytes, packed."""
        return -(-self.size * bits // 8)


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluated plan."""

    score: float
    costs: tuple[float, ...]
    front: bool = False
    label: str = ""
    """Of baselines: ``uniform 8``."""


@dataclass(frozen=True, slots=True)
class Member:
    """A plan that the search put forward."""

    number: int
    score: float
    costs: tuple[float, ...]
    bits: Mapping[str, int]
    candidate: str = ""
    """Id of the candidate it became."""
    dropped: str = ""
    """Why it did not become one."""


@dataclass(frozen=True, slots=True)
class Search:
    """One bit search."""

    architecture: str
    method: str = ""
    seed: int | None = None
    float_score: float | None = None
    floor: float | None = None
    n_evaluations: float | None = None
    seconds: float | None = None
    costs: tuple[Cost, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    """In execution order."""
    points: tuple[Point, ...] = ()
    """In order of evaluation."""
    members: tuple[Member, ...] = ()

    @property
    def float_bytes(self) -> int:
        """Bytes of all weights and biases as float32."""
        return sum(4 * t.size for t in self.tensors if t.group != "activation")

    @property
    def level(self) -> float | None:
        """The score that counts as good enough: the floor, or one point below float."""
        if self.floor is not None or self.float_score is None:
            return self.floor
        return self.float_score - 0.01

    def at_level(self) -> Member | None:
        """Return the member of least first cost that reaches the level, else the one of best score."""
        kept = [m for m in self.members if not m.dropped] or list(self.members)
        fitting = [m for m in kept if m.costs and self.level is not None and m.score >= self.level]
        if fitting:
            return min(fitting, key=lambda m: (m.costs[0], -m.score, m.number))
        return max(kept, key=lambda m: (m.score, -m.number), default=None)

    def uniform(self, member: Member) -> str:
        """Return the one width of all searched tensors, ``8`` or ``4/8`` (weights/activations); empty otherwise."""
        found = []
        for group in ("weight", "activation"):
            own = {member.bits.get(t.name) for t in self.tensors if t.group == group and t.fixed is None}
            if len(own) > 1 or None in own:
                return ""
            found += [str(b) for b in own if b != FLOAT_BITS]
        return "/".join(dict.fromkeys(found))


# --- labels ----------------------------------------------------------------------------------------------------------
def average_bits(tensors: Iterable[Tensor], bits: Mapping[str, int], group: str) -> float | None:
    """Return the mean bits of the values of a group (``weight``, ``bias``, ``activation``); ``None`` without any."""
    own = [(t.size, bits[t.name]) for t in tensors if t.group == group and t.name in bits]
    total = sum(size for size, _ in own)
    return sum(size * b for size, b in own) / total if total else None


def bits_label(search: Search, bits: Mapping[str, int]) -> str:
    """Name a plan by its mean bits: ``4.3-bit weights, 8-bit activations``."""
    parts = []
    for group, plural in (("weight", "weights"), ("activation", "activations")):
        mean = average_bits(search.tensors, bits, group)
        if mean is not None:
            parts.append(f"float {plural}" if mean == FLOAT_BITS else f"{mean:.3g}-bit {plural}")
    return ", ".join(parts)


def plan_labels(searches: Iterable[Search]) -> dict[str, str]:
    """Return candidate id -> method and mean bits, for the candidates that searches put forward."""
    return {
        m.candidate: ", ".join(text for text in (s.method, bits_label(s, m.bits)) if text)
        for s in searches
        for m in s.members
        if m.candidate
    }


def with_odds(tensors: Sequence[Tensor], float_score: float, rule: str = "inverse") -> tuple[Tensor, ...]:
    """Return tensors with the odds of a biased search, where scores of all their widths are known.

    Source: thesis 000, 5.4.4; ``rule`` as in :func:`bitfront.search.space.biased_odds`.
    """
    return tuple(_biased(t, float_score, rule) for t in tensors)


def _biased(t: Tensor, float_score: float, rule: str) -> Tensor:
    scores = [w.score for w in t.widths if w.score is not None]
    if not scores or len(scores) < len(t.widths) or any(not 2 <= w.bits <= 16 for w in t.widths):
        return t
    space = Space((Gene(t.name, t.group, tuple(w.bits for w in t.widths), max(1, t.size)),))
    (odds,) = biased_odds(space, (np.array(scores),), float_score, rule)
    return replace(t, widths=tuple(replace(w, odds=float(p)) for w, p in zip(t.widths, odds, strict=True)))


# --- reading ---------------------------------------------------------------------------------------------------------
def read_searches(values: Any) -> tuple[Search, ...]:
    """Read the value ``searches`` of a run; entries that are not searches are left out."""
    return tuple(_search(v) for v in mappings(values))


def _search(v: Mapping[str, Any]) -> Search:
    seed = finite(v.get("seed"))
    names = [str(name) for name in _list(v.get("costs"))]
    tensors, float_score = read_tensors(v.get("tensors"), v.get("genes")), finite(v.get("float_score"))
    return Search(
        architecture=str(v.get("architecture") or ""),
        method=str(v.get("method") or ""),
        seed=None if seed is None else int(seed),
        float_score=float_score,
        floor=finite(v.get("floor")),
        n_evaluations=finite(v.get("n_evaluations")),
        seconds=finite(v.get("seconds")),
        costs=tuple(Cost.of(name) for name in names),
        tensors=_drawn(tensors, float_score) if v.get("method") == BIASED else tensors,
        points=tuple(_points(v.get("points"), len(names))),
        members=tuple(_members(v.get("front"), len(names))),
    )


def stats_of(stats: Any, title: str) -> Search:
    """Read statistics of tensors as a search that tried nothing; scores with one tensor quantized give its odds."""
    v = stats if isinstance(stats, Mapping) else {}
    tensors, float_score = read_tensors(v.get("tensors")), finite(v.get("float_score"))
    return Search(title, float_score=float_score, tensors=_drawn(tensors, float_score))


def _drawn(tensors: tuple[Tensor, ...], float_score: float | None) -> tuple[Tensor, ...]:
    """Return tensors with odds: their own, or those that their scores give."""
    if float_score is None or any(w.odds for t in tensors for w in t.widths):
        return tensors
    return with_odds(tensors, float_score)


def read_tensors(tensors: Any, genes: Any = ()) -> tuple[Tensor, ...]:
    """Read statistics of tensors, in the order of the genes; genes without statistics have their widths only."""
    known = {str(v.get("name")): v for v in mappings(tensors)}
    searched = {str(v.get("name")): v for v in mappings(genes)}
    return tuple(_tensor(name, known.get(name, {}), searched.get(name, {})) for name in {**searched, **known})


def _tensor(name: str, v: Mapping[str, Any], gene: Mapping[str, Any]) -> Tensor:
    widths = {bits: Width(bits) for bits in map(_whole, _list(gene.get("choices"))) if bits is not None}
    for w in mappings(v.get("widths")):
        bits = _whole(w.get("bits"))
        if bits is not None:
            widths[bits] = Width(
                bits,
                _whole(w.get("int_bits")),
                _whole(w.get("frac_bits")),
                finite(w.get("clipped")),
                finite(w.get("error", w.get("rounding_error"))),
                *(finite(w.get(key)) for key in ("distortion", "score", "odds")),
            )
    return Tensor(
        name=name,
        kind=str(v.get("kind") or gene.get("kind") or ""),
        size=max(0, _whole(v.get("size")) or _whole(gene.get("size")) or 0),
        low=finite(v.get("low")),
        high=finite(v.get("high")),
        widths=tuple(widths[bits] for bits in sorted(widths)),
        fixed=_whole(gene.get("fixed")),
    )


def _points(values: Any, n_costs: int) -> Iterable[Point]:
    for v in mappings(values):
        score, costs = finite(v.get("score")), _costs(v.get("costs"), n_costs)
        if score is not None and costs is not None:
            yield Point(score, costs, v.get("front") is True, str(v.get("label") or ""))


def _members(values: Any, n_costs: int) -> Iterable[Member]:
    found = []
    for v in mappings(values):
        score, costs = finite(v.get("score")), _costs(v.get("costs"), n_costs)
        bits = v.get("bits")
        if score is None or costs is None or not isinstance(bits, Mapping):
            continue
        plan = {str(k): b for k, n in bits.items() if (b := _whole(n)) is not None}
        found.append((score, costs, plan, str(v.get("candidate") or ""), str(v.get("dropped") or "")))
    found.sort(key=lambda m: (m[1][:1], -m[0]))
    return (Member(n, *m) for n, m in enumerate(found, 1))


def _costs(values: Any, n: int) -> tuple[float, ...] | None:
    found = [c for c in map(finite, _list(values)) if c is not None]
    return tuple(found) if len(found) == n else None


def mappings(values: Any) -> list[Mapping[str, Any]]:
    """Return the mappings of a list; nothing of what is no list."""
    return [v for v in _list(values) if isinstance(v, Mapping)]


def _list(values: Any) -> Sequence[Any]:
    return values if isinstance(values, (list, tuple)) else ()


def finite(value: Any) -> float | None:
    """Return a number that is one; ``None`` of anything else."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _whole(value: Any) -> int | None:
    number = finite(value)
    return None if number is None or number != int(number) else int(number)
