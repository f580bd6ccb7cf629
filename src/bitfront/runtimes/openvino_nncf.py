"""Other people's ONNX files, quantized by NNCF, Intel's own quantizer, in a child process.

For files with operators that the graph does not know: what comes out has no integer reference and is compared with the
float file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

import bitfront
from bitfront.errors import DataError, DeviceError, UsageError, one_line
from bitfront.runtimes import onnx_file
from bitfront.runtimes.onnx_foreign import Description
from bitfront.store import atomic_write

__all__ = ["NNCF_RECIPES", "export"]

NNCF_RECIPES = ("float32", "int8")
TIME_LIMIT_S = 1800


def export(path: Path, recipe: str, batches: Iterable[NDArray[np.float32]], folder: Path, found: Description) -> Path:
    """Quantize a foreign float32 file with NNCF and write ``folder/model.onnx``.

    Args:
        path: the float32 file.
        recipe: one of ``NNCF_RECIPES``; ``float32`` stores the file as it is, with its contract.
        batches: normalized float32 images ``(b, c, h, w)`` to calibrate on.
        folder: where to write.
        found: how the file is fed and read, kept in the new file.

    Raises:
        UsageError: another recipe.
        DeviceError: NNCF is not installed.
        DataError: NNCF fails or dies, or the input is not float32.
    """
    if recipe not in NNCF_RECIPES:
        hint = f"of files with operators of their own NNCF makes {', '.join(NNCF_RECIPES)}"
        raise UsageError(f"'{path.name}' cannot be exported as {recipe}", hint=hint)
    model = onnx_file.load_model(path)
    if recipe != "float32":
        if found.input.dtype != "float32":
            raise DataError(f"'{path}' takes {found.input.dtype}", hint="quantize the float32 file it was made from")
        model = _quantized(model, batches, found.input.layout, path)
    facts = {"tool": f"bitfront {bitfront.__version__}", "recipe": recipe, "foreign": path.name}
    onnx.helper.set_model_props(model, onnx_file.header(found.input, found.output, **facts))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "model.onnx"
    atomic_write(target, model.SerializeToString(deterministic=True))
    return target


def _quantized(
    model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], layout: str, path: Path
) -> onnx.ModelProto:
    if find_spec("nncf") is None:
        raise DeviceError("NNCF is not installed", hint="pip install 'bitfront[openvino]'")
    with tempfile.TemporaryDirectory(prefix="bitfront-") as name:
        folder = Path(name)
        atomic_write(folder / "float.onnx", model.SerializeToString())
        images = [image if layout == "nchw" else image.transpose(1, 2, 0) for batch in batches for image in batch]
        if not images:
            raise DataError(f"nothing to calibrate '{path.name}' on", hint="give at least one image")
        stacked = np.stack(images).astype(np.float32)
        atomic_write(folder / "images.f32", stacked.tobytes())
        code = "import sys; from bitfront.runtimes.openvino_nncf import quantize_folder as q; q(*sys.argv[1:])"
        try:
            done = subprocess.run(
                [sys.executable, "-c", code, str(folder), "x".join(map(str, stacked.shape))],
                capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise DataError(f"quantizing '{path.name}' took too long", hint="use fewer or smaller images") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise DataError(
                f"NNCF fails on '{path.name}': {one_line(lines[-1])[:200]}",
                hint="use the float file, or the runtime onnxruntime, whose quantizer is another",
            )
        return onnx.load_model_from_string((folder / "int8.onnx").read_bytes())


def quantize_folder(folder: str, shape: str) -> None:
    """Quantize ``folder/float.onnx`` to ``folder/int8.onnx`` with the images beside it (the child's work)."""
    import logging

    import nncf

    logging.disable(logging.WARNING)
    root = Path(folder)
    model = onnx.load_model_from_string((root / "float.onnx").read_bytes())
    stored = {initializer.name for initializer in model.graph.initializer}
    name = next(value.name for value in model.graph.input if value.name not in stored)
    images = np.fromfile(root / "images.f32", np.float32).reshape([int(n) for n in shape.split("x")])
    dataset = nncf.Dataset([image[None] for image in images], lambda image: {name: image})
    made = nncf.quantize(model, dataset, subset_size=len(images))
    atomic_write(root / "int8.onnx", made.SerializeToString())
