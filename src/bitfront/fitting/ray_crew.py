"""The tasks of a run on a Ray cluster: its scheduler places them, its retries do again what a lost worker was at.

Every node must have bitfront installed and see the run folder and the data under the same paths.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, ClassVar, Self

from bitfront.errors import BitfrontError, DeviceError, UsageError
from bitfront.fitting.crew import N_TRIES, died, taken_over, todo
from bitfront.fitting.shop import Shop
from bitfront.fitting.tasks import T, Task
from bitfront.fitting.worker import Place, absorb, open_worker, outcome
from bitfront.rundb import RunDb

__all__ = ["LOCAL", "RayCrew"]

log = logging.getLogger(__name__)

LOCAL = "local"
"""Address that means: start Ray on this machine, for this process only."""
STORE_BYTES = 128 << 20
"""Ray's shared memory on this machine; tasks and their values are small."""
HINT = "`ray start --head` starts a cluster and says its address; --ray local needs none"
ANSWER_S = 5.0
"""Wall time in which somebody must answer at an address; Ray itself tries for more than a minute."""


class RayCrew:
    """Does tasks on the cluster at an address, or on one that is started here."""

    apart = True

    def __init__(self, address: str, n: int | None = None) -> None:
        """Prepare; ``n`` tasks at a time, by default as many as the cluster has CPUs. Raises UsageError without Ray."""
        if importlib.util.find_spec("ray") is None:
            raise UsageError("--ray needs Ray, which is not installed", hint="pip install 'bitfront[ray]'")
        if n is not None and n < 1:
            raise UsageError(f"{n} workers do nothing", hint="--workers takes 1 or more")
        self.address, self.n = address, n or os.cpu_count() or 1
        self._asked = n
        self._started = False
        self._n_gpus = 0.0

    def __enter__(self) -> Self:
        """Connect, or start. Raises DeviceError when there is no cluster at the address."""
        ray = self._ray = self._connected()
        resources = ray.cluster_resources()
        self._n_gpus = resources.get("GPU", 0.0)
        if self._asked is None:
            self.n = max(1, int(resources.get("CPU", 1)))
        return self

    def _connected(self) -> Any:
        own = self.address == LOCAL
        if not (own or _answers(self.address)):
            raise DeviceError(f"nothing answers at '{self.address}'", hint=HINT)
        ray = _loopback() if own else importlib.import_module("ray")
        if ray.is_initialized():  # by the program that we are part of
            return ray
        quiet = {"log_to_driver": False, "configure_logging": False}
        here = {"num_cpus": self.n, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        try:
            ray.init(**({**quiet, **here} if own else {**quiet, "address": self.address}), runtime_env=_modules())
        except Exception as error:  # Ray raises whatever its parts raise
            raise DeviceError(f"no Ray at '{self.address}': {error}", hint=HINT) from error
        self._started = True
        return ray

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._started:
            self._ray.shutdown()
            self._started = False

    def rest(self) -> None:
        """Ray ends idle workers by itself."""

    def run(self, tasks: Iterable[T], shop: Shop, db: RunDb, place: Place) -> Iterator[tuple[T, Any]]:
        """Yield each task with what came of it, as they finish."""
        absorb(db)
        ray = self._ray
        remote = ray.remote(max_retries=N_TRIES - 1, num_cpus=1)(_serve)
        where = ray.put(place)
        found: deque[tuple[T, Any]] = deque()
        waiting = todo(tasks, shop, db, found)
        running: dict[Any, T] = {}
        try:
            while True:
                while len(running) < self.n:
                    task = next(waiting, None)
                    while found:
                        yield found.popleft()
                    if task is None:
                        break
                    n_gpus = 1 if task.trains and self._n_gpus >= 1 else 0
                    running[remote.options(num_gpus=n_gpus).remote(where, task)] = task
                if not running:
                    return
                (done, *_), _ = ray.wait(list(running), num_returns=1)
                task = running.pop(done)
                shop.tell("workers", f"{len(running)} at work; {task.label} is done", 0.0)
                yield task, taken_over(self._value(done), db)
        finally:
            for left in running:
                ray.cancel(left, force=True)

    def _value(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.WorkerCrashedError:
            return died(N_TRIES)
        except self._ray.exceptions.RayError as error:
            return BitfrontError(f"Ray: {str(error).strip().splitlines()[-1]}")


def _answers(address: str) -> bool:
    """Whether something listens at ``host:port``; true of addresses in other forms, which Ray must judge."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return True
    own = host in ("localhost", "127.0.0.1")  # Ray may listen at this machine's other address only
    for name in (host, socket.gethostname()) if own else (host,):
        with contextlib.suppress(OSError), socket.create_connection((name, int(port)), ANSWER_S):
            return True
    return False


def _loopback() -> Any:
    """Return Ray, told to listen on the loopback address alone, as it does by itself where firewalls ask."""
    constants: Any = importlib.import_module("ray._private.ray_constants")
    constants.ENABLE_RAY_CLUSTER = False
    return importlib.import_module("ray")


def _modules() -> dict[str, Any]:
    """Return what workers are started with: they find the modules that this process finds beside its packages."""
    own = [path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(own)}} if own else {}


class _Opened:
    """What a worker process of Ray holds from one task to the next: the run it opened."""

    place: ClassVar[Place | None] = None
    shop: ClassVar[Shop | None] = None

    @classmethod
    def at(cls, place: Place) -> Shop:
        if cls.shop is None or cls.place != place:
            cls.shop = open_worker(place, lambda stage, text, share: None, lambda record: None)
            cls.place = place
        return cls.shop


def _serve(place: Place, task: Task) -> Any:
    """Do one task in a worker process of Ray."""
    return outcome(task, lambda: _Opened.at(place))
