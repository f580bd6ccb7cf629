"""Arm Cortex-M55 with its vectors (Helium): fixed-point C, instructions counted by QEMU."""

from __future__ import annotations

from bitfront.contracts import Device

__all__ = ["CORTEX_M55"]

CORTEX_M55 = Device(
    name="cortex_m55",
    description="Cortex-M55 with its vectors (Helium), emulated: fixed-point C",
    runtimes=("c_fixed",),
    kind="microcontroller",
    core="cortex_m55",
    objectives=("score", "instructions", "flash"),
)
