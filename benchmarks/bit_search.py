"""Bit searches on real networks: evaluations, time and sizes against the genetic search of thesis 000.

    python benchmarks/bit_search.py --data ../shared/data/packages --work runs/bit_search NET...

NET is an ONNX file or a checkpoint. Every search is one part, kept in the folder ``--work`` as soon as it ends (and
every 500 evaluations): started again, the same command goes on where it was. ``--only REGEX`` does some parts; the
result is written when all are there. Scores: foreground IoU of 40 images of the part ``val`` at their own size. Time:
CPU time of one thread.

Hypervolume: size of weights and biases, scaled between all at 4 bits and all at 16, by IoU, scaled between 0.5 and
float; better than float counts as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import machine
from naive_evaluator import NaiveEvaluator

from bitfront import batches
from bitfront.graph import passes
from bitfront.quant.menu import Menu, MenuOptions, build_menu
from bitfront.search.evaluations import Evaluation, Evaluations, Limit, Row, Subset
from bitfront.search.front import hypervolume
from bitfront.search.methods import search
from bitfront.search.networks import NetworkEvaluator, space_of
from bitfront.search.space import FLOAT, Genome, Space
from bitfront.store import atomic_json
from bitfront.tasks.segmentation import Segmentation
from bitfront.verbs.opening import open_both

RESULT = Path(__file__).with_name("results") / "bit_search.json"
N_CALIBRATION = 32
MENUS = {
    "thesis_weights": dataclasses.replace(MenuOptions.thesis_000(), activation_bits=()),
    "thesis": MenuOptions.thesis_000(),
    "own_weights": MenuOptions(activation_bits=()),
    "own": MenuOptions(),
}
SEARCHES = [
    ("thesis_weights", "genetic", None),
    ("thesis_weights", "genetic_uniform", None),
    ("thesis_weights", "surrogate", 400),
    ("thesis_weights", "nsga2", 1000),
    ("thesis_weights", "tpe", 200),
    ("own_weights", "surrogate", 400),
    ("own", "surrogate", 400),
]
"""Menu, method, limit of full evaluations (``None``: the method's own end)."""
COSTS = [
    ("thesis_weights", "genetic", 450),
    ("thesis", "genetic", 700),
    ("own_weights", "surrogate", 100),
    ("own", "surrogate", 100),
]
"""Searches in which single evaluations are timed."""
ONE_SEED = {"nsga2", "tpe"}
HELD_OUT = [("own_weights", "surrogate", 400), ("own", "surrogate", 400)]
"""Searches on every second image, whose fronts are scored on the others."""
N_GENETIC = 30 + 45 * 100
DROPS = (0.005, 0.01, 0.03)
FLOOR = 0.5
Part = dict[str, Any]


# --- one network -----------------------------------------------------------------------------------------------------
@dataclass
class Net:
    """A trained network on its images."""

    path: Path
    data: str
    n_images: int

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def opened(self):
        return open_both(str(self.path), self.data)

    @cached_property
    def graph(self):
        return passes.prepare(self.opened.source.graph())

    @cached_property
    def samples(self) -> list:
        part = self.opened.dataset.part("val")
        chosen = np.unique(np.linspace(0, len(part) - 1, min(self.n_images, len(part))).astype(int))
        return [part[int(i)] for i in chosen]

    @cached_property
    def images(self) -> np.ndarray:
        read = batches.evaluation(self.samples, self.opened.source.input, 8)
        return np.concatenate([batch.images for batch, _ in read])

    @cached_property
    def calibration(self) -> list[np.ndarray]:
        train = self.opened.dataset.part("train")
        return batches.calibration(train, self.opened.source.input, N_CALIBRATION, np.random.default_rng(0))

    @cached_property
    def menus(self) -> dict[str, Menu]:
        return {}

    def menu(self, name: str) -> Menu:
        if name not in self.menus:
            self.menus[name] = build_menu(self.graph, batches=self.calibration, options=MENUS[name])
        return self.menus[name]

    def space(self, name: str) -> Space:
        return space_of(self.menu(name)).cut()

    def ready(self, menu: str) -> None:
        """Read and prepare what is no part of a search, before a clock starts."""
        _ = self.images, self.samples, self.menu(menu)

    def half(self, which: int) -> Net:
        """Every second image, with the same menus."""
        part = Net(self.path, self.data, self.n_images)
        part.__dict__.update(menus=self.menus, graph=self.graph, calibration=self.calibration, opened=self.opened)
        part.__dict__.update(samples=self.samples[which::2], images=self.images[which::2])
        return part

    def scorer(self):
        return self.opened.task.scorer(self.samples, self.opened.source.output, self.opened.info)

    def evaluator(self, name: str) -> NetworkEvaluator:
        return NetworkEvaluator(self.menu(name), self.space(name), self.images, self.scorer())

    def naive(self, name: str) -> NaiveEvaluator:
        source = self.opened.source
        return NaiveEvaluator(
            self.menu(name), self.space(name), self.images, self.samples, Segmentation(bootstrap=0), self.opened.info,
            source.output,
        )  # fmt: skip


# --- parts -----------------------------------------------------------------------------------------------------------
def searched(net: Net, menu: str, method: str, limit: float | None, seed: int, place: Path) -> Part:
    """Search, and keep all evaluations with the CPU time at which each was done."""
    stored = json.loads(place.read_text())["rows"] if place.is_file() else []
    space, rows = net.space(menu), list(stored)
    net.ready(menu)

    def keep(row: Row) -> None:
        rows.append(row.to_json())
        if len(rows) % 500 == 0:
            atomic_json(place, {"done": False, "rows": rows})

    start = time.process_time()
    evaluator = net.evaluator(menu)
    setup_s = time.process_time() - start
    evaluations = Evaluations(
        space, evaluator, len(net.images), limit=Limit(n_evaluations=limit), on_row=keep, clock=time.process_time,
        stored=[Row.from_json(row) for row in stored],
    )  # fmt: skip
    search(method, evaluations, seed)
    return {
        "n_evaluations": evaluations.n_evaluations, "setup_s": setup_s, "cpu_s": time.process_time() - start,
        "resumed": bool(stored), "rows": [row.to_json() for row in evaluations.rows],
    }  # fmt: skip


def timed(net: Net, menu: str, method: str, limit: float | None, seed: int, place: Path) -> Part:
    """Search, and time every full evaluation; the naive evaluator gets every tenth genome right after it."""
    net.ready(menu)
    ours, naive = net.evaluator(menu), net.naive(menu)
    times: list[float] = []
    pairs: list[dict[str, float]] = []

    def evaluate(genomes: Sequence[Genome], subset: Subset | None) -> Iterator[Evaluation]:
        results = iter(ours(genomes, subset))
        for genome in genomes:
            start = time.thread_time()
            result = next(results)
            taken = time.thread_time() - start
            if subset is None:
                times.append(taken)
                if len(times) % 10 == 0:
                    pairs.append({"ours_s": taken, **naive.timed(genome), "score": result.score})
            yield result

    evaluations = Evaluations(net.space(menu), evaluate, len(net.images), limit=Limit(n_evaluations=limit))
    search(method, evaluations, seed)
    hits = ours.fast.hits
    skipped = hits.nodes_skipped / (hits.nodes_run + hits.nodes_skipped)
    return {"ours_s": times, "pairs": pairs, "nodes_skipped": skipped}


def held_out(net: Net, menu: str, method: str, limit: float | None, seed: int, place: Path) -> Part:
    """Search on every second image; score the front on the others."""
    first, second = net.half(0), net.half(1)
    evaluator, others = first.evaluator(menu), second.evaluator(menu)
    evaluations = Evaluations(first.space(menu), evaluator, len(first.images), limit=Limit(n_evaluations=limit))
    result = search(method, evaluations, seed, held_out=lambda genomes: [e.score for e in others(genomes, None)])
    front = evaluations.front()
    scores = [e.score for e in others([evaluations.space.float32, *(m.genome for m in front)], None)]
    return {
        "float": [result.float_score, scores[0]],
        "front": [[m.score, s, m.costs[0]] for m, s in zip(front, scores[1:], strict=True)],
        "n_dropped": len(result.dropped),
    }


# --- what they show --------------------------------------------------------------------------------------------------
@dataclass
class Trace:
    """A search's hypervolume after every evaluation."""

    part: Part
    space: Space
    n_images: int
    float_score: float

    def __post_init__(self) -> None:
        rows = [Row.from_json(row) for row in self.part["rows"]]
        low, high = (self.space.static_bits(self.space.uniform(bits)) for bits in (4, 16))
        self.steps: list[tuple[float, float, float]] = []
        """Evaluations, CPU seconds, hypervolume."""
        self.points: list[tuple[float, int, Genome]] = []
        front: list[tuple[float, float]] = []
        spent, volume = 0, 0.0
        for row in rows:
            spent += self.n_images if row.subset is None else len(row.subset)
            score = row.evaluation.score
            if row.subset is None and np.isfinite(score) and FLOAT not in row.genome:
                self.points.append((score, self.space.static_bytes(row.genome), row.genome))
                point = (
                    (self.float_score - score) / (self.float_score - FLOOR),
                    (self.space.static_bits(row.genome) - low) / (high - low),
                )
                if max(point) < 1 and not any(a <= point[0] and b <= point[1] for a, b in front):
                    front = [p for p in front if not (point[0] <= p[0] and point[1] <= p[1])] + [point]
                    volume = hypervolume(np.array(front), (1.0, 1.0))
            self.steps.append((spent / self.n_images, row.elapsed_s, volume))

    @property
    def last(self) -> float:
        return self.steps[-1][2]

    def reached(self, volume: float) -> tuple[float, float] | None:
        """Return (evaluations, CPU seconds) at which the hypervolume was reached."""
        return next(((n, s) for n, s, v in self.steps if v >= volume), None)

    def after(self, n: float) -> float | None:
        """Return the hypervolume after ``n`` evaluations; ``None`` when there were fewer."""
        done = [v for m, _, v in self.steps if m <= n]
        return done[-1] if done and self.steps[-1][0] >= 0.9 * n else None

    def smallest(self, drop: float) -> tuple[int, Genome] | None:
        """Return the fewest bytes within ``drop`` of float, and their genome."""
        good = [(size, genome) for score, size, genome in self.points if score >= self.float_score - drop]
        return min(good, default=None)


def about(values: Iterable[float | None]) -> dict[str, float | int] | None:
    """Median, least and most; how many are missing."""
    given = list(values)
    there = [v for v in given if v is not None]
    if not there:
        return None
    found = {"median": median(there), "min": min(there), "max": max(there), "n": len(there)}
    return {**found, "missing": len(given) - len(there)} if len(there) < len(given) else found


def summary(nets: Sequence[Net], seeds: int, work: Path) -> dict[str, Any]:
    """Put the parts together."""
    rows = [one_search(net, seed, work) for net in nets for seed in range(seeds)]
    costs = [one_cost(net, menu, work) for net in nets for menu, *_ in COSTS]
    for row in rows:
        naive_ms = next(c["naive_ms"] for c in costs if c["net"] == row["net"] and c["menu"] == "thesis_weights")
        row["genetic_naive_s"] = N_GENETIC * naive_ms / 1000
        for name in ("genetic", "genetic_uniform"):
            taken = row[f"surrogate_reaches_{name}"]
            row[f"times_faster_than_{name}"] = row["genetic_naive_s"] / taken["cpu_s"] if taken else None
    held = [one_held_out(net, menu, seeds, work) for net in nets for menu, *_ in HELD_OUT]
    names = [key for key in rows[0] if key.startswith(("fewer_", "times_faster_", "smaller_"))]
    return {
        "medians": {name: about(row[name] for row in rows) for name in names},
        "cost_ratios": {menu: about(c["ratio"] for c in costs if c["menu"] == menu) for menu, *_ in COSTS},
        "searches": rows, "costs": costs, "held_out": held,
    }  # fmt: skip


def read(work: Path, net: Net, kind: str, menu: str, method: str, seed: int) -> Part:
    part: Part = json.loads((work / f"{net.name}-{kind}-{menu}-{method}-{seed}.json").read_text())
    return part


def one_search(net: Net, seed: int, work: Path) -> dict[str, Any]:
    """Compare the searches of one network and seed."""
    own_rows = map(Row.from_json, read(work, net, "search", "thesis_weights", "surrogate", seed)["rows"])
    float_score = next(row.evaluation.score for row in own_rows if min(row.genome) == FLOAT)
    traces = {
        (menu, method): Trace(read(work, net, "search", menu, method, seed), net.space(menu), net.n_images, float_score)
        for menu, method, _ in SEARCHES
        if seed == 0 or method not in ONE_SEED
    }
    ours = traces["thesis_weights", "surrogate"]
    float_bytes = 4 * sum(g.size for g in ours.space.genes if g.kind != "activation")
    row: dict[str, Any] = {"net": net.name, "seed": seed, "float_score": ours.float_score, "float_bytes": float_bytes}
    row["hypervolume"] = {
        method: {**{f"@{n}": trace.after(n) for n in (50, 100, 500, 1000)}, "last": trace.last, "n": trace.steps[-1][0]}
        for (menu, method), trace in traces.items() if menu == "thesis_weights"
    }  # fmt: skip
    for name in ("genetic", "genetic_uniform"):
        theirs = traces["thesis_weights", name]
        found, spent = ours.reached(theirs.last), theirs.reached(theirs.last)
        row[f"surrogate_reaches_{name}"] = found and {
            "n": found[0], "cpu_s": found[1] + ours.part["setup_s"], "genetic_n": spent[0]
        }  # fmt: skip
        row[f"fewer_than_{name}"] = spent[0] / found[0] if found else None
    row["surrogate_whole_cpu_s"] = ours.part["cpu_s"]
    row["bytes"] = {f"{menu} {method}": sizes(trace) for (menu, method), trace in traces.items()}
    for drop in DROPS:
        theirs_bytes = [
            b for n in ("genetic", "genetic_uniform") if (b := row["bytes"][f"thesis_weights {n}"][f"-{drop}"])
        ]
        own = row["bytes"]["own_weights surrogate"][f"-{drop}"]
        row[f"smaller_at_-{drop}"] = min(theirs_bytes) / own if theirs_bytes and own else None
    row["joint"] = {f"-{drop}": joint(traces["own", "surrogate"], drop) for drop in DROPS}
    return row


def sizes(trace: Trace) -> dict[str, int | None]:
    found = {f"-{drop}": trace.smallest(drop) for drop in DROPS}
    return {name: best and best[0] for name, best in found.items()}


def joint(trace: Trace, drop: float) -> dict[str, Any] | None:
    """Weights, and the upper bound of all activations, of the smallest weights within ``drop``."""
    best = trace.smallest(drop)
    if best is None:
        return None
    space = trace.space
    float_bytes = 4 * sum(g.size for g in space.genes if g.kind == "activation")
    return {
        "weight_bytes": best[0],
        "activation_bytes": space.dynamic_bits(best[1]) / 8,
        "activation_share_of_float": space.dynamic_bits(best[1]) / 8 / float_bytes,
    }


def one_cost(net: Net, menu: str, work: Path) -> dict[str, Any]:
    """What one evaluation costs inside a search."""
    method = next(method for name, method, _ in COSTS if name == menu)
    part = read(work, net, "cost", menu, method, 0)
    pairs = part["pairs"]
    ours, forward, scoring = (sum(p[k] for p in pairs) for k in ("ours_s", "forward_s", "scoring_s"))
    return {
        "net": net.name, "menu": menu, "method": method, "n": len(part["ours_s"]), "n_pairs": len(pairs),
        "ours_ms": 1000 * float(np.mean(part["ours_s"])), "naive_ms": 1000 * (forward + scoring) / len(pairs),
        "naive_forward_ms": 1000 * forward / len(pairs), "ratio": (forward + scoring) / ours,
        "ratio_median_of_pairs": median((p["forward_s"] + p["scoring_s"]) / p["ours_s"] for p in pairs),
        "ratio_to_naive_forward_alone": forward / ours, "nodes_skipped": part["nodes_skipped"],
        "largest_score_difference": max(abs(p["score"] - p["naive_score"]) for p in pairs),
    }  # fmt: skip


def one_held_out(net: Net, menu: str, seeds: int, work: Path) -> dict[str, Any]:
    """How much of what a front promises held-out images take away, against float on the same images."""
    parts = [read(work, net, "held_out", menu, "surrogate", seed) for seed in range(seeds)]
    excess = [
        [(s - p["float"][0]) - (other - p["float"][1]) for s, other, _ in p["front"] if s >= p["float"][0] - 0.03]
        for p in parts
    ]
    return {
        "net": net.name, "menu": menu, "n_front": [len(e) for e in excess],
        "worst_drop": [max(e, default=None) for e in excess], "median_drop": [median(e) if e else None for e in excess],
        "n_screened_out": [p["n_dropped"] for p in parts],
    }  # fmt: skip


KINDS = {"search": (searched, SEARCHES), "cost": (timed, COSTS), "held_out": (held_out, HELD_OUT)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="regular expression of parts NET-KIND-MENU-METHOD-SEED; no summary")
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    nets = [Net(path, args.data, args.images) for path in args.nets]
    for net, (kind, (run, parts)) in itertools.product(nets, KINDS.items()):
        for (menu, method, limit), seed in itertools.product(parts, range(args.seeds)):
            if seed and (kind == "cost" or method in ONE_SEED):
                continue
            name = f"{net.name}-{kind}-{menu}-{method}-{seed}"
            place = args.work / f"{name}.json"
            done = place.is_file() and json.loads(place.read_text())["done"]
            if not done and re.search(args.only, name):
                part = run(net, menu, method, limit, seed, place)
                atomic_json(place, {"done": True, "limit": limit, "commit": machine()["commit"], **part})
                print(name, flush=True)
    if args.only:
        return
    report = {
        "benchmark": "bit_search",
        "command": " ".join(["python", "benchmarks/bit_search.py", *sys.argv[1:]]),
        "machine": machine(),
        "images": args.images,
        **summary(nets, args.seeds, args.work),
    }
    atomic_json(args.result, rounded(report))


def rounded(value: Any) -> Any:
    """Five significant digits are plenty."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
