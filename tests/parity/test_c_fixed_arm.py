"""Integer C on emulated Cortex-M: the same random networks, every layer. ``make test-arm`` runs it."""

from __future__ import annotations

import numpy as np
import pytest
from c_nets import random_net

from bitfront.measure import emulated
from bitfront.measure.emulated import CORES
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
