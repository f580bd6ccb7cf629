"""Verify an artifact: what its runtime computes on real images against the reference.

Three questions, each with a number: how far is the output from the reference's (in codes), how often is the final
answer the same, and which layer is the first that does not compute what the reference computes *from the same inputs*.
The third is asked layer by layer wherever the runtime can show its inner tensors: an output may agree by luck, or
differ only because one tie far above was rounded the other way.

Where an engine cannot be held to the bit (:mod:`bitfront.measure.exactness`: codes of float sums, sums of more than 24
bits in float32, ties under another rounding; a session's own ``looseness`` names what else its kernels round), the
reference takes over the runtime's codes, where they are within the tolerance, and goes on in integers. How many
differed, and by how much, is in ``Agreement.exceptions``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import InputContract, OutputContract, Runtime
from bitfront.errors import DataError, VerificationError
from bitfront.graph.ir import Graph, Node
from bitfront.measure.exactness import Loose, is_exact
from bitfront.measure.system import cpu
from bitfront.quant.formats import Float16, Format, integer
from bitfront.quant.plan import Plan
from bitfront.record import Agreement, digest_file
from bitfront.simulate import reference

__all__ = ["answer", "compare", "compare_float", "verify_file"]

N_TRACED = 2
"""Images on which every layer is compared."""
FLOAT_STEP = {"float32": 1e-4, "float16": 1e-2, "dynamic": 2e-2}
"""One "code" of an output without integer format, as a fraction of its range; less counts as none. Another
order of sums changes that much: a dynamic scale depends on them, and with it which way ties are rounded."""
MIN_READOUT = 0.95
"""Share of equal answers at which a file without reference passes."""
ROUNDING = {"half": (2.0**-9, 2.0**-11), "single": (1e-4, 1e-6)}
"""How far a layer in half or single precision may be off, as fractions of its largest output and its largest input."""
_LINEAR = ("resize", "identity", "reshape", "transpose", "slice", "average_pool", "pad")

Array = NDArray[Any]
Expected = Callable[[Graph, Plan, Node, Mapping[str, Array]], "tuple[Array, float] | None"]
"""Graph, plan, node and what its inputs hold -> what an engine is to compute where its kernels do not do what the
reference does, and by how much they may be off; ``None``: as the reference."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """What the output's differences are counted in: ``size`` times the range where ``relative``."""

    size: float
    words: str
    relative: bool = False


def compare(  # noqa: PLR0917
    runtime: Runtime,
    path: Path,
    graph: Graph,
    plan: Plan,
    contract: InputContract,
    output: OutputContract,
    images: NDArray[np.float32] | Iterable[NDArray[np.float32]],
    float_graph: Graph | None = None,
) -> Agreement:
    """Run the file at ``path`` and the reference on the same images and say how far they agree.

    Args:
        runtime: what opens the file; its ``tolerance_codes`` decides.
        path: the exported file.
        graph: what was exported.
        plan: the formats it was exported with.
        contract: how the file is fed: the size of the images.
        output: how its output is read.
        images: float32 ``(b, c, h, w)`` or batches of them, preprocessed as ``contract`` says.
        float_graph: the network before a float recipe rewrote it, to be the reference of plans without formats.

    Returns:
        The agreement. ``verified``: no traced layer differs, and no output by more than the tolerance.

    Raises:
        DataError: no images, images of another size, or a file that the runtime refuses.
    """
    if not plan.formats and float_graph is not None:
        graph = float_graph
    unit, counts, first = output_unit(graph, plan), _Counts(), None
    alone, session = _Counts(), runtime.open(path)
    loose = Loose(graph, plan, getattr(session, "looseness", None))
    if runtime.tolerance_codes == 0:
        loose.reasons.clear()  # it computes in integers alone: nothing may differ
    try:
        trace = getattr(session, "trace", None)
        rounds = trace is not None and bool(loose.reasons)
        expected = getattr(session, "expected", None)
        for n, image in enumerate(_single(images, contract)):
            traced = trace(image) if trace is not None and (rounds or n < N_TRACED) else {}
            if n < N_TRACED and traced and first is None:
                first = first_difference(graph, plan, image, traced, runtime.tolerance_codes, loose, expected)
            wanted = _follow(graph, plan, image, traced if rounds else {}, runtime.tolerance_codes, loose, expected)
            got = session.run(image)
            counts.add(reference.values(graph, plan, graph.outputs[0], wanted), got, unit, output)
            if rounds and n < N_TRACED:
                wanted = reference.run(graph, image, plan)[graph.outputs[0]]
                alone.add(reference.values(graph, plan, graph.outputs[0], wanted), got, unit, output)
    finally:
        session.close()
    depth = f"every layer on {min(counts.images, N_TRACED)} images" if trace is not None else "outputs only"
    if rounds:
        depth += "; where exceptions are stated, from the runtime's own codes"
    return replace(
        _agreement(runtime, counts, unit, f"bitfront reference, plan {plan.id[:12]}; {depth}"),
        verified=first is None and counts.largest <= end_tolerance(runtime),
        first_difference=first,
        exceptions=(*loose.lines(traced=rounds), *([alone.line()] if rounds else [])),
    )


