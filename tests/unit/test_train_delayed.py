"""``train --delay``: float first, under the formats late, one command, one state; and class weights, ranges anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_cases import CONTRACT, squares

import bitfront
from bitfront import batches, cli
from bitfront.contracts import Sample
from bitfront.errors import DataError, UsageError
from bitfront.graph import files, passes
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.images import png
from bitfront.quant import plan_files
from bitfront.quant.formats import Affine, Binary, Float16, Qmn
from bitfront.quant.plan import Plan
from bitfront.quant.recalibration import recalibrate
from bitfront.quant.recipes import build
from bitfront.registry import load
from bitfront.stats.ranges import collect
from bitfront.train import schedules
from bitfront.verbs.class_weights import median_frequency, weighted
from bitfront.verbs.opening import open_both
from bitfront.verbs.quantized_training import plan_quantized_training, train_quantized

OPTIONS = bitfront.TrainOptions(epochs=8, batch_size=4, rate=2e-2, device="cpu", augment="none")
SETTINGS = {"resolution": (32, 32)}
DELAY = 6


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small only lose time to threads."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return folder(tmp_path_factory.mktemp("data") / "squares", 16, 8)


def folder(root: Path, n_train: int, n_val: int) -> str:
    """Bright squares as a folder of images and masks."""
    for part, n in (("train", n_train), ("val", n_val)):
        for what in ("images", "masks"):
            (root / part / what).mkdir(parents=True)
        for i, sample in enumerate(squares(n, len(part))):
            (root / part / "images" / f"{i}.png").write_bytes(png(sample.image))
            assert sample.mask is not None
            (root / part / "masks" / f"{i}.png").write_bytes(png(sample.mask))
    return str(root)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """So many pixels that one of them is a hundredth of a point."""
    return folder(tmp_path_factory.mktemp("many") / "squares", 24, 32)


@pytest.fixture(scope="module")
def checkpoint(many: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    options = replace(OPTIONS, epochs=16, validate_every=16)
    bitfront.train("tiny", many, path, options=options, settings=SETTINGS)
    return str(path)


def delayed(data: str, out: Path, *, model: str = "tiny", **options: Any) -> Any:
    given: dict[str, Any] = {"delay": DELAY, "options": OPTIONS, "settings": SETTINGS, **options}
    if "plan" not in given:
        given.setdefault("recipe", "int8")
    return train_quantized(model, data, out, **given)


@pytest.fixture(scope="module")
def made(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any]]:
    """An int8 training from fresh weights, and the epochs that its observer saw."""
    seen: list[Any] = []
    done = delayed(data, tmp_path_factory.mktemp("made") / "int8.onnx", on_epoch=seen.append)
    return done, seen


# --- one training of two parts ---------------------------------------------------------------------------------------
def test_both_parts_share_one_schedule(made: tuple[Any, list[Any]]) -> None:
    done, seen = made
    assert [e.index for e in seen] == list(range(8))
    assert [e.index for e in done.float_trained.epochs] == list(range(DELAY))
    assert [e.index for e in done.trained.epochs] == list(range(DELAY, 8))
    last_step = [schedules.rate("cosine", i + 3 / 4, 8, start=2e-2, end=1e-5, power=0.9) for i in range(8)]
    assert [e.rate for e in seen] == pytest.approx(last_step)


def test_the_float_part_is_a_float_training(made: tuple[Any, list[Any]], data: str, tmp_path: Path) -> None:
    """Batch normalization is live in it: a training that is stopped there scores the same, and is what is rounded."""
    done, _ = made
    stop = lambda epoch: "enough" if epoch.index == DELAY - 1 else None  # noqa: E731
    alone = bitfront.train("tiny", data, tmp_path / "f.safetensors", options=OPTIONS, settings=SETTINGS, on_epoch=stop)
    assert [e.loss for e in alone.epochs] == [e.loss for e in done.float_trained.epochs]
    assert done.float_metrics.value == pytest.approx(alone.metrics.value, abs=0.002)
    assert done.float_metrics.value > 0.5
    assert done.before.value == pytest.approx(done.float_metrics.value, abs=0.1)


def test_the_file_scores_what_training_scored(made: tuple[Any, list[Any]]) -> None:
    done, _ = made
    assert done.agreement.verified
    assert done.metrics.value == pytest.approx(done.trained.best_score, abs=0.002)
    manifest = json.loads(done.exported.path.with_suffix(".manifest.json").read_text())
    assert manifest["trained"]["delay"] == DELAY
    assert not done.exported.path.with_name(f"{done.exported.path.name}.training").exists()


def test_killed_in_either_part(made: tuple[Any, list[Any]], data: str, tmp_path: Path) -> None:
    seen: list[int] = []

    def killed_at(at: int) -> Any:
        def look(epoch: Any) -> None:
            seen.append(epoch.index)
            if epoch.index == at:
                raise KeyboardInterrupt("now")

        return look

    for at in (2, 7):
        with pytest.raises(KeyboardInterrupt, match="now"):
            delayed(data, tmp_path / "q.onnx", on_epoch=killed_at(at))
    done = delayed(data, tmp_path / "q.onnx", on_epoch=killed_at(99))
    assert done.exported.sha256 == made[0].exported.sha256
    again = [*range(3), *range(2, 8), DELAY - 1, 7]  # after a resume the last epoch is seen again
    assert seen == again


@pytest.mark.parametrize(
    ("runtime", "formats"),
    [("onnxruntime", "affine"), ("onnxruntime", "qmn"), ("litert", "affine"), ("litert", "qmn"), ("c_fixed", "qmn")],
)
def test_every_runtime_scores_what_training_scored(
    checkpoint: str, many: str, tmp_path: Path, runtime: str, formats: str
) -> None:
    """Affine formats per channel and fixed point, ranges learned and frozen late; within 0.2 points."""
    engine = load("runtime", runtime)()
    if engine.missing():
        pytest.skip(engine.missing())
    given: dict[str, Any] = {"recipe": "int8_s8s8"} if formats == "affine" else {"plan": fixed_point(many, 6)}
    if formats == "qmn":
        graph = passes.prepare(open_both(checkpoint, many).source.graph())
        seen = batches.calibration(squares(8, 1), CONTRACT, 8, np.random.default_rng(0))
        given["plan"] = recalibrate(given["plan"], graph, collect(graph, seen))
    two = bitfront.TrainOptions(epochs=2, batch_size=4, rate=2e-3, device="cpu", augment="none")
    shares = {"learn_ranges": 0.0, "freeze_ranges": 0.5}
    done = train_quantized(checkpoint, many, tmp_path / f"q{engine.suffix}", options=two, **given, **shares)
    assert done.exported.runtime == runtime  # by the ending of the file
    assert done.agreement.verified
    assert done.metrics.value == pytest.approx(done.trained.best_score, abs=0.002)
    assert done.metrics.value > 0.7
    _, plan = files.load(tmp_path / "q.reference.safetensors")
    assert plan.formats


def fixed_point(data: str, bits: int) -> Plan:
    """A plan whose ranges fit nothing."""
    graph = passes.prepare(open_both("tiny", data, settings=SETTINGS).source.graph())
    kinds = {"weight": bits, "input": 8, "activation": 8}
    formats = {n: Qmn(kinds[t.kind], 20) for n, t in graph.tensors.items() if t.kind in kinds}
    return Plan("fixed", formats, {"rule": "max"})


def test_a_plan_gives_its_bits_and_not_its_ranges(data: str, tmp_path: Path) -> None:
    plan = fixed_point(data, 5)
    done = delayed(data, tmp_path / "q.onnx", plan=plan)
    _, trained = files.load(tmp_path / "q.reference.safetensors")
    assert {n: f.bits for n, f in trained.formats.items()} == {n: f.bits for n, f in plan.formats.items()}
    assert all(form.frac_bits < 12 for form in trained.formats.values())
    assert done.before.value > 0.3
    of_file = plan_quantized_training("tiny", data, tmp_path / "again.onnx", plan=tmp_path / "q.onnx", delay=2)
    assert "weight of 5 bits" in of_file["plan"]
    assert of_file["resolution"] == [256, 256]  # MODEL's own graph, not the file's


def test_files_are_trained_in_float_first_too(made: tuple[Any, list[Any]], data: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "t.safetensors"
    two = bitfront.TrainOptions(epochs=2, batch_size=4, device="cpu", augment="none")
    bitfront.train("tiny", data, checkpoint, options=two, settings=SETTINGS)
    bitfront.export(str(checkpoint), tmp_path / "t.onnx")
    done = delayed(data, tmp_path / "q.onnx", model=str(tmp_path / "t.onnx"), settings=None)
    assert len(done.float_trained.epochs) == DELAY
    assert done.agreement.verified
    assert done.float_metrics.value > 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delay": 8}, "a delay of 8 epochs leaves none of 8 under the plan"),
        ({"delay": -1}, "a delay of -1 epochs"),
        ({"freeze_ranges": 0.5}, "they are not learned"),
        ({"learn_ranges": 0.5, "freeze_ranges": 0.5}, "learned from 0.5 on"),
        ({"learn_ranges": 0.5, "freeze_ranges": 1.5}, "freeze_ranges is 1.5"),
        ({"live_norm": 0.0}, "live_norm is 0.0"),
        ({"class_weights": (1.0,)}, "class weights 1 do not fit the 2 classes"),
        ({"class_weights": (1.0, -1.0)}, "class weights 1, -1 do not fit"),
        ({"class_weights": "mean"}, "mean"),
        ({"recipe": "dynamic"}, "no ranges to train under"),
        ({"plan": Plan("p", {"nothing": Qmn(8, 4)})}, "'nothing', which the network does not have"),
        ({"plan": Plan("p", {}, {"dropped_clips": 1})}, "without some of MODEL's clips"),
    ],
)
def test_what_is_refused_before_anything_is_trained(
    data: str, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    def trained(epoch: Any) -> None:
        raise AssertionError(f"epoch {epoch.index} was trained")

    with pytest.raises(UsageError, match=r"^[^\n]+$") as found:
        delayed(data, tmp_path / "q.onnx", **options, on_epoch=trained)
    assert words in str(found.value)
    assert found.value.hint


# --- ranges anew -----------------------------------------------------------------------------------------------------
def layered(rng: np.random.Generator, scale: float) -> tuple[Graph, list[np.ndarray]]:
    """A convolution and a pooling whose weights, and images, have a scale."""
    draft = Builder()
    weight = draft.constant("w", (scale * rng.normal(size=(3, 2, 1, 1))).astype(np.float32), "weight")
    bias = draft.constant("b", (scale * rng.normal(size=3)).astype(np.float32), "bias")
    image = draft.input("image", (1, 2, 4, 4))
    attributes = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "groups": 1, "clip": None}
    y = draft.node("conv", "conv", [image, weight, bias], **attributes)
    pool = {"kernel": [2, 2], "strides": [2, 2], "pads": [0] * 4, "dilations": [1, 1]}
    graph = draft.build([draft.node("max_pool", "pool", [y], **pool)])
    return graph, [(scale * rng.normal(size=(2, 2, 4, 4))).astype(np.float32) for _ in range(3)]


def test_a_recipe_for_one_network_becomes_that_of_another(rng: np.random.Generator) -> None:
    (small, few), (large, many) = layered(rng, 0.1), layered(rng, 7.0)
    for recipe in ("int8", "int8_s8s8", "int8_portable"):
        _, plan = build(recipe, small, batches=few, bias_correction=False)
        _, wanted = build(recipe, large, batches=many, bias_correction=False)
        assert recalibrate(plan, large, collect(large, many)).formats == wanted.formats


def test_kinds_bits_and_signs_stay(rng: np.random.Generator) -> None:
    graph, images = layered(rng, 3.0)
    activation = graph.nodes[0].output
    formats = {
        "w": Affine(4, (2.0**-9, 2.0**-3, 0.25), (0,), axis=0),
        "b": Qmn(16, 20),
        "image": Qmn(8, 12),
        activation: Qmn(6, -4, False),
        graph.outputs[0]: Float16(),
    }
    found = recalibrate(Plan("p", formats, {"rule": "max", "rounding": "half_up"}), graph, collect(graph, images))
    weights = found.formats["w"]
    assert isinstance(weights, Affine)
    assert (np.frexp(weights.scale)[0] == 0.5).all()
    top = np.abs(graph.constants["w"]).max((1, 2, 3))
    assert (np.array(weights.scale) * 7.5 >= top).all()
    assert (np.array(weights.scale) * 3.25 <= top).all()
    assert isinstance(found.formats[activation], Qmn)
    assert (found.formats[activation].bits, found.formats[activation].signed) == (6, False)
    assert found.formats[graph.outputs[0]] == Float16()
    assert found.options["rounding"] == "half_up"
    binary = Plan("p", {"w": Binary.of((2.0,))})
    assert recalibrate(binary, graph, {}).formats == binary.formats
    with pytest.raises(DataError, match="'image' was not seen in calibration"):
        recalibrate(Plan("p", formats), graph, {})


def test_what_an_operator_moves_keeps_one_format(rng: np.random.Generator) -> None:
    graph, images = layered(rng, 1.0)
    tied = dict.fromkeys((graph.nodes[0].output, graph.outputs[0]), Qmn(8, 30))
    found = recalibrate(Plan("p", tied), graph, collect(graph, images))
    assert found.formats[graph.outputs[0]] == found.formats[graph.nodes[0].output] != Qmn(8, 30)


# --- class weights ---------------------------------------------------------------------------------------------------
def masks(*rows: str) -> list[Sample]:
    """Labels of one row; ``.`` is ignored."""
    found = [np.array([[255 if c == "." else int(c) for c in row]], np.uint8) for row in rows]
    return [Sample(f"{i}", np.zeros((1, m.shape[1], 3), np.uint8), m) for i, m in enumerate(found)]


def test_median_frequency_by_hand() -> None:
    part = masks("0001", "00..", "0022")  # of images with it: 0 in 7 / 10, 1 in 1 / 4, 2 in 2 / 4
    assert median_frequency(part, ("a", "b", "c")) == pytest.approx((0.5 / 0.7, 0.5 / 0.25, 1.0))
    with pytest.raises(DataError, match="no label of the train part is 'd'"):
        median_frequency(part, ("a", "b", "c", "d"))
    digits = [Sample(f"{i}", np.zeros((1, 1, 3), np.uint8), label=i % 4 // 3) for i in range(8)]
    assert median_frequency(digits, ("a", "b")) == pytest.approx((0.5 / 0.75, 0.5 / 0.25))


def test_both_trainings_weight_the_classes(data: str, tmp_path: Path) -> None:
    """From the same weights on the same images only the weights of the classes can change the loss."""
    one = replace(OPTIONS, epochs=1)
    for out, train in (("t.safetensors", bitfront.train), ("q.onnx", delayed)):
        common: dict[str, Any] = {"options": one, "settings": SETTINGS}
        common |= {"model": "tiny", "data": data, "out": tmp_path / out} | ({"delay": 0} if train is delayed else {})
        plain, same, other = (train(**common, class_weights=weights) for weights in ((), (3.0, 3.0), (1.0, 4.0)))
        first = [getattr(done, "trained", done).epochs[0].loss for done in (plain, same, other)]
        assert first[0] == pytest.approx(first[1], rel=1e-4)
        assert abs(first[2] - first[0]) > 0.001
    manifest = json.loads((tmp_path / "q.manifest.json").read_text())
    assert manifest["trained"]["class_weights"] == [1.0, 4.0]


def test_the_rule_is_read_off_the_train_part(data: str) -> None:
    opened = open_both("tiny", data, settings=SETTINGS)
    assert opened.dataset is not None
    part = opened.dataset.part("train")
    chosen = weighted(opened, "median", part).task.class_weights
    assert chosen[0] < 1 < chosen[1]
    assert weighted(opened, (), part) is opened


# --- the command line ------------------------------------------------------------------------------------------------
@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*tokens: object) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        code = cli.main(["train", *map(str, tokens), "--json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out), captured.err

    return run


def test_the_command(call: Any, data: str) -> None:
    common = ("tiny", data, "--recipe", "int8", "--set", "resolution=32", "--out", "q.onnx", "--batch-size", "4")
    code, planned, _ = call(*common, "--delay", "80%", "--dry-run")
    assert code == 0
    assert (planned["plan"]["epochs"], planned["plan"]["float_epochs"]) == (30, 24)
    assert not Path("q.onnx").exists()
    counts = {"--delay": 2, "--epochs": 3, "--class-weights": "median"}
    shares = {"--learn-ranges": 0, "--freeze-ranges": 1, "--live-norm": 0.5}
    options = [token for pair in {**counts, **shares}.items() for token in pair]
    code, done, err = call(*common, *options)
    assert code == 0, err
    assert [e["index"] for e in done["float_training"]["epochs"]] == [0, 1]
    assert [e["index"] for e in done["epochs"]] == [2]
    assert done["verified"] is True
    assert plan_files.load(Path(done["plan"])).formats
    trained = json.loads(Path("q.manifest.json").read_text())["trained"]
    assert [trained[name] for name in ("delay", "learn_ranges", "freeze_ranges", "live_norm")] == [2, 0.0, 1.0, 0.5]
    assert trained["class_weights"][0] < 1 < trained["class_weights"][1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--delay", "3", "--epochs", "3"), "leaves none of 3"),
        (("--delay", "late"), "--delay: 'late' is not a fraction"),
        (("--class-weights", "1,x"), "'1,x' is no list of numbers"),
    ],
)
def test_what_the_command_refuses(call: Any, data: str, options: tuple[str, ...], words: str) -> None:
    code, done, _ = call("tiny", data, "--out", "q.onnx", "--recipe", "int8", *options)
    assert code == 2
    assert words in done["error"]["message"]
    for option in ("--delay", "--freeze-ranges", "--live-norm"):
        code, done, _ = call("tiny", data, "--out", "q.safetensors", option, "1")
        assert code == 2
        assert f"{option} belongs to --plan" in done["error"]["message"]
