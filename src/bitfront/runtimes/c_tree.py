"""A network in C with all that it takes to build it: the files of an artifact, and the artifact as one ``.zip``."""

from __future__ import annotations

import io
import json
import math
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import bitfront
from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import DataError
from bitfront.graph import files
from bitfront.graph.ir import Graph
from bitfront.quant import instructions
from bitfront.quant.costs import PROCESSORS, Costs, bits_of
from bitfront.quant.plan import Plan
from bitfront.record import SCHEMA, from_json, to_json
from bitfront.runtimes import c_boxes, c_project
from bitfront.runtimes.c_source import Written, kernels, write
from bitfront.simulate import fixed_point, reference
from bitfront.store import atomic_write

__all__ = [
    "MANIFEST",
    "NETWORK",
    "Description",
    "describe",
    "expected",
    "facts",
    "footprint",
    "modelled",
    "pattern",
    "read",
    "sources",
    "tree",
    "zipped",
]

MANIFEST, NETWORK = "manifest.json", "network.safetensors"
STACK_BYTES = 1024
"""Of the deepest kernel with what it calls, from above: two blocks of 32 numbers, four patches' worth of variables."""
MAX_BYTES = 1 << 30
"""Of all that is read from a ``.zip``."""
MAX_FILES = 1000
_EPOCH = (1980, 1, 1, 0, 0, 0)


def sources(written: Written) -> dict[str, str]:
    """Return what is compiled: file name -> text."""
    own = {
        f"{written.name}.c": written.model_c,
        f"{written.name}.h": written.model_h,
        f"{written.name}_weights.h": written.weights_h,
    }
    return {**kernels(), **own}


def tree(  # noqa: PLR0917
    graph: Graph,
    plan: Plan,
    written: Written,
    contract: InputContract,
    output: OutputContract,
    scratch_bytes: int,
) -> dict[str, bytes]:
    """Return all files of an artifact: path -> bytes; equal arguments give equal bytes."""
    found = {f"src/{name}": text for name, text in sources(written).items()}
    found |= c_project.files(written, contract, expected(graph, plan, written))
    found |= c_boxes.files(written, contract, output)
    described = {
        "schema": SCHEMA,
        "tool": f"bitfront {bitfront.__version__}",
        "recipe": plan.recipe,
        "name": written.name,
        "input": to_json(contract),
        "output": to_json(output),
        "output_shape": list(written.program.held[written.program.output].shape),
        "scratch_limit_bytes": scratch_bytes,
        "streamed": bool(written.program.window_bytes),
        **facts(written),
        **modelled(graph, plan),
    }
    found[MANIFEST] = json.dumps(described, indent=1, sort_keys=True) + "\n"
    made = {name: text.encode() for name, text in found.items()}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / NETWORK
        files.save(place, graph, plan)
        made[NETWORK] = place.read_bytes()
    return made


def facts(written: Written) -> dict[str, Any]:
    """Return what the manifest says of sizes."""
    program = written.program
    weights = sum(a.values.nbytes for name, a in program.arrays.items() if name.startswith("w_"))
    return {
        "rounding": program.rounding,
        "flash_bytes": written.flash_bytes,
        "flash": "weights, biases, tables and layers' constants; not the program: 7 to 11 kB on a Cortex-M with -Os",
        "weight_bytes": weights,
        "arena_bytes": written.memory.n_bytes,
        "arena_lower_bound_bytes": written.memory.bound,
        "scratch_bytes": max((step.scratch_bytes for step in program.steps), default=0),
        "scratch": "within the arena",
        "stack_bytes": STACK_BYTES,
        "stack": "estimated from above",
    }


def modelled(graph: Graph, plan: Plan) -> dict[str, Any]:
    """Return what the manifest says of instructions and times, and how well they are known."""
    costs, bits, rounding = Costs(graph), bits_of(plan), fixed_point.rounding_of(plan)
    counted = {}
    for core in instructions.cores():
        known = instructions.prices(core)
        n = round(float(costs.instructions(bits, core, rounding=rounding)))
        counted[core] = {"instructions": n, "program_bytes": known.program_bytes, "residual": known.residual}
    boards = {
        name: {"ms": round(float(costs.latency_ms(bits, name)), 4), "residual": board.residual, "source": board.source}
        for name, board in PROCESSORS.items()
    }
    told = "of one image; program_bytes: flash beside the constants, from above; counted: `bitfront inspect --device`"
    return {"modelled": {"cores": counted, "boards": boards, "what": told}}


