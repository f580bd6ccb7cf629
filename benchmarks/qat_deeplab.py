"""Quantization-aware training as thesis 003 compares it, on DeepLabV3+ and Fast-SCNN.

    python benchmarks/qat_deeplab.py --shared ../shared --work runs/qat_deeplab

DeepLabV3+ on a narrow MobileNetV2, small images, from fresh weights: float from scratch; fine-tuned in float for as
many epochs as the quantized trainings have, at the rate of the int8 one; both with post-training quantization (PTQ);
trained on under the formats (QAT, fine-tuned: delay 0, a small rate); and in float first, under the formats late, in
one run on one schedule (QAT, delayed). Batch normalization is folded before QAT, or, where a row says so, live for the
first half of it. The formats are int8 (affine, per channel, 8-bit activations), and 4-bit weights by the rule of thesis
000 (one power-of-two format per tensor, the smallest m that covers the maximum, nothing equalized, biases 16 bits,
activations float), which lose much. Fast-SCNN is a published 256-pixel .onnx file under the 4-bit formats. Scores are
those of files in ONNX Runtime on val, at the size of the original images; val also chooses the best epoch. One seed.

What lies in --work is used again; trainings go on where they stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from machine import machine

import bitfront
from bitfront.contracts import Metrics
from bitfront.graph import passes
from bitfront.quant.menu import MenuOptions, build_menu
from bitfront.quant.plan import Plan, weight_bytes
from bitfront.store import atomic_json, atomic_write
from bitfront.train.options import TrainOptions
from bitfront.verbs.artifacts import calibration_images
from bitfront.verbs.opening import open_both
from bitfront.verbs.quantized_training import train_quantized

RESULT = Path(__file__).with_name("results") / "qat_deeplab.json"
DEEPLAB = "deeplab_v3plus_mobilenet_v2"
THESIS = MenuOptions((4,), (), (16,), "max", equalized=False, bias_correction=False, layer_rounding=False)
RATES = {"int8": 1e-3, "w4": 4e-3}
"""Of the fine-tunings: higher where more is lost."""
LOSS = 0.005
"""Where less was lost, nothing is said of what came back."""
LIVE = 0.5
"""Share of a training under a plan in which batch normalization is live."""
FAST_SCNN = "fastscnn_256a0.125t6r2pp0"


@dataclass(frozen=True)
class Study:
    """One network on one dataset."""

    name: str
    data: str
    settings: dict[str, Any]
    epochs: int
    """In float, from fresh weights."""
    under: int = 8
    """Epochs under a plan, and of the float fine-tuning."""
    formats: tuple[str, ...] = ("w4", "int8")
    score: str = "miou"


STUDIES = (
    Study("packages", "packages", {"width": 0.35, "head_width": 0.25, "resolution": (128, 128)}, 40),
    Study("camvid", "camvid", {"width": 0.35, "head_width": 0.25, "resolution": (96, 128)}, 12, 4, ("int8",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder of data/ and models/")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, files and rows")
    parser.add_argument("--studies", default="packages", help="packages, camvid, or both with a comma")
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for row in measured(args.studies.split(","), args.shared, args.work):
        rows.append(row)
        report = {
            "benchmark": "qat_deeplab",
            "command": " ".join(["python", "benchmarks/qat_deeplab.py", *sys.argv[1:]]),
            "machine": machine(),
            "part": "val; it also chooses the best epoch",
            "seed": 0,
            "rows": rows,
        }
        atomic_json(args.result, report)
        atomic_write(args.result.with_suffix(".md"), markdown(rows).encode())


def measured(names: list[str], shared: Path, work: Path) -> Iterator[dict[str, Any]]:
    for study in (s for s in STUDIES if s.name in names):
        yield from Bench(study, str(shared / "data" / study.data), work).rows()
        if study.name == "packages":
            yield from fast_scnn(shared, work)


class Bench:
    """The rows of one study, each measured once."""

    def __init__(self, study: Study, data: str, work: Path) -> None:
        self.study, self.data, self.work = study, data, work / study.name
        self.work.mkdir(parents=True, exist_ok=True)
        self.scratch = self.work / "scratch.safetensors"
        self.fine_tuned = self.work / "fine_tuned.safetensors"

    def rows(self) -> Iterator[dict[str, Any]]:
        study, fine = self.study, TrainOptions(epochs=self.study.under, device="cpu")
        whole = TrainOptions(epochs=study.epochs, rate=1e-2, device="cpu", validate_every=2)
        yield self._row("scratch", lambda: self._float(DEEPLAB, self.scratch, whole))
        yield self._row("fine_tuned", lambda: self._float(str(self.scratch), self.fine_tuned, replace(fine, rate=1e-3)))
        yield self._row("ptq_fine_tuned_int8", lambda: self._rounded(self.fine_tuned))
        for formats in study.formats:
            options = replace(fine, rate=RATES[formats])
            yield from self._under(f"qat_fine_tuned_{formats}", str(self.scratch), formats, options, 0)
        if "w4" in study.formats:
            options = replace(fine, rate=RATES["w4"])
            yield [*self._under("qat_live_norm_w4", str(self.scratch), "w4", options, 0, live_norm=LIVE)][1]
        delayed = replace(whole, epochs=study.epochs + study.under)
        for formats in study.formats:
            yield from self._under(f"qat_delayed_{formats}", DEEPLAB, formats, delayed, study.epochs)

    def _float(self, model: str, out: Path, options: TrainOptions) -> dict[str, Any]:
        settings = self.study.settings if model == DEEPLAB else None
        if not out.is_file():
            bitfront.train(model, self.data, out, options=options, settings=settings, on_epoch=said(out.stem))
        metrics = bitfront.evaluate(str(out), self.data, part="val").metrics
        return {"epochs": options.epochs, "rate": options.rate, **scores(metrics)}

    def _rounded(self, model: Path) -> dict[str, Any]:
        out = self.work / f"{model.stem}_int8.onnx"
        made = bitfront.quantize(str(model), self.data, out, recipe="int8", part="val")
        return {"formats": "int8", **scores(made.metrics)}

    def _under(
        self, name: str, model: str, formats: str, options: TrainOptions, delay: int, live_norm: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the row of a training under a plan, and before it that of the same plan without training."""
        row = self._row(name, lambda: self._quantized(name, model, formats, options, delay, live_norm))
        before = {key: row[key] for key in ("study", "network", "formats", "float", "weight_bytes", "float_bytes")}
        origin = "delayed" if delay else "scratch"
        yield {**before, "row": f"ptq_{origin}_{formats}", **row.pop("ptq")}
        yield row

    def _quantized(
        self, name: str, model: str, formats: str, options: TrainOptions, delay: int, live_norm: float | None
    ) -> dict[str, Any]:
        out, kept = self.work / f"{name}.onnx", self.work / "delayed_float"
        state = out.with_name(f"{out.name}.training") / "float"
        if delay and kept.is_dir() and not state.exists():  # the same epochs in float, whatever formats follow
            shutil.copytree(kept, state)

        def watch(epoch: Any) -> None:
            said(name)(epoch)
            if delay and epoch.index == delay - 1 and not kept.is_dir():
                shutil.copytree(state, kept)

        made = train_quantized(
            model,
            self.data,
            out,
            **given(formats, model, self.data, self.study.settings),
            delay=delay,
            live_norm=live_norm,
            options=options,
            settings=self.study.settings if delay else None,
            part="val",
            on_epoch=watch,
        )
        return {
            "delay": delay,
            "live_norm": live_norm,
            "epochs": STUDIES[0].under,
            "rate": options.rate,
            "formats": formats,
            **outcome(made, self.study),
        }

    def _row(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        kept = self.work / f"{name}.json"
        if not kept.is_file():
            began = time.process_time()
            found = {"row": name, "study": self.study.name, "network": "DeepLabV3+ MobileNetV2", **measure()}
            atomic_json(kept, {**found, "cpu_seconds": round(time.process_time() - began)})
        row: dict[str, Any] = json.loads(kept.read_text())
        return row


def fast_scnn(shared: Path, work: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a published file under 4-bit weights."""
    data = str(shared / "data" / "packages")
    file = str(shared / "models" / "fastscnn_packages" / "onnx" / f"{FAST_SCNN}.onnx")
    options = TrainOptions(epochs=STUDIES[0].under, rate=RATES["w4"], device="cpu")
    learned = {"learn_ranges": 0.0, "freeze_ranges": 0.75}
    trainings = {"qat_fine_tuned_w4": {}, "qat_live_norm_w4": {"live_norm": LIVE}, "qat_learned_w4": learned}
    for name, shares in trainings.items():
        out = work / f"{FAST_SCNN}_{name}.onnx"
        kept = out.with_suffix(".json")
        if not kept.is_file():
            made = train_quantized(
                file,
                data,
                out,
                **given("w4", file, data),
                **shares,
                options=options,
                part="val",
                on_epoch=said(name),
            )
            facts = {"row": name, "study": "packages", "network": "Fast-SCNN", "formats": "w4", **shares}
            atomic_json(kept, {**facts, "epochs": STUDIES[0].under, "rate": options.rate, **outcome(made, STUDIES[0])})
        row = json.loads(kept.read_text())
        before = {key: row[key] for key in ("study", "network", "formats", "float", "weight_bytes", "float_bytes")}
        rounded = {**before, "row": "ptq_w4", **row.pop("ptq")}
        yield from [row] if shares else [rounded, row]


def given(formats: str, model: str, data: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the recipe or the plan that ``train_quantized`` takes."""
    if formats == "int8":
        return {"recipe": "int8"}
    opened = open_both(model, data, settings=settings if model == DEEPLAB else None)
    menu = build_menu(
        passes.prepare(opened.source.graph()), batches=calibration_images(opened, 8, 0, None), options=THESIS
    )
    return {"plan": menu.plan({dish.tensor: 16 if dish.kind == "bias" else 4 for dish in menu.dishes}, "w4")}


def outcome(made: Any, study: Study) -> dict[str, Any]:
    """Return what came of a training under a plan: the scores of three files, and what share of the loss came back."""
    from bitfront.graph import files

    graph, plan = files.load(made.exported.path.with_suffix(files.SUFFIX))
    before, after, top = (m.values[study.score] for m in (made.before, made.metrics, made.float_metrics))
    return {
        **scores(made.metrics),
        "float": scores(made.float_metrics),
        "ptq": scores(made.before),
        "recovered": round((after - before) / (top - before), 4) if top - before > LOSS else None,
        "in_training": round(made.trained.best_score, 5),
        "file": round(made.metrics.value, 5),
        "best_epoch": made.trained.best_epoch + 1,
        "verified": made.agreement.verified,
        "weight_bytes": weight_bytes(graph, plan),
        "float_bytes": weight_bytes(graph, Plan("float32")),
    }


def scores(metrics: Metrics) -> dict[str, Any]:
    rounded = {name: None if v is None else round(v, 5) for name, v in metrics.per_class["iou"].items()}
    return {"miou": round(metrics.values["miou"] or 0, 5), "iou": rounded}


def said(name: str) -> Callable[[Any], None]:
    def say(epoch: Any) -> None:
        print(name, epoch.index + 1, round(epoch.loss, 4), epoch.score, round(epoch.seconds, 1), flush=True)

    return say


# --- the table -------------------------------------------------------------------------------------------------------
LABELS = {
    "scratch": "float, from scratch",
    "fine_tuned": "float, fine-tuned",
    "ptq_fine_tuned": "PTQ, of float fine-tuned",
    "ptq_scratch": "PTQ, of float from scratch",
    "qat_fine_tuned": "QAT, fine-tuned",
    "qat_live_norm": "QAT, fine-tuned, live normalization",
    "qat_learned": "QAT, fine-tuned, ranges learned for 3/4",
    "ptq_delayed": "PTQ, where the delay ends",
    "qat_delayed": "QAT, delayed",
    "ptq": "PTQ",
}
FORMATS = {"int8": "int8", "w4": "4-bit weights", None: "float32"}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return a table for every study and network: mIoU, IoU of every class, bytes of the weights."""
    lines = ["# Quantization-aware training", "", (__doc__ or "").split("\n\n")[2].replace("\n", " "), ""]
    for key in dict.fromkeys((row["network"], row["study"]) for row in rows):
        own = [row for row in rows if (row["network"], row["study"]) == key]
        classes = list(own[0]["iou"])
        lines += [
            f"## {key[0]} on {key[1]}",
            "",
            "IoU in %. *recovered*: of what the same formats lose without training.",
        ]
        heads = ["", "formats", "mIoU", *classes, "recovered", "weights"]
        lines += ["", f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 2)}"]
        if key[0] == "Fast-SCNN":
            lines.append(_line("float, as published", None, own[0]["float"], None, own[0]["float_bytes"]))
        for row in own:
            label = LABELS[row["row"].removesuffix("_int8").removesuffix("_w4")]
            n = row.get("weight_bytes")
            lines.append(_line(label, row.get("formats"), row, row.get("recovered"), n))
        lines.append("")
    return "\n".join(lines)


def _line(label: str, formats: str | None, found: dict[str, Any], recovered: float | None, n: int | None) -> str:
    cells = [label, FORMATS[formats], *(_percent(v) for v in (found["miou"], *found["iou"].values()))]
    cells += ["" if recovered is None else f"{100 * recovered:.0f} %", "" if n is None else f"{n / 1000:.0f} kB"]
    return f"| {' | '.join(cells)} |"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


if __name__ == "__main__":
    main()
