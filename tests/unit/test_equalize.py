from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitfront.graph.equalize import LIMIT, equalize, links
from bitfront.graph.ir import Graph, Node, Tensor
from bitfront.quant.formats import Affine
from bitfront.quant.plan import Plan
from bitfront.simulate import reference

RELU, RELU6 = [0.0, float("inf")], [0.0, 6.0]


class Chain:
    """Builds a graph of convolutions, layer by layer, with random weights of uneven channels."""

    def __init__(self, rng: np.random.Generator, channels: int = 3, size: int = 6) -> None:
        self.rng, self.size = rng, size
        self.nodes: list[Node] = []
        self.tensors = {"x": Tensor("x", (1, channels, size, size), "input")}
        self.constants: dict[str, NDArray[Any]] = {}
        self.last = "x"

    def add(self, op: str, inputs: Sequence[str], channels: int, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.tensors[name] = Tensor(name, (1, channels, self.size, self.size), "activation")
        self.nodes.append(Node(f"{op}{len(self.nodes)}", op, tuple(inputs), name, attributes))
        self.last = name
        return name

    def conv(
        self, channels: int, kernel: int = 1, groups: int = 1, clip: Any = RELU, source: str = "", weight: str = ""
    ) -> str:
        source = source or self.last
        shape = (channels, self.tensors[source].shape[1] // groups, kernel, kernel)
        uneven = 2.0 ** self.rng.integers(-4, 5, (channels, 1, 1, 1))
        name = weight or f"w{len(self.nodes)}"
        values = {name: self.rng.normal(size=shape) * uneven, f"{name}b": self.rng.normal(size=channels)}
        for key, value in values.items():
            if key not in self.constants:
                self.constants[key] = value.astype(np.float32)
                self.tensors[key] = Tensor(key, value.shape, "bias" if key.endswith("b") else "weight")
        pads = [kernel // 2] * 4
        attributes = {"strides": [1, 1], "pads": pads, "dilations": [1, 1], "groups": groups, "clip": clip}
        return self.add("conv", (source, name, f"{name}b"), channels, **attributes)

    def graph(self) -> Graph:
        return Graph(tuple(self.nodes), self.tensors, self.constants, ("x",), (self.last,))


def run(graph: Graph, rng: np.random.Generator) -> NDArray[np.float32]:
    images = rng.normal(size=(2, *graph.tensors["x"].shape[1:])).astype(np.float32)
    return reference.run(graph, images)[graph.outputs[0]]


def channel_ranges(graph: Graph, weight: str, axis: int) -> NDArray[np.float32]:
    w = np.abs(graph.constants[weight])
    return w.max(tuple(i for i in range(4) if i != axis))


def test_two_layers_get_equal_ranges(rng: np.random.Generator) -> None:
    chain = Chain(rng)
    chain.conv(5, 3)
    chain.conv(4, 1)
    graph = chain.graph()
    (link,) = links(graph)
    assert (link.source.name, [t.name for t in link.targets]) == ("conv0", ["conv1"])
    after = equalize(graph)
    first, second = channel_ranges(after, "w0", 0), channel_ranges(after, "w1", 1)
    assert np.allclose(first, second, rtol=1e-3)
    products = channel_ranges(graph, "w0", 0) * channel_ranges(graph, "w1", 1)
    assert np.allclose(first, np.sqrt(products), rtol=1e-3)


def test_a_depthwise_triple_converges_to_one_range(rng: np.random.Generator) -> None:
    chain = Chain(rng)
    chain.conv(6)
    chain.conv(6, 3, groups=6)
    chain.conv(4, clip=None)
    after = equalize(chain.graph())
    ranges = [channel_ranges(after, "w0", 0), channel_ranges(after, "w1", 0), channel_ranges(after, "w2", 1)]
    assert np.allclose(ranges[0], ranges[1], rtol=2e-3)
    assert np.allclose(ranges[1], ranges[2], rtol=2e-3)
    before = chain.graph()
    cubes = channel_ranges(before, "w0", 0) * channel_ranges(before, "w1", 0) * channel_ranges(before, "w2", 1)
    assert np.allclose(ranges[1] ** 3, cubes, rtol=5e-3)


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_equalization_does_not_change_the_function(data: st.DataObject, seed: int) -> None:
    chain = Chain(np.random.default_rng(seed))
    for _ in range(data.draw(st.integers(2, 5), label="layers")):
        kind = data.draw(st.sampled_from(["plain", "depthwise", "grouped", "pool", "resize", "branch", "residual"]))
        clip = data.draw(st.sampled_from([RELU, RELU6, None]))
        channels = chain.tensors[chain.last].shape[1]
        if kind == "plain":
            chain.conv(data.draw(st.sampled_from([2, 4, 6])), 3, clip=clip)
        elif kind == "depthwise":
            chain.conv(channels, 3, groups=channels, clip=clip)
        elif kind == "grouped" and channels % 2 == 0:
            chain.conv(4, 3, groups=2, clip=clip)
        elif kind == "pool":
            window = {"kernel": [3, 3], "strides": [1, 1], "pads": [1] * 4}
            chain.add("average_pool", (chain.last,), channels, count_include_pad=True, **window)
        elif kind == "resize":
            chain.add("resize", (chain.last,), channels, mode="linear", size=[6, 6], coordinates="half_pixel")
        elif kind == "branch":  # two readers, both layers
            source = chain.last
            left, right = chain.conv(4, source=source, clip=clip), chain.conv(4, 3, source=source)
            chain.add("concat", (left, right), 8, axis=1)
        elif kind == "residual":
            source = chain.conv(4, clip=clip)
            chain.add("add", (source, chain.conv(4, source=source)), 4, clip=RELU)
    graph = chain.graph()
    after = equalize(graph)
    expected = run(graph, np.random.default_rng(0))
    scale = np.abs(expected).max() + 1e-3
    assert np.abs(run(after, np.random.default_rng(0)) - expected).max() <= 1e-5 * scale
    again = equalize(after)
    assert all(np.allclose(again.constants[n], w, rtol=1e-2, atol=1e-30) for n, w in after.constants.items())


@pytest.mark.parametrize("case", ["relu6", "residual", "output", "shared", "constant operand"])
def test_what_cannot_be_scaled_is_left_alone(case: str, rng: np.random.Generator) -> None:
    chain = Chain(rng)
    first = chain.conv(3, clip=RELU6 if case == "relu6" else RELU, weight="shared" if case == "shared" else "")
    second = chain.conv(3, clip=None, weight="shared" if case == "shared" else "")
    if case == "residual":
        chain.add("add", (first, second), 3, clip=None)
    elif case == "constant operand":
        chain.nodes.pop()
        chain.add("sigmoid", (first,), 3)
    graph = chain.graph()
    if case == "output":
        graph = Graph(graph.nodes, graph.tensors, graph.constants, ("x",), (first, second))
    assert links(graph) == ()
    assert equalize(graph).id == graph.id


def test_dead_channels_keep_their_scale_bounded(rng: np.random.Generator) -> None:
    chain = Chain(rng)
    chain.conv(3)
    chain.conv(3)
    graph = chain.graph()
    weight = graph.constants["w0"].copy()
    weight[0], weight[1] = 0.0, 1e-20
    graph = graph.with_constants({"w0": weight})
    after = equalize(graph)
    assert after.constants["w0b"][0] == graph.constants["w0b"][0]
    assert abs(after.constants["w0b"][1] / graph.constants["w0b"][1]) == pytest.approx(LIMIT)
    assert all(np.isfinite(w).all() for w in after.constants.values())


def per_tensor(graph: Graph, bits: int) -> Graph:
    """Round every weight to one scale per tensor."""
    rounded = {}
    for tensor in graph.named("weight"):
        w = graph.constants[tensor.name]
        form = Affine(bits, (float(np.abs(w).max() / (2 ** (bits - 1) - 1)),))
        rounded[tensor.name] = form.decode(form.encode(w))
    return graph.with_constants(rounded)


@pytest.mark.shared
def test_equalization_rescues_per_tensor_weights_of_a_trained_network(shared: Path) -> None:
    pytest.importorskip("torch", reason="reads a torch checkpoint")
    from PIL import Image
    from safetensors.torch import load_file

    from bitfront.graph import capture, passes
    from bitfront.models.fast_scnn import FastScnn

    state = load_file(shared / "models/fastscnn_packages/fastscnn_a0.25t2r1pp0.safetensors")
    model = FastScnn(classes=1, width=0.25, expansion=2, repeats=1, pyramid=False)
    module = model.build()
    module.load_state_dict({FastScnn.rename(k) or k: v for k, v in state.items()})
    graph = passes.prepare(capture.from_module(module.eval(), (1, 3, 128, 128)))
    photo = Image.open(next((shared / "data/packages/val/images").iterdir())).convert("RGB").resize((128, 128))
    x = ((np.asarray(photo, np.float32) / 255 - 0.45) / 0.225).transpose(2, 0, 1)[None]

    def logits(g: Graph) -> NDArray[np.float32]:
        return reference.run(g, x, Plan("float32"))[g.outputs[0]]

    equal = equalize(graph)
    expected = logits(graph)
    assert np.allclose(logits(equal), expected, atol=1e-3 * np.abs(expected).max())
    signal = np.mean(expected**2)
    before = np.mean((logits(per_tensor(graph, 8)) - expected) ** 2)
    after = np.mean((logits(per_tensor(equal, 8)) - expected) ** 2)
    assert before > signal  # worse than answering zero
    assert after < 0.02 * signal
