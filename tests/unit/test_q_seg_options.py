"""Q-Seg: options, own weights, the spelled-out enlargement, padding as in Keras; the totals are in tests/golden."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitfront.errors import UsageError
from bitfront.models.blocks import state_shapes
from bitfront.models.mobilenet_blocks import Backbone, ConvBN6, make_divisible, stages, tap_channels
from bitfront.models.q_seg import QSeg1, QSeg2, double

BOTH = pytest.mark.parametrize("family", [QSeg1, QSeg2])


def total(model: Any) -> int:
    """All variables, running statistics too."""
    return sum(torch.Size(shape).numel() for key, shape in state_shapes(model).items() if "num_batches" not in key)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 5), (1, 20, 7, 2)])
def test_doubling_is_nearest_neighbour(shape: tuple[int, ...]) -> None:
    x = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    assert torch.equal(double(x), F.interpolate(x, scale_factor=2, mode="nearest"))


def test_stride_two_looks_down_and_right() -> None:
    layer = ConvBN6(1, 1, 3, 2, relu=False).eval()
    nn.init.ones_(layer.conv.weight)
    nn.init.constant_(layer.bn.running_var, 1 - 1e-3)
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = x[0, 0, 3, 3] = 1
    assert torch.allclose(layer(x)[0, 0], torch.eye(2))
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 1] = 1  # with padding on all sides every window would see it
    assert torch.allclose(layer(x)[0, 0], torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("channels", "expected"), [(44.8, 48), (22.4, 24), (11.2, 16), (5.6, 8), (1.0, 8), (134.4, 136)]
)
def test_make_divisible(channels: float, expected: int) -> None:
    assert make_divisible(channels) == expected


def test_widths_of_the_backbone() -> None:
    assert stages(1.4)[0] == 48
    assert [s.channels for s in stages(1.4)[1]] == [24, 32, 48, 88, 136, 224, 448]
    assert [s.channels for s in stages(1.0)[1]] == [16, 24, 32, 64, 96, 160, 320]
    for alpha, expansion in ((0.35, 6), (1.0, 1), (1.4, 2)):
        with torch.device("meta"):
            taps = Backbone(3, alpha, expansion).eval().taps(torch.zeros(1, 3, 32, 32))
        for name, maps in taps.items():
            assert tuple(x.shape[1] for x in maps) == tap_channels(name, alpha, expansion)


def test_one_more_class_costs_its_channels() -> None:
    for k in (2, 19, 20):
        assert total(QSeg1(classes=k + 1)) - total(QSeg1(classes=k)) == 216 + 9 * (2 * k + 1)
        assert total(QSeg2(classes=k + 1)) - total(QSeg2(classes=k)) == 88 + 9 * (2 * k + 1)


@BOTH
@pytest.mark.parametrize(
    "options",
    [
        {"variant": "R1", "alpha": 1.0},
        {"variant": "R3", "head_width": 0.5, "expansion": 1},
        {"alpha": 0.9, "head_width": 0.6, "classes": 1},
    ],
)
def test_weights_say_their_options(family: type[QSeg1], options: dict[str, Any]) -> None:
    shapes = state_shapes(family(**options))
    found = family.recognise(shapes, "weights")
    assert found is not None
    assert state_shapes(family(**found)) == shapes
    assert found["variant"] == options.get("variant", "R2")
    other = QSeg2 if family is QSeg1 else QSeg1
    assert other.recognise(shapes, "weights") is None


@BOTH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "R4"}, "unknown variant of q_seg. 'R4'"),
        ({"classes": 0}, "classes must be at least 1"),
        ({"alpha": 0}, "alpha must lie between"),
        ({"head_width": 100}, "head_width must lie between"),
        ({"momentum": 1}, "momentum must be at least 0 and below 1"),
    ],
)
def test_options_without_sense(family: type[QSeg1], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        family(**options)


@BOTH
def test_batch_norm_is_keras(family: type[QSeg1]) -> None:
    with torch.device("meta"):
        slow, fast = family(variant="R1").build(), family(momentum=0.9).build()
    for module, momentum in ((slow, 0.001), (fast, 0.1)):
        norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert all(layer.eps == 1e-3 and layer.momentum == pytest.approx(momentum) for layer in norms)
        assert len(norms) >= 51
