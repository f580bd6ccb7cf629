"""Open ``.onnx`` files in OpenVINO: run them, look inside them, time their operators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitfront.errors import DataError, DeviceError, one_line
from bitfront.graph.ir import Graph, Node
from bitfront.measure.profile import OperatorTime
from bitfront.quant.formats import integer
from bitfront.quant.plan import Plan
from bitfront.runtimes import onnx_file

__all__ = ["OpenVinoSession", "engine", "profile"]

DTYPES = (np.dtype("float32"), np.dtype("float16"), np.dtype("uint8"), np.dtype("int8"))
PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "uint8", "i8": "int8", "i32": "int32"}
"""OpenVINO's words for types -> numpy's."""


class OpenVinoSession:
    """An opened ``.onnx`` file, compiled for one image at a time; see :class:`bitfront.contracts.Session`."""

    def __init__(self, path: Path, threads: int = 1, *, profiled: bool = False) -> None:
        """Open it; ``profiled``: with counters of every operator."""
        self.path, self.threads = path, threads
        model = onnx_file.load_model(path)
        known = onnx_file.contract_of(model, path)
        self._engine = _compiled(model, path, threads, profiled)
        feed = self._engine.inputs[0]
        self._dtype = feed.get_element_type().to_dtype()
        shape = list(feed.get_shape())
        if len(shape) != 4 or self._dtype not in DTYPES:
            raise DataError(
                f"'{path}' takes {self._dtype} of shape {shape}, not images",
                hint="its first input must have four axes and be float32, float16, uint8 or int8",
            )
        self._layout = known[0].layout if known else onnx_file.layout(shape)
        self._scale, self._zero = (known[0].scale, known[0].zero_point) if known else (1.0, 0)

    def run(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Run normalized float32 ``(b, c, h, w)`` images, one by one; returns the first output as the file has it.

        Raises DataError when the images do not fit the file.
        """
        return np.concatenate([values[0] for values in self._each(self._engine, images)])

    def trace(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every inner tensor that the file names, as :meth:`bitfront.runtimes.onnx_session.OnnxSession.trace`.

        With all tensors shown OpenVINO fuses less: additions stay apart from the convolutions before them.
        """
        from bitfront.graph import onnx_names
        from bitfront.runtimes import onnx_trace

        model = onnx_file.load_model(self.path)
        onnx_names.expand(model)
        tensors, shifts = onnx_trace.expose(model), onnx_trace.shifts(model)
        opened = _compiled(model, self.path, self.threads)
        places = {name: n for n, output in enumerate(opened.outputs) for name in output.get_names()}
        found = [[np.array(v) for v in values] for values in self._each(opened, images)]
        return {
            name: value if source not in shifts else value.astype(np.int16) - np.int16(shifts[source])
            for source, name in tensors
            for value in [np.concatenate([values[places[source]] for values in found])]
        }

    def looseness(self, graph: Graph, plan: Plan, node: Node) -> str:
        """Say why a layer may round to a neighbouring code: scales are applied in another order."""
        return "scales in single precision" if integer(plan.formats.get(node.output)) is not None else ""

    def close(self) -> None:
        """Free the engine."""
        self._engine = None

    def _each(self, opened: Any, images: NDArray[np.float32]) -> Sequence[list[NDArray[Any]]]:
        if opened is None:
            raise DataError(f"'{self.path}' is closed", hint="open it again")
        feeds = self._encode(images)
        request = opened.create_infer_request()
        found = []
        for i in range(len(feeds)):
            try:
                answers = request.infer({0: feeds[i : i + 1]})
            except Exception as error:
                raise DataError(
                    f"OpenVINO cannot run '{self.path}' on {feeds.dtype} {feeds.shape}: {_reason(error)}",
                    hint="feed it as its input contract says, or export it again",
                ) from error
            found.append([np.array(answers[output]) for output in opened.outputs])
        return found

    def _encode(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Bring images to the dtype and layout of the file's input."""
        feeds: NDArray[Any] = images if self._layout == "nchw" else images.transpose(0, 2, 3, 1)
        if self._dtype.kind in "iu":
            limits = np.iinfo(self._dtype)
            feeds = np.clip(np.rint(feeds / np.float32(self._scale)) + self._zero, limits.min, limits.max)
        return np.ascontiguousarray(feeds, self._dtype)


def profile(path: Path, images: NDArray[np.float32], threads: int, n_runs: int) -> list[OperatorTime]:
    """Return the median time of every operator over ``n_runs`` runs, in order of execution. Raises DataError."""
    session = OpenVinoSession(path, threads, profiled=True)
    feeds, runs = session._encode(images[:1]), []
    request = session._engine.create_infer_request()
    for _ in range(n_runs + 1):
        request.infer({0: feeds})
        runs.append({item.node_name: item for item in request.profiling_info})
    session.close()
    first = runs[0]
    return [
        OperatorTime(
            name,
            item.node_type,
            median(run[name].real_time.total_seconds() for run in runs[1:]) * 1000,
            PRECISIONS.get(item.exec_type.rpartition("_")[2].lower(), ""),
        )
        for name, item in first.items()
        if item.real_time.total_seconds() > 0
    ]


# --- the engine ------------------------------------------------------------------------------------------------------
def engine() -> Any:
    """Return the module ``openvino``. Raises DeviceError when it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise DeviceError(f"OpenVINO is not usable: {error}", hint="pip install 'bitfront[openvino]'") from error
    return openvino


def _compiled(model: onnx.ModelProto, path: Path, threads: int, profiled: bool = False) -> Any:
    """Return the network compiled for one image, in single precision where it is not integer."""
    core = engine().Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
        "PERF_COUNT": profiled,
    }
    try:
        network = core.read_model(model.SerializeToString())
        shape = network.inputs[0].get_partial_shape()
        if shape.rank.is_static and len(shape) == 4 and shape[0].is_dynamic:
            shape[0] = 1
            network.reshape({network.inputs[0]: shape})
        return core.compile_model(network, "CPU", settings)
    except Exception as error:
        raise DataError(f"OpenVINO refuses '{path}': {_reason(error)}", hint="export or copy it again") from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if lines else type(error).__name__)[:300]
