"""The bit search of a run: a trained network -> plans on a front, and what the report tells of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from bitfront import batches
from bitfront.contracts import Device, Part, Sample
from bitfront.errors import DataError, UsageError, unknown_name
from bitfront.fitting.candidates import Network
from bitfront.fitting.config import BitSearch
from bitfront.fitting.delivery import SEARCHED_DROP
from bitfront.fitting.space import Architecture
from bitfront.fitting.target import usual_search
from bitfront.graph.ir import Graph
from bitfront.quant.costs import Costs
from bitfront.quant.formats import Qmn
from bitfront.quant.menu import Menu, MenuOptions, build_menu
from bitfront.quant.plan import Plan
from bitfront.record import Record, content_id
from bitfront.scan import without
from bitfront.search.evaluations import Cost, Evaluations, Limit, Member, Progress, Row
from bitfront.search.front import ranks
from bitfront.search.journal import Journal
from bitfront.search.methods import METHODS, TOLERANCE, Result, search
from bitfront.search.networks import NetworkEvaluator, bits_of, space_of
from bitfront.search.sensitivity import spread
from bitfront.search.space import FLOAT, Genome, Space
from bitfront.simulate.fixed_point import ROUNDINGS
from bitfront.stats.qmn import errors

__all__ = [
    "COSTS",
    "THESIS_METHODS",
    "Searched",
    "alone",
    "menu_options",
    "picked",
    "search_network",
    "summary",
    "usual_evaluations",
    "worth_searching",
]

T = TypeVar("T")

COSTS = ("flash", "ram", "instructions", "modelled_latency", "cycles", "npu")
THESIS_METHODS = ("genetic", "genetic_uniform", "heuristic")
"""Methods that begin from the formats of thesis 000 when nothing is said."""
OF_ACTIVATIONS = {"ram", "npu", "modelled_latency"}
"""Costs to which the widths of activations matter."""
DEFAULT_EVALUATIONS = 200.0
"""Of methods that have no end of their own, or a late one."""
MAX_IMAGES, N_HELD_OUT = 128, 40
MIN_SPLIT, HELD_OUT_EVERY = 32, 4
"""Images of val from which every so many-th is held out of the search."""
NOISE = 0.03
"""Error of a loss of score on one image; it falls with the root of their number. Assumed."""
DROP = 0.01
"""Loss of score around which a search polishes when no floor is given."""


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """What a search of one network found."""

    network: Network
    menu: Menu
    space: Space
    result: Result
    rows: Sequence[Row]
    members: Sequence[Member]
    """All genomes that were evaluated in full."""
    costs: Sequence[str]
    method: str
    floor: float

    def plan(self, genome: Genome) -> Plan:
        """Return the plan of a genome."""
        return self.menu.plan(bits_of(self.space, genome), self.recipe(genome))

    def graph(self, plan: Plan) -> Graph:
        """Return the graph that belongs to a plan."""
        return self.menu.finished(plan)

    def recipe(self, genome: Genome) -> str:
        """Return a name for people: the mean bits of weights and activations."""
        parts = []
        for letter, kind in (("w", "weight"), ("a", "activation")):
            sizes = [(g.size, b) for g, b in zip(self.space.genes, genome, strict=True) if g.kind == kind]
            if sizes:
                parts.append(f"{letter}{sum(n * b for n, b in sizes) / sum(n for n, _ in sizes):.1f}")
        return "_".join(("bits", *parts))


def menu_options(bits: BitSearch) -> MenuOptions:
    """Return how formats are chosen. Raises UsageError for unknown methods, rules and costs, and impossible widths."""
    if bits.method not in METHODS:
        raise unknown_name("search method", bits.method, METHODS)
    for cost in bits.costs:
        if cost not in COSTS:
            raise unknown_name("cost of a bit search", cost, COSTS)
    options = MenuOptions.thesis_000() if bits.method in THESIS_METHODS else MenuOptions()
    if bits.method not in THESIS_METHODS:  # no width that saves nothing: codes of up to 8 bits take a byte in RAM
        options = replace(options, activation_bits=(8, 16) if set(bits.costs) & OF_ACTIVATIONS else (8,))
    given: dict[str, Any] = {"per_channel": bits.per_channel}
    for name, widths in (("weight_bits", bits.weight_bits), ("activation_bits", bits.activation_bits)):
        if widths is not None:
            wrong = next((b for b in widths if not 2 <= b <= 16), None)
            if wrong is not None or (not widths and name == "weight_bits"):
                raise UsageError(f"{name}: {wrong or 'no'} bits", hint="widths are 2 to 16, e.g. 2,4,8")
            given[name] = tuple(sorted(set(widths)))
    if bits.rule:
        given["rule"] = bits.rule
    if bits.rounding:
        if bits.rounding not in ROUNDINGS:
            raise unknown_name("rounding", bits.rounding, ROUNDINGS)
        given["rounding"] = bits.rounding
    if bits.equalized is not None:
        given |= {"equalized": bits.equalized, "bias_correction": bits.equalized}
    return replace(options, **given)


def worth_searching(
    records: Sequence[Record], trained: Sequence[tuple[Architecture, T]], n: int
) -> list[tuple[Architecture, T]]:
    """Return up to ``n`` networks whose float32 files no other beats in score, operations and parameters."""
    floats = {
        content_id(r.candidate.knobs): r for r in records if r.candidate.recipe == "float32" and r.val is not None
    }
    known = [(pair, floats[key]) for pair in trained if (key := content_id(pair[0].knobs)) in floats]
    if not known:
        return []
    points = np.array(
        [(-(r.val.value if r.val else 0.0), r.macs or 0, r.parameters or 0) for _, r in known], np.float64
    )
    best = sorted(np.flatnonzero(ranks(points) == 0), key=lambda i: points[i].tolist())
    places = np.unique(np.linspace(0, len(best) - 1, min(n, len(best))).astype(int))
    return [known[best[i]][0] for i in places]


def search_network(
    network: Network,
    bits: BitSearch,
    *,
    floor: float | None = None,
    max_drop: float | None = None,
    time_s: float | None = None,
    say: Callable[[str, float], None] = lambda text, share: None,
) -> Searched:
    """Search the bits of one network, going on where an earlier session was stopped.

    Args:
        network: a trained network.
        bits: method, widths and limits.
        floor: least score that the user wants, in [0, 1].
        max_drop: largest loss of score against float32, in [0, 1]; used where no floor is given.
        time_s: wall time that is left for it.
        say: called with what is being done and the finished share.

    Raises:
        UsageError: names and widths that do not exist.
        DataError: data without labels, or a network that cannot be scored.
    """
    shop = network.shop
    bits = usual_search(bits, shop.device)
    options = menu_options(bits)
    say("calibrating", 0.0)
    observe = getattr(shop.runtime, "observe", None)
    menu = build_menu(
        network.graph, None if options.equalized else network.ranges, network.calibration, options, observe
    )
    space = space_of(menu)
    if not space.free:
        raise UsageError("there is nothing to search: every tensor has one width", hint="give several --weight-bits")
    if bits.method in THESIS_METHODS:
        space = space.cut()
    seen, unseen = _split(shop.parts)
    evaluator = _evaluator(network, menu, space, seen, MAX_IMAGES)
    costs = tuple(_cost(name, menu, space, shop.device) for name in bits.costs)
    limits = [s for s in (bits.time_s, time_s) if s is not None]
    limit = Limit(usual_evaluations(bits), min(limits, default=None))
    folder = shop.folder / "search"
    with Journal(folder, evaluator.id, space.id) as journal:
        evaluations = Evaluations(
            space,
            evaluator,
            evaluator.n_images,
            costs,
            limit=limit,
            stored=journal.rows(),
            on_row=journal.add,
            on_progress=lambda p: say(_told(p, limit), _share(p, limit)),
        )
        float_score = evaluations([space.float32])[0].score
        if not math.isfinite(float_score):
            raise DataError("the float network has no score on the val part", hint="check its labels")
        least = floor if floor is not None else float_score - (DROP if max_drop is None else max_drop)
        result = search(
            bits.method,
            evaluations,
            shop.seed_of("search", network.architecture.knobs),
            floor=least,
            held_out=_held_out(network, menu, space, unseen),
            tolerance=max(TOLERANCE, NOISE / math.sqrt(max(1, min(len(unseen), N_HELD_OUT)))),
        )
    members = evaluations.members
    return Searched(network, menu, space, result, evaluations.rows, members, bits.costs, bits.method, least)


def _evaluator(network: Network, menu: Menu, space: Space, part: Part, limit: int) -> NetworkEvaluator:
    shop, contract = network.shop, network.contract
    source, info = shop.opened.source, shop.opened.info
    samples = [part[i] for i in spread(len(part), limit)]
    pairs = batches.evaluation(samples, contract, 8)
    images = np.concatenate([batch.images for batch, _ in pairs])
    scorer = shop.opened.task.scorer(samples, source.output, info, shop.score, contract)
    identity = content_id([_label_id(s) for s in samples], shop.score, source.output, info.classes)
    return NetworkEvaluator(menu, space, images, scorer, identity=identity, device="auto")


def _label_id(sample: Sample) -> str:
    return content_id(sample.id, sample.mask, sample.boxes, sample.labels, sample.label, sample.ignored)


def _split(parts: Mapping[str, Part]) -> tuple[Part, Part]:
    """Return what the search scores on, and what its front is screened on: a quarter of val, or train if val is small.

    Losses on images that the network was trained on are not those on others, so train is the second choice.
    """
    val = parts["val"]
    if len(val) < MIN_SPLIT:
        return val, parts.get("train", ())
    kept = [i for i in range(len(val)) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    return without(val, range(HELD_OUT_EVERY - 1, len(val), HELD_OUT_EVERY)), without(val, kept)


def _held_out(
    network: Network, menu: Menu, space: Space, part: Part
) -> Callable[[Sequence[Genome]], Sequence[float]] | None:
    """Return scores on images that the search never sees; ``None`` without any."""
    if not len(part):
        return None

    def scores(genomes: Sequence[Genome]) -> Sequence[float]:
        evaluator = _evaluator(network, menu, space, part, N_HELD_OUT)
        return [e.score for e in evaluator(genomes, None)]

    return scores


def usual_evaluations(bits: BitSearch) -> float | None:
    """Return the limit of full evaluations; ``None`` where the method has an end of its own."""
    if bits.evaluations is not None:
        return bits.evaluations
    return None if bits.method in THESIS_METHODS else DEFAULT_EVALUATIONS


def _cost(name: str, menu: Menu, space: Space, device: Device) -> Cost:
    costs = Costs(menu.graph, [g.name for g in space.genes], per_channel=menu.options.per_channel)
    rounding = menu.options.rounding
    known: Mapping[str, Callable[[Genome], float]] = {
        "instructions": lambda genome: float(costs.instructions(genome, device.core, rounding=rounding)),
        "modelled_latency": lambda genome: float(costs.latency_ms(genome, device.board)),
        "flash": lambda genome: float(costs.flash_bytes(genome)),
        "ram": lambda genome: float(costs.ram_bytes(genome)),
        "cycles": lambda genome: float(costs.cycles(genome)),
        "npu": lambda genome: float(costs.npu_ms(genome)),
    }
    return Cost(name, known[name])


def _told(progress: Progress, limit: Limit) -> str:
    of = f" of {limit.n_evaluations:.0f}" if limit.n_evaluations else ""
    return f"{progress.phase}: {progress.n_evaluations:.0f}{of} evaluations, {progress.n_front} on the front"


def _share(progress: Progress, limit: Limit) -> float:
    shares = [progress.n_evaluations / limit.n_evaluations] if limit.n_evaluations else [0.0]
    return min(1.0, max([*shares, progress.elapsed_s / limit.time_s if limit.time_s else 0.0]))


# --- what becomes of it ----------------------------------------------------------------------------------------------
def integer_members(searched: Searched, members: Sequence[Member]) -> list[Member]:
    """Return members without float tensors; a bias that no width is chosen for has 32 bits and its sums' step."""
    firm = [i for i, gene in enumerate(searched.space.genes) if gene.kind != "bias"]
    return [m for m in members if all(m.genome[i] < FLOAT for i in firm)]


