"""The options that commands have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bitfront.cli.console import Console, Progress
from bitfront.errors import UsageError

__all__ = [
    "DataText",
    "Device",
    "DryRun",
    "Limit",
    "ModelOptions",
    "ModelText",
    "Ray",
    "Runs",
    "Seed",
    "Set",
    "Shared",
    "Threads",
    "Track",
    "Workers",
    "cache_folder",
    "knobs",
    "required",
    "whole",
]

ModelText = Annotated[
    str | None,
    Parameter(help="Catalogue name, checkpoint (.safetensors), .onnx or .tflite file, or package.module:factory."),
]
DataText = Annotated[str | None, Parameter(help="Catalogue name, folder or data YAML.")]
Set = Annotated[
    list[str] | None,
    Parameter(
        name="--set", negative=(), metavar="KNOB=VALUE", help="Any knob: width=0.25, resolution=240x320. Repeatable."
    ),
]


def whole(text: str, minimum: int = 1) -> Parameter:
    """Return the parameter of a whole number of at least ``minimum``."""

    def convert(_: Any, tokens: Sequence[Any]) -> int:
        found = re.fullmatch(r"[+-]?[0-9]{1,18}", tokens[0].value.strip())
        if found is None or int(found[0]) < minimum:
            raise ValueError(f"'{tokens[0].value}' is not a whole number of at least {minimum}")
        return int(found[0])

    return Parameter(help=text, converter=convert)


Seed = Annotated[int | None, whole("Seed of everything random [default: 0].", 0)]
Limit = Annotated[int | None, whole("At most so many images, evenly apart.")]
Threads = Annotated[int | None, whole("Threads of the runtime [default: 1].")]
Workers = Annotated[
    int | None, whole("Work on so many networks beside each other, in processes of their own [default: in this one].")
]
Ray = Annotated[
    str | None,
    Parameter(
        help="The same on a Ray cluster: its address, or local to start one here; all nodes share the run folder."
    ),
]
Track = Annotated[
    list[str] | None,
    Parameter(
        help="Send curves, parameters and files to a tracker (`bitfront list trackers`); nothing leaves this machine. "
        "Repeatable.",
        negative=(),
    ),
]
Device = Annotated[
    str | None,
    Parameter(
        help="What files are for, `bitfront list devices`: timed on the host, modelled elsewhere [default: host]."
    ),
]
DryRun = Annotated[
    bool, Parameter(help="Say what would be done and how long it takes; do nothing.", negative=(), show_default=False)
]
Runs = Annotated[str | None, Parameter(help="Folder of the runs [default: runs].")]


def _flag(text: str) -> Parameter:
    return Parameter(help=text, negative=(), group="Output", show_default=False)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Shared:
    """Options of every command."""

    json: Annotated[bool, _flag("Print one JSON object on stdout, everything else on stderr.")] = False
    quiet: Annotated[bool, _flag("No progress and no notes on stderr.")] = False
    verbose: Annotated[bool, _flag("Log details on stderr.")] = False
    config: Annotated[
        Path | None, Parameter(help="Options as YAML [default: bitfront.yaml here, if it exists].", group="Output")
    ] = None

    def console(self) -> Console:
        """Return where this command prints notes."""
        return Console(json=self.json, quiet=self.quiet)

    def progress(self) -> Progress:
        """Return a progress line on stderr."""
        return Progress(self.console())

    def notes(self, lines: Sequence[str]) -> None:
        """Print notes on stderr."""
        for line in lines:
            self.console().note(line)

    def fill(self, **given: Any) -> dict[str, Any]:
        """Return options, those that were not given (``None``) taken from the configuration file where it has them.

        Raises UsageError naming file, line and key.
        """
        if self.config is None and not Path("bitfront.yaml").is_file():
            return given
        from bitfront.cli import config

        stored = config.load(self.config, Path.cwd())
        return {key: stored.get(key) if value is None else value for key, value in given.items()}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How to open MODEL and DATA."""

    weights: Annotated[
        Path | None, Parameter(help="Checkpoint (or a folder of them) for a catalogue model or factory.")
    ] = None
    preprocess: Annotated[
        str | None, Parameter(help="How a file that does not say it wants to be fed: imagenet, unit, signed or raw.")
    ] = None
    reader: Annotated[str | None, Parameter(help="Reader of the data folder, when it is not recognised.")] = None
    task: Annotated[
        str | None, Parameter(help="segmentation, detection or classification [default: what model and data are for].")
    ] = None

    def fill(self, shared: Shared) -> dict[str, Any]:
        """Return these options as the verbs take them, completed from the configuration file. Raises UsageError."""
        given = shared.fill(weights=self.weights, preprocess=self.preprocess, reader=self.reader, task=self.task)
        texts = {key: given[key] or "" for key in ("preprocess", "reader", "task")}
        return {"weights": Path(given["weights"]) if given["weights"] else None, **texts}


def knobs(texts: Sequence[str] | None, shared: Shared) -> dict[str, Any]:
    """Return ``--set`` over the configuration file's ``set:``. Raises UsageError."""
    from bitfront.cli import units

    stored = shared.fill(set=None)["set"] or {}
    return {key: units.setting(key, value) for key, value in stored.items()} | units.settings(texts or ())


def cache_folder() -> Path:
    """Return where it is remembered which data files were found whole."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitfront" / "scan"


def required(value: Any, what: str) -> Any:
    """Return a value that must have been given. Raises UsageError."""
    if value is None:
        raise UsageError(f"{what} is missing", hint=f"give {what} on the command line or in bitfront.yaml")
    return value