def compare_float(  # noqa: PLR0917
    runtime: Runtime,
    path: Path,
    float_path: Path,
    contract: InputContract,
    output: OutputContract,
    images: NDArray[np.float32] | Iterable[NDArray[np.float32]],
) -> Agreement:
    """Compare a file that has no reference with the float file it was made from, in the same runtime.

    ``verified`` then only means that ``MIN_READOUT`` of the final answers are the same; ``reference`` says so.
    Arguments and errors are those of :func:`compare`.
    """
    unit = _Unit(FLOAT_STEP["float16"], f"{FLOAT_STEP['float16']:g} of the output's range", relative=True)
    counts = _Counts()
    first, second = runtime.open(float_path), runtime.open(path)
    try:
        for image in _single(images, contract):
            counts.add(first.run(image), second.run(image), unit, output)
    finally:
        first.close()
        second.close()
    agreement = _agreement(
        runtime, counts, unit, f"the float file {digest_file(float_path)[:12]}; no integer reference"
    )
    return replace(agreement, verified=agreement.readout_agreement >= MIN_READOUT)


def _agreement(runtime: Runtime, counts: _Counts, unit: _Unit, against: str) -> Agreement:
    """What the outputs say; not verified yet."""
    if not counts.images:
        raise DataError("there are no images to verify on", hint="give at least one image")
    model, flags = cpu()
    return Agreement(
        verified=False,
        max_code_difference=counts.largest,
        unit=unit.words,
        differing_fraction=counts.differing / counts.values,
        readout_agreement=counts.same / counts.answers,
        tolerance=end_tolerance(runtime),
        first_difference=None,
        n_images=counts.images,
        runtime=f"{runtime.name} {runtime.version()}",
        cpu=" ".join([model, *flags]),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        reference=against,
    )


def end_tolerance(runtime: Runtime) -> int:
    """How many codes a whole file may be off: more than a layer where an engine rounds less often than the plan."""
    return int(getattr(runtime, "end_tolerance_codes", runtime.tolerance_codes))


def verify_file(path: Path, sha256: str) -> None:
    """Check that a file still is what was measured. Raises VerificationError when it is gone or has changed."""
    try:
        found = digest_file(path)
    except OSError as error:
        raise VerificationError(f"cannot read '{path}': {error.strerror}", hint="export it again") from error
    if found != sha256.lower():
        raise VerificationError(
            f"'{path}' has changed: sha256 {found[:12]}..., recorded {sha256[:12]}...",
            hint="restore the file or export it again; its numbers are those of the recorded one",
        )


