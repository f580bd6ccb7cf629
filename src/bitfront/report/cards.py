"""Model cards: what an artifact is, how to feed it, what it scores and how that is known. Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from bitfront.contracts import InputContract, Metrics, OutputContract
from bitfront.errors import one_line
from bitfront.record import Record
from bitfront.report import tables
from bitfront.report.candidate_view import commands, device_facts
from bitfront.report.data import ReportData
from bitfront.report.series import checks
from bitfront.report.table_files import escaped

__all__ = ["card"]


def card(data: ReportData, record: Record) -> str:
    """Return the card of one member of the front as Markdown; names are escaped, never markup."""
    sections = (
        ("", _head(data, record)),
        ("How to feed it", _feed(record)),
        ("How to run it", _run(data, record)),
        ("Scores", _scores(record)),
        ("Cost", _cost(record)),
        ("Verification", _verification(record)),
        ("Where it comes from", _provenance(data, record)),
        ("Limits", _limits(data, record)),
    )
    parts = []
    for title, lines in sections:
        body = "\n".join(lines)
        if body:
            parts.append(f"## {title}\n\n{body}" if title else body)
    return "\n\n".join(parts) + "\n"


def _code(value: str) -> str:
    """A code block that its content cannot close."""
    fence = "```"
    while fence in value:
        fence += "`"
    return f"{fence}\n{one_line(value)}\n{fence}"


def _rows(pairs: Iterable[tuple[str, str]]) -> list[str]:
    kept = [(k, v) for k, v in pairs if v and v != tables.NONE]
    return ["| | |", "|---|---|", *(f"| {escaped(k)} | {escaped(v)} |" for k, v in kept)] if kept else []


def _head(data: ReportData, r: Record) -> list[str]:
    pick = f" ({escaped(data.pick(r))})" if data.pick(r) else ""
    artifact = r.artifact
    what = [f"# {escaped(r.candidate.model)}: {escaped(r.candidate.label)}{pick}", ""]
    classes = ", ".join(artifact.output.classes) if artifact else ""
    task = f" for {len(artifact.output.classes)} classes ({classes})" if artifact and classes else ""
    how = f"quantized with the recipe {r.candidate.recipe}" if r.candidate.recipe != "float32" else "in float32"
    what.append(escaped(f"A {r.candidate.model} network{task}, {how}, for {r.candidate.runtime}."))
    return what


def _feed(r: Record) -> list[str]:
    if r.artifact is None:
        return []
    return [*_input(r.artifact.input), "", _output(r.artifact.output)]


def _input(c: InputContract) -> list[str]:
    shape = (1, c.channels, c.height, c.width) if c.layout == "nchw" else (1, c.height, c.width, c.channels)
    fit = "stretched to" if c.fit == "stretch" else "fitted, with borders, into"
    steps = [
        f"1. Decode to {c.color.upper() if c.color != 'y' else 'luma of YCbCr'}, 8 bit, upright.",
        f"2. Resize with the kernel `{one_line(c.resize)}`: {fit} {c.width} x {c.height} (width x height).",
        f"3. Per channel: (p / 255 - mean) / std with mean {_numbers(c.mean)}, std {_numbers(c.std)}.",
    ]
    if c.dtype in ("uint8", "int8"):
        steps.append(f"4. Quantize: round(value / {c.scale:g}) + {c.zero_point}, clipped to {c.dtype}.")
    return [*steps, f"{len(steps) + 1}. Feed as {c.dtype} {shape}, layout {c.layout.upper()}."]


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)


def _output(c: OutputContract) -> str:
    if c.readout == "threshold":
        return f"Output: one channel; a value above {c.threshold:g} is class 1."
    if c.readout == "labels":
        return "Output: class indices."
    return "Output: one channel a class; the largest one is the answer."


def _run(data: ReportData, r: Record) -> list[str]:
    lines: list[str] = []
    for title, command in commands(data, r, inside=True):
        lines += [f"{title}:", "", _code(command), ""]
    return lines[:-1]


def _scores(r: Record) -> list[str]:
    lines: list[str] = []
    for part, metrics in (("test", r.test), ("val", r.val)):
        if metrics is None:
            continue
        band = f", 95 % interval {tables.interval(metrics)}" if metrics.interval else ""
        of = f" on {metrics.n} images" if metrics.n else ""
        name, value = escaped(tables.metric_name(metrics.score)), tables.percent(metrics.values.get(metrics.score))
        lines += [f"{part}{of}: **{name} {value} %**{band}", ""]
        lines += ["| score | % | how it is computed |", "|---|--:|---|"]
        lines += [_score_row(metrics, name) for name in metrics.values]
        lines += ["", *_classes(metrics)]
    return lines[:-1] if lines and not lines[-1] else lines


def _score_row(metrics: Metrics, name: str) -> str:
    definition = escaped(metrics.definitions.get(name, ""))
    return f"| {escaped(tables.metric_name(name))} | {tables.percent(metrics.values[name])} | {definition} |"


def _classes(metrics: Metrics) -> list[str]:
    if not metrics.per_class:
        return []
    names = list(metrics.per_class)
    rows = list(dict.fromkeys(c for values in metrics.per_class.values() for c in values))
    head = [
        f"| class | {' | '.join(f'{escaped(tables.metric_name(n))}, %' for n in names)} |",
        f"|---|{'--:|' * len(names)}",
    ]
    body = [
        f"| {escaped(c)} | {' | '.join(tables.percent(metrics.per_class[n].get(c)) for n in names)} |" for c in rows
    ]
    return [*head, *body, ""]


def _cost(r: Record) -> list[str]:
    m = r.latency
    pairs = [
        ("File size", tables.size(r.artifact.size_bytes) if r.artifact else ""),
        ("Parameters", tables.count(r.parameters)),
        ("MACs", tables.count(r.macs)),
        ("RAM for activations, peak", tables.size(r.peak_bytes)),
        ("RAM of a process that runs it, peak added", tables.size(r.ram_bytes)),
    ]
    pairs += device_facts(r)
    if m is not None:
        p90 = f", p90 {tables.milliseconds(m.p90)}" if m.p90 is not None else ""
        pairs += [
            ("Latency", f"median {tables.milliseconds(m.value)} ms{p90}, n = {m.n}"),
            ("Measured on", f"{m.device}, {m.threads} thread{'s' * (m.threads > 1)}"),
            ("Time relative to float", tables.ratio(m)),
            ("Noise floor of that ratio", "" if m.noise_floor is None else f"{100 * m.noise_floor:.1f} %"),
        ]
    return _rows(pairs)


def _verification(r: Record) -> list[str]:
    a = r.agreement
    if a is None:
        return ["Not verified."]
    return _rows(
        [
            ("Verified", "yes" if a.verified else "no"),
            ("Against", a.reference),
            ("Largest difference", f"{a.max_code_difference} ({a.unit}), tolerance {a.tolerance}"),
            ("Differing values", f"{100 * a.differing_fraction:.4f} %"),
            ("Same answer", f"{100 * a.readout_agreement:.4f} %"),
            ("First tensor that differs", a.first_difference or "none"),
            ("Images", str(a.n_images)),
            ("Runtime", a.runtime),
            ("Processor", a.cpu),
            ("When", a.when),
        ]
    )


def _provenance(data: ReportData, r: Record) -> list[str]:
    pairs = [
        ("Run", data.name),
        ("Command", data.command),
        ("Candidate", r.id),
        ("Knobs", ", ".join(f"{k} {v}" for k, v in r.candidate.knobs.items())),
        ("Recipe", r.candidate.recipe),
        ("Weights", r.candidate.weights),
        ("Plan", r.candidate.plan),
        ("SHA-256 of the file", r.artifact.sha256 if r.artifact else ""),
        ("Data", str(data.config.get("data", ""))),
        ("Seed", str(data.config.get("seed", ""))),
    ]
    return _rows(pairs)


def _limits(data: ReportData, r: Record) -> list[str]:
    lines = [f"- {escaped(note)}" for note in r.notes]
    missed = [c.name for c in checks(data, r) if not c.met]
    if missed:
        lines.append(f"- Misses the budget of its run: {', '.join(missed)}.")
    if r.test is None:
        lines.append("- Not scored on a test part; the val scores drove the search and may be optimistic.")
    lines.append("- Scores hold for data like the run's; latency holds for the device named above.")
    if r.agreement is not None and r.agreement.verified:
        lines.append(
            "- Verified on the processor named above; another one may round integers differently: verify there."
        )
    return lines
