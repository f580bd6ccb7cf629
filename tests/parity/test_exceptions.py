"""What ONNX Runtime is not promised to compute to the bit is stated with numbers, and only that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixed_point_plans import fixed_point_plan
from random_nets import random_net

from bitfront.contracts import InputContract, OutputContract
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.measure import exactness, verify
from bitfront.quant.formats import Affine, Format, Qmn
from bitfront.quant.plan import Plan
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.simulate import reference

SIZE = 16
CONTRACT, OUTPUT = InputContract(SIZE, SIZE), OutputContract()


def verified(graph: Graph, plan: Plan, x: np.ndarray, folder: Path, written: Plan | None = None) -> verify.Agreement:
    path = OnnxRuntime().export(graph, written or plan, folder, CONTRACT, OUTPUT)
    return verify.compare(OnnxRuntime(), path, graph, plan, CONTRACT, OUTPUT, x)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("weight_bits", "activation_bits", "rounding"),
    [(range(2, 9), (16,), "half_even"), (range(9, 17), (4, 8, 16), "half_even"), (range(2, 9), (4, 8), "half_up")],
)
def test_exceptions_are_one_code_at_most(
    weight_bits: range, activation_bits: tuple[int, ...], rounding: str, seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng([seed, 5])
    graph, x = random_net(rng, SIZE), rng.normal(0, 1, (3, 3, SIZE, SIZE)).astype(np.float32)
    plan = fixed_point_plan(graph, x, rng, weight_bits=weight_bits, activation_bits=activation_bits, rounding=rounding)
    found = verified(graph, plan, x, tmp_path)
    assert found.verified
    assert found.exceptions or weight_bits[0] == 9  # wide weights may still add up to few bits
    assert all(line.startswith("end to end on 2 images: ") for line in found.exceptions[-1:])
    assert not any("by at most 2" in line for line in found.exceptions[:-1])
    if rounding == "half_up":
        line = next(line for line in found.exceptions if line.startswith(exactness.HALF_UP))
        assert line.endswith("by at most 1"), "ties are common"


def test_nothing_is_excepted_with_narrow_codes(tmp_path: Path) -> None:
    seen = 0
    for seed in range(6):
        rng = np.random.default_rng([seed, 6])
        graph, x = random_net(rng, SIZE), rng.normal(0, 1, (1, 3, SIZE, SIZE)).astype(np.float32)
        plan = fixed_point_plan(graph, x, rng, weight_bits=range(2, 9), activation_bits=(4, 8))
        loose = exactness.Loose(graph, plan)
        assert set(loose.reasons.values()) <= {exactness.FLOAT_FUNCTIONS}
        if not loose.reasons:
            seen += 1
            assert verified(graph, plan, x, tmp_path).exceptions == ()
    assert seen


def one_layer(op: str, bits: int, value: float = 1.0, **attributes: object) -> tuple[Graph, dict[str, Format]]:
    b = Builder()
    x = b.input("x", (1, 3, SIZE, SIZE))
    inputs, forms = [x], {"x": Qmn(bits, 8), "y": Qmn(bits, 8)}
    if op == "conv":
        inputs += [b.constant("w", np.full((4, 3, 3, 3), value), "weight"), b.constant("b", np.ones(4), "bias")]
        attributes = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "groups": 1, "clip": None}
        forms["w"] = Qmn(8, 6)
    elif op in ("add", "mul"):
        inputs.append(x)
        attributes = {"clip": None} if op == "add" else {}
    b.node(op, "y", inputs, **attributes)
    return b.build(["y"]), forms  # type: ignore[return-value]


LINEAR = {"mode": "linear", "size": [32, 32], "coordinates": "half_pixel"}
NEAREST = {"mode": "nearest", "size": [32, 32], "coordinates": "asymmetric", "rounding": "floor"}


@pytest.mark.parametrize(
    ("op", "attributes", "exact", "wide"),
    [
        ("conv", {}, 11, 16),
        ("add", {}, 16, None),
        ("mul", {}, 8, 13),
        ("resize", LINEAR, 10, 11),
        ("resize", NEAREST, 16, None),
        ("global_average_pool", {}, 8, 16),
        ("argmax", {"axis": 1, "keepdims": False}, 16, None),
    ],
)
def test_what_takes_24_bits_is_exact(op: str, attributes: dict[str, object], exact: int, wide: int | None) -> None:
    graph, forms = one_layer(op, exact, **attributes)
    node = graph.nodes[-1]
    if op == "argmax":
        del forms["y"]
    assert exactness.looseness(graph, Plan("p", forms), node) == ""
    assert exactness.is_exact(graph, Plan("p", forms), node)
    if wide is not None:
        graph, forms = one_layer(op, wide, **attributes)
        assert exactness.looseness(graph, Plan("p", forms), graph.nodes[-1]) == exactness.WIDE_SUMS
        assert not exactness.is_exact(graph, Plan("p", forms), graph.nodes[-1])


def test_the_bound_of_a_convolution_is_sharp() -> None:
    """Sums reach 1,728 2^(bits - 1) and the bias 2^14: 2^24 is passed from 14 to 15 bits."""
    for bits, reason in ((14, ""), (15, exactness.WIDE_SUMS)):
        graph, forms = one_layer("conv", bits)
        assert exactness.looseness(graph, Plan("p", forms), graph.nodes[0]) == reason


def test_rounding_up_matters_where_something_is_rounded() -> None:
    graph, forms = one_layer("conv", 8)
    half_up = {"rounding": "half_up"}
    assert exactness.looseness(graph, Plan("p", forms, half_up), graph.nodes[0]) == exactness.HALF_UP
    kept = {**forms, "y": Qmn(16, 14)}  # 8 + 6: the sums as they are
    assert exactness.looseness(graph, Plan("p", kept, half_up), graph.nodes[0]) == ""
    graph, forms = one_layer("resize", 8, **NEAREST)
    assert exactness.looseness(graph, Plan("p", forms, half_up), graph.nodes[0]) == ""


def test_two_codes_are_no_exception(tmp_path: Path, rng: np.random.Generator) -> None:
    """A file that is two codes off in one 16-bit layer is not verified, whatever the tolerance of the output."""
    graph, forms = one_layer("conv", 16)
    x = rng.normal(0, 1, (1, 3, SIZE, SIZE)).astype(np.float32)
    plan = Plan("p", forms)
    assert verified(graph, plan, x, tmp_path).verified
    lifted = graph.with_constants({"b": graph.constants["b"] + np.float32(2 / 2**8)})
    path = OnnxRuntime().export(lifted, plan, tmp_path, CONTRACT, OUTPUT)
    found = verify.compare(OnnxRuntime(), path, graph, plan, CONTRACT, OUTPUT, x)
    assert not found.verified
    assert found.first_difference == "y"
    assert "by at most 2" in found.exceptions[0]


def test_a_difference_in_an_exact_layer_is_no_exception(tmp_path: Path, rng: np.random.Generator) -> None:
    """One code in an addition of 8-bit codes: exact in float32, so not a matter of tolerance."""
    graph, forms = one_layer("add", 8)
    x = (rng.integers(-60, 60, (1, 3, SIZE, SIZE)) / 2**8).astype(np.float32)
    plan = Plan("p", {**forms, "y": Qmn(8, 7)})  # x + x, halved: exact, and never a tie
    found = verified(graph, plan, x, tmp_path)
    assert found.verified
    assert found.exceptions == ()
    off = Plan("p", {**plan.formats, "y": Affine(8, (2.0**-7,), (1,))})
    path = OnnxRuntime().export(graph, off, tmp_path, CONTRACT, OUTPUT)
    assert verify.compare(OnnxRuntime(), path, graph, plan, CONTRACT, OUTPUT, x).first_difference == "y"


def test_runtimes_that_show_nothing_are_not_counted() -> None:
    graph, forms = one_layer("mul", 16)
    lines = exactness.Loose(graph, Plan("p", forms)).lines(traced=False)
    assert lines == (f"{exactness.WIDE_SUMS} (tensor 'y'): not counted, the runtime does not show inner tensors",)


def test_bounds_are_those_of_the_reference(rng: np.random.Generator) -> None:
    graph, forms = one_layer("conv", 8)
    assert reference.largest_sum(graph, Plan("p", forms), graph.nodes[0]) == 27 * 64 * 2**7 + 2**14
