"""Integer C on emulated Cortex-M: the same random networks, every layer. ``make test-arm`` runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from c_nets import random_net

from bitfront.measure import emulated
from bitfront.measure.emulated import CORES
from bitfront.runtimes import c_build, c_source
from bitfront.runtimes.c_emulated import firmware, hashes

NEEDS = emulated.missing()
pytestmark = [pytest.mark.arm, pytest.mark.skipif(bool(NEEDS), reason=NEEDS or "-"), pytest.mark.timeout(1800)]
N_NETS, TOGETHER = 200, 50


@pytest.mark.parametrize("core", CORES)
def test_random_networks_agree_on(core: str) -> None:
    rng = np.random.default_rng(7)
    for first in range(0, N_NETS, TOGETHER):
        nets = [random_net(rng, first + i) for i in range(TOGETHER)]
        frames = emulated.run([firmware(net.written, list(net.images)) for net in nets], CORES[core])
        wanted = [n for net in nets for n in hashes(net.graph, net.plan, net.written, list(net.images))]
        assert [frame.hashed for frame in frames] == wanted


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("plain", [(), ("-DBF_PLAIN",)], ids=["own instructions", "plain"])
def test_kernels_compile_without_warnings_for(core: str, plain: tuple[str, ...], tmp_path: Path) -> None:
    for name, text in c_source.kernels().items():
        (tmp_path / name).write_text(text)
    units = [name for name in c_source.kernels() if name.endswith(".c")]
    flags = ["-std=c99", "-O2", "-mthumb", *CORES[core].flags, *c_build.STRICT, *plain]
    done = subprocess.run(["arm-none-eabi-gcc", *flags, "-c", *units], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")


def test_plain_kernels_agree_too() -> None:
    rng = np.random.default_rng(8)
    nets = [random_net(rng, i) for i in range(24)]
    flags = (*emulated.RELEASE, "-DBF_PLAIN")
    frames = emulated.run([firmware(n.written, list(n.images)) for n in nets], CORES["cortex_m55"], flags)
    wanted = [h for n in nets for h in hashes(n.graph, n.plan, n.written, list(n.images))]
    assert [frame.hashed for frame in frames] == wanted
