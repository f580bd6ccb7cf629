"""Tables as files: Markdown for people, CSV for programs. Names in them are text, never markup or a formula."""

from __future__ import annotations

import csv
import io

from bitfront.errors import one_line
from bitfront.report.tables import NONE, Cell, Table

__all__ = ["csv_text", "escaped", "markdown"]

ESCAPED = str.maketrans({c: f"\\{c}" for c in "\\`*_[]()#|!~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def escaped(value: object) -> str:
    """Return a value as Markdown that shows exactly this text, on one line."""
    return one_line(str(value)).translate(ESCAPED)


def markdown(table: Table) -> str:
    """Return a table as GitHub-flavoured Markdown; notes stand behind their cell in brackets."""
    head = "| " + " | ".join(escaped(c.title) for c in table.columns) + " |"
    rule = "|" + "|".join("--:" if c.numeric else "---" for c in table.columns) + "|"
    rows = ["| " + " | ".join(_text(c) for c in row) + " |" for row in table.rows]
    return "\n".join([head, rule, *rows]) + "\n"


def _text(cell: Cell) -> str:
    return escaped(f"{cell.text} ({cell.note})" if cell.note else cell.text)


def csv_text(table: Table) -> str:
    """Return a table as CSV: texts as they are shown, numbers (``Cell.value``, in the unit of the header) in full.

    Cells that a spreadsheet would take for a formula begin with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_safe(c.title) for c in table.columns)
    writer.writerows([_plain(c, col.numeric) for c, col in zip(row, table.columns, strict=True)] for row in table.rows)
    return out.getvalue()


def _plain(cell: Cell, numeric: bool) -> str:
    if numeric:
        return "" if cell.value is None else f"{cell.value:.10g}"
    return "" if cell.text == NONE else _safe(cell.text)


def _safe(text: str) -> str:
    text = one_line(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
