"""Graphs as torch modules: the same numbers, the right gradients, and back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bitfront.errors import UsageError
from bitfront.graph import capture, passes
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.graph.live_norm import normalized_layers
from bitfront.graph.module import GraphModule
from bitfront.models.tiny import Tiny
from bitfront.quant.fake import EXPONENT_GAIN, FakeQuantizer, round_through
from bitfront.quant.formats import Affine, Float16, Qmn
from bitfront.quant.plan import Plan
from bitfront.simulate import reference

sys.path.append(str(Path(__file__).resolve().parents[1] / "parity"))
import zoo
from fixed_point_plans import fixed_point_plan
from random_nets import plan_for, random_net


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only lose time to threads."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def tiny() -> Graph:
    torch.manual_seed(0)
    return passes.prepare(capture.from_module(Tiny(classes=1).build().eval(), (1, 3, 32, 32)))


def output(module: GraphModule, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return module.eval()(torch.from_numpy(images)).numpy()


# --- float -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(12))
def test_values_of_random_modules(seed: int, rng: np.random.Generator) -> None:
    module, shape = zoo.random_module(seed + 300)
    graph = capture.from_module(module, shape)
    images = rng.normal(0, 1, (2, *shape[1:])).astype(np.float32)
    wanted = reference.run(graph, images)[graph.outputs[0]]
    np.testing.assert_allclose(output(GraphModule(graph), images), wanted, atol=3e-5 * max(1.0, np.abs(wanted).max()))


def test_parameters_have_the_names_of_the_graph() -> None:
    graph = tiny()
    module = GraphModule(graph)
    names = {name for name, _ in module.named_parameters()}
    assert names == {n for n in graph.constants if graph.tensors[n].kind != "buffer"}
    assert "described" in module.state_dict()


def test_names_that_torch_would_refuse(rng: np.random.Generator) -> None:
    draft = Builder()
    graph = draft.build([draft.node("neg", "neg", [draft.input("image", (1, 2, 4, 4))])])
    names = ["forward", "formats.weight", "a", "a.b", "..", "graph.x", "described"]
    constants = {name: rng.normal(size=(1, 2, 1, 1)).astype(np.float32) for name in names}
    x, nodes, tensors = graph.outputs[0], list(graph.nodes), dict(graph.tensors)
    for i, name in enumerate(names):
        node = replace(nodes[0], name=f"n{i}", op="add", inputs=(x, name), output=f"t{i}", attributes={"clip": None})
        tensors[name] = replace(tensors[x], name=name, shape=(1, 2, 1, 1), kind="constant")
        tensors[node.output] = replace(tensors[x], name=node.output)
        nodes.append(node)
        x = node.output
    whole = Graph(tuple(nodes), tensors, constants, graph.inputs, (x,))
    module, images = GraphModule(whole), rng.normal(size=(1, 2, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(output(module, images), reference.run(whole, images)[x], atol=1e-5)
    assert len(list(module.parameters())) == len(names)


# --- fake quantization -----------------------------------------------------------------------------------------------
def differences(graph: Graph, plan: Plan, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(operator, differences in codes) of every node, computed from the reference's own inputs."""
    codes = reference.run(graph, images, plan, keep="*")
    held = {name: torch.from_numpy(reference.values(graph, plan, name, c)) for name, c in codes.items()}
    module = GraphModule(graph, plan).eval()
    for node in graph.nodes:
        with torch.inference_mode():
            inputs = [module._constant(n, node) if n in graph.constants else held[n] for n in node.inputs]
            got = plan.formats[node.output].encode(module._node(node, inputs).numpy())
        yield node.op, np.abs(got - codes[node.output])


@pytest.mark.parametrize("rounding", ["half_even", "half_up"])
def test_codes_under_fixed_point_plans_are_the_references(rounding: str) -> None:
    for seed in range(15):
        rng = np.random.default_rng([seed, 41])
        graph, images = random_net(rng, 12, 3), rng.normal(0, 1, (2, 3, 12, 12)).astype(np.float32)
        plan = fixed_point_plan(graph, images, rng, weight_bits=range(2, 9), activation_bits=(4, 8), rounding=rounding)
        for op, difference in differences(graph, plan, images):
            tabulated = op in ("sigmoid", "tanh", "silu", "hard_swish")  # their last bit is the library's
            assert difference.max() <= tabulated, (seed, op)
            assert difference.mean() < 0.01


