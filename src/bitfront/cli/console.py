"""What the user sees: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from bitfront.errors import BitfrontError

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Answer", "Console", "Progress", "duration", "error_data", "number", "percent", "size", "table"]

PLAIN_INTERVAL_S = 10.0
"""Without a terminal, progress is a line at most this often."""
TERMINAL_INTERVAL_S = 0.1


@dataclass(frozen=True)
class Answer:
    """What a command found: plain data for ``--json``, and the same for people."""

    data: Mapping[str, Any]
    text: Sequence[Any] = ()
    """Lines and rich tables."""
    notes: Sequence[str] = field(default_factory=tuple)
    """Lines for stderr, after the result."""
    failure: BitfrontError | None = None
    """Why the exit code is not 0, when there is a result all the same."""

    @property
    def code(self) -> int:
        """The exit code."""
        return self.failure.exit_code if self.failure else 0


def error_data(error: BitfrontError) -> dict[str, Any]:
    """Return an error as plain data."""
    return {"type": type(error).__name__, "message": str(error), "hint": error.hint, "exit_code": error.exit_code}


class Console:
    """Prints for one command."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json, self.quiet = json, quiet
        self.out: IO[str] = sys.stdout
        self.err: IO[str] = sys.stderr

    def note(self, text: str) -> None:
        """Say something that is not the result."""
        if not self.quiet:
            print(text, file=self.err, flush=True)

    def error(self, message: str, hint: str = "") -> None:
        """Say what was wrong and what to do."""
        print(f"error: {message}", file=self.err)
        if hint:
            print(f"hint: {hint}", file=self.err)
        self.err.flush()

    def answer(self, answer: Answer) -> None:
        """Print a command's result."""
        failure = answer.failure
        if self.json:
            data = {**answer.data, "error": error_data(failure)} if failure else answer.data
            print(json.dumps(data, ensure_ascii=False), file=self.out)
        else:
            for item in answer.text:
                self._print(item)
        self.out.flush()
        for line in answer.notes:
            self.note(line)
        if failure:
            self.error(str(failure), failure.hint)

    def _print(self, item: RenderableType) -> None:
        if isinstance(item, str):
            print(item, file=self.out)
            return
        from rich.console import Console as Rich

        rich = Rich(file=self.out, highlight=False, soft_wrap=False, width=None if self.out.isatty() else 160)
        rich.print(item)


class Progress:
    """One line of progress: stage, done of total, time left. Call it as often as you like."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._terminal = console.err.isatty()
        self._stage = ""
        self._start = self._last = 0.0
        self._shown = 0

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Show that ``done`` of ``total`` (0: unknown) of a stage is finished."""
        if stage != self._stage:
            self._stage, self._start = stage, time.monotonic()
        self._say(stage, self._line(done, total, time.monotonic() - self._start))

    def whole(self, state: Any) -> None:
        """Show a :class:`bitfront.fitting.progress.Progress`: the work of many stages, with one forecast."""
        left = "" if state.seconds_left is None else f", {duration(state.seconds_left)} left"
        self._say(state.stage, f"[{100 * state.done:3.0f} %{left}] {state.stage}: {state.text}")

    def _say(self, stage: str, line: str) -> None:
        """Show a line, unless one was shown a moment ago."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._start = stage, now
        interval = TERMINAL_INTERVAL_S if self._terminal else PLAIN_INTERVAL_S
        if not self._console.quiet and not (self._last and now - self._last < interval):
            self._last = now
            self._show(line)

    def _line(self, done: int, total: int, seconds: float) -> str:
        line = self._stage + (f" {done}/{total}" if total else f" {done}" if done else "")
        if total and done and seconds > 1:
            line += f", {duration(seconds / done * (total - done))} left"
        return line

    def _show(self, line: str) -> None:
        if self._terminal:
            line = line[:119]
            print("\r" + line.ljust(self._shown), end="", file=self._console.err, flush=True)
            self._shown = len(line)
        else:
            print(line, file=self._console.err, flush=True)

    def clear(self) -> None:
        """Wipe the line, before something else is printed."""
        if self._terminal and self._shown:
            print("\r" + " " * self._shown + "\r", end="", file=self._console.err, flush=True)
            self._shown = 0


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Any:
    """Return a rich table; columns that begin with ``>`` are numbers, set to the right. All cells are plain text."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    head = any(column.strip(">") for column in columns)
    found = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, show_header=head)
    for column in columns:
        right = column.startswith(">")
        found.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        found.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    return found


def percent(value: float | None) -> str:
    """Return a fraction as per cent with two digits."""
    return "-" if value is None else f"{100 * value:.2f} %"


def size(n_bytes: float | None) -> str:
    """Return bytes in kB or MB (powers of ten)."""
    if n_bytes is None:
        return "-"
    return f"{n_bytes / 1e6:.2f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.1f} kB"


def number(value: float | None) -> str:
    """Return a count with thousands set apart."""
    return "-" if value is None else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Return ``45 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
