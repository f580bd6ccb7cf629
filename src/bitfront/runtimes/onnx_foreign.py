"""Other people's ONNX files: how to feed and read them, and how to quantize those that the graph cannot hold.

What a file does not say is assumed and told in notes. Quantization of such a file is ONNX Runtime's own and runs in a
child process, since graph tools may crash; the result has no integer reference: it is compared with the float file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import bitfront
from bitfront.contracts import DataInfo, InputContract, OutputContract
from bitfront.errors import DataError, UsageError, one_line, unknown_name
from bitfront.runtimes import detector_outputs, onnx_file
from bitfront.runtimes.detector_outputs import Read
from bitfront.runtimes.onnx_session import OnnxSession
from bitfront.store import atomic_write

__all__ = ["FOREIGN_RECIPES", "ONNXRUNTIME", "Description", "Quantizer", "describe", "export"]

PRESETS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0,), (1.0,)),
    "signed": ((0.5,), (0.5,)),
    "raw": ((0.0,), (1 / 255,)),
}
"""Name -> mean and std of a pixel in [0, 1]."""
GREY = ((0.449,), (0.226,))
"""ImageNet's, for one channel."""
DEFAULT_SIZE = (512, 512)
"""Height and width where the file leaves both open."""
QUANTIZER: Mapping[str, Mapping[str, Any]] = {
    "int8": {"activations": "QUInt8", "reduce_range": False},
    "int8_s8s8": {"activations": "QInt8", "reduce_range": False},
    "int8_portable": {"activations": "QUInt8", "reduce_range": True},
}
FOREIGN_RECIPES = ("float32", "dynamic", *QUANTIZER)


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Another's quantizer of ONNX files, which works in a child process."""

    name: str
    recipes: tuple[str, ...]
    calibrated: tuple[str, ...]
    """Of these, the recipes that want images."""
    module: str
    """Its function ``quantize_folder(folder, recipe, shape)`` makes ``int8.onnx`` of ``float.onnx`` and the images."""


ONNXRUNTIME = Quantizer("ONNX Runtime's quantizer", FOREIGN_RECIPES, tuple(QUANTIZER), __name__)
MIN_OPSET, OPSET = 13, 17
"""Per-channel DequantizeLinear came with opset 13; older files are converted to 17."""
TIME_LIMIT_S = 1800


@dataclass(frozen=True, slots=True)
class Description:
    """How to feed and read an ONNX file."""

    input: InputContract
    output: OutputContract
    notes: tuple[str, ...] = ()
    """What was assumed, in sentences."""
    any_size: bool = False
    """Whether the file leaves height and width open."""
    task: str = "segmentation"
    """What a file with an answer of this shape does: maps, or one answer for an image (``classification``)."""


def describe(path: Path, preprocess: str = "", info: DataInfo | None = None, decoder: str = "") -> Description:
    """Return how to feed and read an ONNX file: what bitfront wrote into it, else what its graph says.

    Args:
        path: the file.
        preprocess: ``imagenet`` (mean and std), ``unit`` (p / 255), ``signed`` (p / 127.5 - 1), ``raw`` (0..255).
        info: the data, whose description may say how images are normalized; asked when ``preprocess`` is empty.
        decoder: how a detector's outputs are read, where their shapes do not say (:mod:`.detector_outputs`).

    Raises:
        UsageError: unknown ``preprocess`` or ``decoder``.
        DataError: damaged files, files whose first input is no image, or whose output is neither a map, a class nor
            boxes.
    """
    if preprocess and preprocess not in PRESETS:
        raise unknown_name("preprocessing", preprocess, PRESETS)
    model = onnx_file.load_model(path)
    known = onnx_file.contract_of(model, path)
    if known is not None:
        unused = f"{path.name} says how it is fed; --preprocess {preprocess} is not used"
        task = "detection" if known[1].head else "classification" if _is_flat(model) else "segmentation"
        return Description(known[0], known[1], (unused,) if preprocess else (), task=task)
    contract, any_size = _sized(model, path)
    values = _answer(path, contract)
    outputs, size = [output.name for output in model.graph.output], (contract.height, contract.width)
    boxes = detector_outputs.recognise(outputs, values, size, decoder=decoder, info=info, path=str(path))
    if boxes is not None:
        return _detector(model, contract, boxes, preprocess, any_size, path.name)
    contract, notes = _normalized(contract, preprocess, dict(info.preprocess) if info else {}, path.name)
    if any_size:
        notes = (*notes, f"{path.name} takes any size; fed at {contract.height}x{contract.width}")
    output, more, task = _output(model, path, contract, values)
    return Description(contract, output, (*notes, *more), any_size, task)


