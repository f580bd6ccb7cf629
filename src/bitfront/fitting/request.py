"""A configuration opened: everything that it names, and the networks, recipes and engines that it asks for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

from bitfront.contracts import Device, Objective, Runtime, Task
from bitfront.errors import UsageError, unknown_name
from bitfront.fitting.config import RETRAIN, Config
from bitfront.fitting.delivery import PICKS
from bitfront.fitting.exploration import Explored, Stage, choose_stages, propose
from bitfront.fitting.schedule import Job, schedule
from bitfront.fitting.searching import menu_options
from bitfront.fitting.shop import Way
from bitfront.fitting.space import (
    EFFORTS,
    RESOLUTION,
    Architecture,
    architectures,
    check_knobs,
    checked_size,
    choose_recipes,
    input_sizes,
)
from bitfront.fitting.suites import SUITES
from bitfront.fitting.target import for_device, refuse
from bitfront.fitting.window import Window, fewest_bits
from bitfront.registry import load
from bitfront.verbs.artifacts import open_runtime
from bitfront.verbs.opening import Opened, open_both
from bitfront.verbs.teaching import Teacher, open_teacher

__all__ = ["Request", "open_request", "reopen"]

DICE = 1.0
"""Weight of the Dice term beside the cross-entropy."""
DEMO = {"resolution": ((64, 64), (96, 96), (128, 128)), "width": (0.25, 0.5)}
"""What is explored when neither model nor data are named: a few minutes on two cores."""
DEMO_SMALL = {
    "resolution": ((64, 64), (96, 96)),
    "width": (0.125,),
    "expansion": (2, 6),
    "repeats": (1,),
    "pyramid": (False,),
}
"""The same for microcontrollers, which take the program's bytes from the same flash."""
TRAINED = 2
"""Members of each bit search that the effort ``expert`` trains under their plans."""
CANDIDATE = re.compile("[0-9a-f]{4,}")
"""A candidate's id, or its first letters."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A configuration with everything it names opened."""

    config: Config
    opened: Opened
    runtimes: Sequence[Runtime]
    device: Device
    objectives: Sequence[Objective]
    architectures: Sequence[Architecture]
    """The whole space where it was given, else none: stages propose them."""
    ways: Sequence[Way]
    """Every recipe with every engine that can have it, float32 first."""
    reopen: Callable[[Config], tuple[Opened, Sequence[Runtime]]]
    """How another process opens the same; an importable function."""
    stages: Sequence[Stage] = ()
    sizes: Sequence[tuple[int, int]] = ()
    """Input sizes that stages choose from, the largest first."""
    started: float = field(default_factory=time.monotonic)
    """When opening began: it belongs to the time that a run takes."""

    @property
    def window(self) -> Window:
        """What the budget accepts."""
        return Window.of(self.config.budget, (way.recipe for way in self.ways), self.config.bits)

    def jobs(self, stage: Stage | None = None, known: Sequence[Explored] = ()) -> list[Job]:
        """Return the networks of the space, or those that a stage adds to what is known, in the order of work."""
        source = self.opened.source
        found = self.architectures
        if stage is not None:
            found = propose(stage, source, self.sizes, known, self.window.best)
        retrain = (stage.retrain if stage else "") or self.config.retrain
        if retrain == "never" and source.kind in ("catalogue", "factory"):
            found = [a for a in found if source.weights_for(a.options, a.size) is not None]
        return schedule(source, found, retrain)


