"""The options that commands have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bitfront.cli.console import Console, Progress

__all__ = [
    "DataOptions",
    "DataText",
    "DryRun",
    "ModelText",
    "Runs",
    "Seed",
    "Set",
    "Shared",
    "knobs",
]

_flag = {"negative": ()}

ModelText = Annotated[
    str | None,
    Parameter(help="Catalogue name, checkpoint (.safetensors), .onnx file or package.module:factory."),
]
DataText = Annotated[str | None, Parameter(help="Catalogue name, folder or data YAML.")]
Set = Annotated[
    list[str] | None,
    Parameter(
        name="--set",
        negative=(),
        metavar="KNOB=VALUE",
        help="Any knob, e.g. width=0.25 or resolution=240x320. Repeatable.",
    ),
]
Seed = Annotated[int | None, Parameter(help="Seed of everything random [default: 0].")]
DryRun = Annotated[bool, Parameter(help="Say what would be done and how long it takes; do nothing.", **_flag)]  # type: ignore[arg-type]
Runs = Annotated[str | None, Parameter(help="Folder of the runs [default: runs].")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Shared:
    """Options of every command."""

    json: Annotated[bool, Parameter(help="Print one JSON object on stdout.", negative=(), group="Output")] = False
    quiet: Annotated[bool, Parameter(help="No progress and no notes on stderr.", negative=(), group="Output")] = False
    verbose: Annotated[bool, Parameter(help="Log details on stderr.", negative=(), group="Output")] = False
    config: Annotated[
        Path | None, Parameter(help="Options as YAML [default: bitfront.yaml here, if it exists].", group="Output")
    ] = None

    def console(self) -> Console:
        """Return where this command prints."""
        return Console(json=self.json, quiet=self.quiet)

    def progress(self) -> Progress:
        """Return a progress line on stderr."""
        return Progress(self.console())

    def fill(self, **given: Any) -> dict[str, Any]:
        """Return options, those that were not given (``None``) taken from the configuration file where it has them.

        Raises UsageError naming file, line and key.
        """
        from bitfront.cli import config

        if self.config is None and not (Path.cwd() / "bitfront.yaml").is_file():
            return given
        stored = config.load(self.config, Path.cwd())
        return {key: stored.get(key) if value is None else value for key, value in given.items()}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How to read the data."""

    reader: Annotated[str | None, Parameter(help="Dataset reader, when the folder is not recognised.")] = None
    task: Annotated[str | None, Parameter(help="What is asked of the network [default: segmentation].")] = None


def knobs(texts: Sequence[str] | None, shared: Shared) -> dict[str, Any]:
    """Return ``--set`` over the configuration file's ``set:``. Raises UsageError."""
    from bitfront.cli import units

    stored = shared.fill(set=None)["set"] or {}
    return {key: units.setting(key, value) for key, value in stored.items()} | units.settings(texts or ())
