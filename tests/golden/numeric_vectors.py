"""Cases of the numeric contract with their answers, from fractions of whole numbers: what implementations are held to.

``python tests/golden/numeric_vectors.py`` writes them to ``bitfront/simulate/numeric_vectors.json``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

PLACE = Path(__file__).resolve().parents[2] / "src" / "bitfront" / "simulate" / "numeric_vectors.json"
Form = tuple[int, int, bool]
"""Bits, fractional bits, signed."""


def step(form: Form) -> Fraction:
    return Fraction(1, 2 ** form[1]) if form[1] >= 0 else Fraction(2 ** -form[1])


def ends(form: Form) -> tuple[int, int]:
    bits, _, signed = form
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def rounded(v: Fraction, rule: str) -> int:
    floor = math.floor(v)
    rest = v - floor
    if rest != Fraction(1, 2):
        return floor + (rest > Fraction(1, 2))
    return floor + 1 if rule == "half_up" else floor + floor % 2


def encoded(v: Fraction, form: Form, rule: str) -> int:
    """The code of an exact value: one rounding, then saturation."""
    low, high = ends(form)
    return min(max(rounded(v / step(form), rule), low), high)


def tensor(form: Form, shape: Sequence[int], codes: Sequence[int], kind: str = "activation") -> dict[str, Any]:
    assert math.prod(shape) == len(codes)
    low, high = ends(form)
    assert all(low <= code <= high for code in codes)
    names = ("bits", "frac_bits", "signed")
    return {**dict(zip(names, form, strict=True)), "shape": list(shape), "codes": list(codes), "kind": kind}


def values(item: dict[str, Any]) -> list[Fraction]:
    return [code * step((item["bits"], item["frac_bits"], item["signed"])) for code in item["codes"]]


def case(
    name: str,
    op: str,
    inputs: list[dict[str, Any]],
    out: Form,
    rule: str,
    exact: Sequence[Fraction],
    shape: Sequence[int],
    **attributes: Any,
) -> dict[str, Any]:
    expected = [encoded(v, out, rule) for v in exact]
    made = {"name": f"{name}, {rule}", "op": op, "attributes": attributes, "rounding": rule, "inputs": inputs}
    return {**made, "output": tensor(out, shape, expected)}


def requantized(rule: str) -> Iterator[dict[str, Any]]:
    """Steps that get coarser and finer, ties on both sides of zero, both ends."""
    codes = [
        -32768,
        -32767,
        -384,
        -129,
        -128,
        -127,
        -96,
        -64,
        -33,
        -32,
        -31,
        -16,
        -3,
        -1,
        0,
        1,
        3,
        5,
        15,
        16,
        17,
        31,
        32,
    ]
    codes += [33, 48, 63, 64, 80, 96, 112, 127, 128, 160, 8191, 32767]
    for shift in (-9, -3, -1, 0, 1, 2, 5, 8, 15, 20):
        for signed in (True, False):
            x = tensor((16, 6, True), (1, len(codes), 1, 1), codes)
            out = (8, 6 - shift, signed)
            name = f"shift by {shift} to {'signed' if signed else 'unsigned'} 8 bits"
            yield case(name, "identity", [x], out, rule, values(x), x["shape"])
    clipped = tensor((16, 6, True), (1, len(codes), 1, 1), codes)
    inside = [min(max(v, Fraction(-3, 8)), Fraction(3, 2)) for v in values(clipped)]
    yield case("clip", "clip", [clipped], (8, 4, True), rule, inside, clipped["shape"], lo=-0.375, hi=1.5)


def sums(rule: str) -> Iterator[dict[str, Any]]:
    """Dense layers: ties of a sum, biases of their own step, sums of more than 32 bits, weights of every width."""
    for name, fx, fw, fy, bits in (("8 bits", 4, 6, 3, 8), ("wide sums", 15, 15, 0, 16), ("to the left", 0, 0, 4, 8)):
        low, high = ends((bits, 0, True))
        x = [low, high, 3, -5, 1, 2]
        rows = [
            [high] * 6,
            [low] * 6,
            [0, 0, 64, 0, 0, 0],
            [0, 0, 0, 64, 0, 0],
            [1, -1, 4, -4, 2, -2],
            [0, 0, 0, 0, 32, 16],
        ]
        yield dense(f"dense, {name}", (bits, fx, True), x, (bits, fw, True), rows, (bits, fy, True), rule)
    for bits in range(1, 17):
        low, high = ends((bits, 0, True))
        rows = [[low, high, low, 0, high], [high, low, 0, low, -1], [0, -1, high, low, low]]
        yield dense(
            f"dense, weights of {bits} bits", (8, 5, True), [127, -128, 3, -77, 50], (bits, bits - 2, True), rows,
            (8, 1, True), rule,
        )  # fmt: skip


def dense(
    name: str, form_x: Form, x: list[int], form_w: Form, rows: list[list[int]], out: Form, rule: str
) -> dict[str, Any]:
    source = tensor(form_x, (1, len(x)), x)
    weight = tensor(form_w, (len(rows), len(x)), [c for row in rows for c in row], "weight")
    form_b = (16, form_x[1] + form_w[1] - 2, True)
    bias = tensor(form_b, (len(rows),), [7, -7, 2, -2, 1, 30000][: len(rows)], "bias")
    xs, ws, bs = values(source), values(weight), values(bias)
    n = len(x)
    exact = [sum((a * b for a, b in zip(xs, ws[i * n : i * n + n], strict=True)), bs[i]) for i in range(len(rows))]
    return case(name, "dense", [source, weight, bias], out, rule, exact, (1, len(rows)), clip=None)


def pairs(rule: str) -> Iterator[dict[str, Any]]:
    """Two inputs of unlike steps."""
    a_codes, b_codes = [-128, -5, -1, 0, 1, 2, 3, 127], [-128, 127, 1, 1, 0, -2, 8, 127]
    operators: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
    }
    for op, function in operators.items():
        for fa, fb, fy in ((4, 6, 3), (6, 4, 5), (0, 7, 7), (5, 5, 5), (20, -6, 2)):
            shape = (1, 8, 1, 1)
            a, b = tensor((8, fa, True), shape, a_codes), tensor((8, fb, True), shape, b_codes, "constant")
            exact = [function(*pair) for pair in zip(values(a), values(b), strict=True)]
            rest = {"clip": None} if op == "add" else {}
            yield case(f"{op}, steps 2^{-fa}, 2^{-fb}", op, [a, b], (8, fy, True), rule, exact, shape, **rest)
    a, b = tensor((8, 4, True), (1, 8, 1, 1), a_codes), tensor((8, 6, True), (1, 8, 1, 1), b_codes, "constant")
    yield case("concat", "concat", [a, b], (8, 3, True), rule, [*values(a), *values(b)], (1, 16, 1, 1), axis=1)


def maps(rule: str) -> Iterator[dict[str, Any]]:
    """Means, largest codes, other sizes."""
    codes = [-128, 127, 126, -3, 5, 8, -128, -127, 0, 1, 2, 4]
    x = tensor((8, 5, True), (1, 1, 3, 4), codes)
    v = values(x)
    for fy in (4, 5, 8):
        mean = [sum(v) / 12]
        yield case(f"mean of 12, step 2^{-fy}", "global_average_pool", [x], (8, fy, True), rule, mean, (1, 1, 1, 1))
    windows = [[r * 4 + c, r * 4 + c + 1, r * 4 + c + 4, r * 4 + c + 5] for r in range(2) for c in range(3)]
    window = {"kernel": [2, 2], "strides": [1, 1], "pads": [0] * 4}
    means = [sum(v[i] for i in w) / 4 for w in windows]
    shape = (1, 1, 2, 3)
    yield case("means of 4", "average_pool", [x], (8, 5, True), rule, means, shape, count_include_pad=True, **window)
    tops = [max(v[i] for i in w) for w in windows]
    yield case("largest of 4", "max_pool", [x], (8, 3, True), rule, tops, shape, dilations=[1, 1], **window)
    for coordinates, size in (("align_corners", (5, 7)), ("half_pixel", (6, 8)), ("asymmetric", (4, 9))):
        exact = interpolated(v, (3, 4), size, coordinates)
        rest = {"mode": "linear", "size": list(size), "coordinates": coordinates}
        yield case(f"resize, {coordinates}", "resize", [x], (8, 4, True), rule, exact, (1, 1, *size), **rest)


def interpolated(v: list[Fraction], shape: tuple[int, int], size: tuple[int, int], coordinates: str) -> list[Fraction]:
    (rows, columns), w = (taps(n, m, coordinates) for n, m in zip(shape, size, strict=True)), shape[1]
    return [
        sum((p * q * v[r * w + c] for r, p in row for c, q in column), Fraction(0))
        for row in rows
        for column in columns
    ]


def taps(n_in: int, n_out: int, coordinates: str) -> list[list[tuple[int, Fraction]]]:
    """Pixels and weights, of 7 bits, of every place along one axis."""
    found = []
    for i in range(n_out):
        at = {
            "align_corners": Fraction(i * (n_in - 1), max(1, n_out - 1)),
            "half_pixel": Fraction((2 * i + 1) * n_in - n_out, 2 * n_out),
            "asymmetric": Fraction(i * n_in, n_out),
        }[coordinates]
        at = min(max(at, Fraction(0)), Fraction(n_in - 1))
        first = math.floor(at)
        upper = Fraction(rounded((at - first) * 128, "half_even"), 128)
        found.append([(first, 1 - upper), (min(first + 1, n_in - 1), upper)])
    return found


def packed() -> list[dict[str, Any]]:
    """Rows of codes as bytes, bit by bit."""
    found = []
    for bits in range(1, 17):
        low, high = ends((bits, 0, True))
        rows = [[low, high, -1, 0, low], [0, high, low, -1, high]]
        made: list[int] = []
        for row in rows:
            stream = [code >> i & 1 for code in row for i in range(bits)]
            stream += [0] * (-len(stream) % 8)
            made += [sum(bit << i for i, bit in enumerate(stream[k : k + 8])) for k in range(0, len(stream), 8)]
        found.append({"bits": bits, "rows": rows, "bytes": made})
    return found


def vectors() -> dict[str, Any]:
    """All cases, as plain data."""
    cases = [
        found for rule in ("half_even", "half_up") for part in (requantized, sums, pairs, maps) for found in part(rule)
    ]
    return {"schema": 1, "contract": "docs/numeric-contract.md", "cases": cases, "packed": packed()}


def text() -> str:
    """The file: one case a line."""
    made = vectors()
    lines = [f'"{key}": {json.dumps(made[key])}' for key in ("schema", "contract")]
    for key in ("cases", "packed"):
        lines.append(f'"{key}": [\n' + ",\n".join(json.dumps(item) for item in made[key]) + "\n]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
