"""Arm Cortex-M4 with its instructions for signal processing: fixed-point C, instructions counted by QEMU."""

from __future__ import annotations

from bitfront.contracts import Device

__all__ = ["CORTEX_M4"]

CORTEX_M4 = Device(
    name="cortex_m4",
    description="Cortex-M4 with its instructions for signal processing, emulated: fixed-point C",
    runtimes=("c_fixed",),
    kind="microcontroller",
    core="cortex_m4",
    objectives=("score", "instructions", "flash"),
)
