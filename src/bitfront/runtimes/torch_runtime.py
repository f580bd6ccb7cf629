"""PyTorch on the CPU: ``.graph`` artifacts, which hold the graph and its plan and execute nothing when read.

The engine that networks are trained in, to compare the others with. It rounds where the plan says so and computes in
float32, so integer recipes show their scores here, not their speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import DataInfo, InputContract, OutputContract
from bitfront.errors import DataError, DeviceError, UsageError, one_line
from bitfront.graph import files
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.record import from_json, to_json

if TYPE_CHECKING:
    from bitfront.graph.module import GraphModule

__all__ = ["TorchRuntime", "TorchSession"]


@dataclass(frozen=True, slots=True)
class Description:
    """How to feed and read a ``.graph`` file."""

    input: InputContract
    output: OutputContract
    task: str = "segmentation"
    notes: tuple[str, ...] = ()
    any_size: bool = False


@dataclass(frozen=True, slots=True)
class TorchRuntime:
    """PyTorch, eager, on the CPU."""

    name: ClassVar[str] = "torch"
    recipes: ClassVar[tuple[str, ...]] = ("float32", "float16", "int8", "int8_compact", "qmn8")
    suffix: ClassVar[str] = ".graph"
    tolerance_codes: ClassVar[int] = 1
    end_tolerance_codes: ClassVar[int] = 8

    def missing(self) -> str:
        """Why torch cannot be used here; empty when it can."""
        try:
            import torch  # noqa: F401
        except ImportError as error:
            return f"{one_line(str(error))}: pip install 'bitfront[torch]'"
        return ""

    def version(self) -> str:
        """Version of torch."""
        return str(_torch().__version__)

    def export(self, graph: Graph, plan: Plan, folder: Path, contract: InputContract, output: OutputContract) -> Path:
        """Write ``folder/model.graph`` and return its path; equal arguments give equal bytes.

        Raises UsageError for dynamic plans, SpaceError when the disk is full.
        """
        if plan.options.get("dynamic"):
            raise UsageError("torch has no dynamic recipe here", hint="onnxruntime and litert have one")
        path = folder / f"model{self.suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        files.save(path, graph, plan, {"input": to_json(contract), "output": to_json(output)})
        return path

    def open(self, path: Path, threads: int = 1) -> TorchSession:
        """Open a ``.graph`` file. Raises DataError when it is damaged, DeviceError without torch."""
        return TorchSession(path, threads)

    def describe(self, path: Path, *, preprocess: str = "", info: DataInfo | None = None) -> Description:
        """Return how to feed and read a ``.graph`` file, which says so itself. Raises DataError for damaged files."""
        graph, _ = files.load(path)
        contract, output = _contracts(path)
        flat = len(graph.tensors[graph.outputs[0]].shape) < 3
        unused = (f"{path.name} says how it is fed; --preprocess {preprocess} is not used",) if preprocess else ()
        task = "detection" if output.head else "classification" if flat else "segmentation"
        return Description(contract, output, task, unused)


class TorchSession:
    """An opened ``.graph`` file; see :class:`bitfront.contracts.Session`."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        _torch()
        from bitfront.graph.module import GraphModule

        self.path, self.threads = path, threads
        _contracts(path)
        graph, plan = files.load(path)
        try:
            self._module: GraphModule | None = GraphModule(graph, plan).eval()
        except UsageError as error:
            raise DataError(f"'{path}' cannot be run: {error}", hint="export it again") from error

    def run(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Run normalized float32 ``(b, c, h, w)`` images. Raises DataError when they do not fit the file."""
        torch = _torch()
        if self._module is None:
            raise DataError(f"'{self.path}' is closed", hint="open it again")
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                found = self._module(torch.from_numpy(np.ascontiguousarray(images, np.float32)))
        except RuntimeError as error:
            raise DataError(
                f"torch cannot run '{self.path}' on {images.dtype} {images.shape}: {one_line(str(error))[:300]}",
                hint="feed it as its input contract says",
            ) from error
        finally:
            torch.set_num_threads(before)
        values: NDArray[Any] = (found[0] if isinstance(found, tuple) else found).numpy()
        return values

    def close(self) -> None:
        """Free the network."""
        self._module = None


def _torch() -> Any:
    """Return the module ``torch``. Raises DeviceError when it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise DeviceError(f"torch is not usable: {error}", hint="pip install 'bitfront[torch]'") from error
    return torch


def _contracts(path: Path) -> tuple[InputContract, OutputContract]:
    try:
        stored = files.facts(path)
        return from_json(InputContract, stored["input"]), from_json(OutputContract, stored["output"])
    except UsageError as error:
        raise DataError(str(error), hint=error.hint) from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"'{path}' does not say how it is fed", hint="export it again") from error
