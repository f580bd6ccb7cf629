"""Fast-SCNN and the tiny net: shapes, the pyramid at every size, state dicts of others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bitfront.errors import UsageError
from bitfront.models.blocks import state_shapes
from bitfront.models.fast_scnn import FastScnn, Pyramid
from bitfront.models.tiny import Tiny

SIZES = [(96, 96), (128, 128), (160, 160), (192, 192), (224, 224), (256, 256), (320, 480), (512, 512), (32, 64)]


def small(**options: object) -> FastScnn:
    return FastScnn(**{"width": 0.125, "expansion": 2, "repeats": 1, **options})


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# --- shapes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("pyramid", [False, True])
def test_logits_have_the_size_of_the_image(size: tuple[int, int], pyramid: bool) -> None:
    module = small(classes=5, pyramid=pyramid).build().eval()
    with torch.no_grad():
        assert module(torch.zeros(1, 3, *size)).shape == (1, 5, *size)


def test_one_class_is_one_logit_and_one_channel_is_grey() -> None:
    with torch.no_grad():
        assert small(classes=1, channels=1).build().eval()(torch.zeros(2, 1, 64, 32)).shape == (2, 1, 64, 32)


@pytest.mark.parametrize("model", [FastScnn(width=0.125), Tiny()], ids=lambda m: m.name)
def test_sizes_that_do_not_fit_say_what_fits(model: FastScnn | Tiny) -> None:
    with pytest.raises(UsageError, match=rf"multiples of {model.size_multiple}, not 100 x 250") as caught:
        model.build()(torch.zeros(1, 3, 100, 250))
    assert (
        caught.value.hint == f"the nearest size that fits is {'96 x 256' if model.name == 'fast_scnn' else '96 x 248'}"
    )


@pytest.mark.parametrize("options", [{"width": 0.0}, {"width": 100}, {"repeats": 0}, {"classes": 0}, {"channels": -1}])
def test_options_without_a_network_are_refused(options: dict) -> None:
    with pytest.raises(UsageError, match=f"fast_scnn: {next(iter(options))}"):
        FastScnn(**options)


def test_tiny_is_tiny() -> None:
    counts = [sum(p.numel() for p in Tiny(width=w).build().parameters()) for w in Tiny.knobs["width"]]
    assert counts == sorted(counts)
    assert 1000 <= counts[0] <= counts[1] <= 5000


# --- the pyramid -----------------------------------------------------------------------------------------------------
def fixed_windows(pyramid: Pyramid, x: torch.Tensor) -> torch.Tensor:
    """As it was trained by others: windows 16, 8, 4, 2 on a map of 16 x 16."""
    scales = [F.relu(pyramid.branch(F.avg_pool2d(x, k, k))) for k in (16, 8, 4, 2)]
    scales = [F.interpolate(s, size=(16, 16), mode="bilinear", align_corners=True) for s in scales]
    return pyramid.join(torch.cat([*scales, x], 1))


def test_pyramid_equals_the_fixed_windows_at_512() -> None:
    pyramid, x = Pyramid(32).eval(), torch.randn(2, 32, 16, 16)
    with torch.no_grad():
        assert torch.allclose(pyramid(x), fixed_windows(pyramid, x), atol=1e-6)


@pytest.mark.parametrize("size", [(3, 3), (4, 5), (7, 7), (8, 8), (10, 15), (1, 2), (16, 32)], ids=str)
def test_pyramid_pools_every_map_to_1_2_4_and_8_bins(size: tuple[int, int]) -> None:
    seen = []
    pyramid = Pyramid(8).eval()
    pyramid.branch.register_forward_hook(lambda _, args, __: seen.append(tuple(args[0].shape[-2:])))
    with torch.no_grad():
        assert pyramid(torch.randn(1, 8, *size)).shape == (1, 8, *size)
    assert seen == [(n, n) for n in (1, 2, 4, 8)]


def test_pyramid_keeps_flat_maps_flat() -> None:
    """Averaging and resizing change no constant, at any size: no border is padded or dropped."""
    pyramid = Pyramid(8).eval()
    with torch.no_grad():
        flat = [pyramid(torch.ones(1, 8, h, w)).std(dim=(2, 3)).max() for h, w in ((3, 3), (5, 7), (10, 15), (16, 16))]
    assert max(flat) < 1e-6


def test_unused_pyramid_keeps_its_parameters() -> None:
    assert state_shapes(small(pyramid=False)) == state_shapes(small(pyramid=True))


# --- training and exporting ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", [small(), small(pyramid=False), Tiny()], ids=["pp1", "pp0", "tiny"])
def test_every_used_parameter_gets_a_gradient(model: FastScnn | Tiny) -> None:
    module = model.build()
    module(torch.randn(2, 3, 64, 64)).square().mean().backward()
    without = {n.split(".")[0] for n, p in module.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == (set() if getattr(model, "pyramid", True) else {"pyramid"})


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch, about its own names
def test_exports_with_static_shapes() -> None:
    """The exported program holds only operators that fixed shapes explain, and computes the same."""
    module, x = small(classes=3).build().eval(), torch.randn(1, 3, 96, 160)
    program = torch.export.export(module, (x,))
    with torch.no_grad():
        assert torch.allclose(program.module()(x), module(x), atol=1e-5)
    used = {str(n.target).split(".")[1] for n in program.graph.nodes if n.op == "call_function"}
    assert not {u for u in used if u.startswith("sym") or "adaptive" in u}


def test_build_draws_from_torchs_generator() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.detach().flatten() for p in small().build().parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# --- state dicts -----------------------------------------------------------------------------------------------------
THEIRS = {  # our key -> theirs, one of each kind of layer
    "downsample.conv.conv.weight": "learning_to_down_sample.conv.conv.weight",
    "downsample.separable2.depthwise.bn.running_mean": "learning_to_down_sample.dsconv2.1.running_mean",
    "downsample.separable1.pointwise.conv.weight": "learning_to_down_sample.dsconv1.2.weight",
    "features.0.1.expand.conv.weight": "global_feature_extractor.first_block.1.conv.0.weight",
    "features.1.0.depthwise.bn.bias": "global_feature_extractor.second_block.0.conv.4.bias",
    "features.2.2.project.bn.num_batches_tracked": "global_feature_extractor.third_block.2.conv.7.num_batches_tracked",
    "pyramid.branch.weight": "global_feature_extractor.ppm.conv.0.weight",
    "pyramid.join.bn.weight": "global_feature_extractor.ppm.convB.bn.weight",
    "fusion.depthwise.conv.weight": "feature_fusion.dwconv.conv.weight",
    "fusion.low.bias": "feature_fusion.conv_low_res.bias",
    "fusion.high.weight": "feature_fusion.conv_high_res.weight",
    "classifier.separable1.pointwise.bn.running_var": "classifier.dsconv1.3.running_var",
    "classifier.logits.bias": "classifier.conv.bias",
}


def test_published_keys_are_renamed() -> None:
    ours = state_shapes(FastScnn(width=0.125))
    for mine, theirs in THEIRS.items():
        assert mine in ours
        assert FastScnn.rename(theirs) == FastScnn.rename(f"module.{theirs}") == FastScnn.rename(mine) == mine
    assert all(FastScnn.rename(key) == key for key in ours)
    assert FastScnn.rename("backbone.conv.weight") is None


@pytest.mark.parametrize("width", FastScnn.knobs["width"])
def test_options_are_read_off_the_shapes(width: float) -> None:
    for expansion, repeats, classes, channels in ((2, 1, 1, 3), (4, 2, 2, 1), (6, 3, 11, 3)):
        model = FastScnn(classes, channels, width, expansion, repeats)
        shape = {"classes": classes, "channels": channels, "width": width, "expansion": expansion, "repeats": repeats}
        expected = {**shape, "pyramid": True}
        assert FastScnn.recognise(state_shapes(model), "best") == expected
        assert FastScnn.recognise(state_shapes(model), "x_a0.25t6r3pp0") == {**expected, "pyramid": False}
        assert FastScnn.recognise(state_shapes(model), "run_pp1_of_pp01")["pyramid"] is True


def test_foreign_shapes_are_not_recognised() -> None:
    good = state_shapes(small())
    first = "downsample.conv.conv.weight"
    foreign = [
        {},
        {"conv.weight": (3, 3, 3, 3)},
        {k: v for k, v in good.items() if k != "fusion.low.bias"},
        {**good, "fusion.low.extra": (3,)},
        {**good, first: (4, 3, 5, 5)},
        {**good, first: ()},
        {**good, "features.0.0.expand.conv.weight": (0, 0, 1, 1)},
        {**good, "classifier.logits.weight": (10**9, 10**9, 1, 1)},
    ]
    assert [FastScnn.recognise(shapes, "x") for shapes in foreign] == [None] * len(foreign)
    assert [Tiny.recognise(shapes, "x") for shapes in [*foreign, good]] == [None] * (len(foreign) + 1)


def test_tiny_is_recognised() -> None:
    for width in Tiny.knobs["width"]:
        assert Tiny.recognise(state_shapes(Tiny(4, 1, width)), "x") == {"classes": 4, "channels": 1, "width": width}


def test_shapes_cost_no_random_number_and_no_memory() -> None:
    before = torch.random.get_rng_state()
    shapes = state_shapes(FastScnn(width=8.0, classes=3))
    assert np.prod(shapes["pyramid.join.conv.weight"]) == 2 * 1024 * 1024
    assert torch.equal(before, torch.random.get_rng_state())
