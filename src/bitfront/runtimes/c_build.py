"""C to a program on this computer: the compiler found, kernels compiled once, programs kept by their sources."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from bitfront.errors import DataError, DeviceError
from bitfront.runtimes.c_program import Held
from bitfront.runtimes.c_source import Written, kernels
from bitfront.store import atomic_write

__all__ = ["COMPILERS", "RELEASE", "STRICT", "build", "compiler", "missing", "version"]

COMPILERS = ("cc", "gcc", "clang")
RELEASE = ("-std=c99", "-O2")
"""Flags of a program that is run."""
STRICT = ("-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror")
TIMEOUT_S = 600
RUNNER = "host_runner.c"
MAX_PROGRAMS = 200


def compiler() -> str:
    """Return the path of the computer's C compiler; empty without one."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), "")


def missing() -> str:
    """Why C cannot be compiled here; empty when it can."""
    return "" if compiler() else "there is no C compiler: apt-get install gcc, or xcode-select --install on macOS"


@functools.lru_cache(maxsize=4)
def version(path: str) -> str:
    """Return the first line that a compiler says of itself."""
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
    return (told.splitlines() or ["unknown"])[0]


def build(
    written: Sequence[Written],
    flags: Sequence[str] = RELEASE,
    *,
    path: str = "",
    sources: Mapping[str, str] | None = None,
) -> Path:
    """Return a program that runs networks as ``host_runner.c`` says, in the order given.

    It is kept in a folder of the user's that others cannot write, under a name that follows from sources, flags and
    compiler. ``sources`` replaces kernels. Raises DeviceError without a compiler, DataError when it refuses the code.
    """
    path = path or compiler()
    if not path:
        raise DeviceError(f"c_fixed cannot run here: {missing()}", hint="`bitfront doctor` says what works")
    library = {**kernels(), **(sources or {})}
    nets = _files(written)
    runner = (resources.files("bitfront.runtimes") / "c_kernels" / RUNNER).read_text(encoding="utf-8")
    rest = {**nets, RUNNER: runner}
    head = [version(path), *flags]
    program = folder() / f"net-{_digest(head, {**library, **rest})}"
    if program.is_file():
        return program
    objects = _library(path, flags, head, library)
    with tempfile.TemporaryDirectory(dir=folder()) as place:
        home = Path(place)
        _write(home, {**rest, **{k: v for k, v in library.items() if k.endswith(".h")}})
        made = home / "program"
        units = [name for name in rest if name.endswith(".c")]
        _run([path, *flags, "-DBF_TRACE", "-I.", *units, *map(str, objects), "-o", made.name], home)
        made.replace(program)
    _forget(folder())
    return program


def folder() -> Path:
    """Return the user's own folder for programs, in the temporary folder; a new one where that is not safe."""
    place = Path(tempfile.gettempdir()) / f"bitfront-c-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        state = place.lstat()
        owned = not hasattr(os, "getuid") or (state.st_uid == os.getuid() and not state.st_mode & 0o022)
        if place.is_dir() and not place.is_symlink() and owned:
            return place
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="bitfront-c-"))


def _forget(place: Path) -> None:
    """Remove all but the newest programs; one that runs goes on."""
    programs = sorted(place.glob("net-*"), key=lambda found: found.stat().st_mtime, reverse=True)
    for old in programs[MAX_PROGRAMS:]:
        old.unlink(missing_ok=True)


def _library(path: str, flags: Sequence[str], head: Sequence[str], library: Mapping[str, str]) -> list[Path]:
    """Return the kernels' object files; compiled when there are none for these flags."""
    place = folder() / f"kernels-{_digest(head, library)}"
    units = sorted(name for name in library if name.endswith(".c"))
    objects = [place / f"{Path(name).stem}.o" for name in units]
    if not all(found.is_file() for found in objects):
        with tempfile.TemporaryDirectory(dir=folder()) as made:
            home = Path(made)
            _write(home, library)
            _run([path, *flags, "-c", "-I.", *units], home)
            place.mkdir(exist_ok=True)
            for found in objects:
                (home / found.name).replace(found)
    return objects


def _files(written: Sequence[Written]) -> dict[str, str]:
    """Return one unit with all networks, and the table of them."""
    files = {}
    table = ["#include <stdint.h>", "#include <string.h>"]
    lines = []
    for net in written:
        name, program = net.name, net.program
        files[f"{name}.h"], files[f"{name}_weights.h"] = net.model_h, net.weights_h
        x, y = program.held[program.input], program.held[program.output]
        table.append(f"static uint64_t {name}_arena[{-(-max(net.memory.n_bytes, 4) // 8)}];")
        run, source = f"{name}_run", f"(uint8_t *){name}_arena + {net.offsets[program.input]}"
        if program.window_bytes:
            run, source = f"{name}_host", f"{name}_image"
            table += _streamed(name, x)
        else:
            table.append(f"void {name}_run(void *arena);")
        lines.append(f"HOST_NET({name}, {run}, {source}, {x.n_bytes}, {net.offsets[program.output]}, {y.n_bytes})")
    table.append("#define NETS \\\n    " + " \\\n    ".join(lines))
    files["host_nets.h"] = "\n".join(table) + "\n"
    files["nets.c"] = "\n".join(net.model_c for net in written)
    return files


def _streamed(name: str, x: Held) -> list[str]:
    """Return what feeds a network row by row from an image of its own."""
    row = x.n_bytes // x.shape[1]
    return [
        f"static uint8_t {name}_image[{x.n_bytes}];",
        f"void {name}_run(void *arena, void (*fetch)(void *context, int32_t row, void *codes), void *context);",
        f"static void {name}_fetch(void *context, int32_t row, void *codes) {{",
        f"    memcpy(codes, (uint8_t *)context + row * {row}, {row});",
        "}",
        f"static void {name}_host(void *arena) {{ {name}_run(arena, {name}_fetch, {name}_image); }}",
    ]


def _digest(head: Sequence[str], files: Mapping[str, str]) -> str:
    found = hashlib.sha256("\0".join(head).encode())
    for name in sorted(files):
        found.update(f"\0{name}\0{files[name]}".encode())
    return found.hexdigest()[:32]


def _write(home: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        atomic_write(home / name, text.encode())


def _run(command: Sequence[str], home: Path) -> None:
    try:
        done = subprocess.run(
            list(command), cwd=home, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(
            f"the C compiler failed: {type(error).__name__}", hint="is there room in the temporary folder?"
        ) from error
    if done.returncode:
        line = next((text for text in done.stderr.splitlines() if "error" in text), done.stderr[-300:])
        raise DataError(f"the C compiler refuses the network's code: {line[:300]}", hint="please report the network")
