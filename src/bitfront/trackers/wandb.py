"""Weights & Biases, offline: a run below ``wandb/`` that ``wandb sync`` uploads, if somebody ever wants that.

Offline or not, the package reports on itself to its makers: crashes of its service, counts of calls. Both are turned
off, and its server's address is one that leads nowhere. These are its inner parts, so only the release is used with
which it was watched that nothing leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from bitfront.record import content_id

__all__ = ["WeightsAndBiases"]

PROJECT = "bitfront"
RELEASE = "0.31."
NOWHERE = "http://127.0.0.1:9"


class WeightsAndBiases:
    """Logs to one offline run; a run of the same name has the same id."""

    name: ClassVar[str] = "wandb"

    def __init__(self, folder: Path, run: str) -> None:
        import wandb

        _silence()
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        settings = wandb.Settings(
            base_url=NOWHERE, console="off", silent=True, disable_git=True, disable_code=True,
            x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True,
        )  # fmt: skip
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
        try:
            fits = version("wandb").startswith(RELEASE)
        except PackageNotFoundError:
            fits = False
        return "" if fits else f"pip install 'bitfront[wandb]' (wandb {RELEASE}*)"

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


def _silence() -> None:
    """Turn reports of the package on itself off: what its variable WANDB_ERROR_REPORTING does, for this process."""
    from wandb.analytics.opentelemetry import opentelemetry_proxy
    from wandb.sdk.lib.service import service_process

    opentelemetry_proxy.disable()
    service_process.error_reporting_enabled = lambda: False
