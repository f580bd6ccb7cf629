"""What every task of the catalogue keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitfront.contracts import Batch, DataInfo, Head, InputContract, OutputContract, Prediction, Sample, Task
from bitfront.errors import UsageError
from bitfront.registry import load, names

INFOS = [
    DataInfo("two", ("background", "box"), tasks=names("task"), background=0),
    DataInfo("three", ("a", "b", "c"), tasks=names("task")),
]
CASES = [(name, info) for name in names("task") for info in INFOS]
pytestmark = pytest.mark.parametrize(("name", "info"), CASES, ids=lambda v: getattr(v, "name", v))
HEADS = {"detection": Head("yolo_v5", (8, 16), (((4.0, 4.0), (8.0, 6.0)), ((12.0, 12.0),)))}
ANSWERS = {"segmentation": (0, 16, 16), "classification": (0,), "detection": (5, 9)}
"""Shape of a network's answer to an image of 16x16; to the first number comes one a channel."""
FED = InputContract(16, 16)
SIZES = [(24, 40), (17, 5)]


def samples(rng: np.random.Generator, n_classes: int) -> list[Sample]:
    """With every kind of label."""
    return [
        Sample(
            f"{i}.png",
            rng.integers(0, 256, (*size, 3), np.uint8),
            rng.integers(0, n_classes, size, np.uint8),
            np.array([[1, 1, 4, 4]], np.float32),
            np.array([1]),
            1,
        )
        for i, size in enumerate(SIZES)
    ]


def raw(task: Task, info: DataInfo, rng: np.random.Generator) -> tuple[np.ndarray, OutputContract]:
    channels = task.channels(info)
    more, *rest = ANSWERS[task.name]
    outputs = rng.normal(size=(2, channels + more, *rest)).astype(np.float32)
    return outputs, task.output(channels, info, HEADS.get(task.name))


def predictions(task: Task, info: DataInfo, rng: np.random.Generator) -> list[Prediction]:
    outputs, output = raw(task, info, rng)
    return task.predict(outputs, output, SIZES, FED)


def test_keeps_the_contract(name: str, info: DataInfo) -> None:
    task = load("task", name)()
    assert isinstance(task, Task)
    assert task.name == name
    head = HEADS.get(name)
    objects = tuple(c for i, c in enumerate(info.classes) if i != info.background or head is None)
    assert task.output(task.channels(info), info, head).classes == objects
    with pytest.raises(UsageError, match=info.name):
        task.output(97, info, head)


def test_loss_is_a_finite_scalar_with_gradients(name: str, info: DataInfo, rng: np.random.Generator) -> None:
    task = load("task", name)()
    values, output = raw(task, info, rng)
    outputs = torch.from_numpy(values).requires_grad_()
    batch = Batch(
        np.zeros((2, 3, 16, 16), np.float32),
        rng.integers(0, len(info.classes), (2, 16, 16), np.uint8),
        (np.array([[1, 1, 4, 4]], np.float32),) * 2,
        (np.array([1]),) * 2,
        np.array([0, 1]),
    )
    loss = task.loss(outputs, batch, info, output)
    loss.backward()
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert torch.isfinite(outputs.grad).all()
    assert outputs.grad.any()


def test_predicts_scores_and_draws(name: str, info: DataInfo, rng: np.random.Generator) -> None:
    task = load("task", name)()
    meter = task.meter(info)
    for prediction, sample in zip(predictions(task, info, rng), samples(rng, len(info.classes)), strict=True):
        meter.add(prediction, sample)
        drawn = task.draw(sample.image, prediction, info)
        assert (drawn.ndim, drawn.shape[2], drawn.dtype) == (3, 3, np.uint8)
        assert all(new >= old for new, old in zip(drawn.shape, sample.image.shape, strict=True))
    found = meter.result()
    assert found.n == 2
    assert found.score in found.values
    assert set(found.definitions) == set(found.values)
    assert all(v is None or 0 <= v <= 1 for v in found.values.values())
    assert found.value == found.values[found.score]
    assert found.interval[0] <= found.value <= found.interval[1]
    assert all(set(by_class) == set(raw(task, info, rng)[1].classes) for by_class in found.per_class.values())
    assert set(found.per_sample) <= {"0.png", "1.png"}
    assert task.meter(info, found.score).result().value == 0


def test_the_scorer_says_what_the_meter_says(name: str, info: DataInfo, rng: np.random.Generator) -> None:
    task = load("task", name)()
    outputs, output = raw(task, info, rng)
    known, meter = samples(rng, len(info.classes)), task.meter(info)
    for prediction, sample in zip(task.predict(outputs, output, SIZES, FED), known, strict=True):
        meter.add(prediction, sample)
    scorer = task.scorer(known, output, info, meter.result().score, FED)
    assert scorer.score(scorer.count((0, 1), outputs)) == meter.result().value


def test_unknown_scores_are_refused_with_a_guess(name: str, info: DataInfo) -> None:
    task = load("task", name)()
    with pytest.raises(UsageError, match="unknown score 'no such score'"):
        task.meter(info, "no such score")
