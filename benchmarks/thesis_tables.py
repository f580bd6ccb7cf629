"""Tables 6.1 and 6.2 of thesis 000 for the data at hand: its genetic search and its heuristic beside our search.

    python benchmarks/thesis_tables.py --work runs/thesis_tables \\
        --pair Fast-SCNN fastscnn_256a0.125t6r2pp0.onnx ../shared/data/packages 1e-3 \\
        --pair Q-Seg1 q1_packages.safetensors ../shared/data/packages 2e-4 \\
        --pair Q-Seg1 q1_camvid.safetensors ../shared/data/camvid 2e-4 \\
        --pair Fast-SCNN camvid_run/state/best.safetensors ../shared/data/camvid 5e-5 \\
        --pair Q-Seg2 q2_packages.safetensors ../shared/data/packages 2e-4 \\
        --pair Q-Seg2 q2_camvid.safetensors ../shared/data/camvid 2e-4

The last value is the learning rate of quantization-aware training: a tenth of the float training's; a sixtieth for
Fast-SCNN on CamVid, which was trained with class weights that this training does not have, and loses points at a tenth.

The first network (width 0.125, 256 x 256) is one of the given Fast-SCNNs. The Q-Segs were trained by (N: 1 and 2)

    bitfront train q_segN ../shared/data/packages --out qN_packages.safetensors --set resolution=128x128 \\
        --set momentum=0.9 --epochs 24 --learning-rate 0.002 --seed 0
    bitfront train q_segN ../shared/data/camvid --out qN_camvid.safetensors --set resolution=96x128 \\
        --set momentum=0.9 --epochs 36 --learning-rate 0.002 --seed 0

and Fast-SCNN on CamVid (256 x 320) by ``benchmarks/camvid_training.py``. Rows:

- GA: formats, widths, cut and genetic search of thesis 000 (biased odds; weight, output and All search), ended early by
  ``--genetic`` evaluations after the metric stats. The smallest plan that loses at most ``DROP``.
- heuristic + QAT: thesis 000, 4.6, at six thresholds. The smallest plan that loses at most ``QAT_DROP`` is trained.
- ours: the default search, 8-bit activations; chosen as for GA, and as there without screening on other images.
- ours + QAT: the smallest plan of the same front that loses at most ``QAT_DROP``, trained.

Searches score on ``N_IMAGES`` evenly spaced images of val; the table's scores are those of the exported files in ONNX
Runtime on all of val, at the size of the original images. val also chooses the best epoch of a training. Time is CPU
time of one thread: metric stats (for both methods of the thesis), search, training and its validation. Everything
finished lies in ``--work`` and is not done again; results are written after every pair.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from bitfront import batches, images
from bitfront.contracts import DataInfo, Sample
from bitfront.graph import files, passes
from bitfront.measure import verify
from bitfront.quant.costs import Costs
from bitfront.quant.menu import Menu, MenuOptions, build_menu
from bitfront.quant.plan import Plan
from bitfront.record import digest_file
from bitfront.report.figures import ACCENT, DOT, INK, MUTED, SERIES, encode, plain_figure, quiet_fonts
from bitfront.report.search_tables import MethodRow, methods_table
from bitfront.report.series import staircase
from bitfront.report.table_files import markdown
from bitfront.report.tables import metric_name
from bitfront.search.baselines import heuristic
from bitfront.search.evaluations import Cost, Evaluations, Limit, Row
from bitfront.search.genetic import GeneticOptions, genetic
from bitfront.search.journal import Journal
from bitfront.search.networks import NetworkEvaluator, bits_of, space_of
from bitfront.search.sensitivity import metric_stats, spread
from bitfront.search.space import FLOAT, Genome, Space
from bitfront.search.surrogate import SurrogateOptions, surrogate
from bitfront.store import atomic_json, atomic_write
from bitfront.train.options import preset
from bitfront.verbs.artifacts import N_VERIFY, observer, open_runtime, write_artifact
from bitfront.verbs.opening import open_both
from bitfront.verbs.quantized_training import train_quantized
from bitfront.verbs.scoring import score_file

RESULT = Path(__file__).with_name("results") / "thesis_tables.json"
N_CALIBRATION, N_IMAGES = 32, 16
DROP, QAT_DROP = 0.01, 0.05
LEGEND_WIDTH = 150
MENUS = {"thesis": MenuOptions.thesis_000(), "ours": dataclasses.replace(MenuOptions(), activation_bits=(8,))}
FILES = (("GA", "o", SERIES[1]), ("heuristic + QAT", "s", INK), ("ours", "o", ACCENT), ("ours + QAT", "D", SERIES[2]))
ROWS = ("float", "GA", "heuristic + QAT", "ours", "ours + QAT")


# --- one network on one dataset --------------------------------------------------------------------------------------
@dataclass
class Pair:
    """A trained network on its data."""

    network: str
    model: str
    data: str
    rate: str
    work: Path
    args: argparse.Namespace

    @cached_property
    def opened(self):
        return open_both(self.model, self.data)

    @cached_property
    def engine(self):
        return open_runtime()

    @cached_property
    def dataset(self) -> str:
        return self.opened.info.name

    @cached_property
    def folder(self) -> Path:
        return self.work / f"{self.dataset}-{self.network}".lower()

    @cached_property
    def score(self) -> str:
        return self.opened.task.meter(self.opened.info).score

    @cached_property
    def graph(self):
        return passes.prepare(self.opened.source.graph())

    def samples(self, part: str, n: int | None = None) -> Sequence[Sample]:
        there = self.opened.dataset.part(part)
        return there if n is None else [there[i] for i in spread(len(there), n)]

    @cached_property
    def menus(self) -> dict[str, Menu]:
        return {}

    def menu(self, name: str) -> Menu:
        if name not in self.menus:
            train, rng = self.samples("train"), np.random.default_rng(0)
            calibration = batches.calibration(train, self.opened.source.input, N_CALIBRATION, rng)
            self.menus[name] = build_menu(self.graph, None, calibration, MENUS[name], observer(self.engine))
        return self.menus[name]

    def space(self, name: str) -> Space:
        space = space_of(self.menu(name))
        return space.cut() if name == "thesis" else space

    def evaluator(self, name: str, part: str, n: int) -> NetworkEvaluator:
        samples = self.samples(part, n)
        read = batches.evaluation(samples, self.opened.source.input, 8)
        pixels = np.concatenate([batch.images for batch, _ in read])
        scorer = self.opened.task.scorer(samples, self.opened.source.output, self.opened.info)
        return NetworkEvaluator(self.menu(name), self.space(name), pixels, scorer, identity=f"{self.data} {part} {n}")

    def flash(self, name: str) -> Callable[[Genome], float]:
        costs = Costs(self.menu(name).graph, [gene.name for gene in self.space(name).genes])
        return lambda genome: float(costs.flash_bytes(genome))

    def kept(self, name: str, make: Callable[[], dict]) -> dict[str, Any]:
        """Return what ``make`` gave once."""
        place = self.folder / f"{name}.json"
        if not place.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_json(place, make())
        return json.loads(place.read_text())


# --- searches --------------------------------------------------------------------------------------------------------
def search_with(
    pair: Pair, menu: str, method: str, run, limit: float | None = None, stored: Sequence[Row] = ()
) -> dict:
    """Run ``run(evaluations)`` on evaluations that survive a kill; CPU seconds hold those of the ``stored`` rows."""
    start = time.process_time()
    evaluator, space = pair.evaluator(menu, "val", N_IMAGES), pair.space(menu)
    setup_s = time.process_time() - start
    with Journal(pair.folder / "evaluations", evaluator.id, space.id, method) as journal:
        evaluations = Evaluations(
            space, evaluator, evaluator.n_images, [Cost("flash", pair.flash(menu))], limit=Limit(limit),
            stored=[*stored, *journal.rows()], on_row=journal.add, clock=time.process_time,
        )  # fmt: skip
        evaluations([space.float32])
        run(evaluations)
    float_score = evaluations.member(space.float32).score
    return {
        "method": method, "float_score": float_score, "n_genes": len(space.free),
        "n_evaluations": evaluations.n_evaluations,
        "cpu_s": setup_s + evaluations.elapsed_s,
        "front": [{"score": m.score, "flash": m.costs[0], "genome": m.genome} for m in evaluations.front()],
        "points": [[m.score, m.costs[0]] for m in evaluations.members if FLOAT not in m.genome],
        "rows": [row.to_json() for row in evaluations.rows] if method == "stats" else [],
    }  # fmt: skip


def searched(pair: Pair, method: str) -> dict[str, Any]:
    """Return a search's result, made once."""
    if method == "surrogate":

        def run(evaluations: Evaluations) -> None:
            floor = evaluations.member(evaluations.space.float32).score - DROP
            surrogate(evaluations, pair.args.seed, SurrogateOptions(floor=floor))

        return pair.kept(method, lambda: search_with(pair, "ours", method, run, pair.args.surrogate))
    stats = pair.kept("stats", lambda: search_with(pair, "thesis", "stats", metric_stats))
    stored = [Row.from_json(row) for row in stats["rows"]]
    if method == "heuristic":
        return pair.kept(method, lambda: search_with(pair, "thesis", method, heuristic, None, stored))
    n_stats, n = stats["n_evaluations"], pair.args.genetic
    limit = n_stats + n  # half of the rest for the weights, a quarter for the outputs, a quarter for the pairs
    options = GeneticOptions(weight_share=(n_stats + n / 2) / limit, output_share=(n_stats + 3 * n / 4) / limit)

    def evolve(evaluations: Evaluations) -> None:
        genetic(evaluations, pair.args.seed, options)

    return pair.kept(method, lambda: search_with(pair, "thesis", method, evolve, limit, stored))


