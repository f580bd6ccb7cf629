"""What every model of the catalogue keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from bitfront.contracts import Batch, Model
from bitfront.errors import DataError, UsageError
from bitfront.graph import capture, passes
from bitfront.registry import load, names
from bitfront.simulate import reference
from bitfront.train.optimizer import backbone_prefixes, freeze

MODELS = names("model")
MAPS = [name for name in MODELS if "segmentation" in load("model", name).tasks]
DETECTORS = [name for name in MODELS if "detection" in load("model", name).tasks]
ONE_STAGE = [name for name in DETECTORS if load("model", name)().head.kind != "boxes"]
TWO_STAGE = [name for name in DETECTORS if name not in ONE_STAGE]
SIZES = ("yolo_v5s", "yolo_v5m", "yolo_v5l")
"""Of one family, of which one is captured."""
NUMBERS = {"yolo_v5": 5, "yolo_v2": 5, "ssd": 5}
"""Numbers of a place besides those of the objects' classes."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only lose time to threads."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def smallest(name: str, **options: Any) -> Any:
    """The cheapest network of a family."""
    family = load("model", name)
    return family(**{knob: values[0] for knob, values in family.knobs.items()}, **options)


def shapes(model: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {k: tuple(v.shape) for k, v in model.build().state_dict().items()}


@cache
def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    return shapes(smallest(name))


def places(model: Any, height: int, width: int) -> int:
    """How many places a detector's head has at a size."""
    levels = zip(model.head.strides, model.head.anchors, strict=True)
    return sum(-(-height // stride) * -(-width // stride) * len(anchors) for stride, anchors in levels)


def built(model: Any, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.build()


@pytest.mark.parametrize("name", MODELS)
class TestEveryModel:
    def test_is_a_frozen_dataclass_that_keeps_the_contract(self, name: str) -> None:
        family = load("model", name)
        model = family()
        assert isinstance(model, Model)
        assert model.name == name
        assert set(family.tasks) <= set(names("task"))
        with pytest.raises(dataclasses.FrozenInstanceError, match="classes"):
            model.classes = 3
        assert hash(model) == hash(family())

    def test_knobs_are_options_from_cheap_to_costly(self, name: str) -> None:
        family = load("model", name)
        assert set(family.knobs) <= {f.name for f in dataclasses.fields(family)}
        for knob, values in family.knobs.items():
            sizes = [sum(map(np.prod, shapes(family(**{knob: v})).values())) for v in values]
            assert sizes == sorted(sizes), knob

    def test_weights_come_from_torchs_generator(self, name: str) -> None:
        a, b, c = (built(smallest(name), seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(a[k], b[k]) for k in a)
        assert any(not torch.equal(a[k], c[k]) for k in a)

    def test_recognises_its_own_weights_and_nothing_else(self, name: str) -> None:
        family = load("model", name)
        for classes, channels in ((1, 3), (5, 1)):
            model = smallest(name, classes=classes, channels=channels)
            options = family.recognise(shapes(model), "best")
            assert (options["classes"], options["channels"]) == (classes, channels)
            assert shapes(family(**options)) == shapes(model)
        assert family.recognise({}, "best") is None
        assert family.recognise({"weight": (1, 2)}, "best") is None
        for other in MODELS:
            if other != name:
                assert family.recognise(shapes_of(other), "best") is None
        assert all(family.rename(key) == key for key in shapes_of(name))


@pytest.mark.parametrize("name", MAPS)
class TestEveryMapModel:
    @pytest.mark.parametrize(("high", "wide"), [(1, 1), (3, 2), (5, 4)])
    def test_logits_have_the_size_of_the_image(self, name: str, high: int, wide: int) -> None:
        model = smallest(name, classes=4, channels=1)
        size = (high * model.size_multiple, wide * model.size_multiple)
        with torch.no_grad():
            assert built(model).eval()(torch.zeros(2, 1, *size)).shape == (2, 4, *size)

    def test_other_sizes_are_refused_in_one_line(self, name: str) -> None:
        model = smallest(name)
        n = model.size_multiple
        with pytest.raises(UsageError, match=f"multiples of {n}"):
            built(model)(torch.zeros(1, 3, n, n + 1))

    def test_trains(self, name: str) -> None:
        module, n = built(smallest(name)), 2 * load("model", name).size_multiple
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module.train()(torch.randn(2, 3, n, n)).square().mean().backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in module.parameters())

    def test_its_feature_extractor_can_be_frozen(self, name: str) -> None:
        module = built(smallest(name))
        prefixes = backbone_prefixes(module)
        freeze(module, ("backbone",))
        trained = {key: p.requires_grad for key, p in module.named_parameters()}
        assert trained == {key: not key.startswith(prefixes) for key in trained}
        assert all(any(key.startswith(prefix) for key in trained) for prefix in prefixes)

    def test_every_training_output_has_the_size_of_the_image(self, name: str) -> None:
        module, n = built(smallest(name, classes=4)), load("model", name).size_multiple
        with torch.no_grad():
            several = getattr(module.eval(), "training_outputs", lambda x: (module(x),))
            first, *rest = several(torch.zeros(2, 3, n, 2 * n))
            assert torch.equal(first, module(torch.zeros(2, 3, n, 2 * n)))
        assert all(outputs.shape == first.shape for outputs in rest)
        assert bool(rest) == bool(getattr(module, "training_only", ()))

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_is_captured_as_it_computes(self, name: str, rng: np.random.Generator) -> None:
        """The graph computes what the module computes, at a size that is no power of two."""
        family = load("model", name)
        model = family(**{knob: v[-1] if v[-1] is True else v[0] for knob, v in family.knobs.items()})
        size = (3 * model.size_multiple, 5 * model.size_multiple)
        module, x = built(model).eval(), rng.normal(size=(1, 3, *size)).astype(np.float32)
        graph = capture.from_module(module, (1, 3, *size))
        with torch.no_grad():
            expected = module(torch.from_numpy(x)).numpy()
        assert not any(name.startswith(key) for name in graph.tensors for key in getattr(module, "training_only", ()))
        assert np.abs(reference.run(graph, x)[graph.outputs[0]] - expected).max() < 1e-5


@pytest.mark.parametrize("name", DETECTORS)
class TestEveryDetector:
    def test_is_fed_and_read_as_it_says(self, name: str) -> None:
        family = load("model", name)
        model = family()
        assert getattr(family, "usual_fit", "stretch") in ("letterbox", "stretch")
        assert all(side % family.size_multiple == 0 for side in family.usual_size)
        assert model.head.kind in (*NUMBERS, "boxes")
        assert hash(model.head) == hash(family(classes=3).head)
        assert len(model.head.strides) == len(model.head.anchors)
        assert list(model.head.strides) == sorted(model.head.strides)

    def test_other_sizes_are_refused_in_one_line(self, name: str) -> None:
        n = load("model", name).size_multiple
        with torch.device("meta"):
            module = smallest(name).build()
        with pytest.raises(UsageError, match=f"multiples of {n}"):
            module(torch.zeros(1, 3, n, n + 1, device="meta"))

    def test_its_feature_extractor_can_be_frozen_and_lent(self, name: str) -> None:
        family, model = load("model", name), smallest(name, classes=4)
        with torch.device("meta"):
            module = model.build()
        prefixes = backbone_prefixes(module)
        freeze(module, ("backbone",))
        trained = {key: p.requires_grad for key, p in module.named_parameters()}
        assert trained == {key: not key.startswith(prefixes) for key in trained}
        options = family.recognise_backbone({k: s for k, s in shapes(model).items() if k.startswith(prefixes)})
        assert options.items() <= dataclasses.asdict(model).items()
        assert "classes" not in options


@pytest.mark.parametrize("name", ONE_STAGE)
class TestEveryOneStageDetector:
    def test_a_number_of_every_place(self, name: str) -> None:
        """Training and evaluation compute the same thing, in the order that the head says."""
        model = smallest(name, classes=4, channels=1)
        size = (3 * model.size_multiple, 5 * model.size_multiple)
        with torch.device("meta"):
            module = model.build()
        for mode in (True, False):
            out = module.train(mode)(torch.zeros(2, 1, *size, device="meta"))
            assert out.shape == (2, NUMBERS[model.head.kind] + 4, places(model, *size))

    def test_trains(self, name: str) -> None:
        module, n = built(smallest(name, classes=2)), 2 * load("model", name).size_multiple
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module.train()(torch.randn(2, 3, n, n)).square().mean().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())

    def test_is_captured_as_it_computes(self, name: str, rng: np.random.Generator) -> None:
        """The graph computes what the module computes, at a size that is no power of two."""
        if name in SIZES:
            return
        model = smallest(name, classes=2)
        size = (3 * model.size_multiple, 5 * model.size_multiple)
        module, x = built(model).eval(), rng.normal(size=(1, 3, *size)).astype(np.float32)
        graph = passes.prepare(capture.from_module(module, (1, 3, *size)))
        with torch.no_grad():
            expected = module(torch.from_numpy(x)).numpy()
        assert np.abs(reference.run(graph, x)[graph.outputs[0]] - expected).max() < 1e-4
        assert not {"sigmoid", "mul", "batch_norm", "clip"} & {node.op for node in graph.nodes}


@pytest.mark.parametrize("name", TWO_STAGE)
class TestEveryTwoStageDetector:
    def test_boxes_inside_the_image_the_best_first(self, name: str) -> None:
        model = smallest(name, classes=2, channels=1)
        n = model.size_multiple
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = built(model).eval()(torch.randn(2, 1, 2 * n, 3 * n))
        assert found.shape[:2] == (2, 6)
        x1, y1, x2, y2, score, label = found.unbind(1)
        assert (score.diff() <= 0).all()
        assert (x1 >= 0).all()
        assert (y1 >= 0).all()
        assert (x2 <= 3 * n).all()
        assert (y2 <= 2 * n).all()
        assert set(label.unique().tolist()) <= {0.0, 1.0}
        assert not found.transpose(1, 2)[score == 0].any()

    def test_it_has_a_loss_of_its_own_and_no_graph(self, name: str) -> None:
        model = smallest(name, classes=2)
        n = 2 * model.size_multiple
        module, boxes = built(model), np.array([[8, 8, 40, 40]], np.float32)
        images = torch.zeros(2, 3, n, n)
        batch = Batch(images.numpy(), boxes=(boxes, boxes[:0]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss = module.training_loss(images, batch, (np.array([1]), np.zeros(0, np.int64)))
        loss.backward()
        assert loss.ndim == 0
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
        with pytest.raises(DataError, match=f"{name} has no graph"):
            capture.from_module(module, (1, 3, n, n))
