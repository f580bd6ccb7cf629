"""Qmn stats: which fixed-point format suits a tensor at a number of bits, and what it costs in precision.

Source: thesis 000, 4.4. For every tensor and number of bits: the largest magnitude, the split into m integer and n
fractional bits, the fraction of values beyond the format's ends, and the mean error of rounding. Weights are read off
the graph; activations off the streaming histograms of :mod:`bitfront.stats.ranges`, so the data pass once and are
never held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import unknown_name
from bitfront.graph.ir import Graph
from bitfront.quant.formats import Affine, Qmn
from bitfront.stats.ranges import Range, Ranges

__all__ = ["RULES", "Errors", "QmnStat", "choose", "choose_per_channel", "errors", "qmn_stats"]

RULES = ("max", "mse")
"""``max``: the fewest integer bits that reach the largest magnitude (thesis 000, 4.4); ``mse``: the least squared error
of rounding and clipping together."""
N_TRIED = 6
"""Integer bits that the rule ``mse`` tries to do without."""
SMALLEST = 2.0**-64
"""Tensors of smaller values are treated as zeros."""

Values = NDArray[np.floating] | Range


@dataclass(frozen=True, slots=True)
class Errors:
    """What a format does to a tensor."""

    clipped: float
    """Fraction of the values beyond the ends by more than half a step."""
    rounding: float
    """Mean distance of the others to their codes' values, in the tensor's unit."""
    squared: float
    """Mean squared error of rounding and clipping together."""


@dataclass(frozen=True, slots=True)
class QmnStat:
    """One tensor at one number of bits."""

    tensor: str
    kind: str
    """``weight``, ``bias``, ``input`` or ``activation``."""
    size: int
    """Elements; of activations, of one image."""
    low: float
    high: float
    format: Qmn
    errors: Errors

    @property
    def maximum(self) -> float:
        """Largest magnitude."""
        return max(abs(self.low), abs(self.high))


# --- one tensor ------------------------------------------------------------------------------------------------------
def choose(values: Values, bits: int, rule: str = "max", *, signed: bool | None = None) -> Qmn:
    """Return the format of ``bits`` bits for values of any shape, or for a range that was observed.

    Formats are signed when a value is negative, unless ``signed`` says so. Raises UsageError for an unknown rule.
    """
    if rule not in RULES:
        raise unknown_name("range rule", rule, RULES)
    x, weights, width = _histogram(values)
    low, high = float(x.min(initial=0.0)), float(x.max(initial=0.0))
    signed = low < 0 if signed is None else signed
    covering = _covering(low, high, bits, signed)
    if rule == "max" or max(-low, high) < SMALLEST:
        return covering
    tries = [Qmn(bits, covering.frac_bits + i, signed) for i in range(N_TRIED)]
    return min(tries, key=lambda form: _errors(x, weights, width, form).squared)


def choose_per_channel(weight: NDArray[np.floating], bits: int, rule: str = "max") -> Affine:
    """Return one power-of-two scale per output channel (axis 0) of a weight: shifts instead of one format."""
    forms = [choose(channel, bits, rule, signed=True) for channel in weight]
    return Affine(bits, tuple(form.step for form in forms), (0,), axis=0)


def errors(values: Values, form: Qmn) -> Errors:
    """Return what ``form`` does to values of any shape, or to a range that was observed."""
    return _errors(*_histogram(values), form)


def _covering(low: float, high: float, bits: int, signed: bool) -> Qmn:
    """Return the format with the fewest integer bits that clips nothing by more than half a step."""
    top = max(-low, high, SMALLEST)
    frac_bits = bits - signed - math.ceil(math.log2(top)) + 1
    while True:
        form = Qmn(bits, frac_bits, signed)
        if high <= (form.high + 0.5) * form.step and (not signed or low >= (form.low - 0.5) * form.step):
            return form
        frac_bits -= 1


def _histogram(values: Values) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return values, how often each occurs, and the width of the bins they stand for (0: they are exact)."""
    if isinstance(values, Range):
        seen = values.counts > 0
        return values.centres()[seen], values.counts[seen].astype(np.float64), math.ldexp(1.0, values.exponent)
    x = np.asarray(values, np.float64).ravel()
    return x, np.ones_like(x), 0.0


def _errors(x: NDArray[np.float64], weights: NDArray[np.float64], width: float, form: Qmn) -> Errors:
    """Within a bin values count as evenly spread, so what is lost inside it is known however fine the step is."""
    total = float(weights.sum()) or 1.0
    steps = x * 2.0**form.frac_bits
    nearest = np.clip(np.rint(steps), form.low, form.high) * form.step
    away = np.abs(nearest - x)
    clipped = (steps > form.high + 0.5) | (steps < form.low - 0.5)
    if width >= form.step:  # several codes in a bin: its centre says nothing of rounding
        inside, rounding = form.step**2 / 12, np.full_like(away, form.step / 4)
        squared = np.where(clipped, away**2, 0.0)
    else:
        inside, rounding = width**2 / 12, away
        squared = away**2
    return Errors(
        clipped=float(weights @ clipped) / total,
        rounding=float(weights @ np.where(clipped, 0.0, rounding)) / total,
        squared=float(weights @ squared) / total + inside,
    )


# --- a network -------------------------------------------------------------------------------------------------------
def qmn_stats(
    graph: Graph,
    ranges: Ranges | None,
    weight_bits: Sequence[int],
    activation_bits: Sequence[int] = (),
    rule: str = "max",
) -> Iterator[QmnStat]:
    """Yield the statistics of every weight, bias and activation of a prepared graph, in execution order.

    Activations are left out without ``ranges``. Raises UsageError for an unknown rule.
    """
    for name, kind, values in tensors(graph, ranges or {}):
        low, high = (values.low, values.high) if isinstance(values, Range) else (values.min(), values.max())
        size = int(np.prod(graph.tensors[name].shape))
        for bits in activation_bits if isinstance(values, Range) else weight_bits:
            form = choose(values, bits, rule, signed=True if kind in ("weight", "bias") else None)
            yield QmnStat(name, kind, size, float(low), float(high), form, errors(values, form))


def tensors(graph: Graph, ranges: Mapping[str, Range]) -> Iterator[tuple[str, str, Values]]:
    """Yield (name, kind, values) of the input, and of the weights, the bias and the output of every node, in order."""
    for name in graph.inputs:
        if name in ranges:
            yield name, "input", ranges[name]
    seen = set[str]()
    for node in graph.nodes:
        for position, name in enumerate(node.inputs):
            if name in graph.constants and name not in seen:
                seen.add(name)
                is_bias = node.op in ("conv", "dense") and position == 2
                yield name, "bias" if is_bias else "weight", graph.constants[name]
        if node.output in ranges and node.op != "argmax":
            yield node.output, "activation", ranges[node.output]
