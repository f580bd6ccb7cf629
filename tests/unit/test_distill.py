"""Distillation: its formulas by definition, its masks, and a training that has a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_cases import CONTRACT, INFO, squares

import bitfront
from bitfront import cli
from bitfront.contracts import Batch, DataInfo, Head, InputContract, OutputContract, Sample
from bitfront.errors import BitfrontError, UsageError
from bitfront.fitting.config import Config
from bitfront.fitting.request import open_request
from bitfront.fitting.shop import Shop
from bitfront.fitting.space import Architecture
from bitfront.fitting.training import train_architecture
from bitfront.graph import capture, passes
from bitfront.graph.module import GraphModule
from bitfront.images import png
from bitfront.models.ssd_mobilenet import SsdMobileNetV1
from bitfront.models.tiny import Tiny
from bitfront.models.yolo_v5 import YoloV5m, YoloV5n
from bitfront.registry import load
from bitfront.rundb import RunDb
from bitfront.tasks.detection import Detection
from bitfront.tasks.segmentation import Segmentation
from bitfront.train.checkpoints import load_checkpoint, read_header
from bitfront.train.distill import Distiller
from bitfront.train.distill_options import DISTILL_PRESETS, THESIS_ANCHORS, DistillOptions
from bitfront.train.imitation import adapter, anchor_mask, imitation_loss, watching
from bitfront.train.loop import TrainOptions, train
from bitfront.train.optimizer import training_loss
from bitfront.train.soft_targets import detector_loss, temperature_loss
from bitfront.train.state import arrays_of
from bitfront.verbs.opening import open_both
from bitfront.verbs.teaching import Teacher, distilling

HEAD = Head("yolo_v5", (8, 16), (((10.0, 13.0), (16.0, 30.0)), ((30.0, 61.0), (62.0, 45.0))))
LEVELS = ((4, 8), (2, 4))
"""Rows and columns of both at 32x64."""
SIZE = (32, 64)
N = sum(r * c * 2 for r, c in LEVELS)
FEATURES = DistillOptions("features", imitate_after=0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    n, before = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)
    assert torch.equal(before, torch.random.get_rng_state())


def fresh(family: Any, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: torch.nn.Module = family.build()
        return module


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# --- outputs ---------------------------------------------------------------------------------------------------------
def raw(rng: np.random.Generator, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    return tuple(rng.normal(0, 2, (2, 5 + classes, N)) for _ in range(2))


def loss_of(z: np.ndarray, t: np.ndarray, options: DistillOptions | None = None) -> float:
    return float(detector_loss(torch.from_numpy(z), torch.from_numpy(t), HEAD, SIZE, options or DistillOptions()))


def by_hand(
    z: np.ndarray, t: np.ndarray, gains: tuple[float, ...], scale: np.ndarray, of_objects: np.ndarray, decoded: bool
) -> float:
    """The formula level by level, number by number."""
    total, start = 0.0, 0
    for rows, columns in LEVELS:
        sums, counts = [0.0, 0.0, 0.0], [0, 0, 0]
        for b in range(len(z)):
            for i in range(start, start + rows * columns * 2):
                for k in range(z.shape[1]):
                    term = 0 if k < 4 else 1 if k == 4 else 2
                    own, its = z[b, k, i], t[b, k, i]
                    if decoded and k < 4:
                        own, its = ((2 * sigmoid(v)) ** (1 if k < 2 else 2) for v in (own, its))
                    weight = of_objects[b, i] if term == 1 else scale[b, i]
                    sums[term] += (own - its) ** 2 * weight
                    counts[term] += 1
        total += sum(g * s / c for g, s, c in zip(gains, sums, counts, strict=True) if c)
        start += rows * columns * 2
    return len(z) * total


@pytest.mark.parametrize("classes", [3, 0])
def test_objectness_scaled_loss_is_the_formula(rng: np.random.Generator, classes: int) -> None:
    z, t = raw(rng, classes)
    scale, ones = sigmoid(t[:, 4]), np.ones((2, N))
    gains = (0.05, 1.0, 0.5)
    assert loss_of(z, t) == pytest.approx(by_hand(z, t, gains, scale, scale, False), rel=1e-5)
    assert loss_of(z, t, DistillOptions(factor=2)) == pytest.approx(2 * loss_of(z, t))
    paper = DistillOptions(objectness="plain", boxes="decoded", gains=(1, 2, 3))
    assert loss_of(z, t, paper) == pytest.approx(by_hand(z, t, (1, 2, 3), scale, ones, True), rel=1e-5)
    assert loss_of(t, t) == 0


def test_suppression_leaves_the_surest_place_of_a_class_in_its_neighbourhood(rng: np.random.Generator) -> None:
    z, t = raw(rng)
    scale, start = sigmoid(t[:, 4]), 0
    kept = np.ones((2, N), bool)
    for rows, columns in LEVELS:
        places = [(r, c, a) for r in range(rows) for c in range(columns) for a in range(2)]
        for b in range(2):
            label, sure = t[b, 5:].argmax(axis=0), t[b, 4]
            for i, (r, c, _) in enumerate(places):
                near = [j for j, (y, x, _) in enumerate(places) if abs(y - r) <= 1 and abs(x - c) <= 1]
                rivals = [start + j for j in near if label[start + j] == label[start + i]]
                kept[b, start + i] = sure[start + i] == max(sure[rivals])
        start += len(places)
    assert 0.1 < kept.mean() < 0.7
    expected = by_hand(z, t, (0.05, 1, 0.5), scale * kept, scale * kept, False)
    assert loss_of(z, t, DistillOptions(suppress=3)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4, 5), (4, 1), (2, 1, 3, 3)])
def test_temperature_loss_is_the_divergence(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    s, t = (rng.normal(0, 3, shape) for _ in range(2))
    temperature = 2.5

    def odds(x: np.ndarray) -> np.ndarray:
        x = x / temperature
        if shape[1] == 1:
            return np.concatenate([1 - sigmoid(x), sigmoid(x)], axis=1)
        return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)

    divergence = (odds(t) * np.log(odds(t) / odds(s))).sum(axis=1)
    args = (torch.from_numpy(s), torch.from_numpy(t), temperature)
    assert float(temperature_loss(*args)) == pytest.approx(temperature**2 * divergence.mean(), rel=1e-4)
    keep = rng.random(divergence.shape) < 0.5
    keep.flat[0] = True
    found = float(temperature_loss(*args, torch.from_numpy(keep)))
    assert found == pytest.approx(temperature**2 * divergence[keep].mean(), rel=1e-4)
    assert float(temperature_loss(*args, torch.from_numpy(keep & False))) == 0


# --- masks -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("grid", "counts"), [(80, (20, 168, 1556)), (40, (8, 60, 300)), (20, (4, 20, 40))])
def test_masks_of_thesis_004_have_the_sizes_of_its_code(grid: int, counts: tuple[int, ...]) -> None:
    for side, count in zip((0.05, 0.2, 0.5), counts, strict=True):
        box = np.array([[0.5 - side / 2, 0.5 - side / 2, 0.5 + side / 2, 0.5 + side / 2]]) * 640
        mask = anchor_mask(box, np.array(THESIS_ANCHORS), (grid, grid), (640 / grid, 640 / grid))
        assert mask.sum() == count


def test_masks_are_not_transposed() -> None:
    x, y = 0.25, 0.75
    box = np.array([[x - 0.1, y - 0.1, x + 0.1, y + 0.1]]) * 160
    mask = anchor_mask(box, np.array(THESIS_ANCHORS), (20, 20), (8, 8))
    assert tuple(np.argwhere(mask).mean(axis=0)) == (14.5, 4.5)  # row, column


def test_masks_overlap_as_defined(rng: np.random.Generator) -> None:
    grid, stride, anchors = (6, 9), (8.0, 10.0), np.array([[1.5, 2.0], [4.0, 3.0]])
    boxes = np.sort(rng.uniform(0, 48, (3, 2, 2)), axis=1).reshape(3, 4)
    expected = np.zeros(grid, bool)
    for x1, y1, x2, y2 in boxes / [10, 8, 10, 8]:
        overlap = np.zeros((*grid, 2))
        for row in range(6):
            for column in range(9):
                for i, (w, h) in enumerate(anchors):
                    left, top = column + 0.5 - w / 2, row + 0.5 - h / 2
                    shared = max(0, min(x2, left + w) - max(x1, left)) * max(0, min(y2, top + h) - max(y1, top))
                    overlap[row, column, i] = shared / (w * h + (x2 - x1) * (y2 - y1) - shared)
        expected |= (overlap > 0.5 * overlap.max()).any(axis=2)
    assert (anchor_mask(boxes, anchors, grid, stride) == expected).all()
    assert not anchor_mask(np.zeros((0, 4)), anchors, grid, stride).any()
    assert not anchor_mask(np.array([[8.0, 8, 8, 8]]), anchors, grid, stride).any()  # no area


def test_imitation_counts_masked_cells_of_each_image(rng: np.random.Generator) -> None:
    s, t = (rng.normal(size=(3, 4, 5, 6)) for _ in range(2))
    mask = (rng.random((3, 5, 6)) < 0.3).astype(np.float64)
    mask[1] = 0
    found = imitation_loss(*(torch.from_numpy(v) for v in (s, t, mask))).numpy()
    squares = ((s - t) ** 2).sum(axis=1)
    for i in (0, 2):
        assert found[i] == pytest.approx((squares[i] * mask[i]).sum() / (2 * mask[i].sum()), rel=1e-5)
    assert found[1] == 0
    whole = imitation_loss(*(torch.from_numpy(v) for v in (s, t, mask)), "batch")
    assert float(whole.sum()) == pytest.approx(3 * (squares * mask).sum() / (2 * mask.sum()), rel=1e-5)


@pytest.mark.parametrize(("c", "n"), [(384, 442_752), (512, 590_336), (128, 147_584)])
def test_adaptation_layers_have_the_published_numbers_of_parameters(c: int, n: int) -> None:
    assert sum(p.numel() for p in adapter(128, c, trained=True, seed=0).parameters()) == n


# --- a detector ------------------------------------------------------------------------------------------------------
THINGS = DataInfo("things", ("a", "b", "c"), ("detection",))
FED = InputContract(64, 64, mean=(0.0,) * 3, std=(1.0,) * 3)
STUDENT = YoloV5n(classes=3, width=0.125, depth=0.11)
TEACHER = YoloV5n(classes=3, width=0.25, depth=0.11)


def things(rng: np.random.Generator, size: int = 64) -> Batch:
    images = rng.random((2, 3, size, size), np.float32)
    boxes = tuple(np.array([[8.0, 40, 28, 60], [30, 5, 40, 15]], np.float32) for _ in range(2))
    return Batch(images, boxes=boxes, labels=(np.array([0, 2]), np.array([1, 1])), ids=("x", "y"))


def read_by(family: Any) -> OutputContract:
    return Detection().output(3, THINGS, family.head)


def distiller(student: torch.nn.Module, options: DistillOptions, **more: Any) -> Distiller:
    given = {"fed": FED, "output": read_by(STUDENT)} | more
    return Distiller(
        more.pop("teacher", None) or fresh(TEACHER, 1),
        student,
        options,
        **{k: v for k, v in given.items() if k != "teacher"},
    )


def step(student: torch.nn.Module, guide: Distiller | None, batch: Batch) -> torch.Tensor:
    images = torch.from_numpy(batch.images)
    return training_loss(
        student, images, batch, task=Detection(), info=THINGS, output=read_by(STUDENT), distiller=guide
    )


def test_a_detector_learns_outputs_and_features_and_its_adapter_too(rng: np.random.Generator) -> None:
    batch, student = things(rng), fresh(STUDENT, 0)
    guide = distiller(student, DistillOptions("both", imitate_after=0))
    before = arrays_of(guide.teacher)
    alone = float(step(student, None, batch).detach())
    both = step(student, guide, batch)
    student.zero_grad()
    both.backward()
    assert float(both.detach()) > alone
    assert all(p.grad is not None and bool(p.grad.any()) for p in guide.adapt.parameters())
    assert all(p.grad is None and not p.requires_grad for p in guide.teacher.parameters())
    assert not any(m.training for m in guide.teacher.modules())
    assert all((before[k] == v).all() for k, v in arrays_of(guide.teacher).items())
    assert not any(id(p) in {id(q) for q in guide.parameters()} for p in guide.teacher.parameters())
    assert guide.adapt[0].weight.shape == (128, 64, 3, 3)  # the joined maps at stride 8


def test_features_are_imitated_as_the_paper_says(rng: np.random.Generator) -> None:
    batch, student = things(rng), fresh(STUDENT, 0)
    guide = distiller(student, FEATURES)
    images = torch.from_numpy(batch.images)
    with torch.no_grad():
        student.eval()
        with watching(student, "neck.fine:in") as seen, watching(guide.teacher, "neck.fine:in") as taught:
            student(images)
            guide.teacher(images)
        own, its = guide.adapt(seen[0]).numpy(), taught[0].numpy()
        with guide.watching(student):
            found = float(guide(images, batch, student(images)))
    total = 0.0
    for i in range(2):
        mask = anchor_mask(batch.boxes[i], np.array([[10, 13], [16, 30], [33, 23]]) / 8, (8, 8), (8, 8))
        total += 0.01 / (2 * mask.sum()) * ((own[i] - its[i]) ** 2 * mask).sum()
    assert found == pytest.approx(total, rel=1e-4)


def test_imitation_begins_after_its_steps(rng: np.random.Generator) -> None:
    batch, student = things(rng), fresh(STUDENT, 0).eval()
    guide = distiller(student, replace(FEATURES, imitate_after=2))
    images = torch.from_numpy(batch.images)
    found = []
    for _ in range(4):
        with guide.watching(student), torch.no_grad():
            found.append(float(guide(images, batch, student(images))))
    assert found[:2] == [0, 0]
    assert found[2] == found[3] > 0


def test_what_thesis_004_did_is_an_option(rng: np.random.Generator) -> None:
    batch, student = things(rng), fresh(STUDENT, 0)
    guide = distiller(student, replace(DISTILL_PRESETS["thesis_004"], method="both"))
    step(student, guide, batch).backward()
    assert all(m.training for m in guide.teacher.modules())
    assert not [p for p in guide.parameters() if p.requires_grad]
    assert guide.options.max_gradient == 0
    straight, swapped = (
        distiller(student, replace(FEATURES, transposed=on))._mask(torch.zeros(2, 1, 8, 8), batch) for on in (0, 1)
    )
    assert torch.equal(straight, swapped.transpose(1, 2))
    assert not torch.equal(straight, swapped)


def test_a_gradient_is_limited_where_features_are_imitated() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    student = fresh(STUDENT, 0)
    for options, norm in ((FEATURES, 10), (DistillOptions(), 50), (DistillOptions(clip_gradient=1), 1)):
        p.grad = torch.tensor([30.0, 40.0])
        distiller(student, options).clip([p])
        assert float(p.grad.norm()) == pytest.approx(norm, rel=1e-4)


def test_a_teacher_gets_images_as_it_wants_them(rng: np.random.Generator) -> None:
    student, batch = fresh(STUDENT, 0).eval(), things(rng)
    other = InputContract(64, 64)  # ImageNet's normalization
    guide = distiller(student, DistillOptions(), teacher_fed=other)
    pixels = batch.images
    wanted = (pixels - np.reshape(other.mean, (3, 1, 1))) / np.reshape(other.std, (3, 1, 1))
    fed = torch.from_numpy(pixels) * guide.factors + guide.shifts
    assert np.allclose(fed.numpy(), wanted, atol=1e-5)


def test_what_does_not_fit_is_said_in_a_line() -> None:
    student, plain = fresh(STUDENT, 0), torch.nn.Identity()
    ssd = SsdMobileNetV1(classes=3)
    cases: list[tuple[str, DistillOptions, dict[str, Any]]] = [
        ("code boxes differently: yolo_v5 .* and ssd", DistillOptions(), {"teacher_output": read_by(ssd)}),
        ("'ssd' has no objectness", DistillOptions(), {"output": read_by(ssd), "teacher_output": read_by(ssd)}),
        ("output is .* the student's", DistillOptions(), {"teacher": fresh(replace(TEACHER, classes=4), 0)}),
        ("no part 'nose'", replace(FEATURES, feature="nose"), {}),
        ("is 8x8, the teacher's 'neck.coarse' 2x2", replace(FEATURES, teacher_feature="neck.coarse"), {}),
        ("gives no feature map", replace(FEATURES, feature="neck"), {}),
        ("channels 1, the student 3", DistillOptions(), {"teacher_fed": InputContract(64, 64, channels=1)}),
        ("no anchors", FEATURES, {"output": replace(read_by(STUDENT), head=Head("boxes"))}),
    ]
    for match, options, more in cases:
        with pytest.raises(UsageError, match=match):
            distiller(student, options, **more)
    with pytest.raises(UsageError, match="does not say which part"):
        Distiller(plain, plain, FEATURES, fed=FED, output=read_by(STUDENT))
    for wrong in ({"method": "all"}, {"temperature": 0}, {"suppress": 4}, {"threshold": 1.0}, {"gains": (1.0,)}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            DistillOptions(**wrong)
    assert YoloV5m().name  # the usual teacher exists


# --- a training ------------------------------------------------------------------------------------------------------
OPTIONS = TrainOptions(epochs=4, batch_size=4, rate=1e-2)


def trained(folder: Path, options: DistillOptions | None, on_epoch: Any = None) -> Any:
    student, teacher = fresh(Tiny(classes=1), 0), fresh(Tiny(classes=1, width=2.0), 5)
    task = Segmentation(bootstrap=0)
    output = task.output(1, INFO)
    guide = Distiller(teacher, student, options, fed=CONTRACT, output=output) if options else None
    parts = (squares(12, 1), squares(4, 2))
    found = train(student, task, INFO, *parts, CONTRACT, OPTIONS, folder, 0, on_epoch, output=output, distiller=guide)
    return found, student, guide


def test_a_training_with_a_teacher_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    options = DistillOptions("both", imitate_after=4)
    whole, student, guide = trained(tmp_path / "whole", options)
    first, _, _ = trained(tmp_path / "cut", options, lambda e: "stopped" if e.index == 1 else None)
    assert first.stopped == "stopped"
    again, other, resumed = trained(tmp_path / "cut", options)
    assert [e.loss for e in again.epochs] == [e.loss for e in whole.epochs]
    for a, b in ((student, other), (guide.adapt, resumed.adapt)):
        x, y = arrays_of(a), arrays_of(b)
        assert all(x[k].tobytes() == y[k].tobytes() for k in x)
    assert int(guide.n_steps) == int(resumed.n_steps) == 12
    assert set(load_checkpoint(whole.weights)[1]) == set(arrays_of(student))  # no adapter, no teacher
    fresh_adapter = adapter(*guide.adapt[0].weight.shape[1::-1], trained=True, seed=0)
    assert not torch.equal(fresh_adapter[0].weight, guide.adapt[0].weight)
    alone, _, _ = trained(tmp_path / "cut", None)  # another training: the state is not its
    assert alone.epochs[0].loss != whole.epochs[0].loss


def test_a_graph_under_a_plan_imitates_the_part_it_was_captured_from() -> None:
    module = fresh(STUDENT, 0).eval()
    graph = GraphModule(passes.prepare(capture.from_module(module, (1, 3, 64, 64)))).eval()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for part in ("neck.fine:in", "neck.fine", "neck.halve_fine"):
        with watching(module, part) as a, watching(graph, part) as b, torch.no_grad():
            module(images)
            graph(images)
        assert torch.allclose(a[0], b[0], atol=1e-4)
    assert not graph.watched
    assert distiller(graph, FEATURES).part == "neck.fine:in"
    with pytest.raises(UsageError, match="no part 'nose' to imitate"), watching(graph, "nose"):
        pass


@pytest.mark.parametrize(
    ("name", "settings", "size"),
    [
        ("mnist_cnn", {"classes": 3}, 28),
        ("mobilenet_v2", {"classes": 3, "width": 0.35}, 32),
        ("bisenet_v2", {"classes": 3, "width": 0.25}, 64),
        ("tiny_yolo_v2", {"classes": 3, "width": 0.25}, 64),
    ],
)
def test_every_task_is_taught(rng: np.random.Generator, name: str, settings: dict[str, Any], size: int) -> None:
    model = load("model", name)(**settings)
    student, teacher = fresh(model, 0), fresh(model, 1)
    task = load("task", model.tasks[0])()
    info = replace(THINGS, tasks=tuple(model.tasks))
    c = model.channels
    fed = InputContract(size, size, c, color="y" if c == 1 else "rgb", mean=(0.0,) * c, std=(1.0,) * c)
    output = task.output(3, info, getattr(model, "head", None))
    batch = replace(things(rng, size), images=rng.random((2, c, size, size), np.float32), label=np.array([0, 2]))
    batch = replace(batch, masks=rng.integers(0, 3, (2, size, size)).astype(np.uint8))
    given: dict[str, Any] = {"task": task, "info": info, "output": output}
    for method in ("outputs", "features"):
        guide = Distiller(
            teacher, student, DistillOptions(method, imitation=1, imitate_after=0), fed=fed, output=output
        )
        losses = []
        for each in (None, guide):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # dropout
                images = torch.from_numpy(batch.images)
                losses.append(float(training_loss(student, images, batch, **given, distiller=each).detach()))
        assert losses[1] > losses[0]


# --- commands --------------------------------------------------------------------------------------------------------
def save(folder: Path, samples: list[Sample]) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for sample in samples:
        assert sample.mask is not None
        (folder / "images" / sample.id).write_bytes(png(sample.image))
        (folder / "masks" / sample.id).write_bytes(png(sample.mask))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("squares")
    for part, n in (("train", 8), ("val", 2)):
        save(root / part, squares(n, n))
    return root


@pytest.fixture(scope="module")
def teacher(data: Path) -> Path:
    path = data.parent / "teacher.safetensors"
    options = TrainOptions(epochs=1, batch_size=4)
    bitfront.train("tiny", str(data), path, options=options, settings={"width": 2.0, "resolution": (32, 32)})
    return path


@pytest.fixture
def _own_generator() -> Iterator[None]:
    """Exporting draws weights that are then replaced."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.usefixtures("_own_generator")
