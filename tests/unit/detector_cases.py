"""Files of other people's detectors that find the same whatever they see: outputs are constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bitfront.runtimes.litert_model import ModelWriter

SIZE = 64
N_PLACES = 3 * (8 * 8 + 4 * 4 + 2 * 2)


def places(n_classes: int, found: list[tuple[float, float, float, float, float, int]], unit: float) -> np.ndarray:
    """(1, n, 5 + K) with boxes x y w h score class, in pixels; places are all over the input."""
    values = np.zeros((1, N_PLACES, 5 + n_classes), np.float32)
    values[0, :, :2] = np.random.default_rng(0).uniform(0, SIZE, (N_PLACES, 2))
    for place, (x, y, w, h, score, label) in enumerate(found):
        values[0, 7 * place + 3, :5] = x, y, w, h, score
        values[0, 7 * place + 3, 5 + label] = 1
    values[..., :4] *= unit
    return values


def onnx_file(
    path: Path, outputs: dict[str, np.ndarray], shape: tuple[int | str, ...] = (1, 3, SIZE, SIZE), first: str = ""
) -> Path:
    """An ONNX file that answers with ``outputs``; ``first``: an operator by 1 at its beginning; uint8 if NHWC."""
    kind = TensorProto.UINT8 if shape[-1] == 3 else TensorProto.FLOAT
    stored = [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0.0), ("one", 1.0))]
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)]
    if first:
        nodes = [helper.make_node(first, ["x", "one"], ["f"])]
    nodes += [
        helper.make_node("ReduceMean", ["f"], ["m"], keepdims=0),
        helper.make_node("Mul", ["m", "zero"], ["nothing"]),
    ]
    for name, values in outputs.items():
        stored.append(numpy_helper.from_array(values.astype(np.float32), f"{name}.values"))
        nodes.append(helper.make_node("Add", ["nothing", f"{name}.values"], [name]))
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        stored,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def tflite_file(path: Path, outputs: dict[str, np.ndarray]) -> Path:
    """A TFLite file that answers with ``outputs``."""
    m = ModelWriter()
    x = m.tensor("input_1", (1, SIZE, SIZE, 3), "FLOAT32")
    w = m.tensor("w", (1, SIZE, SIZE, 3), "FLOAT32", data=np.zeros((1, SIZE, SIZE, 3), np.float32))
    b = m.tensor("b", (1,), "FLOAT32", data=np.zeros(1, np.float32))
    map_ = m.tensor("map", (1, 1, 1, 1), "FLOAT32")
    m.operator("CONV_2D", [x, w, b], [map_], "Conv2DOptions", padding=1, strideH=1, strideW=1)
    shape = m.tensor("shape", (1,), "INT32", data=np.array([1], np.int32))
    nothing = m.tensor("nothing", (1,), "FLOAT32")
    m.operator("RESHAPE", [map_, shape], [nothing], "ReshapeOptions", newShape=[1])
    found = []
    for name, values in outputs.items():
        stored = m.tensor(f"{name}.values", values.shape, "FLOAT32", data=values.astype(np.float32))
        found.append(m.tensor(name, values.shape, "FLOAT32"))
        m.operator("ADD", [nothing, stored], [found[-1]], "AddOptions")
    path.write_bytes(m.finish([x], found, {}))
    return path
