"""The values that a run is made of: budget, candidate, artifact, measurement, agreement, record.

All are frozen, hold plain data only, and go to JSON and back with :func:`to_json` and :func:`from_json`; content ids
are hashes of that JSON, so equal values have equal ids in every process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bitfront.contracts import InputContract, Metrics, OutputContract

__all__ = [
    "SCHEMA",
    "Agreement",
    "Artifact",
    "Budget",
    "Candidate",
    "Measurement",
    "OnDevice",
    "Record",
    "content_id",
    "digest_file",
    "from_json",
    "to_json",
    "varying_knobs",
]

SCHEMA = 1
"""Version of the JSON form of these values; a reader refuses a higher one."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Budget:
    """What the user can afford; ``None`` means no limit."""

    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    """Of the file; on a microcontroller of its flash, program included."""
    min_score: float | None = None
    """In [0, 1]."""
    max_drop: float | None = None
    """Largest loss of score against the float baseline, in [0, 1]."""
    time_s: float | None = None
    """Wall time for the whole run."""
    max_ram_bytes: int | None = None
    """Of activations, and on a microcontroller the stack."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One point of the search: architecture and input knobs, how it is quantized, and the runtime that executes it."""

    model: str
    knobs: Mapping[str, Any]
    """Architecture options and ``resolution`` (``[height, width]``) and ``channels``."""
    recipe: str
    runtime: str
    weights: str = ""
    """Content id of the float weights it starts from."""
    plan: str = ""
    """Content id of a searched plan; empty when the recipe says it all."""

    @property
    def id(self) -> str:
        """Twelve hex digits that name this candidate and its folder."""
        return content_id(self)[:12]

    @property
    def label(self) -> str:
        """A name for people: ``256x256 width=0.25 int8``."""
        return self.named(self.knobs)

    def named(self, shown: Collection[str]) -> str:
        """Return the label with these knobs only (and the ``runtime``, if it is among them); the size always shows."""
        knobs = {k: v for k, v in self.knobs.items() if k in shown or k == "resolution"}
        size = knobs.pop("resolution", None)
        parts = [f"{size[0]}x{size[1]}"] if size else []
        parts += [f"{k}={v}" for k, v in sorted(knobs.items()) if k not in ("classes", "channels")]
        return " ".join([*parts, self.recipe, *([self.runtime] if "runtime" in shown else [])])


@dataclass(frozen=True, slots=True)
class Artifact:
    """Files on disk that a runtime opens, with what it takes to feed and read them."""

    path: str
    """Main file, relative to the run folder (or absolute outside a run)."""
    runtime: str
    recipe: str
    size_bytes: int
    sha256: str
    input: InputContract
    output: OutputContract


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measured number with its unit, spread and circumstances."""

    value: float
    """Median; of thread CPU time where the engine computes in the caller's thread, else of wall time."""
    unit: str
    p90: float | None = None
    iqr: float | None = None
    n: int = 0
    cpu: float | None = None
    """Median of thread CPU time, same unit; ``None`` where the engine computes in other threads."""
    wall: float | None = None
    """Median of wall time, same unit."""
    ratio: float | None = None
    """Median of paired ratios against the baseline of the same run; below 1 is better."""
    noise_floor: float | None = None
    """Error of the A/A control: differences of a ratio from 1 below this mean nothing."""
    threads: int = 1
    device: str = "host"
    note: str = ""
    """What a reader must know, such as a busy machine; empty when all is well."""
    samples: tuple[float, ...] = ()
    """A few dozen samples for the histogram."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far an artifact agrees with its reference on real images."""

    verified: bool
    max_code_difference: int
    """Largest difference of the output, in codes of the output's format (float outputs: in the stated unit)."""
    unit: str
    """What one code is, in words."""
    differing_fraction: float
    readout_agreement: float
    """Fraction of pixels (or images) with the same final answer."""
    tolerance: int
    first_difference: str | None
    """The first tensor, in execution order, that differs by more than the tolerance."""
    n_images: int
    runtime: str
    cpu: str
    """CPU model and the flags that change integer results (avx2, avx512_vnni, ...)."""
    when: str
    """UTC, ISO 8601."""
    reference: str = ""
    """Which reference it was compared with."""
    exceptions: Sequence[str] = ()
    """What is not promised to agree to the bit, each with its reason and how many codes differed by how much."""


