"""Open ``.tflite`` files in LiteRT: run them, look inside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import InputContract
from bitfront.errors import DataError
from bitfront.graph.ir import Graph, Node
from bitfront.images import require_values
from bitfront.quant.plan import Plan
from bitfront.runtimes import (
    detector_outputs,
    litert_engine,
    litert_exactness,
    litert_file,
    litert_model,
    litert_probe,
    litert_writer,
)
from bitfront.runtimes.litert_engine import Engine
from bitfront.runtimes.litert_tensors import SHIFT

__all__ = ["LiteRtSession", "observe"]

_DTYPES = {"FLOAT32": "float32", "UINT8": "uint8", "INT8": "int8", "INT16": "int16", "FLOAT16": "float16"}
_IMAGE_CHANNELS = (1, 3)


class LiteRtSession:
    """An opened ``.tflite`` file; see :class:`bitfront.contracts.Session`.

    Images go through one by one. Maps come back as ``(b, k, h, w)``, whatever their layout in the file, and codes as
    the values they stand for.
    """

    def __init__(self, path: Path, threads: int = 1, kernels: str = "") -> None:
        self.path, self.threads = path, threads
        self._model = litert_file.read(path)
        feed = self._model.tensors[self._model.inputs[0]]
        self._dtype = _DTYPES.get(feed.dtype, "")
        if not self._dtype or len(feed.shape) != 4 or len(self._model.inputs) != 1:
            raise DataError(
                f"'{path}' takes {feed.dtype} of shape {list(feed.shape)}, not images",
                hint="its one input must have four axes and be float32, float16, uint8, int8 or int16",
            )
        names = [self._model.tensors[i].name for i in self._model.outputs]
        self._four = detector_outputs.four_outputs(names) if self._model.facts is None else None
        self._nhwc = self._model.input is not None or feed.shape[3] in _IMAGE_CHANNELS
        if self._model.facts is None:
            litert_probe.probe(self._model.data, str(path))
        self._engine: Engine | None = litert_engine.start(self._model.data, str(path), threads, kernels)
        self._tracer: Engine | None = None
        self.kernels = self._engine.kernels
        """What computes: ``XNNPACK`` or ``built-in kernels``."""
        self.notes: tuple[str, ...] = (self._engine.note,) if self._engine.note else ()
        """What should be known of how the file is run, one line each."""

    def run(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Run normalized float32 ``(b, c, h, w)`` images; returns the values of the first output.

        The four outputs of TensorFlow's detectors come as one (:func:`.detector_outputs.joined`).
        Raises DataError when the images do not fit the file, or are no values but pixels.
        """
        parts = [self._answer(values) for values in self._run(self._engine, images)]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def trace(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every inner tensor of a file that bitfront wrote: codes of quantized tensors as the plan has them,
        values of the others (in single precision, as the kernels compute, also where the plan has half).

        The file is opened once more with all tensors as outputs, on the same kernels.
        """
        shown = self._shown()
        if self._tracer is None:
            exposed = _exposed(self._model.data, list(shown))
            self._tracer = litert_engine.start(exposed, str(self.path), self.threads, self.kernels)
        rounds = self._run(self._tracer, images)
        columns = [np.concatenate(column) for column in zip(*rounds, strict=True)]
        return {
            name: _nchw(_as_planned(column, is_shifted))
            for (name, is_shifted), column in zip(shown.values(), columns, strict=True)
        }

    def operators(self) -> Mapping[str, int]:
        """Kind of operator -> how many of them there are, and under ``DELEGATE`` the parts that XNNPACK took."""
        return litert_engine.operators(self._engine) if self._engine is not None else {}

    def looseness(self, graph: Graph, plan: Plan, node: Node) -> str:
        """Why the kernels may round a layer otherwise than the reference; empty when they may not."""
        return litert_exactness.looseness(graph, plan, node, self.kernels)

    def expected(
        self, graph: Graph, plan: Plan, node: Node, held: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[Any], float] | None:
        """What the kernels are to compute where they do not do what the reference does, and how far they may be off."""
        return litert_exactness.expected(graph, plan, node, held, self.kernels)

    def close(self) -> None:
        """Free the engine."""
        self._engine = self._tracer = None

    def _run(self, opened: Engine | None, images: NDArray[np.float32]) -> list[list[NDArray[Any]]]:
        if opened is None:
            raise DataError(f"'{self.path}' is closed", hint="open it again")
        require_values(images, str(self.path))
        feeds = self._encode(images)
        try:
            return [opened.run(feeds[i : i + 1]) for i in range(len(feeds))]
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"LiteRT cannot run '{self.path}' on {images.dtype} {images.shape}: {litert_engine.reason(error)}",
                hint="feed it as its input contract says, or export it again",
            ) from error

    def _encode(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Bring images to the dtype and layout of the file's input."""
        feeds: NDArray[Any] = images
        facts = self._model.tensors[self._model.inputs[0]]
        if np.dtype(self._dtype).kind in "iu" and len(facts.scale):
            limits = np.iinfo(self._dtype)
            steps = np.divide(images, np.float32(facts.scale[0]), dtype=np.float32)
            np.rint(steps, out=steps)
            steps += np.float32(facts.zero_point[0])
            feeds = np.clip(steps, limits.min, limits.max, out=steps).astype(self._dtype)
        return np.ascontiguousarray(feeds.transpose(0, 2, 3, 1) if self._nhwc else feeds, self._dtype)

    def _answer(self, values: list[NDArray[Any]]) -> NDArray[Any]:
        if self._four is None:
            return self._value(values[0], self._model.outputs[0])
        return detector_outputs.joined(*(self._value(values[i], self._model.outputs[i]) for i in self._four.places))

    def _value(self, codes: NDArray[Any], place: int) -> NDArray[Any]:
        """Return what the first output stands for; class indices stay what they are."""
        facts = self._model.tensors[place]
        if codes.dtype.kind in "iu" and len(facts.scale):
            codes = (codes.astype(np.float32) - np.float32(facts.zero_point[0])) * np.float32(facts.scale[0])
        return _nchw(codes) if self._nhwc else codes

    def _shown(self) -> dict[int, tuple[str, bool]]:
        """Return index -> name in the graph, and whether its codes lie lower than the plan's, in the file's order."""
        found: dict[str, tuple[int, bool]] = {}
        for index, facts in enumerate(self._model.tensors):
            name, _, tag = facts.name.partition("@")
            if facts.constant or not name or tag not in ("", "shifted", "codes"):
                continue
            if name not in found or tag:
                found[name] = (index, tag == "shifted")
        return {index: (name, shifted) for name, (index, shifted) in found.items()}


def observe(graph: Graph, threads: int = 1) -> Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Return a function from a batch ``(b, c, h, w)`` to the float32 values of the input and every activation.

    The float network runs in LiteRT, in memory.
    """
    shape = graph.tensors[graph.inputs[0]].shape
    contract = InputContract(height=shape[2], width=shape[3], channels=shape[1])
    writer, inputs, outputs, _ = litert_writer.write(graph, Plan("float32"), contract)
    names = [node.output for node in graph.nodes if graph.tensors[node.output].kind == "activation"]
    data = writer.model.finish(inputs, [writer.held(name) for name in names] or outputs, {})
    opened = litert_engine.start(data, "the float network", threads)

    def run(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        feeds = np.ascontiguousarray(batch.transpose(0, 2, 3, 1), np.float32)
        rounds = [opened.run(feeds[i : i + 1]) for i in range(len(feeds))]
        columns = [_nchw(np.concatenate(column)) for column in zip(*rounds, strict=True)]
        return {graph.inputs[0]: np.asarray(batch, np.float32), **dict(zip(names, columns, strict=True))}

    return run


def _as_planned(values: NDArray[Any], is_shifted: bool) -> NDArray[Any]:
    return values.astype(np.int16) + np.int16(SHIFT) if is_shifted else values


def _nchw(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if values.ndim == 4 else values


def _exposed(data: bytes, places: list[int]) -> bytes:
    """Return a model whose outputs are these tensors."""
    s = litert_model.schema()
    model = s.ModelT.InitFromObj(s.Model.GetRootAsModel(data, 0))
    model.subgraphs[0].outputs = np.asarray(places, np.int32)
    return litert_model.pack(model)