def test_affine_plans_stay_within_a_code() -> None:
    for seed in range(8):
        rng = np.random.default_rng([seed, 42])
        graph, images = random_net(rng, 12, 3), rng.normal(0, 1, (2, 3, 12, 12)).astype(np.float32)
        for op, difference in differences(graph, plan_for(graph, images, "int8"), images):
            assert difference.max() <= 1, (seed, op)
            assert difference.mean() < 0.02, (seed, op)


def test_gradients_stop_at_the_range() -> None:
    quantizer = FakeQuantizer(Qmn(4, 2), n_dims=1)  # -2 .. 1.75
    x = torch.tensor([-3.0, -2.0, -0.3, 0.124, 1.7, 1.76, 9.0], requires_grad=True)
    y = quantizer(x)
    y.sum().backward()
    assert y.tolist() == [-2.0, -2.0, -0.25, 0.0, 1.75, 1.75, 1.75]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0, 0]
    y = quantizer(x, clip=(0.0, 1.0))
    assert y.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_gradient_of_a_learned_step() -> None:
    """Esser et al. 2020, equation 3, by the logarithm: times step and ln 2."""
    quantizer = FakeQuantizer(Affine(4, (0.5,)), learned=True, n_dims=1)
    x = torch.tensor([0.3, 100.0, -100.0])
    gradients = []
    for value in x:
        quantizer.zero_grad()
        quantizer(value.reshape(1)).sum().backward()
        assert quantizer.log2_step is not None
        assert quantizer.log2_step.grad is not None
        gradients.append(quantizer.log2_step.grad.item() / (0.5 * np.log(2)))
    np.testing.assert_allclose(gradients, [1 - 0.6, 7, -8], rtol=1e-5)


def test_steps_of_tensors_that_were_all_zero_can_be_learned() -> None:
    """Their formats have steps whose squares are below float32."""
    quantizer = FakeQuantizer(Qmn(16, 80), learned=True, n_dims=1)
    x = torch.zeros(3, requires_grad=True)
    quantizer(x).sum().backward()
    assert quantizer.log2_step is not None
    assert quantizer.log2_step.grad is not None
    assert quantizer.log2_step.grad.tolist() == [0.0]


def test_rounding_rules() -> None:
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 0.49999997])
    assert round_through(x).tolist() == [-2, 0, 0, 2, 0]
    assert round_through(x, "half_up").tolist() == [-1, 0, 1, 2, 0]
    assert FakeQuantizer(Float16())(torch.tensor([1.0001, 1e6])).tolist() == [1.0, 65504.0]


# --- training --------------------------------------------------------------------------------------------------------
def qmn_plan(graph: Graph, images: np.ndarray, bits: int = 8) -> Plan:
    """The smallest fixed-point format that covers each tensor."""

    def cover(values: np.ndarray) -> Qmn:
        return Qmn(bits, int(np.floor(np.log2((2.0 ** (bits - 1) - 1) / (np.abs(values).max() or 1)))))

    seen = {**reference.run(graph, images, keep="*"), **graph.constants}
    forms = {name: cover(v) for name, v in seen.items() if graph.tensors[name].kind not in ("bias", "buffer")}
    return Plan("qmn", forms)


