"""Rounding that knows the inputs, and clips that hardly act."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="rounding executes the network in torch")

from bitfront.errors import DataError
from bitfront.graph.builder import Builder
from bitfront.graph.equalize import equalize, groups
from bitfront.graph.ir import Graph
from bitfront.quant.clips import relax_clips
from bitfront.quant.correction import correct_biases
from bitfront.quant.formats import Affine, Qmn
from bitfront.quant.plan import Plan
from bitfront.quant.rounding import round_weights, rounded_choices
from bitfront.simulate import reference
from bitfront.stats.qmn import choose, choose_per_channel
from bitfront.stats.ranges import collect

RELU, RELU6 = [0.0, float("inf")], [0.0, 6.0]


class Net(Builder):
    """Convolutions with random weights."""

    def __init__(self, rng: np.random.Generator, channels: int = 3, size: int = 12) -> None:
        super().__init__()
        self.rng = rng
        self.x = self.last = self.input("x", (1, channels, size, size))

    def conv(
        self, channels: int, kernel: int = 3, groups: int = 1, stride: int = 1, dilation: int = 1, clip: object = None
    ) -> str:
        n_in = self.shape(self.last)[1] // groups
        name = f"c{len(self._nodes)}"
        weight = self.rng.normal(size=(channels, n_in, kernel, kernel)) / np.sqrt(n_in * kernel**2)
        bias = self.rng.normal(size=channels) * 0.3
        inputs = [self.last, self.constant(f"{name}.w", weight, "weight"), self.constant(f"{name}.b", bias, "bias")]
        attributes = {"strides": [stride] * 2, "dilations": [dilation] * 2, "groups": groups, "clip": clip}
        self.last = self.node("conv", name, inputs, pads=[dilation * (kernel // 2)] * 4, **attributes)
        return self.last

    def graph(self) -> Graph:
        return self.build([self.last])


def smooth(rng: np.random.Generator, n: int, channels: int = 3, size: int = 12) -> NDArray[np.float32]:
    """Images whose neighbouring pixels and channels are alike."""
    coarse = rng.normal(size=(n, 1, size // 4, size // 4)).repeat(4, 2).repeat(4, 3)
    return (coarse + 0.2 * rng.normal(size=(n, channels, size, size)) + 0.5).astype(np.float32)


def network(rng: np.random.Generator) -> Graph:
    net = Net(rng)
    net.conv(8, clip=RELU)
    net.conv(8, groups=8, stride=2, clip=RELU)
    net.conv(16, 1, clip=RELU)
    net.conv(16, groups=2, dilation=2, clip=RELU)
    net.conv(4, 1)
    return net.graph()


def weights_at(graph: Graph, bits: int) -> Plan:
    return Plan("test", {t.name: choose(graph.constants[t.name], bits, "mse") for t in graph.named("weight")})


def output(graph: Graph, images: NDArray[np.float32], plan: Plan | None = None) -> NDArray[np.float64]:
    return reference.run(graph, images, plan)[graph.outputs[0]].astype(np.float64)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounding_beats_the_nearest_codes_with_corrected_biases(bits: int, rng: np.random.Generator) -> None:
    graph, calibration, images = network(rng), smooth(rng, 16), smooth(rng, 8)
    plan = weights_at(graph, bits)
    expected = output(graph, images)
    corrected = correct_biases(graph, plan, collect(graph, [calibration]))
    rounded = round_weights(graph, plan, [calibration[:8], calibration[8:]])
    nearest = np.mean((output(corrected, images, plan) - expected) ** 2)
    assert np.mean((output(rounded, images, plan) - expected) ** 2) < 0.6 * nearest


def test_new_weights_lie_on_the_codes_of_the_plan(rng: np.random.Generator) -> None:
    graph, images = network(rng), smooth(rng, 4)
    plan = weights_at(graph, 3)
    names = [t.name for t in graph.named("weight")]
    formats = {**plan.formats, names[0]: choose_per_channel(graph.constants[names[0]], 4), names[1]: Qmn(8, 7)}
    del formats[names[2]]
    rounded = round_weights(graph, Plan("test", formats), [images])
    for name in (names[0], *names[3:]):
        form, weight = formats[name], rounded.constants[name]
        assert np.array_equal(form.decode(form.encode(weight)), weight)
        assert not np.array_equal(form.decode(form.encode(graph.constants[name])), weight)
    for name in names[1:3]:  # 8 bits, and float
        assert rounded.constants[name] is graph.constants[name]
    assert round_weights(graph, Plan("test", formats), [images]).id == rounded.id


def test_errors_of_inputs_that_go_together_cancel(rng: np.random.Generator) -> None:
    builder = Builder()
    x = builder.input("x", (1, 2, 1, 1))
    w = builder.constant("w", np.full((1, 2, 1, 1), 0.4), "weight")
    b = builder.constant("b", np.zeros(1), "bias")
    how = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "groups": 1, "clip": None}
    graph = builder.build([builder.node("conv", "layer", [x, w, b], **how)])
    images = rng.normal(size=(64, 1, 1, 1)).repeat(2, 1).astype(np.float32)
    form = Qmn(2, 0)  # codes -2, -1, 0, 1: the nearest to .4 is 0 twice, but .8 is nearer to 1 than to 0
    for found in (
        round_weights(graph, Plan("test", {"w": form}), [images]).constants["w"],
        rounded_choices(graph, {"w": [form]}, [images])["w", form],
    ):
        assert sorted(found.ravel().tolist()) == [0.0, 1.0]


def test_later_layers_make_up_for_earlier_ones(rng: np.random.Generator) -> None:
    graph, images = network(rng), smooth(rng, 16)
    plan = weights_at(graph, 2)
    alone = rounded_choices(graph, {name: [form] for name, form in plan.formats.items()}, [images])
    apart = graph.with_constants({name: values for (name, _), values in alone.items()})
    together = round_weights(graph, plan, [images])
    expected = output(graph, images)
    assert np.mean((output(together, images, plan) - expected) ** 2) < np.mean(
        (output(apart, images, plan) - expected) ** 2
    )


def test_choices_are_one_answer_a_format(rng: np.random.Generator) -> None:
    graph, images = network(rng), smooth(rng, 4)
    name = next(graph.named("weight")).name
    forms = [Qmn(2, 1), Qmn(4, 3), Qmn(7, 6), Affine(4, (0.1,), (3,))]
    found = rounded_choices(graph, {name: forms}, [images])
    bias = graph.nodes[0].inputs[2]
    assert set(found) == {(n, form) for n in (name, bias) for form in forms[:2]}
    for form in forms[:2]:
        assert np.array_equal(form.decode(form.encode(found[name, form])), found[name, form])
        assert found[bias, form].shape == graph.constants[bias].shape


def test_with_many_bits_nothing_changes(rng: np.random.Generator) -> None:
    """Windows, strides, dilations, groups and padding are those of the convolution: else biases would move."""
    graph, images = network(rng), smooth(rng, 8)
    plan = weights_at(graph, 16)
    rounded = round_weights(graph, plan, [images], max_bits=16)
    for name, value in graph.constants.items():
        assert np.allclose(rounded.constants[name], value, atol=2e-3)


def test_activations_are_rounded_on_the_way(rng: np.random.Generator) -> None:
    graph, images = network(rng), smooth(rng, 8)
    plan = weights_at(graph, 3)
    coarse = Plan("test", {**plan.formats, graph.nodes[0].output: Qmn(2, 0, signed=False)})
    assert round_weights(graph, coarse, [images]).id != round_weights(graph, plan, [images]).id


def test_no_images(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="no images to calibrate on"):
        round_weights(network(rng), Plan("test"), [])


# --- clips -----------------------------------------------------------------------------------------------------------
def clipped(rng: np.random.Generator) -> Graph:
    """The first clip acts on one channel, the second never, the third hardly."""
    net = Net(rng)
    net.conv(6, clip=RELU6)
    net.conv(6, groups=6, clip=RELU6)
    net.conv(6, 1, clip=[0.0, 2.0])
    net.conv(2, 1)
    graph = net.graph()
    changed = {name: value.copy() for name, value in graph.constants.items()}
    changed["c0.b"][0], changed["c2.b"][1] = 9.0, 1.9
    changed["c1.w"] = np.abs(changed["c1.w"]) / 10
    return graph.with_constants(changed)


def test_clips_go_by_what_they_cut_off(rng: np.random.Generator) -> None:
    graph, images = clipped(rng), [smooth(rng, 4), smooth(rng, 4)]
    strict = relax_clips(graph, images, 0.0)
    first, second, third = strict.clips
    assert (first.dropped, second.dropped, third.dropped) == (False, True, False)
    assert first.acting == pytest.approx(1 / 6)
    assert second.acting == second.excess == second.clipped == 0
    assert first.excess > third.excess > 0
    assert set(strict.peaks) == {first.tensor, third.tensor}
    assert strict.peaks[first.tensor][0] > 8
    assert strict.distortion == 0
    free = groups(strict.graph, strict.peaks)[0].free
    assert free.tolist() == [False, *[True] * 5]

    everything = np.concatenate(images)
    loose = relax_clips(graph, images, 10.0)
    assert all(clip.dropped for clip in loose.clips)
    assert not loose.peaks
    before, after = output(graph, everything), output(loose.graph, everything)
    assert loose.distortion == pytest.approx(np.mean((after - before) ** 2) / np.mean(before**2))

    middle = relax_clips(graph, images, loose.distortion * 0.9)
    assert [clip.dropped for clip in middle.clips] == [False, True, True]
    assert middle.distortion <= loose.distortion * 0.9
    done = equalize(middle.graph, middle.peaks)
    change = output(done, everything) - output(middle.graph, everything)
    assert np.abs(change).max() < 1e-4 * np.abs(before).max()


def test_clips_that_stand_alone(rng: np.random.Generator) -> None:
    net = Net(rng)
    net.last = net.node(
        "average_pool", "pool", [net.conv(4)], kernel=[2, 2], strides=[2, 2], pads=[0] * 4, count_include_pad=True
    )
    net.last = net.node("clip", "six", [net.last], lo=0.0, hi=6.0)
    net.conv(2, 1)
    graph, images = net.graph(), [smooth(rng, 2)]
    relaxed = relax_clips(graph, images)
    assert [clip.tensor for clip in relaxed.clips] == ["six"]
    node = next(n for n in relaxed.graph.nodes if n.op == "clip")
    assert (node["lo"], node["hi"]) == (0.0, float("inf"))
    assert np.array_equal(output(relaxed.graph, images[0]), output(graph, images[0]))


def test_nothing_to_relax(rng: np.random.Generator) -> None:
    graph = network(rng)
    assert relax_clips(graph, []).graph is graph
