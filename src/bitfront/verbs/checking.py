"""verify and benchmark: what is true of files that exist."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitfront import batches
from bitfront.contracts import InputContract, OutputContract, Runtime, Session
from bitfront.errors import DataError, DeviceError, UsageError
from bitfront.graph import files, passes
from bitfront.graph.ir import Graph
from bitfront.measure import memory, timing
from bitfront.measure import verify as agreement
from bitfront.quant.plan import Plan
from bitfront.record import Agreement, Measurement
from bitfront.registry import load
from bitfront.sources import open_data
from bitfront.verbs.answering import FOR_PICTURES, Times, answered, times_of, with_thresholds
from bitfront.verbs.artifacts import open_runtime, size_of
from bitfront.verbs.companions import Companions, companions
from bitfront.verbs.opening import choose_part, open_both
from bitfront.verbs.predicting import opened_pictures

__all__ = ["Timed", "Verified", "benchmark", "verify"]

log = logging.getLogger(__name__)

N_IMAGES = 8
N_PICTURES = 16
"""Pictures that the parts of a detector are timed on."""


@dataclass(frozen=True, slots=True)
class Verified:
    """How a file agrees with its reference."""

    path: Path
    agreement: Agreement
    data: str
    notes: tuple[str, ...] = ()


def verify(
    artifact: Path | str,
    data: str | None = None,
    *,
    against: str = "",
    reader: str = "",
    n_images: int = N_IMAGES,
    runtime: str = "",
    seed: int = 0,
) -> Verified:
    """Compare an artifact with its reference on real images.

    The reference is the file of graph and plan that bitfront wrote beside the artifact; for other files it is the float
    graph of ``against``, a MODEL. First the file's SHA-256 is checked against its manifest.

    Args:
        artifact: the file, or the folder of a front's member.
        data: DATA whose images are used; by default the data that the artifact was made on, else generated images.
        against: MODEL that defines what is right, where there is no reference file.
        reader: reader of the data folder.
        n_images: how many images to compare on.
        runtime: engine that runs the file.
        seed: chooses the images.

    Raises:
        VerificationError: the file is not the one that its manifest describes.
        UsageError: no such file, or no reference.
        DataError: files that cannot be used.
    """
    found = companions(Path(artifact))
    found.check_hash()
    engine = open_runtime(runtime, found.artifact)
    contract, output = _contracts(engine, found.artifact)
    graph, plan = _reference(found, against, contract)
    text, notes = _data(found, data)
    dataset = open_data(text, reader)
    samples = dataset.part(choose_part(dataset)[0])
    images = batches.calibration(samples, contract, n_images, np.random.default_rng(seed))
    result = agreement.compare(engine, found.artifact, graph, plan, contract, output, images)
    return Verified(found.artifact, result, text, notes)


def _contracts(engine: Any, path: Path, decoder: str = "") -> tuple[InputContract, OutputContract]:
    described = engine.describe(path, **({"decoder": decoder} if decoder else {}))
    return described.input, described.output


def _reference(found: Companions, against: str, contract: InputContract) -> tuple[Graph, Plan]:
    if against:
        settings = {"resolution": (contract.height, contract.width)}
        source = open_both(against, None, settings=settings).source
        return passes.prepare(source.graph()), Plan("float32")
    if found.reference is None:
        raise UsageError(
            f"{found.artifact} has no reference file beside it ({found.artifact.with_suffix(files.SUFFIX).name})",
            hint="name the model it was made from: --against MODEL",
        )
    return files.load(found.reference)


def _data(found: Companions, data: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the data to compare on: as asked, as the artifact's manifest says, else generated."""
    if data:
        return data, ()
    known = (found.manifest or {}).get("data")
    if isinstance(known, dict):
        known = known.get("text") or known.get("name")
    if isinstance(known, str) and known:
        return known, (f"images: {known}, which the file was made on",)
    return "conveyor", ("images: generated conveyor scenes (name DATA for your own)",)


