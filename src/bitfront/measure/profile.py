"""Where an artifact's time goes, operator by operator, and why one is slower than another.

Engines give the times (a runtime's ``profile``); what they mean is said here, for every engine in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["OperatorTime", "by_kind", "explain", "kind_of"]

KINDS: Mapping[str, tuple[str, ...]] = {
    "conversions between types": (
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "QUANTIZE", "DEQUANTIZE", "CAST",
        "Convert", "FakeQuantize",
    ),
    "changes of layout": ("ReorderInput", "ReorderOutput", "Transpose", "TRANSPOSE", "Reorder"),
    "convolutions": (
        "Conv", "QLinearConv", "FusedConv", "ConvInteger", "NhwcFusedConv", "CONV_2D", "DEPTHWISE_CONV_2D",
        "Convolution", "GroupConvolution",
    ),
    "dense layers": (
        "Gemm", "MatMul", "QGemm", "QLinearMatMul", "MatMulInteger", "FusedGemm", "FULLY_CONNECTED", "FullyConnected",
    ),
    "resizing": (
        "Resize", "Upsample", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "Interpolate",
    ),
    "pooling": (
        "AveragePool", "GlobalAveragePool", "MaxPool", "QLinearAveragePool", "QLinearGlobalAveragePool", "ReduceMean",
        "AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "Pooling", "Reduce",
    ),
    "additions": ("Add", "QLinearAdd", "Sum", "ADD", "Eltwise"),
}  # fmt: skip
"""Kind of work -> the operators that engines do it with."""
OTHER = "the rest"
NOTABLE = 0.05
"""Share of the slower file's time from which a kind of work is named."""


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """One operator of an opened artifact, as the engine runs it."""

    name: str
    """Of the engine's node."""
    op: str
    """The engine's word."""
    ms: float
    """Median over the runs."""
    dtype: str = ""
    """Of its first output, in numpy's words; empty where the engine does not say."""


def kind_of(op: str) -> str:
    """Return the kind of work that an engine's operator does."""
    return next((kind for kind, ops in KINDS.items() if op in ops), OTHER)


def by_kind(times: Iterable[OperatorTime]) -> dict[str, float]:
    """Return kind of work -> milliseconds, the longest first."""
    found: dict[str, float] = {}
    for t in times:
        found[kind_of(t.op)] = found.get(kind_of(t.op), 0.0) + t.ms
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def explain(own: Sequence[OperatorTime], base: Sequence[OperatorTime], name: str, base_name: str) -> str:
    """Say in one sentence where a file spends more time than another of the same network.

    Args:
        own: operators of the file that is to be explained.
        base: operators of the file it is compared with.
        name: what the first is called, e.g. ``int8``.
        base_name: what the second is called, e.g. ``float32``.
    """
    mine, theirs = by_kind(own), by_kind(base)
    total, base_total = sum(mine.values()), sum(theirs.values())
    if not total or not base_total:
        return f"{name}: the engine does not say where the time goes"
    word = "slower" if total > base_total else "faster"
    factor = max(total, base_total) / min(total, base_total)
    grown = sorted(((mine.get(k, 0.0) - theirs.get(k, 0.0), k) for k in {*mine, *theirs}), reverse=total > base_total)
    notable = [
        f"{k} {theirs.get(k, 0.0):.3g} -> {mine.get(k, 0.0):.3g} ms"
        for d, k in grown
        if (d > 0) == (total > base_total) and abs(d) >= NOTABLE * max(total, base_total)
    ]
    floats = [t for t in own if t.dtype.startswith("float") and kind_of(t.op) != "conversions between types"]
    times = f"{total:.3g} against {base_total:.3g} ms"
    text = f"{name} is {factor:.2f}x {word} than {base_name} by its operators ({times}): "
    text += "; ".join(notable) if notable else "no kind of work stands out"
    if floats and any(t.dtype in ("int8", "uint8", "int16") for t in own):
        ops = dict.fromkeys(t.op for t in sorted(floats, key=lambda t: -t.ms))
        many = f"{len(floats)} operators stay" if len(floats) > 1 else "one operator stays"
        text += f"; {many} float ({', '.join(list(ops)[:4])}; {sum(t.ms for t in floats):.3g} ms)"
    return text
