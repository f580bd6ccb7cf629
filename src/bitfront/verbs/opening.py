"""What every verb begins with: the model and the data opened together, a part chosen, a session to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfront.class_names import named_classes, usual_names
from bitfront.contracts import DataInfo, Dataset, Part, Session, Task
from bitfront.errors import DataError, UsageError
from bitfront.images import require_values
from bitfront.registry import load, names, runtime_of
from bitfront.scan import scan
from bitfront.sources import Source, describe_file, open_data, open_model
from bitfront.weights import SUFFIXES, family_of, recognise

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Opened",
    "Progress",
    "TorchSession",
    "choose_part",
    "info_of",
    "open_both",
    "open_session",
    "open_task",
    "task_of",
    "untrained",
    "usable_part",
]

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done, and how much there is (0: unknown)."""

DEFAULT_PARTS = ("test", "val", "train")


@dataclass(frozen=True, slots=True)
class Opened:
    """A model and what it is to be used on."""

    task: Task
    source: Source
    info: DataInfo
    dataset: Dataset | None
    """``None`` when no data was given."""


def open_task(name: str) -> Task:
    """Return a task by name. Raises UsageError."""
    task: Task = load("task", name or "segmentation")()
    return task


def task_of(model: str, info: DataInfo | None = None, decoder: str = "") -> str:
    """Return the task that MODEL is for, of those that the data has labels for; the data's first where it says nothing.

    Raises DataError for files that cannot be used.
    """
    if info and len(info.tasks) == 1:
        return info.tasks[0]
    own = _tasks_of(model, decoder)
    shared = [name for name in (info.tasks if info else own) if not own or name in own]
    return (shared or list(own) or ["segmentation"])[0]


def _tasks_of(model: str, decoder: str) -> tuple[str, ...]:
    """Tasks that a model names: its family's, its checkpoint's, or by the shape of what its file answers."""
    path = Path(model).expanduser()
    if model in names("model"):
        from bitfront.weights import require_torch

        require_torch()
        return tuple(load("model", model).tasks)
    if path.suffix in SUFFIXES and path.is_file():
        from bitfront.train.checkpoints import read_header

        named = read_header(path).get("task") if path.suffix == ".safetensors" else None
        return (str(named),) if named else tuple(getattr(family_of(recognise(path).model), "tasks", ()))
    if path.is_file() and (reader := runtime_of(path)):
        return (str(_answer(path, reader, decoder).task),)
    return ()


def open_both(
    model: str,
    data: str | None,
    *,
    task: str = "",
    reader: str = "",
    settings: Mapping[str, Any] | None = None,
    preprocess: str = "",
    weights: Path | str | None = None,
    labels: str = "",
    decoder: str = "",
) -> Opened:
    """Open MODEL and DATA for each other; without DATA the classes are those that the model names, or ``labels``.

    ``labels`` is ``coco``, ``voc``, a file with one name a line, or ``a,b,c``; ``decoder`` says how another's detector
    is read (:mod:`bitfront.runtimes.detector_outputs`) where its outputs do not.

    Raises UsageError, DataError.
    """
    dataset = None if data is None else open_data(data, reader)
    if dataset is not None and labels:
        raise UsageError("DATA names the classes, so --labels cannot", hint="leave one of them out")
    chosen = open_task(task or task_of(model, dataset.info if dataset else None, decoder))
    if dataset is not None:
        info = dataset.info
    else:
        info = replace(info_of(model, settings or {}, chosen.name, labels, decoder), tasks=(chosen.name,))
    if chosen.name not in info.tasks:
        raise UsageError(f"'{info.name}' has no labels for {chosen.name}", hint=f"it serves {', '.join(info.tasks)}")
    place = Path(weights) if weights else None
    source = open_model(
        model, task=chosen, info=info, settings=settings, weights=place, preprocess=preprocess, decoder=decoder
    )
    return Opened(chosen, source, info, dataset)


