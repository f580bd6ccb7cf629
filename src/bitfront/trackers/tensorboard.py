"""TensorBoard: event files through the package ``tensorboard``, one folder a run.

``tensorboard --logdir runs/tracking/tensorboard`` shows them. Parameters and the names of files are texts.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from bitfront.record import digest_file

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes one event file for each session of a run."""

    name: ClassVar[str] = "tensorboard"

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.folder = folder
        self._writer = EventFileWriter(str(folder))

    @classmethod
    def missing(cls) -> str:
        """Say what to install; empty when it can be used."""
        found = importlib.util.find_spec("tensorboard") is not None
        return "" if found else "pip install 'bitfront[tensorboard]'"

    @classmethod
    def open(cls, folder: Path, run: str) -> TensorBoard:
        """Open ``folder/tensorboard/run``."""
        return cls(folder / "tensorboard" / run)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Write a table."""
        rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in values.items())
        self._text("parameters", f"| parameter | value |\n|---|---|\n{rows}", 0)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write one scalar for each name, at once, so that curves are seen while they grow."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write([Summary.Value(tag=name, simple_value=value) for name, value in values.items()], step)
        self._writer.flush()

    def artifact(self, path: Path, name: str) -> None:
        """Write where a file is, its size and SHA-256: TensorBoard keeps no files."""
        size = path.stat().st_size
        self._text(f"files/{name}", f"`{path.resolve()}`, {size:,} bytes, sha256 {digest_file(path)}", 0)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()

    def _text(self, tag: str, text: str, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.text.metadata import create_summary_metadata

        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
        metadata = create_summary_metadata(display_name=tag, description="")
        self._write([Summary.Value(tag=f"{tag}/text_summary", tensor=tensor, metadata=metadata)], step)

    def _write(self, values: list[Any], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
