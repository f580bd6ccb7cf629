"""Random fixed-point plans: any bits for weights and biases, a choice of bits for activations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.ir import Graph
from bitfront.quant.formats import Affine, Format, Qmn
from bitfront.quant.plan import Plan
from bitfront.simulate import reference

WEIGHT_BITS = tuple(range(2, 17))
ACTIVATION_BITS = (4, 6, 8, 16)


def qmn(values: NDArray[np.floating], bits: int, rng: np.random.Generator, *, signed: bool = True) -> Qmn:
    """Cover the largest value, or clip it by a bit."""
    top = float(np.abs(values).max()) or 1.0
    frac_bits = int(np.floor(np.log2((2.0 ** (bits - signed) - 1) / top))) + int(rng.integers(-1, 3))
    return Qmn(bits, frac_bits, signed)


def shifts_per_channel(weight: NDArray[np.floating], bits: int) -> Affine:
    top = np.abs(weight.reshape(len(weight), -1)).max(1)
    scale = 2.0 ** np.ceil(np.log2(top / (2.0 ** (bits - 1) - 1)))
    return Affine(bits, tuple(scale.tolist()), (0,), True, 0)


def fixed_point_plan(
    graph: Graph,
    images: NDArray[np.float32],
    rng: np.random.Generator,
    *,
    weight_bits: Sequence[int] = WEIGHT_BITS,
    activation_bits: Sequence[int] = ACTIVATION_BITS,
    rounding: str = "half_even",
) -> Plan:
    """Every tensor in Qmn with random bits; some activations unsigned, some weights with shifts per channel."""
    forms: dict[str, Format] = {}
    for name, values in reference.run(graph, images, keep="*").items():
        if values.dtype.kind == "f":
            signed = bool(values.min() < 0 or rng.random() < 0.5)
            forms[name] = qmn(values, int(rng.choice(activation_bits)), rng, signed=signed)
    for name, value in graph.constants.items():
        bits = int(rng.choice(weight_bits))
        kind = graph.tensors[name].kind
        if kind == "bias":
            if rng.random() < 0.7:
                forms[name] = qmn(value, max(bits, 8), rng)
        elif kind == "weight" and rng.random() < 0.15:
            forms[name] = shifts_per_channel(value, bits)
        else:
            forms[name] = qmn(value, bits, rng)
    return Plan("fixed_point", forms, {"rounding": rounding})
