"""A teacher, opened for a student: the way from ``--teacher`` to the loss of a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bitfront.errors import UsageError
from bitfront.graph import passes
from bitfront.record import to_json
from bitfront.sources import Source, open_model
from bitfront.train.distill_options import DistillOptions
from bitfront.verbs.opening import Opened, untrained

if TYPE_CHECKING:
    from torch import nn

    from bitfront.train.distill import Distiller

__all__ = ["Teacher", "described", "distilling", "open_teacher"]

USUAL_DELAY = 400
"""Steps before features are imitated, at most one epoch (Wang et al. 2019)."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who teaches, and what."""

    model: str
    """MODEL as everywhere: a checkpoint, a name of the catalogue, an .onnx file, ``package.module:factory``."""
    weights: Path | None = None
    """Checkpoint for a name of the catalogue or a factory."""
    options: DistillOptions = field(default_factory=DistillOptions)
    random: bool = False
    """A teacher without weights is allowed, as in thesis 004's imitation of features."""


def distilling(
    teacher: Teacher | None, opened: Opened, steps_per_epoch: int, seed: int
) -> Callable[[nn.Module], Distiller] | None:
    """Return what makes the distiller of a student that is trained as ``opened`` says; ``None`` without a teacher.

    The teacher sees the student's images at the student's size, normalized as it wants them.

    Raises UsageError, DataError for a teacher that cannot be opened, was not trained, or is for other classes.
    """
    if teacher is None:
        return None
    import torch

    from bitfront.train.distill import Distiller

    student = opened.source
    size = (student.input.height, student.input.width)
    source = open_teacher(teacher, opened)
    fed = source.contract(size)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = _module(source, size)
    options = teacher.options
    if options.imitate_after < 0:
        options = replace(options, imitate_after=min(USUAL_DELAY, steps_per_epoch))

    def distiller(pupil: nn.Module) -> Distiller:
        return Distiller(
            module,
            pupil,
            options,
            fed=student.input,
            output=student.output,
            teacher_fed=fed,
            teacher_output=source.output,
            seed=seed,
        )

    return distiller


def open_teacher(teacher: Teacher, opened: Opened) -> Source:
    """Return a teacher as a model. Raises UsageError, DataError as ``distilling``."""
    source = open_model(teacher.model, task=opened.task, info=opened.info, weights=teacher.weights)
    if untrained(source) and not teacher.random:
        raise UsageError(
            f"the teacher {source.name} is untrained: it would teach noise",
            hint="give a checkpoint: --teacher FILE.safetensors, or --teacher-weights FILE",
        )
    if source.kind == "artifact":
        raise UsageError(
            f"'{source.path}' runs in its runtime only and cannot teach",
            hint="give the network: a checkpoint or an .onnx file in floating point",
        )
    return source


def described(teacher: Teacher | None) -> dict[str, object]:
    """Return what a checkpoint says of its teacher; empty without one."""
    if teacher is None:
        return {}
    return {"teacher": {"model": Path(teacher.model).name, "options": to_json(teacher.options)}}


def _module(source: Source, size: tuple[int, int]) -> nn.Module:
    from bitfront.graph.module import GraphModule

    if source.kind == "onnx":
        return GraphModule(passes.prepare(source.graph(size)))
    return source.build(size=size)
