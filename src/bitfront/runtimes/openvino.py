"""OpenVINO on the CPU: ``.onnx`` artifacts in Intel's engine; other people's networks quantized by NNCF.

The files are those that ONNX Runtime gets, so ``ovc model.onnx`` makes OpenVINO's own format of them. OpenVINO fuses
additions into the convolutions before them and then rounds once where the plan rounds twice: every layer is verified
with all tensors shown, to the neighbouring code, and the whole file within ``end_tolerance_codes``. Signed activations
(``int8_s8s8``) and ``dynamic`` are left out: of the first OpenVINO 2026.4 computes some layers wrongly, by tens of
codes, and the second it rounds in another order.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    from bitfront.runtimes.openvino_session import OpenVinoSession

__all__ = ["OpenVino"]


@dataclass(frozen=True, slots=True)
class OpenVino:
    """OpenVINO, CPU plug-in."""

    name: ClassVar[str] = "openvino"
    recipes: ClassVar[tuple[str, ...]] = (
        "float32",
        "float16",
        "int8",
        "int8_mixed",
        "int8_compact",
        "int8_portable",
    )
    suffix: ClassVar[str] = ".onnx"
    tolerance_codes: ClassVar[int] = 1
    end_tolerance_codes: ClassVar[int] = 16

    def missing(self) -> str:
        """Why OpenVINO cannot be used here; empty when it can."""
        try:
            import openvino  # noqa: F401
        except ImportError as error:
            return f"{one_line(str(error))}: pip install 'bitfront[openvino]'"
        return ""

    def version(self) -> str:
        """Version of OpenVINO."""
        from bitfront.runtimes import openvino_session

        return str(openvino_session.engine().__version__)

    def export(self, graph: Graph, plan: Plan, folder: Path, contract: InputContract, output: OutputContract) -> Path:
        """Write ``folder/model.onnx`` and return its path; see :func:`bitfront.runtimes.onnx_export.export`."""
        from bitfront.runtimes import onnx_export

        return onnx_export.export(graph, plan, folder, contract, output)

    def open(self, path: Path, threads: int = 1) -> OpenVinoSession:
        """Open an ``.onnx`` file. Raises DataError when it is damaged or OpenVINO refuses it."""
        from bitfront.runtimes import openvino_session

        return openvino_session.OpenVinoSession(path, threads)

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
        """Quantize a file that the graph cannot hold, by NNCF; see :func:`bitfront.runtimes.onnx_foreign.export`."""
        from bitfront.runtimes import onnx_foreign, openvino_nncf

        openvino_nncf.require()
        found = onnx_foreign.describe(path, preprocess, info)
        return onnx_foreign.export(path, recipe, batches, folder, found, openvino_nncf.NNCF)

    def profile(
        self, path: Path, images: NDArray[np.float32], threads: int = 1, n_runs: int = 20
    ) -> list[OperatorTime]:
        """Return where the time of a file goes, by OpenVINO's own counters."""
        from bitfront.runtimes import openvino_session

        return openvino_session.profile(path, images, threads, n_runs)
