"""The bit search on networks: formats, exact scores, biases that follow the bits, evaluations that survive a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bitfront.contracts import DataInfo, Sample
from bitfront.errors import DataError, UsageError
from bitfront.graph import capture, passes
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.models.tiny import Tiny
from bitfront.quant.correction import correct_biases
from bitfront.quant.formats import Affine, Qmn
from bitfront.quant.menu import Menu, MenuOptions, build_menu
from bitfront.search.evaluations import Evaluations, Limit
from bitfront.search.journal import Journal
from bitfront.search.methods import search
from bitfront.search.networks import NetworkEvaluator, bits_of, space_of
from bitfront.search.space import FLOAT
from bitfront.simulate import reference
from bitfront.stats.qmn import choose
from bitfront.tasks.segmentation import Segmentation

INFO = DataInfo("d", ("background", "object"), background=0)
SMALL = MenuOptions(weight_bits=(2, 4, 8), activation_bits=(8, 16))


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return passes.prepare(capture.from_module(Tiny().build().eval(), (1, 3, 16, 24)))


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(10, 3, 16, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def menu(graph: Graph, images: NDArray[np.float32]) -> Menu:
    return build_menu(graph, batches=[images[:4]], options=SMALL)


def evaluator(menu: Menu, images: NDArray[np.float32], identity: str = "") -> NetworkEvaluator:
    masks = np.random.default_rng(1).integers(0, 2, (len(images), 20, 30)).astype(np.uint8)
    samples = [Sample(str(i), np.zeros((20, 30, 3), np.uint8), mask=m) for i, m in enumerate(masks)]
    task = Segmentation()
    channels = menu.graph.tensors[menu.graph.outputs[0]].shape[1]
    scorer = task.scorer(samples, task.output(channels, INFO), INFO)
    return NetworkEvaluator(menu, space_of(menu), images, scorer, identity=identity, batch_size=4)


def test_what_is_simulated_is_what_the_reference_computes(menu: Menu, images: NDArray[np.float32]) -> None:
    """Bits drawn at random: the codes of the fast simulation are those of the graph and the plan that are exported."""
    ev = evaluator(menu, images)
    rng = np.random.default_rng(2)
    for _ in range(6):
        genome = tuple(int(rng.choice(g.widths)) for g in ev.space.genes)
        plan = menu.plan(bits_of(ev.space, genome))
        wanted = reference.run(menu.finished(plan), images, plan)
        assert all(np.array_equal(values, wanted[name]) for name, values in ev.fast.run(plan).items())


def test_biases_are_corrected_for_the_bits_of_their_weights(graph: Graph, images: NDArray[np.float32]) -> None:
    menu = build_menu(graph, batches=[images[:4]], options=replace(SMALL, layer_rounding=False))
    bits = {d.tensor: 2 for d in menu.dishes if d.kind == "weight"}
    plan = menu.plan(bits)
    wanted = correct_biases(menu.graph, plan, menu.ranges)
    finished = menu.finished(plan)
    assert all(np.array_equal(finished.constants[n], wanted.constants[n]) for n in wanted.constants)
    assert menu.finished(menu.plan({})) is menu.graph
    biases = [n for n in finished.constants if not np.array_equal(finished.constants[n], menu.graph.constants[n])]
    assert biases


def test_weights_of_few_bits_lie_on_the_codes_that_keep_what_layers_answer(menu: Menu) -> None:
    weights = [d for d in menu.dishes if d.kind == "weight"]
    finished = {bits: menu.finished(menu.plan({d.tensor: bits for d in weights})) for bits in (2, 4, 8)}
    for dish in weights:
        before = menu.graph.constants[dish.tensor]
        for bits in (2, 4):
            form, after = dish.formats[bits], finished[bits].constants[dish.tensor]
            assert np.array_equal(form.decode(form.encode(after)), after)
        assert finished[8].constants[dish.tensor] is before
    nearest = [d.formats[2].decode(d.formats[2].encode(menu.graph.constants[d.tensor])) for d in weights]
    assert any((finished[2].constants[d.tensor] != n).any() for d, n in zip(weights, nearest, strict=True))


def test_formats_of_the_menu(menu: Menu, graph: Graph, images: NDArray[np.float32]) -> None:
    kinds = {d.tensor: d.kind for d in menu.dishes}
    assert menu.dishes[0].tensor == graph.inputs[0]
    assert set(menu.dishes[0].formats) == {8, 16}
    widths = {d.kind: set(d.formats) for d in menu.dishes}
    assert widths == {"activation": {8, 16}, "weight": {2, 4, 8}, "bias": {6, 8, 10, 16}}
    plan = menu.plan(dict.fromkeys(kinds, 8) | {d.tensor: 16 for d in menu.dishes if d.kind == "bias"})
    for tensor, leader in menu.followers.items():
        assert plan.formats[tensor] == plan.formats[leader]
    shifted = build_menu(graph, batches=[images[:4]], options=replace(SMALL, per_channel=True))
    assert all(isinstance(f, Affine) for d in shifted.dishes if d.kind == "weight" for f in d.formats.values())
    thesis = build_menu(graph, batches=[images[:4]], options=MenuOptions.thesis_000())
    assert all(isinstance(f, Qmn) for d in thesis.dishes for f in d.formats.values())
    assert not thesis.variants
    assert thesis.graph is graph
    with pytest.raises(UsageError, match="cannot have 5 bits"):
        menu.plan({menu.dishes[1].tensor: 5})


def test_biases_fit_beside_the_finest_formats(graph: Graph, images: NDArray[np.float32]) -> None:
    layer = next(n for n in graph.nodes if n.op == "conv")
    _, name, bias = layer.inputs
    small = graph.with_constants({name: graph.constants[name] / 2**6, bias: np.ones_like(graph.constants[bias])})
    options = replace(SMALL, weight_bits=(8, 16), activation_bits=(8, 16), equalized=False)
    menu = build_menu(small, batches=[images[:4]], options=options)
    plan = menu.plan({d.tensor: 16 for d in menu.dishes})
    codes = reference.bias_codes(menu.finished(plan), plan, layer)
    assert np.abs(codes).max() < 2**31 - 1
    before = choose(small.constants[name], 16, "mse", signed=True)
    after = plan.formats[name]
    assert isinstance(after, Qmn)
    assert after.frac_bits < before.frac_bits
    assert menu.plan({name: 8}).formats[name] == choose(small.constants[name], 8, "mse", signed=True)


def test_images_are_not_quantized_below_eight_bits(graph: Graph, images: NDArray[np.float32]) -> None:
    menu = build_menu(graph, batches=[images[:4]], options=replace(SMALL, activation_bits=(4, 6)))
    assert set(menu.dishes[0].formats) == {8}


def test_moved_values_keep_their_format(images: NDArray[np.float32]) -> None:
    b = Builder()
    x = b.input("x", (1, 3, 16, 24))
    big = b.node("resize", "big", (x,), mode="nearest", size=(32, 48), coordinates="asymmetric", rounding="floor")
    part = b.node("slice", "part", (big,), axis=2, start=0, stop=8, step=1)
    graph = b.build((b.node("sigmoid", "y", (part,)),))
    menu = build_menu(graph, batches=[images[:2]], options=SMALL)
    assert menu.followers == {"big": "x", "part": "x"}
    assert [d.tensor for d in menu.dishes] == ["x", "y"]


def test_evaluations_tell_score_and_distortion(menu: Menu, images: NDArray[np.float32]) -> None:
    ev = evaluator(menu, images)
    space = ev.space
    floats, fine, coarse = ev([space.float32, space.largest, space.smallest], None)
    assert floats.distortion == 0
    assert 0 < 10 * fine.distortion < coarse.distortion
    alone = next(iter(ev([space.smallest], (1, 8))))
    assert alone == next(iter(evaluator(menu, images)([space.smallest], (1, 8))))  # whatever came before
    assert alone.distortion != coarse.distortion


def test_results_do_not_depend_on_what_was_asked_before(menu: Menu, images: NDArray[np.float32]) -> None:
    """Float activations differ in their last bits with the batch they are computed in."""
    ev = evaluator(menu, images)
    genome = tuple(FLOAT if g.kind == "activation" else g.widths[0] for g in ev.space.genes)
    fresh = list(evaluator(menu, images).fast.values(menu.plan(bits_of(ev.space, genome)), (1, 5)))
    list(ev([genome], None))
    after = list(ev.fast.values(menu.plan(bits_of(ev.space, genome)), (1, 5)))
    for (where, a), (there, b) in zip(fresh, after, strict=True):
        assert where == there
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_identity_follows_all_that_evaluations_depend_on(menu: Menu, graph: Graph, images: NDArray[np.float32]) -> None:
    base = evaluator(menu, images).id
    assert evaluator(menu, images).id == base
    changed = images.copy()
    changed[3, 0, 0, 0] += 1e-3
    assert evaluator(menu, changed).id != base
    assert evaluator(menu, images, "other labels").id != base
    other = build_menu(graph, batches=[images[:4]], options=replace(SMALL, rule="max"))
    assert evaluator(other, images).id != base
    name = next(iter(menu.graph.constants))
    other = replace(menu, graph=menu.graph.with_constants({name: menu.graph.constants[name] * 1.01}))
    assert evaluator(other, images).id != base


@pytest.mark.parametrize("method", ["surrogate", "genetic_uniform"])
def test_a_search_goes_on_where_it_was_killed(
    menu: Menu, images: NDArray[np.float32], tmp_path: Path, method: str
) -> None:
    ev = evaluator(menu, images)
    n_run = 0

    def counted(genomes, subset):  # type: ignore[no-untyped-def]
        nonlocal n_run
        for evaluation in ev(genomes, subset):
            n_run += 1
            yield evaluation

    def run(limit: float) -> Evaluations:
        with Journal(tmp_path, ev.id, ev.space.id) as journal:
            found = Evaluations(
                ev.space, counted, len(images), limit=Limit(limit), stored=journal.rows(), on_row=journal.add
            )
            search(method, found, 3)
        return found

    run(20)
    first = n_run
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes() + b'{"genome": [8, 8')  # the kill came while a line was written
    again = run(30)
    assert n_run == len(again.rows)  # nothing was evaluated twice
    assert first < n_run
    n_run = 0
    path.unlink()
    assert [m.genome for m in run(30).front()] == [m.genome for m in again.front()]


def test_a_foreign_journal_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    journal.path.write_text('{"x": 1}\n')
    with pytest.raises(DataError, match="not a search's evaluations"):
        journal.rows()


def test_float_is_never_searched(menu: Menu) -> None:
    assert all(FLOAT not in g.choices for g in space_of(menu).genes)
