"""search, stats."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from bitfront.cli.console import Answer, percent, size, table
from bitfront.cli.fitting import budget, run_answer
from bitfront.cli.options import (
    DataText,
    Device,
    DryRun,
    Limit,
    ModelOptions,
    ModelText,
    Ray,
    Runs,
    Seed,
    Set,
    Shared,
    Workers,
    cache_folder,
    knobs,
    required,
    whole,
)
from bitfront.errors import UsageError

if TYPE_CHECKING:
    from bitfront.fitting.config import BitSearch

__all__ = ["Bits", "search", "stats"]

WidthsOfWeights = Annotated[
    str | None, Parameter(help="Widths to choose from, e.g. 2,3,4,6,8 [default: the method's].")
]
WidthsOfActivations = Annotated[
    str | None, Parameter(help="The same for activations, e.g. 8,16; float leaves them alone.")
]


@Parameter(name="*", group="Bits")
@dataclass(frozen=True, kw_only=True)
class Bits:
    """Options of a bit search."""

    weight_bits: WidthsOfWeights = None
    activation_bits: WidthsOfActivations = None
    evaluations: Annotated[int | None, whole("Full evaluations [default: 200; thesis 000's own number].")] = None
    rule: Annotated[str | None, Parameter(help="How integer bits are chosen: max or mse.")] = None
    equalize: Annotated[
        bool | None, Parameter(help="Balance neighbouring layers' channels first [default: as the method does].")
    ] = None
    per_channel: Annotated[bool, Parameter(help="A shift for every output channel of a weight.", negative=())] = False
    rounding: Annotated[
        str | None, Parameter(help="How results are rounded: half_even or, for kernels of boards, half_up.")
    ] = None

    def fill(self, shared: Shared, method: str | None, objectives: list[str] | None) -> BitSearch:
        """Return the search, completed from ``bits:`` of the configuration file. Raises UsageError."""
        from bitfront.fitting.config import BitSearch

        stored = shared.fill(bits=None)["bits"] or {}
        given = {
            "method": method,
            "weight_bits": widths(self.weight_bits, "--weight-bits"),
            "activation_bits": widths(self.activation_bits, "--activation-bits"),
            "evaluations": self.evaluations,
            "rule": self.rule,
            "equalized": self.equalize,
            "per_channel": self.per_channel or None,
            "rounding": self.rounding,
            "costs": tuple(o for o in objectives if o != "score") if objectives else None,
        }
        known = {key: value for key, value in given.items() if value is not None}
        return BitSearch(**{**stored, **known})


def widths(text: str | None, option: str) -> tuple[int, ...] | None:
    """Return ``2,4,8`` as numbers; ``float`` as none at all. Raises UsageError."""
    if text is None:
        return None
    if text.strip().lower() == "float":
        return ()
    if not re.fullmatch(r"\s*\d{1,2}(\s*,\s*\d{1,2})*\s*", text):
        raise UsageError(f"{option}: '{text}' is no list of widths", hint=f"for example {option} 2,4,8")
    return tuple(int(part) for part in text.split(","))


def search(
    model: ModelText = None,
    data: DataText = None,
    /,
    *,
    method: Annotated[str | None, Parameter(help="`bitfront list methods` [default: surrogate].")] = None,
    bits: Bits = Bits(),
    objective: Annotated[
        list[str] | None,
        Parameter(
            help="score and any of flash, ram, instructions, modelled_latency, cycles, npu [default: score, flash; on "
            "microcontrollers instructions too]. Repeatable.",
            negative=(),
        ),
    ] = None,
    max_size: Annotated[str | None, Parameter(help="Limit of the file, on a microcontroller of flash.")] = None,
    max_ram: Annotated[str | None, Parameter(help="Limit of the memory for activations, e.g. 128kB.")] = None,
    min_score: Annotated[str | None, Parameter(help="Score to keep, e.g. 0.95: the search polishes there.")] = None,
    max_drop: Annotated[str | None, Parameter(help="Or the loss against float, e.g. 1% [default: 1%].")] = None,
    time: Annotated[str | None, Parameter(help="Wall time of the whole run, e.g. 90s, 10m, 1h.")] = None,
    members: Annotated[int | None, whole("Members of the front that become files [default: 8].")] = None,
    train_members: Annotated[
        int | None, whole("Members that lose, to be trained under their plans [default: none; at most 3].")
    ] = None,
    runtime: Annotated[
        str | None, Parameter(help="Engine of the members' files [default: the device's]; c_fixed: integer C.")
    ] = None,
    device: Device = None,
    score: Annotated[str | None, Parameter(help="Metric that drives the search [default: the task's].")] = None,
    limit: Limit = None,
    workers: Workers = None,
    ray: Ray = None,
    name: Annotated[str | None, Parameter(help="Name of the run [default: model and data].")] = None,
    runs: Runs = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    set_: Set = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Choose the bits of every tensor of a trained network: a front of score against flash, RAM or cycles.

    Candidates are simulated exactly; members of the front are exported, verified and scored beside float32 and int8.
    `--method genetic` is the search of thesis 000. `bitfront resume RUN` goes on after an interruption.
    """
    from dataclasses import replace

    from bitfront.pipeline import plan_search
    from bitfront.pipeline import search as run

    names = {"max_latency": None, "max_size": max_size, "max_ram": max_ram, "min_score": min_score}
    limits = budget(shared.fill(**names, max_drop=max_drop, time=time))
    given = shared.fill(model=model, data=data, score=score, limit=limit, seed=seed, runtime=runtime, device=device)
    chosen, place = required(given["model"], "MODEL"), required(given["data"], "DATA")
    wanted = bits.fill(shared, method, objective)
    wanted = replace(wanted, method=wanted.method or "surrogate", n_members=members or wanted.n_members)
    wanted = replace(wanted, n_trained=wanted.n_trained if train_members is None else train_members)
    opening = {"settings": knobs(set_, shared), **model_options.fill(shared)}
    if dry_run:
        plan = plan_search(chosen, place, bits=wanted, device=given["device"] or "host", **opening)
        return Answer({"plan": plan}, [f"{key.replace('_', ' ')}: {value}" for key, value in plan.items()])
    options = {key: given[key] for key in ("score", "limit", "seed", "runtime", "device") if given[key] is not None}
    where = shared.fill(name=name, runs=runs, workers=workers, ray=ray)
    progress = shared.progress()
    found = run(
        chosen, place, bits=wanted, **opening, **options, budget=limits, name=where["name"],
        runs=where["runs"] or "runs", command=shlex.join(["bitfront", *sys.argv[1:]]), progress=progress.whole,
        workers=where["workers"], ray=where["ray"] or "",
    )  # fmt: skip
    progress.clear()
    return run_answer(found)


