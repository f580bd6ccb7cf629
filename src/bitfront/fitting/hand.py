"""The life of a local worker process: it imports nothing before it has said that everything takes one thread."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitfront.fitting.shop import Shop

__all__ = ["serve"]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that libraries of linear algebra look at when they are loaded."""


def serve(connection: Connection) -> None:
    """Receive a :class:`bitfront.fitting.worker.Place`, then tasks; send what comes of them until nobody listens.

    Messages are ``("tell", stage, text, share)``, ``("made", record)`` and, once a task, ``("done", value or error)``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-c is for the main process, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in THREADS:
        os.putenv(name, "1")
    with contextlib.suppress(EOFError, OSError):
        _work(connection)


def _work(connection: Connection) -> None:
    from bitfront.fitting.worker import open_worker, outcome

    place = connection.recv()
    shop: list[Shop] = []

    def made(record: Any) -> None:
        connection.send(("made", record))

    def opened() -> Shop:
        if not shop:
            shop.append(open_worker(place, lambda *told: connection.send(("tell", *told)), made))
        return shop[0]

    while True:
        task = connection.recv()
        connection.send(("done", outcome(task, opened)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