def _detector(  # noqa: PLR0917
    model: onnx.ModelProto, contract: InputContract, boxes: Read, preprocess: str, any_size: bool, name: str
) -> Description:
    """How a detector's file is fed and read."""
    size = boxes.size if any_size else (contract.height, contract.width)
    contract = replace(contract, height=size[0], width=size[1], fit=boxes.fit)
    usual = "raw" if _scales_first(model) else boxes.preprocess
    contract, notes = _normalized(contract, preprocess, {"resize": boxes.resize}, name, usual)
    if any_size:
        notes = (*notes, f"{name} takes any size; fed at {size[0]}x{size[1]}")
    return Description(contract, boxes.output, (*notes, f"{name}: {boxes.note}"), any_size, "detection")


def _scales_first(model: onnx.ModelProto) -> bool:
    """Whether the network begins with arithmetic on pixels: it normalizes them itself."""
    feed = _feed(model)
    first = next((node for node in model.graph.node if feed in node.input), None)
    return first is not None and first.op_type in ("Mul", "Div", "Sub")


def export(  # noqa: PLR0917
    path: Path,
    recipe: str,
    batches: Iterable[NDArray[np.float32]],
    folder: Path,
    found: Description,
    quantizer: Quantizer = ONNXRUNTIME,
) -> Path:
    """Quantize a foreign float32 file with another's quantizer and write ``folder/model.onnx``.

    Args:
        path: the float32 file, of any opset that onnx converts.
        recipe: one of the quantizer's; ``float32`` stores the file as it is, with its contract.
        batches: normalized float32 images ``(b, c, h, w)`` to calibrate on; read one by one.
        folder: where to write.
        found: how the file is fed and read, kept in the new file.
        quantizer: by default ONNX Runtime's own.

    Raises:
        UsageError: a recipe that foreign files cannot have.
        DataError: the quantizer fails or dies, or the input is not float32.
    """
    if recipe not in quantizer.recipes:
        hint = f"of files with operators of their own {quantizer.name} makes {', '.join(quantizer.recipes)}"
        raise UsageError(f"'{path.name}' cannot be exported as {recipe}", hint=hint)
    model = onnx_file.load_model(path)
    if recipe != "float32":
        if found.input.dtype != "float32":
            raise DataError(f"'{path}' takes {found.input.dtype}", hint="quantize the float32 file it was made from")
        model = _quantized(model, recipe, batches, found.input, path, quantizer)
    facts = {"tool": f"bitfront {bitfront.__version__}", "recipe": recipe, "foreign": path.name}
    onnx.helper.set_model_props(model, onnx_file.header(found.input, found.output, **facts))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "model.onnx"
    atomic_write(target, model.SerializeToString(deterministic=True))
    return target


