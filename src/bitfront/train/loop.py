"""One training loop for every task: it changes weights, keeps the best ones, and can be killed at any moment.

Every epoch draws its order, augmentation and dropout from ``(seed, epoch)`` alone, and the state between epochs is one
atomically written file. So a training that was killed and started again ends with the same weights, bit for bit, as one
that was not (on the CPU, with the same number of threads).
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bitfront import batches
from bitfront.contracts import Batch, DataInfo, InputContract, OutputContract, Part, Task
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.record import content_id, to_json
from bitfront.train import schedules
from bitfront.train.average import Average
from bitfront.train.checkpoints import load_into, save_checkpoint
from bitfront.train.distill import Distiller
from bitfront.train.optimizer import adam, freeze, training_loss
from bitfront.train.options import Epoch, Trained, TrainOptions
from bitfront.train.scoring import score_module
from bitfront.train.state import (
    Arrays,
    Progress,
    TrainState,
    arrays_of,
    capture_optimizer,
    is_finite,
    restore_optimizer,
)

__all__ = ["Epoch", "TrainOptions", "Trained", "train"]

log = logging.getLogger(__name__)

MAX_HALVINGS = 3
OnEpoch = Callable[[Epoch], str | None]


def train(  # noqa: PLR0917 - all are needed, and the order is the contract
    module: nn.Module,
    task: Task,
    info: DataInfo,
    train_part: Part,
    val_part: Part,
    contract: InputContract,
    options: TrainOptions,
    folder: Path,
    seed: int,
    on_epoch: OnEpoch | None = None,
    *,
    header: Mapping[str, Any] | None = None,
    span: tuple[int, int] | None = None,
    output: OutputContract | None = None,
    distiller: Distiller | None = None,
) -> Trained:
    """Train ``module`` on ``train_part``, score it on ``val_part``, keep the best epoch as ``folder/best.safetensors``.

    A ``folder`` with the state of the same training (start weights, options, sizes of the parts, seed) is resumed.
    ``on_epoch`` sees every epoch (after a resume the last one again) and may return a reason to stop. ``header`` adds
    to the checkpoint's header (``model``, ``options``). ``span`` runs a part of the epochs only, from the first to
    before the last, at the rates that they have in the whole. ``output`` says how to read the network (default: as the
    task reads one with so many channels). A ``distiller`` adds a teacher to the loss. At the end ``module`` holds the
    best weights, on the CPU.

    Raises DataError for empty parts, UsageError when the loss is not finite even after halving the rate three times.
    """
    for what, part in (("training", train_part), ("validation", val_part)):
        if not len(part):
            raise DataError(f"the {what} part of '{info.name}' holds no images")
    options = replace(options, augment=options.augment or info.augment)
    if options.augment not in batches.AUGMENTS:
        raise unknown_name("augmentation", options.augment, batches.AUGMENTS)
    task.meter(info, options.score)  # an unknown score is refused before the first epoch, not after it
    training = _Training(
        module,
        task=task,
        info=info,
        parts=(train_part, val_part),
        contract=contract,
        options=options,
        folder=folder,
        seed=seed,
        span=span or (0, options.epochs),
        output=output,
        distiller=distiller,
    )
    return training.run(on_epoch, header or {})


class _Training:
    """The moving parts of one training."""

    def __init__(
        self,
        module: nn.Module,
        *,
        task: Task,
        info: DataInfo,
        parts: tuple[Part, Part],
        contract: InputContract,
        options: TrainOptions,
        folder: Path,
        seed: int,
        span: tuple[int, int],
        output: OutputContract | None,
        distiller: Distiller | None,
    ) -> None:
        self.task, self.info, self.contract, self.options, self.seed = task, info, contract, options, seed
        self.first, self.end = span
        self.output, self.distiller = output, distiller
        self.augment = batches.AUGMENTS[options.augment]
        self.parts = (batches.cached(parts[0], contract, self.augment), batches.cached(parts[1]))
        self.device = _device(options.device)
        self.mixed = _mixed(options.precision, self.device)
        self.module = module.to(self.device, memory_format=torch.channels_last)
        self.frozen = freeze(module, options.freeze)
        if distiller:
            distiller.place(self.device)
        self.optimizer = adam(module, options, *filter(None, [distiller]))
        self.average = Average(module, options.ema) if options.ema else None
        self.state = TrainState(folder, Progress(self._fingerprint()))
        if self.state.load():
            log.info("resuming after epoch %d", len(self.state.progress.epochs))
            self._restore()
        else:
            self._begin()

    def _fingerprint(self) -> str:
        """Content id of everything that the result depends on, as far as it can be seen."""
        left_out = ("time_limit_seconds", "device")
        options = {k: v for k, v in to_json(self.options).items() if k not in left_out and v != ""}
        sizes = [len(part) for part in self.parts]
        weights = arrays_of(self.module)
        span = () if (self.first, self.end) == (0, self.options.epochs) else ((self.first, self.end),)
        data = (self.contract, self.info.classes, sizes)
        taught = (self.distiller.id,) if self.distiller else ()
        return content_id(weights, options, *data, self.seed, _described(self.task), *span, *taught)

    def _begin(self) -> None:
        weights = arrays_of(self.module)
        if not is_finite(weights):
            raise DataError("the weights to start from are not finite")
        self.state.groups = {"model": weights, "average": weights if self.average else {}, "beside": self._beside()}
        self.state.save()

    def run(self, on_epoch: OnEpoch | None, header: Mapping[str, Any]) -> Trained:
        while not (stopped := self._stop(on_epoch)):
            self._advance()
        state = self.state
        if state.progress.best_epoch < 0:
            self._keep(self._score(), state.progress.epochs[-1].index)
            state.save()
        load_into(self.module.cpu(), state.groups["best"])
        self.module.eval()
        weights = state.folder / "best.safetensors"
        save_checkpoint(weights, state.groups["best"], {**self._header(), **header})
        progress = state.progress
        seconds = sum(e.seconds for e in progress.epochs)
        return Trained(weights, progress.epochs, progress.best_score, progress.best_epoch, seconds, stopped)

    def _header(self) -> dict[str, Any]:
        progress = self.state.progress
        return {
            "task": self.task.name,
            "data": self.info.name,
            "classes": self.info.classes,
            "input": self.contract,
            "score": progress.best_score,
            "epoch": progress.best_epoch,
            "seed": self.seed,
            "training": self.options,
        }

    def _stop(self, on_epoch: OnEpoch | None) -> str:
        """Why to stop now; empty to go on."""
        epochs, options = self.state.progress.epochs, self.options
        if not epochs:
            return ""
        reason = on_epoch(epochs[-1]) if on_epoch else None
        used = sum(e.seconds for e in epochs)
        if reason:
            return reason
        if epochs[-1].index + 1 >= self.end:
            return "completed"
        if options.patience and epochs[-1].index - self.state.progress.best_epoch >= options.patience:
            return "patience"
        if options.time_limit_seconds is not None and used + epochs[-1].seconds > options.time_limit_seconds:
            return "time"
        return ""

    def _advance(self) -> None:
        """Train one epoch and save; when loss or weights are not finite, go back and halve the rate instead."""
        start, index = time.monotonic(), self.first + len(self.state.progress.epochs)
        done = self._epoch(index)
        weights, beside = arrays_of(self.module), self._beside()
        if not (math.isfinite(done.loss) and is_finite(weights) and is_finite(beside)):
            self._go_back(index, done.rate)
            return
        self.state.groups["model"], self.state.groups["beside"] = weights, beside
        self.state.groups["optimizer"] = capture_optimizer(self.optimizer)
        self.state.groups["average"] = self.average.arrays() if self.average else {}
        due = (index + 1) % self.options.validate_every == 0 or index + 1 == self.end or not done.in_time
        score = self._score() if due else None
        if score is not None:
            self._keep(score, index)
        progress = self.state.progress
        epoch = Epoch(index, done.rate, done.loss, score, time.monotonic() - start)
        self.state.progress = replace(
            progress, epochs=(*progress.epochs, epoch), n_steps=progress.n_steps + done.n_steps
        )
        self.state.save()

    def _epoch(self, index: int) -> _Pass:
        """Go once through the training part, until a loss is not finite or time runs out."""
        options, deadline = self.options, self._deadline()
        rng = np.random.default_rng([self.seed, index, self.state.progress.halvings])
        n_steps = max(1, len(self.parts[0]) // options.batch_size)
        done = _Pass(rate=options.rate)
        self.module.train()
        self.frozen.eval()
        with _seeded(int(rng.integers(2**62)), self.device):
            for batch in batches.training(self.parts[0], self.contract, options.batch_size, rng, self.augment):
                done.rate = self._set_rate(index, done.n_steps, n_steps)
                done.losses.append(self._step(batch))
                done.sizes.append(len(batch.images))
                done.in_time = time.monotonic() < deadline
                if not (math.isfinite(done.losses[-1]) and done.in_time):
                    break
        if not done.losses:
            raise DataError(f"'{self.info.name}' gave no training batch")
        return done

    def _step(self, batch: Batch) -> float:
        """One step of the optimizer; returns the loss. A loss that is not finite changes no weight."""
        images = torch.from_numpy(batch.images).to(self.device, memory_format=torch.channels_last)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            loss = training_loss(
                self.module,
                images,
                batch,
                task=self.task,
                info=self.info,
                output=self.output,
                distiller=self.distiller,
            )
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()
            if self.distiller:
                self.distiller.clip(p for group in self.optimizer.param_groups for p in group["params"])
            self.optimizer.step()
            if self.average:
                self.average.update(self.module)
        return value

    def _set_rate(self, index: int, step: int, n_steps: int) -> float:
        options = self.options
        epoch = index + (step / n_steps if options.rate_per == "step" else 0)
        value = schedules.rate(
            options.schedule,
            epoch,
            options.epochs,
            start=options.rate / 2**self.state.progress.halvings,
            end=options.end_rate,
            power=options.power,
        ) * min(1.0, (self.first * n_steps + self.state.progress.n_steps + step + 1) / max(1, options.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = value
        return value

    def _deadline(self) -> float:
        if self.options.time_limit_seconds is None:
            return math.inf
        return time.monotonic() + self.options.time_limit_seconds - sum(e.seconds for e in self.state.progress.epochs)

    def _score(self) -> float:
        metrics = score_module(
            self.average.module if self.average else self.module,
            self.task,
            self.info,
            self.parts[1],
            self.contract,
            batch_size=self.options.batch_size,
            score=self.options.score,
            output=self.output,
        )
        return float(metrics.value)

    def _keep(self, score: float, index: int) -> None:
        """Keep the weights just scored when they are the best so far."""
        progress = self.state.progress
        if progress.best_epoch < 0 or score > progress.best_score:
            self.state.groups["best"] = self.state.groups["average" if self.average else "model"]
            self.state.progress = replace(progress, best_score=score, best_epoch=index)

    def _go_back(self, index: int, rate: float) -> None:
        halvings = self.state.progress.halvings + 1
        if halvings > MAX_HALVINGS:
            raise UsageError(
                f"the training diverges: no finite loss in epoch {index + 1}, also after halving the rate "
                f"{MAX_HALVINGS} times (to {rate:.2g})",
                hint=f"start with a rate below {self.options.rate:g}, and check images and labels",
            )
        log.warning("loss or weights not finite in epoch %d: going back, halving the rate", index + 1)
        self.state.progress = replace(self.state.progress, halvings=halvings)
        self.state.save()
        self._restore()

    def _beside(self) -> Arrays:
        """What is trained beside the network, and is in no checkpoint."""
        return arrays_of(self.distiller) if self.distiller else {}

    def _restore(self) -> None:
        """Put the saved state into module, average and optimizer."""
        load_into(self.module, self.state.groups["model"])
        if self.distiller:
            load_into(self.distiller, self.state.groups["beside"])
        restore_optimizer(self.optimizer, self.state.groups.get("optimizer", {}))
        if self.average:
            self.average.restore(self.state.groups["average"], self.state.progress.n_steps)


@dataclass(slots=True)
class _Pass:
    """What happened on one way through the training part."""

    rate: float
    losses: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    in_time: bool = True

    @property
    def n_steps(self) -> int:
        return len(self.losses)

    @property
    def loss(self) -> float:
        """Mean over images; not finite when one step was not."""
        return float(np.average(self.losses, weights=self.sizes))


def _described(task: Task) -> Any:
    """The options of a task that is a dataclass, the plain ones of any other."""
    if is_dataclass(task):
        return task
    plain = {k: v for k, v in vars(task).items() if isinstance(v, (bool, int, float, str))}
    return {"task": task.name, **plain}


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is here", hint="use device cpu or auto")
    cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if cuda else "cpu")


def _mixed(precision: str, device: torch.device) -> bool:
    return precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators inside, and put their states back after."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
