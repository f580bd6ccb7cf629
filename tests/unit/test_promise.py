"""Networks that promise most: what they cost, and which add to a front."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bitfront.contracts import DataInfo
from bitfront.errors import UsageError
from bitfront.fitting.exploration import N_PROMISING, STAGES, Explored, propose
from bitfront.fitting.promise import layers, promising
from bitfront.fitting.space import Architecture
from bitfront.fitting.training import torch_macs
from bitfront.sources import Source, open_model
from bitfront.tasks.segmentation import Segmentation
from bitfront.weights import Weights

INFO = DataInfo("belt", ("background", "package"), background=0)
SIZES = tuple((n, n) for n in (256, 128, 64))


@pytest.fixture(scope="module")
def source() -> Source:
    found = open_model("fast_scnn", task=Segmentation(), info=INFO)
    return replace(found, knobs={"width": (0.125, 0.25, 0.5), "repeats": (1, 3)})


def network(source: Source, size: int, **options: object) -> Architecture:
    return Architecture({**source.baseline, **options}, (size, size))


def test_layers_are_counted_as_they_are_called(source: Source) -> None:
    small = network(source, 64, width=0.25)
    counted = layers(source, small)
    assert counted.macs == torch_macs(source.build(small.options), source.contract((64, 64)))
    assert counted.n_layers == 45  # the pyramid's one convolution is called four times
    assert counted.padded_macs >= counted.macs
    at_64 = network(source, 64, width=0.5, pyramid=False)
    larger = layers(source, replace(at_64, size=(128, 128)))
    assert layers(source, at_64).at((128, 128)).cost == pytest.approx(larger.cost)


def test_what_is_chosen_lies_apart_and_where_nothing_is_known(source: Source) -> None:
    candidates = [network(source, s, width=w) for s, _ in SIZES for w in source.knobs["width"]]
    chosen = promising(source, candidates, [], 3)
    assert len({a.id for a in chosen}) == 3
    assert len({a.size for a in chosen}) == 3
    best = network(source, 256, width=0.25)
    left = [a for a in candidates if a.id != best.id]
    after = promising(source, left, [(best, 0.999)], 3)
    cost = layers(source, best).cost
    assert all(layers(source, a).cost < cost for a in after)  # nothing that costs more can be better
    assert promising(source, [], [], 3) == []


def test_scores_that_are_known_move_what_is_expected(source: Source) -> None:
    wide, narrow = network(source, 64, width=0.5), network(source, 64, width=0.125)
    known = [(network(source, 256, width=0.5), 0.5), (network(source, 256, width=0.125), 0.98)]
    assert promising(source, [wide, narrow], known, 1) == [narrow]
    assert wide in promising(source, [wide, narrow], [(a, 1.48 - s) for a, s in known], 2)


def test_the_stages_take_what_is_given_and_what_promises_most(source: Source) -> None:
    options = {"width": 0.25, "repeats": 1}
    others = ({"width": 1.0, "repeats": 1}, {"width": 0.5, "repeats": 3})
    weights = [Weights(Path(f"{i}"), str(i), "fast_scnn", o) for i, o in enumerate((options, *others))]
    sizes = ((512, 512), *SIZES)
    given = replace(source, weights=tuple(weights))
    found = propose(STAGES["given"], given, sizes, ())
    assert [(a.size, a.options["width"]) for a in found] == [((512, 512), 0.25), ((512, 512), 0.5)]  # 1.0: not asked
    assert propose(STAGES["given"], given, SIZES, ()) == []  # not their size
    assert propose(STAGES["given"], source, sizes, ()) == []
    known = [Explored(a, 0.9 + a.options["width"] / 10, 1.0, 1.0, "given") for a in found]
    promised = propose(STAGES["promising"], given, sizes, known)
    assert 0 < len(promised) <= N_PROMISING
    assert {a.family for a in promised} <= {a.family for a in found}
    assert {a.id for a in promised}.isdisjoint(a.id for a in found)
    fresh = propose(STAGES["promising"], source, SIZES, ())
    assert len(fresh) == N_PROMISING
    with pytest.raises(UsageError, match="has its own inside"):
        propose(STAGES["promising"], replace(source, kind="checkpoint", path=Path("net.safetensors")), SIZES, ())
