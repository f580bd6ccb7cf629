"""The device that a run is for: what it settles where nothing is said, and what can never fit it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from bitfront.contracts import Device
from bitfront.errors import BudgetError, DataError, UsageError
from bitfront.fitting.config import BitSearch, Config
from bitfront.fitting.space import Architecture
from bitfront.graph import capture, passes
from bitfront.graph.ir import Graph
from bitfront.record import Budget
from bitfront.sources import Source

__all__ = ["for_device", "least_bytes", "refuse", "usual_search"]

PROGRAM_BYTES = 2048
"""Of flash that the C of any network takes beside its constants, at least."""
STACK_BYTES = 256
"""Of RAM, at least."""
MAX_CAPTURED = 8
"""Networks that are looked at before a run begins."""
NEED_A_CORE, NEED_A_BOARD = "instructions", "modelled_latency"
"""Costs and objectives that only some devices have."""


def for_device(config: Config, device: Device) -> Config:
    """Return a configuration with the device's own engine, recipes, objectives and limits where none are given.

    Raises UsageError for objectives and costs that nobody can tell of this device.
    """
    objectives = device.objectives if config.objectives is None else config.objectives
    bits = usual_search(config.bits, device)
    for name in (*objectives, *bits.costs):
        lacks = (name == NEED_A_CORE and not device.core) or (name == NEED_A_BOARD and not device.board)
        if lacks:
            what = "no instructions are counted" if name == NEED_A_CORE else "nothing models the time"
            raise UsageError(f"objective '{name}': {what} on {device.name}", hint="`bitfront list devices`")
    return replace(
        config,
        runtime=config.runtime or device.runtimes[0],
        recipes=tuple(config.recipes) or device.recipes,
        objectives=tuple(objectives),
        budget=_within(config.budget, device),
        bits=bits,
    )


def usual_search(bits: BitSearch, device: Device) -> BitSearch:
    """Return a bit search with the costs and the rounding that suit a device, where none are given.

    A processor rounds half up in fewer instructions than half to even.
    """
    costs = bits.costs or (("flash", "instructions") if device.core else ("flash",))
    return replace(bits, costs=tuple(costs), rounding=bits.rounding or ("half_up" if device.core else ""))


def _within(budget: Budget, device: Device) -> Budget:
    def least(asked: int | None, limit: int | None) -> int | None:
        return min((n for n in (asked, limit) if n is not None), default=None)

    return replace(
        budget,
        max_size_bytes=least(budget.max_size_bytes, device.max_size_bytes),
        max_ram_bytes=least(budget.max_ram_bytes, device.max_ram_bytes),
    )


# --- what can never fit ----------------------------------------------------------------------------------------------
def refuse(source: Source, networks: Sequence[Architecture], budget: Budget, device: Device, bits: int) -> None:
    """Raise BudgetError when not even the smallest of ``networks`` can get inside the budget of flash and RAM.

    ``bits``: the fewest that weights can get. Of many networks nothing is said before they are trained.
    """
    if device.kind == "host" or (budget.max_size_bytes is None and budget.max_ram_bytes is None):
        return
    smallest = {a.family: a for a in sorted(networks, key=lambda a: -a.size[0] * a.size[1])}  # the last one stays
    if len(smallest) > MAX_CAPTURED:
        return
    least = [least_bytes(graph, bits) for a in smallest.values() if (graph := _graph(source, a)) is not None]
    if not least:
        return
    program, stack = (PROGRAM_BYTES, STACK_BYTES) if device.core else (0, 0)
    flash, ram = min(n for n, _ in least) + program, min(n for _, n in least) + stack
    for what, needed, limit, option in (
        ("of flash", flash, budget.max_size_bytes, "--max-size"),
        ("of RAM", ram, budget.max_ram_bytes, "--max-ram"),
    ):
        if limit is not None and needed > limit:
            raise BudgetError(
                f"no network of the space fits {limit:,} bytes {what}: the smallest takes at least {needed:,}",
                hint=f"allow more with {option}, or explore smaller networks and images with --set",
            )


def least_bytes(graph: Graph, bits: int) -> tuple[int, int]:
    """Return the bytes of flash and RAM that a prepared graph takes at least, at so many bits for its weights.

    RAM: what a convolution, a dense layer or a pool reads and writes is there at once, a byte a number.
    """
    weights = {n.inputs[1] for n in graph.nodes if n.op in ("conv", "dense")} & set(graph.constants)
    flash = sum(math.ceil(graph.constants[name].size * bits / 8) for name in weights)
    both = [
        math.prod(graph.tensors[n.inputs[0]].shape) + math.prod(graph.tensors[n.output].shape)
        for n in graph.nodes
        if n.op in ("conv", "dense", "max_pool", "average_pool")
    ]
    return flash, max(both, default=0)


def _graph(source: Source, architecture: Architecture) -> Graph | None:
    """Return a network's graph with any weights; ``None`` where it cannot be captured."""
    size = architecture.size
    try:
        if source.runtime:
            return passes.prepare(source.graph(size))
        channels = source.contract(size, architecture.options).channels
        module = source.build(architecture.options, size)
        return passes.prepare(capture.from_module(module.eval(), (1, channels, *size)))
    except DataError:
        return None