def chosen(found: dict[str, Any], drop: float) -> dict[str, Any]:
    """Return the smallest member of a front that loses at most ``drop``, else the most accurate."""
    fitting = [m for m in found["front"] if m["score"] >= found["float_score"] - drop]
    return min(fitting, key=lambda m: m["flash"]) if fitting else max(found["front"], key=lambda m: m["score"])


# --- files -----------------------------------------------------------------------------------------------------------
def planned(pair: Pair, menu: str, member: dict[str, Any], name: str) -> tuple[Any, Plan]:
    plan = pair.menu(menu).plan(bits_of(pair.space(menu), tuple(member["genome"])), name)
    return pair.menu(menu).finished(plan), plan


def exported(pair: Pair, graph: Any, plan: Plan, place: Path) -> dict[str, Any]:
    """Write a file, verify it and score it on all of val."""
    source, val = pair.opened.source, pair.samples("val")
    write_artifact(pair.engine, graph, plan, source, place)
    probes = batches.calibration(val, source.input, N_VERIFY, np.random.default_rng(0))
    agreement = verify.compare(pair.engine, place, graph, plan, source.input, source.output, probes)
    score = score_file(pair.engine, place, pair.opened, val).values[pair.score]
    return file_facts(place, score, agreement)


def file_facts(place: Path, score: float, agreement: Any) -> dict[str, Any]:
    facts = {"verified": agreement.verified, "max_code_difference": agreement.max_code_difference}
    return {"score": score, "file": str(place), "file_bytes": place.stat().st_size, **facts}


