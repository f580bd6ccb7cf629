"""The end of a run: what is dropped, the front, how it stands to the budget, and its folders.

A candidate is *dropped*, with the reason, when its file is not verified, when it loses more of the score of its own
float32 twin than allowed, or when it is slower than that twin beyond the noise. The rest compete for the front.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bitfront.contracts import Objective
from bitfront.errors import UsageError
from bitfront.graph.files import SUFFIX
from bitfront.record import SCHEMA, Budget, Measurement, Record, content_id, to_json
from bitfront.search import front as pareto
from bitfront.store import atomic_json, atomic_write

__all__ = [
    "MAX_DROP",
    "SEARCHED_DROP",
    "baseline",
    "choose_front",
    "cluster_names",
    "deliver",
    "drop",
    "pick_names",
    "picks",
    "twins",
    "with_latency",
]

MAX_DROP = 0.01
"""Loss of score against the float32 twin beyond which a recipe is dropped, unless the budget allows more."""
SEARCHED_DROP = 0.05
"""The same for what a bit search found: less score for fewer bits is what was asked for."""
FLOAT = "float32"
PICKS: Mapping[str, Callable[[Record], float | None]] = {
    "knee": lambda r: None,
    "fastest": lambda r: r.latency.value if r.latency else None,
    "smallest": lambda r: r.artifact.size_bytes if r.artifact else None,
    "best": lambda r: -r.val.value if r.val else None,
}
"""Rule by which a member is recommended -> what it has least of; ``knee``: the best compromise of all objectives."""
CLUSTERS = {1: ("balanced",), 2: ("fast", "accurate"), 3: ("fast", "balanced", "accurate")}
"""Number of clusters that the front falls into -> their names, from the cheap end to the accurate one."""


def twins(records: Sequence[Record]) -> dict[str, Record]:
    """Return candidate id -> the float32 record with the same knobs and weights."""
    floats = {_same(r): r for r in records if r.candidate.recipe == FLOAT}
    return {r.id: floats[_same(r)] for r in records if _same(r) in floats}


def _same(record: Record) -> str:
    c = record.candidate
    return content_id(c.model, c.knobs, c.runtime, c.weights)


def with_latency(records: Sequence[Record], measured: Mapping[str, Measurement]) -> list[Record]:
    """Return the records with their latencies; ratios are against each one's own float32 twin.

    The noise floor of such a ratio is the sum of both floors: it is a quotient of two ratios to a common baseline.
    """
    twin_of = twins(records)
    result = []
    for record in records:
        own = measured.get(record.id)
        base = measured.get(twin_of[record.id].id) if record.id in twin_of else None
        if own is not None and base is not None and own.ratio and base.ratio:
            floor = (own.noise_floor or 0.0) + (base.noise_floor or 0.0 if own is not base else 0.0)
            own = replace(own, ratio=own.ratio / base.ratio, noise_floor=floor)
        result.append(record if own is None else replace(record, latency=own))
    return result


def drop(records: Sequence[Record], budget: Budget) -> list[Record]:
    """Return the records, those that must not be on the front marked as dropped, with the reason."""
    twin_of = twins(records)
    allowed = max(MAX_DROP, budget.max_drop or 0.0)
    return [_judged(r, twin_of.get(r.id), allowed) if r.status == "dominated" else r for r in records]


def _judged(record: Record, twin: Record | None, allowed: float) -> Record:
    reason = _loss(record, twin, max(allowed, SEARCHED_DROP) if record.candidate.plan else allowed)
    return replace(record, status="dropped", reason=reason) if reason else record


def _loss(record: Record, twin: Record | None, allowed: float) -> str:
    agreement = record.agreement
    if agreement is None or not agreement.verified:
        first = f": first differs in {agreement.first_difference}" if agreement and agreement.first_difference else ""
        return f"not verified{first}"
    if twin is None or twin.id == record.id or twin.val is None or record.val is None:
        return ""
    lost = twin.val.value - record.val.value
    if lost > allowed:
        return f"loses {100 * lost:.1f} points of {record.val.score} against float32"
    latency = record.latency
    if latency is not None and latency.ratio is not None and latency.ratio > 1 + (latency.noise_floor or 0.0):
        return f"slower than float32 ({latency.ratio:.2f}x)"
    return ""


def baseline(records: Sequence[Record]) -> Record | None:
    """Return the float32 record that losses of score refer to: the best one, of equals the cheapest."""
    floats = [r for r in records if r.candidate.recipe == FLOAT and r.val is not None]
    return max(floats, key=lambda r: (r.val.value if r.val else 0.0, -(r.macs or 0), r.id), default=None)


# --- the front -------------------------------------------------------------------------------------------------------
def choose_front(
    records: Sequence[Record], objectives: Sequence[Objective], budget: Budget, pick: str = "knee"
) -> tuple[list[Record], dict[str, Any]]:
    """Return the front's records, the recommended one first, and the verdict on the budget.

    Recommended is what ``pick`` says (a name of :data:`PICKS`, or the first letters of a candidate's id) of the members
    that meet the budget; when none does, the nearest miss. The verdict has ``met``, ``chosen`` (an id), ``miss`` (in
    words) and ``clusters``: id -> ``fast``, ``balanced`` or ``accurate``.

    Raises UsageError when ``pick`` is the id of no member, or of several.
    """
    floors = [r.latency.noise_floor or 0.0 for r in records if r.latency is not None]
    noise = {"latency": median(floors)} if floors else {}  # one noisy file must not blur the whole front
    members = list(pareto.front([r for r in records if r.status == "dominated"], objectives, noise))
    if not members:
        miss_text = "no candidate is verified and keeps the score"
        return [], {"met": False, "chosen": "", "miss": miss_text, "clusters": {}}
    float_score = base.val.value if (base := baseline(records)) is not None and base.val else None
    fitting = list(pareto.feasible(members, budget, float_score))
    miss = pareto.nearest_miss(members, budget, float_score) if not fitting else None
    best = miss[0] if miss and pick in PICKS else _picked(fitting or members, objectives, pick)
    members.sort(key=lambda r: (r.id != best.id, -(r.val.value if r.val else 0.0), r.id))
    groups = dict(zip((r.id for r in members), cluster_names(members, objectives), strict=True))
    return members, {"met": not miss, "chosen": best.id, "miss": miss[1] if miss else "", "clusters": groups}


def cluster_names(members: Sequence[Record], objectives: Sequence[Objective]) -> list[str]:
    """Return whether each member of a front belongs to its fast, its balanced or its accurate end.

    A member's place on the front is its score less its mean cost, costs on a logarithmic scale, each scaled to [0, 1]
    over the front; the places fall into clusters by :func:`bitfront.search.front.clusters`. Without a score among the
    objectives, or without a cost, there is nothing to trade: all are balanced.
    """
    table = pareto.costs(members, objectives)
    is_score = np.array([o.name == "score" for o in objectives], np.bool_)
    if not is_score.any() or is_score.all():
        return ["balanced"] * len(members)
    table[:, ~is_score] = np.log(np.maximum(table[:, ~is_score], np.finfo(np.float64).tiny))
    low, high = table.min(0), table.max(0)
    scaled = (table - low) / np.where(high > low, high - low, 1.0)
    places = scaled[:, ~is_score].mean(1) - scaled[:, is_score].mean(1)
    groups = pareto.clusters(places, max(CLUSTERS))
    return [CLUSTERS[max(groups) + 1][group] for group in groups]


def _picked(members: Sequence[Record], objectives: Sequence[Objective], pick: str) -> Record:
    """Return the member that a rule or an id picks; of equals, and where nothing tells, the knee."""
    if pick not in PICKS:
        return _named(members, pick)
    knee = members[pareto.knee(pareto.costs(members, objectives))]
    key = PICKS[pick]
    ranked = sorted((value, r.id != knee.id, r.id) for r in members if (value := key(r)) is not None)
    return next((r for r in members if ranked and r.id == ranked[0][2]), knee)


def _named(members: Sequence[Record], id: str) -> Record:
    found = [r for r in members if r.id.startswith(id)]
    if len(found) != 1:
        what = "is none of" if not found else f"is the beginning of {len(found)} of"
        raise UsageError(
            f"--pick {id} {what} the members of the front",
            hint=f"its members: {', '.join(f'{r.id} ({r.candidate.label})' for r in members)}",
        )
    return found[0]


def pick_names(members: Sequence[Record], met: bool, pick: str = "knee") -> list[str]:
    """Return the folder names of the front's members, the recommended one first: ``01_knee``, ``02_fastest``, ..."""
    titles: dict[str, str] = {}
    if members:
        titles[members[0].id] = (pick if pick in PICKS else "picked") if met or pick not in PICKS else "nearest_miss"
    for title, record in picks(members).items():
        titles.setdefault(record.id, title)
    varied = _varied(members)
    return [f"{n:02d}_{titles.get(r.id) or _slug(r, varied)}" for n, r in enumerate(members, 1)]


def picks(members: Sequence[Record]) -> dict[str, Record]:
    """Return name of a rule -> the member that has least of what it looks at; each member once, by its first rule."""
    found: dict[str, Record] = {}
    for title, key in PICKS.items():
        ranked = sorted((value, r.id) for r in members if (value := key(r)) is not None)
        best = next((r for r in members if ranked and r.id == ranked[0][1]), None)
        if best is not None and best.id not in {r.id for r in found.values()}:
            found[title] = best
    return found


def _varied(members: Sequence[Record]) -> list[str]:
    """Return the knobs in which members differ, the size left out."""
    knobs = {key for r in members for key in r.candidate.knobs if key != "resolution"}
    return sorted(k for k in knobs if len({str(r.candidate.knobs.get(k)) for r in members}) > 1)


def _slug(record: Record, varied: Sequence[str]) -> str:
    knobs = record.candidate.knobs
    size = "x".join(map(str, knobs.get("resolution", ())))
    parts = [size, *(f"{k}{knobs.get(k)}" for k in varied), record.candidate.recipe]
    return re.sub(r"[^\w.-]+", "-", "_".join(part for part in parts if part))[:80]


# --- folders ---------------------------------------------------------------------------------------------------------
def deliver(run_folder: Path, members: Sequence[Record], names: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Write ``front/NN_pick/`` for every member: copies of its files, ``manifest.json`` and ``verify.json``.

    Folders of an earlier front of this run are removed. ``facts`` (data, seed, versions) go into every manifest.
    Raises SpaceError.
    """
    front = run_folder / "front"
    for old in sorted(front.glob("[0-9][0-9]_*")) if front.is_dir() else []:
        if old.name not in names:
            _remove(old)
    for record, name in zip(members, names, strict=True):
        _deliver(run_folder, front / name, record, facts)


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _deliver(run_folder: Path, folder: Path, record: Record, facts: Mapping[str, Any]) -> None:
    assert record.artifact is not None
    folder.mkdir(parents=True, exist_ok=True)
    source = run_folder / record.artifact.path
    reference = source.with_suffix(SUFFIX)
    for path in (source, reference):
        atomic_write(folder / path.name, path.read_bytes())
    atomic_json(folder / "verify.json", record.agreement)
    atomic_json(folder / "manifest.json", manifest(record, facts))


def manifest(record: Record, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a front's member says of itself: file, contracts, scores with definitions, where it comes from."""
    artifact = record.artifact
    assert artifact is not None
    scores = {part: m for part, m in (("val", record.val), ("test", record.test)) if m is not None}
    return {
        "schema": SCHEMA,
        "path": Path(artifact.path).name,
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "runtime": artifact.runtime,
        "recipe": artifact.recipe,
        "input": to_json(artifact.input),
        "output": to_json(artifact.output),
        "metrics": {part: {"score": m.score, "values": m.values, "n": m.n} for part, m in scores.items()},
        "definitions": next((dict(m.definitions) for m in scores.values()), {}),
        "latency": to_json(replace(record.latency, samples=())) if record.latency else None,
        "on_device": to_json(record.on_device) if record.on_device else None,
        "candidate": {"id": record.id, **to_json(record.candidate)},
        **json.loads(json.dumps(to_json(facts))),
    }
