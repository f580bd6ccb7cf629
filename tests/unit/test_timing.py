from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bitfront.errors import DeviceError, UsageError
from bitfront.measure import memory, timing
from bitfront.measure.system import FLAGS, cpu, system
from bitfront.measure.timing import difference, measure
from bitfront.record import Measurement, from_json, to_json

IMAGE = np.zeros((1, 3, 4, 4), np.float32)


class Machine:
    """A clock that only its sessions move: wall = CPU x ``load``, both with noise and drift."""

    def __init__(self, rng: np.random.Generator, noise: float = 0.0, drift: float = 0.0, load: float = 1.0) -> None:
        self.rng, self.noise, self.drift, self.load = rng, noise, drift, load
        self.wall = self.cpu = 0.0
        self.log: list[str] = []

    def __call__(self) -> tuple[float, float]:
        return self.wall, self.cpu

    def spend(self, seconds: float, own_thread: bool) -> None:
        spent = seconds * (1 + self.drift * self.wall) * float(np.exp(self.noise * self.rng.normal()))
        self.cpu += spent * own_thread
        self.wall += spent * (self.load if not self.noise else self.load * (1 + self.rng.exponential()))


class FakeSession:
    def __init__(self, name: str, machine: Machine, ms: float, cold: int = 0, own_thread: bool = True) -> None:
        self.name, self.machine, self.ms, self.cold, self.own_thread = name, machine, ms, cold, own_thread
        self.shapes: set[tuple[int, ...]] = set()

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.machine.log.append(self.name)
        self.shapes.add(images.shape)
        self.cold -= 1
        self.machine.spend(self.ms / 1000 * (3 if self.cold >= 0 else 1), self.own_thread)
        return images

    def close(self) -> None:
        """Nothing is held."""


def run(machine: Machine, times_ms: Mapping[str, float], **options: float) -> dict[str, Measurement]:
    sessions = {name: FakeSession(name, machine, ms) for name, ms in times_ms.items()}
    return measure(sessions, IMAGE, "float", clock=machine, **options)  # type: ignore[arg-type]


def test_a_quiet_machine_gives_exact_numbers(rng: np.random.Generator) -> None:
    found = run(Machine(rng), {"float": 10.0, "int8": 4.0, "same": 10.0})
    assert [found[n].value for n in found] == pytest.approx([10.0, 4.0, 10.0])
    assert found["int8"].ratio == pytest.approx(0.4)
    assert found["float"].ratio == 1.0
    assert found["int8"].noise_floor == pytest.approx(0, abs=1e-9)
    assert found["int8"].iqr == pytest.approx(0, abs=1e-9)
    assert (found["int8"].unit, found["int8"].threads, found["int8"].note) == ("ms", 1, "")
    assert 8 <= len(found["int8"].samples) <= timing.N_SAMPLES < found["int8"].n


def test_drift_and_load_do_not_change_ratios(rng: np.random.Generator) -> None:
    machine = Machine(rng, noise=0.05, drift=0.1, load=2.0)  # twice as slow after ten seconds
    found = run(machine, {"float": 20.0, "int8": 10.0, "twin": 20.0})
    assert found["int8"].ratio == pytest.approx(0.5, rel=0.05)
    assert 0 < found["int8"].noise_floor < 0.08  # type: ignore[operator]
    assert difference(found["twin"]) == "no difference"
    assert difference(found["int8"]).endswith("x faster")
    assert found["int8"].note.startswith("busy machine: wall time is")
    assert found["int8"].wall > 2 * found["int8"].value  # type: ignore[operator]


