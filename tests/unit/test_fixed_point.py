"""The fixed-point contract against whole-number arithmetic with exact fractions, pixel by pixel."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitfront.errors import DataError, UsageError
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.quant.formats import Affine, Qmn
from bitfront.quant.plan import Plan
from bitfront.simulate import fixed_point, reference

ROUNDINGS = fixed_point.ROUNDINGS


def rounded(value: Fraction, rule: str) -> int:
    return round(value) if rule == "half_even" else math.floor(value + Fraction(1, 2))


def saturated(value: Fraction, y: Qmn, rule: str) -> int:
    """``value`` in units of 1; the contract in one line."""
    return min(max(rounded(value * Fraction(2) ** y.frac_bits, rule), y.low), y.high)


def real(code: int, form: Qmn) -> Fraction:
    return int(code) * Fraction(2) ** -form.frac_bits


def codes(form: Qmn, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int32]:
    return rng.integers(form.low, form.high + 1, shape).astype(np.int32)


def drawn(rng: np.random.Generator, bits: int | None = None) -> Qmn:
    bits = bits or int(rng.choice([4, 8, 16]))
    return Qmn(bits, int(rng.integers(bits - 6, bits + 2)), bool(rng.random() < 0.6))


def one(op: str, x: NDArray[Any], forms: list[Qmn], y: Qmn, rule: str, *more: NDArray[Any], **attributes: Any) -> Any:
    draft = Builder()
    inputs = [draft.input(f"x{i}", (1, *a.shape[1:])) for i, a in enumerate((x, *more))]
    out = draft.node(op, op, inputs, **attributes)
    graph = draft.build([out])
    plan = Plan("p", {**dict(zip(inputs, forms, strict=True)), out: y}, {"rounding": rule})
    held = {name: a.astype(np.int32) for name, a in zip(inputs, (x, *more), strict=True)}
    return reference.step(graph, plan, graph.nodes[0], held)


# --- one operator at a time ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rule", ROUNDINGS)
@pytest.mark.parametrize("op", ["add", "sub", "mul"])
def test_two_inputs(op: str, rule: str, rng: np.random.Generator) -> None:
    for _ in range(20):
        fa, fb, y = drawn(rng), drawn(rng), drawn(rng)
        a, b = codes(fa, (1, 2, 3, 3), rng), codes(fb, (1, 2, 3, 3), rng)
        clip = {"clip": [0.0, 1.25] if rng.random() < 0.5 else None} if op == "add" else {}
        got = one(op, a, [fa, fb], y, rule, b, **clip)
        for p, q, code in zip(a.flat, b.flat, got.flat, strict=True):
            u, v = real(p, fa), real(q, fb)
            want = saturated({"add": u + v, "sub": u - v, "mul": u * v}[op], y, rule)
            if clip.get("clip"):
                low, high = (saturated(Fraction(c), y, "half_even") for c in (0.0, 1.25))
                want = min(max(want, low), high)
            assert code == want


@pytest.mark.parametrize("rule", ROUNDINGS)
@pytest.mark.parametrize("include", [True, False])
def test_average_pool(rule: str, include: bool, rng: np.random.Generator) -> None:
    for _ in range(8):
        f, y = drawn(rng), drawn(rng)
        x = codes(f, (1, 1, 5, 6), rng)
        pool = {"kernel": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0], "count_include_pad": include}
        got = one("average_pool", x, [f], y, rule, **pool)
        for r, c in np.ndindex(got.shape[2:]):
            window = x[0, 0, max(0, 2 * r - 1) : 2 * r + 2, 2 * c : 2 * c + 2]
            n = 6 if include else window.size
            assert got[0, 0, r, c] == saturated(real(int(window.sum()), f) / n, y, rule)


@pytest.mark.parametrize("rule", ROUNDINGS)
def test_global_average_pool(rule: str, rng: np.random.Generator) -> None:
    for _ in range(20):
        f, y = drawn(rng), drawn(rng)
        x = codes(f, (1, 3, 3, 4), rng)
        for code, channel in zip(one("global_average_pool", x, [f], y, rule).flat, x[0], strict=True):
            assert code == saturated(real(int(channel.sum()), f) / 12, y, rule)


@pytest.mark.parametrize("rule", ROUNDINGS)
@pytest.mark.parametrize("mode", ["align_corners", "half_pixel", "asymmetric", "pytorch_half_pixel"])
def test_linear_resize(mode: str, rule: str, rng: np.random.Generator) -> None:
    for _ in range(4):
        f, y = drawn(rng), drawn(rng)
        n_in, n_out = (int(n) for n in rng.integers(1, 9, 2))
        m_in, m_out = (int(n) for n in rng.integers(1, 9, 2))
        x = codes(f, (1, 1, n_in, m_in), rng)
        got = one("resize", x, [f], y, rule, mode="linear", size=[n_out, m_out], coordinates=mode)
        rows, columns = weights(n_in, n_out, mode), weights(m_in, m_out, mode)
        if (n_in, m_in) == (n_out, m_out):
            continue
        for r, c in np.ndindex(n_out, m_out):
            total = sum(int(x[0, 0, i, j]) * wr * wc for i, wr in rows[r] for j, wc in columns[c])
            assert got[0, 0, r, c] == saturated(Fraction(total, 2**14) * Fraction(2) ** -f.frac_bits, y, rule)


def weights(n_in: int, n_out: int, mode: str) -> list[list[tuple[int, int]]]:
    """(pixel, weight of 128) of every output pixel, from the definition."""
    found = []
    for i in range(n_out):
        scale = Fraction(n_in, n_out)
        position = {
            "align_corners": Fraction(i * (n_in - 1), max(1, n_out - 1)),
            "half_pixel": (i + Fraction(1, 2)) * scale - Fraction(1, 2),
            "asymmetric": i * scale,
        }[
            "half_pixel"
            if mode == "pytorch_half_pixel" and n_out > 1
            else mode.replace("pytorch_half_pixel", "asymmetric")
        ]
        position = min(max(position, Fraction(0)), Fraction(n_in - 1))
        first = math.floor(position)
        upper = round((position - first) * 128)
        found.append([(first, 128 - upper), (min(first + 1, n_in - 1), upper)])
    return found


@pytest.mark.parametrize("rule", ROUNDINGS)
@pytest.mark.parametrize("bits", [8, 16])
def test_convolution(rule: str, bits: int, rng: np.random.Generator) -> None:
    """Weights of up to 16 bits on up to 16-bit maps: accumulators far beyond 24 bits, ties included."""
    for k in range(6):
        fx, fy = drawn(rng, bits), drawn(rng, bits)
        wide = Affine(bits, (2.0**-9, 2.0**-12), (0,), True, 0)  # a shift per channel
        fw = wide if k % 2 else Qmn(bits, bits - 2)
        if bits == 8:  # small shifts: every other sum is a tie
            fy = Qmn(16, fx.frac_bits + (9 if k % 2 else bits - 2) - 1 - k // 2)
        fb = [None, Qmn(12, 9), Qmn(16, fx.frac_bits + bits + 3)][k % 3]
        weight = (rng.normal(0, 0.4, (2, 3, 3, 3)) * 2.0 ** (bits - 10 if k % 2 else 0)).astype(np.float32)
        bias = rng.normal(0, 0.5, 2).astype(np.float32)
        graph, plan = layer(weight, bias, {"x": fx, "w": fw, "b": fb, "y": fy}, rule)
        x = codes(fx, (1, 3, 4, 4), rng)
        got = reference.step(graph, plan, graph.nodes[0], {"x": x})
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        for o, r, c in np.ndindex(2, 4, 4):
            frac = fw.frac_bits if isinstance(fw, Qmn) else (9, 12)[o]
            held = Qmn(bits, frac)
            w = held.encode(weight[o])
            b = bias[o] if fb is None else float(fb.decode(fb.encode(bias[o])))
            acc = int((padded[0, :, r : r + 3, c : c + 3].astype(np.int64) * w).sum())
            acc += round(Fraction(float(b)) * Fraction(2) ** (fx.frac_bits + frac))
            want = saturated(Fraction(acc) * Fraction(2) ** -(fx.frac_bits + frac), fy, rule)
            assert got[0, o, r, c] == max(want, 0)


def layer(weight: NDArray[Any], bias: NDArray[Any], forms: dict[str, Any], rule: str) -> tuple[Graph, Plan]:
    draft = Builder()
    x = draft.input("x", (1, weight.shape[1], 4, 4))
    w, b = draft.constant("w", weight, "weight"), draft.constant("b", bias, "bias")
    window = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "groups": 1}
    y = draft.node("conv", "conv", [x, w, b], **window, clip=[0.0, float("inf")])
    names = {"x": x, "w": w, "b": b, "y": y}
    return draft.build([y]), Plan("p", {names[k]: f for k, f in forms.items() if f}, {"rounding": rule})


@pytest.mark.parametrize("rule", ROUNDINGS)
def test_moving_to_another_format_rounds_once(rule: str, rng: np.random.Generator) -> None:
    f, y = Qmn(16, 12), Qmn(8, 5)
    x = codes(f, (1, 2, 2, 4), rng)
    got = one("reshape", x, [f], y, rule, shape=[-1, 16])
    assert got.ravel().tolist() == [saturated(real(int(c), f), y, rule) for c in x.ravel()]


def test_argmax_takes_the_lowest_index() -> None:
    x = np.array([3, 7, 7, 1], np.int32).reshape(1, 4, 1, 1)
    draft = Builder()
    name = draft.input("x", (1, 4, 1, 1))
    graph = draft.build([draft.node("argmax", "argmax", [name], axis=1, keepdims=False)])
    assert reference.step(graph, Plan("p", {name: Qmn(8, 3)}), graph.nodes[0], {name: x}).item() == 1


# --- pieces ----------------------------------------------------------------------------------------------------------
@given(st.integers(-(2**40), 2**40), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_rounding_is_the_shift_of_whole_numbers(value: int, shift: int) -> None:
    for rule in ROUNDINGS:
        got = fixed_point.rounding(np.array([math.ldexp(value, -shift)]), rule)
        assert int(got[0]) == rounded(Fraction(value, 2**shift), rule)
    up = (value >> (shift - 1)) if shift else value
    if shift:  # as integer code does it, without an overflowing sum
        assert (up >> 1) + (up & 1) == rounded(Fraction(value, 2**shift), "half_up")


def test_weights_of_a_row_sum_to_one() -> None:
    for n_in, n_out in ((1, 5), (5, 1), (32, 256), (7, 19), (8, 8)):
        for mode in ("align_corners", "half_pixel", "asymmetric"):
            matrix = fixed_point.interpolation_matrix(n_in, n_out, mode)
            assert matrix.shape == (n_out, n_in)
            assert (matrix.sum(1) == 1).all()
            assert (matrix >= 0).all()


def test_weights_between_two_codes_go_to_the_even_one() -> None:
    for n_in, n_out in ((4, 257), (6, 257), (3, 128)):
        first, weight = fixed_point.interpolation(n_in, n_out, "align_corners" if n_out == 257 else "half_pixel")
        want = weights(n_in, n_out, "align_corners" if n_out == 257 else "half_pixel")
        assert list(zip(first, weight, strict=True)) == [(row[0][0], row[1][1]) for row in want]


def test_exponents_of_shifts_per_channel() -> None:
    assert fixed_point.exponents(Qmn(8, 5)) == [5]
    assert fixed_point.exponents(Affine(8, (0.5, 0.125, 4.0), (0,), axis=0)).tolist() == [1, 3, -2]  # type: ignore[union-attr]
    for form in (Affine(8, (0.5, 0.3), axis=0), Affine(8, (0.5, 0.5), (1, 0), axis=0), Affine(8, (0.5,)), None):
        assert fixed_point.exponents(form) is None


def test_what_is_refused() -> None:
    x = np.zeros((1, 1, 2, 2), np.int32)
    with pytest.raises(DataError, match="more than 36 bits apart"):
        one("add", x, [Qmn(8, 0), Qmn(8, 37)], Qmn(8, 0), "half_even", x, clip=None)
    with pytest.raises(UsageError, match="unknown rounding 'up'"):
        one("add", x, [Qmn(8, 0), Qmn(8, 3)], Qmn(8, 0), "up", x, clip=None)
