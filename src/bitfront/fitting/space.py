"""What a run explores: architectures (knobs and input size), each with every recipe.

An architecture that cannot exist is never proposed: sizes are multiples of what the network asks for, a checkpoint
keeps its architecture, an ONNX file keeps its size unless height and width are free.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitfront.errors import UsageError, unknown_name
from bitfront.quant.recipes import RECIPES
from bitfront.record import content_id
from bitfront.sources import Source

__all__ = [
    "EFFORTS",
    "RESOLUTION",
    "Architecture",
    "Effort",
    "architectures",
    "check_knobs",
    "checked_size",
    "choose_recipes",
    "input_sizes",
]

RESOLUTION = "resolution"
MAX_SIDE = 512
"""Longest side of sizes that are proposed; larger ones must be asked for."""
MIN_SIDE = 64
DEFAULT_RECIPES = ("float32", "float16", "dynamic", "int8", "int8_mixed", "int8_compact")
INTEGER_RECIPES = ("qmn8",)
"""What is tried where no engine takes floating point."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is explored when nothing is said."""

    epochs: float
    """Factor on the epochs of every training."""
    stages: tuple[str, ...]
    """What is varied, in order (:data:`bitfront.fitting.exploration.STAGES`); one network when nothing is."""
    scales: tuple[float, ...]
    """Input sizes relative to the data's own."""
    bits: bool = False
    """Whether the bits of the best networks are searched."""


EFFORTS: Mapping[str, Effort] = {
    "single": Effort(1, (), (1.0,)),
    "entry": Effort(1, ("resolution", "retraining"), (1.0, 0.75, 0.5)),
    "intermediate": Effort(2, ("resolution", "retraining", "width", "combination"), (1.0, 0.75, 0.5, 0.375)),
    "expert": Effort(
        4,
        ("resolution", "retraining", "channels", "width", "repeats", "shapes", "combination"),
        (1.0, 0.75, 0.625, 0.5, 0.375, 0.25),
        bits=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network at an input size: what is trained once and then exported with every recipe."""

    options: Mapping[str, Any]
    """Options of the family, all that were given or chosen."""
    size: tuple[int, int]
    """Height and width of the input."""

    @property
    def knobs(self) -> dict[str, Any]:
        """The options with the input size, as candidates name them."""
        return {**self.options, RESOLUTION: list(self.size)}

    @property
    def id(self) -> str:
        """Content id, short."""
        return content_id(self.knobs)[:12]

    @property
    def family(self) -> str:
        """Content id of the architecture without its size: those that share it can share weights."""
        return content_id(self.options)

    @property
    def label(self) -> str:
        """A short name: ``128x128 width=0.25``."""
        shown = {k: v for k, v in sorted(self.options.items()) if k not in ("classes", "channels")}
        return " ".join([f"{self.size[0]}x{self.size[1]}", *(f"{k}={v}" for k, v in shown.items())])


def architectures(
    source: Source,
    native: tuple[int, int],
    effort: Effort,
    space: Mapping[str, Sequence[Any]] | None = None,
) -> list[Architecture]:
    """Return the architectures to explore.

    Args:
        source: the opened model.
        native: height and width of the data's images.
        effort: what to vary when nothing is said.
        space: knob -> values, and ``resolution`` -> ``(height, width)`` values, instead of the defaults.

    Raises:
        UsageError: knobs that the model does not have, and sizes that it cannot take.
    """
    asked = {key: tuple(values) for key, values in (space or {}).items()}
    empty = next((key for key, values in asked.items() if not values), None)
    if empty is not None:
        raise UsageError(f"the space has no value for '{empty}'", hint=f"for example {empty}=...")
    sizes = asked.pop(RESOLUTION, None) or input_sizes(source, native, effort)
    varied = check_knobs(source, asked)
    found = [
        Architecture({**source.options, **dict(zip(varied, values, strict=True))}, checked_size(source, size))
        for values in itertools.product(*varied.values())
        for size in sizes
    ]
    return list({a.id: a for a in found}.values())


def check_knobs(source: Source, asked: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """Return knobs and their values. Raises UsageError for knobs that the model does not have."""
    is_fixed = source.kind in ("checkpoint", "onnx")
    known = [*source.knobs, *(() if is_fixed else ("channels",))]
    for knob in asked:
        if knob not in known:
            if is_fixed:
                raise UsageError(
                    f"'{knob}' cannot vary: {source.path} has its architecture inside",
                    hint="give the model's name, with --weights to start from checkpoints",
                )
            raise unknown_name(f"knob of {source.name}", knob, [*known, RESOLUTION])
    return dict(asked)


def input_sizes(source: Source, native: tuple[int, int], effort: Effort) -> list[tuple[int, int]]:
    """Return sizes from large to small in the shape of the model's own input or, without one, of the data's images."""
    own = (source.input.height, source.input.width)
    if not source.any_size or (source.sized and source.kind == "catalogue"):
        return [own]
    full = own if source.kind in ("checkpoint", "onnx") else native
    full = _shrunk(full, MAX_SIDE) if source.kind in ("catalogue", "factory") else full
    n = math.lcm(source.size_multiple, 8)
    scaled = [(_round(full[0] * s, n), _round(full[1] * s, n)) for s in effort.scales]
    return list(dict.fromkeys(s for s in scaled if min(s) >= MIN_SIDE)) or [scaled[0]]


def _shrunk(size: tuple[int, int], longest: int) -> tuple[int, int]:
    factor = min(1.0, longest / max(size))
    return round(size[0] * factor), round(size[1] * factor)


def _round(side: float, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)


def checked_size(source: Source, size: Any) -> tuple[int, int]:
    """Check a size. Raises UsageError."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise UsageError(f"'{size}' is no resolution", hint="write (height, width)")
    source.contract((sides[0], sides[1]))
    return sides[0], sides[1]


def choose_recipes(asked: Sequence[str] | None, supported: Sequence[str]) -> tuple[str, ...]:
    """Return the recipes to try, float32 first: it is what all others are held against. Raises UsageError."""
    usual = DEFAULT_RECIPES if "float32" in supported else INTEGER_RECIPES
    chosen = tuple(asked) if asked else tuple(r for r in usual if r in supported)
    for name in chosen:
        if name not in RECIPES:
            raise unknown_name("recipe", name, RECIPES)
        if name not in supported and name != "float32":
            raise UsageError(f"no runtime of the run exports '{name}'", hint=f"there is {', '.join(supported)}")
    return ("float32", *(r for r in dict.fromkeys(chosen) if r != "float32"))
