"""What a plan costs on a device, from the bits alone: flash, RAM, instructions, cycles, milliseconds.

Flash and RAM are counted; instructions, cycles and milliseconds are *modelled* (:mod:`bitfront.quant.instructions`,
:data:`PROCESSORS` and :data:`NPU` say how well). All but the RAM are sums over tensors or nodes. One :class:`Costs` a
graph: it counts the graph once, then tells the costs of thousands of plans a second, one by one or as an array of
genomes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfront.errors import UsageError, unknown_name
from bitfront.graph.count import lifetimes
from bitfront.graph.ir import Graph, Node
from bitfront.quant import instructions
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import moves_values

__all__ = ["BOARDS", "NPU", "PROCESSORS", "Bits", "Costs", "Npu", "Processor", "bits_of"]

Bits = Mapping[str, int] | ArrayLike
"""Tensor name -> bits; or bits in the order of ``Costs.genes``, ``(genes,)`` or ``(n, genes)``."""
Values = NDArray[np.float64]
"""``()`` for one plan, ``(n,)`` for n genomes."""
Widths = NDArray[np.int64]

FLOAT = 32
WIDE_ACCUMULATOR = 2.0**31
"""Sums that reach this need int64 (``docs/numeric-contract.md``)."""
INDEX_BYTES, INTERPOLATION_BYTES = 2, 3
"""Of a resize table, per output row and column: the source index; and a 7-bit weight beside it."""
TABLE_OPERATORS = frozenset(
    ["sigmoid", "tanh", "exp", "sqrt", "silu", "hard_swish", "hard_sigmoid", "leaky_relu"],
)
"""Operators that are a table from code to code (``docs/numeric-contract.md``)."""
_SAME_BUFFER = frozenset(["reshape", "identity"])


@dataclass(frozen=True, slots=True)
class Npu:
    """How long a neural processor takes whose time goes into moving codes."""

    weight_ms: float
    """Per MB (1e6 bytes) of weights."""
    activation_ms: float
    """Per MB of layers' inputs and outputs."""
    macs_per_ms: float
    """Its multipliers at best."""
    source: str
    residual: str


NPU = Npu(
    2.63, 0.70, 45e6,
    source="fit to 13 int8 times of STM32N6 (Neural-ART) published in ST's model zoo 2.0.0, weights in external flash",
    residual="modelled; 13 published int8 times: mean error 2.2 %, leave-one-out 6.9 % at most; activations within "
    "4.2 MB of internal RAM; other widths than 8 bits are extrapolated",
)  # fmt: skip
"""STM32N6."""


@dataclass(frozen=True, slots=True)
class Processor:
    """How many cycles a processor takes per product; see ``residual`` for how well that is known."""

    dense: float
    """Per product of a 1x1 convolution or a dense layer."""
    conv: float
    """Per product of any other convolution."""
    depthwise: float
    unpack: float = 4.0
    """Per weight that is not of 8 or 16 bits, unpacked once a frame: load, shift, extend, store. Assumed."""
    wide: float = 3.9
    """Times longer where the sums need int64. Measured on Cortex-M4."""
    clock_hz: float = 1.0
    source: str = ""
    residual: str = ""


PROCESSORS: Mapping[str, Processor] = MappingProxyType(
    {
        "stm32h7": Processor(
            0.91, 0.91, 9.0, clock_hz=400e6,
            source="fit to int8 times of STM32H747 (Cortex-M7, 400 MHz) published in ST's model zoo, ST's own kernels",
            residual="modelled; published int8 times of ST's own kernels: mean error 4.6 %; other convolutions than "
            "1x1 and depthwise as 1x1; bitfront's C was not timed on it",
        ),
    }
)  # fmt: skip
"""Processor by name; cycles of one image."""


BOARDS: Mapping[str, Processor | Npu] = MappingProxyType({**PROCESSORS, "stm32n6": NPU})
"""Board -> what models its time."""


def bits_of(plan: Plan) -> dict[str, int]:
    """Return the bits of every tensor that a plan names."""
    return {name: form.bits for name, form in plan.formats.items()}


