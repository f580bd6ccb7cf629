"""BiSeNetV2 and the DeepLabs: options, dilations, paddings, auxiliary heads, frozen parts, weights from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from train_cases import INFO, run

from bitfront.contracts import DataInfo
from bitfront.errors import DataError, UsageError
from bitfront.graph import capture
from bitfront.models import bisenet_v2, deeplab_v3_mobilenet_v3, deeplab_v3plus_mobilenet_v2
from bitfront.models.bisenet_v2 import BiSeNetV2
from bitfront.models.blocks import PooledNorm, state_shapes
from bitfront.models.deeplab_v3_mobilenet_v2 import DeepLabV3MobileNetV2
from bitfront.models.deeplab_v3_mobilenet_v3 import DeepLabV3MobileNetV3
from bitfront.models.deeplab_v3plus_mobilenet_v2 import DeepLabV3PlusMobileNetV2
from bitfront.models.mobilenet_blocks import KERAS, TORCH, Backbone, InvertedResidual6
from bitfront.models.mobilenet_keys import tensorflow_axes, tensorflow_key
from bitfront.models.mobilenet_v3_blocks import MobileNetV3Large
from bitfront.sources import Source, open_model
from bitfront.tasks.segmentation import Segmentation
from bitfront.train.checkpoints import save_checkpoint
from bitfront.train.loop import TrainOptions
from bitfront.train.optimizer import freeze, training_outputs
from bitfront.verbs.opening import untrained
from bitfront.weights import recognise

TF, PLUS, V3 = DeepLabV3MobileNetV2, DeepLabV3PlusMobileNetV2, DeepLabV3MobileNetV3
FAMILIES = pytest.mark.parametrize("family", [BiSeNetV2, TF, PLUS, V3])
SMALL: Mapping[Any, dict[str, Any]] = {
    BiSeNetV2: {"width": 0.125, "head_width": 0.125, "expansion": 2},
    TF: {"width": 0.35, "head_width": 0.25, "expansion": 2},
    PLUS: {"width": 0.35, "head_width": 0.25, "expansion": 2},
    V3: {"width": 0.35, "head_width": 0.25},
}
LAYERS = {
    BiSeNetV2: bisenet_v2.LAYERS,
    PLUS: deeplab_v3plus_mobilenet_v2.LAYERS,
    V3: deeplab_v3_mobilenet_v3.LAYERS,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def small(family: Any, **options: Any) -> Any:
    return family(classes=options.pop("classes", 1), **{**SMALL[family], **options})


def built(model: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.build().eval()


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in module.state_dict().items()}


# --- options ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        (BiSeNetV2, {"classes": 0}, "bisenet_v2: classes must be at least 1, not 0"),
        (BiSeNetV2, {"width": 0.1}, "bisenet_v2: width must be at least 1/8"),
        (TF, {"output_stride": 4}, "deeplab_v3_mobilenet_v2: output_stride must be 8, 16 or 32, not 4"),
        (PLUS, {"head_width": 9}, "head_width must lie between 1/32 and 8"),
        (V3, {"repeats": 0}, "repeats must be at least 1"),
    ],
)
def test_wrong_options(family: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        family(**options)


@FAMILIES
@pytest.mark.parametrize("odd", [{"width": 0.63}, {"head_width": 0.3}, {"repeats": 1}, {"channels": 1, "classes": 5}])
def test_odd_options_are_recognised(family: Any, odd: dict[str, Any]) -> None:
    shapes = state_shapes(small(family, **odd))
    options = family.recognise(shapes, "best_os8")
    assert state_shapes(family(**options)) == shapes
    assert options.get("output_stride", 8) == 8


# --- computing -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("output_stride", "wanted"),
    [(32, {}), (16, {14: 2, 15: 2, 16: 2}), (8, {7: 2, 8: 2, 9: 2, 10: 2, 11: 2, 12: 2, 13: 2, 14: 4, 15: 4, 16: 4})],
)
def test_strides_become_dilations_behind_them(output_stride: int, wanted: dict[int, int]) -> None:
    with torch.device("meta"):
        net = Backbone(3, 1.0, 6, output_stride=output_stride).eval()
    found = {i: b.depthwise.conv.dilation[0] for i, b in enumerate(net.blocks) if b.depthwise.conv.dilation[0] > 1}
    assert found == wanted
    assert net(torch.zeros(1, 3, 64, 96, device="meta")).shape[2:] == (64 // output_stride, 96 // output_stride)


@pytest.mark.parametrize(("output_stride", "wanted"), [(32, {}), (16, {12: 2, 13: 2, 14: 2})])
def test_dilations_of_mobilenet_v3(output_stride: int, wanted: dict[int, int]) -> None:
    with torch.device("meta"):
        net = MobileNetV3Large(3, 1.0, output_stride=output_stride).eval()
    found = {i: b.depthwise.conv.dilation[0] for i, b in enumerate(net.blocks) if b.depthwise.conv.dilation[0] > 1}
    assert found == wanted
    assert net(torch.zeros(1, 3, 64, 96, device="meta")).shape[1:] == (960, 64 // output_stride, 96 // output_stride)


def test_where_zeros_are_padded(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(1, 2, 6, 6)).astype(np.float32))
    blocks = {}
    for padding in ("end", "even", "input"):
        block = InvertedResidual6(2, 3, 2, 2, rules=TORCH._replace(padding=padding)).eval()
        if blocks:
            block.load_state_dict(next(iter(blocks.values())).state_dict())
        nn.init.ones_(block.expand.bn.bias)  # what is padded before it is not zero behind it
        blocks[padding] = block
    first = blocks["end"]
    norm = lambda y, bn: F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)  # noqa: E731

    def by_hand(wide_pads: tuple[int, ...], input_pads: tuple[int, ...]) -> torch.Tensor:
        wide = F.relu6(norm(F.conv2d(F.pad(x, input_pads), first.expand.conv.weight), first.expand.bn))
        deep = F.conv2d(F.pad(wide, wide_pads), first.depthwise.conv.weight, stride=2, groups=4)
        deep = F.relu6(norm(deep, first.depthwise.bn))
        return norm(F.conv2d(deep, first.project.conv.weight), first.project.bn)

    none, even = (0, 0, 0, 0), (1, 1, 1, 1)
    with torch.no_grad():
        for padding, pads in {"end": ((0, 1, 0, 1), none), "even": (even, none), "input": (none, even)}.items():
            torch.testing.assert_close(blocks[padding](x), by_hand(*pads))
    assert (KERAS.padding, KERAS.epsilon) == ("end", 1e-3)


def test_a_batch_of_one_has_no_variance(rng: np.random.Generator) -> None:
    norm = PooledNorm(3).train()
    x = torch.from_numpy(rng.normal(size=(2, 3, 1, 1)).astype(np.float32))
    assert torch.allclose(norm(x).mean(0), torch.zeros(3, 1, 1), atol=1e-6)
    assert torch.equal(norm(x[:1]), norm.eval()(x[:1]))
    for family in (BiSeNetV2, TF):
        assert torch.isfinite(small(family).build().train()(torch.zeros(1, 3, 64, 64))).all()


# --- auxiliary heads -------------------------------------------------------------------------------------------------
def test_every_auxiliary_head_has_its_loss_and_none_is_exported(tmp_path: Path) -> None:
    module = built(small(BiSeNetV2))
    outputs = training_outputs(module, torch.zeros(2, 3, 64, 96))
    assert [tuple(x.shape) for x in outputs] == [(2, 1, 64, 96)] * 5
    assert len(training_outputs(built(small(BiSeNetV2, auxiliary=False)), torch.zeros(1, 3, 32, 32))) == 1
    before = {name: p.clone() for name, p in module.named_parameters()}
    run(tmp_path, TrainOptions(epochs=1, batch_size=4), module=module, n=4)
    assert all(
        not torch.equal(p, before[name]) for name, p in module.named_parameters() if name.endswith("conv.weight")
    )
    graph = capture.from_module(module, (1, 3, 32, 32))
    assert not any(name.startswith("auxiliary") for name in graph.tensors)


# --- frozen parts ----------------------------------------------------------------------------------------------------
@FAMILIES
def test_the_feature_extractor_can_be_frozen(family: Any) -> None:
    module = built(small(family)).train()
    parts = {name.split(".")[0] for name, _ in module.named_parameters()}
    frozen = {"detail", "semantic"} if family is BiSeNetV2 else {"backbone"}
    freeze(module, ("backbone",)).eval()
    assert {name.split(".")[0] for name, p in module.named_parameters() if p.requires_grad} == parts - frozen
    assert not any(m.training for m in module.get_submodule(min(frozen)).modules() if isinstance(m, nn.BatchNorm2d))
    freeze(module, ("head" if family in (BiSeNetV2, V3) else "pyramid",))
    assert all(p.requires_grad for p in module.get_submodule(min(frozen)).parameters())


# --- weights from elsewhere ------------------------------------------------------------------------------------------
KEYS = {
    BiSeNetV2: {
        "detail.S2.2.conv.weight": (64, 64, 3, 3),
        "segment.S1S2.fuse.conv.weight": (16, 32, 3, 3),
        "segment.S5_4.0.dwconv2.0.weight": (384, 1, 3, 3),
        "semantic.S3.1.dwconv.1.running_mean": (192,),
        "segment.S5_4.0.shortcut.2.weight": (128, 64, 1, 1),
        "segment.S5_5.bn.bias": (128,),
        "segment.S5_5.conv_gap.conv.weight": (128, 128, 1, 1),
        "bga.right2.2.weight": (128, 128, 1, 1),
        "bga.left2.0.weight": (128, 128, 3, 3),
        "head.conv_out.1.bias": (1,),
        "aux4.conv_out.0.1.conv.weight": (256, 128, 3, 3),
    },
    PLUS: {
        "backbone.low_level_features.1.conv.1.weight": (16, 32, 1, 1),
        "backbone.high_level_features.17.conv.2.weight": (320, 960, 1, 1),
        "features.17.conv.1.0.weight": (960, 1, 3, 3),
        "classifier.project.0.weight": (48, 24, 1, 1),
        "classifier.aspp.convs.4.1.weight": (256, 320, 1, 1),
        "classifier.aspp.convs.3.0.weight": (256, 320, 3, 3),
        "classifier.classifier.3.weight": (21, 256, 1, 1),
    },
    V3: {
        "backbone.0.0.weight": (16, 3, 3, 3),
        "backbone.1.block.1.0.weight": (16, 16, 1, 1),
        "backbone.4.block.2.fc1.weight": (24, 72, 1, 1),
        "features.7.block.1.1.running_var": (240,),
        "backbone.16.0.weight": (960, 160, 1, 1),
        "classifier.0.convs.0.0.weight": (256, 960, 1, 1),
        "classifier.0.convs.4.2.weight": (256,),
        "classifier.0.project.0.weight": (256, 1280, 1, 1),
        "classifier.4.bias": (1,),
    },
    TF: {
        "MobilenetV2/Conv/weights": (32, 3, 3, 3),
        "MobilenetV2/expanded_conv/depthwise/depthwise_weights": (32, 1, 3, 3),
        "MobilenetV2/expanded_conv_16/project/weights": (320, 960, 1, 1),
        "MobilenetV2/expanded_conv_3/expand/BatchNorm/moving_variance": (144,),
        "image_pooling/BatchNorm/gamma": (256,),
        "concat_projection/weights": (256, 512, 1, 1),
        "logits/semantic/biases": (21,),
    },
}


@FAMILIES
def test_published_names(family: Any) -> None:
    shapes = state_shapes(family())
    assert {key: shapes[family.rename(key)] for key in KEYS[family]} == KEYS[family]
    for other in ("aux_classifier.0.weight", "classifier.9.weight", "global_step", "MobilenetV2/Conv/weights/Momentum"):
        assert family.rename(other) is None


def foreign(family: Any, module: nn.Module, prefixes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A state under the published names that begin so."""
    theirs = {ours: layer for layer, ours in LAYERS[family].items() if layer.startswith(prefixes)}
    found = {}
    for key, value in arrays(module).items():
        layer, _, leaf = key.rpartition(".")
        if layer in theirs:
            found[f"{theirs[layer]}.{leaf}"] = value
    return found