# --- what the graph says ---------------------------------------------------------------------------------------------
def _sized(model: onnx.ModelProto, path: Path) -> tuple[InputContract, bool]:
    """Size, layout and dtype of the first input, and whether its size is free."""
    stored = {initializer.name for initializer in model.graph.initializer}
    feeds = [value for value in model.graph.input if value.name not in stored]
    if len(feeds) != 1:
        raise DataError(f"'{path}' has {len(feeds)} inputs, not one image", hint="export it with one input")
    kind = feeds[0].type.tensor_type
    shape = [d.dim_value or 0 for d in kind.shape.dim]
    dtype = onnx_file.DTYPES.get(kind.elem_type)
    if len(shape) != 4 or dtype is None:
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise DataError(
            f"'{path}' takes {name} {shape}, not images",
            hint="its input must be (batch, channels, height, width) or (batch, height, width, channels)",
        )
    layout = onnx_file.layout(shape)
    channels, height, width = shape[1:] if layout == "nchw" else (shape[3], shape[1], shape[2])
    if channels not in (1, 3):
        raise DataError(f"'{path}' takes {channels or 'any number of'} channels", hint="images have 1 or 3")
    size = (height or width or DEFAULT_SIZE[0], width or height or DEFAULT_SIZE[1])
    color = "y" if channels == 1 else "rgb"
    return InputContract(*size, channels=channels, layout=layout, dtype=dtype, color=color), not (height and width)


def _normalized(
    contract: InputContract, preprocess: str, data: dict[str, Any], name: str, usual: str = "imagenet"
) -> tuple[InputContract, tuple[str, ...]]:
    n = contract.channels
    contract = replace(contract, resize=str(data.get("resize", contract.resize)))
    if contract.dtype in ("uint8", "int8"):  # the network normalizes by itself
        offset = 128 / 255 if contract.dtype == "int8" else 0.0
        note = f"{name} takes {contract.dtype}: fed with pixels as they are"
        return replace(contract, mean=(offset,) * n, std=(1 / 255,) * n), (note,)
    if not preprocess and ("mean" in data or "std" in data):
        mean, std = (_repeated(data.get(key, default), n) for key, default in (("mean", 0.0), ("std", 1.0)))
        return replace(contract, mean=mean, std=std), (f"{name}: normalized as the data's description says",)
    chosen = preprocess or usual
    mean, std = GREY if chosen == "imagenet" and n == 1 else PRESETS[chosen]
    others = "|".join(name for name in PRESETS if name != chosen)
    why = "as asked" if preprocess else f"assumed; --preprocess {others} otherwise"
    return replace(contract, mean=_repeated(mean, n), std=_repeated(std, n)), (f"{name}: {chosen} input ({why})",)


def _repeated(value: Any, n: int) -> tuple[float, ...]:
    items = tuple(float(v) for v in (value if isinstance(value, (list, tuple)) else [value]))
    return items * n if len(items) == 1 else items


def _is_flat(model: onnx.ModelProto) -> bool:
    """Whether the first output has no map: ``(b,)`` or ``(b, k)``."""
    kind = model.graph.output[0].type.tensor_type
    return bool(kind.HasField("shape")) and len(kind.shape.dim) < 3


def _answer(path: Path, contract: InputContract) -> NDArray[Any]:
    """Run the file on a black image."""
    session = OnnxSession(path)
    try:
        return session.run(np.zeros((1, contract.channels, contract.height, contract.width), np.float32))
    finally:
        session.close()


def _output(
    model: onnx.ModelProto, path: Path, contract: InputContract, values: NDArray[Any]
) -> tuple[OutputContract, tuple[str, ...], str]:
    """Read-out and task by what the first output is, as on a black image."""
    task = "classification" if values.ndim < 3 or values.shape[2:] == (1, 1) else "segmentation"
    size = values.shape[1:3] if values.ndim == 3 or contract.layout == "nhwc" else values.shape[2:4]
    is_map = values.ndim in (3, 4) and size[0] * contract.width == size[1] * contract.height
    if task == "segmentation" and not is_map:
        raise DataError(
            f"'{path}' gives {values.shape}, neither a map nor a class",
            hint="segmentation needs (batch, classes, h, w), classification (batch, classes); boxes: --decoder",
        )
    if values.dtype.kind in "iub":
        note = f"{path.name}: integer output, taken as labels"
        return OutputContract("labels", layout=contract.layout), (note,), task
    flat = task == "classification"
    axis = 1 if flat or contract.layout == "nchw" else 3
    channels = 1 if values.ndim in (1, 3) else values.shape[axis]
    if channels > 1:
        return OutputContract("argmax", layout="nchw" if flat else contract.layout), (), task
    last = next((n for n in model.graph.node if model.graph.output[0].name in n.output), None)
    threshold = 0.5 if last is not None and last.op_type in ("Sigmoid", "HardSigmoid") else 0.0
    what = "probability > 0.5" if threshold else "logit > 0"
    readout = OutputContract("threshold", threshold, contract.layout)
    return readout, (f"{path.name}: one output channel, {what}",), task


