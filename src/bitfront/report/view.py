"""What the page says, as plain data: sentences, tiles, facts, commands. The template only lays it out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bitfront.contracts import Metrics
from bitfront.record import Agreement, Record, to_json
from bitfront.report import tables
from bitfront.report.axes import AXES, available
from bitfront.report.candidate_view import card_view, commands
from bitfront.report.data import ReportData, latency_ms, shown_metrics
from bitfront.report.health import health_view
from bitfront.report.outline import outline
from bitfront.report.pictures import preview_views
from bitfront.report.search_view import MAX_SEARCHES, search_charts, search_views
from bitfront.report.series import (
    Check,
    Gain,
    Verdict,
    gains,
    histogram,
    judge,
    plane,
    progress,
)
from bitfront.report.stage_view import stage_chart, stage_views
from bitfront.report.suite_view import suite_view

__all__ = ["MAX_CANDIDATES", "page_view", "visible"]

MAX_CANDIDATES = 1500
"""More candidates than this do not get a dot and a card: the front's first, then the latest."""
MAX_EVENTS = 200


def page_view(data: ReportData) -> dict[str, Any]:
    """Everything that the template of one run's page reads; strings, numbers, lists and mappings only."""
    verdict = judge(data)
    front = tables.front(data)
    lost = tables.losses(data.records)
    view = {
        "name": data.name,
        "summary": _summary(data),
        "verdict": _verdict(data, verdict),
        "axes": [AXES[axis] for axis in available(data.records)],
        "front": {**tables.plain(front), "commands": [next((c for _, c in commands(data, r)), "") for r in data.front]},
        "all": tables.plain(tables.candidates(data, MAX_CANDIDATES)),
        "n_left_out": max(0, len(data.records) - MAX_CANDIDATES),
        "classes": _optional(tables.classes(data)),
        "definitions": _definitions(data),
        "previews": preview_views(data.previews),
        "recipes": tables.plain(tables.recipes(data)),
        "suite": suite_view(data),
        "stages": stage_views(data.stages, data.metric),
        "searches": search_views(data.searches, data.names, data.metric),
        "n_searches_left_out": max(0, len(data.searches) - MAX_SEARCHES),
        "gains": [_gain(g) for g in gains(data)],
        "noise": _noise(data),
        "losses": tables.plain(lost),
        "health": health_view(data.health),
        "environment": outline(data.environment),
        "command": data.command,
        "config_text": data.config_text,
        "events": [{k: str(v) for k, v in e.items()} for e in data.events[-MAX_EVENTS:]],
        "charts": _charts(data, verdict),
    }
    plain: dict[str, Any] = visible(to_json(view))
    return plain