def info_of(model: str, settings: Mapping[str, Any], task: str = "", labels: str = "", decoder: str = "") -> DataInfo:
    """Return the classes that a model is for: ``labels``, else as far as it says: its ``classes`` setting, its file,
    its default. Raises UsageError for ``labels`` that cannot be read.
    """
    if labels:
        named = named_classes(labels)
        return DataInfo(Path(model).stem or model, named, background=None if task == "detection" else _rest(named))
    path = Path(model).expanduser()
    classes: tuple[str, ...] = ()
    count, told = settings.get("classes", 0), 0
    if path.suffix == ".safetensors" and path.is_file():
        from bitfront.train.checkpoints import read_header

        classes = tuple(read_header(path).get("classes", ()))
        if not classes and task == "detection":
            told = int(recognise(path).options.get("classes", 0))
    elif path.is_file() and (reader := runtime_of(path)):
        found = _answer(path, reader, decoder)
        classes, told = tuple(found.output.classes), int(getattr(found, "n_classes", 0))
    elif not count and model in names("model"):
        from bitfront.weights import require_torch

        require_torch()
        count = load("model", model)().classes
    if not classes and task == "detection":
        classes = usual_names(count if isinstance(count, int) and count > 0 else max(told, 1))
    if task == "detection" and classes[0] != "background":
        return DataInfo(path.stem or model, classes)
    if not classes:
        n = count if isinstance(count, int) and count > 1 else max(told, 2)
        classes = ("background", "object") if n == 2 else tuple(f"class_{i}" for i in range(n))
    background = _rest(classes)
    if count == len(classes) > 1:
        background = None  # as many channels as classes: none of them is the rest
    return DataInfo(path.stem or model, classes, background=background)


def _rest(classes: tuple[str, ...]) -> int | None:
    """The class that is not an object, as names tell."""
    return 0 if len(classes) == 2 or classes[0] == "background" else None


def _answer(path: Path, runtime: str, decoder: str = "") -> Any:
    """Describe a file for what it answers, which does not depend on how it is fed."""
    return describe_file(path, runtime, "unit", decoder=decoder)


def choose_part(dataset: Dataset, part: str = "") -> tuple[str, str]:
    """Return the part to score and a note on the choice: ``test`` if there is one, else ``val``, else ``train``.

    Raises UsageError for a part that does not exist.
    """
    there = dataset.parts()
    if part:
        if part not in there:
            raise UsageError(f"'{dataset.info.name}' has no part '{part}'", hint=f"it has {', '.join(there)}")
        return part, ""
    chosen = next((name for name in DEFAULT_PARTS if name in there), "")
    if not chosen:
        raise DataError(f"'{dataset.info.name}' has no part", hint=f"it should have one of {', '.join(DEFAULT_PARTS)}")
    others = [name for name in there if name != chosen]
    return chosen, f"scored on the part '{chosen}'" + (f" (--part {'|'.join(others)} for another)" if others else "")


def untrained(source: Source) -> tuple[str, ...]:
    """Return a note when a model has nothing but fresh weights."""
    fresh = (
        source.kind in ("catalogue", "factory")
        and source.weights_for({}, (source.input.height, source.input.width)) is None
    )
    return (f"{source.name} is untrained: its weights are random (--weights FILE)",) if fresh else ()


def usable_part(
    dataset: Dataset, name: str, *, cache: Path | None = None, progress: Progress | None = None
) -> tuple[Part, tuple[str, ...]]:
    """Return a part without its unreadable samples, and what should be known of it, one line each.

    Every file is decoded first (``cache``: a folder that remembers what was found). Raises DataError when too many are
    bad, LabelError for labels that contradict their image or their classes.
    """
    part = dataset.part(name)
    if not dataset.files(name):  # generated: nothing can be damaged
        return part, ()
    health = scan(dataset, (name,), cache, progress)
    return health.usable(name, part), health.warnings


def open_session(source: Source, threads: int = 1) -> Session:
    """Return a session that runs a model: its runtime for a file, torch for a network. Raises UsageError, DataError."""
    if source.runtime:
        assert source.path is not None
        session: Session = load("runtime", source.runtime)().open(source.path, threads)
        return session
    return TorchSession(source.build(size=(source.input.height, source.input.width)))


class TorchSession:
    """Runs a torch module in float32; see :class:`bitfront.contracts.Session`."""

    def __init__(self, module: nn.Module) -> None:
        self._module: nn.Module | None = module.eval()

    def run(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Return the outputs ``(b, k, h, w)`` of normalized images ``(b, c, h, w)``."""
        import torch

        if self._module is None:
            raise DataError("the session is closed", hint="open it again")
        require_values(images, "the network")
        with torch.inference_mode():
            outputs: NDArray[Any] = self._module(torch.from_numpy(images)).float().numpy()
        return outputs

    def close(self) -> None:
        """Free the module."""
        self._module = None
