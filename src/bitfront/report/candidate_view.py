"""What the page says of one candidate: its card, and what to do with its file."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from bitfront.record import Record
from bitfront.report import tables
from bitfront.report.data import ReportData

__all__ = ["card_view", "commands", "device_facts"]


def commands(data: ReportData, record: Record, *, inside: bool = False) -> list[tuple[str, str]]:
    """What to do with an artifact: title and a command to copy, quoted for a POSIX shell.

    Paths are from where the run was started, or, ``inside``, from the artifact's own folder.
    """
    path = data.file(record)
    if path is None:
        return []
    text = path.name if inside else path.as_posix()
    file = shlex.quote(text if not text.startswith("-") else f"./{text}")
    return [
        ("Run it on an image", f"bitfront predict {file} IMAGE"),
        ("Verify it", f"bitfront verify {file}"),
        ("Time it here", f"bitfront benchmark {file}"),
    ]


def card_view(data: ReportData, record: Record) -> dict[str, Any]:
    """What the card of a candidate says; commands for members of the front only."""
    return {
        "label": data.label(record),
        "status": record.status,
        "pick": data.pick(record),
        "reason": record.reason[:500],
        "facts": [(k, v) for k, v in _facts(record) if v and v != tables.NONE],
        "notes": [note[:500] for note in record.notes[:10]],
        "commands": commands(data, record) if record.status == "front" else [],
    }


def device_facts(r: Record) -> Iterable[tuple[str, str]]:
    """What a file takes on the run's device, where that is not this computer."""
    there = r.on_device
    if there is None:
        return
    on = f" on {there.device}"
    linked = f"; linked: {there.linked_bytes:,} bytes" if there.linked_bytes is not None else ""
    yield f"Flash{on}", f"{there.flash_bytes:,} bytes, program estimated{linked}"
    yield f"RAM{on}", f"{there.ram_bytes:,} bytes"
    if there.instructions is not None:
        counted = f", counted: {there.counted_instructions:,}" if there.counted_instructions is not None else ""
        yield f"Instructions of an image{on}", f"modelled: {there.instructions:,.0f}{counted}"
    if there.latency_ms is not None:
        yield f"Latency{on}", f"{tables.milliseconds(there.latency_ms)} ms, modelled"
    yield "How well that is known", there.residual
    if there.counted_with:
        yield "Counted with", there.counted_with


def _facts(r: Record) -> Iterable[tuple[str, str]]:
    for name, metrics in (("val", r.val), ("test", r.test)):
        if metrics is not None:
            band = tables.interval(metrics)
            yield (
                f"{tables.metric_name(metrics.score)}, {name}",
                f"{tables.percent(metrics.values.get(metrics.score))} %" + (f" ({band})" if band else ""),
            )
    if r.latency is not None:
        p90 = f", p90 {tables.milliseconds(r.latency.p90)} ms" if r.latency.p90 is not None else ""
        yield "Latency", f"{tables.milliseconds(r.latency.value)} ms{p90}"
        yield "Time to float", tables.ratio(r.latency)
    if r.artifact is not None:
        yield "Size", tables.size(r.artifact.size_bytes)
    if r.candidate.plan:
        yield "Flash", tables.size(r.flash_bytes)
    yield from device_facts(r)
    yield "Parameters", tables.count(r.parameters)
    yield "MACs", tables.count(r.macs)
    yield "RAM, activations", tables.size(r.peak_bytes)
    yield "RAM, process", tables.size(r.ram_bytes)
    if r.agreement is not None:
        yield "Verified", tables.verified(r).text
        same = f"{100 * r.agreement.readout_agreement:.3f} % of answers"
        yield "Same answer as reference", f"{same}, {r.agreement.n_images} images"
        yield "Checked on", r.agreement.cpu
    yield "Trained for", tables.duration(r.train_seconds) if r.train_seconds else ""
    yield "Knobs", ", ".join(f"{k} {v}" for k, v in r.candidate.knobs.items())
    if r.artifact is not None:
        yield "SHA-256", r.artifact.sha256
    yield "Id", r.id
