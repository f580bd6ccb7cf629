"""train."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitfront.batches import AUGMENTS
from bitfront.contracts import Metrics
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.record import to_json
from bitfront.store import atomic_write
from bitfront.verbs.class_weights import weighted
from bitfront.verbs.opening import TorchSession, open_both, usable_part
from bitfront.verbs.scoring import score_session
from bitfront.verbs.teaching import Teacher, described, distilling, open_teacher

if TYPE_CHECKING:
    from bitfront.train.options import Epoch, TrainOptions

__all__ = ["TrainPlan", "TrainResult", "plan_training", "train", "train_and_val"]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A training's checkpoint and scores."""

    path: Path
    epochs: tuple[Epoch, ...]
    best_epoch: int
    metrics: Metrics
    """Of the best epoch's weights, on the validation part."""
    part: str
    seconds: float
    stopped: str
    """``completed``, ``patience``, ``time`` or a reason."""
    resolution: tuple[int, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """What :func:`train` would do."""

    resolution: tuple[int, int]
    n_train: int
    n_val: int
    epochs: int
    steps: int
    parameters: int
    notes: tuple[str, ...] = ()


def train(
    model: str,
    data: str,
    out: Path | str,
    *,
    options: TrainOptions | None = None,
    class_weights: Sequence[float] | str = (),
    teacher: Teacher | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
    seed: int = 0,
    cache: Path | None = None,
    on_epoch: Callable[[Epoch], str | None] | None = None,
) -> TrainResult:
    """Train a model on the train part, keep the epoch that is best on the val part, write it as a checkpoint.

    Running the same command again after an interruption goes on where it stopped: the state lies in ``OUT.training``.
    ``class_weights`` of the loss: one of each class, or ``median`` (:mod:`bitfront.verbs.class_weights`). A ``teacher``
    adds what it says of the same images. Raises UsageError, DataError, SpaceError.
    """
    import torch

    from bitfront.train.loop import TrainOptions
    from bitfront.train.loop import train as run

    place = _out(out)
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    dataset, source = opened.dataset, opened.source
    assert dataset is not None
    train_name, val_name = train_and_val(dataset.parts(), opened.info.name)
    train_part, train_notes = usable_part(dataset, train_name, cache=cache)
    val_part, val_notes = usable_part(dataset, val_name, cache=cache)
    opened = weighted(opened, class_weights, train_part)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = source.build()
    header = {"model": source.name, "options": to_json(source.options), **described(teacher)}
    chosen = options or TrainOptions()
    distil = distilling(teacher, opened, max(1, len(train_part) // chosen.batch_size), seed)
    folder = place.with_name(f"{place.name}.training")
    folder.mkdir(parents=True, exist_ok=True)
    done = run(
        module,
        opened.task,
        opened.info,
        train_part,
        val_part,
        source.input,
        chosen,
        folder,
        seed,
        on_epoch,
        header=header,
        output=source.output,
        distiller=distil(module) if distil else None,
    )
    atomic_write(place, done.weights.read_bytes())
    metrics = score_session(TorchSession(module), opened, val_part)
    if done.stopped in ("completed", "patience"):
        shutil.rmtree(folder, ignore_errors=True)
    size = (source.input.height, source.input.width)
    return TrainResult(
        place,
        done.epochs,
        done.best_epoch,
        metrics,
        val_name,
        done.seconds,
        done.stopped,
        size,
        (*source.notes, *train_notes, *val_notes),
    )


def plan_training(
    model: str,
    data: str,
    *,
    options: TrainOptions | None = None,
    teacher: Teacher | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
) -> TrainPlan:
    """Return what :func:`train` would do, doing nothing. Raises UsageError, DataError."""
    from bitfront.train.loop import TrainOptions

    chosen = options or TrainOptions()
    if chosen.augment and chosen.augment not in AUGMENTS:
        raise unknown_name("augmentation", chosen.augment, AUGMENTS)
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    assert opened.dataset is not None
    n_train, n_val = (len(opened.dataset.part(p)) for p in train_and_val(opened.dataset.parts(), opened.info.name))
    source = opened.source
    taught: tuple[str, ...] = ()
    if teacher is not None:
        taught = (f"taught by {open_teacher(teacher, opened).name}: its {teacher.options.method}",)
    return TrainPlan(
        resolution=(source.input.height, source.input.width),
        n_train=n_train,
        n_val=n_val,
        epochs=chosen.epochs,
        steps=chosen.epochs * max(1, n_train // chosen.batch_size),
        parameters=sum(p.numel() for p in source.build().parameters()),
        notes=(*source.notes, *taught),
    )


def _out(out: Path | str) -> Path:
    place = Path(out)
    if place.suffix != ".safetensors":
        raise UsageError(f"--out: '{place}' does not end in .safetensors", hint="for example --out model.safetensors")
    return place


def train_and_val(there: tuple[str, ...], name: str) -> tuple[str, str]:
    """Return the parts to train and to validate on. Raises DataError."""
    if "train" not in there:
        raise DataError(f"'{name}' has no train part", hint=f"it has {', '.join(there) or 'nothing'}")
    if "val" not in there:
        raise DataError(f"'{name}' has no val part to choose the best epoch by", hint="set some images aside as val")
    return "train", "val"
