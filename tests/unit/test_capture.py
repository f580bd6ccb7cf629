"""torch modules into graphs: names, what is kept, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitfront.errors import DataError
from bitfront.graph import capture, passes
from bitfront.simulate import reference


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.spare = nn.Conv2d(3, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(), nn.Sequential(nn.Dropout(), nn.Conv2d(3, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.block(x)))


def test_names_are_those_of_the_module() -> None:
    graph = capture.from_module(Net(), (1, 3, 4, 4))
    names = [n.name for n in graph.nodes]
    once = ["block.conv", "block.bn", "block.add", "block.relu"]
    assert names == [*once, *(f"{n}_1" for n in once), "head.1"]
    assert graph.nodes[0].inputs == ("input", "block.conv.weight")
    assert graph.nodes[4].inputs[1] == "block.conv.weight"  # called twice, stored once
    assert graph.tensors["block.conv.weight"].kind == "weight"
    assert graph.tensors["head.1.bias"].kind == "bias"
    assert graph.tensors["block.bn.weight"].kind == "constant"
    assert graph.tensors["block.bn.running_var"].kind == "buffer"
    assert "block.bn.num_batches_tracked" not in graph.constants


def test_unused_parameters_stay_until_prepared() -> None:
    graph = capture.from_module(Net(), (1, 3, 4, 4))
    assert graph.constants["block.spare.weight"].shape == (5, 3, 1, 1)
    assert "block.spare.weight" not in passes.prepare(graph).constants


def test_the_module_is_left_as_it_was() -> None:
    net = Net()
    net.train()
    net.head.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    capture.from_module(net, (1, 3, 4, 4))
    assert net.block.bn.training
    assert not net.head.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


class InPlace(nn.Module):
    """Changes a tensor that is read again, and if asked one through a view."""

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.view = view

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        y.relu_()
        z = y * 2
        if self.view:
            z[:, :1].mul_(3.0)
        return z + y


@pytest.mark.parametrize(
    "module",
    [InPlace(view=False), nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.Hardswish(inplace=True))],
)
def test_in_place_operators_keep_their_meaning(module: nn.Module, rng: np.random.Generator) -> None:
    images = rng.normal(size=(1, 3, 4, 4)).astype(np.float32)
    graph = capture.from_module(module, (1, 3, 4, 4))
    want = module(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(reference.run(graph, images)[graph.outputs[0]], want, atol=1e-6)


def test_writing_through_a_view_is_refused() -> None:
    with pytest.raises(DataError, match="slice_scatter"):
        capture.from_module(InPlace(view=True), (1, 3, 4, 4))


class Strange(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft2(x).real + torch.erf(x) + torch.roll(x, 1)


def test_all_unknown_operators_are_listed() -> None:
    with pytest.raises(DataError, match=r"does not know: erf .*fft.*roll") as caught:
        capture.from_module(nn.Sequential(Strange()), (1, 3, 4, 4))
    assert "replace these layers" in caught.value.hint


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x


@pytest.mark.parametrize("module", [Branching(), nn.Conv2d(4, 2, 1), nn.Conv2d(3, 2, 9)])
def test_what_torch_cannot_export_is_one_line(module: nn.Module) -> None:
    with pytest.raises(DataError, match=r"torch.export cannot capture \w+ at input \(1, 3, 4, 4\)") as caught:
        capture.from_module(module, (1, 3, 4, 4))
    assert "\n" not in str(caught.value)


class Use(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        match self.what:
            case "scale":
                return F.interpolate(x, scale_factor=1.3, mode="bilinear", align_corners=False)
            case "reflect":
                return F.pad(x, (1, 1, 1, 1), mode="constant") + F.pad(x, (1, 1, 1, 1, 1, 0))[:, 1:]
            case "batch":
                return x.mean()
            case "weights":
                return F.conv2d(x, x.reshape(3, 1, 4, 4), groups=3)
        return x**3


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("scale", "scale 1.3 of 4 pixels is not a whole number"),
        ("reflect", "only padding of height and width"),
        ("batch", "a mean over the batch"),
        ("weights", "its weight is computed"),
        ("power", "only squares and square roots"),
    ],
)
def test_uses_that_no_graph_can_express(what: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        capture.from_module(nn.Sequential(Use(what)), (1, 3, 4, 4))


def test_many_outputs_and_double_precision() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            a, b = x.chunk(2, 1)
            return {"a": a * 2, "b": b.argmax(1)}

    graph = capture.from_module(Two().double(), (1, 4, 2, 2))
    images = np.arange(16, dtype=np.float32).reshape(1, 4, 2, 2)
    got = reference.run(graph, images)
    assert [got[name].dtype for name in graph.outputs] == [np.float32, np.int64]
    np.testing.assert_array_equal(got[graph.outputs[0]], images[:, :2] * 2)
