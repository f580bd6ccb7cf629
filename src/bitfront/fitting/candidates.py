"""From a network's weights to files: capture, export with every recipe, verify, score; each file is made once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfront import batches
from bitfront.errors import DataError
from bitfront.fitting.shop import Shop, Way
from bitfront.fitting.space import Architecture
from bitfront.fitting.training import new_module
from bitfront.graph import capture, files, passes
from bitfront.graph.count import Counts, count
from bitfront.graph.ir import Graph
from bitfront.measure import on_device, verify
from bitfront.quant import recipes
from bitfront.quant.costs import Costs, bits_of
from bitfront.quant.formats import Affine
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import RECIPES
from bitfront.record import Artifact, Candidate, Record, content_id, digest_file, from_json
from bitfront.simulate import reference
from bitfront.stats import ranges
from bitfront.verbs.artifacts import size_of
from bitfront.verbs.opening import open_session
from bitfront.verbs.scoring import score_session

__all__ = ["Network", "make_candidate"]

N_CALIBRATE = 64
N_VERIFY = 8
CAPTURE_TOLERANCE = 1e-3
"""Largest difference between the captured graph and the network, relative to the largest output."""
BATCH_SIZE = 8


class Network:
    """A trained architecture on its way to files; what is expensive is done once, when first needed."""

    def __init__(self, shop: Shop, architecture: Architecture, weights: Path | None) -> None:
        self.shop = shop
        self.architecture = architecture
        self.weights = weights
        """Trained checkpoint; ``None`` for the source's own weights."""
        self.contract = shop.opened.source.contract(architecture.size, architecture.options)

    @property
    def origin(self) -> str:
        """Content id of the float weights."""
        if self.weights is not None:
            return digest_file(self.weights)
        source = self.shop.opened.source
        given = source.weights_for(self.architecture.options, self.architecture.size)
        return given.sha256 if given else source.digest

    def candidate(self, way: Way) -> Candidate:
        """Return the candidate that one recipe makes of this network, for one engine."""
        name = self.shop.opened.source.name
        return Candidate(name, self.architecture.knobs, way.recipe, way.runtime, self.origin)

    @cached_property
    def captured(self) -> Graph:
        """The graph as it was captured."""
        source, size = self.shop.opened.source, self.architecture.size
        if source.kind == "onnx":
            graph = source.graph(size)
            _check_capture(_run_file(self.shop, source.path), graph, self.calibration[0])
            return graph
        seed = self.shop.seed_of("train", self.architecture.knobs)
        module = new_module(self.shop, self.architecture, self.weights, seed)
        graph = capture.from_module(module, (1, self.contract.channels, *size))
        _check_capture(lambda image: _run_module(module, image), graph, self.calibration[0])
        return graph

    @cached_property
    def counts(self) -> Counts:
        """Parameters and multiply-accumulates, before BatchNorm is folded."""
        return count(self.captured)

    @cached_property
    def graph(self) -> Graph:
        """The graph ready for inference."""
        return passes.prepare(self.captured)

    @cached_property
    def calibration(self) -> list[NDArray[np.float32]]:
        """Images that ranges are read from."""
        part = self.shop.parts["train" if "train" in self.shop.parts else "val"]
        rng = np.random.default_rng(self.shop.seed_of("calibrate"))
        return batches.calibration(part, self.contract, N_CALIBRATE, rng)

    @cached_property
    def ranges(self) -> ranges.Ranges:
        """Values that every tensor takes."""
        observe = getattr(self.shop.runtime, "observe", None)
        return ranges.collect(self.graph, self.calibration, observe(self.graph) if observe else None)

    def images(self) -> list[NDArray[np.float32]]:
        """Return the images to verify on, of the val part."""
        rng = np.random.default_rng(self.shop.seed_of("verify"))
        return batches.calibration(self.shop.parts["val"], self.contract, N_VERIFY, rng)


def _check_capture(run: Callable[[NDArray[Any]], NDArray[Any]], graph: Graph, image: NDArray[np.float32]) -> None:
    """Raise DataError when the graph does not compute what the network computes."""
    expected, got = run(image), reference.run(graph, image)[graph.outputs[0]]
    scale = float(np.abs(expected).max()) or 1.0
    error = float(np.abs(got - expected).max()) / scale if got.shape == expected.shape else float("inf")
    if not error <= CAPTURE_TOLERANCE:
        raise DataError(
            f"the captured graph differs from the network by {error:.2g} of its largest output",
            hint="please report the network: an operator is read wrongly",
        )