def test_what_was_trained_is_what_is_exported(rng: np.random.Generator) -> None:
    graph = tiny()
    images = rng.normal(0, 1, (4, 3, 32, 32)).astype(np.float32)
    plan = qmn_plan(graph, images, 6)
    module = GraphModule(graph, plan, learn_ranges_after=1).train()
    optimizer = torch.optim.Adam(module.parameters(), 2e-2)
    target = torch.from_numpy((images.mean(1, keepdims=True) > 0).astype(np.float32))
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(module(torch.from_numpy(images)), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    trained, learned = module.graph(), module.plan()
    assert any((trained.constants[n] != graph.constants[n]).any() for n in graph.constants)
    assert {n: f.bits for n, f in learned.formats.items()} == {n: f.bits for n, f in plan.formats.items()}
    name = graph.outputs[0]
    wanted = reference.values(trained, learned, name, reference.run(trained, images, learned)[name])
    np.testing.assert_array_equal(output(module, images), wanted)


def test_steps_are_learned_late(rng: np.random.Generator) -> None:
    graph = tiny()
    images = rng.normal(0, 1, (1, 3, 32, 32)).astype(np.float32)
    module = GraphModule(graph, qmn_plan(graph, images), learn_ranges_after=1).train()
    steps = [p for n, p in module.named_parameters() if n.endswith("log2_step")]
    assert steps
    for learns in (False, True):
        module.zero_grad()
        module(torch.from_numpy(images)).sum().backward()
        assert any(p.grad is not None for p in steps) is learns
    assert module.plan().formats == module.source_plan.formats


def test_steps_are_frozen_late(rng: np.random.Generator) -> None:
    graph = tiny()
    images = rng.normal(0, 1, (1, 3, 32, 32)).astype(np.float32)
    module = GraphModule(graph, qmn_plan(graph, images), learn_ranges_after=0, freeze_ranges_after=1).train()
    steps = [p for n, p in module.named_parameters() if n.endswith("log2_step")]
    for learns in (True, False):
        module.zero_grad()
        module(torch.from_numpy(images)).sum().backward()
        assert any(p.grad is not None for p in steps) is learns


# --- live batch normalization ----------------------------------------------------------------------------------------
def convolutions(rng: np.random.Generator, *, clip: list[float] | None = None) -> Graph:
    """Two convolutions, the first one with means and deviations far from 0 and 1."""
    draft = Builder()
    x = draft.input("image", (1, 2, 6, 6))
    for i, (n_in, n_out) in enumerate(((2, 3), (3, 1))):
        weight = draft.constant(f"c{i}.weight", rng.normal(1, 2, (n_out, n_in, 3, 3)).astype(np.float32), "weight")
        bias = draft.constant(f"c{i}.bias", rng.normal(0, 3, n_out).astype(np.float32), "bias")
        attributes = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "groups": 1}
        x = draft.node("conv", f"c{i}", [x, weight, bias], **attributes, clip=clip if i == 0 else None)
    return draft.build([x])


def test_all_layers_but_the_last_are_normalized() -> None:
    layers = [node.name for node in tiny().nodes if node.op == "conv"]
    assert [node.name for node in normalized_layers(tiny())] == [name for name in layers if name != "logits"]
    pooled = Builder()
    image = pooled.input("image", (1, 2, 4, 4))
    small = pooled.node("global_average_pool", "pool", [image])
    attributes = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "groups": 1, "clip": None}
    for i in range(3):
        weight = pooled.constant(f"w{i}", np.ones((2, 2, 1, 1), np.float32), "weight")
        bias = pooled.constant(f"b{i}", np.ones(2, np.float32), "bias")
        small = pooled.node("conv", f"c{i}", [small, weight, bias], **attributes)
    assert normalized_layers(pooled.build([small])) == ()  # a batch has too few positions


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_live_normalization_begins_with_what_was_computed(rng: np.random.Generator, bits: int | None) -> None:
    graph, images = convolutions(rng, clip=[0.0, 6.0]), rng.normal(0.5, 1, (4, 2, 6, 6)).astype(np.float32)
    plan = None if bits is None else qmn_plan(graph, images, bits)
    module = GraphModule(graph, plan, freeze_norm_after=3)
    module.begin_norms(torch.from_numpy(images))
    np.testing.assert_array_equal(output(module, images), output(GraphModule(graph, plan), images))
    for name, value in module.graph().constants.items():
        np.testing.assert_allclose(value, graph.constants[name], atol=1e-5)


