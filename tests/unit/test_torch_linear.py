"""The arithmetic of wide layers, against whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitfront.errors import DataError
from bitfront.graph.ir import Node
from bitfront.simulate.torch_linear import Linear

DENSE = Node("layer", "dense", ("x", "w", "b"), "y", {"clip": None})
BOUNDS = (-(2**15), 2**15 - 1)


def prepared(weight: NDArray[np.int64], bias: NDArray[np.int64], reach: int, shift: int, rule: str) -> Linear:
    return Linear.prepare(
        DENSE,
        weight,
        bias,
        multiplier=np.array([2.0**-shift], np.float32),
        reach=reach,
        bounds=BOUNDS,
        fixed=True,
        rule=rule,
        device=torch.device("cpu"),
    )


def shifted(acc: NDArray[np.int64], shift: int, rule: str) -> NDArray[np.int64]:
    """Round in whole numbers."""
    if shift <= 0:
        return acc << -shift
    whole, rest, half = acc >> shift, acc & ((1 << shift) - 1), 1 << (shift - 1)
    up = rest >= half if rule == "half_up" else (rest > half) | ((rest == half) & (whole & 1 == 1))
    return whole + up


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([4, 8, 12, 16]), st.sampled_from([8, 16]), st.integers(-2, 24))
def test_every_arithmetic_is_exact(seed: int, w_bits: int, x_bits: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.choice([3, 9, 40]))
    reach = 2 ** (x_bits - 1) if rng.random() < 0.5 else 2**x_bits - 1
    weight = rng.integers(-(2 ** (w_bits - 1)), 2 ** (w_bits - 1), (5, n))
    bias = rng.integers(-(2**31), 2**31, 5) >> int(rng.integers(0, 31))
    x = rng.integers(-reach, reach + 1, (64, n))
    x[:16] = x[:16] >> 6 << 6  # many ties
    for rule in ("half_even", "half_up"):
        layer = prepared(weight, bias, reach, shift, rule)
        got = layer(torch.from_numpy(x.astype(np.float32))).numpy()
        wanted = np.clip(shifted(x @ weight.T + bias, shift, rule), *BOUNDS)
        np.testing.assert_array_equal(got, wanted, err_msg=f"{layer.x_pieces} {len(layer.weights)} {layer.carries}")


def test_wide_layers_take_few_products(rng: np.random.Generator) -> None:
    def layer(w_bits: int, reach: int, shift: int = 12) -> Linear:
        weight = np.full((2, 9), 2 ** (w_bits - 1) - 1)
        return prepared(weight, np.zeros(2, np.int64), reach, shift, "half_even")

    assert (layer(8, 2**7).x_pieces[0], layer(8, 2**7).carries) == (1, False)
    assert (layer(8, 2**15).x_pieces[0], layer(8, 2**15).carries) == (2, True)
    assert not layer(8, 2**15, shift=4).carries  # finer outputs than the units of the carry
    assert (layer(16, 2**15).x_pieces[0], len(layer(16, 2**15).weights)) == (3, 1)


def test_sums_beyond_float64_are_refused() -> None:
    weight = np.full((1, 9), 2**40, np.int64)
    with pytest.raises(DataError, match="more than 53 bits"):
        prepared(weight, np.zeros(1, np.int64), 2**15, 8, "half_even")