def trained(pair: Pair, menu: str, member: dict[str, Any], name: str) -> dict[str, Any]:
    """Train a plan and return the facts of its file; CPU seconds of everything."""
    start = time.process_time()
    graph, plan = planned(pair, menu, member, name)
    stored, place = pair.folder / f"{name}_before{files.SUFFIX}", pair.folder / f"{name}.onnx"
    files.save(stored, graph, plan)
    options = dataclasses.replace(preset("quantized"), epochs=pair.args.epochs, rate=float(pair.rate), device="cpu")
    made = train_quantized(
        pair.model, pair.data, place, plan=stored, options=options, seed=pair.args.seed, part="val",
        learn_ranges=0.5 if menu == "ours" else None,
    )  # fmt: skip
    before = made.before.values[pair.score]
    return {
        **file_facts(place, made.metrics.values[pair.score], made.agreement), "before_training": before,
        "epochs": len(made.trained.epochs), "curve": [e.score for e in made.trained.epochs],
        "train_cpu_s": time.process_time() - start,
    }  # fmt: skip


def row(pair: Pair, name: str) -> dict[str, Any]:
    """Return one row of the table."""
    if name == "float":
        place = pair.folder / "float.onnx"
        facts = pair.kept("row_float", lambda: exported(pair, pair.graph, Plan("float32"), place))
        space = pair.space("thesis")
        return {"row": name, **facts, "flash_bytes": pair.flash("thesis")(space.float32)}
    method = {"GA": "genetic", "heuristic + QAT": "heuristic"}.get(name, "surrogate")
    menu, is_trained = "ours" if method == "surrogate" else "thesis", name.endswith("QAT")
    found = searched(pair, method)
    member = chosen(found, QAT_DROP if is_trained else DROP)
    slug = name.replace(" + ", "_").lower()
    if is_trained:
        facts = pair.kept(f"row_{slug}", lambda: trained(pair, menu, member, slug))
    else:
        place = pair.folder / f"{slug}.onnx"
        facts = pair.kept(f"row_{slug}", lambda: exported(pair, *planned(pair, menu, member, slug), place))
    space = pair.space(menu)
    return {
        "row": name, **facts, "flash_bytes": member["flash"], "search_score": member["score"],
        "mean_bits": {kind: mean_bits(space, member["genome"], kind) for kind in ("weight", "activation")},
        "n_genes": found["n_genes"], "n_evaluations": found["n_evaluations"],
        "cpu_s": found["cpu_s"] + facts.get("train_cpu_s", 0.0),
    }  # fmt: skip


