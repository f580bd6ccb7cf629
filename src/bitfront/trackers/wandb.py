"""Weights & Biases, offline: a run below ``wandb/`` that ``wandb sync`` uploads, if somebody ever wants that.

The service behind it reports its own crashes to its makers unless it is told not to; it is.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from bitfront.record import content_id

__all__ = ["WeightsAndBiases"]

PROJECT = "bitfront"


class WeightsAndBiases:
    """Logs to one offline run; a run of the same name has the same id."""

    name: ClassVar[str] = "wandb"

    def __init__(self, folder: Path, run: str) -> None:
        import wandb

        _without_crash_reports()
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
        )
        self._run = wandb.init(
            mode="offline",
            dir=str(folder),
            project=PROJECT,
            name=run,
            id=content_id("wandb run", run)[:16],
            settings=settings,
        )
        self._run.define_metric("*", step_metric="step")

    @classmethod
    def missing(cls) -> str:
        """Say what to install; empty when it can be used."""
        return "" if importlib.util.find_spec("wandb") is not None else "pip install 'bitfront[wandb]'"

    @classmethod
    def open(cls, folder: Path, run: str) -> WeightsAndBiases:
        """Open an offline run below ``folder/wandb``."""
        return cls(folder, run)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Put them into the run's configuration."""
        self._run.config.update(dict(values), allow_val_change=True)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers; the step is a number of its own, because several trainings of a run count from 1."""
        self._run.log({**values, "step": step})

    def artifact(self, path: Path, name: str) -> None:
        """Log a file as an artifact of the type ``file``."""
        plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
        found = self._wandb.Artifact(plain, type="file")
        found.add_file(str(path), name=path.name)
        self._run.log_artifact(found)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _without_crash_reports() -> None:
    """Start the service with ``--no-observability``, which is otherwise a matter of the environment."""
    with contextlib.suppress(ImportError, AttributeError):
        from wandb.sdk.lib.service import service_process

        service_process.error_reporting_enabled = lambda: False
