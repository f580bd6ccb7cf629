"""Independent pieces of a run's work as plain values: what one process decides, any other can do.

A task is called with a :class:`bitfront.fitting.shop.Shop` and gives a plain value. What it does is stored under its
content id as always, so a task that is done again reads back what was finished before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bitfront.errors import BitfrontError, BusyError, DataError, Interrupted, SpaceError, one_line
from bitfront.fitting.candidates import Network, make_candidate
from bitfront.fitting.config import BitSearch
from bitfront.fitting.searching import Searched, integer_members, picked, search_network, summary
from bitfront.fitting.shop import Shop, Way
from bitfront.fitting.space import Architecture
from bitfront.fitting.training import Training, train_architecture
from bitfront.fitting.tuning import TIME_SHARE, train_plan, worth_training
from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.record import Record
from bitfront.search.evaluations import Member
from bitfront.search.space import Genome

__all__ = ["STOPPING", "FilesTask", "SearchTask", "SearchedNetwork", "Task", "TrainTask", "attempt", "reason"]

log = logging.getLogger(__name__)

STOPPING = (SpaceError, Interrupted, BusyError)
"""Errors that stop a run; any other costs one network or one file only."""
SEARCHED_SHARE = 0.7
"""Part of a search's progress after which its files are made."""


class Task(Protocol):
    """A piece of work."""

    @property
    def label(self) -> str:
        """What it is about, for people."""
        ...

    @property
    def trains(self) -> bool:
        """Whether it gains from a GPU."""
        ...

    @property
    def reads_back(self) -> bool:
        """Whether it takes no time when all of it is stored."""
        ...

    def __call__(self, shop: Shop) -> Any:
        """Do it, or read back what was done before."""
        ...


T = TypeVar("T", bound=Task)


@dataclass(frozen=True, slots=True)
class TrainTask:
    """Train one architecture."""

    architecture: Architecture
    options: Any
    """:class:`bitfront.train.options.TrainOptions`."""
    start: str
    """Checkpoint to start from, relative to the run folder; empty for the source's own or fresh weights."""
    rivals: Sequence[Training]
    trains = True
    reads_back = True

    @property
    def label(self) -> str:
        """The architecture's."""
        return self.architecture.label

    def __call__(self, shop: Shop) -> Training:
        """Return the training."""
        start = shop.folder / self.start if self.start else None
        return train_architecture(shop, self.architecture, self.options, start, self.rivals)


@dataclass(frozen=True, slots=True)
class FilesTask:
    """Export, verify and score one network with every recipe for every engine; one that fails costs itself only."""

    architecture: Architecture
    training: Training | None
    ways: Sequence[Way]
    trains = False
    reads_back = True

    @property
    def label(self) -> str:
        """The architecture's."""
        return self.architecture.label

    def network(self, shop: Shop) -> Network:
        """Return the network that files are made of."""
        return _network(shop, self.architecture, self.training)

    def __call__(self, shop: Shop) -> list[Record]:
        """Return one record a way; each is also given to ``shop.made`` when it is there."""
        network, records = self.network(shop), []
        for n, way in enumerate(self.ways):
            shop.tell("candidates", f"{self.label} {way.recipe}", n / len(self.ways))
            records.append(_made(network, way, self.training))
        return records


@dataclass(frozen=True, slots=True)
class SearchedNetwork:
    """What a bit search and the files made of its front come to."""

    records: Sequence[Record]
    summary: Any
    """Plain data for the report."""
    n_evaluations: float
    n_front: int


@dataclass(frozen=True, slots=True)
class SearchTask:
    """Search the bits of one network; export, verify and score members of its front."""

    architecture: Architecture
    training: Training | None
    bits: BitSearch
    min_score: float | None
    max_drop: float | None
    time_s: float | None
    trains = True
    reads_back = False

    @property
    def label(self) -> str:
        """The architecture's."""
        return self.architecture.label

    def __call__(self, shop: Shop) -> SearchedNetwork:
        """Return what was found. Raises DataError, UsageError."""
        if self.time_s is not None and self.time_s <= 0:
            raise DataError("the time is up")
        n_trained = self.bits.n_trained if "train" in shop.parts else 0
        searched = search_network(
            _network(shop, self.architecture, self.training),
            self.bits,
            floor=self.min_score,
            max_drop=self.max_drop,
            time_s=self.time_s if self.time_s is None or not n_trained else (1 - TIME_SHARE) * self.time_s,
            say=lambda text, share: shop.tell("search", f"{self.label} {text}", SEARCHED_SHARE * share),
        )
        records: list[Record] = []
        files: dict[Genome, str] = {}
        integers = "float32" not in shop.target.recipes
        members = picked(searched, self.bits.n_members, integers=integers)
        for n, member in enumerate(members):
            plan = searched.plan(member.genome)
            done = SEARCHED_SHARE + (1 - SEARCHED_SHARE) * n / len(members)
            shop.tell("search", f"{self.label} {plan.recipe}", done)
            way = Way(plan.recipe, shop.target.name)
            records.append(_made(searched.network, way, self.training, (searched.graph(plan), plan)))
            files[member.genome] = records[-1].id
        result = searched.result
        known = integer_members(searched, searched.members) if integers else searched.members
        for member in worth_training(known, result.float_score, n_trained):
            record = self._trained(shop, searched, member)
            if record is not None:
                records.append(record)
                files.setdefault(member.genome, record.id)
        return SearchedNetwork(records, summary(searched, files), result.n_evaluations, len(result.front))

    def _trained(self, shop: Shop, searched: Searched, member: Member) -> Record | None:
        """Return the file of a member trained under its plan; ``None`` when training did not make it better."""
        network, way = searched.network, Way(f"{searched.recipe(member.genome)}_trained", shop.target.name)
        time_s = None if self.time_s is None else TIME_SHARE * self.time_s / self.bits.n_trained
        try:
            made = train_plan(shop, searched, member, time_s)
        except STOPPING:
            raise
        except Exception as error:
            record = Record(network.candidate(way), "failed", reason("training", error))
            shop.made(record)
            return record
        return None if made is None else _made(network, way, self.training, made)


def _network(shop: Shop, architecture: Architecture, training: Training | None) -> Network:
    weights: Path | None = shop.folder / training.weights if training else None
    return Network(shop, architecture, weights)


def _made(network: Network, way: Way, training: Training | None, searched: tuple[Graph, Plan] | None = None) -> Record:
    try:
        record = make_candidate(network, way, training.seconds if training else None, searched=searched)
    except STOPPING:
        raise
    except Exception as error:
        record = Record(network.candidate(way), "failed", reason(way.recipe, error))
    network.shop.made(record)
    return record


def attempt(task: Task, shop: Shop) -> Any:
    """Return what a task gives, or the error that it ends with. Raises what stops a run."""
    try:
        return task(shop)
    except STOPPING:
        raise
    except Exception as error:
        log.debug("%s failed", task.label, exc_info=error)
        return error


def reason(what: str, error: Exception) -> str:
    """Return one line on what failed; the traceback goes to the log."""
    log.debug("%s failed", what, exc_info=error)
    return one_line(
        f"{what}: {error}" if isinstance(error, BitfrontError) else f"{what}: {type(error).__name__}: {error}"
    )
