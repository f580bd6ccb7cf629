"""Graphs against torch and ONNX Runtime: captured, prepared, imported, quantized."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import random_nets
import torch
import zoo
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.torch import load_file
from torch import nn

from bitfront.contracts import InputContract
from bitfront.graph import capture, passes
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph, Node
from bitfront.models.fast_scnn import FastScnn
from bitfront.models.tiny import Tiny
from bitfront.quant.formats import Affine, Format, Qmn
from bitfront.quant.plan import Plan
from bitfront.runtimes.onnx_writer import write
from bitfront.simulate import reference
from bitfront.simulate.quantized import KERNELS

OPSETS = (9, 11, 13, 17)
CLOSE = 2e-5  # of the largest value: float32 sums in another order


def close(got: NDArray[Any], want: NDArray[Any], tolerance: float = CLOSE) -> None:
    assert got.shape == want.shape
    assert float(np.abs(got - want).max()) <= tolerance * max(1.0, float(np.abs(want).max()))


def output(graph: Graph, images: NDArray[np.float32], plan: Plan | None = None) -> NDArray[Any]:
    return reference.run(graph, images, plan)[graph.outputs[0]]


def ask(module: nn.Module, images: NDArray[np.float32]) -> NDArray[Any]:
    with torch.no_grad():
        return module(torch.from_numpy(images)).numpy()


def session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def old_export(module: nn.Module, shape: tuple[int, ...], opset: int, **options: Any) -> bytes | None:
    """What torch.onnx.export has written for years; ``None`` where it refuses."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(module, (torch.zeros(shape),), file, dynamo=False, opset_version=opset, **options)
        except torch.onnx.errors.OnnxExporterError:
            return None
    return file.getvalue()


@pytest.mark.parametrize("seed", range(64))
def test_random_module(seed: int, rng: np.random.Generator) -> None:
    module, shape = zoo.random_module(seed)
    images = rng.normal(size=(2, *shape[1:])).astype(np.float32)
    want = ask(module, images)
    graph = capture.from_module(module, shape)
    prepared = passes.prepare(graph)
    close(output(graph, images), want)
    close(output(prepared, images), want)
    assert not {n.op for n in prepared.nodes} & {"batch_norm", "identity"}
    assert all(len(n.inputs) == 3 for n in prepared.nodes if n.op in ("conv", "dense"))
    folded = bool(seed % 3)
    file = old_export(module, shape, OPSETS[seed % 4], do_constant_folding=folded)
    if file is not None:
        imported = capture.from_onnx(file)
        close(output(imported, images), want)
        close(output(passes.prepare(imported), images), want)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"width": 0.125, "repeats": 1}, (64, 96)),
        ({"width": 0.25, "classes": 1}, (224, 224)),
        ({"pyramid": False}, (64, 64)),
    ],
)
def test_fast_scnn(options: dict[str, Any], size: tuple[int, int], rng: np.random.Generator) -> None:
    module = FastScnn(**options).build().eval()
    images = rng.normal(size=(1, 3, *size)).astype(np.float32)
    want = ask(module, images)
    graph = capture.from_module(module, (1, 3, *size))
    close(output(graph, images), want)
    close(output(passes.prepare(graph), images), want)


def test_tiny_through_every_door(rng: np.random.Generator, tmp_path: Path) -> None:
    module = Tiny().build().eval()
    shape = (1, 3, 32, 64)
    images = rng.normal(size=(2, 3, 32, 64)).astype(np.float32)
    want = ask(module, images)
    close(output(passes.prepare(capture.from_module(module, shape)), images), want)
    path = tmp_path / "new.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(shape),), path, dynamo=True, verbose=False)
    close(output(passes.prepare(capture.from_onnx(path)), images), want)
    axes = {"i": {0: "n", 2: "h", 3: "w"}}
    free = old_export(module, (1, 3, 64, 64), 12, input_names=["i"], dynamic_axes=axes)
    assert free is not None
    close(output(capture.from_onnx(free, size=(32, 64)), images), want)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["a0.25t6r3pp1", "a0.75t6r3pp1"])