class Costs:
    """Costs of one prepared graph under any bits.

    Tensors without bits are float32 (32), biases int32; one that only moves codes (pools, slices, nearest resize, ...)
    has the bits of what it moves.

    - *Flash*: every row of an output channel packed at its bits, least significant bit first, and rounded up to a byte;
      biases and other constants packed as one row; a byte per output channel for its shift with ``per_channel``; the
      tables of functions (one entry a code of the input) and of resizing. Not the program.
    - *RAM*: activations at 1 byte up to 8 bits, 2 up to 16, else 4; a class index 1 byte (2 beyond 256 classes). The
      largest sum of those alive at one node, its inputs and its output included; ``reshape`` and ``identity`` share
      their input's buffer. This is what a planner of offsets can reach at best.
    """

    def __init__(self, graph: Graph, genes: Sequence[str] = (), *, per_channel: bool = False) -> None:
        """Count ``graph``; arrays of bits have the order of ``genes``. Raises UsageError for names it does not have."""
        unknown = next((name for name in genes if name not in graph.tensors), None)
        if unknown is not None:
            raise UsageError(f"the graph has no tensor '{unknown}'", hint="give the names of its tensors")
        self.genes = tuple(genes)
        self._names = tuple(graph.tensors)
        self._at = {name: i for i, name in enumerate(self._names)}
        self._moved = {n.output: n.inputs[0] for n in graph.nodes if moves_values(n)}
        self._columns = self._columns_of(self.genes)
        self._count_flash(graph, per_channel)
        self._count_ram(graph)
        self._count_products(graph)
        self._graph = graph
        self._priced: dict[tuple[str, str], NDArray[np.float64]] = {}

    # --- the costs ---------------------------------------------------------------------------------------------------
    def flash_bytes(self, bits: Bits) -> Values:
        """Return the bytes of weights, biases and tables: a sum over tensors, and over tables."""
        widths = self._widths(bits)
        total = (self._rows * -(-self._row_size * widths[..., self._stored] // 8)).sum(-1) + self._fixed_bytes
        source, result = widths[..., self._table_inputs], widths[..., self._table_outputs]
        entries = np.where((source < FLOAT) & (result < FLOAT), 1 << np.minimum(source, 16), 0)
        return np.asarray(total + (entries * _storage(result)).sum(-1), np.float64)

    def ram_bytes(self, bits: Bits) -> Values:
        """Return the bytes of the activations alive at once: a maximum over nodes, not a sum over tensors."""
        widths = self._widths(bits)
        live = (self._sizes * self._stored_bytes(widths)[..., self._activations]) @ self._alive
        if len(self._pairs):
            first, second = (self._stored_bytes(widths)[..., self._pairs[:, i]] for i in (0, 1))
            live = live - (np.where(first == second, first, 0) * self._pair_sizes) @ self._pair_alive
        return np.asarray(live.max(-1), np.float64)

    def cycles(self, bits: Bits, processor: str | Processor = "stm32h7") -> Values:
        """Return the modelled cycles of one image: a sum over layers, so that other operators count nothing.

        The width of the sums is judged for weights that fill their codes. Bits change little else on a processor:
        16-bit codes take as long as those of 8 bits. Raises UsageError for unknown names.
        """
        if isinstance(processor, str) and processor not in PROCESSORS:
            raise unknown_name("processor", processor, PROCESSORS)
        model = PROCESSORS[processor] if isinstance(processor, str) else processor
        widths = self._widths(bits)
        weight = widths[..., self._layer_weights]
        per_product = np.array([getattr(model, kind) for kind in self._layer_kinds])
        products = self._products * per_product * np.where(self._wide(widths), model.wide, 1.0)
        unpacked = self._weight_sizes * np.where(np.isin(weight, (8, 16, FLOAT)), 0.0, model.unpack)
        return np.asarray((products + unpacked).sum(-1), np.float64)

    def instructions(self, bits: Bits, core: str, *, rounding: str = "half_even") -> Values:
        """Return the modelled instructions of one image in fixed-point C: a sum over nodes.

        The width of the sums is judged as for :meth:`cycles`. Raises UsageError for unknown cores.
        """
        key = (core, rounding)
        if key not in self._priced:
            known = instructions.prices(core)
            self._priced[key] = instructions.table(self._graph, known, even=rounding == "half_even")
        priced, widths = self._priced[key], self._widths(bits)
        weights = np.zeros((*widths.shape[:-1], len(priced)), np.int64)
        weights[..., self._layer_nodes] = np.minimum(widths[..., self._layer_weights], 16)
        return np.asarray(priced[np.arange(len(priced)), self._ways(widths), weights].sum(-1), np.float64)

    def latency_ms(self, bits: Bits, board: str) -> Values:
        """Return the modelled milliseconds of one image on one of :data:`BOARDS`. Raises UsageError for others."""
        if board not in BOARDS:
            raise unknown_name("board", board, BOARDS)
        model = BOARDS[board]
        if isinstance(model, Npu):
            return self.npu_ms(bits)
        return np.asarray(self.cycles(bits, model) / model.clock_hz * 1e3, np.float64)

    def ways(self, bits: Bits) -> Mapping[str, str]:
        """Return how every node is computed under one plan: its output -> a name of ``instructions.WAYS``."""
        ways = self._ways(self._widths(bits)).tolist()
        return {n.output: instructions.WAYS[way] for n, way in zip(self._graph.nodes, ways, strict=True)}

    def npu_ms(self, bits: Bits) -> Values:
        """Return the modelled milliseconds of one image on an STM32N6; :data:`NPU` says how well.

        A sum over tensors, but at least what its multipliers take. Source: a fit to ST's published times.
        """
        widths = self._widths(bits)
        weights = (self._weight_sizes * widths[..., self._layer_weights]).sum(-1) / 8e6
        moved = (self._traffic * widths[..., self._activations]).sum(-1) / 8e6
        floor = self._products.sum() / NPU.macs_per_ms
        return np.asarray(np.maximum(NPU.weight_ms * weights + NPU.activation_ms * moved, floor), np.float64)

    def _wide(self, widths: Widths) -> NDArray[np.bool_]:
        """Return which layers' sums need int64."""
        weight, source = widths[..., self._layer_weights], widths[..., self._layer_inputs]
        return np.asarray(self._weight_sums * np.exp2(weight + source - 2.0) >= WIDE_ACCUMULATOR)

    def _ways(self, widths: Widths) -> NDArray[np.intp]:
        """Return how every node is computed, as an index into ``instructions.WAYS``."""
        found = np.where(widths[..., self._sources] <= 8, 0, 1)
        found[..., self._layer_nodes] += self._wide(widths) * (2 - found[..., self._layer_nodes])
        return found

    # --- bits of every tensor ----------------------------------------------------------------------------------------
    def _widths(self, bits: Bits) -> Widths:
        """Return the bits of every tensor, ``(..., tensors)``."""
        if isinstance(bits, Mapping):
            columns, given = self._columns_of(tuple(bits)), np.fromiter(bits.values(), np.int64, len(bits))
        else:
            columns, given = self._columns, np.asarray(bits, np.int64)
            if given.ndim == 0 or given.shape[-1] != len(self.genes):
                raise UsageError(f"bits of shape {given.shape} for {len(self.genes)} genes")
        return np.concatenate((given, np.full((*given.shape[:-1], 1), FLOAT)), axis=-1)[..., columns]

    def _columns_of(self, names: Sequence[str]) -> NDArray[np.intp]:
        """Return for every tensor which of ``names`` tells its bits; ``len(names)`` for none."""
        known = {name: i for i, name in enumerate(names)}
        for name in self._names:  # a moved tensor stands behind what it moves
            source = self._moved.get(name)
            if source is not None and name not in known and source in known:
                known[name] = known[source]
        return np.array([known.get(name, len(names)) for name in self._names], np.intp)

    def _stored_bytes(self, widths: Widths) -> Widths:
        return np.where(self._index_bytes > 0, self._index_bytes, _storage(widths))

    # --- counting the graph ------------------------------------------------------------------------------------------
    def _positions(self, names: Sequence[str]) -> NDArray[np.intp]:
        return np.array([self._at[name] for name in names], np.intp)

    def _count_flash(self, graph: Graph, per_channel: bool) -> None:
        layers = [n for n in graph.nodes if n.op in ("conv", "dense")]
        weights = {n.inputs[1] for n in layers} & set(graph.constants)
        read = dict.fromkeys(name for n in graph.nodes for name in n.inputs if name in graph.constants)
        rows = [graph.constants[name].shape[0] if name in weights else 1 for name in read]
        self._stored, self._rows = self._positions(list(read)), np.array(rows, np.int64)
        sizes = np.array([graph.constants[name].size for name in read], np.int64)
        self._row_size = sizes // np.maximum(self._rows, 1)
        tables = [n for n in graph.nodes if n.op in TABLE_OPERATORS]
        self._table_inputs = self._positions([n.inputs[0] for n in tables])
        self._table_outputs = self._positions([n.output for n in tables])
        self._fixed_bytes = sum(_resize_bytes(n) for n in graph.nodes if n.op == "resize")
        if per_channel:
            self._fixed_bytes += sum(graph.constants[name].shape[0] for name in weights)

    def _count_ram(self, graph: Graph) -> None:
        alive = lifetimes(graph)
        self._activations = self._positions(list(alive))
        self._sizes = np.array([math.prod(graph.tensors[name].shape) for name in alive], np.float64)
        self._alive = _intervals(list(alive.values()), len(graph.nodes))
        pairs = [(n.inputs[0], n.output) for n in graph.nodes if n.op in _SAME_BUFFER and n.inputs[0] in alive]
        self._pairs = np.array([[self._at[name] for name in pair] for pair in pairs], np.intp).reshape(-1, 2)
        self._pair_sizes = np.array([math.prod(graph.tensors[y].shape) for _, y in pairs], np.float64)
        both = [(max(alive[x][0], alive[y][0]), min(alive[x][1], alive[y][1])) for x, y in pairs]
        self._pair_alive = _intervals(both, len(graph.nodes))
        readers = [name for n in graph.nodes for name in (*n.inputs, n.output) if name in alive]
        counts = {name: readers.count(name) for name in alive}
        self._traffic = self._sizes * np.array([counts[name] for name in alive], np.float64)
        self._index_bytes = np.zeros(len(self._names), np.int64)
        for node in graph.nodes:
            if node.op == "argmax":
                n_classes = graph.tensors[node.inputs[0]].shape[node["axis"]]
                self._index_bytes[self._at[node.output]] = 1 if n_classes <= 256 else 2

    def _count_products(self, graph: Graph) -> None:
        layers = [n for n in graph.nodes if n.op in ("conv", "dense") and n.inputs[1] in graph.constants]
        weights = [graph.constants[n.inputs[1]] for n in layers]
        names = {n.output for n in layers}
        self._layer_nodes = np.array([i for i, n in enumerate(graph.nodes) if n.output in names], np.intp)
        self._layer_weights = self._positions([n.inputs[1] for n in layers])
        self._layer_inputs = self._positions([n.inputs[0] for n in layers])
        self._sources = self._positions([n.inputs[0] for n in graph.nodes])
        self._layer_kinds = [_kind(n, w.shape) for n, w in zip(layers, weights, strict=True)]
        self._weight_sizes = np.array([w.size for w in weights], np.float64)
        self._weight_sums = np.array([_relative_sum(w) for w in weights], np.float64)
        outputs = [graph.tensors[n.output].shape for n in layers]
        self._products = self._weight_sizes * [math.prod(shape) // shape[1] for shape in outputs]


def _storage(widths: Widths) -> Widths:
    """Bytes that hold one code in RAM."""
    return np.where(widths <= 8, 1, np.where(widths <= 16, 2, 4))


def _resize_bytes(node: Node) -> int:
    """Bytes of the tables of both axes."""
    return int(sum(node["size"])) * (INDEX_BYTES if node["mode"] == "nearest" else INTERPOLATION_BYTES)


def _intervals(spans: Sequence[tuple[int, int]], n_nodes: int) -> Values:
    """Return ``(tensors, nodes)``: 1 where a tensor is alive."""
    at = np.arange(max(n_nodes, 1))
    first, last = np.array(spans, np.int64).reshape(-1, 2).T[..., None]
    return np.asarray((first <= at) & (at <= last), np.float64)


def _kind(node: Node, shape: tuple[int, ...]) -> str:
    """Return the field of Processor that prices a layer."""
    if node.op == "conv" and node["groups"] > 1 and shape[1] == 1:
        return "depthwise"
    return "conv" if math.prod(shape[2:]) > 1 else "dense"


def _relative_sum(weight: NDArray[np.float32]) -> float:
    """Return the largest sum of magnitudes of an output channel, in units of the largest weight."""
    magnitudes = np.abs(weight.reshape(len(weight), -1).astype(np.float64))
    return float(magnitudes.sum(1).max() / (magnitudes.max() or 1.0))
