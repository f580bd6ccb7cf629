"""Networks in C on this computer, in a process of their own: one that crashes takes nothing with it."""

from __future__ import annotations

import signal
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DataError
from bitfront.runtimes.c_program import Held, Program

__all__ = ["CSession", "Child"]


class Child:
    """A running program of :func:`bitfront.runtimes.c_build.build`."""

    def __init__(self, program: Path) -> None:
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def ask(self, net: int, codes: bytes, sizes: Sequence[int], *, traced: bool = False) -> list[bytes]:
        """Send one image's codes; returns what comes back, pieces of so many bytes.

        Raises DataError when the program is closed or ends instead.
        """
        if self._process is None:
            raise DataError("the network's program is closed", hint="open it again")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(struct.pack("=II", net, traced) + codes)
            self._process.stdin.flush()
            found = [self._process.stdout.read(size) for size in sizes]
        except BrokenPipeError:
            found = [b""]
        if [len(piece) for piece in found] != list(sizes):
            raise DataError(f"the network's program ended: {self._ending()}", hint="please report the network")
        return found

    def close(self) -> None:
        """End the program."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ending(self) -> str:
        """Say how it ended."""
        assert self._process is not None
        _, told = self._process.communicate(timeout=60)
        code, self._process = self._process.returncode, None
        if code < 0:
            return signal.Signals(-code).name
        lines = [line for line in told.decode(errors="replace").splitlines() if "rror" in line]
        return lines[0][:300] if lines else f"exit code {code}"


class CSession:
    """A network's program; see :class:`bitfront.contracts.Session`."""

    def __init__(self, child: Child, program: Program, net: int = 0) -> None:
        self._child, self._program, self._net = child, program, net

    def run(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Run normalized float32 ``(b, c, h, w)`` images; returns the values of the output, or class indices.

        Raises DataError when the images do not fit or the program ends.
        """
        held = self._program.held[self._program.output]
        rows = [self._ask(codes, [held.n_bytes])[0] for codes in self._encode(images)]
        codes = np.stack([_decoded(held, row) for row in rows])
        return codes.astype(np.int64) if held.form is None else held.form.decode(codes)

    def trace(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return the codes of every activation, and of the input."""
        names = [step.node.output for step in self._program.steps]
        shown = [self._program.held[name] for name in names]
        sizes = [held.n_bytes for held in shown]
        sizes.append(self._program.held[self._program.output].n_bytes)
        encoded = self._encode(images)
        rows = [self._ask(codes, sizes, traced=True)[:-1] for codes in encoded]
        source = self._program.held[self._program.input]
        found = {self._program.input: np.stack([_decoded(source, codes) for codes in encoded])}
        for i, (name, held) in enumerate(zip(names, shown, strict=True)):
            found[name] = np.stack([_decoded(held, row[i]) for row in rows])
        return found

    def close(self) -> None:
        """End the program."""
        self._child.close()

    def _ask(self, codes: bytes, sizes: Sequence[int], *, traced: bool = False) -> list[bytes]:
        return self._child.ask(self._net, codes, sizes, traced=traced)

    def _encode(self, images: NDArray[np.float32]) -> list[bytes]:
        held = self._program.held[self._program.input]
        if images.shape[1:] != held.shape:
            raise DataError(f"images of shape {images.shape} are not {('b', *held.shape)}", hint="resize the images")
        assert held.form is not None
        return [held.to_memory(held.form.encode(image)).tobytes() for image in images]


def _decoded(held: Held, codes: bytes) -> NDArray[np.int32]:
    values = held.from_memory(np.frombuffer(codes, held.dtype))
    kept: NDArray[np.int32] = values.astype(np.int64 if held.form is None else np.int32)
    return kept
