"""inspect --device: what a file takes on a device that is not this computer."""

from __future__ import annotations

from pathlib import Path

from bitfront.device import Device
from bitfront.errors import DataError, UsageError
from bitfront.graph import files
from bitfront.measure import on_device
from bitfront.record import OnDevice
from bitfront.registry import load, runtime_of
from bitfront.verbs.companions import companions

__all__ = ["on_board"]


def on_board(path: Path | str, device: str) -> OnDevice:
    """Return flash, RAM, instructions and time of a file on a device: modelled, and counted where there is an emulator.

    The file's reference must lie beside it. Raises UsageError for other files and devices, DataError for damaged ones,
    DeviceError when the emulator fails.
    """
    there: Device = load("device", device)
    if there.kind == "host":
        raise UsageError("files are timed on the host, not modelled", hint="`bitfront benchmark` times them")
    found = companions(Path(path))
    runtime = runtime_of(found.artifact)
    if runtime not in there.runtimes:
        raise UsageError(
            f"{there.name} does not run '{found.artifact}'", hint=f"it runs files of {', '.join(there.runtimes)}"
        )
    if found.reference is None:
        raise DataError(
            f"no reference lies beside '{found.artifact}'", hint=f"copy its {files.SUFFIX} too: its formats are in it"
        )
    graph, plan = files.load(found.reference)
    engine = load("runtime", runtime)()
    told = getattr(engine, "footprint", None)
    modelled = on_device.modelled(there, graph, plan, told(found.artifact) if told else None)
    return on_device.counted(modelled, there, engine, found.artifact)
