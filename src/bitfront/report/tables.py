"""Text tables: plain rows with units in their headers, shared by the command line and the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bitfront.contracts import Metrics
from bitfront.errors import one_line
from bitfront.record import Measurement, Record
from bitfront.report.data import ReportData, latency_ms, recipe_of, score_of, shown_metrics
from bitfront.report.series import reasons

if TYPE_CHECKING:
    import rich.table
    import rich.text

__all__ = [
    "Cell",
    "Column",
    "Table",
    "candidates",
    "classes",
    "count",
    "duration",
    "front",
    "interval",
    "kilobytes",
    "losses",
    "metric_name",
    "milliseconds",
    "number",
    "percent",
    "plain",
    "points",
    "ratio",
    "recipes",
    "rich_table",
    "size",
]

NONE = "–"
"""What stands in a cell without a value."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its header with the unit, and whether it holds numbers (right-aligned, sorted as numbers)."""

    title: str
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: its text, the number to sort by, and a hint of meaning (``good``, ``bad`` or empty)."""

    text: str
    value: float | None = None
    tone: str = ""
    bar: float | None = None
    """Length of a bar beside the number, in [0, 1]."""
    note: str = ""
    """A second, quieter line."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows; ``ids`` names the candidate of each row, where a row is one."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    ids: tuple[str, ...] = ()

    def filled(self) -> Table:
        """Return the table without columns of numbers in which no row has one; without rows, all of them."""
        kept = [
            n
            for n, column in enumerate(self.columns)
            if not self.rows or not column.numeric or any(row[n].value is not None for row in self.rows)
        ]
        rows = tuple(tuple(row[n] for n in kept) for row in self.rows)
        return Table(tuple(self.columns[n] for n in kept), rows, self.ids)


def plain(table: Table) -> dict[str, Any]:
    """A table as lists and mappings, for the page."""
    return asdict(table)


# --- numbers ---------------------------------------------------------------------------------------------------------
def number(value: float | None, digits: int = 3) -> str:
    """Return a number with at least ``digits`` significant digits, without exponent: 0.123, 3.14, 41.5, 1234."""
    if value is None or not math.isfinite(value):
        return NONE
    magnitude = 0 if value == 0 else math.floor(math.log10(abs(value)))
    return f"{value:.{min(6, max(0, digits - 1 - magnitude))}f}"


def milliseconds(value: float | None) -> str:
    """Three significant digits, no unit."""
    return number(value)


def kilobytes(value: float | None) -> str:
    """Bytes as kB (1000 bytes), no unit."""
    return NONE if value is None else number(value / 1000)


def size(value: float | None) -> str:
    """Bytes with the unit that fits: ``412 kB``, ``3.14 MB``."""
    if value is None:
        return NONE
    return f"{number(value / 1000)} kB" if value < 999_500 else f"{number(value / 1e6)} MB"


def percent(value: float | None) -> str:
    """Return a fraction as per cent with two decimals, no unit."""
    return NONE if value is None or not math.isfinite(value) else f"{100 * value:.2f}"


def points(value: float | None) -> str:
    """Return a difference of fractions in points, with its sign: ``+0.21``, ``−1.30``."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{100 * value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def metric_name(name: str) -> str:
    """A score's name for people: ``miou_image`` -> ``mIoU per image``."""
    text = name.replace("_image", " per image").replace("_", " ")
    return text.replace("miou", "mIoU").replace("iou", "IoU") if "iou" in text.lower() else text


def interval(metrics: Metrics | None) -> str:
    """The 95 % interval of a score in per cent: ``92.10 to 94.30``; empty when there is none."""
    if metrics is None or metrics.interval is None:
        return ""
    low, high = metrics.interval
    return f"{percent(low)} to {percent(high)}"


def ratio(measured: Measurement | None) -> str:
    """Time relative to float: ``0.42×``; ``same`` within the noise floor."""
    if measured is None or measured.ratio is None:
        return NONE
    if measured.ratio == 1:
        return "1×"
    return "same" if within_noise(measured) else f"{measured.ratio:.2f}×"


def within_noise(measured: Measurement) -> bool:
    """Whether the ratio differs from 1 by less than the A/A control's error."""
    return measured.ratio is not None and abs(measured.ratio - 1) < (measured.noise_floor or 0.0)


def count(value: float | None) -> str:
    """A count with its magnitude: ``812``, ``1.14 M``, ``2.31 G``."""
    if value is None:
        return NONE
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{number(value / unit)} {letter}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Seconds for people: ``41 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


