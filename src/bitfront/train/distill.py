"""Knowledge distillation: a teacher's outputs and features in the loss of a student.

The training loop is given a :class:`Distiller`. It holds what is trained beside the student (the adaptation layer of a
feature), which is part of the training's state and not of the checkpoint.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitfront.contracts import IGNORE, Batch, Head, InputContract, OutputContract
from bitfront.errors import UsageError
from bitfront.record import content_id
from bitfront.train.distill_options import THESIS_ANCHORS, DistillOptions
from bitfront.train.imitation import Seen, adapter, anchor_mask, imitation_loss, usual_part, watching
from bitfront.train.soft_targets import CODINGS, detector_loss, temperature_loss
from bitfront.train.state import arrays_of

__all__ = ["Distiller"]


class Distiller(nn.Module):  # type: ignore[misc]
    """What a teacher adds to the loss of a student. A teacher's weights never change."""

    n_steps: Tensor

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        options: DistillOptions,
        *,
        fed: InputContract,
        output: OutputContract,
        teacher_fed: InputContract | None = None,
        teacher_output: OutputContract | None = None,
        seed: int = 0,
    ) -> None:
        """Look at what both networks compute, and make the adaptation layer.

        Args:
            teacher: any network; put into evaluation mode and never trained.
            student: as it will be given to the loop; left as it is.
            options: what is learned.
            fed: how the student's images are made.
            output: how the student's output is read.
            teacher_fed: how the teacher wants its images, at the student's size; ``None``: alike.
            teacher_output: how the teacher's is read; ``None``: alike.
            seed: of the adaptation layer.

        Raises UsageError when the two do not fit each other, or lack what is to be learned.
        """
        super().__init__()
        self.options, self.head, self.seed = options, output.head, seed
        self.held = (teacher.cpu().eval().requires_grad_(False),)  # in a tuple: no part of what is trained and saved
        self.part, self.teacher_part = _parts(student, teacher, options)
        self.coding = (output, teacher_output or output)
        change = _change(fed, teacher_fed or fed)
        self.register_buffer("factors", change[0], persistent=False)
        self.register_buffer("shifts", change[1], persistent=False)
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))
        self.adapt: nn.Module = nn.Identity()
        self._features: Seen = []
        self._fit(student, fed)
        if options.teacher_mode == "train":
            teacher.train()

    @property
    def teacher(self) -> nn.Module:
        """The teacher."""
        return self.held[0]

    @property
    def id(self) -> str:
        """Content id of everything that it adds: the teacher's weights, the options, the first adaptation layer."""
        weights = {k: v for k, v in arrays_of(self.teacher).items() if not k.endswith("num_batches_tracked")}
        return content_id(weights, self.options, self.seed, (self.part, self.teacher_part), self.factors.tolist())

    def place(self, device: torch.device) -> None:
        """Move the teacher and what is trained beside the student."""
        self.to(device, memory_format=torch.channels_last)
        self.teacher.to(device, memory_format=torch.channels_last)

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[None]:
        """Watch the student's feature while it computes."""
        if not self.part:
            yield
            return
        with watching(student, self.part) as self._features:
            yield

    def forward(self, images: Tensor, batch: Batch, outputs: Tensor | None) -> Tensor:
        """Return what is added to the loss of a batch.

        ``images`` and ``outputs`` (raw; ``None`` for networks that work out their loss themselves) are the student's,
        which has just been watched.
        """
        self.n_steps += 1
        loss = torch.zeros((), device=images.device)
        imitates = bool(self.part) and int(self.n_steps) > max(self.options.imitate_after, 0)
        if not (self.options.of_outputs or imitates):
            return loss
        with torch.no_grad():
            its_outputs, its_feature = self._taught(images)
        if self.options.of_outputs:
            assert outputs is not None
            loss = loss + self._of_outputs(outputs, its_outputs, batch)
        if imitates:
            loss = loss + self._of_features(self._features[0], its_feature, batch)
        return loss

    def clip(self, parameters: Iterable[nn.Parameter]) -> None:
        """Limit the norm of the gradient, where the options ask for it."""
        if self.options.max_gradient:
            nn.utils.clip_grad_norm_(parameters, self.options.max_gradient)

    def _taught(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's output and feature."""
        if not self.part:
            return self.teacher(images * self.factors + self.shifts), images
        with watching(self.teacher, self.teacher_part) as seen:
            return self.teacher(images * self.factors + self.shifts), seen[0]

    def _of_outputs(self, outputs: Tensor, taught: Tensor, batch: Batch) -> Tensor:
        if self.head is not None:
            raw, its = (
                _numbers_first(v, o.head) for v, o in zip((outputs, taught), self.coding, strict=True)
            )  # both (b, 5 + K, n)
            height, width = batch.images.shape[2:]
            return detector_loss(raw, its, self.head, (height, width), self.options)
        keep = None
        if batch.masks is not None and batch.masks.shape[1:] == outputs.shape[2:]:
            keep = torch.from_numpy(batch.masks != IGNORE).to(outputs.device)
        return self.options.factor * temperature_loss(outputs, taught, self.options.temperature, keep)

    def _of_features(self, feature: Tensor, taught: Tensor, batch: Batch) -> Tensor:
        losses = imitation_loss(self.adapt(feature), taught, self._mask(taught, batch), self.options.mean_over)
        yolo = self.head is not None and self.head.kind in CODINGS  # its loss is a sum over images
        return self.options.imitation * (losses.sum() if yolo else losses.mean())

    def _mask(self, feature: Tensor, batch: Batch) -> Tensor:
        b, _, rows, columns = feature.shape
        if self.head is None or self.options.mask == "none":
            return torch.ones((b, rows, columns), device=feature.device)
        stride = (batch.images.shape[2] / rows, batch.images.shape[3] / columns)
        anchors = self._anchors(stride, (batch.images.shape[2], batch.images.shape[3]))
        masks = [anchor_mask(boxes, anchors, (rows, columns), stride, self.options.threshold) for boxes in batch.boxes]
        if self.options.transposed:
            masks = [mask.T for mask in masks]
        return torch.from_numpy(np.stack(masks).astype(np.float32)).to(feature.device)

    def _anchors(self, stride: tuple[float, float], size: tuple[int, int]) -> NDArray[Any]:
        """Width and height in cells, ``(a, 2)``."""
        if self.options.anchors == "thesis_004":
            return np.array(THESIS_ANCHORS)
        assert self.head is not None
        strides = self.head.strides
        nearest = min(range(len(strides)), key=lambda i: abs(strides[i] - stride[0]))
        unit = (size[1], size[0]) if self.head.kind == "ssd" else (1, 1)
        return np.array(self.head.anchors[nearest]) * unit / [stride[1], stride[0]]

    # --- do they fit -------------------------------------------------------------------------------------------------
    def _fit(self, student: nn.Module, fed: InputContract) -> None:
        probe = torch.zeros((1, fed.channels, fed.height, fed.width))
        if self.options.of_outputs:
            self._check_outputs(student)
        elif self.head is not None and self.options.mask == "anchors":
            self._check_anchors()
        mine, its = (
            _computed(module, images, part)
            for module, images, part in (
                (student, probe, self.part),
                (self.teacher, probe * self.factors + self.shifts, self.teacher_part),
            )
        )
        if self.options.of_outputs and mine[0] != its[0]:
            raise UsageError(
                f"the teacher's output is {its[0]} at {fed.height}x{fed.width}, the student's {mine[0]}",
                hint="take a teacher of the same kind, or distil features only",
            )
        if not self.part:
            return
        for part, shape in ((self.part, mine[1]), (self.teacher_part, its[1])):
            if len(shape) != 4:
                raise UsageError(
                    f"'{part}' gives no feature map (b, c, h, w)", hint="name another part: feature=PART, PART:in"
                )
        if mine[1][2:] != its[1][2:]:
            raise UsageError(
                f"the student's '{self.part}' is {_size(mine[1])}, the teacher's '{self.teacher_part}' {_size(its[1])}",
                hint="name parts of the same size: feature=PART and teacher_feature=PART",
            )
        self.adapt = adapter(mine[1][1], its[1][1], trained=self.options.train_adapter, seed=self.seed)

    def _check_outputs(self, student: nn.Module) -> None:
        heads = tuple(output.head for output in self.coding)
        if hasattr(student, "training_loss") or hasattr(self.teacher, "training_loss"):
            raise UsageError(
                "this network works out its loss itself: it has no outputs to learn from a teacher",
                hint="distil features only",
            )
        if _described(heads[0]) != _described(heads[1]):
            raise UsageError(
                f"student and teacher code boxes differently: {_named(heads[0])} and {_named(heads[1])}",
                hint="take a teacher with the same head, or distil features only",
            )
        if heads[0] is not None and heads[0].kind not in CODINGS:
            raise UsageError(
                f"a head '{heads[0].kind}' has no objectness to weigh a teacher's boxes by",
                hint=f"heads that have: {', '.join(CODINGS)}; or distil features only",
            )
        if self.part and self.options.mask == "anchors" and heads[0] is not None:
            self._check_anchors()

    def _check_anchors(self) -> None:
        if self.options.anchors == "level" and not (self.head and self.head.anchors):
            raise UsageError(
                "this head has no anchors to mask features by", hint="set mask=none, or anchors=thesis_004"
            )


def _parts(student: nn.Module, teacher: nn.Module, options: DistillOptions) -> tuple[str, str]:
    """The parts to imitate, of student and teacher; empty without imitation. Raises UsageError."""
    if not options.of_features:
        return "", ""
    part = options.feature or usual_part(student) or usual_part(teacher)
    its = options.teacher_feature or ("" if options.feature else usual_part(teacher)) or part
    if not part:
        raise UsageError("this family does not say which part is imitated", hint="name one: feature=PART")
    return part, its


def _computed(module: nn.Module, images: Tensor, part: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a network's output and of a part's, in evaluation mode; the module is left as it was."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            if not part:
                return tuple(module(images).shape), ()
            with watching(module, part) as seen:
                output = module(images)
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"student and teacher cannot be fed alike: {first}", hint="take another teacher") from error
    finally:
        module.train(training)
    feature = seen[0] if seen else None
    return tuple(output.shape), tuple(feature.shape) if isinstance(feature, Tensor) else ()


def _change(fed: InputContract, teacher_fed: InputContract) -> tuple[Tensor, Tensor]:
    """Factors and shifts ``(1, c, 1, 1)`` that make the student's images the teacher's. Raises UsageError."""
    for name in ("channels", "color"):
        if getattr(fed, name) != getattr(teacher_fed, name):
            raise UsageError(
                f"the teacher sees images with {name} {getattr(teacher_fed, name)}, the student {getattr(fed, name)}",
                hint="take a teacher that sees what the student sees",
            )
    mean, std, its_mean, its_std = (
        np.array(list(itertools.islice(itertools.cycle(values), fed.channels)))
        for values in (fed.mean, fed.std, teacher_fed.mean, teacher_fed.std)
    )
    factors, shifts = std / its_std, (mean - its_mean) / its_std
    shape = (1, fed.channels, 1, 1)
    return (
        torch.tensor(factors, dtype=torch.float32).reshape(shape),
        torch.tensor(shifts, dtype=torch.float32).reshape(shape),
    )


def _numbers_first(raw: Tensor, head: Head | None) -> Tensor:
    return raw.transpose(1, 2) if head is not None and head.layout == "bnk" else raw


def _described(head: Head | None) -> object:
    return head and (head.kind, head.strides, head.anchors, head.layout)


def _named(head: Head | None) -> str:
    if head is None:
        return "none"
    return f"{head.kind} with strides {', '.join(map(str, head.strides)) or 'none'}"


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[3]}"
