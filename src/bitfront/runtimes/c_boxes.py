"""Files beside the C of a detector: its heads' boxes, and their suppression, in single precision."""

from __future__ import annotations

from importlib import resources

from bitfront.contracts import Head, InputContract, OutputContract
from bitfront.runtimes.c_source import OPTIONAL, Written

__all__ = ["files"]

KINDS = ("yolo_v5",)
"""Heads that the C can read."""


def files(written: Written, contract: InputContract, output: OutputContract) -> dict[str, str]:
    """Return path -> text: ``bf_nms.c`` and what tells it of the heads; nothing for heads that it cannot read."""
    head, held = output.head, written.program.held[written.program.output]
    if head is None or head.kind not in KINDS or head.layout != "bkn" or len(held.shape) != 2 or held.form is None:
        return {}
    levels = _levels(head, contract)
    if held.shape != (5 + len(output.classes), sum(rows * columns * n for _, rows, columns, n in levels)):
        return {}
    folder = resources.files("bitfront.runtimes") / "c_kernels"
    found = {f"src/{name}": (folder / name).read_text(encoding="utf-8") for name in OPTIONAL}
    return found | {f"src/{written.name}_boxes.h": _header(written, head, levels, len(output.classes))}


def _levels(head: Head, contract: InputContract) -> list[tuple[int, int, int, int]]:
    """Return stride, rows, columns and number of anchors of every level."""
    return [
        (stride, -(-contract.height // stride), -(-contract.width // stride), len(anchors))
        for stride, anchors in zip(head.strides, head.anchors, strict=True)
    ]


def _header(written: Written, head: Head, levels: list[tuple[int, int, int, int]], n_classes: int) -> str:
    name, upper = written.name, written.name.upper()
    held = written.program.held[written.program.output]
    assert held.form is not None
    number_step, place_step = held.steps
    sides = [[f"{v:.9e}f" for pair in pairs for v in pair] for pairs in head.anchors]
    anchors = "\n".join(
        f"static const float {name}_anchors_{i}[{len(own)}] = {{{', '.join(own)}}};" for i, own in enumerate(sides)
    )
    rows = "\n".join(
        f"    {{{name}_anchors_{i}, {stride}, {rows}, {columns}, {n}}},"
        for i, (stride, rows, columns, n) in enumerate(levels)
    )
    return f"""\
/* Boxes of the last run:
 *     static bf_box boxes[100];
 *     n = {name}_boxes(arena, 0.25f, 0.45f, boxes, 100); */
#ifndef {upper}_BOXES_H
#define {upper}_BOXES_H

#include "{name}.h"
#include "bf_nms.h"

#define {upper}_CLASSES {n_classes}

{anchors}
static const bf_level {name}_levels[{len(levels)}] = {{
{rows}
}};
static const bf_heads {name}_heads = {{
    {name}_levels, {len(levels)}, {n_classes}, {number_step}, {place_step}, {held.form.step:.9e}f, {held.type},
}};

/* Boxes whose score is above `confidence` and that no better one of their class overlaps by more than `iou`, best
 * first; of more than `capacity` candidates the best are looked at. */
static inline int32_t {name}_boxes(const void *arena, float confidence, float iou, bf_box *boxes, int32_t capacity) {{
    return bf_nms(boxes, bf_yolo_v5(&{name}_heads, {name}_output(arena), confidence, boxes, capacity), iou);
}}

#endif
"""