def open_request(config: Config) -> Request:
    """Open all that a configuration names, before anything is written. Raises UsageError, DataError, DeviceError."""
    started = time.monotonic()
    for what, value, known in (
        ("effort", config.effort, EFFORTS),
        ("--retrain", config.retrain, RETRAIN),
        ("--pick", config.pick, PICKS),
        ("suite", config.suite, ("", *SUITES)),
    ):
        if value not in known and not (known is PICKS and CANDIDATE.fullmatch(value)):
            raise unknown_name(what, value, known)
    if config.objectives is not None and not config.objectives:
        raise UsageError("a front needs an objective", hint="for example score, latency and size")
    if config.limit is not None and config.limit < 2:
        raise UsageError(f"--limit {config.limit} leaves too little", hint="give at least 2")
    device: Device = load("device", config.device)
    if (config.model, config.data) == (Config().model, Config().data):
        demo: Mapping[str, Any] = DEMO_SMALL if device.core else DEMO
        free = {k: v for k, v in demo.items() if k not in config.settings}
        config = replace(config, space={**free, **config.space})
    if EFFORTS[config.effort].bits and not config.bits.method:
        config = replace(
            config, bits=replace(config.bits, method="surrogate", n_trained=config.bits.n_trained or TRAINED)
        )
    config = for_device(config, device)
    if config.bits.method:
        menu_options(config.bits)
    runtimes = [open_runtime(name) for name in dict.fromkeys((config.runtime, *config.runtimes))]
    for runtime in runtimes:
        if runtime.name not in device.runtimes:
            raise UsageError(f"{device.name} does not run {runtime.name}", hint=f"it runs {', '.join(device.runtimes)}")
    supported = list(dict.fromkeys(recipe for runtime in runtimes for recipe in runtime.recipes))
    if "float32" not in supported:  # what all others are held against; it calibrates, too
        runtimes = [open_runtime(), *runtimes]
    objectives = [load("objective", name)() for name in config.objectives or ()]
    fixed = {key: tuple(value) if isinstance(value, list) else value for key, value in config.settings.items()}
    opened = open_both(
        config.model,
        config.data,
        task=config.task,
        reader=config.reader,
        settings=fixed,
        preprocess=config.preprocess,
        weights=Path(config.weights) if config.weights else None,
    )
    opened = replace(opened, task=_with_dice(opened.task))
    if config.teacher:
        open_teacher(Teacher(config.teacher), opened)
    opened.task.meter(opened.info, config.score)  # an unknown score is an error now, not in an hour
    assert opened.dataset is not None
    sample = opened.dataset.part(opened.dataset.parts()[0])[0]
    native = (sample.image.shape[0], sample.image.shape[1])
    space = {k: [tuple(v) if isinstance(v, list) else v for v in values] for k, values in config.space.items()}
    recipes = choose_recipes(config.recipes, supported)
    alone = "float32" if "float32" not in supported else ""
    ways = [
        Way(recipe, r.name)
        for i, r in enumerate(runtimes)
        for recipe in recipes
        if recipe in ((alone,) if alone and i == 0 else r.recipes)
    ]
    if config.retrain == "never" and opened.source.kind in ("catalogue", "factory") and not opened.source.weights:
        raise UsageError("there are no weights, and nothing may be trained", hint="give --weights")
    fewest = fewest_bits((way.recipe for way in ways), config.bits)
    effort = EFFORTS[config.effort]
    stages = choose_stages(config.stages or (() if space else effort.stages))
    if not stages:
        found = architectures(opened.source, native, effort, space)
        refuse(opened.source, found, config.budget, device, fewest)
        return Request(config, opened, runtimes, device, objectives, found, ways, reopen, started=started)
    sizes = space.pop(RESOLUTION, None) or input_sizes(opened.source, native, effort)
    knobs = {**opened.source.knobs, **check_knobs(opened.source, {k: tuple(v) for k, v in space.items()})}
    free = {k: v for k, v in knobs.items() if k not in config.settings}
    ordered = sorted({checked_size(opened.source, size) for size in sizes}, key=lambda s: (-s[0] * s[1], s))
    opened = replace(opened, source=replace(opened.source, knobs=free))
    cheapest = {**opened.source.options, **{knob: values[0] for knob, values in free.items() if values}}
    smallest = [Architecture(cheapest, ordered[-1])]
    refuse(opened.source, smallest, config.budget, device, fewest)
    return Request(config, opened, runtimes, device, objectives, (), ways, reopen, stages, ordered, started)


def reopen(config: Config) -> tuple[Opened, Sequence[Runtime]]:
    """Open a configuration in another process."""
    request = open_request(config)
    return request.opened, request.runtimes


def _with_dice(task: Task) -> Task:
    """Add the Dice term to the loss of a task that has one: measured, mean IoU rises sooner with it."""
    if is_dataclass(task) and getattr(task, "dice", None) == 0:
        return replace(task, dice=DICE)
    return task
