"""Train one architecture, once: the result is stored under the content id of what it came from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from bitfront.contracts import InputContract
from bitfront.fitting.inheritance import cut, is_parent
from bitfront.fitting.shop import Shop
from bitfront.fitting.space import Architecture
from bitfront.graph import capture
from bitfront.record import content_id, digest_file, from_json, to_json
from bitfront.verbs.teaching import distilling
from bitfront.weights import arrays, recognise

__all__ = [
    "Training",
    "hopeless",
    "n_parameters",
    "new_module",
    "taught_by",
    "teaching",
    "threads_for",
    "torch_macs",
    "train_architecture",
]

HOPELESS_AFTER = 0.5
"""Share of the epochs before which no training is given up."""
SMALL_STEP_MACS = 1e9
"""Multiply-accumulates of a forward pass over one batch, below which one thread trains."""
HOPELESS_MARGIN = 0.03
"""A cheaper network must be better by so much, at the same share of its own epochs, for a training to be given up."""


@dataclass(frozen=True, slots=True)
class Training:
    """What is known of one trained architecture."""

    id: str
    label: str
    weights: str
    """Checkpoint, relative to the run folder; empty when it was given up."""
    sha256: str
    macs: float
    """Multiply-accumulates by torch's count."""
    parameters: int
    epochs: int
    """Epochs it was meant to take."""
    best_score: float
    seconds: float
    stopped: str
    """``completed``, ``patience``, or why it was given up."""
    curve: Sequence[Mapping[str, Any]] = ()
    """One mapping an epoch: ``epoch, loss, score, rate, seconds``."""

    @property
    def given_up(self) -> bool:
        """Whether the training was stopped as hopeless."""
        return not self.weights

    def score_at(self, share: float) -> float:
        """Return the best score up to a share of the epochs; 0 when none was taken."""
        last = share * self.epochs
        return max((e["score"] for e in self.curve if e["score"] is not None and e["epoch"] <= last), default=0.0)


def train_architecture(
    shop: Shop,
    architecture: Architecture,
    options: Any,
    start: Path | None,
    rivals: Sequence[Training],
) -> Training:
    """Train one architecture, or read back what was trained before.

    Args:
        shop: the run.
        architecture: what to train.
        options: :class:`bitfront.train.options.TrainOptions`.
        start: checkpoint of the same architecture to start from; ``None`` for the source's own or fresh weights.
        rivals: trainings that are finished; one of them may show that this one is hopeless.

    Raises:
        DataError, UsageError: data or rates that cannot be trained with.
    """
    source = shop.opened.source
    given = source.weights_for(architecture.options, architecture.size)
    given = given or source.backbone_for(architecture.options)
    origin = digest_file(start) if start else given.sha256 if given else ""
    inputs = {
        "source": source.digest,
        "task": shop.opened.task if is_dataclass(shop.opened.task) else shop.opened.task.name,
        "knobs": architecture.knobs,
        "input": source.contract(architecture.size, architecture.options),
        "options": options,
        "origin": origin,
        "data": shop.digest,
        "seed": shop.seed,
        "score": shop.score,
        "rivals": sorted(r.id for r in rivals),
        **taught_by(shop),
    }
    identity = content_id("train", inputs)[:12]

    def compute() -> Training:
        return _train(shop, architecture, options, start, rivals, identity=identity)

    stored = shop.db.cached("train", inputs, compute, files=lambda v: [v["weights"]] if v["weights"] else [])
    training = from_json(Training, stored)
    for path in (shop.folder / "trainings" / identity).glob("*.safetensors"):
        if path.relative_to(shop.folder).as_posix() != training.weights:
            path.unlink()  # states to resume from, several times as large as the weights
    return training


def _train(
    shop: Shop,
    architecture: Architecture,
    options: Any,
    start: Path | None,
    rivals: Sequence[Training],
    *,
    identity: str,
) -> Training:
    from bitfront.train.loop import train

    opened, source = shop.opened, shop.opened.source
    seed = shop.seed_of("train", architecture.knobs)
    module = new_module(shop, architecture, start, seed)
    contract = source.contract(architecture.size, architecture.options)
    distil = teaching(shop, contract, options)
    macs, parameters = torch_macs(module, contract), _n_parameters(module)
    curve: dict[int, dict[str, Any]] = {}

    def on_epoch(epoch: Any) -> str | None:
        n = epoch.index + 1
        curve[n] = {
            "epoch": n,
            "loss": epoch.loss,
            "score": epoch.score,
            "rate": epoch.rate,
            "seconds": epoch.seconds,
        }
        shown = f"epoch {n} of {options.epochs}" + (f", score {epoch.score:.3f}" if epoch.score is not None else "")
        shop.tracking.epoch(epoch, f"{architecture.label}/")
        shop.tell("train", f"{architecture.label}: {shown}", n / options.epochs)
        scores = [e["score"] for e in curve.values() if e["score"] is not None]
        return hopeless(n / options.epochs, scores, macs, parameters, rivals)

    folder = shop.folder / "trainings" / identity
    with threads_for(0 if shop.one_thread else macs * options.batch_size):
        result = train(
            module,
            opened.task,
            opened.info,
            shop.parts["train"],
            shop.parts["val"],
            contract,
            options,
            folder,
            seed,
            on_epoch=on_epoch,
            header={"model": source.name, "options": dict(architecture.options)},
            output=source.output,
            distiller=distil(module) if distil else None,
        )
    ended = result.stopped in ("completed", "patience", "time")
    rows = [{"epoch": e.index + 1, **{k: v for k, v in to_json(e).items() if k != "index"}} for e in result.epochs]
    return Training(
        id=identity,
        label=architecture.label,
        weights=result.weights.relative_to(shop.folder).as_posix() if ended else "",
        sha256=digest_file(result.weights) if ended else "",
        macs=macs,
        parameters=parameters,
        epochs=options.epochs,
        best_score=result.best_score,
        seconds=result.seconds,
        stopped=result.stopped,
        curve=rows,
    )


