"""stats: what fixed point does to every tensor of a network."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitfront import batches
from bitfront.errors import UsageError, unknown_name
from bitfront.graph import passes
from bitfront.graph.equalize import equalize
from bitfront.graph.ir import Graph
from bitfront.quant.menu import MenuOptions, build_menu
from bitfront.record import content_id, to_json
from bitfront.stats.qmn import RULES, QmnStat, qmn_stats
from bitfront.stats.ranges import Ranges, collect
from bitfront.store import atomic_json, atomic_write
from bitfront.verbs.artifacts import N_CALIBRATE, calibration_images, observer, open_runtime
from bitfront.verbs.opening import Opened, Progress, choose_part, open_both, untrained
from bitfront.verbs.scoring import few_or_all

__all__ = ["Statistics", "TensorStats", "Width", "stats"]

SUFFIXES = (".csv", ".json", ".html")


@dataclass(frozen=True, slots=True)
class Width:
    """A tensor at one number of bits."""

    bits: int
    int_bits: int
    frac_bits: int
    signed: bool
    clipped: float
    """Fraction of the values beyond the ends."""
    rounding_error: float
    """Mean distance of the others to their codes' values, in the tensor's unit."""
    squared_error: float
    score: float | None = None
    """Of the network with this tensor alone quantized; ``None`` when not asked for."""
    drop: float | None = None
    """Score of the float network less that."""


@dataclass(frozen=True, slots=True)
class TensorStats:
    """One tensor."""

    name: str
    kind: str
    """``weight``, ``bias``, ``input`` or ``activation``."""
    size: int
    """Elements; of activations, of one image."""
    low: float
    high: float
    widths: tuple[Width, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What :func:`stats` found."""

    tensors: tuple[TensorStats, ...]
    """In execution order."""
    rule: str
    resolution: tuple[int, int]
    score: str = ""
    float_score: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """All numbers of bits, ascending."""
        return tuple(sorted({w.bits for t in self.tensors for w in t.widths}))

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        data: dict[str, Any] = to_json(self)
        return data

    def csv(self) -> str:
        """Return a row for every tensor and width."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        fields = list(Width.__dataclass_fields__)
        writer.writerow(["tensor", "kind", "size", "low", "high", *fields])
        for t in self.tensors:
            name = "'" + t.name if t.name[:1] in ("=", "+", "-", "@") else t.name  # no formula in a spreadsheet
            for w in t.widths:
                writer.writerow([name, t.kind, t.size, t.low, t.high, *(getattr(w, f) for f in fields)])
        return out.getvalue()


def stats(
    model: str,
    data: str,
    *,
    out: Path | str | None = None,
    weight_bits: Sequence[int] = (4, 8, 12, 16),
    activation_bits: Sequence[int] = (8, 16),
    rule: str = "max",
    equalized: bool = False,
    metric: bool = False,
    n_calibrate: int = N_CALIBRATE,
    settings: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    preprocess: str = "",
    reader: str = "",
    task: str = "",
    score: str = "",
    limit: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Return Qmn stats and, with ``metric``, metric stats of every tensor. Source: thesis 000, 4.4 and 4.5.

    Args:
        model: catalogue name, checkpoint, ``.onnx`` file or ``package.module:factory``.
        data: catalogue name, folder or data YAML; activations are read from its train part, the score is of its
            val part.
        out: ``.csv``, ``.json`` or ``.html`` file to write; pictures and tables of a page stand beside it.
        weight_bits: widths of weights and biases, 2 to 16.
        activation_bits: widths of activations; none leaves them out.
        rule: how integer bits are chosen, ``max`` (the thesis's) or ``mse``.
        equalized: balance neighbouring layers' channels first.
        metric: the score with one tensor quantized at a time: an evaluation per tensor and width.
        n_calibrate: images that activations are read from.
        settings: knobs.
        weights: checkpoint for catalogue models and factories.
        preprocess: how a file that does not say it wants to be fed.
        reader: reader of the data folder, when it is not recognised.
        task: what is asked of the network.
        score: metric (default: the task's).
        limit: score at most so many images.
        seed: of the choice of calibration images.
        cache: folder that remembers which files were found whole.
        progress: called with a stage, what is done and what there is.

    Raises:
        UsageError: wrong names, options or widths.
        DataError: data or model files that cannot be used.
        SpaceError: the disk is full.
    """
    place = _checked(out, rule, (*weight_bits, *activation_bits))
    opened = open_both(model, data, task=task, reader=reader, settings=settings, preprocess=preprocess, weights=weights)
    say = progress or (lambda stage, done, total: None)
    say("calibrate", 0, 0)
    graph = passes.prepare(opened.source.graph())
    graph = equalize(graph) if equalized else graph
    images = calibration_images(opened, n_calibrate, seed, cache)
    observe = observer(open_runtime())
    ranges = collect(graph, images, observe(graph) if observe else None)
    tensors: dict[str, TensorStats] = {}
    for stat in qmn_stats(graph, ranges, weight_bits, activation_bits, rule):
        before = tensors.get(stat.tensor)
        tensors[stat.tensor] = _with(before, stat)
    found = Statistics(
        tuple(tensors.values()),
        rule,
        (opened.source.input.height, opened.source.input.width),
        notes=(*opened.source.notes, *untrained(opened.source)),
    )
    if metric:
        options = MenuOptions(
            tuple(weight_bits), tuple(activation_bits), tuple(weight_bits), rule, equalized=False, bias_correction=False
        )
        found = _with_scores(found, opened, graph, ranges, options, score=score, limit=limit, cache=cache, say=say)
    if place is not None:
        _write(found, place, f"{Path(model).name} on {Path(data).name}")
    return found