def picked(searched: Searched, n: int, *, integers: bool = False) -> list[Member]:
    """Return up to ``n`` members of the front to make files of, spread over it; ``integers``: without float tensors.

    The smallest at losses of 0.5, 1, 2 and 3 points and at the floor come first; of the rest, those that lie farthest
    from the chosen ones in score and cost.
    """
    float_score = searched.result.float_score
    least = min(searched.floor, float_score - SEARCHED_DROP)
    front = [m for m in searched.result.front if m.score >= least and min(m.genome) < FLOAT]
    front = integer_members(searched, front) if integers else front
    chosen: list[Member] = []
    for least in (searched.floor, *(float_score - loss for loss in (0.005, 0.01, 0.02, 0.03))):
        best = min((m for m in front if m.score >= least), key=lambda m: m.costs, default=None)
        if best is not None and best not in chosen:
            chosen.append(best)
    points = np.array([(m.score, math.log(max(m.costs[0], 1.0))) for m in front]).reshape(-1, 2)
    scaled = (points - points.min(0, initial=np.inf)) / np.maximum(np.ptp(points, axis=0) if len(points) else 1.0, 1e-9)
    while len(chosen) < min(n, len(front)):
        taken = [front.index(m) for m in chosen] or [0]
        gaps = np.abs(scaled[:, None] - scaled[None, taken]).sum(2).min(1)
        best = front[int(np.argmax(gaps))]
        if best in chosen:
            break
        chosen.append(best)
    return chosen[:n]


