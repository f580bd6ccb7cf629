"""ONNX Runtime on the CPU: writer and reader of ``.onnx`` artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import DataInfo, InputContract, OutputContract
from bitfront.errors import one_line
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan

if TYPE_CHECKING:
    from bitfront.measure.profile import OperatorTime
    from bitfront.runtimes.onnx_foreign import Description
    from bitfront.runtimes.onnx_session import OnnxSession

__all__ = ["OnnxRuntime"]


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """ONNX Runtime, CPU execution provider."""

    full_names: bool = False
    """Write every tensor's full name wherever it stands: larger files, easier to take apart."""

    name: ClassVar[str] = "onnxruntime"
    recipes: ClassVar[tuple[str, ...]] = (
        "float32",
        "float16",
        "dynamic",
        "int8",
        "int8_mixed",
        "int8_compact",
        "int8_s8s8",
        "int8_portable",
        "int16x8",
        "int4",
        "qmn8",
    )
    suffix: ClassVar[str] = ".onnx"
    tolerance_codes: ClassVar[int] = 1

    def missing(self) -> str:
        """Why ONNX Runtime cannot be used here; empty when it can."""
        try:
            import onnxruntime  # noqa: F401
        except ImportError as error:
            return f"{one_line(str(error))}: pip install onnxruntime"
        return ""

    def version(self) -> str:
        """Version of ONNX Runtime."""
        from bitfront.runtimes import onnx_session

        return str(onnx_session.engine().__version__)

    def export(self, graph: Graph, plan: Plan, folder: Path, contract: InputContract, output: OutputContract) -> Path:
        """Write ``folder/model.onnx`` and return its path; see :func:`bitfront.runtimes.onnx_export.export`."""
        from bitfront.runtimes import onnx_export

        return onnx_export.export(graph, plan, folder, contract, output, self.full_names)

    def notes(self, graph: Graph, plan: Plan) -> tuple[str, ...]:
        """Say which widths of a plan its file holds in wider types: those of 2, 4, 8 and 16 bits."""
        from bitfront.runtimes import onnx_tensors

        return onnx_tensors.storage_notes(graph, plan)

    def open(self, path: Path, threads: int = 1) -> OnnxSession:
        """Open an ``.onnx`` file, ours or another's. Raises DataError when it is damaged or ONNX Runtime refuses it."""
        from bitfront.runtimes import onnx_session

        return onnx_session.OnnxSession(path, threads)

    def describe(
        self, path: Path, *, preprocess: str = "", info: DataInfo | None = None, decoder: str = ""
    ) -> Description:
        """Return how to feed and read an ``.onnx`` file; see :func:`bitfront.runtimes.onnx_foreign.describe`."""
        from bitfront.runtimes import onnx_foreign

        return onnx_foreign.describe(path, preprocess, info, decoder)

    def export_foreign(  # noqa: PLR0917
        self,
        path: Path,
        recipe: str,
        batches: Iterable[NDArray[np.float32]],
        folder: Path,
        preprocess: str = "",
        info: DataInfo | None = None,
    ) -> Path:
        """Quantize a file that the graph cannot hold; see :func:`bitfront.runtimes.onnx_foreign.export`."""
        from bitfront.runtimes import onnx_foreign

        return onnx_foreign.export(path, recipe, batches, folder, onnx_foreign.describe(path, preprocess, info))

    def profile(
        self, path: Path, images: NDArray[np.float32], threads: int = 1, n_runs: int = 20
    ) -> list[OperatorTime]:
        """Return where the time of a file goes; see :func:`bitfront.runtimes.onnx_profile.profile`."""
        from bitfront.runtimes import onnx_profile

        return onnx_profile.profile(path, images, threads, n_runs)

    def observe(self, graph: Graph) -> Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
        """Return a function from a batch to the float32 values of every tensor, for calibration."""
        from bitfront.runtimes import onnx_session

        return onnx_session.observe(graph)
