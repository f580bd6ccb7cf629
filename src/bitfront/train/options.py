"""What a training is told, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitfront.errors import UsageError, unknown_name
from bitfront.train.schedules import SCHEDULES

__all__ = ["PRESETS", "Epoch", "TrainOptions", "Trained", "preset"]

PRECISIONS = ("auto", "float32", "bf16")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of :func:`bitfront.train.loop.train`; the optimizer is Adam. UsageError for values without sense."""

    epochs: int = 30
    batch_size: int = 8
    rate: float = 1e-2
    """Learning rate at the start (after the warm-up)."""
    schedule: str = "cosine"
    """``cosine``, ``polynomial``, ``step`` or ``constant``."""
    end_rate: float = 1e-5
    """Rate that the schedule ends at."""
    power: float = 0.9
    """Exponent of ``polynomial``."""
    rate_per: str = "step"
    """Set the rate anew at every ``step`` or every ``epoch``."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly at the beginning."""
    weight_decay: float = 0.0
    """Decoupled (Loshchilov and Hutter 2019); of weights only, not of biases and BatchNorm."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is scored and kept; 0 for none."""
    patience: int = 0
    """Stop after this many epochs without a better validation score; 0 for never."""
    validate_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    score: str = ""
    """The validation score, a name of the task's meter; empty for the task's default."""
    augment: str = ""
    """A name of :data:`bitfront.batches.AUGMENTS`; empty for what suits the data."""
    precision: str = "auto"
    """``float32``, ``bf16`` (mixed precision), or ``auto``: bf16 on a GPU that has it."""
    device: str = "auto"
    """``cpu``, ``cuda``, or ``auto``."""
    time_limit_seconds: float | None = None
    """Finish cleanly when this much time is used; the result then depends on the machine's speed."""
    freeze: tuple[str, ...] = ()
    """Parameters that are not trained: patterns (``features.0.*``), names of parts, or ``backbone``."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        if self.rate_per not in ("step", "epoch"):
            raise unknown_name("rate_per", self.rate_per, ("step", "epoch"))
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.rate < 100 or not 0 <= self.end_rate < 100:
            raise UsageError(f"rate must be positive and end_rate at least 0, not {self.rate} and {self.end_rate}")
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema must be at least 0 and below 1, not {self.ema}")
        for name in ("warmup_steps", "weight_decay", "patience"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must be at least 0, not {getattr(self, name)}")


PRESETS: Mapping[str, TrainOptions] = {
    "default": TrainOptions(),
    "thesis_000": TrainOptions(
        epochs=40, batch_size=4, rate=5e-4, schedule="step", end_rate=6e-6, patience=5, augment="thesis_000"
    ),
    "quantized": TrainOptions(epochs=8, rate=1e-3),
    "detection": TrainOptions(
        epochs=100,
        rate=2e-3,
        end_rate=2e-5,
        warmup_steps=100,
        weight_decay=5e-4,
        ema=0.998,
        validate_every=5,
        augment="detection",
    ),
}
"""Whole set-ups by name. ``thesis_000`` is the one that Q-Seg1 and Q-Seg2 were trained with on Cityscapes; images of
COCO-Stuff were not cropped (``augment="thesis_000_whole"``). ``quantized`` trains on from trained weights, under a
plan; ``detection`` is what detectors are trained with when nothing else is said."""


def preset(name: str) -> TrainOptions:
    """Return an entry of PRESETS. Raises UsageError with a guess."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One finished epoch."""

    index: int
    rate: float
    """Learning rate of its last step."""
    loss: float
    """Mean training loss."""
    score: float | None
    """Validation score; ``None`` when this epoch was not validated."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a training."""

    weights: Path
    """Checkpoint of the best epoch (safetensors)."""
    epochs: tuple[Epoch, ...]
    best_score: float
    best_epoch: int
    seconds: float
    """Time in epochs, over all sessions when it was resumed."""
    stopped: str
    """``completed``, ``patience``, ``time``, or the reason that ``on_epoch`` gave."""
