"""fit, resume, report, compare, runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from bitfront.cli import units
from bitfront.cli.console import Answer, percent, size, table
from bitfront.cli.options import Runs, Shared

if TYPE_CHECKING:
    from bitfront.record import Budget
    from bitfront.run import FrontMember, Run

__all__ = ["compare", "runs"]

NOTHING_FITS = 4
RunName = Annotated[str, Parameter(help="Name or folder of a run.")]


def budget(given: dict[str, Any]) -> Budget:
    """Return the budget that the options ask for. Raises UsageError."""
    from bitfront.record import Budget

    def read(key: str, parse: Any) -> Any:
        return None if given[key] is None else parse(given[key], "--" + key.replace("_", "-"))

    return Budget(
        max_latency_ms=read("max_latency", units.milliseconds),
        max_size_bytes=read("max_size", units.size_bytes),
        min_score=read("min_score", units.fraction),
        max_drop=read("max_drop", units.fraction),
        time_s=read("time", units.seconds),
    )


def front_data(member: FrontMember) -> dict[str, Any]:
    """Return a front member as plain data."""
    record = member.record
    return {
        "id": member.id,
        "name": member.name,
        "label": record.candidate.label,
        "score": member.score,
        "test_score": record.test.value if record.test else None,
        "test_interval": list(record.test.interval) if record.test and record.test.interval else None,
        "size_bytes": member.size_bytes,
        "latency_ms": member.latency_ms,
        "ratio": record.latency.ratio if record.latency else None,
        "verified": member.verified,
        "path": str(member.model),
    }


def front_table(members: Sequence[FrontMember], title: str = "") -> Any:
    """Return the front as a table, the recommended member first."""
    columns = ("front", "network", ">score", ">test", ">ms", ">ratio", ">size", "verified")
    rows = []
    for member in members:
        data = front_data(member)
        ratio, latency = data["ratio"], member.latency_ms
        rows.append(
            (
                member.name,
                data["label"],
                percent(member.score),
                percent(data["test_score"]),
                None if latency is None else f"{latency:.2f}",
                None if ratio is None else f"{ratio:.2f}",
                size(member.size_bytes),
                "yes" if member.verified else "no",
            )
        )
    return table(columns, rows, title)


def run_answer(run: Run) -> Answer:
    """Return what a finished run found; exit code 4 when nothing meets the budget."""
    front, verdict = run.front, run.verdict
    data = {
        "run": str(run.path),
        "met": run.met,
        "evaluations": len(run.records()),
        "seconds": run.seconds,
        "verdict": verdict,
        "report": str(run.path / "report.html"),
        "front": [front_data(member) for member in front],
    }
    text: list[Any] = [front_table(front)] if front else ["the front is empty"]
    miss = "" if run.met else f"nothing meets the budget: {verdict.get('miss') or 'no candidate was finished'}"
    text += [miss] if miss else []
    text += [f"report: {run.path / 'report.html'}"]
    if miss:
        hint = "allow more, or give the search more time; the front above is what there is"
        data["error"] = {"type": "BudgetError", "message": miss, "hint": hint, "exit_code": NOTHING_FITS}
        return Answer(data, text, code=NOTHING_FITS, notes=(f"hint: {hint}",))
    return Answer(data, text)


def runs(
    *,
    failed: Annotated[bool, Parameter(help="List failed and dropped candidates by reason.", negative=())] = False,
    runs: Runs = None,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """List the runs, newest last."""
    from bitfront.errors import BitfrontError
    from bitfront.run import Run
    from bitfront.rundb import DATABASE

    folder = Path(shared.fill(runs=runs)["runs"] or "runs")
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"*/{DATABASE}"), key=lambda p: p.stat().st_mtime):
        try:
            found.append(_summary(Run.open(path.parent)))
        except BitfrontError as error:
            found.append(
                {"name": path.parent.name, "path": str(path.parent), "state": "damaged", "problem": str(error)}
            )
    if failed:
        rows = [(r["name"], n, reason) for r in found for reason, n in r.get("failures", {}).items()]
        return Answer({"runs": found}, [table(("run", ">candidates", "reason"), rows)])
    listed = [(r["name"], r["state"], _yes(r.get("met")), r.get("evaluations"), r.get("front")) for r in found]
    empty = [f"no runs in {folder}; `bitfront fit` makes one"]
    return Answer(
        {"runs": found}, [table(("run", "state", "met", ">evaluations", ">front"), listed)] if found else empty
    )


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _summary(run: Run) -> dict[str, Any]:
    failures: dict[str, int] = {}
    records = run.records()
    for record in records:
        if record.status in ("failed", "dropped"):
            failures[record.reason or record.status] = failures.get(record.reason or record.status, 0) + 1
    return {
        "name": run.name,
        "path": str(run.path),
        "state": "finished" if run.finished else "unfinished",
        "met": run.met if run.finished else None,
        "evaluations": len(records),
        "front": len(run.front),
        "seconds": run.seconds,
        "failures": failures,
    }


def compare(
    first: RunName,
    second: RunName,
    /,
    *more: RunName,
    runs: Runs = None,
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Set the fronts of several runs side by side."""
    from bitfront.run import Run, find

    folder = Path(shared.fill(runs=runs)["runs"] or "runs")
    opened = [Run.open(find(folder, name)) for name in (first, second, *more)]
    data = {"runs": [{**_summary(run), "front": [front_data(m) for m in run.front]} for run in opened]}
    return Answer(data, [front_table(run.front, run.name) for run in opened])
