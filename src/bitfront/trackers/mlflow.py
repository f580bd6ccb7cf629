"""MLflow: its local file store (``mlruns``), written without the package, which would send usage data.

The layout is that of MLflow's ``FileStore``: ``mlruns/EXPERIMENT/RUN/{meta.yaml,params,metrics,tags,artifacts}``; a
metric file has a line "milliseconds value step" for each point. ``mlflow server`` shows it with
``--backend-store-uri runs/tracking/mlruns`` (MLflow 3 wants ``MLFLOW_ALLOW_FILE_STORE=true``), and
``mlflow migrate-filestore`` takes it over.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from bitfront.record import content_id
from bitfront.store import atomic_write

__all__ = ["MlFlow"]

EXPERIMENT = "bitfront"
RUNNING, FINISHED = 1, 3
MAX_PARAMETER = 6000


class MlFlow:
    """Writes one run; a run of the same name goes on where it was."""

    name: ClassVar[str] = "mlflow"

    def __init__(self, root: Path, run: str) -> None:
        experiment = str(int(content_id(EXPERIMENT)[:12], 16))
        self.run, self.experiment = run, experiment
        self.id = content_id("mlflow run", run)[:32]
        self.folder = root / experiment / self.id
        self.artifacts = self.folder / "artifacts"
        self.artifacts.mkdir(parents=True, exist_ok=True)
        self._metrics: dict[str, str] = {}
        self.start = _now()
        meta = root / experiment / "meta.yaml"
        if not meta.is_file():
            times = {"creation_time": self.start, "last_update_time": self.start}
            place = {"artifact_location": meta.parent.resolve().as_uri(), "experiment_id": experiment}
            _write_yaml(meta, {**place, **times, "lifecycle_stage": "active", "name": EXPERIMENT})
        _write(self.folder / "tags" / "mlflow.runName", run)
        self._state(RUNNING)

    @classmethod
    def missing(cls) -> str:
        """Nothing is needed."""
        return ""

    @classmethod
    def open(cls, folder: Path, run: str) -> MlFlow:
        """Open the run in ``folder/mlruns``."""
        return cls(folder / "mlruns", run)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Write one file for each parameter."""
        for name, value in values.items():
            _write(self.folder / "params" / _key(name), str(value)[:MAX_PARAMETER])

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to each metric."""
        for name, value in values.items():
            path = self.folder / "metrics" / _key(name)
            if name not in self._metrics:
                self._metrics[name] = path.read_text("utf-8") if path.is_file() else ""
            self._metrics[name] += f"{_now()} {value!r} {step}\n"
            _write(path, self._metrics[name])

    def artifact(self, path: Path, name: str) -> None:
        """Copy a file."""
        place = self.artifacts / _key(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(place, path.read_bytes())

    def close(self) -> None:
        """Say that the run is finished."""
        self._state(FINISHED)

    def _state(self, status: int) -> None:
        ended = _now() if status == FINISHED else None
        values: dict[str, Any] = {
            "artifact_uri": self.artifacts.resolve().as_uri(),
            "end_time": ended,
            "entry_point_name": "",
            "experiment_id": self.experiment,
            "lifecycle_stage": "active",
            "run_id": self.id,
            "run_name": self.run,
            "run_uuid": self.id,
            "source_name": "",
            "source_type": 4,
            "source_version": "",
            "start_time": self.start,
            "status": status,
            "tags": [],
            "user_id": "bitfront",
        }
        _write_yaml(self.folder / "meta.yaml", values)


def _now() -> int:
    """Milliseconds since 1970."""
    return round(time.time() * 1000)


def _key(name: str) -> str:
    """A name that MLflow allows and that stays inside its folder."""
    parts = [re.sub(r"[^\w .:-]", "_", part).strip(". ") for part in name.split("/")]
    return "/".join(part for part in parts if part) or "_"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text.encode())


def _write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values: JSON scalars are YAML scalars."""
    _write(path, "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()))
