"""The menu of a bit search: a network made ready for few bits, and for every tensor its format at every width.

Everything that does not depend on the bits that a search chooses is done once, here: equalization of the weights
(without the clips that bar it and hardly act), the split of every width into integer and fractional bits, the codes of
few bits that keep what a layer answers, the correction of the biases for every format of their weights.
A choice of bits then is a plan (:meth:`Menu.plan`) and, with the biases that belong to it, a graph
(:meth:`Menu.finished`). Tensors that an operator only moves (nearest resize, slices, ...) have the format of what was
moved, so that nothing is rounded twice.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitfront.errors import DataError, UsageError
from bitfront.graph.equalize import equalize
from bitfront.graph.ir import Graph, Node
from bitfront.quant.alignment import align
from bitfront.quant.clips import Clip, relax_clips
from bitfront.quant.correction import mean_shift
from bitfront.quant.formats import Format, Qmn
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import moves_values
from bitfront.quant.rounding import rounded_choices
from bitfront.stats.qmn import choose, choose_per_channel, tensors
from bitfront.stats.ranges import Observe, Range, Ranges, collect

__all__ = ["Dish", "Menu", "MenuOptions", "Variants", "build_menu"]

Variants = Mapping[tuple[str, Format], NDArray[np.float32]]
"""(weight or bias, format of its layer's weight) -> the values that it then has."""
N_RELAX = 8
"""Images on which clips are tried."""
FLOAT = 32
BIAS_BITS = 30
"""Without the sign, of 32: one is left for what bias correction adds."""
SMALLEST_BIAS = 2.0**-64


@dataclass(frozen=True, slots=True)
class MenuOptions:
    """How the formats of a menu are chosen."""

    weight_bits: tuple[int, ...] = (2, 3, 4, 6, 8, 16)
    activation_bits: tuple[int, ...] = (4, 6, 8, 16)
    """Empty: activations stay float32."""
    bias_bits: tuple[int, ...] = (6, 8, 10, 16)
    """Empty: biases have the step of their sums and 32 bits, or stay float32 without integer activations."""
    rule: str = "mse"
    """How the integer bits are chosen, see :func:`bitfront.stats.qmn.choose`."""
    equalized: bool = True
    """Balance the channels of neighbouring layers first, and put the best steps of weights at powers of two."""
    bias_correction: bool = True
    layer_rounding: bool = True
    """Choose codes of up to 6 bits so that layers answer as before (:mod:`bitfront.quant.rounding`)."""
    per_channel: bool = False
    """Give every output channel of a weight a shift of its own."""
    rounding: str = "half_even"
    """How results are rounded at run time: ``half_even`` or ``half_up``."""

    @property
    def aligned(self) -> bool:
        """Whether whole tensors are scaled until power-of-two steps fit (:mod:`bitfront.quant.alignment`)."""
        return self.equalized and self.rule == "mse" and not self.per_channel

    @staticmethod
    def thesis_000() -> MenuOptions:
        """Return the set-up of thesis 000, 4.4 and 5.4.2: formats that reach the maximum, nothing else."""
        return MenuOptions(
            (4, 8, 12, 16), (8, 16), (4, 8, 12, 16), "max", equalized=False, bias_correction=False, layer_rounding=False
        )


@dataclass(frozen=True, slots=True)
class Dish:
    """One tensor of the menu."""

    tensor: str
    kind: str
    """``weight``, ``bias`` or ``activation``."""
    size: int
    """Elements; of activations, of one image."""
    low: float
    high: float
    formats: Mapping[int, Format]
    """Bits -> format."""


@dataclass(frozen=True, eq=False)
class Menu:
    """What a search chooses from; see the module."""

    graph: Graph
    """Prepared and, where asked for, equalized; weights and biases as they are without rounding."""
    dishes: tuple[Dish, ...]
    """In execution order."""
    options: MenuOptions
    ranges: Ranges
    followers: Mapping[str, str] = field(default_factory=dict)
    """Tensor -> the tensor whose format it has."""
    variants: Variants = field(default_factory=dict)
    clips: tuple[Clip, ...] = ()
    """What became of the upper clips that bar equalization."""

    def plan(self, bits: Mapping[str, int], recipe: str = "searched") -> Plan:
        """Return the plan that gives tensors these bits; those that are not named, or have 32, stay float32.

        Raises UsageError for a width that is not on the menu.
        """
        formats: dict[str, Format] = {}
        for dish in self.dishes:
            n = bits.get(dish.tensor, FLOAT)
            if n != FLOAT:
                if n not in dish.formats:
                    raise UsageError(f"'{dish.tensor}' cannot have {n} bits", hint=f"it may have {list(dish.formats)}")
                formats[dish.tensor] = dish.formats[n]
        for tensor, leader in self.followers.items():
            if leader in formats:
                formats[tensor] = formats[leader]
        names = ("rounding", "rule", "equalized", "aligned")
        given = {name: getattr(self.options, name) for name in names}
        n_dropped = sum(clip.dropped for clip in self.clips)
        return Plan(recipe, formats, given | ({"dropped_clips": n_dropped} if n_dropped else {}))

    def finished(self, plan: Plan) -> Graph:
        """Return the graph to export under a plan of this menu: with the weights and biases that belong to it."""
        chosen: dict[str, NDArray[np.float32]] = {}
        for node in self.graph.nodes:
            form = plan.formats.get(node.inputs[1]) if len(node.inputs) == 3 else None
            if form is not None:
                chosen |= {name: self.variants[name, form] for name in node.inputs if (name, form) in self.variants}
        return self.graph.with_constants(chosen) if chosen else self.graph


def build_menu(
    graph: Graph,
    ranges: Ranges | None = None,
    batches: Iterable[NDArray[np.float32]] = (),
    options: MenuOptions | None = None,
    observe: Callable[[Graph], Observe] | None = None,
) -> Menu:
    """Return the menu of a prepared graph.

    Args:
        graph: a prepared graph (:func:`bitfront.graph.passes.prepare`).
        ranges: values that its tensors take; used where the graph is not equalized.
        batches: calibration images ``(b, c, h, w)``, read when ranges must be collected.
        options: see :class:`MenuOptions`.
        observe: graph -> function that returns the values of its tensors; the reference executor by default.

    Raises:
        DataError: nothing to calibrate on.
        UsageError: an unknown rule.
    """
    options, batches = options or MenuOptions(), list(batches)
    clips: tuple[Clip, ...] = ()
    if options.equalized:
        relaxed = relax_clips(graph, _first(batches, N_RELAX), observe=observe)
        graph, ranges, clips = equalize(relaxed.graph, relaxed.peaks), None, relaxed.clips
        graph = align(graph) if options.aligned else graph
    if ranges is None:
        ranges = collect(graph, batches, observe(graph) if observe else None)
    if not len(ranges):
        raise DataError("no images to calibrate on", hint="give the data a train part")
    followers = _followers(graph)
    variants: dict[tuple[str, Format], NDArray[np.float32]] = {}
    dishes = []
    for name, kind, values in tensors(graph, ranges):
        dish = _dish(name, kind, values, graph, options)
        if dish is not None and name not in followers:
            dishes.append(dish)
    dishes = _with_room(dishes, graph, followers)
    formats = {dish.tensor: tuple(dish.formats.values()) for dish in dishes if dish.kind == "weight"}
    if options.bias_correction:
        variants |= _corrected(graph, formats, ranges)
    if options.layer_rounding and batches:
        variants |= rounded_choices(graph, formats, batches)
    dishes = [_reaching(dish, graph, variants, options) if dish.kind == "bias" else dish for dish in dishes]
    return Menu(graph, tuple(dishes), options, ranges, followers, variants, clips)


def _first(batches: Sequence[NDArray[np.float32]], n: int) -> list[NDArray[np.float32]]:
    """Return the first batches that together have ``n`` images, or all."""
    sizes = np.cumsum([len(images) for images in batches])
    return list(batches[: int(np.searchsorted(sizes, n)) + 1])


def _dish(
    name: str, kind: str, values: NDArray[np.floating] | Range, graph: Graph, options: MenuOptions
) -> Dish | None:
    """Return a tensor's entry, ``None`` for one that always stays float32."""
    widths: Sequence[int]
    if kind in ("input", "activation"):
        widths = [b for b in options.activation_bits if kind == "activation" or b >= 8]
        widths = widths or sorted({8} if options.activation_bits else ())
        kind = "activation"
    else:
        widths = options.weight_bits if kind == "weight" else options.bias_bits
    if not widths:
        return None
    low, high = (values.low, values.high) if isinstance(values, Range) else (values.min(), values.max())
    formats: dict[int, Format] = {}
    for bits in widths:
        if kind == "weight" and options.per_channel and isinstance(values, np.ndarray) and values.ndim > 1:
            formats[bits] = choose_per_channel(values, bits, options.rule)
        else:
            rule = options.rule if kind != "bias" else "max"
            formats[bits] = choose(values, bits, rule, signed=None if kind == "activation" else True)
    return Dish(name, kind, int(np.prod(graph.tensors[name].shape)), float(low), float(high), formats)


def _followers(graph: Graph) -> dict[str, str]:
    """Return the tensors that hold nothing but values of another one, and that one."""
    found: dict[str, str] = {}
    for node in graph.nodes:
        if moves_values(node):
            found[node.output] = found.get(node.inputs[0], node.inputs[0])
    return found


def _with_room(dishes: Sequence[Dish], graph: Graph, followers: Mapping[str, str]) -> list[Dish]:
    """Return the dishes with steps of the weights at which biases fit 32 bits, whatever the input's width.

    A bias has the step of the products of input and weight. Equalized weights can be so small that at 16 bits beside
    16-bit inputs it would saturate; there the weights give up fractional bits that they cannot use.
    """
    finest = {
        dish.tensor: max(form.frac_bits for form in dish.formats.values() if isinstance(form, Qmn))
        for dish in dishes
        if dish.kind == "activation"
    }
    limits: dict[str, int] = {}
    for node in graph.nodes:
        source = followers.get(node.inputs[0], node.inputs[0])
        if node.op in ("conv", "dense") and source in finest and len(node.inputs) == 3:
            largest = float(np.abs(graph.constants.get(node.inputs[2], np.ones(1))).max()) or SMALLEST_BIAS
            limit = BIAS_BITS - math.ceil(math.log2(largest)) - finest[source]
            limits[node.inputs[1]] = min(limit, limits.get(node.inputs[1], limit))
    return [_coarser(dish, limits[dish.tensor]) if dish.tensor in limits else dish for dish in dishes]


def _coarser(dish: Dish, frac_bits: int) -> Dish:
    """Return a dish with at most so many fractional bits."""
    formats = {
        bits: dataclasses.replace(form, frac_bits=min(form.frac_bits, frac_bits)) if isinstance(form, Qmn) else form
        for bits, form in dish.formats.items()
    }
    return dataclasses.replace(dish, formats=formats)


def _corrected(
    graph: Graph, formats: Mapping[str, Sequence[Format]], ranges: Ranges
) -> dict[tuple[str, Format], NDArray[np.float32]]:
    """Return every bias as each format of its weight asks for; source as :mod:`bitfront.quant.correction`."""
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    found: dict[tuple[str, Format], NDArray[np.float32]] = {}
    for node in graph.nodes:
        if not _is_corrected(node, graph, uses, ranges):
            continue
        weight, bias = node.inputs[1:]
        for form in formats.get(weight, ()):
            shift = mean_shift(graph, Plan("", {weight: form}), node, ranges[node.inputs[0]].means)
            found[bias, form] = (graph.constants[bias] - shift).astype(np.float32)
    return found


def _is_corrected(node: Node, graph: Graph, uses: Counter[str], ranges: Ranges) -> bool:
    own = len(node.inputs) == 3 and uses[node.inputs[2]] == 1 and node.inputs[2] in graph.constants
    return node.op in ("conv", "dense") and own and node.inputs[0] in ranges


def _reaching(dish: Dish, graph: Graph, variants: Variants, options: MenuOptions) -> Dish:
    """Return a bias's entry with formats that hold all its corrected values."""
    values = [graph.constants[dish.tensor], *(v for (name, _), v in variants.items() if name == dish.tensor)]
    return _dish(dish.tensor, "bias", np.concatenate([v.ravel() for v in values]), graph, options) or dish
