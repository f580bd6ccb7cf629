"""NNCF, Intel's own quantizer, for other people's ONNX files: with operators that the graph does not know."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from bitfront.errors import DeviceError
from bitfront.runtimes.onnx_foreign import Quantizer
from bitfront.store import atomic_write

__all__ = ["NNCF", "require"]

NNCF = Quantizer("NNCF", ("float32", "int8"), ("int8",), __name__)


def require() -> None:
    """Raise DeviceError when NNCF is not installed."""
    if find_spec("nncf") is None:
        raise DeviceError("NNCF is not installed", hint="pip install 'bitfront[openvino]'")


def quantize_folder(folder: str, recipe: str, shape: str) -> None:
    """Quantize ``folder/float.onnx`` to ``folder/int8.onnx`` with the images beside it (the child's work)."""
    import logging

    import nncf

    assert recipe in NNCF.calibrated
    logging.disable(logging.WARNING)
    root = Path(folder)
    model = onnx.load_model_from_string((root / "float.onnx").read_bytes())
    stored = {initializer.name for initializer in model.graph.initializer}
    name = next(value.name for value in model.graph.input if value.name not in stored)
    size = [1, *(int(n) for n in shape.split("x"))]
    images = [np.fromfile(path, np.float32).reshape(size) for path in sorted(root.glob("*.f32"))]
    dataset = nncf.Dataset(images, lambda image: {name: image})
    made = nncf.quantize(model, dataset, subset_size=len(images))
    atomic_write(root / "int8.onnx", made.SerializeToString())