# --- tables ----------------------------------------------------------------------------------------------------------
def front(data: ReportData) -> Table:
    """The front: one row a member, in the order of its folders."""
    members = data.front
    base = data.record(data.baseline)
    has_test = any(r.test is not None for r in members)
    metric = metric_name(next((m.score for r in members if (m := shown_metrics(r))), "score"))
    columns = [
        Column("#", numeric=True),
        Column("Configuration"),
        Column(f"{'test' if has_test else 'val'} {metric}, %", numeric=True),
        *([Column(f"val {metric}, %", numeric=True)] if has_test else []),
        Column("latency, ms", numeric=True),
        Column("time to float", numeric=True),
        Column("modelled latency, ms", numeric=True),
        Column("instructions, M", numeric=True),
        Column("flash, kB", numeric=True),
        Column("size, kB", numeric=True),
        Column("RAM, kB", numeric=True),
        Column("Verified"),
    ]
    rows = [_front_row(data, n, r, base, has_test) for n, r in enumerate(members, 1)]
    return Table(tuple(columns), tuple(rows), tuple(r.id for r in members)).filled()


def _front_row(data: ReportData, n: int, r: Record, base: Record | None, has_test: bool) -> tuple[Cell, ...]:
    shown = r.test if has_test else r.val
    value = None if shown is None else shown.value
    p90 = None if r.latency is None else r.latency.p90
    roles = (
        data.pick(r),
        data.clusters.get(r.id, ""),
        "float baseline" if base is not None and r.id == base.id else "",
    )
    return (
        Cell(str(n), n),
        Cell(data.label(r), note=", ".join(role for role in roles if role)),
        Cell(percent(value), value, note=interval(shown)),
        *([Cell(percent(score_of(r)), score_of(r))] if has_test else []),
        Cell(milliseconds(latency_ms(r)), latency_ms(r), note=f"p90 {milliseconds(p90)}" if p90 is not None else ""),
        _ratio_cell(r),
        *_device_cells(r),
        _flash_cell(data, r),
        Cell(kilobytes(_bytes(r)), _bytes(r)),
        _ram_cell(r),
        verified(r),
    )


def _flash_cell(data: ReportData, r: Record) -> Cell:
    """Empty in runs without plans: there the file says it."""
    if r.on_device is not None:
        n, linked = r.on_device.flash_bytes, r.on_device.linked_bytes
        return Cell(kilobytes(linked or n), linked or n, note="" if linked else "program estimated")
    return Cell(kilobytes(r.flash_bytes), r.flash_bytes) if data.has_plans else Cell(NONE)


def _device_cells(r: Record) -> tuple[Cell, Cell]:
    """Modelled latency; instructions as they were counted, else modelled."""
    there = r.on_device
    ms, counted, modelled = (there.latency_ms, there.counted_instructions, there.instructions) if there else [None] * 3
    n = counted or modelled
    shown = Cell(NONE) if n is None else Cell(number(n / 1e6), n, note="" if counted else "modelled")
    return Cell(milliseconds(ms), ms), shown


def _ram_cell(r: Record) -> Cell:
    """Of arena and stack on a device; else what the file adds to a process."""
    n = r.on_device.ram_bytes if r.on_device else r.ram_bytes
    return Cell(kilobytes(n), n)


def _ratio_cell(r: Record) -> Cell:
    if r.latency is None or r.latency.ratio is None:
        return Cell(NONE)
    tone = "" if within_noise(r.latency) else "good" if r.latency.ratio < 1 else "bad"
    return Cell(ratio(r.latency), r.latency.ratio, tone)


def verified(r: Record) -> Cell:
    """Whether, and how closely, the file agrees with its reference."""
    if r.agreement is None:
        return Cell("not verified", tone="bad")
    if not r.agreement.verified:
        return Cell("differs", tone="bad")
    n = r.agreement.max_code_difference
    return Cell("exact" if n == 0 else f"± {n} {'code' if n == 1 else 'codes'}", tone="good")


def _bytes(r: Record) -> float | None:
    return None if r.artifact is None else float(r.artifact.size_bytes)


def candidates(data: ReportData, limit: int | None = None) -> Table:
    """All candidates in order of completion; with a ``limit``, the front's first and then the latest."""
    chosen = list(data.records)
    if limit is not None and len(chosen) > limit:
        chosen.sort(key=lambda r: (r.status != "front", -r.sequence))
        chosen = chosen[:limit]
    chosen.sort(key=lambda r: (r.sequence, r.id))
    columns = (
        Column("#", numeric=True),
        Column("Configuration"),
        Column("Status"),
        Column("score, %", numeric=True),
        Column("p50, ms", numeric=True),
        Column("time to float", numeric=True),
        Column("flash, kB", numeric=True),
        Column("size, kB", numeric=True),
        Column("Reason"),
    )
    rows = [
        (
            Cell(str(r.sequence), r.sequence),
            Cell(data.label(r)),
            Cell(r.status),
            Cell(percent(score_of(r)), score_of(r)),
            Cell(milliseconds(latency_ms(r)), latency_ms(r)),
            _ratio_cell(r),
            _flash_cell(data, r),
            Cell(kilobytes(_bytes(r)), _bytes(r)),
            Cell(r.reason[:300]),
        )
        for r in chosen
    ]
    return Table(columns, tuple(rows), tuple(r.id for r in chosen)).filled()


