"""The recipe of one width everywhere in fixed point: a network made ready for power-of-two steps, and its formats.

As the menu of a bit search (:mod:`bitfront.quant.menu`) does for every width at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.equalize import equalize
from bitfront.graph.ir import Graph, Node
from bitfront.quant.alignment import align
from bitfront.quant.clips import relax_clips
from bitfront.quant.formats import Format, Qmn
from bitfront.stats.qmn import choose
from bitfront.stats.ranges import Observe, Range

__all__ = ["even_out", "fixed_point_formats"]

N_RELAX = 8
"""Images on which clips are tried."""
BIAS_BITS = 30
"""Without the sign, of 32: one is left for what bias correction adds."""


def even_out(graph: Graph, batches: Sequence[NDArray[np.float32]], observe: Callable[[Graph], Observe] | None) -> Graph:
    """Return a graph that answers as before, with weights of even ranges whose best steps are powers of two."""
    sizes = np.cumsum([len(images) for images in batches])
    few = list(batches[: int(np.searchsorted(sizes, N_RELAX)) + 1])
    relaxed = relax_clips(graph, few, observe=observe)
    return align(equalize(relaxed.graph, relaxed.peaks))


def fixed_point_formats(
    graph: Graph,
    ranges: Mapping[str, Range],
    weight_bits: int,
    activation_bits: int,
    moves: Callable[[Node], bool],
) -> dict[str, Format]:
    """Return a Qmn format for every weight, constant and activation, of the least squared error each.

    Biases get none: they have the step of their sums, and 32 bits. What an operator only ``moves`` has the format of
    what was moved.
    """
    formats: dict[str, Format] = {
        name: choose(ranges[name], activation_bits, "mse") for name in graph.inputs if name in ranges
    }
    for node in graph.nodes:
        if moves(node) and node.inputs[0] in formats:
            formats[node.output] = formats[node.inputs[0]]
        elif node.op != "argmax" and node.output in ranges:
            formats[node.output] = choose(ranges[node.output], activation_bits, "mse")
    for node in graph.nodes:
        layer = node.op in ("conv", "dense")
        for position, name in enumerate(node.inputs):
            if name in graph.constants and not (layer and position == 2):
                formats[name] = _weight_format(graph, node, name, weight_bits, formats)
    return formats


def _weight_format(graph: Graph, node: Node, name: str, bits: int, formats: Mapping[str, Format]) -> Format:
    """Return the best format at a step at which the bias fits 32 bits; of a shared weight the coarsest."""
    form = choose(graph.constants[name], bits, "mse", signed=True)
    source = formats.get(node.inputs[0])
    frac_bits = form.frac_bits
    if node.op in ("conv", "dense") and len(node.inputs) == 3 and isinstance(source, Qmn):
        largest = float(np.abs(graph.constants[node.inputs[2]]).max(initial=0.0))
        if largest:
            frac_bits = min(frac_bits, BIAS_BITS - math.ceil(math.log2(largest)) - source.frac_bits)
    known = formats.get(name)
    if isinstance(known, Qmn):
        frac_bits = min(frac_bits, known.frac_bits)
    return Qmn(bits, frac_bits, signed=True)
