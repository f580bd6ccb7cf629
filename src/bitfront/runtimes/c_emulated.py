"""A network in C on an emulated processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DeviceError
from bitfront.graph.ir import Graph
from bitfront.measure import emulated
from bitfront.measure.emulated import Core, Firmware, Frame
from bitfront.quant.plan import Plan
from bitfront.runtimes import c_tree
from bitfront.runtimes.c_source import Written
from bitfront.simulate import reference

__all__ = ["count", "firmware", "hashes"]


def firmware(written: Written, images: Sequence[NDArray[np.float32]] = ()) -> Firmware:
    """Return a network and float32 ``(c, h, w)`` images; without any, one of codes that look random."""
    program = written.program
    x = program.held[program.input]
    assert x.form is not None
    coded = [x.form.encode(image) for image in images or [_pattern(written)]]
    return Firmware(
        written.name,
        c_tree.sources(written),
        written.memory.n_bytes,
        written.offsets[program.input],
        [x.to_memory(codes).tobytes() for codes in coded],
        x.n_bytes // x.shape[1] if program.window_bytes else 0,
    )


def _pattern(written: Written) -> NDArray[np.float32]:
    x = written.program.held[written.program.input]
    assert x.form is not None
    return x.form.decode(x.from_memory(c_tree.pattern(x.n, x.form.low, x.form.high)))


def hashes(graph: Graph, plan: Plan, written: Written, images: Sequence[NDArray[np.float32]]) -> list[int]:
    """Return what the reference has for ``Frame.hashed``, for float32 ``(c, h, w)`` images."""
    program, found = written.program, []
    codes = reference.run(graph, np.stack(images), plan, keep="*")
    for i in range(len(images)):
        hashed = 2166136261
        for step in program.steps:
            name = step.node.output
            for byte in np.asarray(program.held[name].to_memory(codes[name][i])).tobytes():
                hashed = ((hashed ^ byte) * 16777619) & 0xFFFFFFFF
        found.append(hashed)
    return found


def count(path: Path, core: Core) -> tuple[Frame, int]:
    """Return a run of a ``.zip`` file's network on an emulated core, and the bytes of flash that it takes there.

    Raises DataError for damaged files, DeviceError when it cannot be emulated or its codes are not the reference's.
    """
    graph, plan, written = c_tree.read(path)
    (frame,), linked_bytes = emulated.measure(firmware(written), core)
    if hashes(graph, plan, written, [_pattern(written)]) != [frame.hashed]:
        raise DeviceError(f"'{path}' gives other codes on an emulated {core.name}", hint="please report the network")
    return frame, linked_bytes
