"""Integer C on emulated Cortex-M: the same random networks, every layer. ``make test-arm`` runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from arm import CORES, Core, missing, run, wanted
from c_nets import random_net

pytestmark = [pytest.mark.arm, pytest.mark.skipif(bool(missing()), reason=missing() or "-"), pytest.mark.timeout(1800)]
N_NETS, TOGETHER = 200, 50


@pytest.mark.parametrize("core", CORES, ids=lambda core: core.name)
def test_random_networks_agree_on(core: Core, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    for first in range(0, N_NETS, TOGETHER):
        nets = [random_net(rng, first + i, streams=False) for i in range(TOGETHER)]
        folder = tmp_path / str(first)
        folder.mkdir()
        found = [hashed for hashed, _ in run(nets, core, folder)]
        assert found == [hashed for net in nets for hashed in wanted(net)]