def summary(searched: Searched, files: Mapping[Genome, str]) -> dict[str, Any]:
    """Return what the report tells of a search, as plain data; ``files``: genome -> id of the candidate made of it."""
    result, space = searched.result, searched.space
    on_front = {m.genome for m in result.front}
    dropped = {d.member.genome: d.reason for d in result.dropped}
    shown = [m for m in searched.members if math.isfinite(m.score)]
    return {
        "architecture": searched.network.architecture.label,
        "method": searched.method,
        "seed": searched.network.shop.seed,
        "float_score": result.float_score,
        "floor": searched.floor,
        "n_evaluations": result.n_evaluations,
        "seconds": result.seconds,
        "costs": list(searched.costs),
        "genes": [
            {"name": g.name, "kind": g.kind, "size": g.size, "choices": list(g.choices), "fixed": g.fixed}
            for g in space.genes
        ],
        "points": [
            {"score": m.score, "costs": list(m.costs), "front": m.genome in on_front}
            for m in shown
            if min(m.genome) < FLOAT
        ],
        "front": [_member(searched, m, files, "") for m in result.front]
        + [_member(searched, d.member, files, dropped[d.member.genome]) for d in result.dropped],
        "tensors": _tensors(searched),
    }


def _member(searched: Searched, member: Member, files: Mapping[Genome, str], dropped: str) -> dict[str, Any]:
    return {
        "candidate": files.get(member.genome, ""),
        "score": member.score,
        "costs": list(member.costs),
        "bits": bits_of(searched.space, member.genome),
        "dropped": dropped,
    }