def _write(found: Statistics, place: Path, title: str) -> None:
    if place.suffix == ".csv":
        atomic_write(place, found.csv().encode())
    elif place.suffix == ".html":
        from bitfront.report import write_stats

        write_stats(found.to_json(), place, title)
    else:
        atomic_json(place, found)


def _checked(out: Path | str | None, rule: str, widths: Sequence[int]) -> Path | None:
    if rule not in RULES:
        raise unknown_name("range rule", rule, RULES)
    wrong = next((b for b in widths if not 2 <= b <= 16), None)
    if wrong is not None:
        raise UsageError(f"{wrong} bits", hint="widths are 2 to 16, e.g. 4,8,12,16")
    if out is None:
        return None
    if Path(out).suffix not in SUFFIXES:
        raise UsageError(
            f"--out: '{out}' does not end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
            hint="for example --out stats.csv",
        )
    return Path(out)


def _with(before: TensorStats | None, stat: QmnStat) -> TensorStats:
    form, lost = stat.format, stat.errors
    width = Width(form.bits, form.int_bits, form.frac_bits, form.signed, lost.clipped, lost.rounding, lost.squared)
    if before is None:
        return TensorStats(stat.tensor, stat.kind, stat.size, stat.low, stat.high, (width,))
    return replace(before, widths=(*before.widths, width))


def _with_scores(
    found: Statistics,
    opened: Opened,
    graph: Graph,
    ranges: Ranges,
    options: MenuOptions,
    *,
    score: str,
    limit: int | None,
    cache: Path | None,
    say: Progress,
) -> Statistics:
    """Add the metric stats, in the order of execution so that the beginning of the network is run once."""
    from bitfront.search.evaluations import Evaluations
    from bitfront.search.networks import NetworkEvaluator, space_of
    from bitfront.search.sensitivity import metric_stats

    assert opened.dataset is not None
    there = opened.dataset.parts()
    name, note = choose_part(opened.dataset, "val" if "val" in there else "")
    part, warnings = few_or_all(opened.dataset, name, limit, cache)
    samples = [part[i] for i in range(len(part))]
    pixels = np.concatenate([b.images for b, _ in batches.evaluation(samples, opened.source.input, 8)])
    scorer = opened.task.scorer(samples, opened.source.output, opened.info, score, opened.source.input)
    menu = build_menu(graph, ranges, options=options)
    space = space_of(menu)
    evaluator = NetworkEvaluator(menu, space, pixels, scorer, identity=content_id([s.id for s in samples], score))
    total, done = len(space.one_tensor()) + 1, 0

    def count(_: Any) -> None:
        nonlocal done
        done += 1
        say("metric stats", done, total)

    table, float_score = metric_stats(Evaluations(space, evaluator, len(samples), on_row=count))
    scores = {
        (gene.name, bits): float(value)
        for gene, row in zip(space.genes, table, strict=True)
        for bits, value in zip(gene.choices, row, strict=True)
    }

    def scored(tensor: TensorStats, width: Width) -> Width:
        own = scores.get((tensor.name, width.bits))
        return width if own is None or not math.isfinite(own) else replace(width, score=own, drop=float_score - own)

    tensors = (replace(t, widths=tuple(scored(t, w) for w in t.widths)) for t in found.tensors)
    notes = (*found.notes, *([note] if note else []), *warnings)
    return replace(found, tensors=tuple(tensors), float_score=float_score, score=score, notes=notes)
