"""A run for a microcontroller: what the device settles, what is refused before anything is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitfront.device import Device
from bitfront.errors import BudgetError, UsageError
from bitfront.fitting.config import BitSearch, Config
from bitfront.fitting.request import open_request
from bitfront.fitting.target import for_device, least_bytes
from bitfront.graph.builder import Builder
from bitfront.measure import emulated, on_device
from bitfront.pipeline import fit, plan_search
from bitfront.quant.costs import Costs
from bitfront.quant.plan import Plan
from bitfront.record import Artifact, Budget, Candidate, OnDevice, Record
from bitfront.registry import load
from bitfront.search.front import violations
from bitfront.sources import open_data
from bitfront.verbs.data import convert

M7: Device = load("device", "cortex_m7")
H7: Device = load("device", "stm32h7")
HOST: Device = load("device", "host")


def test_a_device_settles_what_is_not_said() -> None:
    settled = for_device(Config(bits=BitSearch("surrogate")), M7)
    assert (settled.runtime, settled.objectives) == ("c_fixed", ("score", "instructions", "flash"))
    assert (settled.bits.costs, settled.bits.rounding) == (("flash", "instructions"), "half_up")
    host = for_device(Config(bits=BitSearch("surrogate")), HOST)
    assert (host.runtime, host.objectives) == ("onnxruntime", ("score", "latency", "size"))
    assert (host.bits.costs, host.bits.rounding) == (("flash",), "")
    said = Config(runtime="x", objectives=("score",), bits=BitSearch("surrogate", costs=("ram",), rounding="half_even"))
    settled = for_device(said, M7)
    assert (settled.runtime, settled.objectives, settled.bits) == (said.runtime, said.objectives, said.bits)


def test_the_memory_of_a_board_is_a_limit() -> None:
    budget = for_device(Config(budget=Budget(max_size_bytes=1 << 22, max_ram_bytes=1000)), H7).budget
    assert (budget.max_size_bytes, budget.max_ram_bytes) == (2 << 20, 1000)
    assert for_device(Config(), HOST).budget == Budget()


def test_costs_that_a_device_does_not_have() -> None:
    with pytest.raises(UsageError, match="'modelled_latency': nothing models the time on cortex_m7"):
        for_device(Config(objectives=("score", "modelled_latency")), M7)
    with pytest.raises(UsageError, match="'instructions': no instructions are counted on host"):
        for_device(Config(bits=BitSearch("surrogate", costs=("instructions",))), HOST)
    with pytest.raises(UsageError, match="unknown cost of a bit search"):
        plan_search("tiny", "conveyor", bits=BitSearch("surrogate", costs=("watts",)), device="cortex_m4")


def test_what_a_network_takes_at_least() -> None:
    b = Builder()
    weight = b.constant("w", np.ones((4, 3, 3, 3)), "weight")
    window = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "groups": 1, "clip": None}
    x = b.node("conv", "c", [b.input("x", (1, 3, 8, 8)), weight], **window)
    assert least_bytes(b.build([x]), 3) == (-(-108 * 3 // 8), 3 * 64 + 4 * 64)


@pytest.mark.parametrize(
    ("budget", "what"), [(Budget(max_size_bytes=2000), "of flash"), (Budget(max_ram_bytes=2000), "of RAM")]
)
def test_what_can_never_fit_is_refused_at_once(budget: Budget, what: str, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=f"no network of the space fits 2,000 bytes {what}: the smallest takes"):
        fit("tiny", "conveyor", budget=budget, settings={"resolution": (64, 64)}, device="cortex_m7", runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_device_has_its_engines(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cortex_m7 does not run litert"):
        fit("tiny", "conveyor", runtime="litert", device="cortex_m7", runs=tmp_path)


def test_limits_hold_on_the_device() -> None:
    there = OnDevice("cortex_m7", flash_bytes=70_000, ram_bytes=130_000)
    artifact = Artifact("a.zip", "c_fixed", "qmn8", 9000, "", None, None)  # type: ignore[arg-type]
    record = Record(Candidate("m", {}, "qmn8", "c_fixed"), "dominated", artifact=artifact, on_device=there)
    assert violations(record, Budget(max_size_bytes=64_000, max_ram_bytes=128_000)) == [
        "flash 70 kB > 64 kB by 9 %",
        "RAM 130 kB > 128 kB by 2 %",
    ]
    assert violations(replace(record, on_device=None, peak_bytes=1), Budget(None, 64_000, max_ram_bytes=128_000)) == []


def test_what_is_modelled_says_so() -> None:
    b = Builder()
    graph = b.build([b.node("neg", "y", [b.input("x", (1, 1, 4, 4))])])
    found = on_device.modelled(H7, graph, Plan("none"), (100, 200))
    assert (found.device, found.ram_bytes, found.latency_ms) == ("stm32h7", 200, 0.0)
    assert found.flash_bytes > 4000, "the program comes on top"
    assert found.instructions is not None
    assert found.residual.count("modelled") == 2
    assert (found.counted_instructions, found.linked_bytes) == (None, None)
    npu = on_device.modelled(load("device", "stm32n6"), graph, Plan("none"))
    assert (npu.instructions, npu.ram_bytes) == (None, int(Costs(graph).ram_bytes({})))


def test_a_front_for_a_microcontroller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an emulator: files of C alone, costs modelled, the float network beside them."""
    monkeypatch.setattr(emulated, "missing", lambda: "apt-get install something")
    run = fit(
        "tiny", str(converted(tmp_path)), device="cortex_m7",
        budget=Budget(max_size_bytes=64_000, max_ram_bytes=128_000),
        settings={"resolution": (32, 32), "width": 0.5}, epochs=1, batch_size=4, runs=tmp_path / "runs",
        bits=BitSearch("uniform", weight_bits=(4, 8)),
    )  # fmt: skip
    assert run.met
    assert run.front
    for member in run.front:
        there = member.record.on_device
        assert there is not None
        assert member.record.candidate.runtime == "c_fixed"
        assert 4_000 < there.flash_bytes < 64_000
        assert 32 * 32 * 3 < there.ram_bytes < 128_000
        assert there.instructions is not None
        assert there.counted_instructions is None
        manifest = json.loads((member.model.parent / "manifest.json").read_text())
        assert manifest["on_device"]["instructions"] == there.instructions
        assert "modelled" in (member.model.parent / "CARD.md").read_text()
    (yardstick,) = [r for r in run.records() if r.candidate.recipe == "float32"]
    assert (yardstick.status, yardstick.reason) == ("dropped", "held against: cortex_m7 has no onnxruntime")
    (told,) = run.value("searches")
    assert told["costs"] == ["flash", "instructions"]
    made = {r.id: r for r in run.records() if r.candidate.plan}
    assert made
    for member in told["front"]:
        record = made[member["candidate"]]
        assert record.on_device is not None
        assert member["costs"] == [record.flash_bytes, pytest.approx(record.on_device.instructions, abs=1)]
    assert any("modelled, not counted: apt-get install something" in event.text for event in run.events)
    assert "Instructions" in (run.path / "report.html").read_text()


def converted(folder: Path) -> Path:
    convert(open_data("conveyor", size=32, n_train=8, n_val=4, n_test=2), folder / "scenes")
    return folder / "scenes"


def test_what_the_readme_asks_of_a_microcontroller_fits() -> None:
    """Neither model nor data named: networks are explored that leave room for the program."""
    budget = Budget(max_size_bytes=64_000, max_ram_bytes=128_000)
    request = open_request(Config(device="cortex_m7", budget=budget))
    assert len(request.architectures) == 4
    assert all(a.options["width"] == 0.125 for a in request.architectures)
    assert {way.recipe for way in request.ways} == {"float32", "qmn8"}