def mean_bits(space: Space, genome: Sequence[int], kind: str) -> float:
    sizes = [(gene.size, bits) for gene, bits in zip(space.genes, genome, strict=True) if gene.kind == kind]
    return sum(size * bits for size, bits in sizes) / sum(size for size, _ in sizes)


# --- results ---------------------------------------------------------------------------------------------------------
def report_of(pair: Pair) -> dict[str, Any]:
    rows = []
    for name in ROWS:
        rows.append(row(pair, name))
        told = {k: rows[-1].get(k) for k in ("score", "flash_bytes", "file_bytes", "cpu_s", "verified")}
        print(time.strftime("%H:%M:%S"), pair.dataset, pair.network, name, told, flush=True)
    contract = pair.opened.source.input
    return {
        "network": pair.network, "data": pair.dataset, "qat_rate": float(pair.rate), "score": pair.score,
        "n_val": len(pair.samples("val")),
        "resolution": [contract.height, contract.width], "model_sha256": digest_file(Path(pair.model)),
        "rows": [{k: round(v, 5) if isinstance(v, float) else v for k, v in r.items() if k != "file"} for r in rows],
        "fronts": {
            m: [[round(p["score"], 5), p["flash"]] for p in searched(pair, m)["front"]]
            for m in ("genetic", "heuristic", "surrogate")
        },
    }  # fmt: skip


def tables(reports: Sequence[dict[str, Any]]) -> str:
    """Return one table a dataset, as Markdown."""
    found = []
    for data in dict.fromkeys(r["data"] for r in reports):
        own = [r for r in reports if r["data"] == data]
        rows = [table_row(r, entry) for r in own for entry in r["rows"]]
        found.append(f"**{data}**, {own[0]['n_val']} images of val\n\n{markdown(methods_table(rows, own[0]['score']))}")
    return "\n".join(found)


def table_row(report: dict[str, Any], entry: dict[str, Any]) -> MethodRow:
    floats, bits = report["rows"][0], entry.get("mean_bits", {})
    return MethodRow(
        report["network"], entry["row"], floats["score"], entry["score"], floats["flash_bytes"], entry["flash_bytes"],
        weight_bits=bits.get("weight"), activation_bits=bits.get("activation"),
        n_evaluations=entry.get("n_evaluations"),
        file_bytes=entry["file_bytes"], cpu_s=entry.get("cpu_s"), note="" if entry["verified"] else "not verified",
    )  # fmt: skip


# --- pictures --------------------------------------------------------------------------------------------------------
def front_picture(pairs: Sequence[Pair], reports: Sequence[dict[str, Any]]) -> bytes:
    """Draw score by size for the networks of one dataset, as in chapter 5 of the thesis: the float line is dotted."""
    with quiet_fonts():
        figure, axes = plain_figure(4.4 * len(pairs), 3.9, len(pairs))
        for ax, pair, report in zip(axes, pairs, reports, strict=True):
            draw_front(ax, pair, {r["row"]: r for r in report["rows"]})
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8, labelcolor=MUTED)
    return encode(figure)


def draw_front(ax: Any, pair: Pair, rows: dict[str, dict[str, Any]]) -> None:
    floats = rows["float"]

    def places(points: Sequence[Sequence[float]], float_score: float) -> list[tuple[float, float]]:
        return [(100 * flash / floats["flash_bytes"], 100 * (score - float_score)) for score, flash in points]

    for method, name, colour in (("genetic", "GA", SERIES[1]), ("surrogate", "ours", ACCENT)):
        found = searched(pair, method)
        ax.scatter(*zip(*places(found["points"], found["float_score"]), strict=True), s=6, color=colour, alpha=0.3)
        line = staircase(places([(m["score"], m["flash"]) for m in found["front"]], found["float_score"]))
        ax.step(*zip(*line, strict=True), where="post", color=colour, linewidth=1.4, label=f"{name}, search")
    found = searched(pair, "heuristic")
    alone = zip(*places(found["points"], found["float_score"]), strict=True)
    ax.scatter(*alone, s=18, marker="s", color=DOT, label="heuristic, six thresholds")
    for name, marker, colour in FILES:
        (at,) = places([(rows[name]["score"], rows[name]["flash_bytes"])], floats["score"])
        ax.scatter(*at, s=42, marker=marker, color=colour, edgecolors="white", zorder=5, label=f"{name}, file")
    ax.axhline(0, color=SERIES[5], linewidth=1.2, linestyle=":", label="float")
    ax.set_xlim(0, 55)
    ax.set_ylim(-12, 3)
    ax.set_title(pair.network, loc="left", fontsize=10, color=INK)
    ax.set_xlabel("size to float, %", color=MUTED, fontsize=9)
    ax.set_ylabel(f"{metric_name(pair.score)} to float, points", color=MUTED, fontsize=9)


