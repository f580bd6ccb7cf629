"""Plans as commands take them: a file, an artifact that was made under one, a candidate of a run."""

from __future__ import annotations

from pathlib import Path

from bitfront.errors import UsageError, unknown_name
from bitfront.graph import files
from bitfront.graph.ir import Graph
from bitfront.quant import plan_files
from bitfront.quant.plan import Plan
from bitfront.record import Record
from bitfront.registry import runtime_of
from bitfront.run import Run, find
from bitfront.verbs.companions import companions

__all__ = ["open_plan"]


def open_plan(text: Path | str, runs: Path = Path("runs")) -> tuple[Graph | None, Plan]:
    """Return the plan that a text names, and its graph where that is stored with it.

    Args:
        text: a plan file (JSON); a reference file, or an artifact or its folder with the reference beside; or
            ``RUN:CANDIDATE``, a run and a candidate's id (as many letters as tell it apart) or a front member's name.
        runs: folder in which runs are looked up by name.

    Raises:
        UsageError: no such file, run or candidate.
        DataError: a damaged file.
    """
    path = Path(text).expanduser()
    run, colon, candidate = str(text).rpartition(":")
    if colon and not path.exists():
        return files.load(_reference(Run.open(find(runs, run)), candidate))
    if path.name.endswith(files.SUFFIX):
        return files.load(path)
    if path.is_dir() or runtime_of(path):
        reference = companions(path).reference
        if reference is None:
            raise UsageError(f"'{path}' has no reference file beside it", hint=f"name a plan or a *{files.SUFFIX}")
        return files.load(reference)
    return None, plan_files.load(path)


def _reference(run: Run, candidate: str) -> Path:
    """Return the reference file of a run's candidate. Raises UsageError."""
    record = next((member.record for member in run.front if member.name == candidate), None)
    if record is None:
        record = _by_id(run, candidate)
    if record.artifact is None:
        reason = f": {record.reason}" if record.reason else ""
        raise UsageError(f"candidate '{candidate}' of '{run.name}' has no file{reason}", hint="choose one that has")
    return (run.path / record.artifact.path).with_suffix(files.SUFFIX)


def _by_id(run: Run, text: str) -> Record:
    records = {record.id: record for record in run.records()}
    found = [id for id in records if text and id.startswith(text)]
    if len(found) == 1:
        return records[found[0]]
    if found:
        raise UsageError(f"{len(found)} candidates of '{run.name}' begin with '{text}'", hint="give more of the id")
    raise unknown_name(f"candidate of '{run.name}'", text, [*(member.name for member in run.front), *records])
