"""The stages of a run, each a method that does its part or reads back what was done before."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bitfront import __version__, batches
from bitfront.contracts import Metrics
from bitfront.errors import BitfrontError
from bitfront.fitting.delivery import baseline, choose_front, deliver, drop, pick_names, picks, twins, with_latency
from bitfront.fitting.exploring import Explorer, Found
from bitfront.fitting.previews import rivals, write_previews
from bitfront.fitting.searching import usual_evaluations, worth_searching
from bitfront.fitting.space import Architecture
from bitfront.fitting.suites import SUITES, surprises
from bitfront.fitting.tasks import SearchTask, reason
from bitfront.fitting.training import Training, threads_for
from bitfront.measure import emulated, memory, on_device, timing
from bitfront.measure.profile import OperatorTime, explain
from bitfront.measure.system import system
from bitfront.record import Measurement, OnDevice, Record, from_json, varying_knobs
from bitfront.report.searches import plan_labels, read_searches
from bitfront.verbs.scoring import score_session

__all__ = ["Work"]

EVALUATION_SHARE, THESIS_EVALUATIONS = 0.1, 4530
"""Time of a simulated evaluation in that of making and scoring a file, for the forecast; evaluations of thesis 000."""
SEARCH_SHARE = 0.7
"""Of the time that is left, the part for bit searches; the rest is for the files that they lead to."""
TIMING_S = 15.0
"""Wall time of the latency measurement, at least."""


class Work(Explorer):
    """One run at work."""

    def run(self) -> None:
        """Do all stages. Raises what stops a run."""
        needs_torch = self.request.opened.source.kind != "onnx"
        with threads_for(0) if needs_torch else contextlib.nullcontext():
            self._run()

    def _run(self) -> None:
        self.environment()
        found = self.explore()
        records = found.records + self.search(found)
        self.crew.rest()  # nothing disturbs the timing
        self.clock.begin(found.fixed_s)
        records = self.time(self._runnable(records))
        self.front(records)
        self.clock.finish()
        n_front = len(self.db.get("front", []))
        self.say("end", f"{len(self.db.records())} candidates, {n_front} on the front, {self.seconds:.0f} s")

    def environment(self) -> None:
        """Store what the run runs on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        facts = {**system(), "bitfront": __version__, "runtime": self.shop.runtime.version(), "when": now}
        self.db.put("environment", facts)
        for note in self.request.opened.source.notes:
            self.db.event("model", note)
        if self.request.device.core and emulated.missing():
            self.say("emulate", f"instructions are modelled, not counted: {emulated.missing()}")

    # --- bits --------------------------------------------------------------------------------------------------------
    def search(self, explored: Found) -> list[Record]:
        """Search the bits of the best networks; export, verify and score members of each front."""
        found: list[Record] = []
        if not self.config.bits.method:
            return found
        told: dict[str, Any] = {}
        chosen = worth_searching(explored.records, explored.trained, self.config.bits.n_networks)
        for task, searched in self._done(self._searches(chosen, explored)):
            if isinstance(searched, Exception):
                self.say("search", f"{task.label}: {reason('not searched', searched)}")
                continue
            for record in searched.records:
                self._made(record)
            n, front = searched.n_evaluations, searched.n_front
            self.say("search", f"{task.label}: {n:.0f} evaluations, {front} on the front of bits")
            told[task.architecture.id] = searched
        for architecture, _ in chosen:
            found += told[architecture.id].records if architecture.id in told else []
        self.db.put("searches", [told[a.id].summary for a, _ in chosen if a.id in told])
        return found

    def _searches(
        self, chosen: Sequence[tuple[Architecture, Training | None]], explored: Found
    ) -> Iterator[tuple[SearchTask, float]]:
        """Yield the searches, each with its part of the time that is left when it begins, and its forecast time."""
        bits, budget = self.config.bits, self.config.budget
        for n, (architecture, training) in enumerate(chosen):
            file_s = explored.candidate_s.get(architecture.id, 0.0)
            n_evaluations = usual_evaluations(bits) or THESIS_EVALUATIONS
            cost_s = (EVALUATION_SHARE * n_evaluations + bits.n_members) * file_s
            self.clock.extend(cost_s / self.crew.n)
            left, n_rounds = self.time_left(), math.ceil((len(chosen) - n) / self.crew.n)
            share = None if left is None else SEARCH_SHARE * left / n_rounds
            yield SearchTask(architecture, training, bits, budget.min_score, budget.max_drop, share), cost_s

    # --- time, front --------------------------------------------------------------------------------------------------
    def time(self, records: Sequence[Record]) -> list[Record]:
        """Drop what loses its score, time the rest together, drop what loses time."""
        budget = self.config.budget
        if self.config.suite:
            return self._suite(records)
        records = drop(records, budget)
        wants_time = any(o.name == "latency" for o in self.request.objectives) or budget.max_latency_ms is not None
        if wants_time:
            timed = [r for r in records if r.status == "dominated"]
            timed += [t for r in timed if (t := twins(records).get(r.id)) is not None and t.status != "dominated"]
            measured = self._measure(list({r.id: r for r in timed}.values()))
            records = drop(with_latency(records, measured), budget)
        for record in records:
            self._record(record)
        return records

    def _runnable(self, records: Sequence[Record]) -> list[Record]:
        """Take files of engines that the device has not off the front: the others are held against them."""
        device = self.request.device

        def judged(r: Record) -> Record:
            if r.status != "dominated":
                return r
            if r.candidate.runtime not in device.runtimes:
                return replace(r, status="dropped", reason=f"held against: {device.name} has no {r.candidate.runtime}")
            if device.recipes and not r.candidate.plan and r.candidate.recipe not in device.recipes:
                return replace(r, status="dropped", reason=f"held against: no {r.candidate.recipe} on {device.name}")
            return r

        return [judged(r) for r in records]

    def _suite(self, records: Sequence[Record]) -> list[Record]:
        """Measure every file there is, and say what one would not expect."""
        whole = [r for r in records if r.artifact is not None]
        measured = with_latency(whole, self._measure(whole))
        known = {r.id: replace(r, ram_bytes=self._ram(r)) for r in measured}
        records = drop([known.get(r.id, r) for r in records], self.config.budget)
        for record in records:
            self._record(record)
        said = surprises(records, self._explained)
        self.db.put("suite", {"name": self.config.suite, "title": SUITES[self.config.suite], "surprises": said})
        return records

    def _explained(self, record: Record, base: Record) -> str:
        """Where the time of a file goes that is slower than another, as far as its engine tells."""

        def times(of: Record) -> list[OperatorTime]:
            assert of.artifact is not None
            engine, path = self.shop.engine(of.artifact.runtime), self.db.folder / of.artifact.path
            image = next(batches.evaluation(self.shop.parts["val"], of.artifact.input, 1))[0].images
            ask = getattr(engine, "profile", None)
            return list(ask(path, image, self.config.threads)) if ask is not None else []

        def compute() -> str:
            self.clock.tell("profile", record.candidate.label)
            try:
                own, other = times(record), times(base)
                if own and sum(t.ms for t in own) <= sum(t.ms for t in other):
                    return "its operators, timed one by one, do not show where"
                return explain(own, other, record.candidate.recipe, base.candidate.recipe)
            except BitfrontError as error:
                return str(error)

        assert record.artifact is not None
        inputs = [record.artifact.sha256, self.config.threads, self._versions([record])]
        return str(self.db.cached("profile", inputs, compute))

    def _measure(self, records: Sequence[Record]) -> dict[str, Measurement]:
        if not records:
            return {}
        files = {r.id: r.artifact.sha256 for r in records if r.artifact}
        inputs = [files, self.config.threads, self.request.device.name, self._versions(records)]

        def compute() -> dict[str, Measurement]:
            self.clock.tell("time", f"timing {len(records)} files in turns")
            return self._timed(records)

        stored = self.db.cached("time", inputs, compute)
        return {key: from_json(Measurement, value) for key, value in stored.items()}

    def _versions(self, records: Sequence[Record]) -> list[str]:
        """Versions of the engines that files are for."""
        names = {r.artifact.runtime for r in records if r.artifact}
        return [runtime.version() for runtime in self.shop.runtimes if runtime.name in names]

    def _timed(self, records: Sequence[Record]) -> dict[str, Measurement]:
        sessions: dict[str, Any] = {}
        images: dict[str, Any] = {}
        part = self.shop.parts["val"]
        try:
            for record in records:
                assert record.artifact is not None
                engine = self.shop.engine(record.artifact.runtime)
                sessions[record.id] = engine.open(self.db.folder / record.artifact.path, self.config.threads)
                images[record.id] = next(batches.evaluation(part, record.artifact.input, 1))[0].images
            floats = [r for r in records if r.candidate.recipe == "float32"] or list(records)
            largest = max(floats, key=lambda r: (r.macs or 0, r.id))
            return timing.measure(
                sessions,
                images,
                largest.id,
                seconds=TIMING_S,
                threads=self.config.threads,
                device=self.request.device.name,
            )
        finally:
            for session in sessions.values():
                session.close()

    def front(self, records: Sequence[Record]) -> None:
        """Choose the front, score it on test, write its folders and the report's material."""
        members, verdict = choose_front(records, self.request.objectives, self.config.budget, self.config.pick)
        members = [
            replace(r, status="front", test=self._test(r), ram_bytes=self._ram(r), on_device=self._emulated(r))
            for r in members
        ]
        names = pick_names(members, verdict["met"], self.config.pick)
        for record in members:
            self._record(record)
        self.db.keep_records(self.recorded)
        base = baseline(records)
        self.db.put("baseline", base.id if base else "")
        self.db.put("front", [{"name": name, "id": r.id} for name, r in zip(names, members, strict=True)])
        self.db.put("verdict", verdict)
        self.db.put("met", verdict["met"])
        self.clock.tell("front", f"{len(members)} members")
        deliver(self.db.folder, members, names, self._facts())
        self._previews(members, records)
        self.db.put("finished", True)

    def _test(self, record: Record) -> Metrics | None:
        if "test" not in self.shop.parts or record.artifact is None:
            return None
        artifact, opened = record.artifact, self.request.opened

        def compute() -> Metrics:
            self.clock.tell("test", record.candidate.label)
            engine = self.shop.engine(artifact.runtime)
            session = engine.open(self.db.folder / artifact.path, self.config.threads)
            try:
                source = replace(opened.source, input=artifact.input)
                return score_session(session, opened, self.shop.parts["test"], score=self.config.score, source=source)
            finally:
                session.close()

        inputs = [artifact.sha256, artifact.input, artifact.output, self.shop.digest, self.config.score]
        return from_json(Metrics, self.db.cached("test", inputs, compute))

    def _ram(self, record: Record) -> int | None:
        """Peak memory of a file, from a process of its own; ``None`` (and a line in the log) where that fails."""
        artifact, threads = record.artifact, self.config.threads
        if artifact is None:
            return None
        shape = (1, artifact.input.channels, artifact.input.height, artifact.input.width)
        engine = self.shop.engine(artifact.runtime)

        def compute() -> int | None:
            self.clock.tell("memory", record.candidate.label)
            try:
                return memory.peak_ram(engine, self.db.folder / artifact.path, shape, threads)
            except BitfrontError as error:
                self.db.event("memory", str(error))
                return None

        inputs = [artifact.sha256, shape, threads, engine.version()]
        value: int | None = self.db.cached("memory", inputs, compute)
        return value

    def _emulated(self, record: Record) -> OnDevice | None:
        """What a file takes on the run's device, with what the emulator counts, where it is installed."""
        artifact, found, device = record.artifact, record.on_device, self.request.device
        if artifact is None or found is None:
            return found
        engine = self.shop.engine(artifact.runtime)

        def compute() -> OnDevice:
            self.clock.tell("emulate", record.candidate.label)
            try:
                return on_device.counted(found, device, engine, self.db.folder / artifact.path)
            except BitfrontError as error:
                self.db.event("emulate", str(error))
                return found

        inputs = [artifact.sha256, found, device.name, engine.version(), emulated.version()]
        return from_json(OnDevice, self.db.cached("emulate", inputs, compute))

    def _facts(self) -> dict[str, Any]:
        return {
            "data": self.config.data,
            "data_digest": self.shop.digest,
            "classes": list(self.request.opened.info.classes),
            "model": self.config.model,
            "seed": self.config.seed,
            "bitfront": __version__,
            "runtime_version": {r.name: r.version() for r in self.shop.runtimes},
            "run": self.db.folder.resolve().name,
        }

    def _previews(self, members: Sequence[Record], records: Sequence[Record]) -> None:
        if not members:
            return
        shown = next((r for r in members if r.candidate.recipe != "float32"), members[0])
        shown = members[0] if members[0].candidate.recipe != "float32" else shown
        twin = twins(records).get(shown.id, shown)
        places = (self.db.folder, self.shop.engine, self.request.opened, self.shop.parts["val"])
        names = plan_labels(read_searches(self.db.get("searches")))
        if self.config.suite:
            others = [r for r in records if r.artifact is not None and r.id not in (shown.id, twin.id)]
            names |= {r.id: f"{r.candidate.recipe} {r.candidate.runtime}" for r in (shown, twin, *others)}
        else:
            picked = picks([r for r in members if r.id not in (shown.id, twin.id)])
            chosen = {r.id for r in picked.values()}
            others = [*(r for r in rivals(shown, records) if r.id not in chosen), *picked.values()]
            varied = varying_knobs(r.candidate for r in members)
            names |= {r.id: f"{name}: {r.candidate.named(varied)}" for name, r in picked.items()}
        write_previews(*places, shown=shown, twin=twin, others=others, names=names)
