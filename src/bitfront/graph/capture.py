"""Networks into graphs: a torch module through ``torch.export``, or an ONNX file.

Both importers give a graph for inference with static shapes and batch 1, BatchNorm not yet folded and layers named as
in their origin; :func:`bitfront.graph.passes.prepare` makes it ready for quantization and export.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitfront.graph.ir import Graph

if TYPE_CHECKING:
    from torch import nn

__all__ = ["from_module", "from_onnx"]


def from_module(module: nn.Module, shape: tuple[int, int, int, int]) -> Graph:
    """Return the graph of a torch module in evaluation mode for inputs ``(1, c, h, w)``.

    Nodes are named by module paths, weights by their keys in the state dict. Parameters that no layer uses are kept as
    constants, so that they are counted, until ``prepare`` drops them. The module itself is left as it was.

    Raises:
        DataError: torch.export fails, or the module uses operators that the graph does not know (all are listed).
    """
    from bitfront.graph.capture_torch import capture

    return capture(module, shape)


def from_onnx(source: str | Path | bytes, size: tuple[int, int] | None = None) -> Graph:
    """Return the graph of an ONNX file (or its bytes), opset 9 or newer.

    Args:
        source: path, or the content of a file without external data.
        size: height and width where the file leaves them open.

    Raises:
        DataError: damaged, unsafe or too large files, operators that the graph does not know (all are listed), and
            open or contradicting input sizes.
    """
    from bitfront.graph.capture_onnx import capture

    return capture(source, size)
