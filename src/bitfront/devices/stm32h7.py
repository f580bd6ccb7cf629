"""STM32H747: a Cortex-M7 at 400 MHz."""

from __future__ import annotations

from bitfront.contracts import Device

__all__ = ["STM32H7"]

STM32H7 = Device(
    name="stm32h7",
    description="STM32H747 (Cortex-M7, 400 MHz, 2 MB of flash, 1 MB of RAM): fixed-point C, times modelled",
    runtimes=("c_fixed",),
    kind="microcontroller",
    max_size_bytes=2 << 20,
    max_ram_bytes=1 << 20,
    core="cortex_m7",
    board="stm32h7",
    objectives=("score", "modelled_latency", "flash"),
)
