"""Open ``.onnx`` files in ONNX Runtime: run them, look inside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import InputContract
from bitfront.errors import DataError, DeviceError, one_line
from bitfront.graph.ir import Graph
from bitfront.images import require_values
from bitfront.quant.plan import Plan
from bitfront.runtimes import detector_outputs, onnx_file

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OnnxSession", "engine", "observe", "options"]

_NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
}


class OnnxSession:
    """An opened ``.onnx`` file; see :class:`bitfront.contracts.Session`."""

    def __init__(self, path: Path, threads: int = 1, profile_prefix: str = "") -> None:
        """Open it; with ``profile_prefix`` a profile of every node is written to a file whose name begins so."""
        self.path = path
        self.threads = threads
        model = onnx_file.load_model(path)
        known = onnx_file.contract_of(model, path)
        self._is_ours = known is not None and "foreign" not in known[2]
        settings = options(threads, signed=self._is_ours)
        if profile_prefix:
            settings.enable_profiling, settings.profile_file_prefix = True, profile_prefix
        self._engine = _start(model.SerializeToString(), str(path), settings)
        feed = self._engine.get_inputs()[0]
        dtype = _NUMPY_TYPES.get(feed.type)
        if dtype is None or len(feed.shape) != 4:
            raise DataError(
                f"'{path}' takes {feed.type} of shape {feed.shape}, not images",
                hint="its first input must have four axes and be float32, float16, uint8 or int8",
            )
        self._feed, self._dtype = feed.name, np.dtype(dtype)
        self._batch = feed.shape[0] if isinstance(feed.shape[0], int) else None
        self._layout = known[0].layout if known else onnx_file.layout(feed.shape)
        self._scale, self._zero = (known[0].scale, known[0].zero_point) if known else (1.0, 0)
        names = [output.name for output in self._engine.get_outputs()]
        four = None if known else detector_outputs.four_outputs(names)
        self._outputs = [names[i] for i in four.places] if four else names[:1]

    def run(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Run normalized float32 ``(b, c, h, w)`` images; returns the first output as the file has it.

        The four outputs of TensorFlow's detectors come as one (:func:`.detector_outputs.joined`).

        Raises DataError when the images do not fit the file, or are no values but pixels.
        """
        values = self._run(self._engine, images, self._outputs)
        return values[0] if len(values) == 1 else detector_outputs.joined(*values)

    def trace(self, images: NDArray[np.float32], optimized: bool = True) -> dict[str, NDArray[Any]]:
        """Return every inner tensor that the file names: codes of quantized tensors (as the plan has them, wherever
        their zero is in the file), values of the others.

        The model is opened once more with all tensors as outputs. ONNX Runtime still fuses Conv, QuantizeLinear and
        their like, so integer kernels are those of :meth:`run`; ``optimized=False`` switches all fusion off.
        """
        from bitfront.graph import onnx_names
        from bitfront.runtimes import onnx_trace

        model = onnx_file.load_model(self.path)
        onnx_names.expand(model)
        tensors, shifts = onnx_trace.expose(model), onnx_trace.shifts(model)
        settings = options(self.threads, optimized, signed=self._is_ours)
        opened = _start(model.SerializeToString(), str(self.path), settings)
        try:
            values = self._run(opened, images, [source for source, _ in tensors])
        finally:
            del opened
        return {
            name: value if source not in shifts else value.astype(np.int16) - np.int16(shifts[source])
            for (source, name), value in zip(tensors, values, strict=True)
        }

    def end_profiling(self) -> str:
        """Finish the profile that :meth:`__init__` was asked for and return the name of its file."""
        return str(self._engine.end_profiling())

    def close(self) -> None:
        """Free the engine."""
        self._engine = None

    def _run(self, opened: Any, images: NDArray[np.float32], names: Sequence[str]) -> list[NDArray[Any]]:
        if opened is None:
            raise DataError(f"'{self.path}' is closed", hint="open it again")
        require_values(images, str(self.path))
        size = self._batch or len(images)
        feeds = self._encode(images)
        parts = [_infer(opened, names, self._feed, feeds[i : i + size], self.path) for i in range(0, len(feeds), size)]
        return [np.concatenate(columns) if len(columns) > 1 else columns[0] for columns in zip(*parts, strict=True)]

    def _encode(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Bring images to the dtype and layout of the file's input."""
        feeds: NDArray[Any] = images if self._layout == "nchw" else images.transpose(0, 2, 3, 1)
        if self._dtype.kind in "iu":
            limits = np.iinfo(self._dtype)
            feeds = np.clip(np.rint(feeds / np.float32(self._scale)) + self._zero, limits.min, limits.max)
        return np.ascontiguousarray(feeds, self._dtype)


def observe(graph: Graph, threads: int = 1) -> Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Return a function from a batch ``(b, c, h, w)`` to the float32 values of the input and every activation.

    The float network runs in ONNX Runtime, in memory: the fast way to collect ranges.
    """
    from bitfront.runtimes import onnx_trace, onnx_writer

    shape = graph.tensors[graph.inputs[0]].shape
    contract = InputContract(height=shape[2], width=shape[3])
    model = onnx_writer.write(graph, Plan("float32"), contract, metadata={})
    names = [node.output for node in graph.nodes if graph.tensors[node.output].kind == "activation"]
    onnx_trace.declare(model, names)
    opened = _start(model.SerializeToString(), "the float network", options(threads))

    def run(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        feeds = np.ascontiguousarray(batch, np.float32)
        values = _infer(opened, names, graph.inputs[0], feeds, Path("the float network"))
        return {graph.inputs[0]: feeds, **dict(zip(names, values, strict=True))}

    return run


# --- the engine ------------------------------------------------------------------------------------------------------
def engine() -> Any:
    """Return the module ``onnxruntime``. Raises DeviceError when it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(f"ONNX Runtime is not usable: {error}", hint="pip install onnxruntime") from error
    return onnxruntime


def options(threads: int, optimized: bool = True, signed: bool = False) -> onnxruntime.SessionOptions:
    """Return session options: sequential, no spinning threads, deterministic, silent.

    ``signed`` lets integer kernels take int8 activations, as on Arm; on x86 ONNX Runtime would leave most in float.
    """
    ort = engine()
    result = ort.SessionOptions()
    result.intra_op_num_threads = threads
    result.inter_op_num_threads = 1
    result.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    level = ort.GraphOptimizationLevel
    result.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    result.use_deterministic_compute = True
    result.log_severity_level = 4
    for pool in ("intra", "inter"):
        result.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
    result.add_session_config_entry("session.qdqisint8allowed", str(int(signed)))
    return result


def _start(model: bytes, name: str, settings: onnxruntime.SessionOptions) -> Any:
    ort = engine()
    try:
        return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise DataError(f"ONNX Runtime refuses '{name}': {_reason(error)}", hint="export or copy it again") from error


def _infer(opened: Any, names: Sequence[str], feed: str, images: NDArray[Any], path: Path) -> list[NDArray[Any]]:
    try:
        result: list[NDArray[Any]] = opened.run(list(names), {feed: images})
    except Exception as error:
        raise DataError(
            f"ONNX Runtime cannot run '{path}' on {images.dtype} {images.shape}: {_reason(error)}",
            hint="feed it as its input contract says, or export it again",
        ) from error
    return result


def _reason(error: Exception) -> str:
    return one_line(str(error))[:300]
