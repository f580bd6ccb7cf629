"""Detectors in integer C: blocks, pyramids and heads as YOLO has them, and what their boxes become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitfront.contracts import Head, InputContract, OutputContract
from bitfront.graph import capture, passes
from bitfront.graph.builder import Builder
from bitfront.graph.ir import Graph
from bitfront.quant.formats import Qmn
from bitfront.quant.plan import Plan
from bitfront.quant.recipes import build
from bitfront.runtimes import c_build, c_source
from bitfront.runtimes.c_fixed import CFixed
from bitfront.runtimes.c_session import Child, CSession
from bitfront.simulate import reference

compiles = pytest.mark.skipif(bool(c_build.missing()), reason=c_build.missing() or "-")
QUICK = ("-std=c99", "-O0")
N_ANCHORS, N_NUMBERS = 2, 7


class Block(nn.Sequential):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.SiLU()
        )


class Pyramid(nn.Module):
    """Two levels: some channels go around, pools of stride 1, up by 2, joined; heads whose places come last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = Block(3, 8, 3, 2), Block(8, 12, 3, 2)
        self.around, self.inner, self.outer = Block(8, 4), Block(8, 4), Block(4, 4, 3)
        self.up = Block(12 * 3, 6)
        self.heads = nn.ModuleList([nn.Conv2d(14, N_ANCHORS * N_NUMBERS, 1), nn.Conv2d(36, N_ANCHORS * N_NUMBERS, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        inner = self.inner(x)
        fine = torch.cat([inner + self.outer(inner), self.around(x)], 1)
        coarse = self.down(fine)
        once = nn.functional.max_pool2d(coarse, 5, 1, 2)
        coarse = torch.cat([coarse, once, nn.functional.max_pool2d(once, 5, 1, 2)], 1)
        fine = torch.cat([nn.functional.interpolate(self.up(coarse), scale_factor=2.0, mode="nearest"), fine], 1)
        levels = []
        for head, level in zip(self.heads, (fine, coarse), strict=True):
            raw = head(level)
            b, _, h, w = raw.shape
            places = raw.reshape(b, N_ANCHORS, N_NUMBERS, h * w).permute(0, 2, 3, 1)
            levels.append(places.reshape(b, N_NUMBERS, h * w * N_ANCHORS))
        return torch.cat(levels, 2)


@pytest.fixture(scope="module")
def detector() -> tuple[Graph, Plan, np.ndarray]:
    torch.manual_seed(3)
    images = np.random.default_rng(3).normal(0, 1, (2, 3, 16, 24)).astype(np.float32)
    with torch.random.fork_rng():
        module = Pyramid().eval()
    graph = passes.prepare(capture.from_module(module, (1, 3, 16, 24)))
    return *build("qmn8", graph, batches=[images]), images


@compiles
def test_a_detector_gives_the_reference_s_codes_in_every_layer(detector: tuple[Graph, Plan, np.ndarray]) -> None:
    graph, plan, images = detector
    written = c_source.write(graph, plan)
    calls = [call.function for step in written.program.steps for call in step.calls]
    assert "bf_gather" not in calls, "reshapes and transposes of heads move nothing"
    assert written.program.held[written.program.output].sizes == ((8 * 12 + 4 * 6) * N_ANCHORS, N_NUMBERS)
    child = Child(c_build.build([written], QUICK))
    wanted = reference.run(graph, images, plan, keep="*")
    for name, codes in CSession(child, written.program).trace(images).items():
        np.testing.assert_array_equal(codes, wanted[name], err_msg=name)
    child.close()


@compiles
def test_the_file_of_a_detector_says_what_it_is(detector: tuple[Graph, Plan, np.ndarray], tmp_path: Path) -> None:
    graph, plan, images = detector
    head = Head("yolo_v5", (2, 4), (((4.0, 4.0), (6.0, 5.0)), ((9.0, 8.0), (12.0, 12.0))))
    output = OutputContract("boxes", classes=("a", "b"), head=head)
    path = CFixed().export(graph, plan, tmp_path, InputContract(16, 24), output)
    told = CFixed().describe(path)
    assert (told.task, told.n_classes, told.output.head) == ("detection", 2, head)
    session = CFixed().open(path)
    wanted = reference.run(graph, images, plan)[graph.outputs[0]]
    form = plan.formats[graph.outputs[0]]
    np.testing.assert_array_equal(session.run(images), form.decode(wanted))
    session.close()


@pytest.mark.parametrize("reader", ["mul", "softmax", "argmax", "slice", "transpose", "reshape"])
@compiles
def test_what_lies_otherwise_is_read_rightly(reader: str) -> None:
    b = Builder()
    x = b.input("x", (1, 6, 2, 2))
    rows = b.node("reshape", "places", [x], shape=[-1, 2, 3, 4])
    rows = b.node("transpose", "turned", [rows], perm=[0, 2, 3, 1])
    rows = b.node("reshape", "rows", [rows], shape=[-1, 3, 8])
    options = {
        "softmax": {"axis": 1}, "argmax": {"axis": 1, "keepdims": False}, "transpose": {"perm": [0, 2, 1]},
        "slice": {"axis": 2, "start": 1, "stop": 8, "step": 3}, "reshape": {"shape": [-1, 24]},
    }  # fmt: skip
    inputs = [rows, rows] if reader == "mul" else [rows]
    graph = b.build([b.node(reader, "read", inputs, **options.get(reader, {}))])
    forms = dict.fromkeys(graph.tensors, Qmn(8, 6))
    if reader == "argmax":
        del forms[graph.outputs[0]]
    plan = Plan("p", forms)
    images = np.random.default_rng(0).normal(0, 1, (2, 6, 2, 2)).astype(np.float32)
    written = c_source.write(graph, plan)
    held = written.program.held[written.program.steps[2].node.output]
    assert held.order == (() if reader == "mul" else (1, 0)), "only who needs it gets it in order"
    child = Child(c_build.build([written], QUICK))
    wanted = reference.run(graph, images, plan, keep="*")
    for name, codes in CSession(child, written.program).trace(images).items():
        np.testing.assert_array_equal(codes, wanted[name], err_msg=name)
    child.close()
