"""Tasks for crews, and a run that a worker opens; importable, because worker processes look them up by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitfront.contracts import Runtime
from bitfront.data.conveyor import Conveyor
from bitfront.errors import SpaceError, UsageError
from bitfront.fitting.config import Config
from bitfront.fitting.crew import Crew
from bitfront.fitting.shop import Shop, open_shop
from bitfront.fitting.worker import Place
from bitfront.registry import load
from bitfront.rundb import RunDb
from bitfront.verbs.opening import Opened


def small(config: Config) -> tuple[Opened, list[Runtime]]:
    """Open nothing but a few generated pictures."""
    dataset: Any = Conveyor(size=(8, 8), n_train=2, n_val=2, n_test=2)
    source: Any = None
    return Opened(load("task", "segmentation")(), source, dataset.info, dataset), [load("runtime", "onnxruntime")()]


def broken(config: Config) -> tuple[Opened, list[Runtime]]:
    """Open a run whose data has gone."""
    raise UsageError("the data is not here")


@dataclass(frozen=True)
class Square:
    """Work out a square and keep it; every time that it is worked out adds a line to a file."""

    number: int
    log: str = ""
    trains = False
    reads_back = True

    @property
    def label(self) -> str:
        return f"square of {self.number}"

    def __call__(self, shop: Shop) -> int:
        def compute() -> int:
            if self.log:
                with Path(self.log).open("a") as file:
                    file.write(f"{self.number}\n")
            return self.number**2

        shop.tell("square", self.label, 0.5)
        return int(shop.db.cached("square", self.number, compute))


@dataclass(frozen=True)
class Die(Square):
    """Do the same, but first lose the worker so many times."""

    reads_back = False
    marks: str = ""
    n_deaths: int = 1

    def __call__(self, shop: Shop) -> int:
        value = super().__call__(shop)
        died = list(Path(self.marks).glob(f"{self.number}-*"))
        if len(died) < self.n_deaths:
            (Path(self.marks) / f"{self.number}-{len(died)}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return value


@dataclass(frozen=True)
class Raise(Square):
    """Raise an error of a kind."""

    reads_back = False
    kind: str = "value"

    def __call__(self, shop: Shop) -> int:
        errors: dict[str, Callable[[], Exception]] = {
            "value": lambda: ValueError("no such\nnumber"),
            "usage": lambda: UsageError("not like this", hint="like that"),
            "space": lambda: SpaceError("the disk is full"),
        }
        raise errors[self.kind]()


@dataclass(frozen=True)
class Sleep(Square):
    """Say which process this is, and stay."""

    reads_back = False

    def __call__(self, shop: Shop) -> int:
        Path(self.log).write_text(str(os.getpid()))
        time.sleep(600)
        return 0


class Desk:
    """A run whose tasks are done by a crew."""

    def __init__(self, folder: Path) -> None:
        self.db = RunDb(folder)
        self.place = Place(small, Config(), folder, str(folder), (str(Path(__file__).parent), *sys.path))
        self.told: list[str] = []

    def do(self, crew: Crew, tasks: Any, place: Place | None = None) -> list[tuple[Any, Any]]:
        opened, runtime = small(Config())
        shop = open_shop(self.db, Config(), opened, runtime, lambda *_: None)
        shop = Shop(
            shop.folder, shop.db, opened, runtime, shop.parts, shop.digest, 0,
            tell=lambda stage, text, share: self.told.append(text),
        )  # fmt: skip
        return list(crew.run(tasks, shop, self.db, place or self.place))


KILL, EPOCHS = "kill_once", "epochs"


def deadly(config: Config) -> tuple[Opened, list[Runtime]]:
    """Open a run as always; while the file KILL lies beside the data, the first worker at half of a training is killed.

    Every epoch that is looked at adds a line to the file EPOCHS: process, network's operations, share of the training.
    """
    from bitfront.fitting import request, training

    beside = Path(config.data).parent

    def watched(share: float, scores: Any, macs: float, *_: Any) -> None:
        with (beside / EPOCHS).open("a") as file:
            file.write(f"{os.getpid()} {macs} {share}\n")
        if share == 0.5:
            try:
                (beside / KILL).unlink()
            except FileNotFoundError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    training.hopeless = watched
    return request.reopen(config)
