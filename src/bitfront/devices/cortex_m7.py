"""Arm Cortex-M7 with its instructions for signal processing: fixed-point C, instructions counted by QEMU."""

from __future__ import annotations

from bitfront.contracts import Device

__all__ = ["CORTEX_M7"]

CORTEX_M7 = Device(
    name="cortex_m7",
    description="Cortex-M7 with its instructions for signal processing, emulated: fixed-point C",
    runtimes=("c_fixed",),
    kind="microcontroller",
    core="cortex_m7",
    objectives=("score", "instructions", "flash"),
)
