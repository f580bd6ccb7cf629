from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitfront.graph.equalize import HEADROOM, LIMIT, equalize, groups
from bitfront.graph.ir import Graph, Node, Tensor
from bitfront.quant.alignment import align
from bitfront.quant.formats import Affine
from bitfront.quant.plan import Plan
from bitfront.simulate import reference
from bitfront.stats.qmn import choose, errors

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


def assert_same_function(graph: Graph, other: Graph) -> None:
    expected = run(graph, np.random.default_rng(0))
    scale = np.abs(expected).max() + 1e-3
    assert np.abs(run(other, np.random.default_rng(0)) - expected).max() <= 1e-4 * scale  # clips hide large sums


def channel_ranges(graph: Graph, weight: str, axis: int) -> NDArray[np.float32]:
    w = np.abs(graph.constants[weight])
    return w.max(tuple(i for i in range(4) if i != axis))


def relative(ranges: NDArray[np.float32]) -> NDArray[np.float32]:
    return ranges / ranges.max()


def test_two_layers_get_equal_ranges(rng: np.random.Generator) -> None:
    chain = Chain(rng)
    chain.conv(5, 3)
    chain.conv(4, 1)
    graph = chain.graph()
    (group,) = groups(graph)
    assert [s.node.name for s in group.sources] == ["conv0"]
    assert [s.node.name for s in group.targets] == ["conv1"]
    assert group.free.all()
    after = equalize(graph)
    first, second = channel_ranges(after, "w0", 0), channel_ranges(after, "w1", 1)
    assert np.allclose(relative(first), relative(second), rtol=1e-3)
    products = channel_ranges(graph, "w0", 0) * channel_ranges(graph, "w1", 1)
    assert np.allclose(relative(first), relative(np.sqrt(products)), rtol=1e-3)


def test_a_depthwise_triple_converges_to_one_range(rng: np.random.Generator) -> None:
    chain = Chain(rng)
    chain.conv(6)
    chain.conv(6, 3, groups=6)
    chain.conv(4, clip=None)
    before, after = chain.graph(), equalize(chain.graph())
    ranges = [relative(channel_ranges(after, name, axis)) for name, axis in (("w0", 0), ("w1", 0), ("w2", 1))]
    assert np.allclose(ranges[0], ranges[1], rtol=2e-3)
    assert np.allclose(ranges[1], ranges[2], rtol=2e-3)
    cubes = channel_ranges(before, "w0", 0) * channel_ranges(before, "w1", 0) * channel_ranges(before, "w2", 1)
    assert np.allclose(ranges[1] ** 3, relative(cubes), rtol=5e-3)


def test_both_producers_and_both_readers_of_a_sum_share_its_scales(rng: np.random.Generator) -> None:
    chain = Chain(rng)
    chain.conv(4, clip=None)
    entry = chain.conv(4, clip=None)  # w1, the stream
    inner = chain.conv(6)  # w2 reads it
    total = chain.add("add", (entry, chain.conv(4, source=inner, clip=None)), 4, clip=None)  # w3 adds to it
    left, right = chain.conv(3, source=total), chain.conv(5, source=total)  # w5, w6 read the sum
    chain.add("concat", (left, right), 8, axis=1)
    chain.conv(2)
    graph = chain.graph()
    stream = next(g for g in groups(graph) if total in g.tensors)
    assert [s.node.name for s in stream.sources] == ["conv1", "conv3"]
    assert [s.node.name for s in stream.targets] == ["conv2", "conv5", "conv6"]
    joined = next(g for g in groups(graph) if right in g.tensors)
    assert [s.scales.tolist() for s in joined.sources] == [[0, 1, 2], [3, 4, 5, 6, 7]]
    after = equalize(graph)
    made = np.max([relative(channel_ranges(after, w, 0)) for w in ("w1", "w3")], axis=0)
    read = np.max([relative(channel_ranges(after, w, 1)) for w in ("w2", "w5", "w6")], axis=0)
    assert np.allclose(made, read, rtol=2e-3)


def test_aligned_weights_lose_less_at_powers_of_two(rng: np.random.Generator) -> None:
    chain = Chain(rng)
    chain.conv(6)
    chain.conv(6, 3, groups=6)
    chain.add("add", (chain.last, chain.conv(6, source=chain.last)), 6, clip=RELU)
    chain.conv(4, clip=None)
    graph = equalize(chain.graph())
    third = {n: (w / 3 if n.startswith("w") else w).astype(np.float32) for n, w in graph.constants.items()}
    for case in (graph, graph.with_constants(third)):
        after = align(case)
        assert_same_function(case, after)
        losses = [[relative_loss(g.constants[n]) for n in ("w0", "w1")] for g in (case, after)]
        assert np.all(np.array(losses[1]) <= np.array(losses[0]) * 1.0001)
        assert sum(losses[1]) < sum(losses[0])


