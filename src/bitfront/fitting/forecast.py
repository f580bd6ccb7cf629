"""How long a run will take, and what to leave out so that it fits the time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitfront import batches
from bitfront.fitting.schedule import Job
from bitfront.fitting.shop import Shop
from bitfront.fitting.space import Architecture
from bitfront.fitting.training import new_module, teaching, threads_for, torch_macs

__all__ = ["Forecast", "Job", "fitted", "probe"]

STEPS = 3
"""Training steps that are timed."""
MIN_EPOCHS = 3
MAX_STRETCH = 4.0
"""With time to spare, trainings get at most so many times their usual epochs."""
SPENT = 0.9
"""Share of the time that is planned for."""
CAPTURE_S, VERIFY_S_PER_GMAC, FIXED_S, FILE_S = 3.0, 4.0, 30.0, 0.05
"""Rough times of what is not probed: capturing, verifying in numpy, timing and report, one image of a file; on a
machine that does nothing else."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run will do and how long that takes, in seconds of wall time."""

    epochs: int
    """Of a training from scratch."""
    train_s: Mapping[str, float]
    """Architecture id -> time of its training."""
    candidate_s: Mapping[str, float]
    """Architecture id -> time of exporting, verifying and scoring it with one recipe."""
    left_out: Sequence[str] = ()
    """Ids of architectures that do not fit the time."""
    n_recipes: int = 1
    fixed_s: float = 0.0
    """Timing, test part, report."""
    n_workers: int = 1
    """Networks that are worked on beside each other."""

    def files_s(self, architecture: Architecture) -> float:
        """Return the time of all files of a network."""
        return self.n_recipes * self.candidate_s.get(architecture.id, 0.0)

    @property
    def seconds(self) -> float:
        """The whole run."""
        kept = [a for a in self.candidate_s if a not in self.left_out]
        training = sum(self.train_s.get(a, 0.0) for a in kept)
        return (training + self.n_recipes * sum(self.candidate_s[a] for a in kept)) / self.n_workers + self.fixed_s


def probe(shop: Shop, jobs: Sequence[Job], options: Any, n_recipes: int) -> Forecast:
    """Time training steps and evaluations on the cheapest and the costliest architecture and predict the rest.

    ``options`` are those of a training from scratch (``None`` when nothing is trained).
    """
    macs = {job.architecture.id: _macs(shop, job.architecture) for job in jobs}
    largest = max(macs.values()) * (options.batch_size if options else 1)
    with threads_for(0 if shop.one_thread else largest):
        return _probed(shop, jobs, options, n_recipes, macs=macs)


