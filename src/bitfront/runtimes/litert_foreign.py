"""Other people's TFLite files: how to feed and read them, as far as they say.

A file says little of its input. What is concluded, in this order:

1. What bitfront wrote into it.
2. Integer input: pixels as they are. Its scale and zero point say which values they stand for, so 0..255 with scale
   1/128 and zero point 128 is [-1, 1).
3. Float input, as asked with ``preprocess``; else as the data's own description says.
4. Float input whose first operators subtract, multiply or divide by constants: the network normalizes, fed 0..255.
5. Float input of a network with TensorFlow-Slim's names for MobileNet, Inception, Xception, NASNet or DeepLab: these
   are trained on [-1, 1] (``preprocess_for_train`` of Slim's ``inception_preprocessing``, ``mean_pixel`` of DeepLab's
   ``feature_extractor``). Such names outweigh what the file records as the range of its input: converters were often
   told that of the pixels.
6. Float input that records its range as [0, 1] or [-1, 1].
7. Else nobody knows, and the user is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitfront.contracts import DataInfo, InputContract, OutputContract
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.runtimes import detector_outputs, litert_file
from bitfront.runtimes.detector_outputs import Read
from bitfront.runtimes.litert_file import Layer, Model, TensorFacts
from bitfront.runtimes.litert_session import LiteRtSession

__all__ = ["Description", "describe"]

PRESETS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0,), (1.0,)),
    "signed": ((0.5,), (0.5,)),
    "raw": ((0.0,), (1 / 255,)),
}
"""Name -> mean and std of a pixel in [0, 1]."""
SLIM = re.compile(r"\b(Mobilenet(V[123]|Edge)|Inception(V[1234]|Resnet)|xception_|nasnet|cell_stem_|aspp\d*/)")
"""Scopes of networks that are trained on [-1, 1]."""
RANGES = {(0.0, 1.0): "unit", (-1.0, 1.0): "signed"}
RANGE_ERROR = 0.02
_DTYPES = {"FLOAT32": "float32", "FLOAT16": "float16", "UINT8": "uint8", "INT8": "int8", "INT16": "int16"}
_ARITHMETIC = ("SUB", "MUL", "DIV", "ADD")
_PASSING = ("RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SQUEEZE", "CAST", "QUANTIZE", "DEQUANTIZE", "PAD")


@dataclass(frozen=True, slots=True)
class Description:
    """How to feed and read a TFLite file."""

    input: InputContract
    """As the file takes it; its layout may be NHWC, sessions take NCHW images all the same."""
    output: OutputContract
    """As a session gives it: maps are NCHW."""
    notes: tuple[str, ...] = ()
    """What was concluded or assumed, in sentences."""
    any_size: bool = False
    task: str = "segmentation"
    """What a file with an answer of this shape does."""
    n_classes: int = 0
    """How many it tells apart; 0 where it does not say."""


def describe(path: Path, preprocess: str = "", info: DataInfo | None = None, decoder: str = "") -> Description:
    """Return how to feed and read a TFLite file: what bitfront wrote into it, else what its graph says.

    Args:
        path: the file.
        preprocess: ``imagenet``, ``unit`` (p / 255), ``signed`` (p / 127.5 - 1) or ``raw`` (0..255), for float inputs.
        info: the data, whose description may say how images are normalized; asked when ``preprocess`` is empty.
        decoder: how a detector's outputs are read, where their shapes do not say (:mod:`.detector_outputs`).

    Raises:
        UsageError: unknown ``preprocess``, or a float input of which nothing says how it is to be fed.
        DataError: damaged files, files whose input is no image, or whose output is neither a map nor a class.
    """
    if preprocess and preprocess not in PRESETS:
        raise unknown_name("preprocessing", preprocess, PRESETS)
    model = litert_file.read(path)
    if model.input is not None and model.output is not None:
        unused = f"{path.name} says how it is fed; --preprocess {preprocess} is not used"
        n_axes = len(model.tensors[model.outputs[0]].shape)
        task = "detection" if model.output.head else "classification" if n_axes < 3 else "segmentation"
        output = replace(model.output, layout="nchw")
        return Description(
            model.input, output, (unused,) if preprocess else (), task=task, n_classes=len(output.classes)
        )
    contract = _sized(model, path)
    boxes = _boxes(model, path, contract, decoder, info)
    if boxes is not None:
        contract = replace(contract, fit=boxes.fit)
        contract, notes = _normalized(
            model, contract, preprocess, {"resize": boxes.resize}, path.name, boxes.preprocess
        )
        notes = (*notes, f"{path.name}: {boxes.note}")
        return Description(contract, boxes.output, notes, task="detection", n_classes=len(boxes.output.classes))
    contract, notes = _normalized(model, contract, preprocess, dict(info.preprocess) if info else {}, path.name)
    output, more, task, n_classes = _output(model, path)
    return Description(contract, output, (*notes, *more), task=task, n_classes=n_classes)


def _sized(model: Model, path: Path) -> InputContract:
    """Size, layout and dtype of the input."""
    feed = model.tensors[model.inputs[0]]
    dtype = _DTYPES.get(feed.dtype)
    if len(model.inputs) != 1 or len(feed.shape) != 4 or dtype is None:
        raise DataError(
            f"'{path}' takes {len(model.inputs)} inputs, the first {feed.dtype} {list(feed.shape)}, not one image",
            hint="its input must be (batch, height, width, channels) or (batch, channels, height, width)",
        )
    layout = "nchw" if feed.shape[3] not in (1, 3) and feed.shape[1] in (1, 3) else "nhwc"
    channels, height, width = feed.shape[1:] if layout == "nchw" else (feed.shape[3], feed.shape[1], feed.shape[2])
    if channels not in (1, 3):
        raise DataError(f"'{path}' takes {channels} channels", hint="images have 1 or 3")
    color = "y" if channels == 1 else "rgb"
    return InputContract(height, width, channels=channels, layout=layout, dtype=dtype, color=color)


# --- the input -------------------------------------------------------------------------------------------------------
def _normalized(  # noqa: PLR0917
    model: Model, contract: InputContract, preprocess: str, data: dict[str, Any], name: str, usual: str = ""
) -> tuple[InputContract, tuple[str, ...]]:
    contract = replace(contract, resize=str(data.get("resize", contract.resize)))
    feed = model.tensors[model.inputs[0]]
    if contract.dtype not in ("float32", "float16"):
        contract = _integer(contract, feed)
        if preprocess:
            return _with(contract, *PRESETS[preprocess]), (f"{name}: {preprocess} input (as asked)",)
        low, high = _reach(contract, feed)
        return contract, (
            f"{name} takes {contract.dtype}: fed with pixels as they are, which stand for {low} to {high}",
        )
    if preprocess:
        return _with(contract, *PRESETS[preprocess]), (f"{name}: {preprocess} input (as asked)",)
    if "mean" in data or "std" in data:
        pair = (_floats(data.get(key, default)) for key, default in (("mean", 0.0), ("std", 1.0)))
        return _with(contract, *pair), (f"{name}: normalized as the data's description says",)
    chosen, why = _concluded(model, feed)
    if not chosen and usual:
        chosen, why = usual, "as such detectors are"
    if not chosen:
        raise UsageError(
            f"'{name}' takes float images, and nothing in it says of which range",
            hint="say --preprocess unit ([0, 1]), signed ([-1, 1]), imagenet or raw (0..255)",
        )
    return _with(contract, *PRESETS[chosen]), (f"{name}: {chosen} input ({why}; --preprocess for another)",)


def _integer(contract: InputContract, feed: TensorFacts) -> InputContract:
    """Mean and std with which a pixel's value has the pixel as its code, 128 lower for signed inputs."""
    scale = float(feed.scale[0]) if len(feed.scale) else 1.0
    zero = int(feed.zero_point[0]) if len(feed.zero_point) else 0
    offset = 128 if contract.dtype == "int8" else 0
    made = replace(contract, scale=scale, zero_point=zero)
    return _with(made, ((offset + zero) / 255,), (1 / (255 * scale),))


