"""Members of a bit search that lose, trained under their plans: few bits and a score that is worth having."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bitfront.fitting.searching import Searched
from bitfront.fitting.shop import Shop
from bitfront.fitting.training import taught_by, teaching, threads_for
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.record import content_id
from bitfront.search.evaluations import Member
from bitfront.train.options import Epoch, preset

__all__ = ["TIME_SHARE", "train_plan", "worth_training"]

LOSSES = (0.3, 0.15, 0.05)
"""Losses of score that a training is trusted to undo, the boldest first."""
LEAST_LOSS = 0.003
"""Loss below which there is little to win."""
TIME_SHARE = 0.3
"""Of the time that a search under a limit has, the part for trainings."""


def worth_training(members: Sequence[Member], float_score: float, n: int) -> list[Member]:
    """Return up to ``n`` members that lose: the smallest ones within each of ``LOSSES``, so at most three."""
    losing = [m for m in members if float_score - m.score >= LEAST_LOSS]
    chosen: list[Member] = []
    for loss in LOSSES:
        within = (m for m in losing if float_score - m.score <= loss)
        best = min(within, key=lambda m: (m.costs, -m.score, m.genome), default=None)
        if best is not None and best not in chosen:
            chosen.append(best)
    return chosen[:n]


def train_plan(shop: Shop, searched: Searched, member: Member, time_s: float | None) -> tuple[Graph, Plan] | None:
    """Train the graph of a member under its plan; goes on where it was interrupted.

    ``None`` when no epoch was better than the start. ``time_s``: wall time that it may take. Raises DataError,
    UsageError.
    """
    from bitfront.train.quantized import train_under_plan

    plan = searched.plan(member.genome)
    graph = searched.graph(plan)
    part = shop.parts["train"]
    usual = preset("quantized")
    options = replace(usual, batch_size=max(1, min(usual.batch_size, len(part))), score=shop.score)
    label = f"{searched.network.architecture.label} {plan.recipe}"

    def on_epoch(epoch: Epoch) -> None:
        n = epoch.index + 1
        shop.tell("train", f"{label}: epoch {n} of {options.epochs}", n / options.epochs)

    taught = taught_by(shop)
    identity = content_id("plan", graph.id, plan.id, options, shop.digest, shop.seed, *filter(None, [taught]))[:12]
    with threads_for(0 if shop.one_thread else searched.network.counts.macs * options.batch_size):
        done = train_under_plan(
            graph,
            plan,
            shop.opened.task,
            shop.opened.info,
            part,
            shop.parts["val"],
            searched.network.contract,
            replace(options, time_limit_seconds=time_s),
            shop.folder / "trainings" / f"plan_{identity}",
            shop.seed_of("train", plan.id),
            on_epoch,
            output=shop.opened.source.output,
            distil=teaching(shop, searched.network.contract, options),
        )
    if done.trained.best_epoch < 0:
        return None
    return done.graph, replace(done.plan, recipe=f"{plan.recipe}_trained")