def test_commands(data: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = [str(data), "--epochs", "1", "--batch-size", "4", "--set", "resolution=32"]
    out = tmp_path / "student.safetensors"
    assert cli.main(["distill", "tiny", *usual, "--out", str(out), "--teacher", str(teacher), "--distill", "both"]) == 0
    assert read_header(out)["teacher"]["options"]["method"] == "both"
    rounded = [str(out), *usual[:-2], "--out", str(tmp_path / "s.onnx"), "--recipe", "int8"]
    taught = ["--teacher", str(teacher), "--distill", "both", "--distill-set", "imitate_after=0"]
    taught += ["--distill-set", "mask=none"]
    assert cli.main(["train", *rounded, *taught]) == 0
    float_file = tmp_path / "teacher.onnx"
    bitfront.export(str(teacher), float_file)
    again = ["train", "tiny", *usual, "--out", str(tmp_path / "t.safetensors"), "--teacher", str(float_file)]
    assert cli.main(again) == 0
    capsys.readouterr()
    dry = [str(out), *usual[:-2], "--dry-run", "--teacher", str(teacher)]
    assert cli.main(["distill", *dry, "--out", str(out)]) == 0
    assert "taught by tiny: its outputs" in capsys.readouterr().err
    assert cli.main(["distill", *dry, "--out", str(tmp_path / "s.onnx"), "--recipe", "int8"]) == 0
    assert "teacher: tiny" in capsys.readouterr().out
    for options, said in (
        ([], "--teacher is missing"),
        (["--teacher", "tiny"], "untrained"),
        (["--teacher", str(tmp_path / "none.safetensors")], "none.safetensors"),
        (["--teacher", str(teacher), "--distill", "all"], "unknown distillation method 'all'"),
        (["--teacher", str(teacher), "--distill-set", "colour=3"], "unknown distillation option 'colour'"),
        (["--teacher", str(teacher), "--distill-set", "threshold=high"], "'high' is not a number"),
        (["--teacher", str(teacher), "--distill-preset", "best"], "unknown distill preset 'best'"),
    ):
        assert cli.main(["distill", "tiny", *usual, "--out", str(out), *options]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["train", "tiny", *usual, "--out", str(out), "--temperature", "2"]) == 2
    assert "--temperature belongs to --teacher" in capsys.readouterr().err


def test_a_random_teacher_has_to_be_asked_for(data: Path) -> None:
    opened = open_both("tiny", str(data), settings={"resolution": (32, 32)})
    make = distilling(Teacher("tiny", random=True), opened, 3, 0)
    assert make is not None
    assert make(fresh(Tiny(classes=1), 0)).options.imitate_after == 3  # at most one epoch
    with pytest.raises(BitfrontError, match="untrained"):
        distilling(Teacher("tiny"), opened, 3, 0)
    assert distilling(None, opened, 3, 0) is None


def test_a_run_is_taught(data: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the teacher tiny is untrained"):
        open_request(Config("tiny", str(data), teacher="tiny"))
    parts = {"train": squares(8, 1), "val": squares(2, 2)}
    opened = open_both("tiny", str(data), settings={"resolution": (32, 32)})
    ways = {}
    for name, who in (("alone", None), ("taught", Teacher(str(teacher)))):
        (tmp_path / name).mkdir()
        with RunDb(tmp_path / name) as db:
            shop = Shop(db.folder, db, opened, (), parts, "squares", 0, teacher=who)
            options = TrainOptions(epochs=1, batch_size=4)
            ways[name] = train_architecture(shop, Architecture({"width": 1.0}, (32, 32)), options, None, ())
    assert ways["alone"].id != ways["taught"].id
    assert ways["alone"].curve[0]["loss"] < ways["taught"].curve[0]["loss"]