def _run_module(module: Any, image: NDArray[Any]) -> NDArray[Any]:
    import torch

    with torch.no_grad():
        answer: NDArray[Any] = module.eval()(torch.from_numpy(image)).numpy()
    return answer


def _run_file(shop: Shop, path: Path | None) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def run(image: NDArray[Any]) -> NDArray[Any]:
        assert path is not None
        session = open_session(shop.opened.source)
        try:
            return session.run(image)
        finally:
            session.close()

    return run


def make_candidate(
    network: Network,
    way: Way,
    train_seconds: float | None = None,
    *,
    searched: tuple[Graph, Plan] | None = None,
) -> Record:
    """Export a network with one recipe, verify the file and score it in its runtime; or read back what was made before.

    ``searched``: a plan that a search found and its graph; the recipe then is but its name. The status is
    ``dominated``; the front is chosen once all records are there. Raises DataError, UsageError.
    """
    shop, source = network.shop, network.shop.opened.source
    candidate, engine = network.candidate(way), shop.engine(way.runtime)
    if searched is not None:
        candidate = replace(candidate, plan=content_id(searched[0].id, searched[1].id)[:12])
    inputs = {
        "candidate": candidate,
        "runtime": engine.version(),
        "input": network.contract,
        "output": source.output,
        "data": shop.digest,
        "seed": shop.seed,
        "score": shop.score,
        **({"device": shop.device.name} if shop.device.kind != "host" else {}),
    }
    place = f"candidates/{candidate.id}"

    def compute() -> Record:
        return _make(network, candidate, place, train_seconds, searched)

    def named(value: Any) -> list[str]:
        path = value["artifact"]["path"]
        return [path, str(Path(path).with_suffix(files.SUFFIX))]

    return from_json(Record, shop.db.cached("candidate", inputs, compute, files=named))


def _built(network: Network, recipe: str) -> tuple[Graph, Plan]:
    return recipes.build(
        recipe,
        network.graph,
        network.ranges if RECIPES[recipe].needs_ranges else None,
        network.calibration,
        observe=getattr(network.shop.runtime, "observe", None),
    )


def _make(
    network: Network,
    candidate: Candidate,
    place: str,
    train_seconds: float | None,
    searched: tuple[Graph, Plan] | None,
) -> Record:
    shop, source = network.shop, network.shop.opened.source
    start, engine = time.monotonic(), shop.engine(candidate.runtime)
    folder = shop.folder / place
    folder.mkdir(parents=True, exist_ok=True)
    graph, plan = searched or _built(network, candidate.recipe)
    path = engine.export(graph, plan, folder, network.contract, source.output)
    files.save(path.with_suffix(files.SUFFIX), graph, plan)
    agreement = verify.compare(
        engine, path, graph, plan, network.contract, source.output, network.images(), float_graph=network.graph
    )
    session = engine.open(path, shop.threads)
    try:
        metrics = score_session(
            session,
            shop.opened,
            shop.parts["val"],
            score=shop.score,
            source=replace(source, input=network.contract),
            batch_size=BATCH_SIZE,
        )
    finally:
        session.close()
    told = getattr(engine, "notes", lambda graph, plan: ())
    shifted = any(isinstance(f, Affine) and f.axis is not None for f in plan.formats.values())
    counts, costs, bits = network.counts, Costs(graph, per_channel=shifted), bits_of(plan)
    artifact = Artifact(
        path=path.relative_to(shop.folder).as_posix(),
        runtime=engine.name,
        recipe=candidate.recipe,
        size_bytes=size_of(engine, path),
        sha256=digest_file(path),
        input=network.contract,
        output=source.output,
    )
    there = None
    if shop.device.kind != "host" and engine.name in shop.device.runtimes:
        told_by = getattr(engine, "footprint", None)
        there = on_device.modelled(shop.device, graph, plan, told_by(path) if told_by else None)
    seconds = time.monotonic() - start
    return Record(
        candidate,
        "dominated",
        artifact=artifact,
        val=metrics,
        agreement=agreement,
        parameters=counts.parameters,
        macs=counts.macs,
        activation_bytes=counts.activation_bytes,
        flash_bytes=int(costs.flash_bytes(bits)),
        peak_bytes=int(costs.ram_bytes(bits)),
        on_device=there,
        train_seconds=train_seconds,
        seconds=seconds + (train_seconds or 0.0),
        notes=(*told(graph, plan), *agreement.exceptions),
    )