def prediction_picture(pair: Pair, rows: dict[str, dict[str, Any]], n: int = 3, height: int = 150) -> bytes:
    """Draw images, labels and the answers of all files side by side, the legend left of them."""
    info, cells = pair.opened.info, []
    sessions = {name: pair.engine.open(Path(r["file"]), 1) for name, r in rows.items()}
    for sample in pair.samples("val", n):
        size = height, round(height * sample.image.shape[1] / sample.image.shape[0])
        picture = images.resize(sample.image, size)
        (batch, (original,)), *_ = batches.evaluation([sample], pair.opened.source.input, 1)
        masks = {"labels": original.mask}
        for name, session in sessions.items():
            outputs = session.run(batch.images)
            (answer,) = pair.opened.task.predict(outputs, pair.opened.source.output, [sample.image.shape[:2]])
            masks[name] = answer.mask
        cells.append(images.label(picture, "image"))
        cells += [images.label(painted(images.resize(m, size, "nearest"), info), name) for name, m in masks.items()]
    for session in sessions.values():
        session.close()
    sheet = images.tile(cells, len(rows) + 2)
    ramp = np.arange(len(sheet) * LEGEND_WIDTH).reshape(len(sheet), LEGEND_WIDTH) % len(info.classes)
    legend = images.overlay(np.full((*ramp.shape, 3), 24, np.uint8), ramp.astype(np.uint8), info, strength=0.0)
    return images.png(np.concatenate([legend, sheet], axis=1))


def painted(mask: np.ndarray, info: DataInfo) -> np.ndarray:
    """Return a label map in the colours of its classes."""
    return images.overlay(np.full((*mask.shape, 3), 40, np.uint8), mask, info, strength=1.0, legend=False)


def draw(pairs: Sequence[Pair], reports: Sequence[dict[str, Any]], folder: Path) -> None:
    for data in dict.fromkeys(pair.dataset for pair in pairs):
        own = [(p, r) for p, r in zip(pairs, reports, strict=True) if p.dataset == data]
        own.sort(key=lambda each: each[0].network)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / f"thesis_tables_front_{data}.png", front_picture(*zip(*own, strict=True)))
        shown = next((p for p, _ in own if p.network == "Q-Seg1"), own[0][0])
        answers = prediction_picture(shown, {name: row(shown, name) for name in ROWS})
        atomic_write(folder / f"thesis_tables_answers_{data}.png", answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=4, action="append", required=True, metavar=("NETWORK", "MODEL", "DATA", "RATE"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--genetic", type=int, default=300, help="evaluations of the GA after the metric stats")
    parser.add_argument("--surrogate", type=int, default=150, help="evaluations of our search")
    parser.add_argument("--epochs", type=int, default=2, help="of quantization-aware training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--images", type=Path, help="folder for the pictures; none without it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [Pair(*names, args.work, args) for names in args.pair]
    reports: list[dict[str, Any]] = []
    for pair in pairs:
        reports.append(report_of(pair))
        pair.menus.clear()
        write(args, reports)
    if args.images:
        draw(pairs, reports, args.images)


def write(args: argparse.Namespace, reports: Sequence[dict[str, Any]]) -> None:
    names = ("genetic", "surrogate", "epochs", "seed")
    report = {
        "benchmark": "thesis_tables",
        "command": " ".join(["python", "benchmarks/thesis_tables.py", *sys.argv[1:]]),
        "machine": machine(),
        "settings": {
            **{name: getattr(args, name) for name in names},
            "n_search_images": N_IMAGES, "drop": DROP, "qat_drop": QAT_DROP,
        },
        "pairs": list(reports),
    }  # fmt: skip
    atomic_json(args.result, report)
    atomic_write(args.result.with_suffix(".md"), tables(reports).encode())


if __name__ == "__main__":
    main()
