"""Fixed-point C for microcontrollers: writer of ``.zip`` source trees, which it runs on this computer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bitfront.contracts import DataInfo, InputContract, OutputContract
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.store import atomic_write

if TYPE_CHECKING:
    from bitfront.measure.emulated import Frame
    from bitfront.runtimes.c_session import CSession
    from bitfront.runtimes.c_tree import Description

__all__ = ["CFixed"]


@dataclass(frozen=True, slots=True)
class CFixed:
    """Integer C99 that computes the codes of the reference, every one."""

    prefix: str = "model"
    """What all global names of the C begin with."""
    scratch_bytes: int = 2048
    """Memory, within the arena, that a layer's unpacked weights and patches should not exceed: more is faster."""

    stream_input: bool = False
    """Whether the program asks for the image row by row, so that it need not lie in memory."""

    name: ClassVar[str] = "c_fixed"
    recipes: ClassVar[tuple[str, ...]] = ("qmn8",)
    suffix: ClassVar[str] = ".zip"
    tolerance_codes: ClassVar[int] = 0

    def missing(self) -> str:
        """Why C cannot be run here; empty when it can."""
        from bitfront.runtimes import c_build

        return c_build.missing()

    def version(self) -> str:
        """The C compiler and its version."""
        from bitfront.runtimes import c_build

        return c_build.version(c_build.compiler())

    def export(self, graph: Graph, plan: Plan, folder: Path, contract: InputContract, output: OutputContract) -> Path:
        """Write ``folder/model.zip`` and return its path; equal arguments give equal bytes.

        Raises UsageError for tensors that are not Qmn, OperatorError naming the node for what has no kernel, SpaceError
        when the disk is full.
        """
        from bitfront.runtimes import c_source, c_tree

        written = c_source.write(graph, plan, self.prefix, self.scratch_bytes, self.stream_input)
        made = c_tree.tree(graph, plan, written, contract, output, self.scratch_bytes)
        path = folder / f"model{self.suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(path, c_tree.zipped(made, self.prefix))
        return path

    def notes(self, graph: Graph, plan: Plan) -> tuple[str, ...]:
        """Say what the C takes."""
        from bitfront.runtimes import c_source

        written = c_source.write(graph, plan, self.prefix, self.scratch_bytes, self.stream_input)
        return (
            f"C: {written.flash_bytes:,} bytes of constants in flash beside the program, {written.memory.n_bytes:,} "
            f"bytes of RAM ({written.memory.bound:,} at least), rounding {written.program.rounding.replace('_', ' ')}",
        )

    def size(self, path: Path) -> int:
        """Return what a file takes in flash beside its program: weights, biases, tables. Raises DataError."""
        from bitfront.runtimes import c_tree

        return c_tree.describe(path).flash_bytes

    def footprint(self, path: Path) -> tuple[int, int]:
        """Return the bytes of a file's constants in flash, and of its arena and stack in RAM. Raises DataError."""
        from bitfront.runtimes import c_tree

        return c_tree.footprint(path)

    def emulate(self, path: Path, core: str) -> tuple[Frame, int]:
        """Return a run on one of :data:`bitfront.measure.emulated.CORES`, and the flash that the linker tells.

        Raises DataError for damaged files, DeviceError when there is no emulator or the codes are not the reference's.
        """
        from bitfront.measure.emulated import CORES
        from bitfront.runtimes import c_emulated

        return c_emulated.count(path, CORES[core])

    def describe(self, path: Path, *, preprocess: str = "", info: DataInfo | None = None) -> Description:
        """Return how to feed and read a ``.zip`` file, which says so itself. Raises DataError for damaged files."""
        from bitfront.runtimes import c_tree

        return c_tree.describe(path)

    def open(self, path: Path, threads: int = 1) -> CSession:
        """Compile a file's C and start it, in a process of its own; ``threads`` is not used.

        Raises DataError for damaged files and for C that bitfront would not write, DeviceError without a compiler.
        """
        from bitfront.runtimes import c_build, c_session, c_tree

        _, _, written = c_tree.read(path)
        return c_session.CSession(c_session.Child(c_build.build([written])), written.program)