def answer(values: Array, output: OutputContract) -> Array:
    """Return the final answer of a raw output ``(b, ...)``: class indices, as the contract reads them."""
    if output.readout == "labels":
        return values.astype(np.int64)
    if output.readout == "threshold":
        return (values > output.threshold).astype(np.int64)
    answers: Array = np.argmax(values, axis=1 if output.layout == "nchw" else -1)
    return answers


# --- the output ------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Counts:
    """What adds up over the images."""

    images: int = 0
    largest: int = 0
    differing: int = 0
    values: int = 0
    same: int = 0
    answers: int = 0

    def add(self, wanted: Array, got: Array, unit: _Unit, output: OutputContract) -> None:
        """Count one image."""
        if wanted.shape != got.shape:
            raise DataError(f"the file gives {got.shape}, the reference {wanted.shape}", hint="export it again")
        reach = max(float(np.ptp(wanted)), _largest(wanted), 1e-30)  # a few scores of classes may all be alike
        size = unit.size * (reach if unit.relative else 1.0)
        steps = np.abs(got.astype(np.float64) - wanted) / size
        steps = np.where(np.isfinite(got) | ~np.isfinite(wanted), np.nan_to_num(steps), np.inf)
        steps = np.minimum(steps, 2.0**31)
        codes = np.floor(steps) if unit.relative else np.ceil(steps - 0.01)  # equal codes may decode an ulp apart
        self.images += len(wanted)
        self.largest = max(self.largest, int(codes.max(initial=0)))
        self.differing += int((codes > 0).sum())
        self.values += codes.size
        same = answer(wanted, output) == answer(got, output)
        self.same += int(same.sum())
        self.answers += same.size

    def line(self) -> str:
        """Say how far the ends are apart where the reference took nothing over."""
        by = f", by at most {self.largest}" if self.differing else ""
        same = f"{100 * self.same / self.answers:.4g} % of the answers are the same"
        return f"end to end on {self.images} images: {self.differing:,} of {self.values:,} outputs differ{by}; {same}"


def output_unit(graph: Graph, plan: Plan) -> _Unit:
    """The step of the output's format, or of the last format before it where only linear operators follow."""
    name = graph.outputs[0]
    node = graph.producer(name)
    if node is not None and node.op == "argmax":
        return _Unit(1.0, "class index")
    while (form := integer(plan.formats.get(name))) is None and node is not None and node.op in _LINEAR:
        name = node.inputs[0]
        node = graph.producer(name)
    if form is not None:
        where = "output" if name == graph.outputs[0] else f"tensor '{name}'"
        return _Unit(form.scale[0], f"one code of the {where} ({form.bits} bits, step {form.scale[0]:.6g})")
    kind = "dynamic" if plan.options.get("dynamic") else "float32"
    if any(isinstance(form, Float16) for form in plan.formats.values()):
        kind = "float16"
    return _Unit(FLOAT_STEP[kind], f"{FLOAT_STEP[kind]:g} of the output's range ({kind})", relative=True)


def _follow(  # noqa: PLR0917
    graph: Graph,
    plan: Plan,
    image: NDArray[np.float32],
    traced: Mapping[str, Array],
    tolerance: int,
    loose: Loose,
    expected: Expected | None = None,
) -> Array:
    """Return the reference's output; of layers that ``loose`` names it takes the codes of ``traced`` if near enough.

    With dynamic quantization the layers compute what ``expected`` says.
    """
    if not plan.options.get("dynamic"):
        expected = None
    if not traced and expected is None:
        return reference.run(graph, image, plan)[graph.outputs[0]]
    form = plan.formats.get(graph.inputs[0])
    held: dict[str, Array] = {graph.inputs[0]: image if form is None else _held(form.encode(image))}
    if integer(form) is not None and graph.inputs[0] in traced:
        got = _held(traced[graph.inputs[0]])
        if not _differs(held[graph.inputs[0]], got, _input_error(form, image, tolerance)):
            held[graph.inputs[0]] = got
    for node in graph.nodes:
        own = {name: held[name] for name in node.inputs if name in held}
        told = expected(graph, plan, node, own) if expected is not None else None
        codes = reference.step(graph, plan, node, own) if told is None else told[0]
        if node.output in loose.reasons and node.output in traced:
            got = _held(traced[node.output])
            loose.count(node.output, codes, got)
            if not _differs(codes, got, tolerance):
                codes = got
        held[node.output] = codes
    return held[graph.outputs[0]]