def stats(
    model: ModelText = None,
    data: DataText = None,
    /,
    *,
    weight_bits: Annotated[str, Parameter(help="Widths of weights and biases.")] = "4,8,12,16",
    activation_bits: Annotated[str, Parameter(help="Widths of activations; float leaves them out.")] = "8,16",
    rule: Annotated[str, Parameter(help="How integer bits are chosen: max or mse.")] = "max",
    equalize: Annotated[bool, Parameter(help="Balance neighbouring layers' channels first.", negative=())] = False,
    metric: Annotated[
        bool, Parameter(help="Metric stats too: the score with one tensor quantized at a time.", negative=())
    ] = False,
    calibrate: Annotated[int, whole("Images that activations are read from, of the train part.")] = 64,
    out: Annotated[Path | None, Parameter(help="Write all numbers as .csv or .json, or a page as .html.")] = None,
    score: Annotated[str | None, Parameter(help="Metric of --metric [default: the task's].")] = None,
    limit: Limit = None,
    seed: Seed = None,
    set_: Set = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    shared: Shared = Shared(),  # noqa: B008 - frozen
) -> Answer:
    """Say what fixed point does to every tensor: range, integer and fractional bits, clipped values, rounding errors.

    Source: thesis 000, 4.4 (Qmn stats) and 4.5 (metric stats).
    """
    from bitfront.verbs.statistics import stats as run

    given = shared.fill(model=model, data=data, score=score, limit=limit, seed=seed)
    progress = shared.progress()
    found = run(
        required(given["model"], "MODEL"),
        required(given["data"], "DATA"),
        out=out,
        weight_bits=widths(weight_bits, "--weight-bits") or (),
        activation_bits=widths(activation_bits, "--activation-bits") or (),
        rule=rule,
        equalized=equalize,
        metric=metric,
        n_calibrate=calibrate,
        score=given["score"] or "",
        limit=given["limit"],
        seed=given["seed"] or 0,
        settings=knobs(set_, shared),
        cache=cache_folder(),
        progress=progress,
        **model_options.fill(shared),
    )
    progress.clear()
    shared.notes(found.notes)
    text: list[Any] = [_stats_table(found)]
    if found.float_score is not None:
        text.append(
            f"-n: points of score lost with this tensor alone quantized; float has {percent(found.float_score)}"
        )
    total = sum(t.size for t in found.tensors if t.kind in ("weight", "bias"))
    text.append(f"{len(found.tensors)} tensors, {size(4 * total)} of weights and biases in float32")
    text.insert(1, "m.n: integer and fractional bits; cut: values beyond the ends")
    return Answer(found.to_json(), [*text, *([f"written: {out}"] if out else [])])


def _stats_table(found: Any) -> Any:
    columns = [f">{bits} bits" for bits in found.widths]
    rows = [
        (t.name, t.kind, str(t.size), f"{t.low:.3g} .. {t.high:.3g}", *(_cell(t, bits) for bits in found.widths))
        for t in found.tensors
    ]
    return table(("tensor", "", ">elements", ">range", *columns), rows)


def _cell(tensor: Any, bits: int) -> str | None:
    """``m.n``, what is clipped, and what the score loses."""
    stat = next((w for w in tensor.widths if w.bits == bits), None)
    if stat is None:
        return None
    parts = [f"{stat.int_bits}.{stat.frac_bits}"]
    if stat.clipped:
        parts.append(f"{100 * stat.clipped:.2g}% cut")
    if stat.drop is not None and stat.drop >= 0.0005:
        parts.append(f"-{100 * stat.drop:.1f}")
    return " ".join(parts)
