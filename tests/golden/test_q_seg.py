"""Q-Seg1 and Q-Seg2 against their published totals, and their layers against the recorded lists."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitfront.graph import capture, count, passes
from bitfront.graph.ir import Graph
from bitfront.models.mobilenet_blocks import Backbone
from bitfront.models.q_seg import QSeg1, QSeg2
from bitfront.simulate import reference

FAMILIES: dict[str, type[QSeg1] | type[QSeg2]] = {"1": QSeg1, "2": QSeg2}
TOTALS = {"1": (3_922_680, 3_877_896, 44_784), "2": (3_946_680, 3_902_328, 44_352)}
MEGABYTES = {"1": "15.42", "2": "15.52"}
TENSORS = {("1", "R1"): 124, ("1", "R2"): 135, ("1", "R3"): 128, ("2", "R1"): 116, ("2", "R2"): 122, ("2", "R3"): 122}
GMACS = {
    ("1", "R1"): 6.679, ("1", "R2"): 5.889, ("1", "R3"): 3.254,
    ("2", "R1"): 8.187, ("2", "R2"): 6.091, ("2", "R3"): 2.881,
}  # fmt: skip
"""Of the convolutions with their biases, at 256 x 512."""
SIZE = (32, 64)
EACH = pytest.mark.parametrize(("net", "variant"), TENSORS)


@cache
def made(net: str, variant: str) -> tuple[nn.Module, Graph]:
    """A network with statistics as after a training, and its graph."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = FAMILIES[net](classes=20, variant=variant).build().eval()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0, 0.1)
    return module, capture.from_module(module, (1, 3, *SIZE))


def weights(graph: Graph) -> list[str]:
    return [name for name in graph.constants if graph.tensors[name].kind in ("weight", "bias")]


@EACH
def test_variables(net: str, variant: str) -> None:
    with torch.device("meta"):
        module = FAMILIES[net](classes=20, variant=variant).build()
    trainable = sum(p.numel() for p in module.parameters())
    statistics = sum(b.numel() for name, b in module.named_buffers() if name.endswith(("running_mean", "running_var")))
    assert (trainable + statistics, trainable, statistics) == TOTALS[net]


@EACH
def test_weights_once_batch_norm_is_folded(net: str, variant: str) -> None:
    _, graph = made(net, variant)
    folded = passes.fold_batch_norm(passes.fuse_nearest(passes.fuse_pad(graph)))
    assert not any(node.op == "batch_norm" for node in folded.nodes)
    assert len(weights(folded)) == TENSORS[net, variant]
    ready = passes.prepare(graph)
    for found in (folded, ready):
        assert f"{4 * sum(found.constants[name].size for name in weights(found)) / 1e6:.2f}" == MEGABYTES[net]
    assert {node.op for node in ready.nodes} == {"conv", "add", "concat", "resize"}


@EACH
def test_the_folded_graph_computes_what_the_module_computes(net: str, variant: str, rng: np.random.Generator) -> None:
    module, graph = made(net, variant)
    x = rng.normal(size=(1, 3, *SIZE)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert np.abs(expected).max() > 0.05
    for found in (graph, passes.prepare(graph)):
        np.testing.assert_allclose(reference.run(found, x)[found.outputs[0]], expected, atol=1e-5)


@EACH
def test_multiplications(net: str, variant: str) -> None:
    _, graph = made(net, variant)
    macs = sum(node.macs for node in count.count(graph).per_node if node.op == "conv")
    assert round(macs * (256 * 512) / (SIZE[0] * SIZE[1]) / 1e9, 3) == GMACS[net, variant]


def test_channels_of_the_taps() -> None:
    with torch.device("meta"):
        taps = Backbone(3, 1.4, 6).eval().taps(torch.zeros(1, 3, 64, 128))
    assert [x.shape[1] for x in taps["expand"]] == [144, 192, 288, 816, 448]
    assert [x.shape[1] for x in taps["block"]] == [24, 32, 48, 136, 448]
    for maps in taps.values():
        assert [tuple(x.shape[2:]) for x in maps] == [(64 // n, 128 // n) for n in (2, 4, 8, 16, 32)]


def executed(module: nn.Module, run: nn.Module, *inputs: object) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """The convolutions and norms of ``module`` in the order in which ``run`` calls them, with their outputs' shapes."""
    calls: list[tuple[nn.Module, tuple[int, ...]]] = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            layer.register_forward_hook(lambda layer, _, out: calls.append((layer, tuple(out.shape))))
    run(*inputs)
    return calls


def table(path: Path) -> Iterator[dict[str, str]]:
    return csv.DictReader(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.shared
def test_layers_of_the_backbone(shared: Path) -> None:
    rows = list(table(shared / "golden/mobilenetv2_a1.4_layers_512x1024.csv"))
    with torch.device("meta"):
        backbone = Backbone(3, 1.4, 6).eval()
        convs = executed(backbone, backbone, torch.zeros(1, 3, 512, 1024))[::2]
    assert len(convs) == len(rows) == 51
    for (layer, shape), row in zip(convs, rows, strict=True):
        kind = f"{'dw' if layer.groups > 1 else 'conv'}{layer.kernel_size[0]}x{layer.kernel_size[0]}"
        assert row["type"] in (kind, f"{kind}/{layer.stride[0]}")
        assert (layer.in_channels, *shape[1:]) == tuple(int(row[key]) for key in ("c_in", "c_out", "H_out", "W_out"))
        n = layer.weight.numel()
        assert (n, n * shape[2] * shape[3]) == (int(row["conv_weights"]), int(row["macs"])), row["name"]
        assert int(row["params_total(4/BN)"]) == n + 4 * shape[1]


@pytest.mark.shared
@EACH
def test_layers_of_the_heads(net: str, variant: str, shared: Path) -> None:
    rows = [row for row in table(shared / f"golden/qseg{net}_{variant}_head.csv") if row["params"] not in ("", "0")]
    *rows, total = rows
    with torch.device("meta"):
        module = FAMILIES[net](classes=20, variant=variant).build().eval()
        calls = executed(module.head, module, torch.zeros(1, 3, *SIZE))
    norms = [layer.num_features for layer, _ in calls if isinstance(layer, nn.BatchNorm2d)]
    assert norms == [int(row["c_in"]) for row in rows if "BatchNorm" in row["op"]]
    convs = [layer for layer, _ in calls if isinstance(layer, nn.Conv2d)]
    expected = [row for row in rows if "BatchNorm" not in row["op"]]
    for layer, row in zip(convs, expected, strict=True):
        found = (layer.in_channels, layer.out_channels, layer.kernel_size[0], int(layer.bias is not None))
        assert found == tuple(int(row[key]) for key in ("c_in", "c_out", "k", "bias")), row["step"]
        assert sum(p.numel() for p in layer.parameters()) == int(row["params"])
    assert sum(int(row["params"]) for row in rows) == int(total["params"])
