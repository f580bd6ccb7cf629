"""The stages of thesis 001 and two more: which networks are tried next, given what is known.

Every stage varies one thing and leaves a front, so that one can stop after any of them. Where the thesis chose the next
sub-space by hand from the fronts before, the same is done here by rule: the sizes, knob values and shapes that are on
the front of what was trained so far go on.

Source: thesis 001, chapters 3 and 4 (input data optimization: 4.3; network topology: 4.4; both: 4.5).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitfront.errors import UsageError, unknown_name
from bitfront.fitting.promise import promising
from bitfront.fitting.space import Architecture
from bitfront.search.front import ranks
from bitfront.sources import Source

__all__ = ["STAGES", "Explored", "Stage", "best", "choose_stages", "propose"]

WIDTH_KNOBS = ("width", "alpha", "expansion")
"""What the stage ``width`` varies; ``repeats`` varies all other knobs of the architecture."""
N_SIZES, N_SHAPES, N_VALUES = 4, 4, 2
"""Sizes, shapes, and values of a knob that go on to the next stage."""
N_PROMISING = 7
"""Networks that the stage ``promising`` trains."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One thing that is varied."""

    name: str
    description: str
    thesis: str = ""
    """The stage of thesis 001 that it is."""
    retrain: str = ""
    """``never``: given weights as they are; empty: as the run says."""
    halved: bool = True
    """Whether most of its networks are dropped after a short training; not where each one was chosen for its place."""


STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("given", "all networks that weights were given for, as they are", retrain="never"),
        Stage("resolution", "smaller inputs, the given weights as they are", "1", retrain="never"),
        Stage("retraining", "smaller inputs, trained again", "2"),
        Stage("channels", "one input channel: luma", "3"),
        Stage("width", "width and expansion of the blocks", "4"),
        Stage("repeats", "repeated blocks, pyramid pooling and the other knobs", "5"),
        Stage("shapes", "what was best of width and of repeats, combined", "6"),
        Stage("combination", "the best shapes at the best sizes", "7"),
        Stage("promising", "what is expected to add most to the front, shapes and sizes together", "7", halved=False),
    )
}


@dataclass(frozen=True, slots=True)
class Explored:
    """A network that was scored."""

    architecture: Architecture
    score: float
    macs: float
    parameters: float
    stage: str
    trained: bool = True
    """Whether at its own size: given weights at another one say nothing of the size."""


Choose = Callable[[Sequence[Explored], int], list[Explored]]
"""Which of several networks go on, at most so many."""


def choose_stages(names: Sequence[str]) -> tuple[Stage, ...]:
    """Return stages in their order. Raises UsageError for unknown names."""
    for name in names:
        if name not in STAGES:
            raise unknown_name("stage", name, STAGES)
    return tuple(stage for stage in STAGES.values() if stage.name in names)


def propose(
    stage: Stage,
    source: Source,
    sizes: Sequence[tuple[int, int]],
    known: Sequence[Explored],
    choose: Choose | None = None,
) -> list[Architecture]:
    """Return the networks that a stage adds, none of them known.

    Args:
        stage: what to vary.
        source: the opened model; its baseline is what stages start from.
        sizes: input sizes that are possible, the largest (the baseline's) first.
        known: what was scored so far.
        choose: which of several networks go on; by default :func:`best`.

    Raises:
        UsageError: the model's files have a fixed architecture, and the stage varies it.
    """
    choose = choose or best
    if stage.name == "retraining" and source.kind == "onnx":
        return []
    if stage.name in ("given", "promising"):
        _check_free(stage, source)
        found = _given(source, sizes) if stage.name == "given" else _promising(source, sizes, known)
    elif stage.name in ("resolution", "retraining"):
        found = [Architecture(dict(source.baseline), size) for size in sizes]
    elif stage.name == "channels":
        channels = source.baseline.get("channels", source.input.channels)
        found = [] if channels == 1 else [Architecture({**source.baseline, "channels": 1}, size) for size in sizes[:1]]
    elif stage.name == "combination":
        shapes = choose([e for e in known if e.trained and e.architecture.size == sizes[0]], N_SHAPES)
        small = _best_sizes(source, known, sizes, choose)
        found = [Architecture(e.architecture.options, size) for e in shapes for size in small]
    else:
        _check_free(stage, source)
        found = [
            Architecture({**source.baseline, **shape}, sizes[0]) for shape in _shapes(stage, source, known, choose)
        ]
    done = {e.architecture.id for e in known if e.trained or stage.retrain}
    return list({a.id: a for a in found if a.id not in done}.values())


