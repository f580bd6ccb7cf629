"""The graph refuses what is not well formed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bitfront.graph.builder import Builder
from bitfront.graph.ir import OPERATORS, Graph, Node, Tensor
from bitfront.simulate.operators import OPERATORS as EXECUTED


def chain() -> Graph:
    draft = Builder()
    x = draft.input("x", (1, 2, 4, 4))
    a = draft.node("clip", "a", [x], lo=0.0, hi=1.0)
    scale = draft.constant("k", np.full((2, 1, 1), 2.0), "constant")
    return draft.build([draft.node("add", "c", [draft.node("mul", "b", [a, scale]), a], clip=None)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": (Node("a", "fft", ("x",), "a"),)}, "node 'a': unknown operator 'fft'"),
        ({"nodes": (Node("a", "neg", ("z",), "a"),)}, "node 'a': input 'z' is not computed before it"),
        ({"nodes": (Node("a", "neg", ("x",), "x"),)}, "node 'a': tensor 'x' has two producers"),
        ({"outputs": ("nowhere",)}, "tensor 'nowhere' has no shape"),
        ({"nodes": (Node("a", "neg", ("x",), "a"),)}, "output 'c' is never computed"),
        ({"constants": {"k": np.ones(3, np.float32)}}, r"constant 'k': shape \(3,\) is not \(2, 1, 1\)"),
    ],
)
def test_malformed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(chain(), **change)


def test_questions() -> None:
    graph = chain()
    producer = graph.producer("b")
    assert producer is not None
    assert producer.name == "b"
    assert graph.producer("x") is None
    assert [n.name for n in graph.consumers("a")] == ["b", "c"]
    assert [t.name for t in graph.named("activation")] == ["a", "b", "c"]
    assert [t.name for t in graph.named("constant")] == ["k"]
    with pytest.raises(KeyError, match="axis"):
        graph.nodes[0]["axis"]


def test_content_id_follows_the_values() -> None:
    graph = chain()
    assert graph.id == chain().id
    assert graph.with_constants({"k": np.zeros((2, 1, 1), np.float32)}).id != graph.id
    assert replace(graph, outputs=("a",)).id != graph.id


def test_every_operator_is_executed() -> None:
    assert set(EXECUTED) == set(OPERATORS)


def test_builder_names_are_unique_and_constants_shared() -> None:
    draft = Builder()
    x = draft.input("x", (1, 1, 2, 2))
    assert draft.constant("k", [1.0]) == draft.constant("k", [1.0]) == "k"
    assert draft.constant("k", [2.0]) == "k_1"
    assert [draft.node("neg", "n", [x]), draft.node("neg", "n", [x])] == ["n", "n_1"]
    assert draft.shape("n_1") == (1, 1, 2, 2)
    assert isinstance(draft.build(["n"]).tensors["x"], Tensor)
