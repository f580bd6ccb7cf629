"""The runtime c_fixed: files, text, memory, negative controls. The numbers: ``tests/parity/test_c_fixed_random.py``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import DataError, DeviceError, OperatorError, UsageError
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.measure import verify
from bitfront.quant.formats import Affine, Qmn
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import build as build_recipe
from bitfront.runtimes import c_build, c_lower, c_memory, c_source, c_text, c_tree
from bitfront.runtimes.c_fixed import CFixed
from bitfront.runtimes.c_pack import pack, signed_bits, unpack
from bitfront.runtimes.c_session import Child, CSession
from bitfront.runtimes.c_source import Written
from bitfront.simulate import reference

compiles = pytest.mark.skipif(bool(c_build.missing()), reason=c_build.missing() or "-")
CONTRACT, OUTPUT = InputContract(8, 8), OutputContract()
QUICK = ("-std=c99", "-O0")
HOSTILE = ("*/ int x; /*", "a\n#error b", "while", "нейрон \u202e 层", "??/", "\\", 'q"', "// c", "\0", "%s%n" * 40)


def network(rng: np.random.Generator, names: tuple[str, ...] = ("a", "b", "c", "d", "e", "f")) -> Graph:
    """Convolution, depthwise, add, resize, sigmoid, and a head, with these names."""
    b, (n1, n2, n3, n4, n5, n6) = Builder(), names
    x = b.input(f"in {n1}", (1, 3, 8, 8))

    def conv(x: str, name: str, channels: int, groups: int = 1) -> str:
        weight = b.constant(f"w {name}", rng.normal(0, 0.4, (channels, b.shape(x)[1] // groups, 3, 3)), "weight")
        bias = b.constant(f"b {name}", rng.normal(0, 0.2, channels), "bias")
        rest = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "groups": groups}
        return b.node("conv", name, [x, weight, bias], clip=None, **rest)

    x = conv(x, n1, 4)
    x = b.node("add", n3, [x, conv(x, n2, 4, groups=4)], clip=None)
    x = b.node("sigmoid", n5, [b.node("resize", n4, [x], mode="linear", size=[11, 11], coordinates="half_pixel")])
    return b.build([conv(x, n6, 2)])


def images(rng: np.random.Generator, n: int = 2) -> np.ndarray:
    return rng.normal(0, 1, (n, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def made(rng: np.random.Generator) -> tuple[Graph, Plan]:
    graph, plan = build_recipe("qmn8", network(rng), batches=[images(rng, 4)])
    return graph, plan


# --- the file --------------------------------------------------------------------------------------------------------
@compiles
def test_the_file_builds_with_a_compiler_alone_and_passes_its_own_test(
    made: tuple[Graph, Plan], tmp_path: Path
) -> None:
    path = CFixed(prefix="net").export(*made, tmp_path, CONTRACT, OUTPUT)
    with zipfile.ZipFile(path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        archive.extractall(tmp_path / "out")
    home = tmp_path / "out" / "net"
    command = f"cc -std=c99 -O0 {' '.join(c_build.STRICT)} -Isrc src/*.c main.c -o self_test"
    subprocess.run(command, shell=True, cwd=home, check=True, timeout=120)
    assert subprocess.run([home / "self_test"], check=False).returncode == 0
    weights = home / "src" / "net_weights.h"
    text = weights.read_text()
    first = re.search(r"net_w_0\[\d+\] = \{\n\s+(\d+)", text)
    assert first
    changed = text[: first.start(1)] + str(int(first[1]) ^ 4) + text[first.end(1) :]
    weights.write_text(changed)
    subprocess.run(command, shell=True, cwd=home, check=True, timeout=120)
    assert subprocess.run([home / "self_test"], check=False).returncode == 1, "one bit of a weight"


@compiles
def test_images_that_come_row_by_row(made: tuple[Graph, Plan], rng: np.random.Generator, tmp_path: Path) -> None:
    graph, plan = made
    engine, x = CFixed(stream_input=True), images(rng)
    path = engine.export(graph, plan, tmp_path, CONTRACT, OUTPUT)
    agreement = verify.compare(CFixed(), path, graph, plan, CONTRACT, OUTPUT, x)
    assert agreement.verified, agreement
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "out")
    home = tmp_path / "out" / "model"
    assert "model_input(" not in (home / "src" / "model.h").read_text()
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", *c_build.STRICT)
    command = f"cc -std=c99 -O0 {' '.join(flags)} -Isrc src/*.c main.c -o self_test"
    subprocess.run(command, shell=True, cwd=home, check=True, timeout=120)
    assert subprocess.run([home / "self_test"], check=False).returncode == 0
    program = c_lower.lower(graph, plan, streamed=True)
    assert program.window_bytes == 3 * 8 * 3, "three rows of eight pixels"
    b = Builder()
    x = b.input("x", (1, 2, 4, 4))
    with pytest.raises(UsageError, match=r"node 'n' \(neg\) is not the one convolution"):
        c_lower.lower(b.build([b.node("neg", "n", [x])]), Plan("p", {"x": Qmn(8, 4), "n": Qmn(8, 4)}), streamed=True)


def test_the_file_says_what_it_takes(made: tuple[Graph, Plan], tmp_path: Path) -> None:
    path = CFixed().export(*made, tmp_path, CONTRACT, OutputContract("threshold", 0.5))
    with zipfile.ZipFile(path) as archive:
        names = {info.filename for info in archive.infolist()}
        facts = json.loads(archive.read("model/manifest.json"))
        feed = archive.read("model/src/model_feed.h").decode()
    assert {"model/src/model.c", "model/src/bf_conv.c", "model/CMakeLists.txt", "model/library.properties"} <= names
    assert not any("host" in name for name in names)
    weights = sum(made[0].constants[t.name].size for t in made[0].named("weight"))
    assert facts["weight_bytes"] == weights
    assert facts["rounding"] == "half_even"
    assert facts["arena_bytes"] == facts["arena_lower_bound_bytes"]
    assert facts["flash_bytes"] > weights
    form = made[1].formats[made[0].inputs[0]]
    assert isinstance(form, Qmn)
    white = form.encode(np.float32((1 - 0.485) / 0.229))  # type: ignore[arg-type]
    assert re.search(rf"\b{int(white)}\}},", feed.split("\n")[-5] + feed.split("{")[2])
    described = CFixed().describe(path)
    assert (described.input, described.output) == (CONTRACT, OutputContract("threshold", 0.5))
    assert described.task == "segmentation"
    assert "bytes of RAM" in CFixed().notes(*made)[0]


@compiles
def test_session_gives_values_and_layers(made: tuple[Graph, Plan], rng: np.random.Generator, tmp_path: Path) -> None:
    graph, plan = made
    x, engine = images(rng), CFixed()
    session = engine.open(engine.export(graph, plan, tmp_path, CONTRACT, OUTPUT))
    codes = reference.run(graph, x, plan, keep="*")
    out = graph.outputs[0]
    assert np.array_equal(session.run(x), reference.values(graph, plan, out, codes[out]))
    traced = session.trace(x)
    assert set(traced) == set(codes)
    assert all(np.array_equal(traced[name], codes[name]) for name in codes)
    with pytest.raises(DataError, match="are not"):
        session.run(x[:, :, :4])
    session.close()
    with pytest.raises(DataError, match="closed"):
        session.run(x)


def tampered(path: Path, name: str, change: tuple[bytes, bytes]) -> Path:
    with zipfile.ZipFile(path) as archive:
        held = {info.filename: archive.read(info) for info in archive.infolist()}
    assert change[0] in held[name]
    held[name] = held[name].replace(*change, 1)
    out = path.with_name("tampered.zip")
    with zipfile.ZipFile(out, "w") as archive:
        for entry, data in held.items():
            archive.writestr(entry, data)
    return out


def test_only_bitfronts_own_c_is_compiled(
    made: tuple[Graph, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c_build, "build", lambda *_: pytest.fail("it was compiled"))
    path = CFixed().export(*made, tmp_path, CONTRACT, OUTPUT)
    for name, change in (
        ("model/src/model.c", (b"_run(void *arena) {", b"_run(void *arena) { system(0);")),
        ("model/src/bf_conv.c", (b"#define", b"#include <stdlib.h>\n#define")),
        ("model/src/model_weights.h", (b"/*", b"#include </etc/passwd>\n/*")),
    ):
        with pytest.raises(DataError, match="so it is not run") as error:
            CFixed().open(tampered(path, name, change))
        assert error.value.hint
    for name, change in (
        ("model/manifest.json", (b'"model"', b'"x;y"')),
        ("model/manifest.json", (b'"name"', b'"n"')),
        ("model/network.safetensors", (b"bitfront", b"bitbacks")),
    ):
        with pytest.raises((DataError, UsageError), match=r"no network in C|no reference file|cannot begin"):
            CFixed().open(tampered(path, name, change))
    newer = tampered(path, "model/manifest.json", (b'"schema": 1', b'"schema": 99'))
    with pytest.raises(DataError, match="newer bitfront"):
        CFixed().describe(newer)


def test_a_crash_is_one_line(tmp_path: Path, made: tuple[Graph, Plan]) -> None:
    program = tmp_path / "crash"
    program.write_text("#!/bin/sh\nkill -SEGV $$\n")
    program.chmod(0o755)
    session = CSession(Child(program), c_lower.lower(*made))
    with pytest.raises(DataError, match="SIGSEGV"):
        session.run(np.zeros((1, 3, 8, 8), np.float32))


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, made: tuple[Graph, Plan], tmp_path: Path) -> None:
    path = CFixed().export(*made, tmp_path, CONTRACT, OUTPUT)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "apt-get install gcc" in CFixed().missing()
    with pytest.raises(DeviceError, match="C compiler"):
        CFixed().open(path)


# --- text ------------------------------------------------------------------------------------------------------------
@given(st.text(max_size=60))
@settings(max_examples=25, deadline=None)
def test_comments_never_end_early(text: str) -> None:
    safe = c_text.comment(text)
    assert safe.isascii()
    assert safe.isprintable()
    assert not any(mark in safe for mark in ("*/", "/*", "//", "\\", "??"))
    assert len(safe) <= 80


@pytest.mark.parametrize("name", ["", "9", "A", "int", "while", "bf_x", "a-b", "a" * 40, "ä"])
def test_prefixes_that_are_no_names(name: str, made: tuple[Graph, Plan]) -> None:
    with pytest.raises(UsageError, match="cannot begin the names"):
        c_source.write(*made, name)


@compiles
def test_hostile_names_compile(rng: np.random.Generator) -> None:
    nets = []
    for k in range(2):
        graph, plan = build_recipe("qmn8", network(rng, HOSTILE[4 * k : 4 * k + 6]), batches=[images(rng)])
        nets.append((graph, plan, c_source.write(graph, plan, f"n{k}")))
    child = Child(c_build.build([net for *_, net in nets], (*QUICK, *c_build.STRICT)))
    for k, (graph, _, net) in enumerate(nets):
        got = CSession(child, net.program, k).run(images(rng, 1))
        assert got.shape == graph.tensors[graph.outputs[0]].shape
    child.close()
    twice = c_source.write(*nets[0][:2], "n0")
    assert (twice.model_c, twice.weights_h) == (nets[0][2].model_c, nets[0][2].weights_h)


# --- what has no C ---------------------------------------------------------------------------------------------------
def test_errors_name_node_and_operator(made: tuple[Graph, Plan]) -> None:
    graph, plan = made
    for tensor, words in (("e", "node 'e' .sigmoid.: tensor 'e' stays float32"), ("w b", "weight 'w b' has no fixed")):
        formats = {name: form for name, form in plan.formats.items() if name != tensor}
        with pytest.raises(UsageError, match=words) as error:
            c_source.write(graph, replace(plan, formats=formats))
        assert "qmn8" in error.value.hint
    affine = {**plan.formats, "e": Affine(8, (0.1,), (3,))}
    with pytest.raises(UsageError, match=r"has the format Affine of 8 bits"):
        c_source.write(graph, replace(plan, formats=affine))
    b = Builder()
    x = b.input("x", (1, 2, 4, 4))
    y = b.node("div", "ratio", [x, b.constant("k", [2.0])])
    with pytest.raises(OperatorError, match=r"node 'ratio' \(div\)"):
        c_source.write(b.build([y]), Plan("p", dict.fromkeys(("x", "ratio", "k"), Qmn(8, 4))))


# --- memory and packing ----------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 12), st.integers(0, 5)), min_size=1, max_size=25))
@settings(max_examples=25, deadline=None)
def test_buffers_that_live_together_do_not_overlap(drawn: list[tuple[int, int, int]]) -> None:
    buffers = [c_memory.Buffer(str(i), size, first, first + more) for i, (size, first, more) in enumerate(drawn)]
    layout = c_memory.place(buffers)
    assert not c_memory.overlaps(buffers, layout)
    assert layout.bound <= layout.n_bytes <= sum(-(-b.n_bytes // 4) * 4 for b in buffers)
    assert all(offset % 4 == 0 for offset in layout.offsets.values())


def test_memory_is_shared_where_nobody_reads_later(made: tuple[Graph, Plan]) -> None:
    graph, plan = made
    program = c_lower.lower(graph, plan)
    layout, offsets = c_lower.layout(graph, program)
    assert offsets["c"] in (offsets["a"], offsets["b"]), "the sum lies where one of its addends lay"
    assert offsets["e"] == offsets["d"], "a table works in place"
    needed, _ = c_lower.buffers(graph, program)
    assert not c_memory.overlaps(needed, layout)
    moved = c_memory.Layout(dict.fromkeys(layout.offsets, 0), layout.n_bytes, layout.bound)
    assert c_memory.overlaps(needed, moved)


@given(st.integers(1, 16), st.integers(1, 5), st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_packing_goes_both_ways(bits: int, rows: int, k: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-(1 << (bits - 1)), 1 << (bits - 1), (rows, k))
    packed = pack(codes, bits)
    assert packed.size == rows * -(-bits * k // 8)
    assert np.array_equal(unpack(packed, bits, rows, k), codes)
    assert signed_bits(codes) <= bits


def test_packed_bytes_by_hand() -> None:
    assert pack(np.array([[1, -2, 3], [0, 0, -1]]), 4).tolist() == [0xE1, 0x03, 0x00, 0x0F]
    assert pack(np.array([[-1, 0, -1]]), 1).tolist() == [0b101]
    assert [signed_bits(np.array(v)) for v in ([0], [1], [-1], [-2, 1], [127], [128], [-129])] == [1, 2, 1, 2, 8, 9, 9]


# --- negative controls -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Spoiled(CFixed):
    """Opens other C than was exported."""

    written: Written | None = None

    def open(self, path: Path, threads: int = 1) -> CSession:
        assert self.written is not None
        return CSession(Child(c_build.build([self.written], QUICK)), self.written.program)


def spoiled(written: Written, kind: str) -> Written:
    """One bit of a weight, one step of a bias, the other rounding, a buffer over another."""
    if kind == "nothing":
        return written
    if kind == "rounding":
        return replace(written, model_c=written.model_c.replace(".even = 1", ".even = 0"))
    if kind == "memory":
        last = re.findall(r"bf_conv\(&\w+, a \+ (\d+), a \+ (\d+),", written.model_c)[-1]
        at = f", a + {last[0]}, a + {last[1]},"
        return replace(written, model_c=written.model_c.replace(at, f", a + {last[0]}, a + {last[0]},"))
    array = {"weight": "w_0", "bias": "b_1"}[kind]
    found = re.search(rf"model_{array}\[\d+\] = \{{\n\s+(\d+)", written.weights_h)
    assert found
    text = written.weights_h
    return replace(written, weights_h=text[: found.start(1)] + str(int(found[1]) ^ 1) + text[found.end(1) :])


@compiles
@pytest.mark.parametrize("kind", ["nothing", "weight", "bias", "rounding", "memory"])
def test_verify_catches(kind: str, made: tuple[Graph, Plan], tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    graph, plan = made
    engine = Spoiled(written=spoiled(c_source.write(graph, plan), kind))
    path = engine.export(graph, plan, tmp_path, CONTRACT, OUTPUT)
    agreement = verify.compare(engine, path, graph, plan, CONTRACT, OUTPUT, images(rng, 4))
    assert agreement.verified == (kind == "nothing")
    assert agreement.tolerance == 0
    if kind in ("weight", "bias"):
        assert agreement.first_difference == "a"
    if kind == "memory":
        assert agreement.first_difference == "f"


@compiles
def test_sixteen_bit_activations_are_exact_too(rng: np.random.Generator, tmp_path: Path) -> None:
    graph = network(rng)
    forms = {name: Qmn(16, 12 if t.kind != "weight" else 14) for name, t in graph.tensors.items() if t.kind != "bias"}
    plan = Plan("wide", forms, {"rounding": "half_up"})
    forms["d"] = Qmn(6, 2)
    engine = CFixed()
    path = engine.export(graph, plan, tmp_path, CONTRACT, OUTPUT)
    agreement = verify.compare(engine, path, graph, plan, CONTRACT, OUTPUT, images(rng, 3) * 20)
    assert agreement.verified, agreement
    assert not agreement.exceptions
    assert "half up" in c_tree.sources(c_source.write(graph, plan))["model.h"]