def test_live_normalization_is_that_of_torch(rng: np.random.Generator) -> None:
    """Of the batch in training, with the gradients of the layers spelled out; folded with running statistics behind."""
    graph = convolutions(rng)
    first, batch = (torch.from_numpy(rng.normal(m, 1, (4, 2, 6, 6)).astype(np.float32)) for m in (0.5, 2.0))
    module = GraphModule(graph, freeze_norm_after=1)
    module.begin_norms(first)
    convolution, last = (torch.nn.Conv2d(n, m, 3, padding=1) for n, m in ((2, 3), (3, 1)))
    norm = torch.nn.BatchNorm2d(3)
    values = {n: torch.tensor(v) for n, v in graph.constants.items()}
    with torch.no_grad():
        for layer, name in ((convolution, "c0"), (last, "c1")):
            layer.weight.copy_(values[f"{name}.weight"])
            layer.bias.copy_(values[f"{name}.bias"])
        convolution.bias.zero_()
        answers = convolution(first)
        norm.running_mean.copy_(answers.mean((0, 2, 3)))
        norm.running_var.copy_(answers.var((0, 2, 3), correction=0))
        norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
        norm.bias.copy_(values["c0.bias"] + norm.running_mean)
    twin = torch.nn.Sequential(convolution, norm, last)
    for network in (module.train(), twin.train()):
        network(batch).square().mean().backward()
    np.testing.assert_allclose(module(batch).detach(), twin.eval()(batch).detach(), rtol=2e-3, atol=2e-2)  # frozen now
    pairs = {"c0.weight": convolution.weight, "c1.weight": last.weight, "c0.bias": norm.bias}
    mine = dict(module.named_parameters())
    for name, parameter in pairs.items():
        np.testing.assert_allclose(mine[name].grad, parameter.grad, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(mine["norms.c0.gain"].grad, norm.weight.grad, rtol=1e-3, atol=1e-3)


def test_what_was_trained_with_live_normalization_is_exported(rng: np.random.Generator) -> None:
    graph, images = tiny(), rng.normal(0, 1, (4, 3, 32, 32)).astype(np.float32)
    plan, batch = qmn_plan(graph, images, 6), torch.from_numpy(images)
    module = GraphModule(graph, plan, freeze_norm_after=3)
    module.begin_norms(batch)
    optimizer, losses = torch.optim.Adam(module.train().parameters(), 1e-2), []
    target = (batch.mean(1, keepdim=True) > 0).float()
    for _ in range(6):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(module(batch), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    trained, learned = module.graph(), module.plan()
    name = graph.outputs[0]
    wanted = reference.values(trained, learned, name, reference.run(trained, images, learned)[name])
    np.testing.assert_array_equal(output(module, images), wanted)
    np.testing.assert_array_equal(module.train()(batch).detach(), wanted)  # frozen: no statistics of the batch


def test_formats_that_move_codes_stay_equal(rng: np.random.Generator) -> None:
    draft = Builder()
    pool = {"kernel": [2, 2], "strides": [2, 2], "pads": [0] * 4, "dilations": [1, 1]}
    x = draft.node("tanh", "tanh", [draft.input("image", (1, 2, 4, 4))])
    graph = draft.build([draft.node("max_pool", "pool", [x], **pool)])
    plan = Plan("p", {name: Qmn(8, 7) for name in (x, graph.outputs[0])})
    module = GraphModule(graph, plan, learn_ranges_after=0)
    assert len([n for n, _ in module.named_parameters()]) == 1
    with torch.no_grad():
        next(module.parameters()).add_(-1 / EXPONENT_GAIN)
    assert set(module.plan().formats.values()) == {Qmn(8, 8)}


def test_bad_plans_are_refused() -> None:
    graph = tiny()
    with pytest.raises(UsageError, match="dynamic"):
        GraphModule(graph, Plan("dynamic", {}, {"dynamic": True}))
    with pytest.raises(UsageError, match="gives a format to 'nothing'"):
        GraphModule(graph, Plan("p", {"nothing": Qmn(8, 4)}))
