"""The commands by name, and what happens when one fails."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cyclopts import App, CycloptsError, Group

from bitfront import __version__
from bitfront.cli.console import Answer, Console
from bitfront.errors import BitfrontError, Interrupted, SpaceError, UsageError

__all__ = ["COMMANDS", "app", "run"]

UNUSABLE = {
    errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip
"""What the operating system says of paths that cannot be used: not a fault of ours."""
BROKEN_PIPE = 141
"""What a shell reports of a program whose reader went away."""

COMMANDS = {
    "Fit": {
        "fit": ("bitfront.cli.fitting:fit", "Find the Pareto front of verified artifacts under a budget."),
        "search": ("bitfront.cli.searching:search", "Choose the bits of every tensor of a trained network."),
        "resume": ("bitfront.cli.fitting:resume", "Go on with an interrupted run."),
        "report": ("bitfront.cli.fitting:report", "Write a run's report again and say where it is."),
        "compare": ("bitfront.cli.fitting:compare", "Set the fronts of several runs side by side."),
        "runs": ("bitfront.cli.fitting:runs", "List the runs."),
    },
    "One step": {
        "train": ("bitfront.cli.training:train", "Train a model."),
        "distill": ("bitfront.cli.training:distill", "Train a model with a teacher."),
        "evaluate": ("bitfront.cli.steps:evaluate", "Score a model on labelled images."),
        "predict": ("bitfront.cli.steps:predict", "Ask a model about pictures, videos or a camera."),
        "quantize": ("bitfront.cli.making:quantize", "Quantize a model, verify the file and score it against float."),
        "prune": ("bitfront.cli.pruning:prune", "Take channels or weights from a network, and train the rest on."),
        "export": ("bitfront.cli.making:export", "Write a model as a runtime's file, in floating point."),
        "verify": ("bitfront.cli.making:verify", "Compare a file with its reference, tensor by tensor."),
        "benchmark": ("bitfront.cli.making:benchmark", "Time files against each other on this machine."),
    },
    "Look": {
        "data": ("bitfront.cli.data:app", "Check, show or convert a dataset."),
        "stats": ("bitfront.cli.searching:stats", "Say what fixed point does to every tensor."),
        "inspect": ("bitfront.cli.looking:inspect", "Count a model's parameters, operations and memory."),
        "list": ("bitfront.cli.looking:list_", "List the models, datasets, runtimes, ... there are."),
        "doctor": ("bitfront.cli.looking:doctor", "Say what works on this machine, and the limits."),
        "version": ("bitfront.cli.looking:version", "Print the version."),
    },
}
"""Group -> command -> where it is and what it does. Nothing is imported before it is used."""


def app() -> App:
    """Return the command line, its commands not yet imported."""
    line = App(
        name="bitfront",
        help="Fit vision models onto edge devices. `bitfront fit` alone shows what it does, on generated images.",
        version=__version__,
        version_flags=["--version"],
        help_format="markdown",
    )
    for position, (title, commands) in enumerate(COMMANDS.items()):
        group = Group(title, sort_key=position)
        for name, (place, text) in commands.items():
            line.command(place, name=name, help=text, group=group)
    return line


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; no exception leaves this function."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    options = tokens[: tokens.index("--")] if "--" in tokens else tokens
    console = Console(json="--json" in options, quiet="--quiet" in options)
    try:
        answer = _call(tokens, console)
        console.answer(answer)
        return answer.code
    except BrokenPipeError:  # `bitfront runs | head`
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _call(tokens: list[str], console: Console) -> Answer:
    with _logging("--verbose" in tokens, console):
        try:
            wants_help = not tokens or bool({"--help", "-h", "--version"} & set(tokens))
            # with --json stdout holds one object and nothing else, whatever libraries print
            with contextlib.nullcontext() if wants_help else contextlib.redirect_stdout(console.err):
                found = _invoke(tokens)
            return found if isinstance(found, Answer) else Answer({})
        except CycloptsError as error:
            command = " ".join(["bitfront", *(error.command_chain or ())])
            return Answer({}, failure=UsageError(str(error), hint=f"`{command} --help` lists the options"))
        except BitfrontError as error:
            error.hint = error.hint or f"`bitfront {tokens[0]} --help` lists the options"
            return Answer({}, failure=error)
        except KeyboardInterrupt:
            return Answer({}, failure=Interrupted("interrupted", hint="nothing half-written is left behind"))
        except BrokenPipeError:
            raise
        except Exception as error:
            return Answer({}, failure=_refused(error) or _internal(error))


def _invoke(tokens: list[str]) -> object:
    line = app()
    line.suppress_keyboard_interrupt = False
    return line(tokens, exit_on_error=False, print_error=False, result_action="return_value")


def _refused(error: Exception) -> BitfrontError | None:
    """Return what is said when the operating system refuses a file; ``None`` for other faults."""
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(f"no space left: {error}", hint="free some, then run the same command again")
    if error.errno in UNUSABLE:
        name = str(error.filename or "a file")
        return UsageError(f"cannot use '{name[:80]}': {error.strerror}", hint="check the path and its permissions")
    return None


def _internal(error: Exception) -> BitfrontError:
    """Return what is said of a fault of ours: one line, and the traceback in a file."""
    text = "".join(traceback.format_exception(error))
    where = _log(f"{datetime.now(UTC).isoformat(timespec='seconds')} bitfront {__version__}\n{text}\n")
    return BitfrontError(f"internal error: {type(error).__name__}: {error}", hint=f"log at {where}; please report it")


def _log(text: str) -> str:
    """Write a log outside any run and return where it is."""
    from bitfront.store import atomic_write

    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "bitfront"
    for folder in (state, Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError, BitfrontError):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / ("log.txt" if folder == state else f"bitfront-{os.getpid()}-log.txt")
            atomic_write(path, text.encode("utf-8", "replace"))
            return str(path)
    return "no place where it could be written"


@contextlib.contextmanager
def _logging(verbose: bool, console: Console) -> Iterator[None]:
    """Send the library's log to stderr while one command runs."""
    logger = logging.getLogger("bitfront")
    handler = logging.StreamHandler(console.err)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s" if verbose else "%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
