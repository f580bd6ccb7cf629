"""The command line: the only place that prints and reads the environment."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command (default: this process's arguments) and return its exit code."""
    from bitfront.cli.app import run

    return run(argv)