def relative_loss(weight: NDArray[np.float32]) -> float:
    return errors(weight, choose(weight, 4, "mse", signed=True)).squared / float(np.mean(weight**2))


def test_a_fixed_tensor_is_not_aligned(rng: np.random.Generator) -> None:
    chain = Chain(rng)
    chain.conv(4, clip=RELU6)
    chain.conv(4, clip=None)
    assert align(chain.graph()).id == chain.graph().id


def test_channels_keep_their_place_through_reshapes_and_slices(rng: np.random.Generator) -> None:
    chain = Chain(rng, size=2)
    source = chain.conv(6)
    part = chain.add("slice", (source,), 3, axis=1, start=1, stop=6, step=2)
    flat = chain.add("reshape", (part,), 12, shape=[-1, 12])
    chain.tensors[flat] = Tensor(flat, (1, 12), "activation")
    chain.constants["d"], chain.constants["db"] = (rng.normal(size=s).astype(np.float32) for s in ((2, 12), 2))
    chain.tensors |= {n: Tensor(n, chain.constants[n].shape, k) for n, k in (("d", "weight"), ("db", "bias"))}
    out = chain.add("dense", (flat, "d", "db"), 2, clip=None)
    chain.tensors[out] = Tensor(out, (1, 2), "activation")
    graph = chain.graph()
    (group,) = groups(graph)
    assert group.targets[0].scales.tolist() == [i for i in (1, 3, 5) for _ in range(4)]
    assert group.free.tolist() == [False, True] * 3  # nobody reads the others
    assert_same_function(graph, equalize(graph))


def test_channels_below_a_clip_are_equalized_up_to_it(rng: np.random.Generator) -> None:
    chain = Chain(rng)
    clipped = chain.conv(4, clip=RELU6)
    chain.conv(3, clip=None)
    peaks = np.array([6.5, 0.1, 0.1, 3.0])
    weights = {"w0": np.ones((4, 3, 1, 1)), "w1": np.ones((3, 4, 1, 1))}
    weights["w0"][0] = 4  # reaches the clip: must stay
    weights["w0"][1] = 0.25  # may grow
    weights["w1"][:, 3] = 64  # would like to shrink, may grow twice
    graph = chain.graph().with_constants({n: w.astype(np.float32) for n, w in weights.items()})
    assert equalize(graph).id == graph.id
    (group,) = groups(graph, {clipped: peaks})
    assert group.free.tolist() == [False, True, True, True]
    after = equalize(graph, {clipped: peaks})
    scales = (graph.constants["w0"] / after.constants["w0"])[:, 0, 0, 0]
    assert scales[0] == 1
    assert scales[1] != 1
    assert scales[3] == pytest.approx(HEADROOM * 3 / 6, rel=1e-6)
    assert np.allclose(after.constants["w1"][0, :, 0, 0] / graph.constants["w1"][0, :, 0, 0], scales)


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_equalization_does_not_change_the_function(data: st.DataObject, seed: int) -> None:
    chain = Chain(np.random.default_rng(seed))
    for _ in range(data.draw(st.integers(2, 5), label="layers")):
        kind = data.draw(
            st.sampled_from(["plain", "depthwise", "grouped", "pool", "resize", "branch", "residual", "odd", "long"])
        )
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
        elif kind == "long":  # a stream that two layers add to, and that its reader negates
            stream = chain.conv(4, clip=None)
            inner = chain.conv(6, clip=clip)
            total = chain.add("sub", (stream, chain.conv(4, source=inner, clip=None)), 4)
            chain.conv(3, source=chain.add("neg", (total,), 4))
        elif kind == "odd":  # operators that a scale does not pass, or only from some channels
            source = chain.add("slice", (chain.conv(5, clip=clip),), 3, axis=1, start=0, stop=5, step=2)
            gate = chain.add("sigmoid", (source,), 3)
            chain.add("mul", (chain.conv(3, source=source), gate), 3)
    graph = chain.graph()
    assert_same_function(graph, equalize(graph))


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
    assert groups(graph) == ()
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
