"""c_fixed in the commands: plans that were found before become C; runs get the float network from ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitfront.contracts import InputContract, OutputContract, Runtime
from bitfront.errors import UsageError
from bitfront.fitting.config import BitSearch, Config
from bitfront.fitting.searching import menu_options, picked
from bitfront.fitting.space import choose_recipes
from bitfront.graph import files
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.pipeline import plan
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import build
from bitfront.registry import runtime_of
from bitfront.runtimes.c_fixed import CFixed
from bitfront.runtimes.onnxruntime import OnnxRuntime
from bitfront.search.evaluations import Member
from bitfront.search.space import Gene, Space
from bitfront.verbs.artifacts import size_of
from bitfront.verbs.companions import companions
from bitfront.verbs.making import export
from bitfront.verbs.opening import open_both
from bitfront.verbs.plans import open_plan

CONTRACT, OUTPUT = InputContract(8, 8), OutputContract(classes=("background", "object"))


def network(rng: np.random.Generator, n: int = 2) -> Graph:
    b = Builder()
    weight = b.constant("w", rng.normal(0, 0.4, (n, 3, 3, 3)), "weight")
    bias = b.constant("b", rng.normal(0, 0.2, n), "bias")
    rest = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "groups": 1, "clip": None}
    return b.build([b.node("conv", "head", [b.input("image", (1, 3, 8, 8)), weight, bias], **rest)])


@pytest.fixture
def model(rng: np.random.Generator, tmp_path: Path) -> Path:
    """A float file of the network."""
    return OnnxRuntime().export(network(rng), Plan("float32"), tmp_path / "float", CONTRACT, OUTPUT)


def test_a_stored_plan_becomes_c(model: Path, rng: np.random.Generator, tmp_path: Path) -> None:
    images = rng.normal(0, 1, (4, 3, 8, 8)).astype(np.float32)
    graph, found = build("qmn8", network(rng), batches=[images])
    reference = tmp_path / f"searched{files.SUFFIX}"
    files.save(reference, graph, found)
    made = export(str(model), tmp_path / "net.zip", plan=reference)
    assert (made.runtime, made.recipe, made.resolution) == ("c_fixed", "qmn8", (8, 8))
    again = companions(made.path).reference
    assert again is not None
    assert files.load(again)[1].id == found.id
    assert open_plan(made.path)[1].id == found.id, "an artifact in C stands for its plan"
    assert CFixed().describe(made.path).output.classes == ("background", "object")
    engine = CFixed()
    assert made.size_bytes == size_of(engine, made.path) == engine.size(made.path) < made.path.stat().st_size
    assert size_of(OnnxRuntime(), model) == model.stat().st_size
    with pytest.raises(UsageError, match=r"does not end in \.zip"):
        export(str(model), tmp_path / "net.bin", plan=reference, runtime="c_fixed")


def test_files_in_c_are_models(model: Path, rng: np.random.Generator, tmp_path: Path) -> None:
    graph, found = build("qmn8", network(rng), batches=[rng.normal(0, 1, (4, 3, 8, 8)).astype(np.float32)])
    path = CFixed().export(graph, found, tmp_path, CONTRACT, OUTPUT)
    assert runtime_of(path) == "c_fixed"
    source = open_both(str(path), None).source
    assert (source.kind, source.runtime, source.input) == ("artifact", "c_fixed", CONTRACT)


def test_float_is_left_to_onnx_runtime(rng: np.random.Generator, tmp_path: Path) -> None:
    output = OutputContract(classes=("background", "carton", "mailer", "tube"))
    model = OnnxRuntime().export(network(rng, 4), Plan("float32"), tmp_path, CONTRACT, output)
    assert isinstance(CFixed(), Runtime)
    assert choose_recipes(None, CFixed().recipes) == ("float32", "qmn8")
    with pytest.raises(UsageError, match="no runtime of the run exports 'int8'"):
        choose_recipes(["int8"], CFixed().recipes)
    asked = plan(Config(str(model), "conveyor", runtime="c_fixed", effort="single", limit=4))
    assert asked["runtimes"] == ["onnxruntime", "c_fixed"]
    assert asked["recipes"] == ["float32", "qmn8"]
    assert asked["evaluations"] == 2, "one float file and one in C"


def test_members_with_float_tensors_become_no_c() -> None:
    space = Space((Gene("w", "weight", (4, 8), 9), Gene("b", "bias", (8,), 3), Gene("y", "activation", (8,), 9)))
    genomes = {(4, 8, 8): 10.0, (8, 32, 8): 20.0, (4, 8, 32): 30.0}
    front = [Member(genome, 0.9, (cost,), 1) for genome, cost in genomes.items()]
    searched: Any = SimpleNamespace(space=space, floor=0.5, result=SimpleNamespace(float_score=0.9, front=front))
    assert {m.genome for m in picked(searched, 3)} == set(genomes)
    assert {m.genome for m in picked(searched, 3, integers=True)} == {(4, 8, 8), (8, 32, 8)}


def test_rounding_of_a_search() -> None:
    assert menu_options(BitSearch("surrogate", rounding="half_up")).rounding == "half_up"
    assert menu_options(BitSearch("surrogate")).rounding == "half_even"
    with pytest.raises(UsageError, match="up"):
        menu_options(BitSearch("surrogate", rounding="up"))
