"""What a device is: the one plug-in that is data alone."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Device"]


@dataclass(frozen=True, slots=True)
class Device:
    """A device is data: where artifacts run, which runtimes it has, and what tells what they cost there."""

    name: str
    description: str
    runtimes: tuple[str, ...]
    """Whose files it runs, the usual one first."""
    recipes: tuple[str, ...] = ()
    """Those that it executes; empty: all of its runtimes."""
    kind: str = "host"
    """``host`` (this computer: files are timed), ``microcontroller`` or ``npu`` (costs are modelled)."""
    threads: int = 1
    max_size_bytes: int | None = None
    """Flash."""
    max_ram_bytes: int | None = None
    core: str = ""
    """Its processor: a name of :data:`bitfront.measure.emulated.CORES`, whose instructions are counted."""
    board: str = ""
    """What models its time: a name of :data:`bitfront.quant.costs.BOARDS`; empty: nothing does."""
    objectives: tuple[str, ...] = ("score", "latency", "size")
    """Axes of a front where none are named."""