def _given(source: Source, sizes: Sequence[tuple[int, int]]) -> list[Architecture]:
    """Return the networks of the space that weights were given for, at the size that these were trained at."""
    found = []
    for weights in source.weights:
        options = {**source.baseline, **{k: v for k, v in weights.options.items() if k in source.knobs}}
        fits = source.weights_for(options, size := source.trained_size(weights)) is not None
        if fits and size in sizes and all(options[k] in values for k, values in source.knobs.items()):
            found.append(Architecture(options, size))
    return found


def _promising(source: Source, sizes: Sequence[tuple[int, int]], known: Sequence[Explored]) -> list[Architecture]:
    """Return the networks of the space that promise most; of shapes that have weights, where there are any."""
    scored = {e.architecture.id: (e.architecture, e.score) for e in known if e.trained and math.isfinite(e.score)}
    shapes = [dict(zip(source.knobs, chosen, strict=True)) for chosen in itertools.product(*source.knobs.values())]
    space = [{**source.baseline, **shape} for shape in shapes]
    families = {a.family for a, _ in scored.values()}
    begun = [o for o in space if Architecture(o, sizes[0]).family in families or source.weights_for(o, sizes[0])]
    candidates = [Architecture(o, size) for o in begun or space for size in sizes]
    return promising(source, [a for a in candidates if a.id not in scored], list(scored.values()), N_PROMISING)


def _check_free(stage: Stage, source: Source) -> None:
    if source.kind in ("checkpoint", "onnx"):
        raise UsageError(
            f"stage '{stage.name}' varies the architecture, and {source.path} has its own inside",
            hint="give the model's name, with --weights to start from checkpoints",
        )


def _shapes(stage: Stage, source: Source, known: Sequence[Explored], choose: Choose) -> list[dict[str, Any]]:
    """Return values of the knobs that a stage varies, in product."""
    if stage.name == "shapes":
        values = _survivors(source, known, choose)
    else:
        wide = stage.name == "width"
        values = {k: list(v) for k, v in source.knobs.items() if (k in WIDTH_KNOBS) == wide}
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def _survivors(source: Source, known: Sequence[Explored], choose: Choose) -> dict[str, list[Any]]:
    """Return, for every knob, the values that are on the fronts of the stages that varied it."""
    found: dict[str, list[Any]] = {}
    for name in ("width", "repeats"):
        front = choose([e for e in known if e.stage == name or _is_baseline(e, source)], 2 * N_VALUES)
        for knob in source.knobs:
            if (knob in WIDTH_KNOBS) == (name == "width"):
                values = [e.architecture.options.get(knob) for e in front]
                found[knob] = [v for v in source.knobs[knob] if v in values][:N_VALUES] or [source.baseline.get(knob)]
    return found


def _is_baseline(explored: Explored, source: Source) -> bool:
    return dict(explored.architecture.options) == dict(source.baseline) and explored.trained


def _best_sizes(
    source: Source, known: Sequence[Explored], sizes: Sequence[tuple[int, int]], choose: Choose
) -> list[tuple[int, int]]:
    """Return the sizes that are on the front of the baseline at all sizes; without such, all."""
    front = choose([e for e in known if _is_baseline(e, source)], N_SIZES)
    chosen = [e.architecture.size for e in front]
    return [s for s in sizes if s in chosen] if len(chosen) > 1 else list(sizes[:N_SIZES])


def best(known: Sequence[Explored], n: int) -> list[Explored]:
    """Return up to ``n`` networks of the front of score, operations and parameters, spread over it, best first."""
    scored = [e for e in known if math.isfinite(e.score)]
    if not scored:
        return []
    points = np.array([(-e.score, e.macs, e.parameters) for e in scored], np.float64)
    front = sorted(np.flatnonzero(ranks(points) == 0), key=lambda i: (*points[i].tolist(), scored[i].architecture.id))
    places = np.unique(np.linspace(0, len(front) - 1, min(n, len(front))).round().astype(int))
    return [scored[front[i]] for i in places]
