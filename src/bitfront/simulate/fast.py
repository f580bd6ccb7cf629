"""Simulation for searches: the codes of :mod:`bitfront.simulate.reference`, bit for bit, in torch.

A :class:`Fast` holds a graph and the images that candidates are scored on. What many plans have in common is computed
once: quantized weights are kept by their formats, and the activations at a few cut points by all formats before them,
so that plans that begin alike (one-point crossover in execution order, one tensor changed) share the beginning.

Sums of whole numbers run in float32 while they are exact there, else in pieces or in float64
(:mod:`bitfront.simulate.torch_linear`). Values of tensors without a format agree with the reference to float rounding
only: their sums have no stated order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitfront.errors import DataError, UsageError
from bitfront.graph.count import count
from bitfront.graph.ir import Graph
from bitfront.quant.formats import Format, integer
from bitfront.quant.plan import Plan
from bitfront.simulate import torch_codes
from bitfront.simulate.cache import Cache
from bitfront.simulate.torch_steps import Steps, Variants

__all__ = ["Fast", "Hits"]

PREFIX_BYTES = 512 << 20
ELEMENT_COST, NODE_COST = 8, 50_000
"""Multiply-accumulates that take as long as writing one element, and as starting one operator."""


@dataclass(slots=True)
class Hits:
    """What the caches saved."""

    nodes_run: int = 0
    nodes_skipped: int = 0


class Fast:
    """Executes one graph on fixed images under changing plans."""

    def __init__(
        self,
        graph: Graph,
        images: NDArray[np.float32],
        template: Plan | None = None,
        *,
        batch_size: int = 8,
        n_cuts: int = 5,
        prefix_bytes: int = PREFIX_BYTES,
        device: str = "cpu",
        variants: Variants | None = None,
    ) -> None:
        """Make ready.

        Args:
            graph: a prepared graph.
            images: ``(n, c, h, w)`` float32, normalized.
            template: formats and options that :meth:`run` starts from when it is given changes only.
            batch_size: images that are executed together.
            n_cuts: places at which activations are kept for plans that begin alike; 0 for none.
            prefix_bytes: memory for those activations; the least recently used ones go first.
            device: ``cpu``, ``cuda`` or ``auto`` (CUDA when present).
            variants: (weight or bias, format of its layer's weight) -> the values that it then has, see
                :class:`bitfront.quant.menu.Menu`.

        Raises:
            DataError: the images do not fit the graph's input.
            UsageError: no CUDA device.
        """
        shape = graph.tensors[graph.inputs[0]].shape
        if images.ndim != len(shape) or images.shape[1:] != shape[1:] or not len(images):
            raise DataError(
                f"images of shape {images.shape} do not fit the network's input {('n', *shape[1:])}",
                hint="resize the images, or capture the network at their size",
            )
        self.graph, self.template = graph, template or Plan("float32")
        self.device = _device(device)
        self.n_images, self.batch_size = len(images), batch_size
        self.images = _on_device(np.asarray(images, np.float32), self.device)
        self.hits = Hits()
        self._last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
        self._cuts = _cut_points(graph, n_cuts)
        self._live = {cut: _live(graph, cut) for cut in (-1, *self._cuts)}
        self._made = {
            cut: frozenset([*graph.inputs, *(n.output for n in graph.nodes[: cut + 1])]) for cut in self._live
        }
        self._steps = Steps(graph, self.device, variants)
        self._prefixes: Cache[dict[str, Tensor]] = Cache(prefix_bytes)

    # --- asking ------------------------------------------------------------------------------------------------------
    def run(
        self,
        plan: Plan | Mapping[str, Format | None],
        subset: Sequence[int] | None = None,
        keep: Collection[str] = (),
    ) -> dict[str, NDArray[Any]]:
        """Return what ``reference.run`` returns for the outputs, and for the inner tensors in ``keep`` (``"*"``: all).

        ``plan`` is a whole plan, or changes to the template (``None``: float). ``subset`` are positions of images, each
        once. Raises UsageError for dynamic plans.
        """
        plan = self.plan(plan)
        wanted = self._wanted(keep)
        batches = [
            {name: torch_codes.codes(held[name], plan.formats.get(name)) for name in wanted}
            for _, held in self._held(plan, subset, wanted)
        ]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in wanted}

    def values(
        self, plan: Plan | Mapping[str, Format | None], subset: Sequence[int] | None = None
    ) -> Iterator[tuple[tuple[int, ...], dict[str, Tensor]]]:
        """Yield (positions of images, output name -> float32 values on the device), batch by batch, in order."""
        plan = self.plan(plan)
        for positions, held in self._held(plan, subset, frozenset(self.graph.outputs)):
            with torch.inference_mode():
                outputs = {name: torch_codes.decode(held[name], plan.formats.get(name)) for name in self.graph.outputs}
            yield positions, outputs

    def plan(self, changes: Plan | Mapping[str, Format | None]) -> Plan:
        """Return a whole plan: itself, or the template with some formats changed."""
        if isinstance(changes, Plan):
            return changes
        merged = {**self.template.formats, **changes}
        formats = {name: form for name, form in merged.items() if form is not None}
        return Plan(self.template.recipe, formats, self.template.options)

    def _wanted(self, keep: Collection[str]) -> frozenset[str]:
        everything = [*self.graph.inputs, *(n.output for n in self.graph.nodes)]
        return frozenset([*self.graph.outputs, *(everything if keep == "*" else keep)])

    # --- executing ---------------------------------------------------------------------------------------------------
    def _held(
        self, plan: Plan, subset: Sequence[int] | None, wanted: frozenset[str]
    ) -> Iterator[tuple[tuple[int, ...], dict[str, Tensor]]]:
        if plan.options.get("dynamic"):
            raise UsageError(
                "dynamic plans take their ranges from whole batches and cannot be simulated in parts",
                hint="use bitfront.simulate.reference",
            )
        steps, numbers = self._steps.of(plan)
        prefix: dict[int, Hashable] = {cut: (cut, tuple(numbers[: cut + 2])) for cut in (-1, *self._cuts)}
        for positions in self._batches(subset):
            with torch.inference_mode(), _exact(self.device):
                held = self._execute(plan, steps, prefix, positions, wanted)
            yield positions, held

    def _batches(self, subset: Sequence[int] | None) -> Iterator[tuple[int, ...]]:
        """Positions that run together: of a subset always the same, so that prefixes are found again."""
        chosen = tuple(range(self.n_images)) if subset is None else tuple(int(i) for i in subset)
        return (chosen[i : i + self.batch_size] for i in range(0, len(chosen), self.batch_size))

    def _execute(
        self,
        plan: Plan,
        steps: Sequence[torch_codes.Step],
        prefix: Mapping[int, Hashable],
        positions: tuple[int, ...],
        wanted: frozenset[str],
    ) -> dict[str, Tensor]:
        start, held = self._resume(prefix, positions, wanted)
        if held is None:
            name = self.graph.inputs[0]
            held = {name: torch_codes.encode(self._chosen(positions), plan.formats.get(name))}
            if name in plan.formats:
                self._store((prefix[-1], positions), -1, plan, held)
        self.hits.nodes_skipped += start
        for i in range(start, len(steps)):
            node = self.graph.nodes[i]
            inputs = [held[n] for n in node.inputs if n not in self.graph.constants]
            held[node.output] = steps[i](*inputs)
            for name in node.inputs:
                if self._last[name] == i and name not in wanted:
                    held.pop(name, None)
            if i in prefix:
                self._store((prefix[i], positions), i, plan, held)
        self.hits.nodes_run += len(steps) - start
        return held

    def _chosen(self, positions: tuple[int, ...]) -> Tensor:
        first, last = positions[0], positions[-1]
        if positions == tuple(range(first, last + 1)):
            return self.images[first : last + 1]
        return self.images[list(positions)].contiguous(memory_format=_memory_format(self.images))

    def _resume(
        self, prefix: Mapping[int, Hashable], positions: tuple[int, ...], wanted: frozenset[str]
    ) -> tuple[int, dict[str, Tensor] | None]:
        """Return where to begin, and what is alive there.

        Floats differ with the batch that they are computed in: only what the same images left is taken, so that results
        do not depend on what was asked before.
        """
        for cut in sorted(prefix, reverse=True):
            if (wanted & self._made[cut]) <= self._live[cut]:
                found = self._prefixes.get((prefix[cut], positions))
                if found is not None:
                    return cut + 1, {name: _restored(value) for name, value in found.items()}
        return 0, None

    def _store(self, key: Hashable, cut: int, plan: Plan, held: Mapping[str, Tensor]) -> None:
        if key not in self._prefixes:
            kept = {name: _packed(held[name], plan.formats.get(name)) for name in self._live[cut]}
            self._prefixes.put(key, kept, sum(t.nbytes for t in kept.values()))


# --- memory ----------------------------------------------------------------------------------------------------------
def _packed(held: Tensor, form: Format | None) -> Tensor:
    """Hold codes in the smallest type that has them all; other values as they are."""
    affine = integer(form)
    if affine is None or affine.axis is not None:
        return held
    low, high = affine.low - affine.zero_point[0], affine.high - affine.zero_point[0]
    for dtype in (torch.int8, torch.int16):
        limits = torch.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return held.to(dtype)
    return held


def _restored(held: Tensor) -> Tensor:
    return held.float() if held.dtype in (torch.int8, torch.int16) else held


# --- where to cut ----------------------------------------------------------------------------------------------------
def _live(graph: Graph, cut: int) -> frozenset[str]:
    """Tensors that the nodes behind ``cut``, or whoever asks for outputs, still need."""
    made = {*graph.inputs, *(n.output for n in graph.nodes[: cut + 1])}
    needed = {name for n in graph.nodes[cut + 1 :] for name in n.inputs} | set(graph.outputs)
    return frozenset(made & needed)


def _cut_points(graph: Graph, n: int) -> tuple[int, ...]:
    """Return about ``n`` nodes, spread evenly over the cost, behind which little is alive."""
    macs = {n.name: n.macs for n in count(graph).per_node}
    sizes = {name: int(np.prod(t.shape)) for name, t in graph.tensors.items()}
    costs = [NODE_COST + macs[node.name] + ELEMENT_COST * sizes[node.output] for node in graph.nodes]
    done = np.cumsum(costs) / max(1, sum(costs))
    chosen = set()
    for k in range(1, n + 1):
        near = np.flatnonzero(np.abs(done[:-1] - k / (n + 1)) <= 0.5 / (n + 1))
        if len(near):
            chosen.add(min(near.tolist(), key=lambda i: (sum(sizes[t] for t in _live(graph, i)), -i)))
    return tuple(sorted(chosen))


# --- devices ---------------------------------------------------------------------------------------------------------
def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is here", hint="use device cpu or auto")
    cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if cuda else "cpu")


def _memory_format(images: Tensor) -> torch.memory_format:
    return torch.channels_last if images.ndim == 4 else torch.contiguous_format


def _on_device(images: NDArray[np.float32], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return tensor.contiguous(memory_format=_memory_format(tensor))


@contextlib.contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Only algorithms whose sums of whole numbers are exact: no TF32, no transforms (Winograd, FFT)."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.backends.nnpack.flags(enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            allowed = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = False
            stack.callback(setattr, torch.backends.cuda.matmul, "allow_tf32", allowed)
        yield
