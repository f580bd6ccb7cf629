"""Verification: what agrees is verified; one wrong number in a file is found, and the right tensor named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import DataError, VerificationError
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.measure import verify
from bitfront.quant.formats import Affine, Float16
from bitfront.quant.plan import Plan
from bitfront.record import digest_file, from_json, to_json
from bitfront.runtimes.onnxruntime import OnnxRuntime

SIZE = 16
CONTRACT, OUTPUT = InputContract(SIZE, SIZE), OutputContract("threshold")
RUNTIME = OnnxRuntime(full_names=True)
U8, W8 = Affine(8, (0.03,), (120,), signed=False), Affine(8, (0.01,), (0,))


def network(rng: np.random.Generator) -> Graph:
    """conv - depthwise - add - conv, one logit a pixel."""
    b = Builder()
    x = b.input("image", (1, 3, SIZE, SIZE))

    def conv(x: str, name: str, n: int, kernel: int, groups: int = 1) -> str:
        shape = (n, b.shape(x)[1] // groups, kernel, kernel)
        weight = b.constant(f"{name}.w", rng.normal(0, 0.3, shape), "weight")
        bias = b.constant(f"{name}.b", rng.normal(0, 0.3, n), "bias")
        pads = [kernel // 2] * 4
        return b.node(
            "conv", name, [x, weight, bias], strides=[1, 1], pads=pads, dilations=[1, 1], groups=groups, clip=None
        )

    stem = conv(x, "stem", 6, 3)
    total = b.node("add", "total", [stem, conv(stem, "depthwise", 6, 3, 6)], clip=[0.0, float("inf")])
    return b.build([conv(total, "head", 1, 1)])


@dataclass
class Case:
    """An exported int8 network, its reference and its images."""

    graph: Graph
    plan: Plan
    path: Path
    images: np.ndarray

    def compare(self, path: Path | None = None) -> verify.Agreement:
        return verify.compare(RUNTIME, path or self.path, self.graph, self.plan, CONTRACT, OUTPUT, self.images)


@pytest.fixture
def case(rng: np.random.Generator, tmp_path: Path) -> Case:
    graph = network(rng)
    names = {"image": U8, **{node.output: U8 for node in graph.nodes}}
    plan = Plan("int8", {**names, **{f"{n}.w": W8 for n in ("stem", "depthwise", "head")}})
    path = RUNTIME.export(graph, plan, tmp_path, CONTRACT, OUTPUT)
    return Case(graph, plan, path, rng.normal(0, 1, (3, 3, SIZE, SIZE)).astype(np.float32))


def changed(case: Case, name: str, change: Any) -> Path:
    """A copy of the file with one initializer changed."""
    model = onnx.load(case.path)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor).copy()
    change(value)
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    path = case.path.with_name("changed.onnx")
    onnx.save(model, path)
    return path


def add_one(value: np.ndarray) -> None:
    value.reshape(-1)[value.size // 2] += 1


def test_what_agrees_is_verified(case: Case) -> None:
    found = case.compare()
    assert found.verified
    assert (found.max_code_difference, found.differing_fraction, found.readout_agreement) == (0, 0.0, 1.0)
    assert found.first_difference is None
    assert found.n_images == 3
    assert found.unit == "one code of the output (8 bits, step 0.03)"
    assert found.runtime.startswith("onnxruntime 1.")
    assert found.when.endswith("+00:00")
    assert found.cpu
    assert found.reference.endswith("every layer on 2 images")
    assert from_json(verify.Agreement, to_json(found)) == found


@pytest.mark.parametrize("layer", ["stem", "depthwise", "head"])
@pytest.mark.parametrize("what", ["weight", "bias"])
def test_one_changed_code_is_found(case: Case, layer: str, what: str) -> None:
    name = f"{layer}.w@codes" if what == "weight" else f"{layer}@bias@codes"
    found = case.compare(changed(case, name, add_one))
    assert not found.verified
    assert found.first_difference == layer


@pytest.mark.parametrize("tensor", ["image", "stem", "total", "head"])
def test_a_wrong_zero_point_is_found(case: Case, tensor: str) -> None:
    def shift(value: np.ndarray) -> None:
        value += 2

    found = case.compare(changed(case, f"{tensor}@zero_point", shift))
    assert not found.verified
    assert found.first_difference == tensor


def test_a_wrong_scale_is_found(case: Case) -> None:
    def grow(value: np.ndarray) -> None:
        value *= np.float32(1.02)

    assert case.compare(changed(case, "depthwise@scale", grow)).first_difference == "depthwise"


@pytest.mark.parametrize("layer", ["stem", "depthwise"])
def test_another_rounding_is_found(case: Case, layer: str) -> None:
    """Rounding down instead of to the nearest, behind one layer."""
    model = onnx.load(case.path)
    half = numpy_helper.from_array(np.float32(U8.scale[0] / 2), "half_step")
    model.graph.initializer.append(half)
    position, node = next((i, n) for i, n in enumerate(model.graph.node) if n.output[0] == f"{layer}@codes")
    model.graph.node.insert(position, helper.make_node("Sub", [f"{layer}@float", "half_step"], ["lowered"]))
    node.input[0] = "lowered"
    path = case.path.with_name("changed.onnx")
    onnx.save(model, path)
    found = case.compare(path)
    assert not found.verified
    assert found.first_difference == layer


def test_a_difference_far_above_is_named_where_it_arises(case: Case) -> None:
    """The head's output differs too, but the head computes what it should from what it is given."""
    found = case.compare(changed(case, "stem@bias@codes", lambda value: np.add(value, 4000, out=value)))
    assert found.max_code_difference > 1
    assert found.first_difference == "stem"


