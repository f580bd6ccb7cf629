"""Networks in C on Cortex-M processors that QEMU emulates."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from c_nets import Net

from bitfront.runtimes.c_source import kernels
from bitfront.simulate import reference

HERE = Path(__file__).parent
TICK = 40
"""Instructions of a SysTick tick with ``-icount shift=0``, 25 MHz."""


@dataclass(frozen=True)
class Core:
    """A processor: compiler flags, QEMU's machine."""

    name: str
    flags: tuple[str, ...]
    machine: str


CORES = (
    Core("cortex_m3", ("-mcpu=cortex-m3",), "mps2-an385"),
    Core("cortex_m4", ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"), "mps2-an386"),
    Core("cortex_m7", ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"), "mps2-an500"),
    Core("cortex_m55", ("-mcpu=cortex-m55", "-mfloat-abi=hard"), "mps3-an547"),
)


def missing() -> str:
    """What is not installed."""
    tools = {"arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi", "qemu-system-arm": "qemu-system-arm"}
    wanted = [package for tool, package in tools.items() if not shutil.which(tool)]
    return f"apt-get install {' '.join(wanted)}" if wanted else ""


def run(nets: Sequence[Net], core: Core, folder: Path, flags: Sequence[str] = ("-O2",)) -> list[tuple[int, int]]:
    """Return, for every image of every network, the hash of all its layers and the instructions of its run."""
    lines = [line.split() for line in _printed(nets, core, folder, flags) if len(line) == 17]
    return [(int(a, 16), round(int(b, 16) * tick(core))) for a, b in lines]


def tick(core: Core) -> float:
    """Instructions of a SysTick tick with ``-icount shift=0``: 25 MHz, and 32 MHz on the machine of the M55."""
    return 31.25 if core.name == "cortex_m55" else TICK


def layers(net: Net, core: Core, folder: Path, flags: Sequence[str] = ("-O2",)) -> list[int]:
    """Return the instructions of every layer of a network, for its first image."""
    lines = _printed([net], core, folder, (*flags, "-DARM_LAYERS"))
    return [round(int(line, 16) * tick(core)) for line in lines if len(line) == 8][: len(net.written.program.steps)]


def _printed(nets: Sequence[Net], core: Core, folder: Path, flags: Sequence[str]) -> list[str]:
    """Compile networks, run them and return the lines that they print."""
    for name, text in kernels().items():
        (folder / name).write_text(text)
    head, table = ["#include <stdint.h>"], []
    for net in nets:
        w, name = net.written, net.graph.inputs[0]
        source = w.program.held[name]
        assert source.form is not None
        (folder / f"{w.name}.h").write_text(w.model_h)
        (folder / f"{w.name}_weights.h").write_text(w.weights_h)
        images = b"".join(source.to_memory(source.form.encode(image)).tobytes() for image in net.images)
        head.append(f"static uint64_t {w.name}_arena[{-(-max(w.memory.n_bytes, 4) // 8)}];")
        head.append(f"static const uint8_t {w.name}_images[] = {{{','.join(map(str, images))}}};")
        head.append(f"void {w.name}_run(void *arena);")
        table.append(
            f"{{{w.name}_run, {w.name}_arena, (uint8_t *){w.name}_arena + {w.offsets[name]}, {w.name}_images, "
            f"{source.n_bytes}, {len(net.images)}}},"
        )
    head.append("static const struct { void (*run)(void *); void *arena; uint8_t *input; const uint8_t *images;")
    head.append("uint32_t n_bytes, n_images; } nets[] = {\n" + "\n".join(table) + "\n};")
    (folder / "arm_nets.h").write_text("\n".join(head) + "\n")
    (folder / "nets.c").write_text("\n".join(net.written.model_c for net in nets))
    (folder / "arm_main.c").write_text((HERE / "arm_main.c").read_text())
    units = ["arm_main.c", "nets.c", *(name for name in kernels() if name.endswith(".c"))]
    rest = ["-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-nostartfiles", "-specs=nano.specs"]
    command = ["arm-none-eabi-gcc", "-std=gnu99", "-mthumb", *core.flags, *flags, *rest, "-DBF_TRACE", "-I."]
    script = ["-T", str(HERE / "arm_link.ld"), "-o", "nets.elf"]
    subprocess.run([*command, *units, *script], cwd=folder, check=True, timeout=300, capture_output=True)
    emulator = ["qemu-system-arm", "-M", core.machine, "-nographic", "-monitor", "none", "-serial", "none"]
    emulator += ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", "-kernel", "nets.elf"]
    done = subprocess.run(emulator, cwd=folder, check=False, timeout=600, capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines()


def wanted(net: Net) -> list[int]:
    """Return the hash of all layers that the reference has, for every image."""
    found, program = [], net.written.program
    codes = reference.run(net.graph, net.images, net.plan, keep="*")
    for i in range(len(net.images)):
        hashed = 2166136261
        for step in program.steps:
            name = step.node.output
            data = np.asarray(program.held[name].to_memory(codes[name][i])).tobytes()
            for byte in data:
                hashed = ((hashed ^ byte) * 16777619) & 0xFFFFFFFF
        found.append(hashed)
    return found
