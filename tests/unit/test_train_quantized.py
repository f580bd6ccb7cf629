"""Training a captured graph under a plan, and plans as files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from train_cases import CONTRACT, INFO, run, squares

from bitfront import batches
from bitfront.errors import DataError, UsageError
from bitfront.graph import capture, passes
from bitfront.graph.ir import Graph
from bitfront.models.tiny import Tiny
from bitfront.quant import plan_files
from bitfront.quant.formats import Affine, Float16, Float32, Qmn
from bitfront.quant.plan import Plan
from bitfront.simulate import reference
from bitfront.tasks.segmentation import Segmentation
from bitfront.train.loop import TrainOptions
from bitfront.train.quantized import Quantized, train_under_plan

OPTIONS = TrainOptions(epochs=3, batch_size=4, rate=5e-3, device="cpu", augment="none")
TASK = Segmentation(bootstrap=0)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small only lose time to threads."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The tiny net after a short float training."""
    torch.manual_seed(0)
    module = Tiny(classes=1).build()
    options = TrainOptions(epochs=12, batch_size=4, rate=1e-2, device="cpu", augment="none")
    run(tmp_path_factory.mktemp("float"), options, module=module, n=24)
    return passes.prepare(capture.from_module(module.eval(), (1, 3, 32, 32)))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.concatenate([b.images for b, _ in batches.evaluation(squares(4, 2), CONTRACT, 4)])


def covering(graph: Graph, images: np.ndarray, bits: int) -> Plan:
    seen = {**reference.run(graph, images, keep="*"), **graph.constants}
    kinds = {name: graph.tensors[name].kind for name in seen}
    return Plan(
        "search",
        {
            name: Qmn(bits, int(np.floor(np.log2((2.0 ** (bits - 1) - 1) / (np.abs(value).max() or 1)))))
            for name, value in seen.items()
            if kinds[name] in ("weight", "input", "activation")
        },
    )


def trained(graph: Graph, plan: Plan | Path, folder: Path, **options: object) -> Quantized:
    given = (TASK, INFO, squares(12, 1), squares(4, 2), CONTRACT, OPTIONS, folder, 0)
    return train_under_plan(graph, plan, *given, **options)  # type: ignore[arg-type]


def score(graph: Graph, plan: Plan, images: np.ndarray) -> float:
    """Foreground IoU of the integer reference on the validation squares."""
    name = graph.outputs[0]
    logits = reference.values(graph, plan, name, reference.run(graph, images, plan)[name])
    truth = np.stack([s.mask for s in squares(4, 2)]) > 0  # type: ignore[type-var]
    found = logits[:, 0] > 0
    return float((found & truth).sum() / (found | truth).sum())


def test_the_score_of_training_is_the_references(graph: Graph, images: np.ndarray, tmp_path: Path) -> None:
    plan = covering(graph, images, 4)
    plan_files.save(tmp_path / "candidate.json", plan)
    done = trained(graph, tmp_path / "candidate.json", tmp_path / "run")
    assert done.plan.formats == plan.formats
    assert score(done.graph, done.plan, images) > score(graph, plan, images)
    meter = TASK.meter(INFO, "")
    for batch, samples in batches.evaluation(squares(4, 2), CONTRACT, 4):
        name = graph.outputs[0]
        codes = reference.run(done.graph, batch.images, done.plan)[name]
        logits = reference.values(done.graph, done.plan, name, codes)
        sizes = [s.image.shape[:2] for s in samples]
        for prediction, sample in zip(TASK.predict(logits, TASK.output(1, INFO), sizes), samples, strict=True):
            meter.add(prediction, sample)
    assert meter.result().value == done.trained.best_score


