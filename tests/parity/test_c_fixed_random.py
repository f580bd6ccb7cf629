"""Integer C against the reference: random networks, every layer, every code."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from c_nets import BLOCKS, differing, random_net

from bitfront.runtimes import c_build

pytestmark = pytest.mark.skipif(bool(c_build.missing()), reason=c_build.missing() or "-")
QUICK = ("-std=c99", "-O0")
SANITIZED = ("-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *c_build.STRICT)
TOGETHER = 250


def check(rng: np.random.Generator, n: int, flags: tuple[str, ...], first: int = 0) -> None:
    found, _ = differing([random_net(rng, first + i) for i in range(n)], flags)
    assert not found, "\n".join(found[:5])


def test_random_networks_agree_in_every_code(rng: np.random.Generator) -> None:
    nets = [random_net(rng, i) for i in range(200)]
    ops = {node.op for net in nets for node in net.graph.nodes}
    assert len(ops) >= 26, sorted(ops)
    assert sum(net.written.program.window_bytes > 0 for net in nets) > 10
    found, n_codes = differing(nets, QUICK)
    assert not found, "\n".join(found[:5])
    assert n_codes > 100_000


def test_no_sanitizer_and_no_warning_speaks_up(rng: np.random.Generator) -> None:
    check(rng, BLOCKS, SANITIZED)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_5000_random_networks_agree_in_every_code(rng: np.random.Generator) -> None:
    for first in range(0, 5000, TOGETHER):
        check(rng, TOGETHER, c_build.RELEASE, first)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_500_random_networks_pass_sanitizers(rng: np.random.Generator) -> None:
    for first in range(0, 500, 100):
        check(rng, 100, SANITIZED, first)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed")
def test_clang_agrees(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_build, "COMPILERS", ("clang",))
    check(rng, 100, (*c_build.RELEASE, *c_build.STRICT))
