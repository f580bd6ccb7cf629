"""NSGA-II and TPE of Optuna, on the same counted evaluator.

Nothing of Optuna is stored: a resumed search asks it again and tells it what was evaluated, which walks the same way.
Source: Deb et al. 2002 (NSGA-II); Ozaki et al. 2020, "Multiobjective tree-structured Parzen estimator".
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bitfront.errors import UsageError
from bitfront.search.evaluations import Evaluations, Member, Spent
from bitfront.search.space import Genome, Space

if TYPE_CHECKING:
    import optuna

__all__ = ["nsga2", "tpe"]


def nsga2(evaluations: Evaluations, seed: int, n: int = 1500, population: int = 45) -> None:
    """Search with NSGA-II: ``n`` trials, ``population`` of them at a time. Raises UsageError without Optuna."""
    module = _optuna()
    sampler = module.samplers.NSGAIISampler(population_size=population, seed=seed)
    _search(module, sampler, evaluations, n, population)


def tpe(evaluations: Evaluations, seed: int, n: int = 400) -> None:
    """Search with the multi-objective Parzen estimator: ``n`` trials. Raises UsageError without Optuna."""
    module = _optuna()
    _search(module, module.samplers.TPESampler(seed=seed), evaluations, n, 1)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "the methods nsga2 and tpe need Optuna, which is not installed", hint="pip install 'bitfront[search]'"
        ) from error
    return optuna


def _search(module: Any, sampler: Any, evaluations: Evaluations, n: int, n_at_once: int) -> None:
    n_objectives = 1 + len(evaluations.costs)
    with _quiet(module), contextlib.suppress(Spent):
        study = module.create_study(directions=["minimize"] * n_objectives, sampler=sampler)
        for done in range(0, n, n_at_once):
            trials = [study.ask() for _ in range(min(n_at_once, n - done))]
            genomes = [_genome(evaluations.space, trial) for trial in trials]
            evaluations(genomes)
            for trial, genome in zip(trials, genomes, strict=True):
                _tell(module, study, trial, evaluations.member(genome))
            evaluations.report(type(sampler).__name__, f"{done + len(trials)} of {n}")


def _genome(space: Space, trial: optuna.Trial) -> Genome:
    return tuple(int(trial.suggest_categorical(g.name, g.choices)) if g.fixed is None else g.fixed for g in space.genes)


def _tell(module: Any, study: Any, trial: optuna.Trial, member: Member) -> None:
    if math.isfinite(member.score):
        study.tell(trial, [-member.score, *member.costs])
    else:
        study.tell(trial, state=module.trial.TrialState.FAIL)


@contextlib.contextmanager
def _quiet(module: Any) -> Iterator[None]:
    """Keep Optuna's log and its warnings of experimental parts from the user's screen."""
    level = module.logging.get_verbosity()
    module.logging.set_verbosity(module.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        module.logging.set_verbosity(level)