def test_learned_steps_come_with_the_plan(graph: Graph, images: np.ndarray, tmp_path: Path) -> None:
    plan = covering(graph, images, 4)
    done = trained(graph, plan, tmp_path, learn_ranges=0.4)
    assert plan_files.load(tmp_path / "plan.json", done.graph).formats == done.plan.formats
    assert {n: f.bits for n, f in done.plan.formats.items()} == {n: f.bits for n, f in plan.formats.items()}


@pytest.mark.parametrize("live_norm", [None, 0.7])
def test_resumed_and_whole_trainings_agree(
    graph: Graph, images: np.ndarray, tmp_path: Path, live_norm: float | None
) -> None:
    plan, shares = covering(graph, images, 6), {"learn_ranges": 0.0, "live_norm": live_norm}
    whole = trained(graph, plan, tmp_path / "whole", **shares)
    with pytest.raises(KeyboardInterrupt, match="now"):
        trained(graph, plan, tmp_path / "cut", **shares, on_epoch=interrupt)
    resumed = trained(graph, plan, tmp_path / "cut", **shares)
    for name, value in whole.graph.constants.items():
        np.testing.assert_array_equal(resumed.graph.constants[name], value)
    other = trained(graph, covering(graph, images, 7), tmp_path / "cut", learn_ranges=0.0)
    assert other.plan.formats != resumed.plan.formats  # another plan is another training


def interrupt(epoch: object) -> None:
    raise KeyboardInterrupt("now")


def test_a_graph_without_plan_is_fine_tuned(graph: Graph, images: np.ndarray, tmp_path: Path) -> None:
    done = trained(graph, Plan("float32"), tmp_path)
    assert done.trained.epochs[-1].loss < done.trained.epochs[0].loss
    assert score(done.graph, done.plan, images) > 0.7
    assert not done.plan.formats


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_out_of_range(graph: Graph, tmp_path: Path, share: float) -> None:
    with pytest.raises(UsageError, match="learn_ranges is"):
        trained(graph, Plan("float32"), tmp_path, learn_ranges=share)
    with pytest.raises(UsageError, match="live_norm is"):
        trained(graph, Plan("float32"), tmp_path, live_norm=1.5 * share)


# --- plan files ------------------------------------------------------------------------------------------------------
def test_plans_come_back_from_files(tmp_path: Path) -> None:
    affine = Affine(8, (0.1, 2.0**-9), (3, -4), False, 0, True)
    forms = {"a": affine, "b.c": Qmn(3, -2, False), "d": Float16(), "e": Float32()}
    plan = Plan("search", forms, {"rounding": "half_up", "share": 0.5, "n": 3, "yes": True})
    plan_files.save(tmp_path / "plan.json", plan)
    again = plan_files.load(tmp_path / "plan.json")
    assert (again.recipe, again.formats, again.options) == (plan.recipe, forms, plan.options)
    assert again.id == plan.id


HEAD = '{"schema": 1, "recipe": "x", "options": {}, "formats": '


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "3", "{}", "\x00", '{"schema": 1}', '{"schema": "1"}'),
        *(HEAD + end for end in ('{"a": ["Qmn", {}]}}', '{"a": ["os", {}]}}', '{"a": 1}}', "[]}")),
        HEAD + '{"a": ["Qmn", {"bits": 99, "frac_bits": 1}]}}',
    ],
)
def test_damaged_plans(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"plan\.json is no"):
        plan_files.load(path)


def test_plans_that_do_not_fit(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(UsageError, match="cannot read"):
        plan_files.load(path)
    plan_files.save(path, Plan("p", {"nothing": Qmn(8, 1)}))
    with pytest.raises(UsageError, match="'nothing', which the network does not have"):
        plan_files.load(path, graph)
    weight = next(graph.named("weight"))
    plan_files.save(path, Plan("p", {weight.name: Affine(8, (1.0,) * 99, axis=0)}))
    with pytest.raises(UsageError, match="99 scales"):
        plan_files.load(path, graph)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "schema": 2}))
    with pytest.raises(UsageError, match="newer bitfront"):
        plan_files.load(path)
