"""Graph and plan as one file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bitfront.errors import DataError, UsageError
from bitfront.graph.files import load, save
from bitfront.graph.ir import Graph, Node, Tensor
from bitfront.quant.formats import Affine, Float16, Qmn
from bitfront.quant.plan import Plan


@pytest.fixture
def example(rng: np.random.Generator) -> tuple[Graph, Plan]:
    weight, bias = rng.normal(size=(2, 3, 1, 1)).astype(np.float32), rng.normal(size=2).astype(np.float32)
    attributes = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1, "clip": (0.0, math.inf)}
    nodes = (
        Node("c", "conv", ("x", "w", "b"), "y", attributes),
        Node("p", "clip", ("y",), "z", {"lo": -math.inf, "hi": 6.0}),
    )
    tensors = {
        "x": Tensor("x", (1, 3, 4, 4), "input"),
        "w": Tensor("w", weight.shape, "weight"),
        "b": Tensor("b", bias.shape, "bias"),
        "y": Tensor("y", (1, 2, 4, 4), "activation"),
        "z": Tensor("z", (1, 2, 4, 4), "activation"),
    }
    graph = Graph(nodes, tensors, {"w": weight, "b": bias}, ("x",), ("z",))
    formats = {"w": Affine(8, (0.5, 0.25), (0, 0), True, 0, True), "x": Qmn(8, 4), "y": Float16()}
    return graph, Plan("int8", formats, {"signed_activations": True})


def test_back_as_it_was(tmp_path: Path, example: tuple[Graph, Plan]) -> None:
    graph, plan = example
    path = tmp_path / "m.reference.safetensors"
    save(path, graph, plan)
    again, its_plan = load(path)
    assert again.id == graph.id
    assert its_plan.id == plan.id
    assert again.nodes == graph.nodes
    assert its_plan.formats == plan.formats
    assert its_plan.options == plan.options


def test_damage_is_named(tmp_path: Path, example: tuple[Graph, Plan], rng: np.random.Generator) -> None:
    path = tmp_path / "m.safetensors"
    save(path, *example)
    data = path.read_bytes()
    n_refused = 0
    for _ in range(200):
        broken = bytearray(data[: int(rng.integers(len(data)))] if rng.random() < 0.3 else data)
        for place in rng.integers(len(broken) or 1, size=3):
            if broken:
                broken[place] = int(rng.integers(256))
        path.write_bytes(bytes(broken))
        try:
            load(path)
        except (DataError, UsageError) as error:
            n_refused += 1
            assert error.hint  # noqa: PT017
    assert n_refused > 150


def test_what_is_no_reference(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path / "none")
    other = tmp_path / "other"
    other.write_bytes(b"")
    with pytest.raises(DataError, match="no reference file"):
        load(other)
