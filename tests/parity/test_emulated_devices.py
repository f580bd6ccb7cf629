"""What the emulator counts against what is modelled; ``make test-arm`` runs it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bitfront import cli
from bitfront.contracts import InputContract, OutputContract
from bitfront.device import Device
from bitfront.errors import DeviceError
from bitfront.graph import capture, files, passes
from bitfront.graph.ir import Graph
from bitfront.measure import emulated, on_device
from bitfront.quant.instructions import prices
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import build
from bitfront.registry import load
from bitfront.runtimes.c_fixed import CFixed

NEEDS = emulated.missing()
pytestmark = [pytest.mark.arm, pytest.mark.skipif(bool(NEEDS), reason=NEEDS or "-"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def network() -> tuple[Graph, Plan]:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = load("model", "tiny")(classes=3).build().eval()
    flat = passes.prepare(capture.from_module(module, (1, 3, 32, 32)))
    images = [np.random.default_rng(i).normal(0, 1, (1, 3, 32, 32)).astype(np.float32) for i in range(4)]
    return build("qmn8", flat, batches=images)


def written(network: tuple[Graph, Plan], folder: Path, **options: bool) -> Path:
    path = CFixed(**options).export(*network, folder, InputContract(32, 32), OutputContract())  # type: ignore[arg-type]
    files.save(path.with_suffix(files.SUFFIX), *network)
    return path


@pytest.mark.parametrize("name", ["cortex_m4", "cortex_m7", "cortex_m55", "stm32h7"])
def test_the_model_is_near_what_is_counted(name: str, network: tuple[Graph, Plan], tmp_path: Path) -> None:
    device: Device = load("device", name)
    path = written(network, tmp_path)
    modelled = on_device.modelled(device, *network, CFixed().footprint(path))
    found = on_device.counted(modelled, device, CFixed(), path)
    assert found.counted_instructions is not None
    assert found.instructions == pytest.approx(found.counted_instructions, rel=2 * prices(device.core).largest_error)
    assert found.linked_bytes is not None
    assert CFixed().size(path) < found.linked_bytes <= found.flash_bytes
    assert "qemu" in found.counted_with


def test_counts_repeat_and_a_streamed_image_costs_little(network: tuple[Graph, Plan], tmp_path: Path) -> None:
    whole, rows = written(network, tmp_path / "a"), written(network, tmp_path / "b", stream_input=True)
    (first, _), (again, _), (streamed, _) = (CFixed().emulate(p, "cortex_m4") for p in (whole, whole, rows))
    assert first == again
    assert streamed.hashed == first.hashed
    assert streamed.instructions == pytest.approx(first.instructions, rel=0.5)
    assert len(first.layers) == len(network[0].nodes)


def test_inspect_tells_it(network: tuple[Graph, Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(network, tmp_path)
    assert cli.main(["inspect", str(path), "--device", "cortex_m4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counted_instructions"] > 10_000
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("model/manifest.json"))
    assert manifest["modelled"]["cores"]["cortex_m4"]["instructions"] == told["instructions"]
    assert manifest["modelled"]["boards"]["stm32h7"]["residual"].startswith("modelled")


def test_what_does_not_fit_the_machine_says_so() -> None:
    big = emulated.Firmware(
        "big", {"big.c": "void big_run(void *a); void big_run(void *a) { (void)a; }"}, 8 << 20, 0, [b"1"]
    )
    with pytest.raises(DeviceError, match="arm-none-eabi-gcc refuses"):
        emulated.run([big], emulated.CORES["cortex_m4"])