@pytest.mark.parametrize(
    ("family", "prefixes"),
    [
        (BiSeNetV2, ("detail.S", "segment.", "bga.", "head.conv_out.1", "aux")),
        (PLUS, ("backbone.", "classifier.")),
        (V3, ("backbone.", "classifier.")),
    ],
)
def test_a_whole_published_state_is_recognised_and_loaded(
    family: Any, prefixes: tuple[str, ...], tmp_path: Path
) -> None:
    more = {"pads_input": True} if family is PLUS else {}
    module = built(small(family, classes=3, **more), seed=1)
    state = foreign(family, module, prefixes)
    state |= {k: v for k, v in arrays(module).items() if k.startswith("head.conv.") and family is BiSeNetV2}
    path = tmp_path / "published.safetensors"
    save_checkpoint(path, {f"module.{key}": value for key, value in state.items()}, {})
    options = recognise(path).options
    assert {**SMALL[family], **more, "classes": 3}.items() <= options.items()
    source = open_model(str(path), task=Segmentation(), info=DataInfo("x", ("a", "b", "c")))
    with torch.no_grad():
        x = torch.linspace(-1, 1, 3 * 64 * 32).reshape(1, 3, 64, 32)
        assert torch.equal(source.build().eval()(x), module(x))


def tensorflow(module: nn.Module) -> dict[str, np.ndarray]:
    """A state under TensorFlow's names, with its order of axes."""
    leaves = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    found = {"global_step": np.zeros((), np.int64)}
    state = arrays(module)
    scopes = {"backbone.stem": "MobilenetV2/Conv", "pyramid.local": "aspp0", "pyramid.pooling": "image_pooling"}
    scopes |= {"pyramid.join": "concat_projection"}
    for i in range(17):
        for part in ("expand", "depthwise", "project"):
            scopes[f"backbone.blocks.{i}.{part}"] = f"MobilenetV2/expanded_conv{f'_{i}' if i else ''}/{part}"
    for ours, theirs in scopes.items():
        if f"{ours}.conv.weight" not in state:
            continue
        deep = ours.endswith("depthwise")
        axes = (2, 3, 0, 1) if deep else (2, 3, 1, 0)
        found[f"{theirs}/{'depthwise_' if deep else ''}weights"] = state[f"{ours}.conv.weight"].transpose(axes)
        found |= {f"{theirs}/BatchNorm/{t}": state[f"{ours}.bn.{o}"] for t, o in leaves.items()}
    found["logits/semantic/weights"] = state["logits.weight"].transpose(2, 3, 1, 0)
    found["logits/semantic/biases"] = state["logits.bias"]
    return found