@dataclass(frozen=True, slots=True)
class OnDevice:
    """What an artifact takes on a device that is not this computer; modelled where nothing else is said."""

    device: str
    flash_bytes: int
    """Constants, and the program with ``-O2`` (estimated from above)."""
    ram_bytes: int
    """Activations and scratch; of C the stack too (estimated from above)."""
    instructions: float | None = None
    """Of one image."""
    latency_ms: float | None = None
    residual: str = ""
    """How well the model of instructions and latency is known; begins with "modelled"."""
    counted_instructions: int | None = None
    """Of one image, by the emulator."""
    linked_bytes: int | None = None
    """Flash as the linker tells it."""
    counted_with: str = ""
    """Compiler and emulator of both."""


@dataclass(frozen=True, slots=True)
class Record:
    """Everything known of one candidate."""

    candidate: Candidate
    status: str
    """``front``, ``dominated``, ``dropped`` (verified but loses to float, or fails a floor) or ``failed``."""
    reason: str = ""
    """Why it was dropped or failed; empty otherwise."""
    artifact: Artifact | None = None
    val: Metrics | None = None
    test: Metrics | None = None
    latency: Measurement | None = None
    agreement: Agreement | None = None
    parameters: int | None = None
    macs: int | None = None
    activation_bytes: int | None = None
    flash_bytes: int | None = None
    """Weights, biases and tables packed at the bits of its plan, from the graph: what fixed-point code stores."""
    peak_bytes: int | None = None
    """Live-memory peak of the activations at the bits of its plan, from the graph."""
    ram_bytes: int | None = None
    """Measured peak of what opening and running the file adds to a process."""
    on_device: OnDevice | None = None
    """Of a run for a device that is not this computer."""
    train_seconds: float | None = None
    seconds: float | None = None
    """Wall time that this candidate took, training included."""
    sequence: int = 0
    """Order of completion."""
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def id(self) -> str:
        """Id of the candidate."""
        return self.candidate.id


def varying_knobs(candidates: Iterable[Candidate]) -> frozenset[str]:
    """Return the knobs (and ``runtime``) that take more than one value: what tells these candidates apart."""
    values: dict[str, set[str]] = {}
    for candidate in candidates:
        values.setdefault("runtime", set()).add(candidate.runtime)
        for knob, value in candidate.knobs.items():
            values.setdefault(knob, set()).add(repr(value))
    return frozenset(knob for knob, taken in values.items() if len(taken) > 1)


# --- JSON ------------------------------------------------------------------------------------------------------------
def to_json(value: Any) -> Any:
    """Return ``value`` as plain JSON data. Raises TypeError for what has no such form (arrays: hash them first)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"no JSON form for {type(value).__name__}")


def from_json(kind: type[T], data: Any) -> T:
    """Rebuild a frozen dataclass ``kind`` from :func:`to_json` data; unknown keys are ignored, missing ones default."""
    result: T = _build(kind, data)
    return result


def _build(kind: Any, data: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = [k for k in typing.get_args(kind) if k is not type(None)]
        return None if data is None else _build(options[0], data)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        known = {f.name for f in dataclasses.fields(kind)}
        make: Any = kind
        return make(**{k: _build(hints[k], v) for k, v in data.items() if k in known})
    if origin is tuple:
        args = typing.get_args(kind)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_build(args[0], v) for v in data)
        return tuple(_build(k, v) for k, v in zip(args, data, strict=True))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        value_kind = typing.get_args(kind)[1]
        return {k: _build(value_kind, v) for k, v in data.items()}
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        return tuple(_build(typing.get_args(kind)[0], v) for v in data)
    if kind is float and isinstance(data, (str, int)):
        return float(data)
    return data


def content_id(*values: Any) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of ``values``; arrays and bytes enter by their own hash."""
    text = json.dumps([_hashable(v) for v in values], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _hashable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value)
        return ["array", str(data.dtype), list(data.shape), hashlib.sha256(data.tobytes()).hexdigest()]
    if isinstance(value, bytes):
        return ["bytes", hashlib.sha256(value).hexdigest()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _hashable(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(k): _hashable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hashable(v) for v in value]
    return to_json(value)


def digest_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