def _reach(contract: InputContract, feed: TensorFacts) -> tuple[str, str]:
    return tuple(f"{(p - contract.mean[0]) / contract.std[0]:.4g}" for p in (0.0, 1.0))  # type: ignore[return-value]


def _concluded(model: Model, feed: TensorFacts) -> tuple[str, str]:
    """Return the preset of a float input and what says so; empty when nothing does."""
    first = _first_work(model)
    if first is not None and first.op in _ARITHMETIC and any(model.tensors[i].constant for i in first.inputs if i >= 0):
        return "raw", f"the network begins with {first.op} by a constant: it normalizes pixels itself"
    named = next((found[0] for t in model.tensors if (found := SLIM.search(t.name))), "")
    if named:
        return "signed", f"its tensors are named as in TensorFlow-Slim, '{named}...': trained on [-1, 1]"
    if feed.limits is not None:
        for (low, high), preset in RANGES.items():
            if abs(feed.limits[0] - low) < RANGE_ERROR and abs(feed.limits[1] - high) < RANGE_ERROR:
                return preset, f"the file records the range {low:g} to {high:g}"
    return "", ""


def _first_work(model: Model) -> Layer | None:
    """Return the first operator that changes the image's values."""
    tensor = model.inputs[0]
    for _ in range(len(model.layers)):
        reader = next((layer for layer in model.layers if tensor in layer.inputs), None)
        if reader is None or reader.op not in _PASSING or not reader.outputs:
            return reader
        tensor = reader.outputs[0]
    return None


