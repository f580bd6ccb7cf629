"""Small networks and files for the tests of LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.runtimes.litert_model import ModelWriter

SIZE, CHANNELS = 8, 4
INF = float("inf")
PLAIN = {"strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4}


def one(op: str, **attributes: Any) -> Graph:
    """A convolution, so that there are codes, and one operator behind it; a reshape first where it needs a vector."""
    rng = np.random.default_rng(5)
    b = Builder()
    x = b.input("image", (1, 3, SIZE, SIZE))
    x = _conv(b, rng, x, "first", CHANNELS, 3, pads=[1] * 4)
    if op in ("add", "sub", "mul", "div", "concat"):
        other = _conv(b, rng, "image", "second", CHANNELS, 3, pads=[1] * 4, clip=[0.5, 2.0] if op == "div" else None)
        return b.build([b.node(op, "out", [x, other], **attributes)])
    if op == "conv":
        groups, kernel, oc = attributes["groups"], attributes.pop("kernel"), attributes.pop("oc")
        weight = b.constant("w", rng.normal(0, 0.3, (oc, CHANNELS // groups, *kernel)), "weight")
        bias = b.constant("b", rng.normal(0, 0.5, oc), "bias")
        return b.build([b.node("conv", "out", [x, weight, bias], **attributes)])
    if op == "dense":
        x = b.node("reshape", "flat", [x], shape=[-1, CHANNELS * SIZE * SIZE])
        weight = b.constant("w", rng.normal(0, 0.1, (5, CHANNELS * SIZE * SIZE)), "weight")
        bias = b.constant("b", rng.normal(0, 0.5, 5), "bias")
        return b.build([b.node("dense", "out", [x, weight, bias], **attributes)])
    return b.build([b.node(op, "out", [x], **attributes)])


def _conv(b: Builder, rng: np.random.Generator, x: str, name: str, oc: int, k: int, **more: Any) -> str:
    weight = b.constant(f"{name}.w", rng.normal(0, 0.3, (oc, b.shape(x)[1], k, k)), "weight")
    bias = b.constant(f"{name}.b", rng.normal(0, 0.1, oc), "bias")
    return b.node("conv", name, [x, weight, bias], **{"clip": None, "groups": 1, **PLAIN, **more})


OPERATORS: dict[str, Graph] = {
    "conv same": one("conv", kernel=(3, 3), oc=6, groups=1, clip=[0.0, INF], **{**PLAIN, "pads": [1] * 4}),
    "conv padded": one(
        "conv", kernel=(3, 3), oc=6, groups=1, clip=[0.0, 6.0], **{**PLAIN, "pads": [1] * 4, "strides": [2, 2]}
    ),
    "conv dilated": one("conv", kernel=(3, 3), oc=6, groups=1, clip=None, **{**PLAIN, "dilations": [2, 2]}),
    "conv clipped": one("conv", kernel=(1, 1), oc=6, groups=1, clip=[-0.3, 0.7], **PLAIN),
    "depthwise": one("conv", kernel=(3, 3), oc=4, groups=4, clip=[0.0, INF], **{**PLAIN, "pads": [1] * 4}),
    "depthwise twofold": one("conv", kernel=(3, 3), oc=8, groups=4, clip=None, **PLAIN),
    "dense": one("dense", clip=[0.0, INF]),
    "add": one("add", clip=[0.0, INF]),
    "sub": one("sub"),
    "mul": one("mul"),
    "div": one("div"),
    "clip": one("clip", lo=-0.5, hi=0.75),
    "relu6": one("clip", lo=0.0, hi=6.0),
    "leaky_relu": one("leaky_relu", alpha=0.1),
    "sigmoid": one("sigmoid"),
    "tanh": one("tanh"),
    "exp": one("exp"),
    "neg": one("neg"),
    "silu": one("silu"),
    "hard_swish": one("hard_swish"),
    "hard_sigmoid": one("hard_sigmoid", alpha=1 / 6, beta=0.5),
    "softmax": one("softmax", axis=1),
    "max_pool": one("max_pool", kernel=[3, 3], strides=[2, 2], pads=[1] * 4, dilations=[1, 1]),
    "average_pool": one("average_pool", kernel=[2, 2], strides=[2, 2], pads=[0] * 4, count_include_pad=False),
    "average_pool padded": one("average_pool", kernel=[3, 3], strides=[2, 2], pads=[1] * 4, count_include_pad=True),
    "average_pool whole": one(
        "average_pool", kernel=[SIZE, SIZE], strides=[1, 1], pads=[0] * 4, count_include_pad=False
    ),
    "global_average_pool": one("global_average_pool"),
    "reduce_mean": one("reduce_mean", axes=[2, 3], keepdims=False),
    "resize align_corners": one("resize", mode="linear", size=[13, 16], coordinates="align_corners"),
    "resize half_pixel": one("resize", mode="linear", size=[13, 16], coordinates="half_pixel"),
    "resize pytorch": one("resize", mode="linear", size=[4, 4], coordinates="pytorch_half_pixel"),
    "resize asymmetric": one("resize", mode="linear", size=[16, 11], coordinates="asymmetric"),
    "nearest": one("resize", mode="nearest", size=[16, 16], coordinates="asymmetric", rounding="floor"),
    "nearest half": one("resize", mode="nearest", size=[5, 12], coordinates="half_pixel", rounding="floor"),
    "nearest gathered": one(
        "resize", mode="nearest", size=[5, 13], coordinates="half_pixel", rounding="round_prefer_floor"
    ),
    "concat": one("concat", axis=1),
    "concat rows": one("concat", axis=2),
    "pad": one("pad", pads=[1, 2, 0, 1], value=0.0),
    "pad value": one("pad", pads=[1, 0, 0, 1], value=0.5),
    "slice": one("slice", axis=1, start=1, stop=4, step=2),
    "reshape": one("reshape", shape=[-1, 2, SIZE * SIZE, 2]),
    "transpose": one("transpose", perm=[0, 2, 1, 3]),
    "identity": one("identity"),
    "argmax": one("argmax", axis=1, keepdims=True),
    "argmax dropped": one("argmax", axis=1, keepdims=False),
}
"""Name -> a network with this operator behind a convolution."""


def foreign(path: Path, first: str = "", name: str = "input", **of_input: Any) -> Path:
    """A file of somebody else: a convolution to 3 classes, ``first`` an operator by a constant before it."""
    rng = np.random.default_rng(3)
    m = ModelWriter()
    limits = of_input.pop("limits", None)
    x = feed = m.tensor(name, (1, SIZE, SIZE, 3), of_input.pop("dtype", "FLOAT32"), **of_input)
    if limits:
        from bitfront.runtimes.litert_model import schema

        quantization = schema().QuantizationParametersT()
        quantization.min, quantization.max = (np.asarray([v], np.float32) for v in limits)
        m.tensors[feed].quantization = quantization
    if m.tensors[feed].type != 0:
        x = m.tensor("values", (1, SIZE, SIZE, 3), "FLOAT32")
        m.operator("DEQUANTIZE", [feed], [x])
    if first:
        moved = m.tensor("moved", (1, SIZE, SIZE, 3), "FLOAT32")
        by = m.tensor("by", (1,), "FLOAT32", data=np.array([127.5], np.float32))
        m.operator(first, [x, by], [moved], f"{first.title()}Options")
        x = moved
    w = m.tensor("w", (3, 1, 1, 3), "FLOAT32", data=rng.normal(0, 1, (3, 1, 1, 3)).astype(np.float32))
    b = m.tensor("b", (3,), "FLOAT32", data=np.zeros(3, np.float32))
    y = m.tensor("logits", (1, SIZE, SIZE, 3), "FLOAT32")
    m.operator("CONV_2D", [x, w, b], [y], "Conv2DOptions", padding=1, strideH=1, strideW=1)
    path.write_bytes(m.finish([feed], [y], {}))
    return path


def refused_by_xnnpack(path: Path) -> Path:
    """A file whose bias has a scale that XNNPACK does not take, and the built-in kernels do not look at."""
    m = ModelWriter()
    x = m.tensor("x", (1, SIZE, SIZE, 3), "INT8", scale=[0.02], zero_point=[3])
    scale = [0.01, 0.02]
    codes = np.arange(6, dtype=np.int8).reshape(2, 1, 1, 3)
    w = m.tensor("w", (2, 1, 1, 3), "INT8", data=codes, scale=scale, zero_point=[0, 0])
    b = m.tensor("b", (2,), "INT32", data=np.zeros(2, np.int32), scale=[1.0], zero_point=[0])
    y = m.tensor("y", (1, SIZE, SIZE, 2), "INT8", scale=[0.05], zero_point=[0])
    m.operator("CONV_2D", [x, w, b], [y], "Conv2DOptions", padding=1, strideH=1, strideW=1)
    path.write_bytes(m.finish([x], [y], {}))
    return path