def test_tensorflows_variables_are_recognised_and_turned(tmp_path: Path) -> None:
    module = built(small(TF, classes=3), seed=1)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, tensorflow(module), {})
    source = open_model(str(path), task=Segmentation(), info=DataInfo("x", ("a", "b", "c")))
    assert (source.name, source.options["width"], source.options["expansion"]) == (TF.name, 0.35, 2)
    loaded = source.build().state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in module.state_dict().items())
    assert tensorflow_axes("logits/semantic/biases") is None
    assert tensorflow_key("MobilenetV2/expanded_conv_2/expand/BatchNorm/other") is None


def opened(family: Any, path: Path, **settings: Any) -> Source:
    settings = {**SMALL[family], **settings}
    return open_model(family.name, task=Segmentation(), info=INFO, settings=settings, weights=path)


@pytest.mark.parametrize(("family", "prefix"), [(V3, "features."), (PLUS, "features.")])
def test_a_backbone_alone_is_loaded_where_it_fits(family: Any, prefix: str, tmp_path: Path) -> None:
    module, path = built(small(family), seed=1), tmp_path / "mobilenet.safetensors"
    save_checkpoint(path, {**foreign(family, module, (prefix,)), "classifier.1.weight": np.zeros((7, 8))}, {})
    source = opened(family, path)
    assert source.notes == ("the feature extractor starts from mobilenet.safetensors, the rest from scratch",)
    assert untrained(source)
    found, fresh = source.build().state_dict(), built(small(family), seed=2).state_dict()
    for key, value in module.state_dict().items():
        same = torch.equal(found[key], value)
        assert same or not key.startswith("backbone."), key
        assert not same or not key.endswith("conv.weight") or key.startswith("backbone."), key
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in fresh.items()}
    assert source.backbone_for({"head_width": 1.0}) is not None
    assert source.backbone_for({"width": 0.5}) is None
    assert opened(family, path, width=0.5).notes == ()


