"""Random small networks of every operator that the C has, under random fixed-point plans, beside the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from fixed_point_plans import fixed_point_plan
from numpy.typing import NDArray

from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.quant.formats import Qmn
from bitfront.quant.plan import Plan
from bitfront.runtimes import c_build, c_source
from bitfront.runtimes.c_session import Child, CSession
from bitfront.runtimes.c_source import Written
from bitfront.simulate import reference

FUNCTIONS = ("sigmoid", "tanh", "exp", "sqrt", "silu", "hard_swish", "hard_sigmoid", "leaky_relu")
COORDINATES = ("align_corners", "half_pixel", "pytorch_half_pixel", "asymmetric")
MAX_TABLE_BITS = 9
ACTIVATION_BITS = (2, 4, 6, 8, 8, 8, 12, 16)
BLOCKS = 24


@dataclass
class Net:
    """A network with its plan and images."""

    graph: Graph
    plan: Plan
    images: NDArray[np.float32]
    written: Written


class Draft:
    """A network under construction."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.b = rng, Builder()

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def clip(self) -> list[float] | None:
        return self.pick(None, None, [0.0, float("inf")], [0.0, 6.0], [-1.0, 0.7])

    def conv(self, x: str, channels: int, kernel: tuple[int, int], **options: Any) -> str:
        n, groups = self.b.shape(x)[1], options.pop("groups", 1)
        weight = self.rng.normal(0, (n // groups * kernel[0] * kernel[1]) ** -0.5, (channels, n // groups, *kernel))
        inputs = [x, self.b.constant("w", weight, "weight")]
        if self.rng.random() < 0.8:
            inputs.append(self.b.constant("b", self.rng.normal(0, 0.3, channels), "bias"))
        rest = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]} | options
        return self.b.node("conv", "conv", inputs, groups=groups, clip=self.clip(), **rest)

    def any_conv(self, x: str) -> str:
        """Any window, stride, padding, dilation and groups that fit."""
        _, n, h, w = self.b.shape(x)
        kernel = (int(self.rng.integers(1, 4)), int(self.rng.integers(1, 5)))
        dilations = [int(self.rng.integers(1, 3)) for _ in kernel]
        pads = [int(p) for p in self.rng.integers(0, 3, 4)]
        need = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        pads[2] += max(0, need[0] - h - pads[0] - pads[2])
        pads[3] += max(0, need[1] - w - pads[1] - pads[3])
        groups = self.pick(1, 1, n, *[g for g in (2, 3) if n % g == 0])
        channels = groups * int(self.rng.integers(1, 3)) if groups > 1 else int(self.rng.integers(1, 8))
        strides = [int(s) for s in self.rng.integers(1, 3, 2)]
        return self.conv(x, channels, kernel, groups=groups, pads=pads, dilations=dilations, strides=strides)

    def constant(self, x: str) -> str:
        """Something that broadcasts with a map."""
        _, c, h, w = self.b.shape(x)
        shape = self.pick((1, c, 1, 1), (), (1, c, h, w), (1, 1, h, w), (c, 1, 1), (w,), (1,))
        return self.b.constant("k", self.rng.normal(0, 1, shape), "constant")

    def block(self, x: str, kind: int) -> str:
        node, (_, c, h, w) = self.b.node, self.b.shape(x)
        kernel = [min(int(self.rng.integers(1, 4)), n) for n in (h, w)]
        strides, pads = [int(s) for s in self.rng.integers(1, 3, 2)], [int(k > 1) for k in kernel * 2]
        size = [int(n) for n in self.rng.integers(1, 11, 2)]
        match kind:
            case 0 | 1 | 2:
                return self.any_conv(x)
            case 3:
                return self.conv(x, c, (3, 3), groups=c, pads=[1] * 4, strides=strides)
            case 4:
                return self.conv(x, int(self.rng.integers(1, 9)), (1, 1))
            case 5:
                return self.conv(x, int(self.rng.integers(1, 9)), (h, w))
            case 6:
                return node("add", "add", [x, self.conv(x, c, (1, 1))], clip=self.clip())
            case 7:
                operands = self.pick([x, self.constant(x)], [self.constant(x), x])
                op = self.pick("add", "sub", "mul")
                return node(op, op, operands, **({"clip": self.clip()} if op == "add" else {}))
            case 8:
                gate = node("global_average_pool", "gap", [x])
                gate = node("sigmoid", "sig", [self.conv(gate, c, (1, 1))])
                return node(self.pick("mul", "sub"), "gate", self.pick([x, gate], [gate, x]))
            case 9:
                return node("concat", "cat", [x, self.conv(x, 3, (1, 1)), x], axis=1)
            case 10:
                return node("concat", "cat", [x, node("neg", "neg", [x])], axis=self.pick(2, 3))
            case 11:
                return node("max_pool", "max", [x], kernel=kernel, strides=strides, pads=pads, dilations=[1, 1])
            case 12:
                counted = bool(self.rng.random() < 0.5)
                return node(
                    "average_pool", "avg", [x], kernel=kernel, strides=strides, pads=pads, count_include_pad=counted
                )
            case 13:
                rounding = self.pick("floor", "round_prefer_floor")
                mode = str(self.pick(*COORDINATES))
                return node("resize", "near", [x], mode="nearest", size=size, coordinates=mode, rounding=rounding)
            case 14 | 15:
                return node("resize", "up", [x], mode="linear", size=size, coordinates=str(self.pick(*COORDINATES)))
            case 16:
                op = str(self.pick(*FUNCTIONS))
                if op in ("exp", "sqrt"):
                    x = node("clip", "some", [x], lo=0.0, hi=4.0)
                options = {"hard_sigmoid": {"alpha": 0.2, "beta": 0.5}, "leaky_relu": {"alpha": 0.1}}.get(op, {})
                return node(op, op, [x], **options)
            case 17:
                return node("clip", "clip", [x], lo=-0.5, hi=self.pick(1.0, float("inf")))
            case 18:
                return node(self.pick("neg", "identity"), "unary", [x])
            case 19:
                pads = [int(p) for p in self.rng.integers(0, 3, 4)]
                return node("pad", "pad", [x], pads=pads, value=float(self.pick(0.0, 0.3)))
            case 20:
                axis = int(self.rng.integers(1, 4))
                stop = self.b.shape(x)[axis]
                return node("slice", "slice", [x], axis=axis, start=int(stop > 2), stop=stop, step=self.pick(1, 2))
            case 21:
                return node("transpose", "turn", [x], perm=self.pick([0, 1, 3, 2], [0, 2, 3, 1], [0, 3, 1, 2]))
            case 22:
                mean = node("reduce_mean", "mean", [x], axes=[2, 3], keepdims=True)
                return node("add", "shift", [x, mean], clip=None)
            case _:
                flat = node("reshape", "flat", [x], shape=[-1, c * h * w])
                if self.rng.random() < 0.5:
                    flat = node("clip", "bend", [flat], lo=-1.0, hi=1.0)
                return node("reshape", "map", [flat], shape=[-1, c, h, w])

    def end(self, x: str) -> str:
        node, (_, c, h, w) = self.b.node, self.b.shape(x)
        match int(self.rng.integers(7)):
            case 0:
                return node("argmax", "labels", [x], axis=1, keepdims=bool(self.rng.random() < 0.5))
            case 1:
                return node("softmax", "soft", [x], axis=self.pick(1, 1, 2))
            case 2:
                flat = node("reshape", "flat", [x], shape=[-1, c * h * w])
                weight = self.b.constant("dw", self.rng.normal(0, (c * h * w) ** -0.5, (5, c * h * w)), "weight")
                bias = self.b.constant("db", self.rng.normal(0, 0.3, 5), "bias")
                x = node("dense", "dense", [flat, weight, bias], clip=self.clip())
                return self.pick(x, node("argmax", "label", [x], axis=1, keepdims=False))
            case 3:
                anchors = self.pick(*(n for n in (1, 2, 3) if c % n == 0))
                places = node("reshape", "anchors", [x], shape=[-1, anchors, c // anchors, h * w])
                places = node("transpose", "turn", [places], perm=[0, 2, 3, 1])
                places = node("reshape", "places", [places], shape=[-1, c // anchors, h * w * anchors])
                return node("concat", "levels", [places, places], axis=2)
            case _:
                return x


def random_graph(rng: np.random.Generator, first: int = -1, n_blocks: int = 3) -> Graph:
    """A network of random pieces, one of them of the kind ``first``."""
    draft = Draft(rng)
    x = draft.b.input("image", (1, int(rng.integers(1, 5)), int(rng.integers(4, 9)), int(rng.integers(4, 9))))
    kinds = [first % BLOCKS if i == 1 and first >= 0 else int(rng.integers(BLOCKS)) for i in range(n_blocks)]
    for kind in kinds:
        x = draft.block(x, kind)
    return draft.b.build([draft.end(x)])


def random_plan(graph: Graph, images: NDArray[np.float32], rng: np.random.Generator) -> Plan:
    """Any widths; the inputs of tables and of softmax have few bits."""
    rounding = str(rng.choice(["half_even", "half_up"]))
    plan = fixed_point_plan(
        graph, images, rng, weight_bits=range(2, 17), activation_bits=ACTIVATION_BITS, rounding=rounding
    )
    forms = dict(plan.formats)
    for name in graph.constants:
        form = forms.get(name)
        if isinstance(form, Qmn) and rng.random() < 0.05:
            forms[name] = replace(form, bits=1, frac_bits=form.frac_bits - form.bits + 1)
    for node in graph.nodes:
        source, y = forms.get(node.inputs[0]), forms.get(node.output)
        if node.op in FUNCTIONS and isinstance(source, Qmn):
            limit = MAX_TABLE_BITS if rng.random() < 0.1 else 6
            forms[node.inputs[0]] = _narrowed(source, limit)
        if node.op == "softmax" and isinstance(source, Qmn) and isinstance(y, Qmn):
            forms[node.inputs[0]], forms[node.output] = _narrowed(source, 8), Qmn(8, 7, source.signed)
    return replace(plan, formats=forms)


def _narrowed(form: Qmn, bits: int) -> Qmn:
    lost = max(0, form.bits - bits)
    return replace(form, bits=form.bits - lost, frac_bits=form.frac_bits - lost)


def random_net(rng: np.random.Generator, n: int, *, streams: bool = True) -> Net:
    """Net number ``n``: its graph, plan, images of which one saturates, and C; of some the image comes row by row."""
    graph = random_graph(rng, n)
    shape = graph.tensors["image"].shape[1:]
    images = rng.normal(0, 1, (2, *shape)).astype(np.float32)
    plan = random_plan(graph, images, rng)
    images[1] *= 100
    scratch = int(rng.choice([64, 256, 2048]))
    first, *others = graph.consumers("image")
    streamed = first.op == "conv" and not others and bool(rng.random() < 0.4) and streams
    return Net(graph, plan, images, c_source.write(graph, plan, f"net{n}", scratch, streamed))


def differing(nets: Sequence[Net], flags: Sequence[str]) -> tuple[list[str], int]:
    """Compile networks in one program; returns where they differ from the reference, and how many codes there were."""
    child = Child(c_build.build([net.written for net in nets], flags))
    found, n_codes = [], 0
    try:
        for i, net in enumerate(nets):
            session = CSession(child, net.written.program, i)
            wanted = reference.run(net.graph, net.images, net.plan, keep="*")
            for name, codes in session.trace(net.images).items():
                n_codes += codes.size
                if not np.array_equal(codes, wanted[name]):
                    node = net.graph.producer(name)
                    assert node is not None
                    forms = [net.plan.formats.get(t) for t in (*node.inputs, name)]
                    found.append(f"net {i}, {node.op} '{name}', {dict(node.attributes)}, {forms}")
                    break
    finally:
        child.close()
    return found, n_codes
