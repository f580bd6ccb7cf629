"""Graph -> torch module with the graph's own constants as parameters, and back.

What is trained is what is exported: the module computes the graph, under a plan with fake quantization in the places
where :mod:`bitfront.simulate.reference` rounds, and :meth:`GraphModule.graph` gives the graph with the trained
constants. Under fixed-point plans of at most 8-bit activations its outputs are the reference's, bit for bit, as long as
float32 holds the sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitfront.errors import UsageError
from bitfront.graph.ir import Graph, Node
from bitfront.graph.live_norm import LiveNorm, normalized_layers
from bitfront.graph.torch_operators import OPERATORS, convolve
from bitfront.quant.binary import mode_of
from bitfront.quant.fake import FakeQuantizer, round_through
from bitfront.quant.fake_binary import BinaryQuantizer
from bitfront.quant.formats import Binary, Format, integer
from bitfront.quant.plan import Plan
from bitfront.quant.plan_files import check
from bitfront.record import content_id
from bitfront.simulate import fixed_point, reference

__all__ = ["GraphModule"]


class _Group(nn.Module):  # type: ignore[misc]
    """What stands before a dot in the names of constants."""


class GraphModule(nn.Module):  # type: ignore[misc]
    """A graph as a module: ``forward(images)`` gives its output, or a tuple of them.

    Weights, biases and other constants that training changes are parameters under their names in the graph
    (``features.0.conv.weight``), the others are buffers. A list in ``watched`` is given the tensor of its name.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan | None = None,
        *,
        learn_ranges_after: int | None = None,
        freeze_ranges_after: int | None = None,
        freeze_norm_after: int | None = None,
    ) -> None:
        """Build it.

        Args:
            graph: any graph; with a plan one that is prepared (no ``batch_norm``).
            plan: formats to train under; ``None``: float.
            learn_ranges_after: training steps after which the steps of integer formats are trained too; ``None``:
                never.
            freeze_ranges_after: training steps after which they stay again; ``None``: never.
            freeze_norm_after: training steps in which batch normalization is live behind folded layers
                (:mod:`bitfront.graph.live_norm`; call :meth:`begin_norms` first); ``None``: it stays folded.

        Raises UsageError for a dynamic plan and for a plan that names tensors the graph does not have.
        """
        super().__init__()
        plan = plan or Plan("float32")
        if plan.options.get("dynamic"):
            raise UsageError("a dynamic plan has no ranges to train under", hint="calibrate a static plan")
        check(graph, plan)
        if mode_of(plan) is not None and freeze_norm_after is not None:
            raise UsageError("binary weights have no live batch normalization", hint="leave --live-norm out")
        self.source, self.source_plan = graph, plan
        self.rule = fixed_point.rounding_of(plan)
        self.learn_ranges_after, self.freeze_ranges_after = learn_ranges_after, freeze_ranges_after
        self.freeze_norm_after, self._begins = freeze_norm_after, False
        self.watched: dict[str, list[Tensor]] = {}
        self._leader = _tied(graph, plan)
        self.formats = nn.ModuleDict()
        for name in plan.formats:
            if self._leader[name] == name:
                self.formats[_key(name)] = _quantizer(graph, plan, name, learn_ranges_after is not None)
        self.norms = nn.ModuleDict()
        for node in normalized_layers(graph) if freeze_norm_after is not None else ():
            if not isinstance(plan.formats.get(node.inputs[1]), Binary):
                self.norms[_key(node.name)] = LiveNorm(graph.tensors[node.output].shape[1])
        shares = (freeze_ranges_after, freeze_norm_after)
        frozen = () if shares == (None, None) else shares
        described = content_id(graph.nodes, plan.formats, plan.options, learn_ranges_after, *frozen)
        self.register_buffer("described", torch.frombuffer(bytearray(described.encode()), dtype=torch.uint8))
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))
        self._places = {name: self._add(name, _trained(graph, name)) for name in graph.constants}

    def _add(self, name: str, trained: bool) -> tuple[nn.Module, str]:
        """Hold a constant under its dotted name; where that is taken by a group, under the name with a ``_``."""
        *groups, leaf = (part or "_" for part in name.split("."))
        module: nn.Module = self
        for group in groups:
            while hasattr(module, group) and not isinstance(getattr(module, group), _Group):
                group += "_"
            if not hasattr(module, group):
                module.add_module(group, _Group())
            module = getattr(module, group)
        while hasattr(module, leaf):
            leaf += "_"
        value = torch.from_numpy(np.array(self.source.constants[name], np.float32))
        if trained:
            module.register_parameter(leaf, nn.Parameter(value))
        else:
            module.register_buffer(leaf, value)
        return module, leaf

    # --- computing ---------------------------------------------------------------------------------------------------
    def forward(self, images: Tensor) -> Any:
        """Return the graph's output for images ``(b, c, h, w)``, float32; a tuple when it has several."""
        if self.training:
            self.n_steps += 1
            self._clamp_latent()
        if not self.source_plan.formats:
            return self._outputs(images)
        with torch.autocast(images.device.type, enabled=False):
            return self._outputs(images.float())

    def _clamp_latent(self) -> None:
        """Keep the latent weights of signs within [-1, 1]."""
        with torch.no_grad():
            for name in self._places:
                if isinstance(self.source_plan.formats.get(name), Binary):
                    self._parameter(name).clamp_(-1, 1)

    def _outputs(self, images: Tensor) -> Any:
        graph = self.source
        last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
        held = {graph.inputs[0]: self._quantized(graph.inputs[0], images)}
        for i, node in enumerate(graph.nodes):
            inputs = [self._constant(n, node) if n in graph.constants else held[n] for n in node.inputs]
            held[node.output] = self._node(node, inputs)
            if node.output in self.watched:
                self.watched[node.output][:] = [held[node.output]]
            for name in node.inputs:
                if last[name] == i and name not in graph.outputs:
                    held.pop(name, None)
        outputs = tuple(held[name] for name in graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _node(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        if reference.counts_signs(self.source_plan, node):
            return _counted(node, *inputs)
        if self._norm(node) is not None and (self._begins or self._normalizes()):
            return self._normalized(node, *inputs[:2])
        if self._format(node.output) is None:
            return OPERATORS[node.op](node, *inputs)
        if node.op in ("conv", "dense"):
            return self._quantized(node.output, convolve(node, *inputs), node, node["clip"])
        forms = [self.source_plan.formats.get(name) for name in (*node.inputs, node.output)]
        if node.op == "resize" and node["mode"] == "linear" and fixed_point.applies(node.op, forms):
            return self._quantized(node.output, _interpolated(node, inputs[0]), node)
        if node.op == "argmax":
            return OPERATORS[node.op](node, *inputs)
        return self._quantized(node.output, OPERATORS[node.op](node, *inputs), node)

    def _normalized(self, node: Node, x: Tensor, weight: Tensor) -> Tensor:
        """What a layer with live batch normalization answers."""
        norm, bias, answers = self._norm(node), self._parameter(node.inputs[2]), convolve(node, x, weight)
        assert norm is not None
        if self._begins:
            mean = norm.begin(answers)
            y = answers + bias.reshape(-1, 1, 1)
            bias += mean
        else:
            y = norm(answers, bias)
        if self._format(node.output) is None:
            return y if node["clip"] is None else y.clamp(*node["clip"])
        return self._quantized(node.output, y, node, node["clip"])

    def begin_norms(self, images: Tensor) -> None:
        """Give live batch normalization the statistics of images ``(b, c, h, w)``; what is computed stays the same."""
        self._begins = True
        with torch.no_grad():
            self._outputs(images)
        self._begins = False

    def keep_zeros(self) -> None:
        """Let weights that are zero now stay zero in training."""
        for tensor in self.source.named("weight"):
            weight = self._parameter(tensor.name)
            mask = (weight != 0).to(weight.dtype)
            weight.register_hook(lambda gradient, mask=mask: gradient * mask.to(gradient.device))

    def _normalizes(self) -> bool:
        """Whether layers are normalized by their batch in this step of the training."""
        return self.training and self.freeze_norm_after is not None and int(self.n_steps) <= self.freeze_norm_after

    def _norm(self, node: Node) -> LiveNorm | None:
        if _key(node.name) not in self.norms:
            return None
        found = self.norms[_key(node.name)]
        assert isinstance(found, LiveNorm)
        return found

    def _folded(self, name: str, node: Node) -> Tensor:
        """A constant, with the batch normalization behind its layer."""
        norm, value = self._norm(node), self._parameter(name)
        if norm is None or self._begins or name not in node.inputs[1:]:
            return value
        folded: Tensor = norm.weight(value) if name == node.inputs[1] else norm.bias(value)
        return folded

    def _constant(self, name: str, node: Node) -> Tensor:
        """A constant after its format; a bias at the scale of its accumulator."""
        value = self._folded(name, node)
        value = self._quantized(name, value)
        x, w = (self._format(n) for n in node.inputs[:2]) if len(node.inputs) == 3 else (None, None)
        y = self._format(node.output)
        linear = node.op in ("conv", "dense") and node.inputs[2:] == (name,)
        if (
            not linear
            or x is None
            or w is None
            or isinstance(w.form, Binary)
            or any(integer(f.form) is None for f in (x, w, y) if f)
        ):
            return value
        step = (x.step(learn=False) * w.step(learn=False)).detach().reshape(-1)
        return round_through(value / step) * step

    def _quantized(
        self, name: str, value: Tensor, node: Node | None = None, clip: Sequence[float] | None = None
    ) -> Tensor:
        quantizer = self._format(name)
        moved = node is not None and node.op != "pad" and reference.moves(self.source_plan, node)
        if quantizer is None or moved:
            return value
        fixed = node is not None and _is_fixed_point(self.source_plan, node)
        out: Tensor = quantizer(value, self._learns_ranges(), self.rule if fixed else "half_even", clip)
        return out

    def _learns_ranges(self) -> bool:
        """Whether the steps get gradients in this step of the training."""
        after, until = self.learn_ranges_after, self.freeze_ranges_after
        return after is not None and after < int(self.n_steps) <= (math.inf if until is None else until)

    def _format(self, name: str) -> FakeQuantizer | None:
        if name not in self._leader:
            return None
        found = self.formats[_key(self._leader[name])]
        assert isinstance(found, FakeQuantizer)
        return found

    def _parameter(self, name: str) -> Tensor:
        module, leaf = self._places[name]
        value: Tensor = getattr(module, leaf)
        return value

    # --- what was trained --------------------------------------------------------------------------------------------
    def graph(self) -> Graph:
        """Return the graph with the constants as they are now."""
        folded = {n: self._folded(n, node) for node in self.source.nodes if self._norm(node) for n in node.inputs[1:]}
        values = {
            name: folded.get(name, self._parameter(name))
            .detach()
            .cpu()
            .numpy()
            .astype(self.source.constants[name].dtype)
            for name in self._places
        }
        return self.source.with_constants(values)

    def plan(self) -> Plan:
        """Return the plan with the steps as they are now."""
        formats: dict[str, Format] = {}
        for name in self.source_plan.formats:
            quantizer = self._format(name)
            assert quantizer is not None
            if isinstance(quantizer, BinaryQuantizer):
                formats[name] = quantizer.format_of(self._parameter(name) if name in self._places else None)
            else:
                formats[name] = quantizer.format()
        return Plan(self.source_plan.recipe, formats, self.source_plan.options)


def _key(name: str) -> str:
    """Tensor names hold dots, which the names of submodules may not."""
    return name.replace(".", "/")


def _quantizer(graph: Graph, plan: Plan, name: str, learns: bool) -> FakeQuantizer:
    form, n_dims = plan.formats[name], len(graph.tensors[name].shape)
    mode = mode_of(plan)
    if isinstance(form, Binary):
        if mode is None:
            raise UsageError(f"the plan makes '{name}' binary, and does not say how it is trained")
        latent = torch.from_numpy(np.array(graph.constants[name])) if name in graph.constants else None
        return BinaryQuantizer(form, mode, latent, n_dims=n_dims)
    return FakeQuantizer(form, learned=learns and integer(form) is not None, n_dims=n_dims)


def _trained(graph: Graph, name: str) -> bool:
    return graph.tensors[name].kind != "buffer" and np.issubdtype(graph.constants[name].dtype, np.floating)


def _tied(graph: Graph, plan: Plan) -> dict[str, str]:
    """Tensor -> the tensor whose quantizer it uses: operators that move codes keep one format."""
    leader = {name: name for name in plan.formats}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for node in graph.nodes:
        if node.op != "argmax" and reference.moves(plan, node):
            for name in node.inputs:
                leader[find(node.output)] = find(name)
    return {name: find(name) for name in leader}


def _is_fixed_point(plan: Plan, node: Node) -> bool:
    if node.op in ("conv", "dense"):
        return reference.is_fixed_point(plan, node)
    return fixed_point.applies(node.op, [plan.formats.get(name) for name in (*node.inputs, node.output)])


def _counted(node: Node, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    """``conv`` or ``dense`` of signs by scaled signs: an exact sum, then scaled, then the bias, as the reference."""
    scale = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim)))
    sums = convolve(node, x, weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
    shape = (1, -1, *[1] * (sums.ndim - 2))
    out = sums * scale.reshape(shape)
    out = out + bias[0].reshape(shape) if bias else out
    return out if node["clip"] is None else out.clamp(*node["clip"])


def _interpolated(node: Node, x: Tensor) -> Tensor:
    """Linear resize with the 7-bit weights of the fixed-point contract."""
    rows, columns = (
        torch.from_numpy(fixed_point.interpolation_matrix(n_in, n_out, node["coordinates"])).to(x.device)
        for n_in, n_out in zip(x.shape[2:], node["size"], strict=True)
    )
    return rows @ (x @ columns.T)
