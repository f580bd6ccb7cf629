"""LiteRT: every operator against the reference, what goes in and out, what is refused, what is concluded."""

from __future__ import annotations

import logging
from pathlib import Path

import litert_cases as cases
import numpy as np
import pytest
from numpy.typing import NDArray

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import DataError, UsageError
from bitfront.graph.ir import Graph
from bitfront.measure import verify
from bitfront.quant.formats import Affine, Qmn
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import build
from bitfront.runtimes.litert import LiteRt
from bitfront.runtimes.litert_engine import BUILTIN, XNNPACK
from bitfront.simulate import reference

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
RUNTIME = LiteRt()
SIZE = cases.SIZE
CONTRACT, OUTPUT = InputContract(SIZE, SIZE), OutputContract()
Array = NDArray[np.float32]


@pytest.fixture
def images(rng: np.random.Generator) -> Array:
    return rng.normal(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)


def is_verified(graph: Graph, plan: Plan, images: Array, folder: Path, runtime: LiteRt = RUNTIME) -> bool:
    output = OutputContract("labels") if graph.nodes[-1].op == "argmax" else OUTPUT
    path = runtime.export(graph, plan, folder, CONTRACT, output)
    agreement = verify.compare(runtime, path, graph, plan, CONTRACT, output, images)
    assert "every layer" in agreement.reference
    return agreement.verified


@pytest.mark.parametrize("name", cases.OPERATORS)
@pytest.mark.parametrize("recipe", ["float32", "int8", "int8_full", "int16x8"])
def test_every_operator_is_the_references(name: str, recipe: str, images: Array, tmp_path: Path) -> None:
    graph, plan = build(recipe, cases.OPERATORS[name], batches=[images])
    assert is_verified(graph, plan, images, tmp_path)


@pytest.mark.parametrize("bits", [3, 5, 8, 12])
def test_fixed_point_plans(bits: int, images: Array, tmp_path: Path) -> None:
    graph = cases.OPERATORS["conv padded"]
    forms = {t: Qmn(bits, bits - 3) for t in ("image", "first", "out")} | {w: Qmn(8, 7) for w in ("first.w", "w")}
    assert is_verified(graph, Plan("qmn", forms), images, tmp_path)
    mixed = forms | {"first": Qmn(16, 10)}
    assert is_verified(graph, Plan("qmn", mixed), images, tmp_path / "mixed")


@pytest.mark.parametrize("what", ["weight", "bias", "scale"])
@pytest.mark.parametrize("kernels", [XNNPACK, BUILTIN])
def test_one_wrong_number_is_found(what: str, kernels: str, images: Array, tmp_path: Path) -> None:
    graph, plan = build("int8", cases.OPERATORS["conv same"], batches=[images])
    runtime = LiteRt(kernels="" if kernels == XNNPACK else kernels)
    assert is_verified(graph, plan, images, tmp_path, runtime)
    wrong, wrong_plan = graph, plan
    if what == "scale":
        form = plan.formats["out"]
        assert isinstance(form, Affine)
        other = Affine(form.bits, (form.scale[0] * 1.05,), form.zero_point, form.signed)
        wrong_plan = Plan(plan.recipe, {**plan.formats, "out": other}, plan.options)
    else:
        name = "w" if what == "weight" else "b"
        values = graph.constants[name].copy()
        values.flat[1] += 0.1 if what == "weight" else 0.2
        wrong = graph.with_constants({name: values})
    path = runtime.export(wrong, wrong_plan, tmp_path / "wrong", CONTRACT, OUTPUT)
    agreement = verify.compare(runtime, path, graph, plan, CONTRACT, OUTPUT, images)
    assert not agreement.verified
    assert agreement.first_difference == "out"


def test_codes_of_convolutions_are_exact_in_xnnpack(images: Array, tmp_path: Path) -> None:
    graph, plan = build("int8", cases.OPERATORS["depthwise"], batches=[images])
    session = RUNTIME.open(RUNTIME.export(graph, plan, tmp_path, CONTRACT, OUTPUT))
    assert session.kernels == XNNPACK
    traced = session.trace(images)
    wanted = reference.run(graph, images, plan, keep="*")
    for name in ("image", "first", "out"):
        assert np.array_equal(traced[name], wanted[name]), name
    assert traced["out"].min() >= 0, "unsigned as the plan has them, though the file holds them as int8"


