"""``train --plan`` and ``--recipe``: from a model and a plan to a verified file that scores what training scored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from train_cases import squares

import bitfront
from bitfront import cli
from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import BitfrontError, DataError, UsageError
from bitfront.graph import files, passes
from bitfront.graph.equalize import equalize
from bitfront.graph.ir import Graph
from bitfront.images import png
from bitfront.measure.verify import verify_file
from bitfront.quant import plan_files
from bitfront.quant.formats import Qmn
from bitfront.quant.plan import Plan
from bitfront.record import Artifact, Candidate, Record
from bitfront.rundb import RunDb
from bitfront.simulate import reference
from bitfront.verbs.opening import open_both
from bitfront.verbs.plans import open_plan
from bitfront.verbs.quantized_training import train_quantized

OPTIONS = bitfront.TrainOptions(epochs=4, batch_size=4, rate=5e-3, device="cpu", augment="none")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small only lose time to threads."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Bright squares as a folder of images and masks."""
    root = tmp_path_factory.mktemp("data") / "squares"
    for part, n in (("train", 16), ("val", 8)):
        for what in ("images", "masks"):
            (root / part / what).mkdir(parents=True)
        for i, sample in enumerate(squares(n, len(part))):
            (root / part / "images" / f"{i}.png").write_bytes(png(sample.image))
            assert sample.mask is not None
            (root / part / "masks" / f"{i}.png").write_bytes(png(sample.mask))
    return str(root)


