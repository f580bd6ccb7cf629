"""The options of a training that has a teacher."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bitfront.cli import units
from bitfront.errors import UsageError, unknown_name

__all__ = ["Taught"]

OF_TEACHER = {"distill": "method", "distill_factor": "factor", "temperature": "temperature"}
"""Option -> field of DistillOptions."""


@Parameter(name="*", group="Distillation")
@dataclass(frozen=True, kw_only=True)
class Taught:
    """Options of a training that has a teacher."""

    teacher: Annotated[
        str | None,
        Parameter(help="A trained network that teaches MODEL: checkpoint, .onnx file, or catalogue name with weights."),
    ] = None
    teacher_weights: Annotated[Path | None, Parameter(help="The teacher's checkpoint, for a catalogue name.")] = None
    distill: Annotated[
        str | None, Parameter(help="What MODEL learns of it: outputs, features or both [default: outputs].")
    ] = None
    distill_factor: Annotated[
        float | None, Parameter(help="Weight of the teacher's outputs beside the labels [default: 1].")
    ] = None
    temperature: Annotated[
        float | None, Parameter(help="Softens the logits of both; classification, segmentation [default: 4].")
    ] = None
    distill_preset: Annotated[
        str | None, Parameter(help="Set-up that the other options change: default, paper or thesis_004.")
    ] = None
    distill_set: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            metavar="KEY=VALUE",
            help="Any other option: feature=neck.fine, imitation=0.01, suppress=3, ... Repeatable.",
        ),
    ] = None

    def read(self) -> Any:
        """Return the teacher as the verbs take it, ``None`` without one. Raises UsageError."""
        if self.teacher is None:
            for name in ("teacher_weights", *OF_TEACHER, "distill_preset", "distill_set"):
                if getattr(self, name) is not None:
                    raise UsageError(
                        f"--{name.replace('_', '-')} belongs to --teacher", hint="name a network that teaches MODEL"
                    )
            return None
        from bitfront.train.distill_options import DISTILL_PRESETS, DistillOptions
        from bitfront.verbs.teaching import Teacher

        preset = self.distill_preset or "default"
        if preset not in DISTILL_PRESETS:
            raise unknown_name("distill preset", preset, DISTILL_PRESETS)
        more = units.settings(self.distill_set or ())
        random = more.pop("random_teacher", False)
        known = {f.name: f for f in fields(DistillOptions)}
        for key, value in more.items():
            if key not in known:
                raise unknown_name("distillation option", key, [*known, "random_teacher"])
            more[key] = _typed(key, value, getattr(DISTILL_PRESETS["default"], key))
        given = {name: getattr(self, flag) for flag, name in OF_TEACHER.items() if getattr(self, flag) is not None}
        options = replace(DISTILL_PRESETS[preset], **more, **given)
        return Teacher(self.teacher, self.teacher_weights, options, random=bool(_typed("random_teacher", random, True)))


def _typed(key: str, value: Any, like: Any) -> Any:
    """Return an option's value as its type. Raises UsageError."""
    if isinstance(like, tuple) and isinstance(value, (list, tuple)):
        return tuple(value)
    value = "none" if value is None and isinstance(like, str) else value
    fits: tuple[type, ...] = {bool: (bool,), str: (str,), int: (int,), float: (int, float)}.get(type(like), ())
    if not isinstance(value, fits) or (isinstance(value, bool) and not isinstance(like, bool)):
        kind = {bool: "true or false", str: "a word", int: "a whole number", float: "a number"}
        raise UsageError(
            f"--distill-set {key}: '{value}' is not {kind.get(type(like), 'three numbers')}",
            hint=f"for example {key}={','.join(map(str, like)) if isinstance(like, tuple) else str(like).lower()}",
        )
    return value