def _with(contract: InputContract, mean: tuple[float, ...], std: tuple[float, ...]) -> InputContract:
    n = contract.channels
    mean, std = (v * n if len(v) == 1 else v for v in (mean, std))
    if n == 1 and len(mean) == 3:  # ImageNet's, of grey
        mean, std = (float(np.mean(mean)),), (float(np.mean(std)),)
    return replace(contract, mean=mean, std=std)


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in (value if isinstance(value, (list, tuple)) else [value]))


# --- the output ------------------------------------------------------------------------------------------------------
def _boxes(model: Model, path: Path, contract: InputContract, decoder: str, info: DataInfo | None) -> Read | None:
    """How boxes are read, where the outputs may be boxes: then a black image is run."""
    names = [model.tensors[i].name for i in model.outputs]
    shape = model.tensors[model.outputs[0]].shape
    size = (contract.height, contract.width)
    if not decoder and detector_outputs.four_outputs(names) is None:
        empty = np.zeros(shape if len(shape) != 4 else (shape[0], shape[3], *shape[1:3]), np.float32)
        if detector_outputs.recognise(names, empty, size, info=info) is None:
            return None
    session = LiteRtSession(path)
    try:
        values = session.run(np.zeros((1, contract.channels, *size), np.float32))
    finally:
        session.close()
    return detector_outputs.recognise(names, values, size, decoder=decoder, info=info, path=str(path))


def _output(model: Model, path: Path) -> tuple[OutputContract, tuple[str, ...], str, int]:
    """Read-out, notes, task and number of classes, by the first output's type and shape."""
    out, name = model.tensors[model.outputs[0]], path.name
    last = model.producer(model.outputs[0])
    rank = len(out.shape)
    if out.dtype in ("INT32", "INT64") or (last is not None and last.op == "ARG_MAX"):
        scores = model.tensors[last.inputs[0]] if last is not None and last.op == "ARG_MAX" else None
        task = "segmentation" if rank >= 3 else "classification"
        n = scores.shape[-1] if scores is not None and scores.shape else 0
        return OutputContract("labels"), (f"{name}: its output is class indices",), task, n
    if rank not in (1, 2, 3, 4):
        raise DataError(
            f"'{path}' gives {out.dtype} {list(out.shape)}, neither a map nor a class",
            hint="segmentation needs (batch, h, w, classes), classification (batch, classes)",
        )
    flat = rank < 3 or (rank == 4 and out.shape[1:3] == (1, 1))
    task, n = ("classification" if flat else "segmentation"), out.shape[-1]
    if rank == 3:
        n = 1
    if n > 1:
        return OutputContract("argmax"), (), task, n
    threshold = 0.5 if last is not None and last.op == "LOGISTIC" else 0.0
    what = "probability > 0.5" if threshold else "logit > 0"
    return OutputContract("threshold", threshold), (f"{name}: one output channel, {what}",), task, 2