@pytest.fixture(scope="module")
def checkpoint(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    options = bitfront.TrainOptions(epochs=12, batch_size=4, rate=1e-2, device="cpu", augment="none")
    bitfront.train("tiny", data, path, options=options, settings={"resolution": (32, 32)})
    return str(path)


@pytest.fixture(scope="module")
def graph(checkpoint: str, data: str) -> Graph:
    return passes.prepare(open_both(checkpoint, data).source.graph())


def covering(graph: Graph, bits: int, activation_bits: int = 8, **options: bool) -> Plan:
    """Fixed point: the smallest formats that cover the weights, and values of noise."""
    images = np.random.default_rng(0).normal(0, 1.5, (2, *graph.tensors[graph.inputs[0]].shape[1:]))
    seen = {**reference.run(graph, images.astype(np.float32), keep="*"), **graph.constants}
    widths = {"weight": bits, "input": activation_bits, "activation": activation_bits}
    formats = {}
    for name, values in seen.items():
        if n := widths.get(graph.tensors[name].kind):
            top = float(np.abs(values).max()) or 1.0
            formats[name] = Qmn(n, int(np.floor(np.log2((2.0 ** (n - 1) - 1) / top))))
    return Plan("covering", formats, options)


@pytest.fixture(scope="module")
def made(checkpoint: str, data: str, graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The net trained under a plan of 3-bit weights."""
    folder = tmp_path_factory.mktemp("made")
    plan_files.save(folder / "w3.json", covering(graph, 3))
    return train_quantized(checkpoint, data, folder / "w3.onnx", plan=folder / "w3.json", options=OPTIONS)


def test_training_recovers_what_three_bits_lose(made: Any) -> None:
    assert made.before.value < made.float_metrics.value - 0.1
    assert made.metrics.value > made.before.value + 0.1


def test_the_file_scores_what_training_scored(made: Any) -> None:
    assert made.agreement.verified
    assert made.part == "val"
    assert made.metrics.value == pytest.approx(made.trained.best_score, abs=0.002)


def test_what_lies_beside_the_file(made: Any, data: str, graph: Graph) -> None:
    path = made.exported.path
    trained, plan = files.load(path.with_suffix(files.SUFFIX))
    again = plan_files.load(made.plan, trained)
    assert made.plan == path.with_suffix(".plan.json")
    assert again.formats == plan.formats
    assert {n: f.bits for n, f in plan.formats.items()} == {n: f.bits for n, f in covering(graph, 3).formats.items()}
    manifest = json.loads(path.with_suffix(".manifest.json").read_text())
    verify_file(path, manifest["sha256"])
    assert manifest["trained"]["plan_before"] == covering(graph, 3).id
    assert manifest["agreement"]["verified"]
    assert bitfront.verify(path, data).agreement.max_code_difference <= 1
    assert bitfront.evaluate(str(path), data).metrics.value == made.metrics.value
    assert not path.with_name(f"{path.name}.training").exists()


def test_a_killed_training_goes_on_to_the_same_file(
    checkpoint: str, data: str, graph: Graph, made: Any, tmp_path: Path
) -> None:
    def killed(epoch: Any) -> None:
        if epoch.index == 1:
            raise KeyboardInterrupt("now")

    options: dict[str, Any] = {"plan": covering(graph, 3), "options": OPTIONS}
    with pytest.raises(KeyboardInterrupt, match="now"):
        train_quantized(checkpoint, data, tmp_path / "cut.onnx", **options, on_epoch=killed)
    assert not (tmp_path / "cut.onnx").exists()
    seen: list[int] = []
    done = train_quantized(checkpoint, data, tmp_path / "cut.onnx", **options, on_epoch=lambda e: seen.append(e.index))
    assert seen == [1, 2, 3]
    assert done.exported.sha256 == made.exported.sha256


def test_what_training_spoils_is_not_written(checkpoint: str, data: str, graph: Graph, tmp_path: Path) -> None:
    wild = bitfront.TrainOptions(epochs=1, batch_size=4, rate=0.5, end_rate=0.5, device="cpu", augment="none")
    done = train_quantized(checkpoint, data, tmp_path / "q.onnx", plan=covering(graph, 8), options=wild)
    assert done.metrics.value == done.before.value
    assert done.trained.best_epoch == -1
    assert done.trained.best_score == pytest.approx(done.before.value, abs=0.002)
    assert any("no epoch was better" in note for note in done.exported.notes)


# --- where graph and plan come from ----------------------------------------------------------------------------------
def test_an_onnx_file_is_trained(checkpoint: str, data: str, tmp_path: Path) -> None:
    bitfront.export(checkpoint, tmp_path / "net.onnx")
    net = str(tmp_path / "net.onnx")
    tuned = train_quantized(net, data, tmp_path / "f.onnx", recipe="float32", options=OPTIONS)
    assert tuned.before.value == tuned.float_metrics.value < tuned.metrics.value
    done = train_quantized(net, data, tmp_path / "q.onnx", recipe="int8", learn_ranges=0.5, options=OPTIONS)
    assert done.agreement.verified
    assert done.float_metrics.value == tuned.float_metrics.value
    assert done.metrics.value == pytest.approx(done.trained.best_score, abs=0.002)
    assert done.exported.size_bytes < tuned.exported.size_bytes
    with pytest.raises(UsageError, match="cannot be trained to a checkpoint"):
        bitfront.train(net, data, tmp_path / "x.safetensors", options=OPTIONS)


def test_a_reference_brings_its_graph(made: Any, checkpoint: str, data: str, tmp_path: Path) -> None:
    """A further training begins where the first one ended, whatever the weights of MODEL are."""
    one = bitfront.TrainOptions(epochs=1, batch_size=4, rate=1e-4, device="cpu", augment="none")
    source = made.exported.path.with_suffix(files.SUFFIX)
    done = train_quantized("tiny", data, tmp_path / "q.onnx", plan=source, options=one)
    assert done.before.value == made.metrics.value
    assert done.exported.resolution == (32, 32)
    assert not any("untrained" in note for note in done.exported.notes)
    with pytest.raises(UsageError, match="images of 3 channels, 'tiny' of 1"):
        train_quantized("tiny", data, tmp_path / "q.onnx", plan=source, settings={"channels": 1})


def test_plans_of_equalized_graphs(checkpoint: str, data: str, graph: Graph, tmp_path: Path) -> None:
    plan = covering(equalize(graph), 8, equalized=True)
    one = bitfront.TrainOptions(epochs=1, batch_size=4, rate=1e-6, device="cpu", augment="none")
    done = train_quantized(checkpoint, data, tmp_path / "q.onnx", plan=plan, options=one)
    stored, _ = files.load(tmp_path / "q.reference.safetensors")
    name = next(n.inputs[1] for n in graph.nodes if n.op == "conv")
    np.testing.assert_allclose(stored.constants[name], equalize(graph).constants[name], atol=1e-4)
    assert np.abs(stored.constants[name] - graph.constants[name]).max() > 1e-2
    assert done.agreement.verified


def test_candidates_of_a_run(made: Any, tmp_path: Path) -> None:
    run, source = tmp_path / "runs" / "squares", made.exported.path
    place = run / "candidates" / "a" / "model.onnx"
    with RunDb(run) as db:
        place.parent.mkdir(parents=True)
        for suffix in (".onnx", files.SUFFIX):
            place.with_suffix(suffix).write_bytes(source.with_suffix(suffix).read_bytes())
        artifact = Artifact(
            "candidates/a/model.onnx",
            "onnxruntime",
            "x",
            1,
            "0" * 64,
            InputContract(32, 32),
            OutputContract(),
        )
        good = Record(Candidate("tiny", {}, "x", "onnxruntime", "w"), "front", artifact=artifact)
        failed = Record(Candidate("tiny", {"width": 2.0}, "x", "onnxruntime", "w"), "failed", "no memory")
        for record in (good, failed):
            db.record(record)
        db.put("front", [{"name": "01_knee", "id": good.id}])
    wanted = files.load(source.with_suffix(files.SUFFIX))[1]
    texts = (f"squares:{good.id}", f"squares:{good.id[:6]}", f"{run}:01_knee", place, place.parent)
    for text in texts:
        stored, plan = open_plan(text, tmp_path / "runs")
        assert stored is not None
        assert plan.formats == wanted.formats
    place.with_suffix(files.SUFFIX).unlink()
    for text, match in (
        ("squares:nothing", "unknown candidate of 'squares'"),
        ("squares:", "unknown candidate"),
        ("other:x", "unknown run"),
        (f"squares:{failed.id}", "has no file: no memory"),
        (str(place), "no reference file beside it"),
        (f"squares:{good.id}", "cannot read"),
    ):
        with pytest.raises(UsageError, match=match):
            open_plan(text, tmp_path / "runs")


# --- what is refused, in a line --------------------------------------------------------------------------------------
def refused(model: str, data: str, folder: Path, **options: Any) -> BitfrontError:
    with pytest.raises(BitfrontError, match=r"^[^\n]+$") as found:
        train_quantized(model, data, options.pop("out", folder / "q.onnx"), options=OPTIONS, **options)
    assert found.value.hint
    assert not list(folder.glob("q.onnx*"))
    return found.value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "a plan or a recipe"),
        ({"recipe": "int8", "plan": Plan("p")}, "a plan or a recipe"),
        ({"recipe": "int9"}, "int9"),
        ({"recipe": "dynamic"}, "no ranges to train under"),
        ({"recipe": "int8", "runtime": "tflite"}, "tflite"),
        ({"recipe": "int8", "part": "test"}, "no part 'test'"),
        ({"recipe": "int8", "learn_ranges": 1.0}, "learn_ranges is 1.0"),
        ({"recipe": "int8", "out": Path("q.safetensors")}, "does not end in .onnx"),
        ({"plan": Plan("p", {"nothing": Qmn(8, 4)})}, "'nothing', which the network does not have"),
        ({"plan": "gone.json"}, "cannot read gone.json"),
    ],
)
def test_what_does_not_fit(checkpoint: str, data: str, tmp_path: Path, options: Any, words: str) -> None:
    error = refused(checkpoint, data, tmp_path, **options)
    assert isinstance(error, UsageError)
    assert words in str(error)


@pytest.mark.parametrize("name", ["p.json", "p.reference.safetensors"])
def test_damaged_plans(checkpoint: str, data: str, tmp_path: Path, made: Any, name: str) -> None:
    source = made.plan if name == "p.json" else made.exported.path.with_suffix(files.SUFFIX)
    (tmp_path / name).write_bytes(source.read_bytes()[:-100].replace(b"Qmn", b"Qnm"))
    error = refused(checkpoint, data, tmp_path, plan=tmp_path / name)
    assert isinstance(error, DataError)
    assert name in str(error)


@pytest.mark.parametrize(("last", "words"), [("Sigmoid", "ends with sigmoid"), ("MaxPool", "no loss of segmentation")])
def test_files_without_logits(data: str, tmp_path: Path, rng: np.random.Generator, last: str, words: str) -> None:
    options = {"kernel_shape": [2, 2], "strides": [2, 2]} if last == "MaxPool" else {}
    nodes = [helper.make_node("Conv", ["image", "w"], ["a"]), helper.make_node(last, ["a"], ["y"], **options)]
    side = 32 if last == "Sigmoid" else 16
    network = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, side, side])],
        [numpy_helper.from_array(rng.normal(size=(1, 3, 1, 1)).astype(np.float32), "w")],
    )
    onnx.save(
        helper.make_model(network, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "net.onnx"
    )
    assert words in str(refused(str(tmp_path / "net.onnx"), data, tmp_path, recipe="int8"))


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


def test_train_under_a_plan(call: Any, checkpoint: str, data: str, made: Any) -> None:
    common = (checkpoint, data, "--plan", made.plan, "--out", "q.onnx", "--epochs", "1")
    code, planned, _ = call(*common, "--dry-run")
    assert code == 0
    assert not Path("q.onnx").exists()
    assert "weight of 3 bits" in planned["plan"]["plan"]
    assert planned["plan"]["steps"] == 2
    code, done, err = call(*common, "--batch-size", "4", "--learn-ranges", "0", "--augment", "none")
    assert code == 0, err
    assert done["verified"] is True
    assert len(done["epochs"]) == 1
    assert done["epochs"][0]["rate"] <= 1e-3
    assert done["path"] == "q.onnx"
    assert plan_files.load(Path(done["plan"])).formats
    scores = [part["metrics"]["foreground_iou"] for part in (done["float"], done["before"], done)]
    assert done["drop"] == pytest.approx(scores[0] - scores[2])
    assert scores[1] < scores[0]


def test_a_recipe_for_other_commands_leaves_train_alone(call: Any, data: str, tmp_path: Path) -> None:
    (tmp_path / "bitfront.yaml").write_text("recipe: int8\nepochs: 5\nlearning_rate: 0.02\n")
    code, planned, _ = call("tiny", data, "--out", "x.safetensors", "--dry-run")
    assert code == 0
    assert planned["plan"]["epochs"] == 5
    code, planned, _ = call("tiny", data, "--out", "x.onnx", "--recipe", "int8", "--dry-run")
    assert code == 0
    assert planned["plan"]["epochs"] == 8


@pytest.mark.parametrize("option", [("--learn-ranges", "0.5"), ("--part", "val"), ("--runtime", "onnxruntime")])
def test_options_of_plans_need_one(call: Any, data: str, option: tuple[str, str]) -> None:
    code, done, _ = call("tiny", data, "--out", "x.safetensors", *option)
    assert code == 2
    assert f"{option[0]} belongs to --plan" in done["error"]["message"]