def _single(
    images: NDArray[np.float32] | Iterable[NDArray[np.float32]], contract: InputContract
) -> Iterator[NDArray[np.float32]]:
    """Yield images one by one, ``(1, c, h, w)``. Raises DataError for another size than the contract's."""
    wanted = (contract.channels, contract.height, contract.width)
    for batch in [images] if isinstance(images, np.ndarray) else images:
        if batch.ndim != 4 or batch.shape[1:] != wanted:
            raise DataError(f"images of shape {batch.shape} are not {wanted}", hint="preprocess as the contract says")
        yield from (batch[i : i + 1] for i in range(len(batch)))


# --- the layers ------------------------------------------------------------------------------------------------------
def first_difference(  # noqa: PLR0917
    graph: Graph,
    plan: Plan,
    image: NDArray[np.float32],
    traced: Mapping[str, Array],
    tolerance: int,
    loose: Loose | None = None,
    expected: Expected | None = None,
) -> str | None:
    """Return the first tensor, in execution order, that the runtime does not compute as the reference does.

    Every layer is computed again from the inputs that the runtime itself had, so a difference is named where it arises.
    What float32 computes exactly must agree to the bit; elsewhere, and where ``loose`` has a reason, ``tolerance``
    codes are allowed. ``expected`` may know better what the runtime's kernels are to compute.
    """
    reasons = loose.reasons if loose is not None else {}
    source = graph.inputs[0]
    form = plan.formats.get(source)
    fed = image if form is None else form.encode(image)
    held = {source: fed, **traced}
    if form is not None and _differs(fed, held[source], _input_error(form, fed, tolerance)):
        return source
    for node in graph.nodes:
        inputs = [name for name in node.inputs if name not in graph.constants]
        if node.output not in traced or any(name not in held for name in inputs):
            continue
        got = _held(held[node.output])
        own = {name: _held(held[name]) for name in inputs}
        told = expected(graph, plan, node, own) if expected is not None else None
        wanted, more = told if told is not None else (reference.step(graph, plan, node, own), 0.0)
        if integer(plan.formats.get(node.output)) is not None or wanted.dtype.kind == "i":
            exact = node.output not in reasons and is_exact(graph, plan, node)
            allowed = 0.0 if exact else float(tolerance)
        else:
            half = isinstance(plan.formats.get(node.output), Float16)
            share, input_share = ROUNDING["half" if half else "single"]
            largest = max(_largest(reference.values(graph, plan, name, codes)) for name, codes in own.items())
            allowed = share * _largest(wanted) + input_share * largest + more
        if _differs(wanted, got, allowed):
            return node.output
    return None


def _input_error(form: Format | None, fed: Array, tolerance: int) -> float:
    """How far an engine's own codes of the images may be off: at 16 bits one product or quotient may be a tie."""
    if isinstance(form, Float16):
        return _largest(fed) * 2.0**-11
    return float(tolerance) if form is not None and form.bits > 8 else 0.0


def _held(codes: Array) -> Array:
    """As the reference holds it: codes in int32."""
    return codes.astype(np.int32) if codes.dtype.itemsize <= 2 and codes.dtype.kind in "iu" else codes


def _largest(values: Array) -> float:
    return float(np.abs(values).max(initial=0))


def _differs(wanted: Array, got: Array, allowed: float) -> bool:
    if wanted.shape != got.shape:
        return True
    return not bool((np.abs(got.astype(np.float64) - wanted) <= allowed).all())
