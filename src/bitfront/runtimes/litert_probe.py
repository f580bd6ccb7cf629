"""Other people's TFLite files, opened in a child process first: an engine that dies takes only the child with it."""

from __future__ import annotations

import os
import subprocess
import sys

from bitfront.errors import DataError, one_line

__all__ = ["child", "probe"]

TIME_LIMIT_S = 120
MEMORY_LIMIT = 16 * 2**30
"""Bytes of address space that the child may take."""


def probe(data: bytes, name: str) -> str:
    """Open and run a file once in a child process; returns which kernels run it.

    Raises DataError when LiteRT refuses it, dies or does not come back.
    """
    code = "import sys; from bitfront.runtimes.litert_probe import child; child(*sys.argv[1:])"
    hint = "export or copy it again; the engine's makers say that such files are to be trusted no more than programs"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, name], input=data, capture_output=True, timeout=TIME_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"LiteRT does not come back from '{name}' within {TIME_LIMIT_S} s", hint=hint) from error
    if done.returncode < 0 or done.returncode > 1:
        raise DataError(f"LiteRT dies on '{name}' (exit status {done.returncode})", hint=hint)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise DataError(f"LiteRT refuses '{name}': {one_line(lines[-1])[:300]}", hint=hint)
    return done.stdout.decode(errors="replace").strip().splitlines()[-1]


def child(name: str) -> None:
    """Open the file on the standard input and run it on zeros; the child's part of :func:`probe`."""
    import numpy as np

    from bitfront.runtimes import litert_engine

    _limit_memory()
    try:
        opened = litert_engine.start(sys.stdin.buffer.read(), name, 1)
        details = opened.interpreter.get_input_details()
        for detail in details:
            opened.interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
        opened.interpreter.invoke()
        [opened.interpreter.get_tensor(detail["index"]) for detail in opened.interpreter.get_output_details()]
    except Exception as error:
        os.write(2, f"\n{one_line(str(error)) or type(error).__name__}\n".encode())
        raise SystemExit(1) from None
    os.write(1, f"{opened.kernels}\n".encode())


def _limit_memory() -> None:
    """Let an absurd size fail instead of filling the machine, where the system can."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
