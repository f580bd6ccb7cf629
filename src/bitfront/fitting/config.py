"""What a run was asked for, as one frozen value: stored in the run, resumed from it, written as ``bitfront.yaml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitfront.record import Budget

__all__ = ["RETRAIN", "BitSearch", "Config"]

RETRAIN = ("auto", "always", "never")
"""Train given weights again: at other sizes than their own, at all sizes, not at all."""


@dataclass(frozen=True, slots=True)
class BitSearch:
    """The search over the bits of every tensor, part of a run."""

    method: str = ""
    """A name of :data:`bitfront.search.methods.METHODS`; empty: none."""
    weight_bits: Sequence[int] | None = None
    """Widths to choose from; ``None``: those of the method."""
    activation_bits: Sequence[int] | None = None
    """The same for activations; empty: they stay float32."""
    costs: Sequence[str] = ()
    """What is minimised beside the loss of score: ``flash``, ``ram``, ``instructions``, ``cycles``, ``npu``; empty:
    ``flash``, and on a microcontroller ``instructions`` too."""
    evaluations: float | None = None
    """Full evaluations; ``None``: what the method takes."""
    time_s: float | None = None
    rule: str = ""
    """How integer bits are chosen, ``max`` or ``mse``; empty: as the method does."""
    equalized: bool | None = None
    per_channel: bool = False
    rounding: str = ""
    """How results are rounded at run time, ``half_even`` or ``half_up``; empty: to even, on a microcontroller up."""
    n_members: int = 8
    """Members of its front that become files."""
    n_trained: int = 0
    """Members that lose, which are trained under their plans."""
    n_networks: int = 2
    """Networks of the run that are searched."""


@dataclass(frozen=True, slots=True)
class Config:
    """The arguments of :func:`bitfront.pipeline.fit`, resolved."""

    model: str = "fast_scnn"
    data: str = "conveyor"
    reader: str = ""
    task: str = ""
    """Empty: what model and data are for."""
    budget: Budget = field(default_factory=Budget)
    space: Mapping[str, Any] = field(default_factory=dict)
    """Knob (or ``resolution``) -> values to try."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Knobs that are fixed."""
    weights: str = ""
    preprocess: str = ""
    recipes: Sequence[str] = ()
    runtime: str = ""
    """Empty: the device's usual one."""
    runtimes: Sequence[str] = ()
    """Further engines, whose files compete with those of ``runtime``."""
    device: str = "host"
    objectives: Sequence[str] | None = None
    """Axes of the front; ``None``: the device's usual ones."""
    effort: str = "entry"
    stages: Sequence[str] = ()
    """Names of :data:`bitfront.fitting.exploration.STAGES`; empty: those of the effort, or the whole of ``space``."""
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    augment: str = ""
    seed: int = 0
    score: str = ""
    threads: int = 1
    retrain: str = "auto"
    teacher: str = ""
    """A trained network that teaches in every training; empty: none."""
    limit: int | None = None
    track: Sequence[str] = ()
    """Trackers that get curves, parameters and the front."""
    bits: BitSearch = field(default_factory=BitSearch)
    suite: str = ""
    """Name of :data:`bitfront.fitting.suites.SUITES`: everything is measured, what loses too; empty: none."""
    pick: str = "knee"
    """Rule of :data:`bitfront.fitting.delivery.PICKS` by which a member of the front is recommended."""