def zipped(made: Mapping[str, bytes], name: str) -> bytes:
    """Return files as the bytes of a ``.zip``, below a folder ``name``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(made):
            entry = zipfile.ZipInfo(f"{name}/{path}", _EPOCH)
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(entry, made[path], compresslevel=6)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Description:
    """How to feed and read a network in C."""

    input: InputContract
    output: OutputContract
    notes: tuple[str, ...] = ()
    any_size: bool = False
    task: str = ""
    n_classes: int = 0
    flash_bytes: int = 0


def describe(path: Path) -> Description:
    """Return what the manifest in a ``.zip`` says of its input and output. Raises DataError for any other file."""
    described = _manifest(_unzipped(path), path)
    try:
        contract = from_json(InputContract, described["input"])
        shape = [int(n) for n in described["output_shape"]]
        output, flash_bytes = from_json(OutputContract, described["output"]), int(described["flash_bytes"])
        task = "classification" if math.prod(shape[1:]) == 1 else "segmentation"
        n = 0 if len(shape) == 2 else shape[0]
        if output.readout == "boxes":
            task, n = "detection", len(output.classes)
        return Description(contract, output, task=task, n_classes=n, flash_bytes=flash_bytes)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _damaged(path) from error


def footprint(path: Path) -> tuple[int, int]:
    """Return the bytes of constants, and those of arena and stack, as the manifest says. Raises DataError."""
    described = _manifest(_unzipped(path), path)
    try:
        return int(described["flash_bytes"]), int(described["arena_bytes"]) + int(described["stack_bytes"])
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path) from error


def read(path: Path) -> tuple[Graph, Plan, Written]:
    """Return the network in a ``.zip``, and its C.

    The C of a file is compiled and run, so it must be what bitfront writes for the network in the same file. Raises
    DataError for any other file.
    """
    held = _unzipped(path)
    described = _manifest(held, path)
    try:
        name, scratch_bytes = str(described["name"]), int(described["scratch_limit_bytes"])
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / NETWORK
            atomic_write(place, held[NETWORK])
            graph, plan = files.load(place)
        written = write(graph, plan, name, scratch_bytes, described.get("streamed") is True)
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path) from error
    for file, text in sources(written).items():
        if held.get(f"src/{file}") != text.encode():
            raise DataError(
                f"'{path}': its {file} is not what this bitfront writes for its network, so it is not run",
                hint="export it again; was it changed, or written by another version?",
            )
    return graph, plan, written


def _unzipped(path: Path) -> dict[str, bytes]:
    """Return the files of a ``.zip``, by their path below its folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAX_BYTES or len(entries) > MAX_FILES:
                raise DataError(f"'{path}' holds too much", hint="this is no file of bitfront")
            return {entry.filename.partition("/")[2]: archive.read(entry) for entry in entries}
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}", hint="give the path of a .zip file") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path) from error


def _manifest(held: Mapping[str, bytes], path: Path) -> dict[str, Any]:
    try:
        described = json.loads(held[MANIFEST])
        schema = int(described["schema"])
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(path) from error
    if schema > SCHEMA:
        raise DataError(f"'{path}' was written by a newer bitfront", hint="update bitfront")
    found: dict[str, Any] = described
    return found


def _damaged(path: Path) -> DataError:
    return DataError(f"'{path}' holds no network in C, or is damaged", hint="export or copy it again")


# --- a test that needs no files --------------------------------------------------------------------------------------
def pattern(n: int, low: int, high: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return ``n`` codes that look random: high bits of a linear congruential generator (Numerical Recipes)."""
    state, codes = 1, []
    for _ in range(n):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        codes.append(low + (state >> 16) % (high - low + 1))
    return np.array(codes, np.int64)


def expected(graph: Graph, plan: Plan, written: Written) -> int:
    """Return the FNV-1a hash of the output's bytes, as they lie in memory, that the reference has for the pattern."""
    program = written.program
    x, y = program.held[program.input], program.held[program.output]
    assert x.form is not None
    codes = x.from_memory(pattern(x.n, x.form.low, x.form.high))
    answer = reference.run(graph, x.form.decode(codes)[None], plan)[program.output][0]
    found = 2166136261
    for byte in y.to_memory(answer).tobytes():
        found = ((found ^ byte) * 16777619) & 0xFFFFFFFF
    return found
