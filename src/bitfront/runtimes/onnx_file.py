"""ONNX files as data: read them without running anything, find the contract that bitfront wrote into them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from bitfront.contracts import InputContract, OutputContract
from bitfront.errors import DataError
from bitfront.record import SCHEMA, from_json, to_json

__all__ = ["DTYPES", "KEY", "contract_of", "header", "layout", "load_model", "read_contract"]

KEY = "bitfront"
"""Key of the metadata property that holds the contract as JSON."""

DTYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT8: "int8",
}
"""What an input contract may say of a file's input."""


def layout(shape: Sequence[Any]) -> str:
    """Return ``nchw`` or ``nhwc`` for an input shape: the axis with 1, 3 or 4 entries holds the channels."""
    return "nhwc" if shape[1] not in (1, 3, 4) and shape[-1] in (1, 3, 4) else "nchw"


def header(contract: InputContract, output: OutputContract, **facts: Any) -> dict[str, str]:
    """Return the metadata properties that make a file describe itself."""
    text = {"schema": SCHEMA, "input": to_json(contract), "output": to_json(output), **to_json(facts)}
    return {KEY: json.dumps(text, sort_keys=True, separators=(",", ":"))}


def load_model(path: Path) -> onnx.ModelProto:
    """Return the parsed model. Raises DataError when it cannot be read, is no ONNX model or keeps weights elsewhere."""
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}", hint="give the path of an .onnx file") from error
    except (DecodeError, ValueError) as error:
        raise DataError(f"'{path}' is not an ONNX model or is damaged", hint="export or copy it again") from error
    if not model.graph.output or not model.graph.input:
        raise DataError(f"'{path}' holds no ONNX graph", hint="export or copy it again")
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        raise DataError(
            f"'{path}' keeps its weights in another file",
            hint="save it as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)",
        )
    return model


def read_contract(path: Path) -> tuple[InputContract, OutputContract, dict[str, Any]] | None:
    """Return the contracts and the header that bitfront wrote into an ONNX file; ``None`` for other people's files.

    The header has ``schema, tool, recipe`` and ``plan, graph`` (or ``foreign``, see :mod:`.onnx_foreign`). Only data is
    read. Raises DataError for damaged files and for files of a newer bitfront.
    """
    return contract_of(load_model(path), path)


def contract_of(model: onnx.ModelProto, path: Path) -> tuple[InputContract, OutputContract, dict[str, Any]] | None:
    """Do as :func:`read_contract` for a parsed model."""
    text = next((p.value for p in model.metadata_props if p.key == KEY), None)
    if text is None:
        return None
    try:
        facts = json.loads(text)
        schema = int(facts["schema"])
        contract = from_json(InputContract, facts.pop("input"))
        output = from_json(OutputContract, facts.pop("output"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"'{path}': the description in the file is damaged", hint="export it again") from error
    if schema > SCHEMA:
        raise DataError(f"'{path}' was written by a newer bitfront", hint="update bitfront")
    return contract, output, facts
