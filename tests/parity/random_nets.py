"""Random small networks and plans, for comparing runtimes with the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.quant.formats import Affine, Float16, Format
from bitfront.quant.plan import Plan
from bitfront.simulate import reference

RELU = (0.0, float("inf"))
SAME_FORMAT = ("max_pool", "reshape", "transpose", "slice", "identity")
COORDINATES = ("align_corners", "half_pixel", "pytorch_half_pixel", "asymmetric")


@dataclass
class Draft:
    """A network under construction with its random generator."""

    rng: np.random.Generator
    builder: Builder

    def conv(self, x: str, channels: int, kernel: int = 1, stride: int = 1, **options: Any) -> str:
        n = self.builder.shape(x)[1]
        groups = options.get("groups", 1)
        shape = (channels, n // groups, kernel, kernel)
        weight = self.rng.normal(0, (n // groups * kernel**2) ** -0.5, shape) * self.rng.uniform(
            0.2, 2, (channels, 1, 1, 1)
        )
        dilation = options.get("dilation", 1)
        inputs = [x, self.builder.constant("w", weight, "weight")]
        if self.rng.random() < 0.9:
            inputs.append(self.builder.constant("b", self.rng.normal(0, 0.2, channels), "bias"))
        pad = dilation * (kernel // 2)
        return self.builder.node(
            "conv", "conv", inputs, strides=[stride, stride], pads=[pad, pad, pad, pad],
            dilations=[dilation, dilation], groups=groups, clip=options.get("clip"),
        )  # fmt: skip

    def clip(self) -> list[float] | None:
        return [None, list(RELU), [0.0, 6.0], [-1.0, 1.0]][self.rng.integers(4)]

    def block(self, x: str) -> str:
        """Append a random piece that keeps the map's size and channels."""
        node, (_, channels, h, w) = self.builder.node, self.builder.shape(x)
        match self.rng.integers(11):
            case 0:
                return self.conv(x, channels, 3, clip=self.clip(), dilation=int(self.rng.integers(1, 3)))
            case 1:
                return self.conv(x, channels, 3, groups=channels, clip=self.clip())
            case 2:
                return node("add", "add", [x, self.conv(x, channels)], clip=self.clip())
            case 3:
                pooled = node(
                    "average_pool", "pool", [x], kernel=[2, 2], strides=[2, 2], pads=[0] * 4, count_include_pad=True
                )
                mode = str(self.rng.choice(COORDINATES))
                return node("resize", "up", [pooled], mode="linear", size=[h, w], coordinates=mode)
            case 4:
                small = self.conv(x, channels, 3, stride=2, clip=self.clip())
                return node(
                    "resize", "near", [small], mode="nearest", size=[h, w], coordinates="asymmetric", rounding="floor"
                )
            case 5:
                half = self.conv(x, channels, clip=list(RELU))
                return self.conv(node("concat", "cat", [x, half], axis=1), channels)
            case 6:
                gate = node("sigmoid", "sig", [self.conv(node("global_average_pool", "gap", [x]), channels)])
                return node("mul", "gate", [x, gate])
            case 7:
                pool = {"kernel": [3, 3], "strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1]}
                return node("max_pool", "max", [x], **pool)
            case 8:
                return node("clip", "relu6", [node("add", "sum", [x, x], clip=None)], lo=0.0, hi=6.0)
            case 9:
                return node(str(self.rng.choice(["hard_swish", "silu", "tanh"])), "act", [x])
            case _:
                kernel = {"kernel": [3, 3], "strides": [1, 1], "pads": [1] * 4, "count_include_pad": False}
                return node("average_pool", "smooth", [x], **kernel)


def random_net(rng: np.random.Generator, size: int = 16, n_blocks: int = 4) -> Graph:
    """A network from a ``size`` x ``size`` image to a map of 1 to 4 channels at full resolution."""
    draft = Draft(rng, Builder())
    x = draft.builder.input("image", (1, 3, size, size))
    x = draft.conv(x, int(rng.integers(2, 24)), 3, stride=2, clip=draft.clip())
    for _ in range(n_blocks):
        x = draft.block(x)
    x = draft.conv(x, int(rng.integers(1, 5)))
    x = draft.builder.node("resize", "logits", [x], mode="linear", size=[size, size], coordinates="align_corners")
    return draft.builder.build([x])


def activation_format(low: float, high: float, signed: bool = False, bits: int = 8) -> Affine:
    """The affine format that covers a range and holds zero."""
    low, high, n = min(low, 0.0), max(high, 0.0), 2**bits - 1
    scale = np.float32(max((high - low) / n, 1e-6))
    zero = int(np.clip(np.rint(-low / scale), 0, n)) - (2 ** (bits - 1) if signed else 0)
    return Affine(bits, (float(scale),), (zero,), signed)


def weight_format(weight: NDArray[Any], bits: int = 8) -> Affine:
    """Symmetric, one scale a channel."""
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    scale = np.maximum(largest / (2 ** (bits - 1) - 1), 1e-8).astype(np.float32)
    return Affine(bits, tuple(scale.tolist()), (0,), True, 0, True)


def plan_for(graph: Graph, images: NDArray[np.float32], recipe: str) -> Plan:
    """A plain plan of each recipe, ranges by minimum and maximum on ``images``."""
    forms: dict[str, Format] = {}
    if recipe == "float16":
        return Plan(recipe, {name: Float16() for name in (*graph.constants, *(n.output for n in graph.nodes))})
    if recipe == "float32":
        return Plan(recipe)
    for node in graph.nodes:
        if node.op in ("conv", "dense"):
            forms[node.inputs[1]] = weight_format(
                graph.constants[node.inputs[1]], 7 if recipe == "int8_portable" else 8
            )
    if recipe == "dynamic":
        return Plan(recipe, forms, {"dynamic": True})
    for name, values in reference.run(graph, images, keep="*").items():
        forms[name] = activation_format(float(values.min()), float(values.max()), recipe == "int8_s8s8")
    for node in graph.nodes:
        if node.op in SAME_FORMAT or node.attributes.get("mode") == "nearest":
            forms[node.output] = forms[node.inputs[0]]
    return Plan(recipe, forms)


def powers_of_two(plan: Plan) -> Plan:
    """The plan with the scale of every activation rounded to a power of two."""
    forms = dict(plan.formats)
    for name, form in forms.items():
        if isinstance(form, Affine) and form.axis is None:
            forms[name] = replace(form, scale=(float(2.0 ** np.round(np.log2(form.scale[0]))),))
    return Plan(plan.recipe, forms, plan.options)
