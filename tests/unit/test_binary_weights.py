"""One-bit weights: the format, the graph that is made, the gradients, training, and the file that comes of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import UsageError
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.graph.module import GraphModule
from bitfront.measure import verify
from bitfront.quant import plan_files
from bitfront.quant.binary import EDGES, MODES, binarize, packed_bytes
from bitfront.quant.fake_binary import BinaryQuantizer
from bitfront.quant.formats import Affine, Binary, integer
from bitfront.quant.plan import Plan
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.simulate import reference

SIZE = 8
RELU = [0.0, math.inf]
EACH = pytest.mark.parametrize("mode", MODES)


def network(rng: np.random.Generator, *, biases: bool = True) -> Graph:
    """conv, relu -> max pool -> conv, relu -> (+ depthwise, relu) -> flatten -> dense -> dense."""
    b = Builder()

    def weight(name: str, *shape: int) -> list[str]:
        found = [b.constant(f"{name}.w", rng.normal(0, 0.3, shape), "weight")]
        return [*found, b.constant(f"{name}.b", rng.normal(0, 0.2, shape[0]) * biases, "bias")]

    def conv(name: str, x: str, c_out: int, groups: int = 1) -> str:
        rest = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "groups": groups, "clip": RELU}
        return b.node("conv", name, [x, *weight(name, c_out, b.shape(x)[1] // groups, 3, 3)], **rest)

    x = conv("first", b.input("image", (1, 3, SIZE, SIZE)), 6)
    x = b.node("max_pool", "pool", [x], kernel=[2, 2], strides=[2, 2], pads=[0] * 4, dilations=[1, 1])
    y = conv("inner", x, 6)
    y = b.node("add", "join", [y, conv("deep", y, 6, groups=6)], clip=None)
    y = b.node("reshape", "flat", [y], shape=[-1, 6 * (SIZE // 2) ** 2])
    y = b.node("dense", "hidden", [y, *weight("hidden", 5, b.shape(y)[1])], clip=RELU)
    return b.build([b.node("dense", "last", [y, *weight("last", 3, 5)], clip=None)])


def images(rng: np.random.Generator, n: int = 4) -> np.ndarray:
    return rng.normal(0, 1, (n, 3, SIZE, SIZE)).astype(np.float32)


def outputs(module: GraphModule, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = module.eval()(torch.from_numpy(x)).numpy()
    return found


# --- the format ------------------------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=30), st.floats(2.0**-20, 2.0**20, width=32)
)
def test_codes_are_signs(values: list[float], scale: float) -> None:
    form = Binary.of((scale,))
    codes = form.encode(np.array(values, np.float32))
    assert codes.tolist() == [1 if v >= 0 else -1 for v in values]
    assert form.decode(codes).tolist() == [scale if v >= 0 else -scale for v in values]
    assert np.array_equal(form.encode(form.decode(codes)), codes)
    assert (form.bits, form.low, form.high) == (1, -1, 1)
    assert integer(form) is form
    assert form != Affine(1, (scale,), (0,), True, None, True)


def test_scales_of_channels() -> None:
    form = Binary.of((0.5, 2.0), 0)
    assert form.decode(form.encode(np.array([[0.1, -0.1], [-7.0, 0.0]]))).tolist() == [[0.5, -0.5], [-2.0, 2.0]]


def test_plans_are_stored(tmp_path: Path) -> None:
    plan = Plan("bwn", {"w": Binary.of((0.5, 2.0), 0), "v": Affine(8, (1.0,))}, {"binary": "bwn"})
    plan_files.save(tmp_path / "p.json", plan)
    read = plan_files.load(tmp_path / "p.json")
    assert (read.formats, read.id) == (dict(plan.formats), plan.id)


# --- the graph -------------------------------------------------------------------------------------------------------
def test_weights_are_binary_between_the_edges(rng: np.random.Generator) -> None:
    graph = network(rng)
    made, plan = binarize(graph, "bwn")
    assert set(plan.formats) == {"inner.w", "deep.w", "hidden.w"}
    form = plan.formats["inner.w"]
    assert isinstance(form, Binary)
    wanted = np.abs(graph.constants["inner.w"]).reshape(6, -1).mean(1)
    assert np.allclose(form.scale, wanted, rtol=1e-6)
    latent = made.constants["inner.w"]
    assert np.abs(latent).max() == 1
    assert np.array_equal(np.sign(latent), np.sign(graph.constants["inner.w"]))
    assert np.array_equal(made.constants["first.w"], graph.constants["first.w"])
    drawn = binarize(graph, "binary_connect_stochastic")[0].constants["inner.w"]
    assert np.abs(drawn).max() == 1
    assert 0.4 < np.abs(drawn).mean() <= 0.5, "odds of about 3 to 1"
    eight = binarize(graph, "bwn", "int8")[1].formats
    assert {n: f.bits for n, f in eight.items()} == {
        "inner.w": 1,
        "deep.w": 1,
        "hidden.w": 1,
        "first.w": 8,
        "last.w": 8,
    }
    assert {f.bits for f in binarize(graph, "bwn", "binary")[1].formats.values()} == {1}


def test_signs_stand_before_binary_layers_and_no_rectifier_before_signs(rng: np.random.Generator) -> None:
    made, plan = binarize(network(rng), "binary_net")
    by_name = {node.name: node for node in made.nodes}
    assert {name for name, form in plan.formats.items() if isinstance(form, Binary) and form.axis is None} == {
        "pool.sign", "inner.sign", "flat.sign",
    }  # fmt: skip
    assert by_name["inner"].inputs[0] == "pool.sign"
    assert by_name["deep"].inputs[0] == by_name["inner.sign"].output
    assert by_name["hidden"].inputs[0] == "flat.sign"
    assert by_name["first"]["clip"] is by_name["inner"]["clip"] is None
    assert by_name["hidden"]["clip"] == RELU, "what is read as it is keeps its rectifier"
    assert by_name["join"].inputs == ("inner", "deep")


def test_what_cannot_be_binary_is_refused(rng: np.random.Generator) -> None:
    graph = network(rng)
    with pytest.raises(UsageError, match="unknown way to train binary weights 'bmn'") as error:
        binarize(graph, "bmn")
    assert "bwn" in error.value.hint
    with pytest.raises(UsageError, match="kind of edges"):
        binarize(graph, "bwn", "floats")
    b = Builder()
    x = b.input("x", (1, 3))
    one = b.build([b.node("dense", "only", [x, b.constant("w", np.ones((2, 3)), "weight")], clip=None)])
    assert binarize(one, "bwn")[1].options["edges"] == "binary", "of a network that has nothing else"
    with pytest.raises(UsageError, match="no layer between its first and its last"):
        binarize(one, "bwn", "float")
    b = Builder()
    none = b.build([b.node("sigmoid", "s", [b.input("x", (1, 3))])])
    with pytest.raises(UsageError, match="no layers with weights"):
        binarize(none, "bwn")
    with pytest.raises(UsageError, match="no live batch normalization"):
        GraphModule(*binarize(graph, "bwn"), freeze_norm_after=3)
    with pytest.raises(UsageError, match="does not say how it is trained"):
        GraphModule(one, Plan("x", {"w": Binary.of((1.0, 1.0), 0)}))


def test_bytes_are_packed(rng: np.random.Generator) -> None:
    graph = network(rng)
    made, plan = binarize(graph, "bwn", "binary")
    sizes = {name: graph.constants[name].size for name in plan.formats}
    n_bias, n_scales = 6 * 3 + 5 + 3, 6 * 3 + 5 + 3
    assert packed_bytes(made, plan) == sum(-(-n // 8) for n in sizes.values()) + 4 * (n_bias + n_scales)


# --- gradients -------------------------------------------------------------------------------------------------------
def test_gradients_of_weights_by_hand() -> None:
    latent = torch.tensor([[0.5, -0.25], [1.0, -0.5]], requires_grad=True)
    form = Binary.of((0.75, 1.5), 0)
    quantizer = BinaryQuantizer(form, MODES["bwn"], latent.detach(), n_dims=2)
    out = quantizer(latent)
    assert out.tolist() == [[0.75, -0.75], [1.5, -1.5]]
    out.backward(torch.tensor([[1.0, 2.0], [1.0, 1.0]]))
    gain = 2.0  # both channels: scale over mean |latent|
    share, alpha = gain / 2, torch.tensor([[0.75], [1.5]])
    assert torch.allclose(latent.grad, (share + alpha) * torch.tensor([[1.0, 2.0], [1.0, 1.0]]))
    doubled = torch.tensor([[1.0, -0.5], [1.0, -0.5]])
    assert quantizer.format_of(doubled).scale == (1.5, 1.5), "the scale follows the mean"


def test_learned_scales_get_gradients() -> None:
    latent = torch.tensor([[0.5, -0.25]], requires_grad=True)
    quantizer = BinaryQuantizer(Binary.of((2.0,), 0), MODES["binary_connect"], latent.detach(), n_dims=2)
    quantizer(latent).backward(torch.tensor([[3.0, 1.0]]))
    assert latent.grad.tolist() == [[6.0, 2.0]], "as of the scaled weight itself"
    assert float(quantizer.log2_step.grad) == pytest.approx((3.0 - 1.0) * 2.0 * math.log(2))


def test_gradients_of_activations_stop_beyond_one() -> None:
    x = torch.tensor([-1.5, -1.0, -0.2, 0.0, 0.9, 1.1], requires_grad=True)
    out = BinaryQuantizer(Binary.of(), MODES["xnor"], n_dims=1)(x)
    assert out.tolist() == [-1, -1, -1, 1, 1, 1]
    out.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_drawn_signs_have_the_odds_of_their_latent_weights() -> None:
    latent = torch.tensor([[-1.0, -0.5, 0.0, 0.5, 1.0]]).repeat(1, 2000)
    quantizer = BinaryQuantizer(Binary.of((1.0,), 0), MODES["binary_connect_stochastic"], latent, n_dims=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        share = (quantizer.train()(latent).reshape(-1, 5) > 0).float().mean(0)
    assert torch.allclose(share, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]), atol=0.04)
    assert torch.equal(quantizer.eval()(latent), torch.where(latent >= 0, 1.0, -1.0))


# --- training and files ----------------------------------------------------------------------------------------------
@EACH
@pytest.mark.parametrize("edges", EDGES)
def test_what_is_trained_is_the_reference(mode: str, edges: str, rng: np.random.Generator) -> None:
    graph, plan = binarize(network(rng), mode, edges)
    x = images(rng)
    module = GraphModule(graph, plan)
    assert np.abs(outputs(module, x) - reference.run(graph, x, plan)["last"]).max() < 1e-5
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(8):
            optimizer.zero_grad()
            module.train()(torch.from_numpy(x)).square().mean().backward()
            optimizer.step()
        module(torch.from_numpy(x))
    done, trained = module.graph(), module.plan()
    assert np.abs(outputs(module, x) - reference.run(done, x, trained)["last"]).max() < 1e-5
    assert np.abs(done.constants["inner.w"]).max() <= 1
    assert (np.sign(done.constants["inner.w"]) != np.sign(graph.constants["inner.w"])).any()
    assert trained.formats["inner.w"].scale != plan.formats["inner.w"].scale
    assert trained.options == plan.options


@EACH
@pytest.mark.parametrize("biases", [True, False])
def test_files_are_verified(mode: str, biases: bool, rng: np.random.Generator, tmp_path: Path) -> None:
    """Without biases sums of signs are often 0 exactly, and their sign must not depend on the order of the sum."""
    graph, plan = binarize(network(rng, biases=biases), mode)
    engine, contract = OnnxRuntime(), InputContract(SIZE, SIZE)
    path = engine.export(graph, plan, tmp_path, contract, OutputContract())
    x = images(rng, 8)
    found = verify.compare(engine, path, graph, plan, contract, OutputContract(), x)
    assert found.verified, found
    assert found.max_code_difference == 0
    if not biases and MODES[mode].activations:
        sums = reference.run(graph, x, plan, keep=["inner"])["inner"]
        assert (sums == 0).any()


def test_large_weights_take_two_bits_in_the_file(rng: np.random.Generator, tmp_path: Path) -> None:
    graph, plan = binarize(network(rng), "xnor")
    path = OnnxRuntime(full_names=True).export(graph, plan, tmp_path, InputContract(SIZE, SIZE), OutputContract())
    kinds = {i.name: i.data_type for i in onnx.load(path).graph.initializer}
    assert kinds["hidden.w@codes@packed"] == onnx.TensorProto.INT2
    assert kinds["deep.w@codes"] == onnx.TensorProto.INT8