# --- a quantizer in a child process ---------------------------------------------------------------------------------
def _quantized(  # noqa: PLR0917
    model: onnx.ModelProto,
    recipe: str,
    batches: Iterable[NDArray[np.float32]],
    contract: InputContract,
    path: Path,
    quantizer: Quantizer,
) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="bitfront-") as name:
        folder = Path(name)
        atomic_write(folder / "float.onnx", model.SerializeToString())
        count, shape = 0, ""
        for batch in batches if recipe in quantizer.calibrated else ():
            for image in batch:
                feed = image if contract.layout == "nchw" else image.transpose(1, 2, 0)
                atomic_write(folder / f"{count:06d}.f32", np.ascontiguousarray(feed, np.float32).tobytes())
                count, shape = count + 1, "x".join(map(str, feed.shape))
        if recipe in quantizer.calibrated and not count:
            raise DataError(f"nothing to calibrate '{path.name}' on", hint="give at least one image")
        code = f"import sys; from {quantizer.module} import quantize_folder as q; q(*sys.argv[1:])"
        try:
            done = subprocess.run(
                [sys.executable, "-c", code, str(folder), recipe, shape],
                capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise DataError(f"quantizing '{path.name}' took too long", hint="use fewer or smaller images") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise DataError(
                f"{quantizer.name} fails on '{path.name}': {one_line(lines[-1])[:200]}",
                hint="use the float file, or export the model from torch",
            )
        return onnx.load_model_from_string((folder / "int8.onnx").read_bytes())


def quantize_folder(folder: str, recipe: str, shape: str) -> None:
    """Quantize ``folder/float.onnx`` to ``folder/int8.onnx`` with the images beside it (the child's work)."""
    import logging

    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    logging.disable(logging.WARNING)
    root = Path(folder)
    model = _upgraded(onnx.load_model_from_string((root / "float.onnx").read_bytes()))
    atomic_write(root / "float.onnx", model.SerializeToString())
    source, target = str(root / "float.onnx"), str(root / "int8.onnx")
    if recipe == "dynamic":
        quantize_dynamic(source, target, weight_type=QuantType.QInt8)
        return
    name, size = _feed(model), [1, *(int(n) for n in shape.split("x"))]
    images = (np.fromfile(path, np.float32).reshape(size) for path in sorted(root.glob("*.f32")))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """One stored image after the other."""

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            image = next(images, None)
            return None if image is None else {name: image}

    chosen = QUANTIZER[recipe]
    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=chosen["reduce_range"],
        activation_type=QuantType[chosen["activations"]],
        weight_type=QuantType.QInt8,
    )


def _feed(model: onnx.ModelProto) -> str:
    stored = {initializer.name for initializer in model.graph.initializer}
    return next(str(value.name) for value in model.graph.input if value.name not in stored)


def _upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Bring a file to an opset with per-channel DequantizeLinear, and infer what shapes can be inferred."""
    from onnx import shape_inference, version_converter

    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        model = version_converter.convert_version(model, OPSET)
    try:
        return shape_inference.infer_shapes(model)
    except Exception:  # shapes only help the quantizer
        return model