def _probed(shop: Shop, jobs: Sequence[Job], options: Any, n_recipes: int, *, macs: Mapping[str, float]) -> Forecast:
    wall, cpu = time.monotonic(), time.process_time()
    shapes = [job.architecture for job in jobs]
    ranked = sorted(shapes, key=lambda a: (macs[a.id], a.id))
    ends = list({a.id: a for a in (ranked[0], ranked[-1])}.values())
    n_val = len(shop.parts["val"])
    is_file = shop.opened.source.kind == "onnx"
    run_s = (lambda x: FILE_S) if is_file else _line([(macs[a.id], _run_time(shop, a)) for a in ends])
    train_s: dict[str, float] = {}
    if options is not None:
        step_s = _line([(macs[a.id], _step_time(shop, a, options)) for a in ends])
        n_steps = max(1, len(shop.parts["train"]) // options.batch_size)
        for job in jobs:
            cost, epochs = macs[job.architecture.id], math.ceil(options.epochs * job.share)
            scored = math.ceil(epochs / options.validate_every) * n_val * run_s(cost)
            if epochs:
                train_s[job.architecture.id] = epochs * n_steps * step_s(cost) + scored
    # how many times longer everything takes because of others
    busy = max(1.0, (time.monotonic() - wall) / max(time.process_time() - cpu, 1e-9))
    candidate_s = {
        key: busy * (CAPTURE_S / n_recipes + VERIFY_S_PER_GMAC * cost / 1e9) + n_val * run_s(cost)
        for key, cost in macs.items()
    }
    return Forecast(options.epochs if options else 0, train_s, candidate_s, (), n_recipes, busy * FIXED_S)


def fitted(found: Forecast, available_s: float | None) -> Forecast:
    """Return the forecast with epochs and trainings chosen so that the run fits the time.

    Fewer epochs come first, down to ``MIN_EPOCHS``; then the costliest architectures are left out, because the cheapest
    is what the others start from. With time to spare, epochs grow up to ``MAX_STRETCH`` times. Without a limit nothing
    changes.
    """
    if available_s is None or not found.train_s:
        return found
    available_s *= SPENT
    training = sum(found.train_s.values()) / found.n_workers
    factor = max(0.0, available_s - (found.seconds - training)) / max(training, 1e-9)
    epochs = max(min(MIN_EPOCHS, found.epochs), min(int(found.epochs * factor), int(found.epochs * MAX_STRETCH)))
    share = epochs / found.epochs
    result = replace(found, epochs=epochs, train_s={k: v * share for k, v in found.train_s.items()})
    for identity in sorted(result.train_s, key=lambda key: (-result.candidate_s[key], -result.train_s[key], key))[:-1]:
        if result.seconds <= available_s:
            break
        result = replace(result, left_out=(*result.left_out, identity))
    return result


def _macs(shop: Shop, architecture: Architecture) -> float:
    source = shop.opened.source
    if source.kind == "onnx":
        return float(math.prod(architecture.size))
    contract = source.contract(architecture.size, architecture.options)
    return torch_macs(new_module(shop, architecture, None, 0), contract)


def _line(points: Sequence[tuple[float, float]]) -> Any:
    """Return the line through two points, or in proportion through one; never below a third of the smallest value."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    slope = (y1 - y0) / (x1 - x0) if x1 > x0 else y0 / max(x0, 1.0)
    least = min(y0, y1) / 3
    return lambda x: max(least, y0 + slope * (x - x0))


def _run_time(shop: Shop, architecture: Architecture) -> float:
    """Return the seconds of scoring one image with torch."""
    from bitfront.train.scoring import score_module

    opened, contract = shop.opened, shop.opened.source.contract(architecture.size, architecture.options)
    module = new_module(shop, architecture, None, 0)
    part = shop.parts["val"][: min(4, len(shop.parts["val"]))]
    score_module(module, opened.task, opened.info, part[:1], contract, output=opened.source.output)
    start = time.monotonic()
    score_module(module, opened.task, opened.info, part, contract, output=opened.source.output)
    return (time.monotonic() - start) / len(part)


def _step_time(shop: Shop, architecture: Architecture, options: Any) -> float:
    """Return the seconds of one training step, augmentation included."""
    import torch

    from bitfront.train.optimizer import training_loss

    opened, contract = shop.opened, shop.opened.source.contract(architecture.size, architecture.options)
    with torch.random.fork_rng(devices=[]):
        module = new_module(shop, architecture, None, 0).to(memory_format=torch.channels_last).train()
        make = teaching(shop, contract, options)
        distiller = make(module) if make else None
        optimizer = torch.optim.Adam(module.parameters(), 1e-4)
        augment = batches.AUGMENTS[options.augment]
        part = batches.cached(shop.parts["train"][: options.batch_size * (STEPS + 1)], contract, augment)
        for i in range(len(part)):
            _ = part[i]  # decoded and shrunk once, as after the first epoch of a training
        times = []
        size = min(options.batch_size, len(part))
        flow = batches.training(part, contract, size, np.random.default_rng(0), augment)
        start = time.monotonic()
        for batch in flow:
            images = torch.from_numpy(batch.images).to(memory_format=torch.channels_last)
            optimizer.zero_grad()
            training_loss(
                module,
                images,
                batch,
                task=opened.task,
                info=opened.info,
                output=opened.source.output,
                distiller=distiller,
            ).backward()
            optimizer.step()
            now = time.monotonic()
            times.append(now - start)
            start = now
    return float(np.median(times[1:] or times))