def test_the_order_is_back_and_forth_with_the_baseline_in_between(rng: np.random.Generator) -> None:
    machine = Machine(rng)
    names = ["float", *"abcdefg"]
    run(machine, dict.fromkeys(names, 40.0), seconds=0.0, min_rounds=2)  # one run a visit
    warm = 6 * (len(names) + 1)  # a block and one that agrees, for every session and the twin
    log = machine.log[warm:]
    first, second = log[: len(log) // 2], log[len(log) // 2 :]
    assert first == ["float", "float", "a", "b", "float", "c", "d", "e", "float", "f", "g", "float"]
    assert [n for n in second if n != "float"] == list("gfedcba")
    gaps = "".join("|" if n == "float" else "." for n in log)
    assert "...." not in gaps


def test_fast_networks_run_more_often(rng: np.random.Generator) -> None:
    found = run(Machine(rng), {"float": 30.0, "tiny": 0.5}, seconds=2.0)
    assert found["tiny"].n > 10 * found["float"].n / 3


def test_cold_runs_are_not_counted(rng: np.random.Generator) -> None:
    machine = Machine(rng)
    sessions = {"float": FakeSession("float", machine, 5.0, cold=5), "b": FakeSession("b", machine, 5.0, cold=3)}
    found = measure(sessions, IMAGE, "float", clock=machine, seconds=1.0)
    assert found["float"].value == pytest.approx(5.0)
    assert found["b"].ratio == pytest.approx(1.0)


def test_a_warm_up_that_never_settles_ends(rng: np.random.Generator) -> None:
    machine = Machine(rng, noise=1.0)
    run(machine, {"float": 40.0}, seconds=0.0, min_rounds=1)
    assert len(machine.log) <= 2 * timing.MAX_BLOCKS * timing.BLOCK + 3


def test_time_is_kept_with_thirty_sessions(rng: np.random.Generator) -> None:
    machine = Machine(rng)
    run(machine, {"float": 40.0, **{f"n{i}": 10.0 + i for i in range(29)}}, seconds=10.0)
    assert machine.wall < 40


def test_engines_that_compute_elsewhere_are_timed_by_the_wall(rng: np.random.Generator) -> None:
    machine = Machine(rng)
    sessions = {n: FakeSession(n, machine, ms, own_thread=False) for n, ms in [("float", 8.0), ("b", 4.0)]}
    found = measure(sessions, IMAGE, "float", clock=machine, seconds=0.5)
    assert found["b"].value == pytest.approx(4.0)
    assert found["b"].ratio == pytest.approx(0.5)
    assert found["b"].cpu is None
    assert found["b"].note.startswith("wall time")
    threaded = measure(sessions, IMAGE, "float", clock=machine, seconds=0.5, threads=2)
    assert (threaded["b"].threads, threaded["b"].cpu) == (2, None)


def test_every_session_may_have_its_own_image_size(rng: np.random.Generator) -> None:
    machine = Machine(rng)
    sessions = {"float": FakeSession("float", machine, 8.0), "small": FakeSession("small", machine, 2.0)}
    small = np.zeros((1, 3, 2, 2), np.float32)
    measure(sessions, {"float": IMAGE, "small": small}, "float", clock=machine, seconds=0.2)
    assert sessions["small"].shapes == {small.shape}
    assert sessions["float"].shapes == {IMAGE.shape}


def test_the_noise_floor_covers_the_error_of_the_control(rng: np.random.Generator) -> None:
    misses = 0
    for _ in range(40):
        found = run(Machine(rng, noise=0.1), {"float": 10.0, "twin": 10.0}, seconds=0.0)
        misses += difference(found["twin"]) != "no difference"
    assert misses <= 6


def test_the_baseline_must_be_there(rng: np.random.Generator) -> None:
    with pytest.raises(UsageError, match="unknown baseline 'float'"):
        run(Machine(rng), {"int8": 1.0})


@pytest.mark.parametrize(
    ("ratio", "floor", "text"),
    [
        (0.5, 0.02, "2.0x faster"),
        (0.97, 0.02, "1.03x faster"),
        (1.8, 0.02, "1.8x slower"),
        (0.99, 0.02, "no difference"),
        (1.0, None, "no difference"),
        (None, None, "not compared"),
    ],
)
def test_difference_in_words(ratio: float | None, floor: float | None, text: str) -> None:
    assert difference(Measurement(1.0, "ms", ratio=ratio, noise_floor=floor)) == text


def test_measurements_survive_json(rng: np.random.Generator) -> None:
    found = run(Machine(rng, noise=0.1), {"float": 10.0})["float"]
    assert from_json(Measurement, json.loads(json.dumps(to_json(found)))) == found


# --- the machine -----------------------------------------------------------------------------------------------------
def test_system_is_plain_data_and_imports_no_engine() -> None:
    facts = system()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"]
    assert facts["ram_bytes"] > 2**28
    assert set(facts["cpu_flags"]) <= set(FLAGS)
    assert facts["packages"]["numpy"] == np.__version__


def test_cpu_reads_arm_and_x86(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in [
        ("model name\t: Foo 9\nflags\t\t: fpu avx512_vnni avx2\n", ("Foo 9", ("avx2", "avx512_vnni"))),
        ("processor : 0\nFeatures : asimd asimddp\nHardware : BCM2711\n", ("BCM2711", ("asimd", "asimddp"))),
    ]:
        monkeypatch.setattr(Path, "read_text", lambda *_, text=text, **__: text)
        assert cpu() == expected
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    assert cpu()[0]


class Hungry:
    """Stands for a runtime: needs 300 MiB to be imported; its sessions hold 64 MiB, and 32 more for a moment."""

    def __init__(self, mebibytes: int = 64) -> None:
        self.mebibytes = mebibytes

    def version(self) -> str:
        return str(np.ones(300 << 17).sum())

    def open(self, path: Path, threads: int) -> Hungry:
        self.held = np.ones(self.mebibytes << 17)
        return self

    def run(self, images: NDArray[np.float32]) -> float:
        return float(np.ones(32 << 17).sum())


def test_peak_memory_is_that_of_opening_and_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # the child imports Hungry
    peak = memory.peak_ram(Hungry(), Path("x"), (1, 3, 4, 4))  # type: ignore[arg-type]
    if sys.platform == "linux":
        assert 90 << 20 < peak < 110 << 20


def test_peak_memory_of_a_file_grows_with_its_images(tmp_path: Path) -> None:
    from bitfront.contracts import InputContract, OutputContract
    from bitfront.graph.builder import Builder
    from bitfront.quant.plan import Plan
    from bitfront.runtimes.onnxruntime import OnnxRuntime

    b = Builder()
    graph = b.build((b.node("sigmoid", "y", (b.input("x", (1, 3, 8, 8)),)),))
    path = OnnxRuntime().export(graph, Plan("float32"), tmp_path, InputContract(8, 8), OutputContract())
    small, large = (memory.peak_ram(OnnxRuntime(), path, (n, 3, 8, 8)) for n in (1, 1 << 15))
    assert large - small > (1 << 15) * 3 * 8 * 8 * 4 * 0.9


def test_peak_memory_says_what_went_wrong(tmp_path: Path) -> None:
    from bitfront.runtimes.onnxruntime import OnnxRuntime

    with pytest.raises(DeviceError, match=r"peak memory of '.*nothing.onnx'"):
        memory.peak_ram(OnnxRuntime(), tmp_path / "nothing.onnx", (1, 3, 4, 4))


def test_difference_uses_the_measurement_s_own_spread() -> None:
    wide = Measurement(1.0, "ms", ratio=0.9, noise_floor=0.2)
    assert difference(wide) == "no difference"
    assert difference(replace(wide, noise_floor=0.05)) == "1.1x faster"