def teaching(shop: Shop, contract: InputContract, options: Any) -> Callable[[Any], Any] | None:
    """Return what makes the distiller of a network with this input; ``None`` in a run without a teacher.

    Raises UsageError, DataError.
    """
    opened = replace(shop.opened, source=replace(shop.opened.source, input=contract))
    return distilling(shop.teacher, opened, max(1, len(shop.parts["train"]) // options.batch_size), shop.seed)


def taught_by(shop: Shop) -> dict[str, str]:
    """Return what tells trainings with one teacher from those with another, or with none."""
    if shop.teacher is None:
        return {}
    path = Path(shop.teacher.model)
    return {"teacher": digest_file(path) if path.is_file() else shop.teacher.model}


def hopeless(
    share: float, scores: Sequence[float], macs: float, parameters: int, rivals: Sequence[Training]
) -> str | None:
    """Say why a training can be given up, or ``None``.

    A rival with at most as many multiply-accumulates and parameters that, at the same share of its own epochs, scored
    better by ``HOPELESS_MARGIN`` dominates what this one is going to be. Deterministic: it looks at scores, not times.
    """
    if share < HOPELESS_AFTER or share >= 1 or not scores:
        return None
    best = max(scores)
    for rival in rivals:
        cheaper = rival.macs <= macs and rival.parameters <= parameters
        if cheaper and rival.score_at(share) > best + HOPELESS_MARGIN:
            return (
                f"given up after {share:.0%} of the epochs at {best:.3f}: {rival.label} costs less and had "
                f"{rival.score_at(share):.3f} by then"
            )
    return None


@contextlib.contextmanager
def threads_for(step_macs: float) -> Iterator[None]:
    """Let torch use one thread for small steps and every core for large ones.

    Small operators gain little from a second thread and wait for it long when the machine is busy. The rule looks at
    the work alone, because the number of threads changes the last bits of the weights.
    """
    try:
        import torch
    except ImportError:  # files are fitted without it, too
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1 if step_macs < SMALL_STEP_MACS else os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def new_module(shop: Shop, architecture: Architecture, start: Path | None, seed: int) -> Any:
    """Build a network with the weights of ``start``, else the source's own, else fresh ones drawn from ``seed``.

    Of a checkpoint of a larger network of the family it gets what can be cut from it, and the rest as without one.
    """
    import torch

    from bitfront.train.checkpoints import load_into

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = shop.opened.source.build(architecture.options, architecture.size)
    if start is not None:
        load_into(module, _state(shop, module, architecture, start), str(start))
    return module


def _state(shop: Shop, module: Any, architecture: Architecture, start: Path) -> Mapping[str, Any]:
    """Return the arrays of a checkpoint, cut for ``module`` where they are a larger network's."""
    from bitfront.train.checkpoints import load_into
    from bitfront.train.state import arrays_of

    source, state = shop.opened.source, arrays(start, shop.opened.source.family)
    theirs = recognise(start).options
    if not is_parent(source.whole(theirs), source.whole(architecture.options)):
        return state
    larger = source.build(theirs, architecture.size)
    load_into(larger, state, str(start))
    contract = source.contract(architecture.size, theirs)
    graph = capture.from_module(larger, (1, contract.channels, *architecture.size))
    own = arrays_of(module)
    return {**own, **cut(graph, state, {key: value.shape for key, value in own.items()})}


def n_parameters(shop: Shop, architecture: Architecture) -> int:
    """Return how many parameters a network has in its file."""
    module = new_module(shop, architecture, None, 0)
    left_out = tuple(getattr(module, "training_only", ()))
    return sum(p.numel() for name, p in module.named_parameters() if not name.startswith(left_out))


def _n_parameters(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def torch_macs(module: Any, contract: InputContract) -> float:
    """Count by torch's flop counter; it sees convolutions and products, which is enough to compare networks."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    was = module.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, contract.channels, contract.height, contract.width))
    module.train(was)
    return float(counter.get_total_flops()) / 2
