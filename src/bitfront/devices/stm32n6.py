"""STM32N6: a neural processor (Neural-ART) beside a Cortex-M55, weights in external flash."""

from __future__ import annotations

from bitfront.contracts import Device

__all__ = ["STM32N6"]

STM32N6 = Device(
    name="stm32n6",
    description="STM32N6 (Neural-ART, 4.2 MB of RAM): 8-bit ONNX and TFLite files for ST's tools, times modelled",
    runtimes=("onnxruntime", "litert"),
    recipes=("int8", "int8_s8s8", "int8_compact"),
    kind="npu",
    max_ram_bytes=4_200_000,
    board="stm32n6",
    objectives=("score", "modelled_latency", "flash"),
)