def _tensors(searched: Searched) -> list[dict[str, Any]]:
    """Return every tensor's formats, what they lose, and the network's distortion and score where it alone has them."""
    told = alone(searched.rows, searched.space)
    found = []
    for dish in searched.menu.dishes:
        values = (
            searched.menu.ranges[dish.tensor]
            if dish.kind == "activation"
            else searched.menu.graph.constants[dish.tensor]
        )
        widths = []
        for bits, form in sorted(dish.formats.items()):
            entry: dict[str, Any] = {"bits": bits, "distortion": None, "score": None} | told.get(
                (dish.tensor, bits), {}
            )
            if isinstance(form, Qmn):
                lost = errors(values, form)
                entry |= {
                    "int_bits": form.int_bits, "frac_bits": form.frac_bits,
                    "clipped": lost.clipped, "error": lost.rounding,
                }  # fmt: skip
            widths.append(entry)
        found.append(
            {
                "name": dish.tensor,
                "kind": dish.kind,
                "size": dish.size,
                "low": dish.low,
                "high": dish.high,
                "widths": widths,
            }
        )
    return found


def alone(rows: Sequence[Row], space: Space) -> dict[tuple[str, int], dict[str, float]]:
    """Return distortion, and score on all samples, by the one tensor that is not float32 and its bits."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        narrow = [(g.name, b) for g, b in zip(space.genes, row.genome, strict=True) if b != FLOAT]
        if len(narrow) != 1:
            continue
        told = {"distortion": row.evaluation.distortion, "score": row.evaluation.score}
        known = [key for key, value in told.items() if math.isfinite(value) and (key != "score" or row.subset is None)]
        found.setdefault(narrow[0], {}).update({key: told[key] for key in known})
    return found
