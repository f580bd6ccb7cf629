"""``bitfront.yaml``: the options of every command, once for a project."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitfront.errors import UsageError, one_line
from bitfront.safeyaml import read

__all__ = ["FILE", "Config", "load"]

FILE = "bitfront.yaml"
Quantity = str | int | float
Scalar = bool | int | float | str | None


class BitsKeys(BaseModel):
    """The bit search of ``fit`` and ``search``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    method: str | None = None
    weight_bits: list[int] | None = None
    activation_bits: list[int] | None = None
    costs: list[str] | None = None
    evaluations: float | int | None = Field(None, gt=0)
    time_s: float | int | None = Field(None, gt=0)
    rule: str | None = None
    equalized: bool | None = None
    per_channel: bool | None = None
    n_members: int | None = Field(None, ge=1)
    n_trained: int | None = Field(None, ge=0)
    n_networks: int | None = Field(None, ge=1)


class Config(BaseModel):
    """The keys of ``bitfront.yaml``; each is the command line's option of the same name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(None, description="the model")
    data: str | None = Field(None, description="the data")
    weights: str | None = Field(None, description="checkpoint, or a folder of them, to start from")
    reader: str | None = Field(None, description="how to read the data folder, when it is not recognised")
    task: str | None = Field(None, description="what is asked of the network")
    preprocess: str | None = Field(None, description="input normalization of a foreign .onnx or .tflite file")
    part: str | None = Field(None, description="train, val or test")
    score: str | None = Field(None, description="the metric that drives the search")
    max_latency: Quantity | None = Field(None, description="limit of one image's median latency")
    max_size: Quantity | None = Field(None, description="limit of the file's size; on a microcontroller of flash")
    max_ram: Quantity | None = Field(None, description="limit of the memory for activations")
    min_score: Quantity | None = Field(None, description="least score")
    max_drop: Quantity | None = Field(None, description="largest loss of score against float")
    time: Quantity | None = Field(None, description="wall time of the whole run")
    recipe: str | list[str] | None = Field(None, description="quantization recipe, or several for `fit`")
    effort: str | None = Field(None, description="how much `fit` explores: entry, intermediate or expert")
    pick: str | None = Field(None, description="which member `fit` recommends: knee, fastest, smallest, best or an id")
    stages: list[str] | None = Field(None, description="what `fit` varies, in order")
    objectives: list[str] | None = Field(None, description="axes of the front")
    retrain: str | None = Field(None, description="auto, always or never, for models that have weights")
    runtime: str | None = Field(None, description="engine that executes the files")
    runtimes: list[str] | None = Field(None, description="further engines, whose files compete in `fit`")
    device: str | None = Field(None, description="what files are for: timed there, or modelled")
    threads: int | None = Field(None, ge=1, le=1024, description="threads of the engine")
    epochs: int | None = Field(None, ge=1, le=100_000, description="epochs of a training")
    batch_size: int | None = Field(None, ge=1, le=65_536, description="images of a training step")
    learning_rate: float | int | None = Field(None, gt=0, description="first learning rate")
    augment: str | None = Field(None, description="augmentation by name")
    limit: int | None = Field(None, ge=1, description="score at most so many images")
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="seed of everything random")
    name: str | None = Field(None, description="name of the run")
    workers: int | None = Field(None, ge=1, le=4096, description="networks worked on beside each other")
    ray: str | None = Field(None, description="address of a Ray cluster, or local")
    track: list[str] | None = Field(None, description="trackers that get curves, parameters and files")
    runs: str | None = Field(None, description="folder of the runs")
    bits: BitsKeys | None = Field(None, description="bit search of `fit` and `search`: `method: surrogate`, ...")
    set: dict[str, Scalar | list[Scalar | list[int]]] | None = Field(None, description="knobs, `width: 0.25`")


def load(path: Path | None, folder: Path) -> Mapping[str, Any]:
    """Return the keys that a file gives; without a path, those of ``bitfront.yaml`` in ``folder`` if there is one.

    Raises UsageError naming file, line and key.
    """
    if path is None:
        path = folder / FILE
        if not path.is_file():
            return {}
        path = Path(FILE)
    document = read(path)
    try:
        return Config.model_validate(dict(document.values)).model_dump(exclude_unset=True, exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = [part for part in first["loc"] if isinstance(part, int) or str(part) in _keys(document.values)]
        where = document.where(*(place or [str(first["loc"][0])]))
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{where} is not an option", hint=_guess(str(first["loc"][0]))) from None
        hint = "`bitfront fit --help` lists the options"
        raise UsageError(one_line(f"{where}: {first['msg']}"), hint=hint) from None


def _keys(values: Any) -> set[str]:
    """Return every key in nested plain data: what pydantic names in a place and stands in the file."""
    if isinstance(values, Mapping):
        return {str(k) for k in values} | {key for v in values.values() for key in _keys(v)}
    return {key for v in values for key in _keys(v)} if isinstance(values, list) else set()


def _guess(key: str) -> str:
    known = sorted(Config.model_fields)
    close = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
    knob = "" if close else f"knobs stand under `set:`, e.g. `set: {{{key}: ...}}`; "
    return (f"did you mean '{close[0]}'? " if close else "") + f"{knob}known: {', '.join(known)}"