# --- benchmark -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Timed:
    """One artifact of a benchmark."""

    path: Path
    size_bytes: int
    resolution: tuple[int, ...]
    latency: Measurement
    ram_bytes: int | None = None
    """Peak of what opening and running it adds to a process."""
    parts: Times | None = None
    """Of a detector: what preprocessing, inference and postprocessing take, picture by picture, by the clock of
    ``latency``: CPU time where it has any, else wall time."""


def benchmark(
    artifacts: Sequence[Path | str],
    *,
    seconds: float = 10.0,
    threads: int = 1,
    runtime: str = "",
    seed: int = 0,
    decoder: str = "",
    images: Path | str | None = None,
) -> list[Timed]:
    """Time artifacts together, in turns; the first is the baseline of the ratios.

    Of detectors the parts are timed, too, on ``images`` (pictures, a video) or generated scenes; ``decoder`` says how
    another's are read, where their outputs do not.

    Files whose manifest knows another SHA-256 are refused. Raises UsageError, DataError, VerificationError.
    """
    if not artifacts:
        raise UsageError("nothing to time", hint="name one artifact or several")
    engines: list[Runtime] = []
    paths: list[Path] = []
    sessions: dict[str, Session] = {}
    feeds: dict[str, NDArray[np.float32]] = {}
    told: dict[str, _Told] = {}
    parts: dict[str, Times | None] = {}
    try:
        for position, place in enumerate(artifacts):
            found = companions(Path(place))
            found.check_hash()
            engine = open_runtime(runtime, found.artifact)
            contract, output = _contracts(engine, found.artifact, decoder)
            if output.head is not None:
                told[str(position)] = _Told(contract, output)
            engines.append(engine)
            paths.append(found.artifact)
            sessions[str(position)] = engine.open(found.artifact, threads)
            feeds[str(position)] = _noise(contract, seed)
        measured = timing.measure(sessions, feeds, "0", seconds=seconds, threads=threads)
        pictures = _pictures(images) if told else []
        parts = {key: _parts(sessions[key], one, pictures, measured[key]) for key, one in told.items()}
    finally:
        for session in sessions.values():
            session.close()
    return [
        Timed(
            path,
            size_of(engine, path),
            feeds[key].shape[2:],
            measured[key],
            _ram(engine, path, feeds[key], threads),
            parts.get(key),
        )
        for key, path, engine in zip(sessions, paths, engines, strict=True)
    ]


class _Told(NamedTuple):
    input: InputContract
    output: OutputContract


def _pictures(images: Path | str | None) -> list[NDArray[np.uint8]]:
    """Decoded pictures: the user's, or generated scenes."""
    if images is None:
        scenes = open_data("conveyor").part("val")
        return [scenes[i].image for i in range(min(N_PICTURES, len(scenes)))]
    with opened_pictures(images, limit=N_PICTURES) as pictures:
        return [image for _, image in pictures.frames]


def _parts(session: Session, told: _Told, pictures: Sequence[NDArray[np.uint8]], latency: Measurement) -> Times | None:
    clock = time.perf_counter if latency.cpu is None else time.thread_time
    task = with_thresholds(load("task", "detection")(), {}, FOR_PICTURES)
    answered(session, task, told, pictures[0])
    return times_of([answered(session, task, told, picture, clock)[1] for picture in pictures])


def _ram(engine: Runtime, path: Path, feed: NDArray[np.float32], threads: int) -> int | None:
    try:
        return memory.peak_ram(engine, path, feed.shape, threads)
    except DeviceError as error:
        log.warning("%s", error)
        return None


def _noise(contract: InputContract, seed: int) -> NDArray[np.float32]:
    """An image that is as good as any: what these networks take does not depend on what they see."""
    if min(contract.height, contract.width) < 1:
        raise DataError("the file does not say at which size it runs", hint="export it with a fixed size")
    shape = (1, contract.channels, contract.height, contract.width)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
