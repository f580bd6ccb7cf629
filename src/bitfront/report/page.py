"""The page: one file that works from ``file://``, opens no connection and trusts no name.

Every text goes through one Jinja environment that escapes; numbers for the script travel as JSON in one inert element;
style and script are named by their hashes in the page's own content policy, so nothing else can run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bitfront import __version__
from bitfront.errors import UsageError
from bitfront.record import to_json
from bitfront.report import cards, compare, palette, plots
from bitfront.report.data import ReportData, from_run
from bitfront.report.search_files import search_files, stats_files
from bitfront.report.search_view import search_charts, search_views
from bitfront.report.searches import stats_of
from bitfront.report.stage_view import stage_files
from bitfront.report.suite_view import suite_files
from bitfront.report.view import page_view, visible
from bitfront.store import atomic_write, io_errors

if TYPE_CHECKING:
    from bitfront.run import Run

__all__ = ["render", "render_comparison", "write", "write_comparison", "write_stats"]

HERE = Path(__file__).parent
SCRIPTS = ("charts.js", "page.js", "search.js")
"""Parts of one script, in this order."""


def write(run: Run | ReportData, folder: Path | None = None) -> Path:
    """Write the page, the pictures and a card for each member of the front; return the page's path.

    ``folder`` is the run folder unless another one is named. Raises SpaceError and UsageError when it cannot be
    written.
    """
    data = run if isinstance(run, ReportData) else from_run(run)
    target = data.path if folder is None else folder
    with io_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    _write_all(target, {**plots.draw(data), **stage_files(data.stages, data.metric), **suite_files(data)})
    if data.searches:
        _write_all(target / "bits", search_files(data.searches, data.names, data.metric))
    for record in data.front:
        if record.id in data.folders:
            member = target / "front" / data.folders[record.id]
            with io_errors(member):
                member.mkdir(parents=True, exist_ok=True)
            atomic_write(member / "CARD.md", _encoded(cards.card(data, record)))
    page = target / "report.html"
    atomic_write(page, _encoded(render(data)))
    return page


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    with io_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        atomic_write(folder / name, content)


def write_stats(stats: Any, path: Path, title: str) -> Path:
    """Write a page about the formats of a network's tensors, with its pictures and tables beside it; return its path.

    ``stats`` is plain data: ``tensors`` as in a run's ``searches`` (name, kind, size, low, high, widths), and
    ``float_score`` where the widths have scores, which then give the odds of a biased search. Raises UsageError for
    data without tensors, SpaceError when the disk is full.
    """
    search = stats_of(stats, title)
    if not search.tensors:
        raise UsageError("these statistics hold no tensor", hint="write them with `bitfront stats`")
    metric = str(stats.get("score") or "score")
    view = visible(to_json({"search": search_views([search], {}, metric)[0]}))
    charts = visible(to_json({"searches": search_charts([search], metric)}))
    with io_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    for name, content in stats_files(search).items():
        atomic_write(path.with_name(f"{path.stem}_{name}"), content)
    atomic_write(path, _encoded(_fill("stats.html.j2", f"{title} – bitfront", view, charts)))
    return path


def write_comparison(runs: Sequence[Run | ReportData], path: Path) -> Path:
    """Write a page that compares runs and return its path. Raises UsageError for fewer than two runs."""
    if len(runs) < 2:
        raise UsageError("a comparison needs at least two runs", hint="bitfront compare RUN RUN")
    read = [run if isinstance(run, ReportData) else from_run(run) for run in runs]
    with io_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, _encoded(render_comparison(read)))
    return path


def render(data: ReportData) -> str:
    """Return the page of one run as HTML."""
    view = page_view(data)
    return _fill("report.html.j2", f"{data.name} – bitfront", view, view.pop("charts"))


def render_comparison(runs: Sequence[ReportData]) -> str:
    """Return the page that compares runs as HTML."""
    view = visible(compare.comparison_view(runs))
    return _fill("compare.html.j2", "Comparison – bitfront", view, view.pop("charts"))


def _fill(template: str, title: str, view: Mapping[str, Any], charts: Mapping[str, Any]) -> str:
    style = (HERE / "page.css").read_text("utf-8") + palette.style()
    script = "\n".join(
        ['"use strict";', "(() => {", *((HERE / name).read_text("utf-8") for name in SCRIPTS), "})();\n"]
    )
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(template)
        .render(
            title=visible(title),
            view=view,
            charts=charts,
            style=Markup(style),
            script=Markup(script),
            policy=policy,
            version=__version__,
        )
    )


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
