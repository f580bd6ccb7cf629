"""The stages of a run as values: what each tried, read from the run's database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitfront.report.published import published_score
from bitfront.report.searches import finite, mappings

__all__ = ["StageNetwork", "StageResult", "first_network", "read_stages"]


@dataclass(frozen=True, slots=True)
class StageNetwork:
    """One network that a stage tried, as float32."""

    label: str
    score: float
    """On the val part, in [0, 1]."""
    macs: float | None = None
    parameters: float | None = None
    front: bool = False
    """Whether nothing beat it when the stage was over."""
    published: float | None = None
    """Score that thesis 001 printed for the same configuration on the same photographs."""


@dataclass(frozen=True, slots=True)
class StageResult:
    """What one stage came to."""

    name: str
    description: str = ""
    thesis: str = ""
    """The stage of thesis 001 that it is."""
    networks: tuple[StageNetwork, ...] = ()
    """The best first."""


def read_stages(values: Any, model: str = "", data: str = "") -> tuple[StageResult, ...]:
    """Read the value ``stages`` of a run of ``model`` on ``data`` (names).

    Entries that are none, and networks without a score, are left out.
    """
    return tuple(_stage(v, model, data) for v in mappings(values))


def _stage(v: Mapping[str, Any], model: str, data: str) -> StageResult:
    name = str(v.get("name") or "")
    networks = sorted(_networks(v.get("networks"), name, model, data), key=lambda n: (-n.score, n.macs or 0.0, n.label))
    return StageResult(name, str(v.get("description") or ""), str(v.get("thesis") or ""), tuple(networks))


def _networks(values: Any, stage: str, model: str, data: str) -> Iterable[StageNetwork]:
    for v in mappings(values):
        score, knobs = finite(v.get("score")), v.get("knobs")
        if score is not None:
            macs, parameters = finite(v.get("macs")), finite(v.get("parameters"))
            published = published_score(stage, model, data, knobs if isinstance(knobs, Mapping) else {})
            yield StageNetwork(str(v.get("label") or ""), score, macs, parameters, v.get("front") is True, published)


def first_network(stages: Sequence[StageResult]) -> StageNetwork | None:
    """Return the network that all others are compared with: the most costly of the first stage that has any."""
    networks = next((s.networks for s in stages if s.networks), ())
    return max(networks, key=lambda n: (n.macs or 0.0, n.score), default=None)
