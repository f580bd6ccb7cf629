"""Everything in the catalogue: it loads, keeps its contract, is described, and is where its line says."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any

import numpy as np
import pytest

from bitfront import contracts
from bitfront.catalog import CATALOG, KINDS
from bitfront.contracts import DataInfo, Device
from bitfront.errors import UsageError
from bitfront.quant.recipes import RECIPES
from bitfront.registry import load, names
from bitfront.verbs.looking import LISTED, catalogue

PROTOCOLS = {kind: getattr(contracts, kind.capitalize()) for kind in KINDS}
EVERY = pytest.mark.parametrize("line", CATALOG)
MODELS = pytest.mark.parametrize("name", names("model"))
TASKS = pytest.mark.parametrize("name", names("task"))


def is_two_stage(model: Any) -> bool:
    """Whether a network's own values decide how much it computes: sizes alone run nothing."""
    return hasattr(model, "head") and model.head.kind == "boxes"


@EVERY
def test_it_loads_and_has_the_members_of_its_contract(line: str) -> None:
    kind, _, name = line.partition("/")
    found = load(kind, name)
    contract = PROTOCOLS[kind]
    if kind == "device":
        assert isinstance(found, Device)
        return
    members = {m for m in (*vars(contract), *contract.__annotations__) if not m.startswith("_")}
    fields = {f.name for f in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else set()
    annotated = {a for c in found.__mro__ for a in getattr(c, "__annotations__", {})}
    missing = {m for m in members if not hasattr(found, m) and m not in fields | annotated}
    assert not missing
    assert found.__doc__


@EVERY
def test_it_is_called_what_its_line_says(line: str) -> None:
    kind, _, name = line.partition("/")
    found = load(kind, name)
    if kind != "dataset":
        assert found.name == name


@pytest.mark.parametrize("what", LISTED)
def test_it_is_described(what: str) -> None:
    found = catalogue(what)
    assert all(found.values())
    if LISTED[what]:
        assert set(found) == set(names(LISTED[what]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_name_is_guessed(kind: str) -> None:
    for name in names(kind):
        with pytest.raises(UsageError, match=f"unknown {kind}") as error:
            load(kind, name + "x")
        assert f"did you mean '{name}'?" in error.value.hint


def test_names_are_plain_and_sorted() -> None:
    for kind in KINDS:
        assert list(names(kind)) == sorted(names(kind))
        assert all(name.isidentifier() and name == name.lower() for name in names(kind))


def state_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    import torch

    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in model.build().state_dict().items()}


@MODELS
def test_a_model_builds_with_every_single_knob(name: str) -> None:
    import torch

    family = load("model", name)
    assert set(family.knobs) <= {f.name for f in dataclasses.fields(family)}
    height, width = (2 * family.size_multiple,) * 2 if getattr(family, "any_size", True) else family.usual_size
    default = {f.name: f.default for f in dataclasses.fields(family)}
    for knob, values in family.knobs.items():
        sizes = []
        for value in values:
            model = family(**{**default, "classes": 3, knob: value})
            with torch.device("meta"):
                module = model.build().eval()
                out = None if is_two_stage(model) else module(torch.zeros(1, model.channels, height, width))
            if out is not None and "detection" in family.tasks:
                assert out.shape[:2] == (1, 8)
            elif out is not None:
                assert out.shape == ((1, 3, height, width) if "segmentation" in family.tasks else (1, 3))
            sizes.append(sum(p.numel() for p in module.parameters()))
        assert sizes == sorted(sizes), f"{knob}: from cheap to costly"


@MODELS
def test_a_model_recognises_its_own_weights(name: str) -> None:
    family = load("model", name)
    for classes, channels in product((1, 4), (1, 3)):
        shapes = state_shapes(family(classes=classes, channels=channels))
        options = family.recognise(shapes, "weights")
        assert options is not None
        assert state_shapes(family(**options)) == shapes
        assert {new for key in shapes if (new := family.rename(key)) is not None} == set(shapes)
        first = next(iter(shapes))
        assert family.recognise({k: v for k, v in shapes.items() if k != first}, "weights") is None
        assert family.recognise({}, "weights") is None


@TASKS
def test_a_task_reads_the_channels_that_it_asks_for(name: str) -> None:
    task = load("task", name)()
    for n in (2, 3, 19):
        info = DataInfo("x", tuple(f"c{i}" for i in range(n)), background=0)
        head = contracts.Head("decoded") if name == "detection" else None
        output = task.output(task.channels(info), info, head)
        assert len(output.classes) == n - (name == "detection")
        with pytest.raises(UsageError, match="does not fit"):
            task.output(n + 7, info, head)


@TASKS
def test_a_perfect_answer_scores_one(name: str, rng: np.random.Generator) -> None:
    task = load("task", name)()
    info = DataInfo("x", ("background", "a", "b"), background=0)
    mask = rng.integers(0, 3, (16, 16)).astype(np.uint8)
    boxes = np.array([[2, 3, 9, 12]], np.float32)
    sample = contracts.Sample("s", np.zeros((16, 16, 3), np.uint8), mask, boxes, np.array([2]), label=2)
    meter = task.meter(info)
    scores = np.array([0.9], np.float32) if name == "detection" else None
    meter.add(contracts.Prediction(mask, boxes, np.array([1]), scores, label=2), sample)
    result = meter.result()
    assert result.value == 1
    assert set(result.definitions) >= set(result.values)


@pytest.mark.parametrize("name", names("runtime"))
def test_a_runtime_knows_its_recipes(name: str) -> None:
    runtime: Any = load("runtime", name)()
    assert set(runtime.recipes) <= set(RECIPES)
    assert runtime.recipes[0] == "float32" or "float32" not in runtime.recipes
    assert runtime.suffix.startswith(".")
    assert runtime.tolerance_codes >= 0


@pytest.mark.parametrize("name", names("device"))
def test_a_device_runs_known_runtimes(name: str) -> None:
    assert set(load("device", name).runtimes) <= set(names("runtime"))