def test_float_files_are_verified_in_parts_of_their_range(case: Case, tmp_path: Path) -> None:
    for plan, unit in (
        (Plan("float32"), "0.0001 of the output's range (float32)"),
        (Plan("float16", {name: Float16() for name in case.graph.tensors}), "0.01 of the output's range (float16)"),
    ):
        path = RUNTIME.export(case.graph, plan, tmp_path / plan.recipe, CONTRACT, OUTPUT)
        right = replace(case, plan=plan, path=path)
        assert right.compare().verified
        assert right.compare().unit == unit
        wrong = changed(right, "depthwise.b" + ("@half" if plan.recipe == "float16" else ""), lambda v: v.__iadd__(0.2))
        assert right.compare(wrong).first_difference == "depthwise"


def test_a_float_tail_is_counted_in_codes_of_the_last_format(case: Case) -> None:
    b = Builder()
    x = b.input("x", (1, 1, 4, 4))
    kept = b.node("clip", "kept", [x], lo=-1.0, hi=1.0)
    up = b.node("resize", "up", [kept], mode="linear", size=[8, 8], coordinates="half_pixel")
    graph = b.build([up])
    plan = Plan("int8", {"kept": U8})
    assert verify.output_unit(graph, plan).words == "one code of the tensor 'kept' (8 bits, step 0.03)"
    assert verify.output_unit(graph, Plan("float32")).relative


def test_images_must_fit(case: Case) -> None:
    with pytest.raises(DataError, match=r"\(2, 3, 8, 8\) are not \(3, 16, 16\)"):
        verify.compare(RUNTIME, case.path, case.graph, case.plan, CONTRACT, OUTPUT, np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(DataError, match="no images"):
        verify.compare(RUNTIME, case.path, case.graph, case.plan, CONTRACT, OUTPUT, [])


def test_answers() -> None:
    values = np.array([[[[0.2, -1.0]], [[0.1, 3.0]]]])
    np.testing.assert_array_equal(verify.answer(values, OutputContract("argmax")), [[[0, 1]]])
    np.testing.assert_array_equal(verify.answer(values, OutputContract("argmax", layout="nhwc")), [[[0], [1]]])
    np.testing.assert_array_equal(verify.answer(values[:, :1], OutputContract("threshold", 0.1)), [[[[1, 0]]]])
    np.testing.assert_array_equal(verify.answer(np.array([[3, 1]]), OutputContract("labels")), [[3, 1]])


def test_files_without_reference_are_compared_with_float(case: Case, tmp_path: Path) -> None:
    path = RUNTIME.export(case.graph, Plan("float32"), tmp_path / "float", CONTRACT, OUTPUT)
    found = verify.compare_float(RUNTIME, case.path, path, CONTRACT, OUTPUT, case.images)
    assert found.verified
    assert 0.95 <= found.readout_agreement < 1
    assert found.reference.endswith("no integer reference")
    shifted = changed(case, "head@bias@codes", lambda value: np.add(value, 9000, out=value))
    assert not verify.compare_float(RUNTIME, shifted, path, CONTRACT, OUTPUT, case.images).verified


def test_changed_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    digest = digest_file(path)
    verify.verify_file(path, digest.upper())
    path.write_bytes(b"weightS")
    with pytest.raises(VerificationError, match="has changed"):
        verify.verify_file(path, digest)
    with pytest.raises(VerificationError, match="cannot read"):
        verify.verify_file(tmp_path / "gone.onnx", digest)
