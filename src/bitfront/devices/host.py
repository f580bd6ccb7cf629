"""The machine that bitfront runs on."""

from __future__ import annotations

from bitfront.contracts import Device

__all__ = ["HOST"]

HOST = Device(
    name="host",
    description="this machine's CPU, one thread",
    runtimes=(
        "onnxruntime",
        "litert",
        "openvino",
        "torch",
        "c_fixed",
    ),
)
