"""What a training under a plan begins with: the graph, its formats, and whether there is a loss to compute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bitfront import batches
from bitfront.contracts import Part, Runtime
from bitfront.errors import UsageError, one_line, unknown_name
from bitfront.graph import passes
from bitfront.graph.equalize import equalize
from bitfront.graph.ir import Graph
from bitfront.quant.alignment import align
from bitfront.quant.binary import MODES, binarize
from bitfront.quant.plan import Plan
from bitfront.quant.plan_files import check
from bitfront.quant.recalibration import recalibrate
from bitfront.quant.recipes import RECIPES, build
from bitfront.sources import Source
from bitfront.stats.ranges import collect
from bitfront.verbs.artifacts import N_CALIBRATE, calibration_images, observer
from bitfront.verbs.opening import Opened, untrained
from bitfront.verbs.plans import open_plan

__all__ = ["Start", "begin", "captured", "check_loss", "fed", "made_for", "summary"]

PROBABILITIES = ("sigmoid", "hard_sigmoid", "softmax", "argmax")
"""Operators whose outputs no loss can be computed from: it wants logits."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a training begins with."""

    opened: Opened
    """With the size of the graph."""
    flat: Graph
    """What the float file is made from."""
    graph: Graph
    plan: Plan
    notes: tuple[str, ...]


def begin(
    opened: Opened,
    engine: Runtime | None,
    plan: Plan | Path | str | None,
    recipe: str,
    *,
    seed: int,
    runs: Path,
    cache: Path | None,
    edges: str = "",
    delayed: bool = False,
    trained: Graph | None = None,
) -> Start:
    """Return graph and plan to train.

    Args:
        opened: MODEL and DATA.
        engine: collects ranges in its own way; ``None``: the reference executor.
        plan: formats, or what ``verbs.plans.open_plan`` reads.
        recipe: or a recipe, or a way to train binary weights (:data:`bitfront.quant.binary.MODES`).
        seed: of fresh weights and calibration.
        runs: folder of the runs.
        cache: folder that remembers which files were found whole.
        edges: of binary weights: what the first and the last layer are.
        delayed: the graph is MODEL's, whatever graph a plan is stored with, and the plan's ranges are chosen anew.
        trained: MODEL's prepared graph with other weights.

    Raises:
        UsageError: wrong names, a plan that does not fit.
        DataError: files that cannot be used.
    """
    from bitfront.graph.module import GraphModule

    if (plan is None) == (not recipe):
        raise UsageError("a plan or a recipe, one of them", hint="--plan FILE or --recipe NAME")
    if recipe and recipe not in {**RECIPES, **MODES}:
        raise unknown_name("recipe", recipe, [*RECIPES, *MODES])
    if edges and recipe not in MODES:
        raise UsageError(f"edges belong to binary weights ({', '.join(MODES)})", hint="leave them out")
    stored, formats = (None, plan) if plan is None or isinstance(plan, Plan) else open_plan(plan, runs)
    if stored is not None and formats is not None and not delayed:
        sized = fed(opened, stored)
        flat = stored if untrained(sized.source) else passes.prepare(sized.source.graph())
        started = Start(sized, flat, stored, formats, opened.source.notes)
    else:
        flat = captured(opened.source, seed) if trained is None else trained
        observe = observer(engine) if engine else None
        calibrated = recipe not in MODES and (delayed or recipe)
        images = calibration_images(opened, N_CALIBRATE, seed, cache) if calibrated else []
        if recipe in MODES:
            graph, formats = binarize(flat, recipe, edges)
        elif formats is None:
            graph, formats = build(recipe, flat, batches=images, observe=observe)
        else:
            graph = made_for(flat, formats)
            if delayed:
                formats = recalibrate(formats, graph, collect(graph, images, observe(graph) if observe else None))
        notes = () if delayed else untrained(opened.source)
        started = Start(opened, flat, graph, formats, (*opened.source.notes, *notes))
    GraphModule(started.graph, started.plan)  # it refuses plans that do not fit
    return started


def captured(source: Source, seed: int) -> Graph:
    """Return a model's prepared graph, fresh weights drawn from ``seed``. Raises UsageError, DataError."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return passes.prepare(source.graph())


def summary(graph: Graph, plan: Plan) -> str:
    """Return a plan in a line: how many tensors of each kind have how many bits."""
    counts: dict[tuple[str, int], int] = {}
    for name, form in plan.formats.items():
        key = graph.tensors[name].kind, form.bits
        counts[key] = counts.get(key, 0) + 1
    lines = [f"{n} {kind} of {bits} bits" for (kind, bits), n in sorted(counts.items())]
    return ", ".join(lines) or "float32"


def made_for(flat: Graph, plan: Plan) -> Graph:
    """Return a network's graph as it was when the plan was made for it. Raises UsageError."""
    if plan.options.get("dropped_clips"):
        raise UsageError(
            "the plan belongs to a graph without some of MODEL's clips",
            hint="give the candidate of the run or the reference file that it comes from: they hold the graph",
        )
    graph = flat
    if plan.options.get("equalized"):
        graph = equalize(flat)
        graph = align(graph) if plan.options.get("aligned") else graph
    check(graph, plan)
    return graph


def fed(opened: Opened, graph: Graph) -> Opened:
    """Return MODEL as it feeds and reads a stored graph. Raises UsageError when they do not belong together."""
    source = opened.source
    (_, channels, *size), answers = graph.tensors[graph.inputs[0]].shape, graph.tensors[graph.outputs[0]].shape
    if channels != source.input.channels or len(size) != 2:
        raise UsageError(
            f"the plan's graph takes images of {channels} channels, '{source.name}' of {source.input.channels}",
            hint="name the model that the candidate was made from",
        )
    contract = replace(source.input, height=size[0], width=size[1])
    output = source.output if source.output.head else opened.task.output(answers[1], opened.info)
    return replace(opened, source=replace(source, input=contract, output=output))


def check_loss(start: Start, part: Part) -> None:
    """Compute the loss of one image. Raises UsageError when the network's output is none to learn from."""
    import torch

    from bitfront.graph.module import GraphModule

    graph, opened = start.graph, start.opened
    last = graph.producer(graph.outputs[0])
    if last is not None and last.op in PROBABILITIES:
        raise UsageError(
            f"'{opened.source.name}' ends with {last.op}, and training needs the logits before it",
            hint="export the network without its last operator",
        )
    rng = np.random.default_rng(0)
    batch = next(iter(batches.training([part[0]], opened.source.input, 1, rng, batches.AUGMENTS["none"])))
    try:
        with torch.no_grad():
            opened.task.loss(
                GraphModule(graph)(torch.from_numpy(batch.images)), batch, opened.info, opened.source.output
            )
    except (RuntimeError, IndexError, ValueError) as error:
        shape = graph.tensors[graph.outputs[0]].shape
        raise UsageError(
            f"no loss of {opened.task.name} can be computed from an output of shape {shape}: {one_line(str(error))}",
            hint="training needs logits at the size of the input",
        ) from error
