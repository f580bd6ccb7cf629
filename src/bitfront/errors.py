"""Every error that bitfront raises on purpose, and the exit code each one means.

    BitfrontError                70   a fault of ours
    +-- UsageError                2   a wrong argument, name, option or configuration file
    +-- DataError                 3   data, labels or model files that cannot be used
    |   +-- LabelError            3   labels that contradict their image or their classes
    |   +-- OperatorError         3   a network with operators that the graph does not know
    +-- BudgetError               4   nothing meets the budget
    +-- DeviceError               5   a device cannot be reached or does not answer
    +-- VerificationError         6   an artifact does not compute what its reference computes
    +-- BusyError                75   another process holds the run
    +-- SpaceError               75   no space left: free some, then resume
    +-- Interrupted             130   stopped by the user; the state is saved

A message says what was wrong and where; the hint says what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "BitfrontError",
    "BudgetError",
    "BusyError",
    "DataError",
    "DeviceError",
    "Interrupted",
    "LabelError",
    "OperatorError",
    "SpaceError",
    "UsageError",
    "VerificationError",
    "one_line",
    "unknown_name",
]


class BitfrontError(Exception):
    """Base of all errors raised on purpose: one line on what was wrong, and a hint on what to do."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(one_line(message))
        self.hint = one_line(hint)


class UsageError(BitfrontError):
    """A wrong argument, name, option or configuration file."""

    exit_code = 2


class DataError(BitfrontError):
    """Data, labels or model files that cannot be used as they are."""

    exit_code = 3


class LabelError(DataError):
    """Labels that contradict their image or their classes: never left out in silence, unlike an unreadable file."""


class OperatorError(DataError):
    """A network with operators that the graph does not know: only its runtime can execute it."""


class BudgetError(BitfrontError):
    """Nothing meets the budget; the front is still written and the nearest miss is named."""

    exit_code = 4


class DeviceError(BitfrontError):
    """A device cannot be reached, or a runtime is not installed or does not answer."""

    exit_code = 5


class VerificationError(BitfrontError):
    """An artifact does not compute what its reference computes, or its files have changed."""

    exit_code = 6


class BusyError(BitfrontError):
    """Another process holds the run folder."""

    exit_code = 75


class SpaceError(BitfrontError):
    """No space is left on the device; what was finished is kept."""

    exit_code = 75


class Interrupted(BitfrontError):
    """The user stopped the work; the state is saved and can be resumed."""

    exit_code = 130


def one_line(text: str) -> str:
    """Return ``text`` on one line, with control characters shown as escapes (a file name may hold any of them)."""
    return "".join(c if c.isprintable() else " " if c in "\n\r\t" else repr(c)[1:-1] for c in text).strip()


def unknown_name(what: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a ``name`` that is not among the ``known`` names of a kind of thing, with a guess."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    guess = f"did you mean '{close[0]}'? " if close else ""
    return UsageError(f"unknown {what} '{name}'", hint=f"{guess}known: {', '.join(names) or 'none'}")
