"""Rounding that knows the inputs: codes for few bits that keep what a layer answers, without training.

Rounding every weight to the nearest code is the best for the weight, not for the layer: the errors of weights whose
inputs go together can cancel. For a layer ``y = W x + b`` with inputs of covariance ``C`` the squared change of ``y``
is ``tr((Q - W) C (Q - W)^T)``. Codes are fixed one input after the other, and the weights that are not fixed yet make
up for the error so far: Frantar et al. 2023, "GPTQ", section 3, after Hassibi et al. 1993, "Optimal Brain Surgeon".
(Nagel et al. 2020, "Up or down?", minimize the same by gradient descent, thousands of steps a layer.)

:func:`round_weights` walks through the network and gives every layer the inputs ``x~`` that it gets from the rounded
layers before it, with the answers of the float network as the target: the least-squares weight is ``W D C~^-1`` with
``D`` the covariance of ``x`` and ``x~``, so that layers also make up for the errors before them. That depends on the
whole plan; :func:`rounded_choices` has one answer per tensor and format, for searches that try many.

Biases take up the difference of the means (:mod:`bitfront.quant.correction`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DataError
from bitfront.graph.ir import Graph, Node
from bitfront.quant.formats import Affine, Format, integer
from bitfront.quant.plan import Plan

__all__ = ["MAX_BITS", "round_weights", "rounded_choices"]

MAX_BITS = 6
"""Weights of more bits are rounded to the nearest: there is nothing to gain."""
N_POSITIONS = 64
"""Places of every map at which inputs are taken, per image."""
DAMPING = 0.03
"""Added to the covariance, in its mean variance: inputs that calibration has hardly seen keep their weights."""
MAX_INPUTS = 4096
"""Layers with more inputs to an output are rounded to the nearest: the covariance would take too much memory."""
SMALLEST = 1e-12
"""Damping of inputs that never change."""
BLOCK = 64
"""Inputs whose errors are passed on together."""

Floats = NDArray[np.float64]


def round_weights(
    graph: Graph, plan: Plan, batches: Iterable[NDArray[np.float32]], *, max_bits: int = MAX_BITS, seed: int = 0
) -> Graph:
    """Return ``graph`` with its weights of few bits on codes of their formats, and the biases that belong to them.

    Rounding the new weights to the nearest changes nothing, so ``plan`` holds for the new graph as it did for the old.

    Args:
        graph: a prepared graph.
        plan: formats; those of activations are applied on the way.
        batches: calibration images ``(b, c, h, w)``; 16 to 32 images are enough.
        max_bits: weights of more bits stay as they are.
        seed: of the positions at which inputs are sampled.

    Raises DataError without images.
    """
    images, rng = _images(batches), np.random.default_rng(seed)
    wanted = {node.inputs[1]: _few_bits(plan.formats.get(node.inputs[1]), max_bits) for node in _layers(graph)}
    floats, rounded = _Run(graph, images, Plan("float32")), _Run(graph, images, plan)
    changed: dict[str, NDArray[np.float32]] = {}
    for node in graph.nodes:
        form = wanted.get(node.inputs[1]) if node.op in ("conv", "dense") else None
        if form is not None:
            layer = _Layer.of(node, graph, _Moments.of(*_sampled(node, graph, (floats, rounded), rng)))
            changed |= dict(zip(node.inputs[1:], layer.rounded(form), strict=True))
        floats.step(node, graph.constants)
        rounded.step(node, {**graph.constants, **changed})
    return graph.with_constants(changed)


def rounded_choices(
    graph: Graph,
    formats: Mapping[str, Sequence[Format]],
    batches: Iterable[NDArray[np.float32]],
    *,
    max_bits: int = MAX_BITS,
    seed: int = 0,
) -> dict[tuple[str, Format], NDArray[np.float32]]:
    """Return the values of weights, and of the biases beside them, for every format that a weight may have.

    Every layer gets the inputs of the float network, so that what one layer answers does not depend on the others.

    Args:
        graph: a prepared graph.
        formats: weight -> formats; those of more than ``max_bits`` bits are left out.
        batches: calibration images ``(b, c, h, w)``.
        max_bits: the widest formats to work out.
        seed: of the positions at which inputs are sampled.

    Returns:
        (weight, its format) -> values on its codes; (bias, format of its layer's weight) -> values.

    Raises DataError without images.
    """
    run, rng = _Run(graph, _images(batches), Plan("float32")), np.random.default_rng(seed)
    layers = {node.name for node in _layers(graph)}
    found: dict[tuple[str, Format], NDArray[np.float32]] = {}
    for node in graph.nodes:
        forms = formats.get(node.inputs[1], ()) if node.name in layers else ()
        few = [(form, affine) for form in forms if (affine := _few_bits(form, max_bits)) is not None]
        if few:
            layer = _Layer.of(node, graph, _Moments.of(*_sampled(node, graph, (run, run), rng)))
            for form, affine in few:
                for name, values in zip(node.inputs[1:], layer.rounded(affine), strict=True):
                    found[name, form] = values
        run.step(node, graph.constants)
    return found


def _layers(graph: Graph) -> list[Node]:
    """Return the layers with a weight and a bias of their own and not too many inputs."""
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    return [
        node
        for node in graph.nodes
        if node.op in ("conv", "dense")
        and len(node.inputs) == 3
        and all(name in graph.constants and uses[name] == 1 for name in node.inputs[1:])
        and math.prod(graph.tensors[node.inputs[1]].shape[1:]) <= MAX_INPUTS
    ]


def _few_bits(form: Format | None, max_bits: int) -> Affine | None:
    affine = integer(form)
    return affine if affine is not None and affine.bits <= max_bits and not any(affine.zero_point) else None


# --- what layers get -------------------------------------------------------------------------------------------------
def _images(batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    found = list(batches)
    if not found:
        raise DataError("no images to calibrate on", hint="give the data a train part")
    return np.concatenate(found)


class _Run:
    """The values of a graph's tensors, node by node, in torch; rounded where a plan says so."""

    def __init__(self, graph: Graph, images: NDArray[np.float32], plan: Plan) -> None:
        import torch

        self.plan = plan
        self._last = {name: node.name for node in graph.nodes for name in node.inputs}
        self.values: dict[str, Any] = {graph.inputs[0]: self._held(graph.inputs[0], torch.from_numpy(images))}

    def step(self, node: Node, constants: Mapping[str, NDArray[Any]]) -> None:
        """Compute a node's output, and forget what nothing reads any more."""
        import torch

        from bitfront.graph.torch_operators import OPERATORS

        with torch.inference_mode():
            inputs = [
                self._held(name, torch.from_numpy(np.array(constants[name], np.float32)))
                if name in constants
                else self.values[name]
                for name in node.inputs
            ]
            self.values[node.output] = self._held(node.output, OPERATORS[node.op](node, *inputs))
        for name in node.inputs:
            if self._last[name] == node.name:
                self.values.pop(name, None)

    def _held(self, name: str, value: Any) -> Any:
        from bitfront.simulate.torch_codes import decode, encode

        form = self.plan.formats.get(name)
        return value if form is None else decode(encode(value, form), form)


def _sampled(node: Node, graph: Graph, runs: Sequence[_Run], rng: np.random.Generator) -> list[Floats]:
    """Return what a layer reads in each run at some positions of every image: (groups, samples, inputs)."""
    maps = [run.values[node.inputs[0]].numpy() for run in runs]
    if node.op == "dense":
        return [x[None].astype(np.float64) for x in maps]
    kernel, size = graph.tensors[node.inputs[1]].shape[2:], graph.tensors[node.output].shape[2:]
    n = math.prod(size)
    chosen = rng.permutation(n)[:N_POSITIONS]
    offsets = np.stack(np.meshgrid(*(np.arange(k) for k in kernel), indexing="ij")).reshape(2, -1)
    rows, columns = (
        position[:, None] * stride + offset * dilation - pad
        for position, stride, offset, dilation, pad in zip(
            np.unravel_index(chosen, size), node["strides"], offsets, node["dilations"], node["pads"][:2], strict=True
        )
    )
    return [_patches(x, rows, columns, node["groups"]) for x in maps]


def _patches(x: NDArray[np.float32], rows: Any, columns: Any, groups: int) -> Floats:
    """Return the windows of maps (b, c, h, w) at the pixels (positions, kernel): (groups, samples, inputs)."""
    b, c, h, w = x.shape
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    picked = x[:, :, rows.clip(0, h - 1), columns.clip(0, w - 1)] * inside  # (b, c, positions, kernel)
    windows = picked.reshape(b, groups, c // groups, *rows.shape).transpose(1, 0, 3, 2, 4)
    samples: Floats = windows.reshape(groups, b * rows.shape[0], -1).astype(np.float64)
    return samples


@dataclass(frozen=True, slots=True, eq=False)
class _Moments:
    """Means and covariances of what a layer reads: ``(groups, inputs)`` and ``(groups, inputs, inputs)``."""

    mean: Floats
    """Of the float network."""
    rounded_mean: Floats
    covariance: Floats
    """Of the rounded network."""
    cross: Floats
    """Float (first) with rounded (second)."""

    @classmethod
    def of(cls, floats: Floats, rounded: Floats) -> _Moments:
        """Return the moments of samples ``(groups, samples, inputs)``."""
        mean, rounded_mean = floats.mean(1), rounded.mean(1)
        centred = rounded - rounded_mean[:, None]
        n = floats.shape[1]
        covariance = centred.transpose(0, 2, 1) @ centred / n
        cross = covariance if floats is rounded else (floats - mean[:, None]).transpose(0, 2, 1) @ centred / n
        return cls(mean, rounded_mean, covariance, cross)


# --- one layer -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """One layer and what all formats of its weight have in common."""

    shape: tuple[int, ...]
    bias: Floats
    """Answer of the float layer to the mean of its inputs."""
    best: Floats
    """(groups, outputs, inputs): the best weights without rounding."""
    factor: Floats
    """(groups, inputs, inputs): upper Cholesky factor of the inverse covariance."""
    rounded_mean: Floats

    @classmethod
    def of(cls, node: Node, graph: Graph, moments: _Moments) -> _Layer:
        n_groups, n_inputs = moments.mean.shape
        shape = graph.tensors[node.inputs[1]].shape
        weight = graph.constants[node.inputs[1]].astype(np.float64).reshape(n_groups, -1, n_inputs)
        variance = np.diagonal(moments.covariance, axis1=1, axis2=2).mean(1)
        damping = np.maximum(DAMPING * variance, SMALLEST)[:, None, None] * np.eye(n_inputs)
        inverse = np.linalg.inv(moments.covariance + damping)
        best = weight @ (moments.cross + damping) @ inverse
        factor = np.linalg.cholesky(inverse).transpose(0, 2, 1)
        bias = graph.constants[node.inputs[2]] + _answers(weight, moments.mean)
        return cls(shape, bias, best, factor, moments.rounded_mean)

    def rounded(self, form: Affine) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the weight, on codes of ``form``, and the bias."""
        scale = np.broadcast_to(np.asarray(form.scale, np.float64), self.shape[0])
        step = scale.reshape(*self.best.shape[:2], 1)
        codes = self._codes(self.best / step, form.low, form.high)
        bias = self.bias - _answers(codes * step, self.rounded_mean)
        return form.decode(codes.astype(np.int64).reshape(self.shape)), bias.astype(np.float32)

    def _codes(self, rest: Floats, low: int, high: int) -> Floats:
        """Return codes for weights in steps; ``rest`` is used up."""
        factor, n = self.factor, rest.shape[2]
        codes: Floats = np.empty_like(rest)
        for first in range(0, n, BLOCK):
            block = slice(first, min(first + BLOCK, n))
            errors = []
            for i in range(block.start, block.stop):
                codes[..., i] = np.clip(np.rint(rest[..., i]), low, high)
                errors.append((rest[..., i] - codes[..., i]) / factor[:, i, i, None])
                rest[..., i : block.stop] -= errors[-1][..., None] * factor[:, None, i, i : block.stop]
            rest[..., block.stop :] -= np.stack(errors, -1) @ factor[:, block, block.stop :]
        return codes


def _answers(weight: Floats, mean: Floats) -> Floats:
    """Return what weights (groups, outputs, inputs) make of inputs (groups, inputs): one number per output channel."""
    answers: Floats = np.einsum("goi,gi->go", weight, mean).ravel()
    return answers