# --- what goes in and out --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("recipe", "dtype"), [("int8_full", "int8"), ("int8_full_u8", "uint8"), ("int8", "float32")])
def test_recipes_decide_the_files_ends(recipe: str, dtype: str, images: Array, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    graph, plan = build(recipe, cases.OPERATORS["conv same"], batches=[images])
    path = RUNTIME.export(graph, plan, tmp_path, CONTRACT, OUTPUT)
    engine = Interpreter(str(path))
    assert engine.get_input_details()[0]["dtype"] == np.dtype(dtype)
    assert engine.get_output_details()[0]["dtype"] == np.dtype(dtype)
    assert engine.get_input_details()[0]["shape"].tolist() == [1, SIZE, SIZE, 3]
    told = RUNTIME.describe(path).input
    assert (told.dtype, told.layout) == (dtype, "nhwc")
    values = RUNTIME.open(path).run(images)
    assert values.dtype == np.float32
    wanted = reference.values(graph, plan, "out", reference.run(graph, images, plan)["out"])
    assert np.allclose(values, wanted, atol=1e-6)


@pytest.mark.parametrize(("dtype", "zero"), [("uint8", 128), ("int8", 0), ("float16", 0)])
def test_float_networks_take_what_the_contract_says(dtype: str, zero: int, images: Array, tmp_path: Path) -> None:
    graph = cases.OPERATORS["conv same"]
    contract = InputContract(SIZE, SIZE, dtype=dtype, scale=1 / 32 if zero or dtype == "int8" else 1.0, zero_point=zero)
    session = RUNTIME.open(RUNTIME.export(graph, Plan("float32"), tmp_path, contract, OUTPUT))
    step = 1 / 32 if dtype != "float16" else 2.0**-8
    rounded = (np.rint(images / step) * step).astype(np.float32)
    assert np.allclose(session.run(rounded), reference.run(graph, rounded)["out"], atol=1e-3)


def test_pixels_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    graph = cases.OPERATORS["conv same"]
    session = RUNTIME.open(RUNTIME.export(graph, Plan("float32"), tmp_path, CONTRACT, OUTPUT))
    with pytest.raises(DataError, match="fed uint8 pixels; a session takes normalized float32") as found:
        session.run(np.zeros((1, 3, SIZE, SIZE), np.uint8))  # type: ignore[arg-type]
    assert "preprocess" in found.value.hint
    with pytest.raises(DataError, match="cannot run"):
        session.run(np.zeros((1, 3, SIZE + 1, SIZE), np.float32))
    session.close()
    with pytest.raises(DataError, match="closed"):
        session.run(np.zeros((1, 3, SIZE, SIZE), np.float32))


def test_what_has_no_kernel_is_named(images: Array, tmp_path: Path) -> None:
    dilated = cases.one("max_pool", kernel=[3, 3], strides=[1, 1], pads=[0] * 4, dilations=[2, 2])
    with pytest.raises(UsageError, match="node 'out' \\(max_pool\\)"):
        RUNTIME.export(dilated, Plan("float32"), tmp_path, CONTRACT, OUTPUT)
    wide = Plan("x", {"out": Affine(16, (0.1,), (5,))})
    with pytest.raises(UsageError, match="tensor 'out': LiteRT has no kernels for 16-bit codes with a zero point"):
        RUNTIME.export(cases.OPERATORS["add"], wide, tmp_path, CONTRACT, OUTPUT)


# --- files of others -------------------------------------------------------------------------------------------------
def test_where_xnnpack_fails_the_built_in_kernels_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = cases.refused_by_xnnpack(tmp_path / "odd.tflite")
    with caplog.at_level(logging.WARNING):
        session = RUNTIME.open(path)
    assert session.kernels == BUILTIN
    assert "XNNPACK cannot run" in session.notes[0]
    assert session.notes[0] in caplog.text
    x = np.full((1, 3, SIZE, SIZE), 0.5, np.float32)
    codes = 25 * np.array([0 + 1 + 2, 3 + 4 + 5]) * 0.02 * np.array([0.01, 0.02]) / 0.05
    assert np.allclose(session.run(x)[0, :, 0, 0], np.rint(codes) * 0.05, atol=1e-6)


@pytest.mark.parametrize(
    ("made", "preset"),
    [
        ({"name": "MobilenetV2/MobilenetV2/input", "limits": (0.0, 255.0)}, "signed"),
        ({"first": "SUB"}, "raw"),
        ({"limits": (0.0, 1.0)}, "unit"),
        ({"limits": (-1.0, 0.992)}, "signed"),
    ],
)
def test_float_inputs_are_concluded_from_what_the_file_says(made: dict, preset: str, tmp_path: Path) -> None:  # type: ignore[type-arg]
    found = RUNTIME.describe(cases.foreign(tmp_path / "other.tflite", **made))
    mean, std = {"signed": (0.5, 0.5), "raw": (0.0, 1 / 255), "unit": (0.0, 1.0)}[preset]
    assert found.input.mean == (mean,) * 3
    assert found.input.std == (std,) * 3
    assert f"{preset} input" in found.notes[0]
    assert (found.output.readout, found.n_classes, found.task) == ("argmax", 3, "segmentation")


def test_float_inputs_that_say_nothing_are_asked_for(tmp_path: Path) -> None:
    path = cases.foreign(tmp_path / "mute.tflite")
    with pytest.raises(UsageError, match="nothing in it says of which range") as found:
        RUNTIME.describe(path)
    assert "--preprocess" in found.value.hint
    assert RUNTIME.describe(path, preprocess="unit").input.std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("dtype", "zero"), [("UINT8", 128), ("INT8", 0)])
