"""The files of a run's bit searches: pictures, and tables as CSV and Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from bitfront.report import bits
from bitfront.report.search_tables import choices_table, members_table, method_rows, methods_table, stat_table
from bitfront.report.searches import Search
from bitfront.report.table_files import csv_text, markdown
from bitfront.report.tables import Table

__all__ = ["search_files", "search_tables", "slug", "stats_files", "table_files"]


def search_files(searches: Sequence[Search], labels: Mapping[str, str], metric: str) -> dict[str, bytes]:
    """Return file name -> content of everything that stands in the folder ``bits/`` of a run."""
    found = search_tables(searches, labels, metric)
    for n, s in enumerate(searches, 1):
        found |= _pictures(s, _stem(n, s), metric)
    return found


def search_tables(searches: Sequence[Search], labels: Mapping[str, str], metric: str) -> dict[str, bytes]:
    """Return file name -> content of the tables: of every search, and ``methods`` of all of them."""
    found: dict[str, bytes] = {}
    for n, s in enumerate(searches, 1):
        stem = _stem(n, s)
        found |= table_files(f"{stem}_plans", members_table(s, labels))
        found |= table_files(f"{stem}_tensors", choices_table(s.tensors))
        chosen = s.at_level()
        if chosen is not None:
            found |= table_files(f"{stem}_why", stat_table(s.tensors, chosen.bits))
    rows = method_rows(searches)
    return found | (table_files("methods", methods_table(rows, metric)) if rows else {})


def _stem(n: int, s: Search) -> str:
    return f"{n:02d}_{slug(s.architecture)}"


def stats_files(s: Search) -> dict[str, bytes]:
    """Return file name -> content of what stands beside the page of a network's statistics."""
    found = table_files("tensors", choices_table(s.tensors))
    if any(w.odds for t in s.tensors for w in t.widths):
        found["odds.png"] = bits.odds_map(s.tensors)
    return found


def _pictures(s: Search, name: str, metric: str) -> dict[str, bytes]:
    found = {}
    if s.costs and (s.points or s.members):
        found[f"{name}_front.png"] = bits.front(s, metric)
    if s.members:
        found[f"{name}_bits.png"] = bits.heat_map(s.tensors, bits.plans_of(s))
    if any(w.odds for t in s.tensors if t.fixed is None for w in t.widths):
        found[f"{name}_odds.png"] = bits.odds_map(s.tensors)
    if any(w.distortion for t in s.tensors for w in t.widths):
        found[f"{name}_distortion.png"] = bits.sensitivity(s.tensors)
    return found


def table_files(name: str, table: Table) -> dict[str, bytes]:
    """Return a table as ``NAME.csv`` and ``NAME.md``."""
    return {
        f"{name}.csv": csv_text(table).encode("utf-8", "backslashreplace"),
        f"{name}.md": markdown(table).encode("utf-8", "backslashreplace"),
    }


def slug(text: str) -> str:
    """Return a name for files: letters, digits, ``-`` and ``_`` of ``text``, at most 40."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")[:40] or "network"
