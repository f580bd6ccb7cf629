"""Weights of 2, 3 and 4 bits in ONNX files: packed, bit-identical, on integer kernels; the file follows the plan."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from fixed_point_plans import qmn, shifts_per_channel

from bitfront.contracts import InputContract, OutputContract
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.quant.costs import Costs, bits_of
from bitfront.quant.formats import Format, Qmn
from bitfront.quant.plan import Plan
from bitfront.runtimes.onnx_session import options
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.simulate import reference

SIZE, CHANNELS = 16, 40
CONTRACT = InputContract(SIZE, SIZE)


def network(rng: np.random.Generator) -> Graph:
    """Two full convolutions, a depthwise one, a residual, a linear resize and a head; some tensors signed."""
    b = Builder()

    def conv(x: str, name: str, n: int, kernel: int, groups: int = 1, clip: list[float] | None = None) -> str:
        shape = (n, b.shape(x)[1] // groups, kernel, kernel)
        fan = shape[1] * kernel**2
        values = rng.normal(0, fan**-0.5, shape) * np.exp(rng.normal(0, 0.5, (n, 1, 1, 1)))
        weight = b.constant(f"{name}.w", values, "weight")
        bias = b.constant(f"{name}.b", rng.normal(0, 0.2, n), "bias")
        pads = [kernel // 2] * 4
        return b.node(
            "conv", name, [x, weight, bias], strides=[1, 1], pads=pads, dilations=[1, 1], groups=groups, clip=clip
        )

    stem = conv(b.input("image", (1, 3, SIZE, SIZE)), "stem", CHANNELS, 3, clip=[0.0, float("inf")])
    depthwise = conv(stem, "depthwise", CHANNELS, 3, groups=CHANNELS)
    total = b.node("add", "total", [depthwise, conv(depthwise, "mix", CHANNELS, 3)], clip=None)
    up = b.node("resize", "up", [total], mode="linear", size=[2 * SIZE, 2 * SIZE], coordinates="align_corners")
    return b.build([conv(up, "head", 2, 1)])


def plan_of(graph: Graph, x: np.ndarray, rng: np.random.Generator, bits: int, per_channel: bool) -> Plan:
    forms: dict[str, Format] = {}
    for name, values in reference.run(graph, x, keep="*").items():
        forms[name] = qmn(values, 8, rng, signed=bool(values.min() < 0))
    for node in graph.nodes:
        if node.op == "conv":
            weight = graph.constants[node.inputs[1]]
            forms[node.inputs[1]] = shifts_per_channel(weight, bits) if per_channel else qmn(weight, bits, rng)
    return Plan("fixed_point", forms)


def export(graph: Graph, plan: Plan, folder: Path) -> Path:
    return OnnxRuntime().export(graph, plan, folder, CONTRACT, OutputContract())


def differing(session: object, graph: Graph, plan: Plan, x: np.ndarray, **how: bool) -> dict[str, int]:
    wanted, traced = reference.run(graph, x, plan, keep="*"), session.trace(x, **how)  # type: ignore[attr-defined]
    assert set(traced) == set(wanted)
    return {name: n for name in wanted if (n := int((traced[name] != wanted[name]).sum()))}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("bits", "opset"), [(2, 25), (3, 21), (4, 21), (5, 18), (8, 18)])
def test_narrow_weights(bits: int, opset: int, per_channel: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    graph, x = network(rng), rng.normal(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)
    plan = plan_of(graph, x, rng, bits, per_channel)
    path = export(graph, plan, tmp_path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == opset
    held = {2: onnx.TensorProto.INT2, 3: onnx.TensorProto.INT4, 4: onnx.TensorProto.INT4}
    kinds = Counter(t.data_type for t in model.graph.initializer)
    assert kinds[held.get(bits, -1)] == (3 if bits < 5 else 0), "all weights but the head's 80"
    session = OnnxRuntime().open(path)
    assert differing(session, graph, plan, x) == {}
    assert differing(session, graph, plan, x, optimized=False) == {}


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_integer_kernels_take_them(bits: int, tmp_path: Path, rng: np.random.Generator) -> None:
    """Signed activations too; and the resize is two products with matrices that are made on opening."""
    graph, x = network(rng), rng.normal(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)
    plan = plan_of(graph, x, rng, bits, per_channel=False)
    assert {form.signed for name, form in plan.formats.items() if isinstance(form, Qmn)} == {False, True}
    chosen = options(1, signed=True)
    chosen.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    path = export(graph, plan, tmp_path)
    onnxruntime.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"])
    made = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert (made["QLinearConv"], made["Conv"], made["QLinearAdd"]) == (4, 0, 1)
    assert (made["MatMul"], made["Abs"], made["Cast"]) == (2, 0, 0)


def test_the_file_follows_the_plan(tmp_path: Path, rng: np.random.Generator) -> None:
    graph, x = network(rng), rng.normal(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)
    costs = Costs(graph)
    sizes, flash = [], []
    for bits in (2, 4, 8):
        plan = plan_of(graph, x, rng, bits, per_channel=False)
        sizes.append(export(graph, plan, tmp_path / str(bits)).stat().st_size)
        flash.append(int(costs.flash_bytes(bits_of(plan))))
    rest = np.subtract(sizes, flash)
    assert rest.max() < 5000
    assert np.ptp(rest) < 200, "the head's weights stay bytes, the others take a node each"
    plan = Plan("fixed_point", {**plan.formats, "mix.w": Qmn(3, 2)})
    three = export(graph, plan, tmp_path / "3").stat().st_size
    four = export(graph, Plan("fixed_point", {**plan.formats, "mix.w": Qmn(4, 2)}), tmp_path / "4").stat().st_size
    assert three == four, "odd widths in the next wider type"


def test_wider_types_are_stated(rng: np.random.Generator) -> None:
    graph = network(rng)
    weights: dict[str, Format] = {
        "stem.w": Qmn(3, 2),
        "mix.w": Qmn(6, 5),
        "head.w": Qmn(4, 3),
        "depthwise.w": Qmn(4, 3),
    }
    others: dict[str, Format] = {"stem": Qmn(6, 2), "image": Qmn(8, 5), "total": Qmn(12, 5), "mix.b": Qmn(16, 8)}
    assert OnnxRuntime().notes(graph, Plan("p", {**weights, **others})) == (
        "weights in wider types: 1 of 3 bits in 4, 1 of 4 bits in 8, 1 of 6 bits in 8",
        "activations in wider types: 1 of 6 bits in 8, 1 of 12 bits in 16",
        "biases in wider types: 1 of 16 bits in 32",
    )
    assert OnnxRuntime().notes(graph, Plan("p", {"mix.w": Qmn(4, 3), "image": Qmn(8, 5)})) == ()
