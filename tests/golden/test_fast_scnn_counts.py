"""Parameters and multiply-accumulates of Fast-SCNN: closed formulas, recorded numbers, the published table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bitfront.models.fast_scnn import FastScnn

RECORDED = json.loads(Path(__file__).with_name("fast_scnn_counts.json").read_text())


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def formula(model: FastScnn) -> int:
    """All trainable parameters, the unused pyramid included."""
    c32, c48, c64, c96, c128 = (int(c * model.width) for c in (32, 48, 64, 96, 128))

    def bottleneck(c_in: int, c_out: int) -> int:
        hidden = c_in * model.expansion
        return c_in * hidden + hidden * c_out + 9 * hidden + 4 * hidden + 2 * c_out

    def stage(c_in: int, c_out: int) -> int:
        return bottleneck(c_in, c_out) + (model.repeats - 1) * bottleneck(c_out, c_out)

    def separable(c_in: int, c_out: int) -> int:
        return 11 * c_in + c_in * c_out + 2 * c_out

    return (
        9 * model.channels * c32
        + 2 * c32
        + separable(c32, c48)
        + separable(c48, c64)
        + stage(c64, c64)
        + stage(c64, c96)
        + stage(c96, c128)
        + (c128 * (c128 // 4) + 2 * c128**2 + 2 * c128)
        + (c64 * c128 + c128 + 11 * c128 + c128**2 + c128)
        + 2 * separable(c128, c128)
        + c128 * model.classes
        + model.classes
    )


def count_macs(model: FastScnn, height: int, width: int) -> tuple[int, int]:
    """MACs of the weights alone; and with biases (one a pixel) and BatchNorm (2 c a layer), torchinfo's rule."""
    weights, extra = 0, 0

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal weights, extra
        if isinstance(layer, nn.Conv2d):
            pixels = out.shape[2] * out.shape[3]
            weights += layer.weight.numel() * pixels
            extra += 0 if layer.bias is None else layer.bias.numel() * pixels
        elif isinstance(layer, nn.BatchNorm2d):
            extra += 2 * layer.num_features

    with torch.device("meta"):
        module = model.build().eval()
        for layer in module.modules():
            layer.register_forward_hook(count)
        module(torch.zeros(1, model.channels, height, width))
    return weights, weights + extra


@pytest.mark.parametrize("row", RECORDED, ids=lambda row: row["name"])
def test_recorded_counts(row: dict) -> None:
    model = FastScnn(**row["options"])
    with torch.device("meta"):
        assert parameters(model.build()) == formula(model) == row["parameters"]
    assert count_macs(model, *row["size"]) == (row["conv_macs"], row["torchinfo_macs"])


@pytest.mark.shared
def test_published_table(shared: Path) -> None:
    table = (shared / "golden/fastscnn_summaries_checked.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert len(rows) == 86
    for row in rows:
        model = FastScnn(1, int(row["in_ch"]), float(row["a"]), int(row["t"]), int(row["r"]), row["pp"] == "1")
        with torch.device("meta"):
            module = model.build()
        size = int(row["H"])
        conv, torchinfo = count_macs(model, size, size)
        assert parameters(module) == int(row["params"]), row["name"]
        used = parameters(module) - (0 if model.pyramid else parameters(module.pyramid))
        assert used == int(row["params_executed"]), row["name"]
        assert conv == int(row["conv_only_macs"]), row["name"]
        # the pyramid's four scales share one convolution; the table has six decimals of a million
        assert torchinfo == round(float(row["macs_M_true(torchinfo>=1.7.2)"]) * 1e6), row["name"]
