"""Tables of a bit search: its members, why each tensor got its bits, formats and odds, methods side by side.

Values of the cells are in the units of the headers, so that :mod:`bitfront.report.table_files` can write them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bitfront.report.searches import FLOAT_BITS, Member, Search, Tensor, Width, average_bits
from bitfront.report.tables import NONE, Cell, Column, Table, count, metric_name, number

__all__ = [
    "MethodRow",
    "choices_table",
    "known_columns",
    "members_table",
    "method_rows",
    "methods_table",
    "stat_table",
    "why_cells",
]


# --- members ---------------------------------------------------------------------------------------------------------
def members_table(search: Search, labels: Mapping[str, str] | None = None) -> Table:
    """The plans that a search put forward, cheapest first; ``labels`` names the candidates that they became."""
    columns = (
        Column("#", numeric=True),
        Column("score, %", numeric=True),
        Column("to float, points", numeric=True),
        *(Column(c.label, numeric=True) for c in search.costs),
        Column("size to float", numeric=True),
        Column("mean bits, weights", numeric=True),
        Column("mean bits, activations", numeric=True),
        Column("Candidate"),
    )
    return Table(columns, tuple(_member_row(search, m, labels or {}) for m in search.members))


def _member_row(search: Search, m: Member, labels: Mapping[str, str]) -> tuple[Cell, ...]:
    change = None if search.float_score is None else 100 * (m.score - search.float_score)
    packed = weight_bytes(search, m.bits)
    share = packed / search.float_bytes if packed is not None and search.float_bytes else None
    uniform = search.uniform(m)
    short = search.level is not None and search.floor is not None and m.score < search.floor
    return (
        Cell(str(m.number), m.number),
        _numeric(100 * m.score, ".2f"),
        Cell(_signed(change), change, "bad" if short else "", note="below the floor" if short else ""),
        *(Cell(number(c.factor * v), c.factor * v) for c, v in zip(search.costs, m.costs, strict=True)),
        Cell(NONE if share is None else f"{share:.3f}×", share),
        *(_numeric(average_bits(search.tensors, m.bits, group), ".2f") for group in ("weight", "activation")),
        _candidate(m, labels, f"uniform {uniform} bits" if uniform else ""),
    )


def weight_bytes(search: Search, bits: Mapping[str, int]) -> int | None:
    """Return the bytes of all weights and biases under a plan, each packed; ``None`` when the plan lacks one."""
    stored = [t for t in search.tensors if t.group != "activation"]
    if not stored or any(t.name not in bits for t in stored):
        return None
    return sum(t.n_bytes(bits[t.name]) for t in stored)


def _candidate(m: Member, labels: Mapping[str, str], note: str) -> Cell:
    if m.dropped:
        return Cell("dropped", tone="bad", note="; ".join(t for t in (m.dropped[:300], note) if t))
    return Cell(labels.get(m.candidate, m.candidate) or "put forward", note=note)


def _numeric(value: float | None, form: str) -> Cell:
    return Cell(NONE) if value is None else Cell(f"{value:{form}}", value)


def _signed(points: float | None) -> str:
    if points is None:
        return NONE
    text = f"{points:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


# --- tensors ---------------------------------------------------------------------------------------------------------
def stat_table(tensors: Sequence[Tensor], bits: Mapping[str, int] | int) -> Table:
    """One row a tensor: range, format at its bits and what that costs, and what the neighbouring widths would cost.

    ``bits`` is a plan, or one width for all: where a tensor lacks it, the next wider one.
    """
    extra = known_columns(tensors)
    columns = (
        Column("#", numeric=True),
        Column("Tensor"),
        Column("Kind"),
        Column("values", numeric=True),
        Column("largest magnitude", numeric=True),
        Column("bits", numeric=True),
        Column("format"),
        Column("clipped, %", numeric=True),
        Column("rounding error", numeric=True),
        *(Column(title, numeric=True) for title in extra),
    )
    rows = []
    for n, t in enumerate(tensors, 1):
        chosen = t.at_least(bits) if isinstance(bits, int) else bits.get(t.name)
        rows.append((*_tensor_cells(n, t), *why_cells(t, chosen, extra)))
    return Table(columns, tuple(rows))


SCORE = ("score alone, %",)
DISTORTION = ("distortion", "distortion, narrower", "distortion, wider")


def known_columns(tensors: Sequence[Tensor]) -> tuple[str, ...]:
    """Return the columns of what costs evaluations, as far as somebody paid for them."""
    widths = [w for t in tensors for w in t.widths]
    return (
        *(SCORE if any(w.score is not None for w in widths) else ()),
        *(DISTORTION if any(w.distortion is not None for w in widths) else ()),
    )


def _tensor_cells(n: int, t: Tensor) -> tuple[Cell, ...]:
    ends = [v for v in (t.low, t.high) if v is not None]
    magnitude = max((abs(v) for v in ends), default=None)
    between = f"{number(t.low)} to {number(t.high)}".replace("-", "−") if len(ends) == 2 else ""
    return (
        Cell(str(n), n),
        Cell(t.name),
        Cell(t.kind, note="not searched" if t.fixed is not None else ""),
        Cell(count(t.size), t.size),
        Cell(number(magnitude), magnitude, note=between),
    )


def why_cells(t: Tensor, bits: int | None, extra: Sequence[str]) -> tuple[Cell, ...]:
    """The cells of a tensor that depend on its bits: from ``bits`` to the ``extra`` columns."""
    if bits is None or bits == FLOAT_BITS:
        return (Cell("float" if bits else NONE, bits), *[Cell(NONE)] * (3 + len(extra)))
    at = t.width(bits) or Width(bits)
    clipped = _times100(at.clipped)
    narrower = max((w for w in t.widths if w.bits < bits), key=lambda w: w.bits, default=None)
    wider = min((w for w in t.widths if w.bits > bits), key=lambda w: w.bits, default=None)
    cells = {
        "score alone, %": _numeric(_times100(at.score), ".2f"),
        "distortion": Cell(_small(at.distortion), at.distortion),
        "distortion, narrower": _neighbour(t, at, narrower),
        "distortion, wider": _neighbour(t, at, wider),
    }
    return (
        Cell(str(bits), bits),
        Cell(_format(at)),
        Cell(_percent(clipped), clipped),
        Cell(_small(at.error), at.error),
        *(cells[title] for title in extra),
    )


def _format(w: Width) -> str:
    """Integer and fractional bits, as thesis 000 writes them: Q2.5."""
    return NONE if w.int_bits is None or w.frac_bits is None else f"Q{w.int_bits}.{w.frac_bits}"


def _percent(value: float | None) -> str:
    if value is None or value == 0:
        return NONE if value is None else "0"
    return "<0.01" if value < 0.01 else f"{value:.2f}"


def _small(value: float | None) -> str:
    """Three significant digits of a number that may be tiny."""
    if value is None:
        return NONE
    return "0" if value == 0 else number(value) if 1e-3 <= abs(value) < 1e6 else f"{value:.2e}".replace("e-0", "e-")


def _neighbour(t: Tensor, at: Width, other: Width | None) -> Cell:
    """What another width would change: the distortion, and bytes of the file or, for activations, of memory."""
    if other is None or t.fixed is not None:
        return Cell(NONE)
    change = None if at.distortion is None or other.distortion is None else other.distortion - at.distortion
    saved = t.n_bytes(other.bits) - t.n_bytes(at.bits)
    weight = f"{_signed_bytes(saved)}" + (" RAM" if t.group == "activation" else "")
    return Cell(f"{_times(at.distortion, other.distortion)} at {other.bits}", change, note=weight)


def _times(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return NONE
    if before <= 0 or after / before > 999:
        return _small(after)
    return f"{number(after / before, 2) if after > 0.01 * before else '<0.01'}×"


def _signed_bytes(n: int) -> str:
    sign = "+" if n > 0 else "−" if n < 0 else ""
    return f"{sign}{number(abs(n) / 1000)} kB" if abs(n) >= 1000 else f"{sign}{abs(n)} B"


def choices_table(tensors: Sequence[Tensor]) -> Table:
    """One row for every tensor and width that it may take: format, errors, distortion, score and odds."""
    columns = (
        Column("Tensor"),
        Column("Kind"),
        *(Column(title, numeric=True) for title in ("values", "low", "high", "bits", "integer bits")),
        *(Column(title, numeric=True) for title in ("fractional bits", "clipped, %", "rounding error", "distortion")),
        *(Column(title, numeric=True) for title in ("score alone, %", "odds, %")),
    )
    rows = []
    for t in tensors:
        head = (Cell(t.name), Cell(t.kind), Cell(str(t.size), t.size), *(Cell(number(v), v) for v in (t.low, t.high)))
        for w in t.widths:
            shares = [_times100(v) for v in (w.clipped, w.score, w.odds)]
            whole = (w.bits, w.int_bits, w.frac_bits)
            rows.append(
                (
                    *head,
                    *(Cell(NONE if v is None else str(v), v) for v in whole),
                    Cell(_percent(shares[0]), shares[0]),
                    *(Cell(_small(v), v) for v in (w.error, w.distortion)),
                    *(_numeric(v, ".2f") for v in shares[1:]),
                )
            )
    return Table(columns, tuple(rows))


# --- methods side by side --------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class MethodRow:
    """One quantized network beside its float original; scores in [0, 1]."""

    network: str
    method: str
    float_score: float | None
    score: float | None
    float_bytes: float | None
    size_bytes: float | None
    fps: float | None = None
    weight_bits: float | None = None
    """Mean over the values of all weights."""
    activation_bits: float | None = None
    n_evaluations: float | None = None
    """Full evaluations that it took to find it."""
    file_bytes: float | None = None
    cpu_s: float | None = None
    note: str = ""


def methods_table(rows: Iterable[MethodRow], metric: str = "miou") -> Table:
    """Networks and methods side by side, in the form of tables 6.1 and 6.2 of thesis 000.

    Columns that no row has a value for are left out; MB is 1e6 bytes.
    """
    listed = list(rows)
    name = metric_name(metric)
    columns = {
        Column(f"float {name}, %", numeric=True): [_numeric(_times100(r.float_score), ".2f") for r in listed],
        Column(f"{name}, %", numeric=True): [_numeric(_times100(r.score), ".2f") for r in listed],
        Column(f"{name} to float, %", numeric=True): [_ratio(r.score, r.float_score) for r in listed],
        Column("float size, MB", numeric=True): [_megabytes(r.float_bytes) for r in listed],
        Column("size, MB", numeric=True): [_megabytes(r.size_bytes) for r in listed],
        Column("size to float, %", numeric=True): [_ratio(r.size_bytes, r.float_bytes) for r in listed],
        Column("file, MB", numeric=True): [_megabytes(r.file_bytes) for r in listed],
        Column("mean bits, weights", numeric=True): [_numeric(r.weight_bits, ".2f") for r in listed],
        Column("mean bits, activations", numeric=True): [_numeric(r.activation_bits, ".2f") for r in listed],
        Column("fps", numeric=True): [Cell(number(r.fps), r.fps) for r in listed],
        Column("evaluations", numeric=True): [_numeric(r.n_evaluations, ".0f") for r in listed],
        Column("CPU, s", numeric=True): [_numeric(r.cpu_s, ".0f") for r in listed],
    }
    shown = {column: cells for column, cells in columns.items() if any(c.value is not None for c in cells)}
    names = [(Cell(r.network), Cell(r.method, note=r.note)) for r in listed]
    body = zip(*shown.values(), strict=True) if shown else [()] * len(listed)
    cells = tuple((*left, *right) for left, right in zip(names, body, strict=True))
    return Table((Column("Network"), Column("Method"), *shown), cells)


def _times100(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else 100 * value


def _ratio(value: float | None, base: float | None) -> Cell:
    return _numeric(100 * value / base if value is not None and base else None, ".2f")


def _megabytes(value: float | None) -> Cell:
    return Cell(NONE) if value is None else Cell(number(value / 1e6), value / 1e6)


def method_rows(searches: Iterable[Search]) -> list[MethodRow]:
    """One row a search: the smallest of its members that keeps the floor, else the most accurate."""
    found = []
    for s in searches:
        m = s.at_level()
        if m is None:
            continue
        found.append(
            MethodRow(
                network=s.architecture,
                method=s.method,
                float_score=s.float_score,
                score=m.score,
                float_bytes=s.float_bytes or None,
                size_bytes=weight_bytes(s, m.bits),
                weight_bits=average_bits(s.tensors, m.bits, "weight"),
                activation_bits=average_bits(s.tensors, m.bits, "activation"),
                n_evaluations=s.n_evaluations,
            )
        )
    return found
