from __future__ import annotations

from dataclasses import replace

import pytest

from bitfront.contracts import Device, InputContract, Metrics, Objective, OutputContract
from bitfront.measure.emulated import CORES
from bitfront.measure.on_device import residual
from bitfront.quant.costs import BOARDS
from bitfront.quant.instructions import cores
from bitfront.record import Artifact, Candidate, Measurement, OnDevice, Record
from bitfront.registry import load, names

EMPTY = Record(Candidate("m", {}, "int8", "r"), "failed")
FULL = Record(
    Candidate("m", {}, "int8", "r"),
    "front",
    artifact=Artifact("a.onnx", "r", "int8", 1234, "", InputContract(8, 8), OutputContract()),
    val=Metrics("miou", {"miou": 0.75, "dice": None}, {}),
    latency=Measurement(3.5, "ms"),
    macs=1000,
    peak_bytes=300,
    ram_bytes=9000,
    flash_bytes=77,
)
THERE = replace(FULL, on_device=OnDevice("mcu", flash_bytes=9000, ram_bytes=4000, instructions=5e6, latency_ms=2.5))
ON_DEVICE = {"flash": 9000.0, "ram": 4000.0, "instructions": 5e6, "modelled_latency": 2.5}
EXPECTED = {"score": 0.75, "size": 1234.0, "latency": 3.5, "macs": 1000.0, "ram": 300.0, "flash": 77.0}


@pytest.mark.parametrize("name", names("objective"))
def test_objective_reads_records(name: str) -> None:
    objective = load("objective", name)()
    assert isinstance(objective, Objective)
    assert objective.name == name
    assert isinstance(objective.maximize, bool)
    assert objective.value(EMPTY) is None
    assert objective.value(FULL) == EXPECTED.get(name)
    assert objective.value(THERE) == {**EXPECTED, **ON_DEVICE}[name]


def test_an_undefined_score_is_not_zero() -> None:
    record = Record(Candidate("m", {}, "int8", "r"), "front", val=Metrics("dice", {"dice": None}, {}))
    assert load("objective", "score")().value(record) is None


@pytest.mark.parametrize("name", names("device"))
def test_device_is_data(name: str) -> None:
    device = load("device", name)
    assert isinstance(device, Device)
    assert device.name == name
    assert set(device.runtimes) <= set(names("runtime"))
    assert device.threads >= 1
    assert set(device.recipes) <= {recipe for runtime in device.runtimes for recipe in load("runtime", runtime).recipes}
    assert device.kind in ("host", "microcontroller", "npu")
    assert set(device.objectives) <= set(names("objective"))
    assert not device.core or device.core in set(CORES) & set(cores())
    assert not device.board or device.board in BOARDS
    assert device.kind == "host" or "modelled" in residual(device)