def classes(data: ReportData, limit: int = 8) -> Table | None:
    """Per-class scores of the float baseline and of the front's first members; ``None`` when none were measured.

    Members show their difference to float in points as the tone: ``bad`` below -1 point, ``good`` above +1.
    """
    base = data.record(data.baseline)
    shown = [r for r in data.front if r.id != data.baseline][:limit]
    columns = [("float", base), *((f"#{_rank(data, r)} {data.label(r)}", r) for r in shown)]
    scored = [(title, _per_class(r, data)) for title, r in columns if r is not None]
    scored = [(title, values) for title, values in scored if values]
    if not scored:
        return None
    names = list(dict.fromkeys(name for _, values in scored for name in values))
    reference = scored[0][1] if base is not None and scored[0][0] == "float" else {}
    rows = []
    for name in names:
        row = [Cell(name)]
        for title, values in scored:
            value, before = values.get(name), reference.get(name)
            change = None if value is None or before is None or title == "float" else value - before
            tone = "" if change is None or abs(change) < 0.01 else "good" if change > 0 else "bad"
            row.append(Cell(percent(value), value, tone, value if title == "float" else None))
        rows.append(tuple(row))
    return Table((Column("Class"), *(Column(title, numeric=True) for title, _ in scored)), tuple(rows))


def _rank(data: ReportData, r: Record) -> str:
    return str(data.front.index(r) + 1)


def _per_class(r: Record | None, data: ReportData) -> dict[str, float | None]:
    """One part for all columns: the test part only when every front member was scored on it."""
    if r is None:
        return {}
    compared = [m for m in (*data.front, data.record(data.baseline)) if m is not None]
    on_test = all(m.test is not None for m in compared)
    metrics = r.test if on_test else (r.val or r.test)
    if metrics is None or not metrics.per_class:
        return {}
    name = "iou" if "iou" in metrics.per_class else next(iter(metrics.per_class))
    return dict(metrics.per_class[name])


def recipes(data: ReportData) -> Table:
    """What each quantization recipe came to."""
    columns = (
        Column("Recipe"),
        Column("tried", numeric=True),
        Column("on the front", numeric=True),
        Column("dropped", numeric=True),
        Column("failed", numeric=True),
        Column("best score, %", numeric=True),
        Column("median time to float", numeric=True),
    )
    rows = []
    for name in dict.fromkeys(map(recipe_of, data.records)):
        own = [r for r in data.records if recipe_of(r) == name]
        best = max((s for r in own if (s := score_of(r)) is not None), default=None)
        middle = _median(r.latency.ratio for r in own if r.latency is not None and r.latency.ratio is not None)
        tally = [sum(r.status == status for r in own) for status in ("front", "dropped", "failed")]
        rows.append(
            (
                Cell(name),
                Cell(str(len(own)), len(own)),
                *(Cell(str(n), n) for n in tally),
                Cell(percent(best), best),
                Cell(NONE if middle is None else f"{middle:.2f}×", middle),
            )
        )
    return Table(columns, tuple(rows)).filled()


def _median(values: Iterable[float]) -> float | None:
    known = sorted(values)
    if not known:
        return None
    return (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2


def losses(records: Sequence[Record], limit: int = 50) -> Table:
    """Why candidates were dropped or failed, the most frequent reason first."""
    rows = [(Cell(status), Cell(reason[:300]), Cell(str(n), n)) for status, reason, n in reasons(records)]
    return Table((Column("Status"), Column("Reason"), Column("candidates", numeric=True)), tuple(rows[:limit]))


# --- for the terminal ------------------------------------------------------------------------------------------------
def rich_table(table: Table, title: str = "") -> rich.table.Table:
    """Return a table for a terminal; texts are shown as they are, never read as markup."""
    import rich.table
    from rich.text import Text

    colours = {"good": "green", "bad": "yellow", "": ""}
    out = rich.table.Table(title=Text(one_line(title)) if title else None, box=None, header_style="bold")
    for column in table.columns:
        out.add_column(Text(one_line(column.title)), justify="right" if column.numeric else "left")
    for row in table.rows:
        out.add_row(*(_rich_cell(cell, colours) for cell in row))
    return out


def _rich_cell(cell: Cell, colours: Mapping[str, str]) -> rich.text.Text:
    from rich.text import Text

    text = Text(one_line(cell.text), style=colours[cell.tone])
    return text.append(f"  {one_line(cell.note)}", style="dim") if cell.note else text
