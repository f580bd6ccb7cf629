"""LiteRT (TensorFlow Lite) on the CPU: writer and reader of ``.tflite`` artifacts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

import bitfront
from bitfront.contracts import DataInfo, InputContract, OutputContract
from bitfront.errors import one_line
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.store import atomic_write

if TYPE_CHECKING:
    from bitfront.runtimes.litert_foreign import Description
    from bitfront.runtimes.litert_session import LiteRtSession

__all__ = ["LiteRt"]


@dataclass(frozen=True, slots=True)
class LiteRt:
    """LiteRT with XNNPACK; its built-in kernels where XNNPACK fails."""

    kernels: str = ""
    """``built-in kernels`` leaves XNNPACK out."""

    name: ClassVar[str] = "litert"
    recipes: ClassVar[tuple[str, ...]] = (
        "float32",
        "float16",
        "dynamic",
        "int8",
        "int8_mixed",
        "int8_compact",
        "int8_s8s8",
        "int8_portable",
        "int8_full",
        "int8_full_u8",
        "int16x8",
        "qmn8",
        "int4",
    )
    suffix: ClassVar[str] = ".tflite"
    tolerance_codes: ClassVar[int] = 1

    def missing(self) -> str:
        """Why LiteRT cannot be used here; empty when it can."""
        try:
            from ai_edge_litert import interpreter  # noqa: F401
        except ImportError as error:
            return f"{one_line(str(error))}: pip install 'bitfront[litert]'"
        return ""

    def version(self) -> str:
        """Version of LiteRT."""
        from importlib.metadata import version

        from bitfront.runtimes import litert_engine

        litert_engine.engine()
        return version("ai-edge-litert")

    def export(self, graph: Graph, plan: Plan, folder: Path, contract: InputContract, output: OutputContract) -> Path:
        """Write ``folder/model.tflite`` and return its path; equal arguments give equal bytes.

        The input is NHWC, and of the type that the recipe asks for, else of the contract's. Raises UsageError for
        operators and formats that LiteRT does not have, SpaceError when the disk is full.
        """
        from bitfront.runtimes import litert_file, litert_writer

        writer, inputs, outputs, ends = litert_writer.write(graph, plan, contract)
        fed = replace(contract, layout="nhwc", dtype=ends.dtype, scale=ends.scale, zero_point=ends.zero_point)
        facts = {
            "tool": f"bitfront {bitfront.__version__}",
            "recipe": plan.recipe,
            "plan": plan.id,
            "graph": graph.id,
        }
        told = litert_file.header(fed, replace(output, layout="nhwc"), **facts)
        path = folder / f"model{self.suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(path, litert_file.sealed(writer.model.finish(inputs, outputs, {litert_file.KEY: told})))
        return path

    def open(self, path: Path, threads: int = 1) -> LiteRtSession:
        """Open a ``.tflite`` file, ours or another's. Raises DataError when it is damaged or LiteRT refuses it.

        Files that bitfront did not write are opened in a child process first.
        """
        from bitfront.runtimes import litert_session

        return litert_session.LiteRtSession(path, threads, self.kernels)

    def describe(
        self, path: Path, *, preprocess: str = "", info: DataInfo | None = None, decoder: str = ""
    ) -> Description:
        """Return how to feed and read a ``.tflite`` file; see :func:`bitfront.runtimes.litert_foreign.describe`."""
        from bitfront.runtimes import litert_foreign

        return litert_foreign.describe(path, preprocess, info, decoder)

    def count(self, path: Path) -> tuple[int, int, dict[str, int]]:
        """Return parameters, multiply-accumulates and operators of a file. Raises DataError."""
        from bitfront.runtimes import litert_file

        model = litert_file.read(path)
        return model.parameters(), model.macs(), model.operators()

    def observe(self, graph: Graph) -> Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
        """Return a function from a batch to the float32 values of every tensor, for calibration."""
        from bitfront.runtimes import litert_session

        return litert_session.observe(graph)
