"""Quantization-aware training: a captured graph, trained under a plan.

The graph itself is trained (:class:`bitfront.graph.module.GraphModule`), so what comes out has the names, the folded
BatchNorm and the formats that are exported and verified; a network that came as an ONNX file is trained the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bitfront import batches
from bitfront.contracts import DataInfo, InputContract, OutputContract, Part, Task
from bitfront.errors import UsageError
from bitfront.graph.ir import Graph
from bitfront.graph.module import GraphModule
from bitfront.quant import plan_files
from bitfront.quant.plan import Plan
from bitfront.train.distill import Distiller
from bitfront.train.loop import Epoch, Trained, TrainOptions, train
from bitfront.train.scoring import score_module

__all__ = ["Quantized", "check_shares", "train_under_plan"]


def check_shares(
    learn_ranges: float | None, freeze_ranges: float | None = None, live_norm: float | None = None
) -> None:
    """Raise UsageError for shares of a training that make no sense, as ``train_under_plan`` says them."""
    if live_norm is not None and not 0 < live_norm <= 1:
        raise UsageError(f"live_norm is {live_norm}", hint="a share of the training, above 0 and up to 1")
    if learn_ranges is not None and not 0 <= learn_ranges < 1:
        raise UsageError(f"learn_ranges is {learn_ranges}", hint="a share of the training, from 0 to below 1")
    if freeze_ranges is not None and (learn_ranges is None or not learn_ranges < freeze_ranges <= 1):
        begin = "they are not learned" if learn_ranges is None else f"they are learned from {learn_ranges} on"
        raise UsageError(
            f"freeze_ranges is {freeze_ranges}, and {begin}",
            hint="a share of the training above that of learn_ranges, up to 1",
        )


N_BEGIN = 32
"""Images whose statistics live batch normalization begins with."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """A graph after training."""

    graph: Graph
    """With the trained constants."""
    plan: Plan
    """With the trained steps, where these were learned."""
    trained: Trained
    """Its score is that of the fake-quantized graph on the validation part; the best epoch is -1 when none was better
    than the start, which then is what is given back."""
    start_score: float
    """Score of the plan without training, on the validation part."""


def train_under_plan(  # noqa: PLR0917 - the order of train.loop.train
    graph: Graph,
    plan: Plan | Path,
    task: Task,
    info: DataInfo,
    train_part: Part,
    val_part: Part,
    contract: InputContract,
    options: TrainOptions,
    folder: Path,
    seed: int,
    on_epoch: Callable[[Epoch], str | None] | None = None,
    *,
    learn_ranges: float | None = None,
    freeze_ranges: float | None = None,
    live_norm: float | None = None,
    delay: int = 0,
    output: OutputContract | None = None,
    distil: Callable[[torch.nn.Module], Distiller] | None = None,
    keep_zeros: bool = False,
) -> Quantized:
    """Train ``graph`` under ``plan`` (or without quantization under an empty one); resumes like ``train.loop.train``.

    Args:
        graph: a prepared graph whose first output the task reads.
        plan: formats, or a file of :mod:`bitfront.quant.plan_files`.
        task: as for ``train.loop.train``, with all arguments up to ``on_epoch``.
        info: the data's description.
        train_part: images to learn from.
        val_part: images that choose the best epoch.
        contract: preprocessing.
        options: the training; a rate of a tenth or a hundredth of the float training's is usual.
        folder: state and checkpoint; the plan lies beside them as ``plan.json``.
        seed: of order and augmentation.
        on_epoch: observer, may stop.
        learn_ranges: share of the training after which the steps of integer formats are learned too, in [0, 1);
            ``None``: they stay.
        freeze_ranges: share after which they stay again, so that the weights settle on the last ones; above
            ``learn_ranges``. ``None``: they are learned to the end.
        live_norm: share in which batch normalization is live behind folded layers, in (0, 1]
            (:mod:`bitfront.graph.live_norm`); ``None``: it stays folded.
        delay: epochs of ``options`` that were trained in float before; the others are run, at the rates that they have
            in the whole.
        output: how to read the network; default: as the task reads one with so many channels.
        distil: gives what a teacher adds to the loss of the module that is trained.
        keep_zeros: weights that are zero stay zero: those that were pruned.

    Raises:
        UsageError: the plan does not fit the graph, or the graph is not prepared; and what ``train`` raises.
    """
    plan = plan_files.load(plan, graph) if isinstance(plan, Path) else plan
    if plan.formats and any(node.op == "batch_norm" for node in graph.nodes):
        raise UsageError("the graph is not prepared: it has a batch_norm", hint="call bitfront.graph.passes.prepare")
    check_shares(learn_ranges, freeze_ranges, live_norm)
    n_steps = (options.epochs - delay) * max(1, len(train_part) // options.batch_size)
    after, until, live = (None if s is None else int(s * n_steps) for s in (learn_ranges, freeze_ranges, live_norm))
    module = GraphModule(graph, plan, learn_ranges_after=after, freeze_ranges_after=until, freeze_norm_after=live)
    if keep_zeros:
        module.keep_zeros()
    if live is not None:
        seen = batches.calibration(train_part, contract, N_BEGIN, np.random.default_rng(seed))
        module.begin_norms(torch.from_numpy(np.concatenate(seen)))
    header = {"model": "graph", "plan": plan.id}
    arguments = (task, info, val_part, contract)
    start = float(
        score_module(module, *arguments, batch_size=options.batch_size, score=options.score, output=output).value
    )
    trained = train(
        module,
        task,
        info,
        train_part,
        val_part,
        contract,
        options,
        folder,
        seed,
        on_epoch,
        header=header,
        span=(delay, options.epochs),
        output=output,
        distiller=distil(module) if distil else None,
    )
    better = trained.best_score >= start
    done, learned = (module.graph(), module.plan()) if better else (graph, plan)
    plan_files.save(folder / "plan.json", learned)
    if not better:
        trained = replace(trained, best_epoch=-1, best_score=start)
    return Quantized(done, learned, trained, start)