def test_branches_of_bisenet_kept_part_by_part(tmp_path: Path) -> None:
    module, path = built(small(BiSeNetV2), seed=1), tmp_path / "backbone_v2.pth"
    parts: dict[str, dict[str, torch.Tensor]] = {"detail": {}, "segment": {}}
    for key, value in foreign(BiSeNetV2, module, ("detail.S", "segment.")).items():
        part, _, rest = key.partition(".")
        parts[part][rest] = torch.from_numpy(value)
    torch.save(parts, path)
    found = opened(BiSeNetV2, path).build().state_dict()
    assert all(torch.equal(found[k], v) for k, v in module.state_dict().items() if k.startswith(("detail", "semantic")))


def test_own_weights_of_other_classes_lend_their_backbone(tmp_path: Path) -> None:
    module, path = built(small(TF, classes=7), seed=1), tmp_path / "street.safetensors"
    save_checkpoint(path, module, {"model": TF.name, "options": {"classes": 7, **SMALL[TF]}})
    source = opened(TF, path)
    assert source.weights_for({}, (64, 64)) is None
    assert torch.equal(source.build().backbone.stem.conv.weight, module.backbone.stem.conv.weight)
    with pytest.raises(DataError, match="holds no checkpoint of deeplab_v3plus_mobilenet_v2"):
        opened(PLUS, path)
