"""Checkpoints: what is written is read, and what is no checkpoint is refused in one line."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bitfront.contracts import InputContract
from bitfront.errors import DataError
from bitfront.models.tiny import Tiny
from bitfront.record import from_json
from bitfront.train.checkpoints import MAX_HEADER_BYTES, load_checkpoint, load_into, read_header, save_checkpoint


@pytest.fixture
def module() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tiny().build()


def test_round_trip(tmp_path: Path, module: torch.nn.Module) -> None:
    path = tmp_path / "new" / "best.safetensors"
    header = {"model": "tiny", "options": {"width": 0.5}, "classes": ("a", "Ä<b>"), "input": InputContract(96, 128)}
    save_checkpoint(path, module, header)
    read, state = load_checkpoint(path)
    assert read == read_header(path)
    assert read["classes"] == ["a", "Ä<b>"]
    assert from_json(InputContract, read["input"]) == header["input"]
    assert {k: (v.shape, str(v.dtype)) for k, v in state.items()} == {
        k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in module.state_dict().items()
    }
    with torch.random.fork_rng(devices=[]):
        other = Tiny().build()
    load_into(other, state)
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert [p.name for p in path.parent.iterdir()] == ["best.safetensors"]


def test_files_of_others_have_an_empty_header_and_half_precision_becomes_single(tmp_path: Path) -> None:
    values = torch.tensor([[1.5, -2.0, 0.1]])
    kinds = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "i64": torch.int64}
    save_file({k: values.to(t) for k, t in kinds.items()}, tmp_path / "x.safetensors", {"format": "pt"})
    header, state = load_checkpoint(tmp_path / "x.safetensors")
    assert header == {}
    for name, kind in kinds.items():
        assert state[name].dtype == (np.int64 if name == "i64" else np.float32)
        assert np.array_equal(state[name], values.to(kind).to(torch.float64).numpy())


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, module: torch.nn.Module) -> None:
    save_checkpoint(tmp_path / "good", module, {})
    good = (tmp_path / "good").read_bytes()
    table = json.dumps({"__metadata__": {"bitfront": "[1]"}}).encode()
    bad = {
        "empty": b"",
        "pickle": pickle.dumps({"a": 1}),
        "text": b"hello " * 100,
        "cut": good[: len(good) // 2],
        "huge table": struct.pack("<Q", 1 << 60) + good[8:],
        "no object": struct.pack("<Q", len(table)) + table,
        "torch": b"PK\x03\x04" + b"\0" * 100,
    }
    for name, data in bad.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(DataError, match=name) as caught:
            load_checkpoint(path)
        assert "save_file" in caught.value.hint
    with pytest.raises(DataError, match="cannot read"):
        load_checkpoint(tmp_path / "missing")
    with pytest.raises(DataError, match="cannot read"):
        read_header(tmp_path / "missing")
    for name in ("empty", "pickle", "text", "huge table", "no object"):
        with pytest.raises(DataError, match="safetensors"):
            read_header(tmp_path / name)


def test_headers_are_limited(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than"):
        save_checkpoint(tmp_path / "x", {"a": np.zeros(1)}, {"note": "x" * MAX_HEADER_BYTES})
    save_file({"a": torch.zeros(1)}, tmp_path / "y", {"bitfront": json.dumps("x" * MAX_HEADER_BYTES)})
    with pytest.raises(DataError, match="more than"):
        load_checkpoint(tmp_path / "y")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_never_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="'w' is not finite"):
        save_checkpoint(tmp_path / "x", {"w": np.array([1.0, value])}, {})
    assert not (tmp_path / "x").exists()


def test_loading_names_the_first_key_that_does_not_fit(module: torch.nn.Module) -> None:
    state = {k: v.numpy() for k, v in module.state_dict().items()}
    with pytest.raises(DataError, match=r"x.st: no weights for 'logits.bias'"):
        load_into(module, {k: v for k, v in state.items() if k != "logits.bias"}, "x.st")
    with pytest.raises(DataError, match=r"'logits.bias' has shape \(3,\), the network wants \(2,\)"):
        load_into(module, {**state, "logits.bias": np.zeros(3, np.float32)})
    with pytest.raises(DataError, match=r"the network has no 'aux\.weight'"):
        load_into(module, {**state, "aux.weight": np.zeros(3, np.float32)})
    load_into(module, {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")})
