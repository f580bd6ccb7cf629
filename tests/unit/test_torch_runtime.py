"""torch as an engine: files that hold a graph and its plan, computed as they are trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import DataError, UsageError
from bitfront.graph import capture, files
from bitfront.graph.ir import Graph
from bitfront.graph.passes import prepare
from bitfront.models.tiny import Tiny
from bitfront.quant import recipes
from bitfront.quant.plan import Plan
from bitfront.runtimes.torch_runtime import TorchRuntime
from bitfront.simulate import reference

CONTRACT, OUTPUT = InputContract(16, 16, mean=(0.5,) * 3), OutputContract(classes=("a", "b"))


@pytest.fixture
def graph() -> Graph:
    return prepare(capture.from_module(Tiny().build().eval(), (1, 3, 16, 16)))


def test_a_file_says_how_it_is_fed_and_runs(graph: Graph, rng: np.random.Generator, tmp_path: Path) -> None:
    x = rng.normal(size=(3, 3, 16, 16)).astype(np.float32)
    path = TorchRuntime().export(graph, Plan("float32"), tmp_path, CONTRACT, OUTPUT)
    assert (TorchRuntime().describe(path).input, TorchRuntime().describe(path).output) == (CONTRACT, OUTPUT)
    session = TorchRuntime().open(path)
    np.testing.assert_allclose(session.run(x), reference.run(graph, x)[graph.outputs[0]], atol=1e-4)
    with pytest.raises(DataError, match="torch cannot run") as caught:
        session.run(x[:, :2])
    assert "\n" not in str(caught.value)
    session.close()
    with pytest.raises(DataError, match="is closed"):
        session.run(x)


def test_half_precision_keeps_activations(graph: Graph, rng: np.random.Generator, tmp_path: Path) -> None:
    """Fused activations act under formats without a range, too."""
    x = rng.normal(size=(1, 3, 16, 16)).astype(np.float32)
    half, plan = recipes.build("float16", graph, batches=[x])
    got = TorchRuntime().open(TorchRuntime().export(half, plan, tmp_path, CONTRACT, OUTPUT)).run(x)
    want = reference.run(graph, x)[graph.outputs[0]]
    np.testing.assert_allclose(got, want, atol=0.02 * np.ptp(want))


def test_what_is_no_such_file_is_one_line(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dynamic recipe"):
        TorchRuntime().export(graph, Plan("dynamic", {}, {"dynamic": True}), tmp_path, CONTRACT, OUTPUT)
    path = tmp_path / "bare.graph"
    files.save(path, graph, Plan("float32"))
    with pytest.raises(DataError, match="does not say how it is fed"):
        TorchRuntime().open(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="is no reference file"):
        TorchRuntime().describe(path)
    with pytest.raises(DataError, match="cannot read"):
        TorchRuntime().open(tmp_path / "gone.graph")
