"""C on emulated Cortex-M processors: QEMU runs it and counts instructions.

The compiler and the emulator are Debian's ``gcc-arm-none-eabi``, ``libnewlib-arm-none-eabi`` and ``qemu-system-arm``.
With ``-icount shift=0`` an instruction takes one nanosecond, whatever it is; the SysTick timer counts them, a few dozen
to a tick, to the same number every time. What a processor would take in cycles is not told.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from bitfront.errors import DeviceError
from bitfront.store import atomic_write

__all__ = ["CORES", "RELEASE", "Core", "Firmware", "Frame", "measure", "missing", "run", "version"]

RELEASE = ("-O2",)
TIMEOUT_S = 600
PACKAGES = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}
_MAIN = "emulated_main.c"
_EMPTY = """\
#include <stdint.h>
void %s;
int main(void);
int main(void) { %s; return 0; }
"""


@dataclass(frozen=True, slots=True)
class Core:
    """A processor: flags of the compiler, and the machine of QEMU that has it."""

    name: str
    flags: tuple[str, ...]
    machine: str
    tick: float
    """Instructions of a SysTick tick: 1e9 over the machine's clock in Hz."""
    memory_bytes: int = 4 << 20
    """Of flash, and of RAM."""


CORES: Mapping[str, Core] = MappingProxyType(
    {
        core.name: core
        for core in (
            Core("cortex_m3", ("-mcpu=cortex-m3",), "mps2-an385", 40.0),
            Core("cortex_m4", ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"), "mps2-an386", 40.0),
            Core("cortex_m7", ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"), "mps2-an500", 40.0),
            Core("cortex_m55", ("-mcpu=cortex-m55", "-mfloat-abi=hard"), "mps3-an547", 31.25, 512 << 10),
        )
    }
)
"""Processors that can be emulated, by name."""


@dataclass(frozen=True, slots=True, eq=False)
class Firmware:
    """A network in C and the images to run it on."""

    name: str
    """What its global names begin with: ``NAME_run(arena)``."""
    sources: Mapping[str, str]
    """File -> text."""
    arena_bytes: int
    input_offset: int
    """Of the image in the arena."""
    images: Sequence[bytes]
    """Codes as they lie in memory; all of equal length."""
    row_bytes: int = 0
    """Of an image that ``NAME_run(arena, fetch, context)`` asks for row by row; 0: it lies in the arena."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One image's run."""

    hashed: int
    """FNV-1a over the codes of all layers, as they lie in memory."""
    layers: tuple[int, ...]
    """Instructions of every layer, to about a tick."""

    @property
    def instructions(self) -> int:
        """Of the whole image."""
        return sum(self.layers)


def missing() -> str:
    """Why nothing can be emulated here and what to install; empty when all is there."""
    wanted = [package for tool, package in PACKAGES.items() if not shutil.which(tool)]
    return f"apt-get install {' '.join(wanted)}" if wanted else ""


def version() -> str:
    """Return the versions of compiler and emulator, of what is installed."""
    return ", ".join(_version(tool) for tool in PACKAGES if shutil.which(tool))


@functools.lru_cache(maxsize=4)
def _version(tool: str) -> str:
    told = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
    found = re.search(r"\d+\.\d+(\.\d+)?", told)
    return f"{tool} {found[0] if found else 'unknown'}"


def run(nets: Sequence[Firmware], core: Core, flags: Sequence[str] = RELEASE) -> list[Frame]:
    """Compile networks into one program, run it and return every image of every network, in order.

    The sources of all networks must have their kernels in common. Raises DeviceError when compiler or emulator are not
    there, refuse the code, or take too long, and when the program crashes.
    """
    _require()
    with tempfile.TemporaryDirectory(prefix="bitfront-arm-") as place:
        return _frames(nets, _compiled(nets, core, flags, Path(place)))


def measure(net: Firmware, core: Core, flags: Sequence[str] = RELEASE) -> tuple[list[Frame], int]:
    """Return :func:`run` of one network, and the bytes of flash that its program and constants take.

    Raises DeviceError as it does.
    """
    _require()
    with tempfile.TemporaryDirectory(prefix="bitfront-arm-") as place:
        work = _compiled([net], core, flags, Path(place))
        return _frames([net], work), _linked(net, work)


@dataclass(frozen=True, slots=True)
class _Work:
    """A folder with sources and the kernels' object files."""

    home: Path
    core: Core
    flags: tuple[str, ...]


def _compiled(nets: Sequence[Firmware], core: Core, flags: Sequence[str], home: Path) -> _Work:
    work = _Work(home, core, ("-std=gnu99", "-mthumb", *core.flags, *flags, "-ffunction-sections", "-fdata-sections"))
    for net in nets:
        for name, text in net.sources.items():
            atomic_write(home / name, text.encode())
    own = {f"{net.name}.c" for net in nets}
    units = sorted({name for net in nets for name in net.sources if name.endswith(".c")} - own)
    _called(["arm-none-eabi-gcc", *work.flags, "-I.", "-c", *units], home) if units else None
    return work


def _link(work: _Work, units: Sequence[str], flags: Sequence[str]) -> None:
    """Make ``firmware.elf``."""
    objects = sorted(f.name for f in work.home.glob("bf_*.o"))
    command = ["arm-none-eabi-gcc", *work.flags, *flags, "-Wl,--gc-sections", "-nostartfiles", "-specs=nano.specs"]
    _called([*command, "-I.", *units, *objects, "-o", "firmware.elf"], work.home)


def _frames(nets: Sequence[Firmware], work: _Work) -> list[Frame]:
    home, core = work.home, work.core
    _write_main(nets, core, home)
    # the networks' own units are one, which is compiled sooner than many
    atomic_write(home / "networks.c", "".join(f'#include "{net.name}.c"\n' for net in nets).encode())
    _link(work, [_MAIN, "networks.c"], ["-DBF_TRACE", "-T", "emulated.ld"])
    quiet = ["-nographic", "-monitor", "none", "-serial", "none"]
    counted = ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0"]
    command = ["qemu-system-arm", "-M", core.machine, *quiet, *counted, "-kernel", "firmware.elf"]
    printed = _called(command, home, any_code=True)
    frames = _read(printed, core)
    if len(frames) != sum(len(net.images) for net in nets):
        raise DeviceError(
            f"the program of {nets[0].name} ended early on an emulated {core.name}: {printed.strip()[-80:]}",
            hint=f"does it need more than {core.memory_bytes >> 10} KiB of flash or RAM?",
        )
    return frames


def _linked(net: Firmware, work: _Work) -> int:
    """Return the bytes of program and constants, with a main that only calls the network."""
    arguments, call = ("void *arena", "(void *)0x20000000")
    if net.row_bytes:
        arguments += ", void (*fetch)(void *context, int32_t row, void *codes), void *context"
        call += ", (void (*)(void *, int32_t, void *))0x20000001, (void *)0"
    empty = _EMPTY % (f"{net.name}_run({arguments})", f"{net.name}_run({call})")
    atomic_write(work.home / "empty.c", empty.encode())
    _link(work, ["empty.c", f"{net.name}.c"], ["-Wl,-emain"])
    told = _called(["arm-none-eabi-size", "firmware.elf"], work.home)
    program, data = (int(n) for n in told.splitlines()[1].split()[:2])
    return program + data


def _require() -> None:
    if missing():
        raise DeviceError("a Cortex-M cannot be emulated here", hint=missing())


def _write_main(nets: Sequence[Firmware], core: Core, home: Path) -> None:
    head, rows = ["#include <stdint.h>", "#include <string.h>"], []
    for net in nets:
        head += _declared(net)
        n_bytes = len(net.images[0])
        run, place = f"{net.name}_run", f"(uint8_t *){net.name}_arena + {net.input_offset}"
        if net.row_bytes:
            run, place = f"{net.name}_streamed", f"{net.name}_image"
        rows.append(f"{{{run}, {net.name}_arena, {place}, {net.name}_images, {n_bytes}, {len(net.images)}}},")
    head.append("static const struct { void (*run)(void *); void *arena; uint8_t *input; const uint8_t *images;")
    head.append("uint32_t n_bytes, n_images; } nets[] = {\n" + "\n".join(rows) + "\n};")
    atomic_write(home / "emulated_nets.h", ("\n".join(head) + "\n").encode())
    for name in (_MAIN, "emulated.ld"):
        text = (resources.files("bitfront.measure") / name).read_text(encoding="utf-8")
        atomic_write(home / name, text.replace("MEMORY_BYTES", str(core.memory_bytes)).encode())


def _declared(net: Firmware) -> list[str]:
    images = ",".join(map(str, b"".join(net.images)))
    lines = [
        f"static uint64_t {net.name}_arena[{-(-max(net.arena_bytes, 4) // 8)}];",
        f"static const uint8_t {net.name}_images[] = {{{images}}};",
    ]
    if not net.row_bytes:
        return [*lines, f"void {net.name}_run(void *arena);"]
    return [
        *lines,
        f"static uint8_t {net.name}_image[{len(net.images[0])}];",
        f"void {net.name}_run(void *arena, void (*fetch)(void *context, int32_t row, void *codes), void *context);",
        f"static void {net.name}_fetch(void *context, int32_t row, void *codes) {{",
        f"    memcpy(codes, (uint8_t *)context + row * {net.row_bytes}, {net.row_bytes});",
        "}",
        f"static void {net.name}_streamed(void *arena) {{",
        f"    {net.name}_run(arena, {net.name}_fetch, {net.name}_image);",
        "}",
    ]


def _called(command: Sequence[str], home: Path, *, any_code: bool = False) -> str:
    """Return what a tool prints; ``any_code``: whatever it exits with. Raises DeviceError."""
    try:
        done = subprocess.run(
            list(command), cwd=home, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"{command[0]} failed: {type(error).__name__}", hint="is the network too large?") from error
    if done.returncode and not any_code:
        told = [text for text in done.stderr.splitlines() if re.search("error|overflowed|undefined", text)]
        line = told[0] if told else done.stderr[-300:]
        raise DeviceError(f"{command[0]} refuses the network's code: {line[:300]}", hint="please report the network")
    return done.stdout + done.stderr


def _read(printed: str, core: Core) -> list[Frame]:
    frames: list[Frame] = []
    layers: list[int] = []
    for kind, digits in re.findall(r"^([TH]) ([0-9a-f]{8})$", printed, re.M):
        if kind == "T":
            layers.append(round(int(digits, 16) * core.tick))
        else:
            frames.append(Frame(int(digits, 16), tuple(layers)))
            layers = []
    return frames
