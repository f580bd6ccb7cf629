"""LiteRT's interpreter: opened with XNNPACK, or with its built-in kernels where XNNPACK fails."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DataError, DeviceError, one_line

__all__ = ["BUILTIN", "XNNPACK", "Engine", "engine", "operators", "reason", "start"]

XNNPACK, BUILTIN = "XNNPACK", "built-in kernels"
log = logging.getLogger(__name__)


def engine() -> Any:
    """Return the module of the interpreter. Raises DeviceError when LiteRT is not installed."""
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise DeviceError(f"LiteRT is not usable: {error}", hint="pip install 'bitfront[litert]'") from error
    return interpreter


@dataclass(slots=True)
class Engine:
    """An interpreter whose tensors are allocated."""

    interpreter: Any
    kernels: str
    """What computes: ``XNNPACK`` (and built-in kernels for what it leaves), or ``built-in kernels`` alone."""
    note: str = ""
    """Why XNNPACK is not used, where it was asked for."""

    def run(self, feed: NDArray[Any]) -> list[NDArray[Any]]:
        """Run one batch of the file's own size; returns all outputs, copied. Raises RuntimeError, ValueError."""
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], feed)
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(detail["index"]) for detail in self.interpreter.get_output_details()]


def start(model: bytes, name: str, threads: int, kernels: str = "") -> Engine:
    """Open a model.

    Args:
        model: the file's bytes, checked before.
        name: what it is called in messages.
        threads: of the kernels.
        kernels: ``BUILTIN`` never tries XNNPACK, ``XNNPACK`` takes nothing else, "" falls back and says so.

    Raises:
        DataError: LiteRT refuses it.
    """
    note = ""
    if kernels != BUILTIN:
        try:
            return Engine(_open(model, threads, XNNPACK), XNNPACK)
        except (RuntimeError, ValueError) as error:
            if kernels == XNNPACK:
                raise _refused(name, error) from error
            note = f"XNNPACK cannot run {name} ({reason(error)}): LiteRT's built-in kernels run it, slower"
    try:
        opened = Engine(_open(model, threads, BUILTIN), BUILTIN, note)
    except (RuntimeError, ValueError) as error:
        raise _refused(name, error) from error
    if note:
        log.warning("%s", note)
    return opened


def _open(model: bytes, threads: int, kernels: str) -> Any:
    types = engine().OpResolverType
    resolver = types.AUTO if kernels == XNNPACK else types.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    opened = engine().Interpreter(model_content=model, num_threads=threads, experimental_op_resolver_type=resolver)
    opened.allocate_tensors()
    if kernels == XNNPACK:  # some of its failures show on the first run only
        details = opened.get_input_details()
        for detail in details:
            opened.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
        opened.invoke()
    return opened


def _refused(name: str, error: Exception) -> DataError:
    return DataError(f"LiteRT refuses '{name}': {reason(error)}", hint="export or copy it again")


def reason(error: Exception) -> str:
    """Return the engine's own words on one line."""
    return one_line(str(error))[:200]


def operators(opened: Engine) -> Mapping[str, int]:
    """Return kind of operator -> how many the file holds, and under ``DELEGATE`` the parts that XNNPACK took."""
    found: dict[str, int] = {}
    for detail in opened.interpreter._get_ops_details():
        found[detail["op_name"]] = found.get(detail["op_name"], 0) + 1
    return found
