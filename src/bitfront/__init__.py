"""bitfront fits vision models onto edge devices: model + data + budget in, a Pareto front of verified artifacts out.

The commands are functions here, with the same names: ``bitfront.fit(...)``, ``bitfront.evaluate(...)``, ...; nothing is
imported before it is used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitfront.fitting.config import BitSearch as BitSearch
    from bitfront.pipeline import fit as fit
    from bitfront.pipeline import resume as resume
    from bitfront.pipeline import search as search
    from bitfront.record import Budget as Budget
    from bitfront.run import Run as Run
    from bitfront.sources import open_data as open_data
    from bitfront.train.distill_options import DistillOptions as DistillOptions
    from bitfront.train.options import TrainOptions as TrainOptions
    from bitfront.verbs.checking import benchmark as benchmark
    from bitfront.verbs.checking import verify as verify
    from bitfront.verbs.inspecting import inspect as inspect
    from bitfront.verbs.making import export as export
    from bitfront.verbs.making import quantize as quantize
    from bitfront.verbs.predicting import predict as predict
    from bitfront.verbs.pruning import prune as prune
    from bitfront.verbs.quantized_training import train_quantized as train_quantized
    from bitfront.verbs.scoring import evaluate as evaluate
    from bitfront.verbs.statistics import stats as stats
    from bitfront.verbs.teaching import Teacher as Teacher
    from bitfront.verbs.training import train as train

__version__ = "0.1.0"

_PLACES = {
    "BitSearch": "fitting.config",
    "Budget": "record",
    "DistillOptions": "train.distill_options",
    "Run": "run",
    "Teacher": "verbs.teaching",
    "TrainOptions": "train.options",
    "benchmark": "verbs.checking",
    "evaluate": "verbs.scoring",
    "export": "verbs.making",
    "fit": "pipeline",
    "inspect": "verbs.inspecting",
    "open_data": "sources",
    "predict": "verbs.predicting",
    "prune": "verbs.pruning",
    "quantize": "verbs.making",
    "resume": "pipeline",
    "search": "pipeline",
    "stats": "verbs.statistics",
    "train": "verbs.training",
    "train_quantized": "verbs.quantized_training",
    "verify": "verbs.checking",
}

__all__ = ["__version__", *sorted(_PLACES)]  # pyright: ignore[reportUnsupportedDunderAll]


class _Public(ModuleType):
    """Keeps ``bitfront.train`` the command, although importing the room ``train`` would put the module there."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _PLACES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Public


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module 'bitfront' has no attribute '{name}'")
    return getattr(importlib.import_module(f"bitfront.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
