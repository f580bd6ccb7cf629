"""Graph and plan -> the program that is written as C: every operator lowered, buffers placed."""

from __future__ import annotations

from collections.abc import Mapping

from bitfront.graph.count import lifetimes
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.runtimes.c_elements import (
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
from bitfront.runtimes.c_memory import Buffer, Layout, place
from bitfront.runtimes.c_program import Held, Program, Step
from bitfront.simulate import fixed_point

__all__ = ["SCRATCH_BYTES", "buffers", "layout", "lower", "scratch"]

SCRATCH_BYTES = 2048
"""What a layer's scratch should not exceed."""

_TABLES = ("sigmoid", "tanh", "exp", "sqrt", "silu", "hard_swish", "hard_sigmoid", "leaky_relu")
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("conv", "dense"), lower_layer),
    **dict.fromkeys(("add", "sub", "mul"), lower_binary),
    **dict.fromkeys(("clip", "neg", "identity"), lower_unary),
    **dict.fromkeys(_TABLES, lower_table),
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


def lower(graph: Graph, plan: Plan, scratch_bytes: int = SCRATCH_BYTES) -> Program:
    """Return the program of a prepared graph under a plan of Qmn formats.

    Raises UsageError for tensors in other formats, OperatorError naming the node for what the kernels cannot do.
    """
    lowering = Lowering(graph, plan, scratch_bytes)
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
    return Program(steps, lowering.held, lowering.arrays, source, graph.outputs[0], rounding)


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
    found = [Buffer(root, program.held[root].n_bytes, alive[root][0], last) for root, last in until.items()]
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
