"""Detectors in integer C: blocks, pyramids and heads as YOLO has them, and what their boxes become."""

from __future__ import annotations

import subprocess
import zipfile
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
from bitfront.tasks.detection_decode import candidates

compiles = pytest.mark.skipif(bool(c_build.missing()), reason=c_build.missing() or "-")
QUICK = ("-std=c99", "-O0")
SANITIZED = ("-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *c_build.STRICT)
N_ANCHORS, N_NUMBERS = 2, 7
HEAD = Head("yolo_v5", (2, 4), (((4.0, 4.0), (6.0, 5.0)), ((9.0, 8.0), (12.0, 12.0))))
OUTPUT = OutputContract("boxes", classes=("a", "b"), head=HEAD)
SUPPRESS = """\
#include <stdio.h>
#include "bf_nms.h"
int main(void) {
    static bf_box boxes[1000];
    int32_t n = 0, i;
    float iou;
    if (scanf("%f", &iou) != 1) { return 1; }
    while (n < 1000 && scanf("%f %f %f %f %f %d", &boxes[n].x1, &boxes[n].y1, &boxes[n].x2, &boxes[n].y2,
                             &boxes[n].score, &boxes[n].label) == 6) { n++; }
    n = bf_nms(boxes, n, iou);
    for (i = 0; i < n; i++) { printf("%.9g %.9g %.9g\\n", boxes[i].x1, boxes[i].y1, boxes[i].score); }
    return 0;
}
"""
DETECT = """\
#include <stdio.h>
#include <stdlib.h>
#include "model_boxes.h"
static uint8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(8)));
int main(int argc, char **argv) {
    static bf_box boxes[1000];
    int32_t n = argc > 1 ? atoi(argv[1]) : 0, i;
    if (fread(model_input(arena), 1, MODEL_INPUT_ELEMENTS, stdin) != MODEL_INPUT_ELEMENTS) { return 1; }
    model_run(arena);
    n = argc > 2 ? model_boxes(arena, 0.3f, 0.5f, boxes, n)
                 : bf_yolo_v5(&model_heads, model_output(arena), 0.3f, boxes, n);
    for (i = 0; i < n; i++) {
        printf("%.9g %.9g %.9g %.9g %.9g %d\\n", boxes[i].x1, boxes[i].y1, boxes[i].x2, boxes[i].y2, boxes[i].score,
               (int)boxes[i].label);
    }
    return 0;
}
"""


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
    path = CFixed().export(graph, plan, tmp_path, InputContract(16, 24), OUTPUT)
    told = CFixed().describe(path)
    assert (told.task, told.n_classes, told.output.head) == ("detection", 2, HEAD)
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


# --- boxes -----------------------------------------------------------------------------------------------------------
def suppressed(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou: float) -> list[int]:
    """By definition: box after box, best first, unless one that stayed is of its class and overlaps it."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        for k in kept:
            sides = np.minimum(boxes[i, 2:], boxes[k, 2:]) - np.maximum(boxes[i, :2], boxes[k, :2])
            both = float(np.prod(np.maximum(sides, 0)))
            whole = float(np.prod(boxes[i, 2:] - boxes[i, :2]) + np.prod(boxes[k, 2:] - boxes[k, :2])) - both
            if labels[i] == labels[k] and both > iou * whole:
                break
        else:
            kept.append(int(i))
    return kept


@compiles
def test_suppression_is_that_of_the_definition(rng: np.random.Generator, tmp_path: Path) -> None:
    for name in ("bf_nms.c", "bf_nms.h", "bf_numeric.h"):
        (tmp_path / name).write_text((Path(c_source.__file__).parent / "c_kernels" / name).read_text())
    (tmp_path / "main.c").write_text(SUPPRESS)
    command = [c_build.compiler(), *SANITIZED, "-I.", "bf_nms.c", "main.c", "-o", "nms"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    for n in (0, 1, 2, 40, 200):
        corners = rng.integers(0, 40, (n, 2)).astype(np.float32)  # whole numbers: nothing is rounded
        boxes = np.concatenate([corners, corners + rng.integers(0, 12, (n, 2))], axis=1).astype(np.float32)
        scores, labels = (rng.integers(0, 64, n) / 64).astype(np.float32), rng.integers(0, 3, n)
        lines = [
            " ".join(map(str, (*box, score, label))) for box, score, label in zip(boxes, scores, labels, strict=True)
        ]
        told = subprocess.run(
            [tmp_path / "nms"], input="0.5\n" + "\n".join(lines), capture_output=True, text=True, check=True
        )
        found = np.array([line.split() for line in told.stdout.splitlines()], np.float32).reshape(-1, 3)
        kept = suppressed(boxes, scores, labels, 0.5)
        np.testing.assert_array_equal(found, np.column_stack([boxes[kept, :2], scores[kept]]))


@compiles
def test_boxes_of_the_c_are_those_of_the_task(detector: tuple[Graph, Plan, np.ndarray], tmp_path: Path) -> None:
    graph, plan, images = detector
    contract = InputContract(16, 24)
    path = CFixed().export(graph, plan, tmp_path, contract, OUTPUT)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    home = tmp_path / "model"
    (home / "detect.c").write_text(DETECT)
    units = sorted(str(f) for f in (home / "src").glob("*.c"))
    command = [c_build.compiler(), *QUICK, "-Isrc", *units, "detect.c", "-o", "detect"]
    subprocess.run(command, cwd=home, check=True, timeout=120)
    held = c_source.write(graph, plan).program.held[graph.inputs[0]]
    form, out = plan.formats[graph.inputs[0]], plan.formats[graph.outputs[0]]
    raw = out.decode(reference.run(graph, images[:1], plan)[graph.outputs[0]])
    wanted = candidates(raw, OUTPUT, contract, 0.3)[0]
    codes = held.to_memory(form.encode(images[0])).tobytes()
    assert len(wanted.scores) > 30, "enough to suppress"

    def boxes(*arguments: str) -> np.ndarray:
        told = subprocess.run([home / "detect", *arguments], input=codes, capture_output=True, check=True).stdout
        return np.array([line.split() for line in told.decode().splitlines()], np.float64)

    found, rows = boxes("1000"), np.column_stack([wanted.boxes, wanted.scores, wanted.labels])
    assert len(found) == len(rows)
    for row in found:
        assert np.abs(rows - row).max(axis=1).min() < 1e-3
    best = np.sort(wanted.scores)[::-1][:20]
    np.testing.assert_allclose(np.sort(boxes("20")[:, 4])[::-1], best, rtol=1e-5)
    kept = suppressed(wanted.boxes, wanted.scores, wanted.labels, 0.5)
    np.testing.assert_allclose(boxes("1000", "suppressed")[:, 4], wanted.scores[kept], rtol=1e-4)
