"""The suites of ``benchmark``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bitfront.cli.console import Answer, percent, size, table
from bitfront.cli.fitting import front_data, run_answer
from bitfront.cli.options import Limit, ModelOptions, Runs, Set, Shared, knobs
from bitfront.errors import UsageError
from bitfront.run import Run

__all__ = ["Suite"]


@Parameter(name="*", group="Suite")
@dataclass(frozen=True, kw_only=True)
class Suite:
    """Options of a suite."""

    suite: Annotated[str | None, Parameter(help="ptq: every recipe in every engine, for MODEL on DATA.")] = None
    recipe: Annotated[list[str] | None, Parameter(help="Recipes to try [default: all]. Repeatable.", negative=())] = (
        None
    )
    limit: Limit = None
    name: Annotated[str | None, Parameter(help="Name of the run [default: model and data].")] = None
    runs: Runs = None
    set_: Set = None
    model_options: ModelOptions = field(default_factory=ModelOptions)

    def refuse(self) -> None:
        """Raise UsageError for options that would have no effect without a suite."""
        for each in fields(self):
            if each.name != "model_options" and getattr(self, each.name) is not None:
                raise UsageError(
                    f"--{each.name.strip('_')} belongs to --suite", hint="without, files are timed as they are"
                )

    def run(
        self,
        model: str,
        more: Sequence[str],
        shared: Shared,
        *,
        threads: int | None,
        runtimes: list[str] | None,
        seed: int | None,
        dry_run: bool,
    ) -> Answer:
        """Run the suite, as a run in ``runs``. Raises UsageError, DataError, DeviceError."""
        from bitfront.pipeline import suite

        if len(more) != 1:
            raise UsageError(
                f"a suite needs MODEL and DATA, not {1 + len(more)} names", hint="name both, in this order"
            )
        given = shared.fill(threads=threads, seed=seed, limit=self.limit, name=self.name, runs=self.runs)
        opening = {key: value for key, value in self.model_options.fill(shared).items() if value}
        if dry_run:
            plan = {"suite": self.suite, "model": model, "data": more[0], "recipes": self.recipe or "all"}
            return Answer({"plan": plan, "evaluations": None}, [f"{self.suite}: {model} on {more[0]}, every recipe"])
        progress = shared.progress()
        found = suite(
            str(self.suite), model, more[0], runtimes=runtimes or (), recipes=self.recipe or (),
            settings=knobs(self.set_, shared), threads=given["threads"] or 1, seed=given["seed"] or 0,
            limit=given["limit"], name=given["name"], runs=Path(given["runs"] or "runs"),
            command=shlex.join(["bitfront", *sys.argv[1:]]), progress=progress.whole, **opening,
        )  # fmt: skip
        progress.clear()
        return suite_answer(found)


def suite_answer(run: Run) -> Answer:
    """Return everything that a suite measured: files in order, surprises, where the report lies."""
    records = [r for r in run.records() if r.artifact is not None]
    rows: list[tuple[Any, ...]] = []
    for r in records:
        ms = r.latency.value if r.latency else None
        rows.append(
            (
                r.candidate.runtime,
                r.candidate.recipe,
                percent(r.val.value if r.val else None),
                size(r.artifact.size_bytes) if r.artifact else None,
                None if ms is None else f"{ms:.2f}",
                None if not ms else f"{1000 / ms:.1f}",
                "yes" if r.agreement is not None and r.agreement.verified else "no",
            )
        )
    surprises = (run.value("suite") or {}).get("surprises", [])
    base = run_answer(run)
    data = {
        **base.data,
        "files": [_file(r) for r in records],
        "surprises": surprises,
        "front": [front_data(member) for member in run.front],
    }
    text: list[Any] = [table(("runtime", "recipe", ">score", ">size", ">ms", ">fps", "verified"), rows)]
    text += [f"- {line}" for line in surprises]
    return Answer(data, [*text, f"report: {run.path / 'report.html'}"])


def _file(r: Any) -> dict[str, Any]:
    return {
        "id": r.id,
        "runtime": r.candidate.runtime,
        "recipe": r.candidate.recipe,
        "values": dict(r.val.values) if r.val else {},
        "size_bytes": r.artifact.size_bytes,
        "latency_ms": r.latency.value if r.latency else None,
        "ratio": r.latency.ratio if r.latency else None,
        "ram_bytes": r.ram_bytes,
        "verified": r.agreement is not None and r.agreement.verified,
        "status": r.status,
        "reason": r.reason,
        "path": r.artifact.path,
    }
