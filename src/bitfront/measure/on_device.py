"""What an artifact takes on a device that is not this computer: counted on its graph, modelled, emulated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bitfront.contracts import Device
from bitfront.graph.ir import Graph
from bitfront.measure import emulated
from bitfront.quant import instructions
from bitfront.quant.costs import BOARDS, Costs, bits_of
from bitfront.quant.plan import Plan
from bitfront.record import OnDevice
from bitfront.simulate import fixed_point

__all__ = ["counted", "modelled", "residual"]


def modelled(device: Device, graph: Graph, plan: Plan, taken: tuple[int, int] | None = None) -> OnDevice:
    """Return what a plan takes on a device.

    Args:
        device: of another kind than ``host``.
        graph: prepared.
        plan: the formats of its tensors.
        taken: bytes of constants and of RAM that the artifact itself tells; without it they are counted on the graph.
    """
    costs, bits = Costs(graph), bits_of(plan)
    flash, ram = taken or (int(costs.flash_bytes(bits)), int(costs.ram_bytes(bits)))
    found = OnDevice(device.name, flash, ram, residual=residual(device))
    if device.board:
        found = replace(found, latency_ms=float(costs.latency_ms(bits, device.board)))
    if device.core:
        rounding = fixed_point.rounding_of(plan)
        n = float(costs.instructions(bits, device.core, rounding=rounding))
        program = instructions.prices(device.core).program_bytes
        found = replace(found, flash_bytes=flash + program, instructions=round(n))
    return found


def residual(device: Device) -> str:
    """Return how well a device's instructions and times are known."""
    told = [f"instructions {instructions.prices(device.core).residual}"] if device.core else []
    told += [f"time {BOARDS[device.board].residual}"] if device.board else []
    return "; ".join(told)


def counted(found: OnDevice, device: Device, runtime: Any, path: Path) -> OnDevice:
    """Return the same with what the emulator counts, where it is installed and the runtime's files run on it.

    Raises DeviceError when it fails.
    """
    if not device.core or not hasattr(runtime, "emulate") or emulated.missing():
        return found
    frame, linked_bytes = runtime.emulate(path, device.core)
    return replace(
        found,
        counted_instructions=frame.instructions,
        linked_bytes=linked_bytes,
        counted_with=emulated.version(),
    )
