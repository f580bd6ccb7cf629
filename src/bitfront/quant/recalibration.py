"""The formats of a plan chosen anew for other weights: the same kinds and bits, other steps.

A plan that was made for a network as it once was has ranges that fit those weights. Where the network is trained in
float first and quantized late, what the plan says of every tensor are its bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitfront.errors import DataError
from bitfront.graph.ir import Graph
from bitfront.quant.formats import Affine, Binary, Format, Qmn
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import activation_format, moves_values, weight_scales
from bitfront.stats import qmn
from bitfront.stats.ranges import Range

__all__ = ["recalibrate"]


def recalibrate(plan: Plan, graph: Graph, ranges: Mapping[str, Range]) -> Plan:
    """Return the plan with steps that fit a prepared graph's weights and the values that its tensors take.

    Kinds, bits and signs stay, and so does one scale or one per channel. Ranges are chosen by the plan's own ``rule``;
    those of biases, and of weights with free scales, reach the largest value. Binary and float formats stay.

    Raises DataError when an activation with a format has no range.
    """
    formats = {name: _format(name, form, plan, graph, ranges) for name, form in plan.formats.items()}
    for name, scales in _layers(plan, graph, formats).items():
        form = plan.formats[name]
        assert isinstance(form, Affine)
        steps = scales if form.axis is not None else (max(scales),)
        formats[name] = Affine(form.bits, steps, (0,), form.signed, form.axis, form.narrow)
    for node in graph.nodes:
        if node.output in formats and moves_values(node) and _alike(plan, node.output, node.inputs[0]):
            formats[node.output] = formats[node.inputs[0]]
    return Plan(plan.recipe, formats, plan.options)


def _format(name: str, form: Format, plan: Plan, graph: Graph, ranges: Mapping[str, Range]) -> Format:
    rule = str(plan.options.get("rule", "mse"))
    kind = graph.tensors[name].kind
    values = graph.constants.get(name, ranges.get(name))
    if isinstance(form, Binary) or not isinstance(form, Affine | Qmn):
        return form
    if values is None:
        raise DataError(f"'{name}' was not seen in calibration", hint="give the data a train part")
    if isinstance(form, Qmn):
        return qmn.choose(values, form.bits, _qmn_rule(rule, kind), signed=form.signed)
    if isinstance(values, Range):
        return activation_format(values, "minmax" if kind == "input" else rule, form.signed, form.bits)
    if _shifts(form):
        return qmn.choose_per_channel(values, form.bits, _qmn_rule(rule, kind))
    return form


def _qmn_rule(rule: str, kind: str) -> str:
    return rule if rule in qmn.RULES and kind != "bias" else "max"


def _shifts(form: Affine) -> bool:
    """Whether every channel of a weight has a power of two."""
    return form.axis is not None and not form.narrow and bool((np.frexp(form.scale)[0] == 0.5).all())


def _layers(plan: Plan, graph: Graph, formats: Mapping[str, Format]) -> dict[str, tuple[float, ...]]:
    """Return the scales per channel of weights with free ones; layers that share a weight agree on the largest."""
    scales: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        form = plan.formats.get(node.inputs[1]) if node.op in ("conv", "dense") else None
        if not isinstance(form, Affine) or isinstance(form, Binary) or _shifts(form):
            continue
        if node.inputs[1] in graph.constants:
            source = formats.get(node.inputs[0])
            new = weight_scales(graph, node, source if isinstance(source, Affine) else None, form.bits)
            scales[node.inputs[1]] = np.maximum(scales.get(node.inputs[1], 0.0), new)
    return {name: tuple(float(s) for s in values) for name, values in scales.items()}


def _alike(plan: Plan, output: str, source: str) -> bool:
    return source in plan.formats and plan.formats[output] == plan.formats[source]
