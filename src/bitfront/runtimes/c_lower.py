"""Graph and plan -> the program that is written as C: every operator lowered, buffers placed."""

from __future__ import annotations

from collections.abc import Mapping

from bitfront.errors import UsageError
from bitfront.graph.count import lifetimes
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.runtimes.c_elements import (
    TABLES,
    lower_argmax,
    lower_binary,
    lower_concat,
    lower_gather,
    lower_pad,
    lower_reshape,
    lower_softmax,
    lower_table,
    lower_unary,
)
from bitfront.runtimes.c_layers import lower_layer
from bitfront.runtimes.c_lowering import Lowering, Rule
from bitfront.runtimes.c_maps import lower_mean, lower_pool, lower_resize
from bitfront.runtimes.c_memory import Buffer, Layout, lower_bounds, place
from bitfront.runtimes.c_program import Held, Program, Step
from bitfront.simulate import fixed_point

__all__ = ["SCRATCH_BYTES", "buffers", "layout", "lower", "scratch"]

SCRATCH_BYTES = 2048
"""What a layer's scratch should not exceed."""

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("conv", "dense"), lower_layer),
    **dict.fromkeys(("add", "sub", "mul"), lower_binary),
    **dict.fromkeys(("clip", "neg", "identity"), lower_unary),
    **dict.fromkeys(TABLES, lower_table),
    **dict.fromkeys(("max_pool", "average_pool"), lower_pool),
    **dict.fromkeys(("global_average_pool", "reduce_mean"), lower_mean),
    **dict.fromkeys(("transpose", "slice"), lower_gather),
    "resize": lower_resize,
    "concat": lower_concat,
    "pad": lower_pad,
    "reshape": lower_reshape,
    "argmax": lower_argmax,
    "softmax": lower_softmax,
}
"""Operator -> what lowers it."""


def lower(graph: Graph, plan: Plan, scratch_bytes: int = SCRATCH_BYTES, streamed: bool = False) -> Program:
    """Return the program of a prepared graph under a plan of Qmn formats; ``streamed``: its input comes row by row.

    Where fewer activations are alive than elsewhere, scratch takes what is free: fewer blocks are faster.

    Raises UsageError for tensors in other formats, OperatorError naming the node for what the kernels cannot do.
    """
    program = _lowered(Lowering(graph, plan, scratch_bytes, streamed))
    memory, _ = layout(graph, program)
    rooms = _rooms(graph, program, memory.bound)
    if not any(rooms[step.node.output] > scratch_bytes for step in program.steps if step.scratch_bytes):
        return program
    roomy = _lowered(Lowering(graph, plan, scratch_bytes, streamed, rooms))
    return roomy if layout(graph, roomy)[0].n_bytes <= memory.n_bytes else program


def _rooms(graph: Graph, program: Program, n_bytes: int) -> dict[str, int]:
    """Return what is free at every node, of so many bytes, beside the activations; by the node's output."""
    kept = [b for b in buffers(graph, program)[0] if not b.name.startswith(scratch(0)[0])]
    alive = lower_bounds(kept, len(program.steps))
    return {step.node.output: n_bytes - n for step, n in zip(program.steps, alive, strict=True)}


def _lowered(lowering: Lowering) -> Program:
    graph, plan, streamed = lowering.graph, lowering.plan, lowering.streamed
    source = graph.inputs[0]
    first = graph.consumers(source)
    if not first:
        raise lowering.unsupported(graph.nodes[0], "the network does not read its input")
    lowering.held[source] = Held(tuple(graph.tensors[source].shape[1:]), lowering.form(first[0], source))
    steps = []
    for node in graph.nodes:
        rule = RULES.get(node.op)
        if rule is None:
            raise lowering.unsupported(node, f"it has no kernel for '{node.op}'")
        steps.append(rule(lowering, node))
    rounding = fixed_point.rounding_of(plan)
    window = _window_bytes(graph, lowering.held[source]) if streamed else 0
    return Program(steps, lowering.held, lowering.arrays, source, graph.outputs[0], rounding, window)


def _window_bytes(graph: Graph, x: Held) -> int:
    """Return what is held of an input that comes row by row. Raises UsageError where it cannot."""
    source = graph.inputs[0]
    reader, *others = graph.consumers(source)
    if others or reader.op != "conv" or source in graph.outputs:
        raise UsageError(
            f"the input cannot come row by row: node '{reader.name}' ({reader.op}) is not the one convolution on it",
            hint="keep the image in memory: CFixed(stream_input=False)",
        )
    n_rows = (graph.tensors[reader.inputs[1]].shape[2] - 1) * reader["dilations"][0] + 1
    return int(n_rows * x.shape[2] * x.shape[0] * x.dtype.itemsize)


def layout(graph: Graph, program: Program) -> tuple[Layout, dict[str, int]]:
    """Return the layout of memory, and the offset of every tensor; of scratch see :func:`scratch`."""
    needed, home = buffers(graph, program)
    found = place(needed)
    return found, {tensor: found.offsets[root] for tensor, root in home.items()}


def buffers(graph: Graph, program: Program) -> tuple[list[Buffer], dict[str, str]]:
    """Return the buffers of a program, and tensor -> name of the buffer that it lies in.

    A tensor lies in its input's buffer where it is the same codes, or where an operator goes element by element and
    nobody reads that input later.
    """
    alive = lifetimes(graph)
    home = {program.input: program.input}
    until = {program.input: alive[program.input][1]}
    for i, step in enumerate(program.steps):
        name = step.node.output
        root = home[step.shares] if step.shares else _dying(step, i, home, until)
        home[name] = root or name
        until[home[name]] = max(until.get(home[name], 0), alive[name][1])
    sizes = {root: program.held[root].n_bytes for root in until}
    if program.window_bytes:
        sizes[program.input] = program.window_bytes
    found = [Buffer(root, sizes[root], alive[root][0], last) for root, last in until.items()]
    found += [
        Buffer(scratch(i), step.scratch_bytes, i, i) for i, step in enumerate(program.steps) if step.scratch_bytes
    ]
    return found, home


def scratch(i: int) -> str:
    """Return the name of the scratch buffer of node ``i``; no tensor has such a name."""
    return f"\0{i}"


def _dying(step: Step, i: int, home: Mapping[str, str], until: Mapping[str, int]) -> str:
    """Return the buffer of an input that may be overwritten, because nobody reads it after node ``i``; or nothing."""
    return next((home[name] for name in step.may_overwrite if until[home[name]] <= i), "")
