"""The fast simulation against the reference: every code of every tensor, on random networks and plans."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import zoo
from fixed_point_plans import fixed_point_plan
from numpy.typing import NDArray
from random_nets import plan_for, powers_of_two, random_net

from bitfront.graph import capture, passes
from bitfront.graph.ir import Graph
from bitfront.quant.formats import Affine, Qmn
from bitfront.quant.plan import Plan
from bitfront.simulate import reference
from bitfront.simulate.fast import Fast

N_BUILT, N_CAPTURED = 170, 30
N_SLOW = 5000


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only lose time to threads."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def drawn(rng: np.random.Generator) -> Graph:
    return random_net(rng, int(rng.choice([6, 8, 12])), int(rng.integers(2, 6)))


def captured(rng: np.random.Generator) -> Graph:
    module, shape = zoo.random_module(int(rng.integers(1 << 30)))
    return passes.prepare(capture.from_module(module, shape))


def plans(graph: Graph, images: NDArray[np.float32], rng: np.random.Generator) -> Iterator[Plan]:
    yield fixed_point_plan(graph, images, rng)
    yield fixed_point_plan(graph, images, rng, rounding="half_up")
    yield plan_for(graph, images, "int8") if rng.random() < 0.5 else powers_of_two(plan_for(graph, images, "int8_s8s8"))


def n_differing(graph: Graph, rng: np.random.Generator) -> int:
    images = rng.normal(0, 1, (3, *graph.tensors[graph.inputs[0]].shape[1:])).astype(np.float32)
    fast, total = Fast(graph, images, batch_size=2, n_cuts=3), 0
    for plan in plans(graph, images, rng):
        wanted, got = reference.run(graph, images, plan, keep="*"), fast.run(plan, keep="*")
        again = fast.run(plan)  # from the last cut
        assert {name: got[name].dtype for name in wanted} == {name: wanted[name].dtype for name in wanted}
        total += sum(int((got[name] != wanted[name]).sum()) for name in wanted)
        total += sum(int((again[name] != wanted[name]).sum()) for name in graph.outputs)
    return total


@pytest.mark.parametrize("seed", range(N_BUILT))
def test_codes_of_built_networks(seed: int) -> None:
    rng = np.random.default_rng([seed, 31])
    assert n_differing(drawn(rng), rng) == 0


@pytest.mark.parametrize("seed", range(N_CAPTURED))
def test_codes_of_captured_networks(seed: int) -> None:
    rng = np.random.default_rng([seed, 32])
    assert n_differing(captured(rng), rng) == 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_codes_of_thousands() -> None:
    for seed in range(N_SLOW):
        rng = np.random.default_rng([seed, 33])
        graph = captured(rng) if seed % 5 == 0 else drawn(rng)
        assert n_differing(graph, rng) == 0, seed


@pytest.mark.gpu
def test_codes_on_a_gpu() -> None:
    for seed in range(100):
        rng = np.random.default_rng([seed, 34])
        graph = drawn(rng)
        images = rng.normal(0, 1, (3, *graph.tensors[graph.inputs[0]].shape[1:])).astype(np.float32)
        fast = Fast(graph, images, device="cuda")
        for plan in plans(graph, images, rng):
            wanted, got = reference.run(graph, images, plan, keep="*"), fast.run(plan, keep="*")
            for name, codes in wanted.items():
                np.testing.assert_array_equal(got[name], codes, err_msg=f"{seed} {name}")


# --- caches ----------------------------------------------------------------------------------------------------------
def test_changed_formats_never_meet_old_values(rng: np.random.Generator) -> None:
    """One tensor changed at a time, in random order, with a cache too small for all: always the reference's codes."""
    graph = random_net(rng, 12, 5)
    images = rng.normal(0, 1, (5, 3, 12, 12)).astype(np.float32)
    template = fixed_point_plan(graph, images, rng, activation_bits=(8,))
    fast = Fast(graph, images, template, batch_size=2, n_cuts=4, prefix_bytes=60_000)
    names = [name for name, form in template.formats.items() if isinstance(form, Qmn)]
    for _ in range(25):
        changed = {}
        for name in rng.choice(names, 2, replace=False):
            form = template.formats[name]
            assert isinstance(form, Qmn)
            changed[str(name)] = Qmn(form.bits, form.frac_bits + int(rng.integers(-1, 2)), form.signed)
        subset = sorted(rng.choice(5, int(rng.integers(1, 6)), replace=False).tolist())
        wanted = reference.run(graph, images[subset], fast.plan(changed))
        got = fast.run(changed, subset)
        np.testing.assert_array_equal(got[graph.outputs[0]], wanted[graph.outputs[0]])
    assert fast.hits.nodes_skipped > 0


def test_a_format_taken_away_leaves_floats(rng: np.random.Generator) -> None:
    graph = random_net(rng, 12, 2)
    images = rng.normal(0, 1, (2, 3, 12, 12)).astype(np.float32)
    plan = plan_for(graph, images, "int8")
    fast = Fast(graph, images, plan)
    weights_only = {name: None for name in plan.formats if name not in graph.constants}
    wanted = reference.run(graph, images, fast.plan(weights_only))[graph.outputs[0]]
    got = fast.run(weights_only)[graph.outputs[0]]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())
    assert all(isinstance(form, Affine) for form in fast.plan(weights_only).formats.values())