def test_integer_inputs_are_fed_with_the_pixels(dtype: str, zero: int, tmp_path: Path) -> None:
    path = cases.foreign(tmp_path / "codes.tflite", dtype=dtype, scale=[1 / 128], zero_point=[zero])
    contract = RUNTIME.describe(path).input
    pixels = np.arange(256)
    values = (pixels / 255 - contract.mean[0]) / contract.std[0]
    codes = np.rint(values / contract.scale) + contract.zero_point
    assert np.array_equal(codes, pixels - (128 if dtype == "INT8" else 0))
    assert RUNTIME.open(path).run(np.zeros((2, 3, SIZE, SIZE), np.float32)).shape == (2, 3, SIZE, SIZE)


def refusal(path: Path) -> str:
    """What is said of a file that cannot be run, with the hint; empty when it runs."""
    try:
        RUNTIME.open(path).run(np.zeros((1, 3, SIZE, SIZE), np.float32))
    except DataError as error:
        return f"{error}: {error.hint}"
    return ""


def test_damaged_files_of_ours_are_refused_before_any_engine(rng: np.random.Generator, tmp_path: Path) -> None:
    whole = RUNTIME.export(cases.OPERATORS["add"], Plan("float32"), tmp_path, CONTRACT, OUTPUT).read_bytes()
    path = tmp_path / "damaged.tflite"
    for _ in range(60):
        data = bytearray(whole)
        if rng.random() < 0.3:
            del data[int(rng.integers(len(data))) :]
        else:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        if not refusal(path):  # where the name of our entry is hit, it is somebody else's file, and may be whole
            assert RUNTIME.open(path)._model.facts is None


@pytest.mark.parametrize("seed", range(6))
def test_damaged_files_of_others_never_end_this_process(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(cases.foreign(tmp_path / "other.tflite", limits=(0.0, 1.0)).read_bytes())
    for _ in range(3):
        data[int(rng.integers(8, len(data)))] = int(rng.integers(256))
    path = tmp_path / "hit.tflite"
    path.write_bytes(data)
    assert "\n" not in refusal(path)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["deeplabv3_mnv2_pascal_quant", "ptq_weights_only_pascal", "qat_finetuned_pascal"])
def test_deeplab_files_of_others_run_with_no_flag(name: str, shared: Path) -> None:
    from bitfront.verbs.scoring import evaluate

    folder = shared / "models" / "deeplab_tflite"
    found = evaluate(
        str(folder / f"{name}.tflite"),
        image=folder / "bird_segmentation.png",
        mask=folder / "bird_segmentation_mask.png",
    )
    assert found.runtime == "litert"
    accuracy = found.metrics.values["pixel_accuracy"]
    assert accuracy is not None
    assert accuracy >= 0.975
    assert any("XNNPACK cannot run" in note for note in found.notes) == name.startswith("qat")