def visible(value: Any) -> Any:
    """Replace control, bidirectional and other unprintable characters of all strings by their escapes."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in value)
    if isinstance(value, Mapping):
        return {visible(k): visible(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [visible(v) for v in value]
    return value


# --- head ------------------------------------------------------------------------------------------------------------
def _summary(data: ReportData) -> list[tuple[str, str]]:
    model = data.config.get("model") or next((r.candidate.model for r in data.records), "")
    system = data.environment
    facts = [
        ("Model", str(model)),
        ("Data", str(data.config.get("data", ""))),
        ("Device", str(data.config.get("device", "") or "")),
        ("Processor", str(system.get("cpu_model") or system.get("cpu") or "")),
        ("Started", _time(data.when)),
        ("Took", tables.duration(data.seconds) if data.seconds else ""),
        ("Evaluations", str(len(data.records))),
    ]
    return [(k, v) for k, v in facts if v]


def _verdict(data: ReportData, verdict: Verdict) -> dict[str, Any]:
    base, record = data.record(data.baseline), verdict.record
    badge = {
        "met": "Budget met",
        "missed": "Budget not met",
        "unlimited": "No budget set",
        "empty": "No verified artifact",
    }[verdict.kind]
    shown: dict[str, Any] = {"kind": verdict.kind, "badge": badge, "limits": [], "tiles": [], "id": ""}
    if record is None:
        n_lost = sum(r.status in ("dropped", "failed") for r in data.records)
        tried = f"{len(data.records)} candidates were tried, {n_lost} dropped or failed" if data.records else ""
        sentence = f"{tried}; the reasons are listed under Search." if tried else "Nothing has been evaluated yet."
        return {**shown, "headline": "The front is empty", "sentence": sentence}
    role = "Nearest miss" if verdict.kind == "missed" else "Chosen"
    pick = f" ({data.pick(record)})" if data.pick(record) else ""
    return {
        **shown,
        "id": record.id,
        "headline": _headline(record, base),
        "sentence": f"{role}: {data.label(record)}{pick}",
        "limits": [_limit(c) for c in verdict.checks],
        "tiles": _tiles(record, base if base is not record else None, has_plans=data.has_plans),
    }


def _headline(record: Record, base: Record | None) -> str:
    if base is None or base is record:
        ms, file = latency_ms(record), record.artifact
        cost = f"{tables.milliseconds(ms)} ms" if ms is not None else tables.size(file.size_bytes if file else None)
        return f"{tables.percent(_value(shown_metrics(record)))} % at {cost}"
    said = [_faster(record, base), _smaller(record, base), _closer(record, base)]
    return ", ".join(s for s in said if s) or record.candidate.label


def _faster(record: Record, base: Record) -> str:
    ms, before = latency_ms(record), latency_ms(base)
    if not ms or not before:
        return ""
    if abs(ms / before - 1) <= _noise_of(record):
        return "as fast as float"
    return f"{before / ms:.1f}× faster" if ms < before else f"{ms / before:.1f}× slower"


def _smaller(record: Record, base: Record) -> str:
    if record.artifact is None or base.artifact is None:
        return ""
    times = base.artifact.size_bytes / max(1, record.artifact.size_bytes)
    if 0.95 < times < 1.05:
        return "same size"
    return f"{times:.1f}× smaller" if times > 1 else f"{1 / times:.1f}× larger"


def _closer(record: Record, base: Record) -> str:
    value, before, _ = _pair(record, base)
    if value is None or before is None:
        return ""
    change = value - before
    if abs(change) < 5e-5:
        return "same score as float"
    return f"{abs(100 * change):.2f} points {'above' if change > 0 else 'below'} float"


def _pair(record: Record, base: Record | None) -> tuple[float | None, float | None, str]:
    """Scores of two records on one part, and its name: never a test score beside a val score."""
    if base is not None and record.test is not None and base.test is not None:
        return _value(record.test), _value(base.test), "test"
    if base is None and record.test is not None:
        return _value(record.test), None, "test"
    return _value(record.val or record.test), _value(base.val if base else None), "val" if record.val else "test"


def _value(metrics: Metrics | None) -> float | None:
    return None if metrics is None else metrics.values.get(metrics.score)


def _noise_of(record: Record) -> float:
    return (record.latency.noise_floor or 0.0) if record.latency else 0.0


def _limit(check: Check) -> dict[str, Any]:
    if check.name == "score":
        text = f"{tables.percent(check.value)} %, at least {tables.percent(check.limit)} %"
    elif check.name in ("size", "flash", "RAM"):
        text = f"{tables.size(check.value)} of {tables.size(check.limit)}"
    else:
        text = f"{tables.milliseconds(check.value)} ms of {check.limit:g} ms"
    if check.met:
        missed = ""
    elif check.name == "score" and check.value is not None:
        missed = f"{100 * (check.limit - check.value):.2f} points short"
    else:
        missed = "not measured" if math.isinf(check.excess) else f"{100 * check.excess:.0f} % over"
    name = "val score" if check.name == "score" else check.name
    return {"name": name, "text": text, "met": check.met, "missed": missed}


def _tiles(record: Record, base: Record | None, *, has_plans: bool) -> list[dict[str, str]]:
    """Return what is known of a record, each number with its unit and that of ``base``."""
    value, before, part = _pair(record, base)
    metrics = record.test if part == "test" else record.val
    metric = tables.metric_name(metrics.score if metrics is not None else "score")
    band = tables.interval(metrics)
    images = f"{metrics.n} images" if metrics is not None and metrics.n else ""
    latency, agreement = record.latency, record.agreement
    where = f"{latency.device}, {latency.threads} thread{'s' * (latency.threads > 1)}" if latency else ""
    p90 = f"p90 {tables.milliseconds(latency.p90)} ms" if latency and latency.p90 is not None else ""
    tiles = [
        {
            "name": f"{metric}, {part}",
            "value": f"{tables.percent(value)} %",
            "before": f"{tables.percent(before)} %" if before is not None else "",
            "detail": _join(f"95 %: {band}" if band else "", images),
        },
        {
            "name": "Latency, p50",
            "value": f"{tables.milliseconds(latency_ms(record))} ms",
            "before": f"{tables.milliseconds(latency_ms(base))} ms" if base and base.latency else "",
            "detail": _join(p90, where),
        },
        *_device_tiles(record),
        {
            "name": "Flash",
            "value": tables.size(record.flash_bytes if has_plans and not record.on_device else None),
            "before": tables.size(base.flash_bytes) if base and base.flash_bytes else "",
            "detail": "weights, biases and tables, packed at the bits of the plan",
        },
        {
            "name": "File size",
            "value": tables.size(record.artifact.size_bytes if record.artifact and not record.on_device else None),
            "before": tables.size(base.artifact.size_bytes) if base and base.artifact else "",
            "detail": _join(record.candidate.runtime, record.candidate.recipe),
        },
        {
            "name": "RAM",
            "value": tables.size(None if record.on_device else record.ram_bytes),
            "before": tables.size(base.ram_bytes) if base and base.ram_bytes else "",
            "detail": f"peak added to a process; live activations {tables.size(record.peak_bytes)}",
        },
        {"name": "Verified", "before": "", **_verified(agreement)},
    ]
    return [tile for tile in tiles if not tile["value"].startswith(tables.NONE)]


def _device_tiles(record: Record) -> list[dict[str, str]]:
    """What a file takes on the run's device, where that is not this computer."""
    there = record.on_device
    if there is None:
        return []
    linked, counted = there.linked_bytes, there.counted_instructions
    found = [
        ("Flash", tables.size(linked or there.flash_bytes), "linked" if linked else "program estimated from above"),
        ("RAM", tables.size(there.ram_bytes), "arena and stack"),
    ]
    if (n := counted or there.instructions) is not None:
        found.append(("Instructions", f"{tables.number(n / 1e6)} M", "an image, counted" if counted else "modelled"))
    if there.latency_ms is not None:
        found.append(("Latency, modelled", f"{tables.milliseconds(there.latency_ms)} ms", there.residual))
    return [{"name": a, "value": b, "before": "", "detail": _join(there.device, c)} for a, b, c in found]


