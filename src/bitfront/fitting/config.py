"""What a run was asked for, as one frozen value: stored in the run, resumed from it, written as ``bitfront.yaml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitfront.record import Budget

__all__ = ["RETRAIN", "Config"]

RETRAIN = ("auto", "always", "never")
"""Train given weights again: at other sizes than their own, at all sizes, not at all."""


@dataclass(frozen=True, slots=True)
class Config:
    """The arguments of :func:`bitfront.pipeline.fit`, resolved."""

    model: str = "fast_scnn"
    data: str = "conveyor"
    reader: str = ""
    task: str = "segmentation"
    budget: Budget = field(default_factory=Budget)
    space: Mapping[str, Any] = field(default_factory=dict)
    """Knob (or ``resolution``) -> values to try."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Knobs that are fixed."""
    weights: str = ""
    preprocess: str = ""
    recipes: Sequence[str] = ()
    runtime: str = "onnxruntime"
    device: str = "host"
    objectives: Sequence[str] = ("score", "latency", "size")
    effort: str = "entry"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    augment: str = ""
    seed: int = 0
    score: str = ""
    threads: int = 1
    retrain: str = "auto"
    limit: int | None = None
