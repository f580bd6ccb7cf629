"""The vectors of the numeric contract: the file is what fractions give; the reference and C agree with it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numeric_vectors import PLACE, text

from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.quant.formats import Qmn
from bitfront.quant.plan import Plan
from bitfront.runtimes import c_build, c_source
from bitfront.runtimes.c_pack import pack, unpack
from bitfront.runtimes.c_session import Child, CSession
from bitfront.simulate import reference

VECTORS: dict[str, Any] = json.loads(PLACE.read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = VECTORS["cases"]


def form(item: dict[str, Any]) -> Qmn:
    return Qmn(item["bits"], item["frac_bits"], item["signed"])


def network(case: dict[str, Any]) -> tuple[Graph, Plan, np.ndarray]:
    """One node, its formats, and the image that has the case's codes."""
    b, forms, names = Builder(), {}, []
    decoded = [form(item).decode(np.array(item["codes"]).reshape(item["shape"])) for item in case["inputs"]]
    for i, item in enumerate(case["inputs"]):
        name = b.constant(f"k{i}", decoded[i], item["kind"]) if i else b.input("x", item["shape"])
        forms[name] = form(item)
        names.append(name)
    y = b.node(case["op"], "y", names, **case["attributes"])
    return b.build([y]), Plan("case", {**forms, y: form(case["output"])}, {"rounding": case["rounding"]}), decoded[0]


def test_the_file_is_what_fractions_give() -> None:
    assert PLACE.read_text(encoding="utf-8") == text(), "python tests/golden/numeric_vectors.py writes it anew"
    assert len(CASES) > 100


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_reference_agrees(case: dict[str, Any]) -> None:
    graph, plan, image = network(case)
    codes = reference.run(graph, image, plan)["y"]
    assert codes.ravel().tolist() == case["output"]["codes"]


@pytest.mark.skipif(bool(c_build.missing()), reason=c_build.missing() or "-")
def test_the_c_agrees() -> None:
    nets = [network(case) for case in CASES]
    written = [c_source.write(graph, plan, f"case{i}") for i, (graph, plan, _) in enumerate(nets)]
    child = Child(c_build.build(written, ("-std=c99", "-O0")))
    wrong = []
    for i, (case, (_, _, image)) in enumerate(zip(CASES, nets, strict=True)):
        traced = CSession(child, written[i].program, i).trace(image)["y"]
        if traced.ravel().tolist() != case["output"]["codes"]:
            wrong.append(case["name"])
    child.close()
    assert not wrong


@pytest.mark.parametrize("item", VECTORS["packed"], ids=lambda item: f"{item['bits']} bits")
def test_packed_weights(item: dict[str, Any]) -> None:
    rows = np.array(item["rows"])
    assert pack(rows, item["bits"]).tolist() == item["bytes"]
    assert np.array_equal(unpack(np.array(item["bytes"], np.uint8), item["bits"], *rows.shape), rows)