def _verified(agreement: Agreement | None) -> dict[str, str]:
    if agreement is None or not agreement.verified:
        return {"value": "no", "detail": "" if agreement is None else f"differs first at {agreement.first_difference}"}
    n = agreement.max_code_difference
    return {
        "value": "exact" if n == 0 else f"± {n} code{'s' * (n > 1)}",
        "detail": _join(f"{agreement.n_images} images", agreement.runtime, _time(agreement.when)),
    }


def _time(text: str) -> str:
    """An ISO 8601 time to the minute."""
    return text[:16].replace("T", " ") + (" UTC" if text.endswith(("+00:00", "Z")) else text[19:])


def _join(*texts: str) -> str:
    return " · ".join(t for t in texts if t)


def _charts(data: ReportData, verdict: Verdict) -> dict[str, Any]:
    kept = set(tables.candidates(data, MAX_CANDIDATES).ids)
    axes = available(data.records)
    planes = {axis: asdict(plane(data, axis)) for axis in axes}
    for each in planes.values():
        each["metric"] = tables.metric_name(each["metric"])
        each["points"] = [p for p in each["points"] if p["id"] in kept]
    chosen = "" if verdict.record is None else verdict.record.id
    timed = [r for r in data.records if r.id in (data.baseline, chosen)]
    return {
        "axis": axes[0] if axes else "",
        "planes": planes,
        "stages": stage_chart(data.stages, data.metric),
        "searches": search_charts(data.searches, data.metric),
        "cards": {r.id: card_view(data, r) for r in data.records if r.id in kept},
        "selected": chosen,
        "baseline": data.baseline,
        "progress": progress(data),
        "curves": [asdict(c) for c in data.curves],
        "histograms": [{**asdict(h), "label": data.label(r)} for r in timed if (h := histogram(r)) is not None],
    }


# --- the rest --------------------------------------------------------------------------------------------------------
def _optional(table: tables.Table | None) -> dict[str, Any] | None:
    return None if table is None else tables.plain(table)


def _definitions(data: ReportData) -> list[tuple[str, str]]:
    metrics = next((m for r in data.records if (m := shown_metrics(r)) is not None), None)
    return [] if metrics is None else [(tables.metric_name(k), text) for k, text in metrics.definitions.items()]


def _gain(gain: Gain) -> dict[str, Any]:
    n, low, high = len(gain.ratios), gain.ratios[0], gain.ratios[-1]
    spread = f"{low:.2f}×" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f}× to {high:.2f}×"
    places = f"{n} configuration{'s' * (n > 1)}"
    if gain.n_faster == 0:
        text = f"brings no speed here: {spread} the time of float32 in {places}."
    else:
        text = f"is faster than float32 in {gain.n_faster} of {places}: {spread} its time."
    return {"recipe": gain.recipe, "text": text, "notes": gain.notes, "gain": gain.n_faster > 0}


def _noise(data: ReportData) -> str:
    floors = [r.latency.noise_floor for r in data.records if r.latency and r.latency.noise_floor is not None]
    if not floors:
        return ""
    return (
        f"The same file timed against itself differed by up to {100 * max(floors):.1f} % (A/A control); "
        "smaller differences are reported as the same."
    )