def test_checkpoint_and_its_onnx_twin(shared: Path, name: str, rng: np.random.Generator) -> None:
    folder = shared / "models" / "fastscnn_packages"
    state = load_file(folder / f"fastscnn_{name}.safetensors")
    module = FastScnn(classes=1, width=float(name[1:].split("t")[0]), expansion=6, repeats=3, pyramid=True).build()
    module.load_state_dict({FastScnn.rename(key): value for key, value in state.items()}, strict=False)
    images = rng.normal(size=(1, 3, 512, 512)).astype(np.float32)
    file = (folder / "onnx" / f"fastscnn_{name}.onnx").read_bytes()
    mine = output(passes.prepare(capture.from_module(module, (1, 3, 512, 512))), images)
    twin = output(passes.prepare(capture.from_onnx(file)), images)
    close(mine, twin)
    close(twin, session(file).run(None, {"input": images})[0])


# --- integers ---
def codes_of(graph: Graph, plan: Plan, images: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Codes of the output: ours, and those of ONNX Runtime on the exported file."""
    _, channels, height, width = graph.tensors[graph.inputs[0]].shape
    model = write(graph, plan, InputContract(height, width, channels), metadata={})
    values = session(model.SerializeToString()).run(None, {graph.inputs[0]: images})[0]
    return output(graph, images, plan), plan.formats[graph.outputs[0]].encode(values)


def power_of_two(plan: Plan) -> Plan:
    """The same plan with scales rounded up to powers of two: most roundings are ties."""
    forms: dict[str, Format] = {}
    for name, form in plan.formats.items():
        assert isinstance(form, Affine)
        forms[name] = replace(form, scale=tuple(float(2.0 ** np.ceil(np.log2(s))) for s in form.scale))
    return Plan("int8", forms)


def fixed_point(plan: Plan) -> Plan:
    forms: dict[str, Format] = {}
    for name, form in plan.formats.items():
        assert isinstance(form, Affine)
        step = max(form.scale) * (2 if form.axis is None else 1)
        forms[name] = Qmn(8, int(-np.ceil(np.log2(step))))
    return Plan("int8", forms)


def convolution(draft: Builder, x: str, rng: np.random.Generator, **options: Any) -> str:
    ic, oc, k, groups = draft.shape(x)[1], options.get("oc", 6), options.get("k", 1), options.get("groups", 1)
    weight = draft.constant("w", rng.normal(size=(oc, ic // groups, k, k)), "weight")
    window = {"strides": [options.get("stride", 1)] * 2, "pads": [k // 2] * 4, "dilations": [1, 1]}
    bias = draft.constant("b", rng.normal(size=oc), "bias")
    return draft.node("conv", "conv", [x, weight, bias], **window, groups=groups, clip=options.get("clip"))


def pair(op: str) -> Callable[..., str]:
    def build(draft: Builder, x: str, rng: np.random.Generator) -> str:
        other = draft.node("clip", "clip", [x], lo=-0.5, hi=1.0)
        extra = {"clip": None} if op == "add" else {}
        return draft.node(op, op, [convolution(draft, x, rng), other], **extra)

    return build


def gate(draft: Builder, x: str, rng: np.random.Generator) -> str:
    pooled = draft.node("global_average_pool", "gap", [x])
    total = draft.node("add", "sum", [convolution(draft, pooled, rng), x], clip=[0.0, float("inf")])
    return draft.node("mul", "gate", [total, draft.node("sigmoid", "sigmoid", [pooled])])


def one(op: str, **attributes: Any) -> Callable[..., str]:
    return lambda draft, x, _: draft.node(op, op, [x], **attributes)


def dense(draft: Builder, x: str, rng: np.random.Generator) -> str:
    flat = draft.node("reshape", "flat", [x], shape=[-1, 594])
    parts = [draft.constant("w", rng.normal(size=(5, 594)), "weight"), draft.constant("b", rng.normal(size=5), "bias")]
    return draft.node("dense", "dense", [flat, *parts], clip=None)


POOL = {"kernel": [3, 3], "strides": [2, 2], "pads": [1] * 4}
PIECES: dict[str, Callable[..., str]] = {
    "conv": lambda d, x, r: convolution(d, x, r, k=3, stride=2, clip=[0.0, float("inf")]),
    "pointwise": convolution,
    "depthwise": lambda d, x, r: convolution(d, x, r, k=3, groups=6),
    "dense": dense,
    **{op: pair(op) for op in ("add", "sub", "mul")},
    "gate": gate,
    "concat": lambda d, x, r: d.node("concat", "cat", [x, convolution(d, x, r)], axis=1),
    "average": one("average_pool", **POOL, count_include_pad=False),
    "average_padded": one("average_pool", **POOL, count_include_pad=True),
    "global": one("global_average_pool"),
    "maximum": one("max_pool", **POOL, dilations=[1, 1]),
    "corners": one("resize", mode="linear", size=[18, 21], coordinates="align_corners"),
    "half_pixel": one("resize", mode="linear", size=[20, 7], coordinates="half_pixel"),
    "nearest": one("resize", mode="nearest", size=[18, 22], coordinates="asymmetric", rounding="floor"),
    "leaky": one("leaky_relu", alpha=0.1),
    "softmax": one("softmax", axis=1),
    "clip": one("clip", lo=0.0, hi=6.0),
    **{op: one(op) for op in ("sigmoid", "tanh", "silu", "hard_swish", "exp")},
}


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("kind", ["int8", "int8_s8s8", "power_of_two", "fixed_point"])
def test_codes_equal_those_of_onnx_runtime(piece: str, kind: str, rng: np.random.Generator) -> None:
    for _ in range(6):
        draft = Builder()
        graph = draft.build([PIECES[piece](draft, draft.input("image", (1, 6, 9, 11)), rng)])
        images = rng.normal(0, rng.uniform(0.3, 2), (2, 6, 9, 11)).astype(np.float32)
        plan = random_nets.plan_for(graph, images, "int8_s8s8" if kind == "int8_s8s8" else "int8")
        plan = {"power_of_two": power_of_two, "fixed_point": fixed_point}.get(kind, lambda p: p)(plan)
        mine, theirs = codes_of(graph, plan, images)
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.shared
@pytest.mark.parametrize("recipe", ["int8", "int8_s8s8"])
@pytest.mark.parametrize("name", ["96a0.125t2r1pp0", "256a0.125t6r2pp0", "a0.25t6r3pp1"])
def test_codes_of_real_networks(shared: Path, name: str, recipe: str, rng: np.random.Generator) -> None:
    path = shared / "models" / "fastscnn_packages" / "onnx" / f"fastscnn_{name}.onnx"
    graph = passes.prepare(capture.from_onnx(path))
    shape = graph.tensors[graph.inputs[0]].shape
    waves = sum(np.sin(np.linspace(0, f, shape[3])[None] + np.linspace(f, 0, shape[2])[:, None]) for f in (3, 17, 40))
    images = (waves + rng.normal(0, 0.3, shape)).astype(np.float32)
    mine, theirs = codes_of(graph, random_nets.plan_for(graph, images, recipe), images)
    np.testing.assert_array_equal(mine, theirs)


def kernel(op: str, x: list[NDArray[Any]], forms: list[Affine], y: Affine) -> NDArray[Any]:
    """Run one of ONNX Runtime's quantized elementwise operators on uint8 codes."""
    feeds: dict[str, NDArray[Any]] = {}
    for i, (codes, form) in enumerate(zip(x, forms, strict=True)):
        feeds |= {f"x{i}": codes, f"s{i}": np.float32(form.scale[0]), f"z{i}": np.uint8(form.zero_point[0])}
    feeds |= {"sy": np.float32(y.scale[0]), "zy": np.uint8(y.zero_point[0])}
    kinds = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.float32): TensorProto.FLOAT}
    inputs = [helper.make_tensor_value_info(k, kinds[np.asarray(v).dtype], np.shape(v)) for k, v in feeds.items()]
    node = helper.make_node(op, list(feeds), ["y"], domain="com.microsoft")
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.UINT8, None)])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return session(model.SerializeToString()).run(None, {k: np.asarray(v) for k, v in feeds.items()})[0]


@pytest.mark.parametrize("op", ["add", "mul"])
@pytest.mark.parametrize("shapes", [((40, 50), (40, 50)), ((40, 50), (1,)), ((1,), (40, 50)), ((40, 1), (40, 50))])
def test_kernels_rounding(op: str, shapes: tuple[Any, Any], rng: np.random.Generator) -> None:
    node = Node("n", op, ("a", "b"), "y", {"clip": None})
    for i in range(150):
        scales = rng.uniform(0.01, 0.3, 3).astype(np.float32)
        scales[1] = scales[0] if i % 3 == 0 else scales[1]
        scales[2] = scales[0] * 2 if i % 4 == 0 else scales[2]
        a, b, y = (Affine(8, (float(s),), (int(rng.integers(256)),), signed=False) for s in scales)
        codes = [rng.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
        mine = KERNELS[op](node, [c.astype(np.int32) for c in codes], [a, b], y)
        np.testing.assert_array_equal(mine, kernel(f"QLinear{op.title()}", codes, [a, b], y))
