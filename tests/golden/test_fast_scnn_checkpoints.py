"""The published checkpoints: all load, compute what their ONNX twins compute, and segment packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from bitfront.contracts import InputContract
from bitfront.data.folder import Folder
from bitfront.images import preprocess
from bitfront.models.fast_scnn import FastScnn
from bitfront.tasks.segmentation import Segmentation
from bitfront.train.checkpoints import load_checkpoint, load_into
from bitfront.train.scoring import score_module

pytestmark = pytest.mark.shared
CONTRACT = InputContract(512, 512)


@pytest.fixture(autouse=True)
def _one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def packages(shared: Path) -> Folder:
    return Folder.open(shared / "data/packages")


def opened(path: Path) -> tuple[dict, torch.nn.Module]:
    """Every key renamed, every tensor used."""
    header, state = load_checkpoint(path)
    assert header == {}
    options = FastScnn.recognise({k: v.shape for k, v in state.items()}, path.stem)
    with torch.random.fork_rng(devices=[]):
        module = FastScnn(**options).build().eval()
    load_into(module, {FastScnn.rename(k): v for k, v in state.items()}, path.name)
    return options, module


def test_all_load_and_find_the_packages(shared: Path, packages: Folder) -> None:
    files = sorted((shared / "models/fastscnn_packages").glob("*.safetensors"))
    assert len(files) == 28
    part = [packages.part("val")[i] for i in (0, 20)]
    for path in files:
        options, module = opened(path)
        name = "fastscnn_a{width}t{expansion}r{repeats}pp{pyramid:d}".format(**options)
        assert (name, options["classes"], options["channels"]) == (path.stem, 1, 3)
        assert score_module(module, Segmentation(), packages.info, part, CONTRACT).value > 0.94, path.stem


@pytest.mark.parametrize("name", ["fastscnn_a0.25t6r3pp1", "fastscnn_a0.75t6r3pp1"])
def test_equal_to_the_onnx_twin(shared: Path, packages: Folder, name: str) -> None:
    folder = shared / "models/fastscnn_packages"
    _, module = opened(folder / f"{name}.safetensors")
    session = onnxruntime.InferenceSession(folder / f"onnx/{name}.onnx", providers=["CPUExecutionProvider"])
    for i in (3, 17):
        image = preprocess(packages.part("val")[i].image, CONTRACT)[None]
        (theirs,) = session.run(None, {"input": image})
        with torch.no_grad():
            ours = module(torch.from_numpy(image)).numpy()
        assert np.abs(ours - theirs).max() < 2e-4  # of logits up to 30
        assert ((ours > 0) == (theirs > 0)).mean() > 0.99999


def test_recorded_score_on_the_validation_images(shared: Path, packages: Folder) -> None:
    """Measured once with the definition of the published numbers: PIL's bilinear resize, logit > 0, nearest back."""
    _, module = opened(shared / "models/fastscnn_packages/fastscnn_a0.125t2r1pp0.safetensors")
    found = score_module(module, Segmentation(), packages.info, packages.part("val"), CONTRACT)
    assert found.n == 40
    assert found.values["foreground_iou"] == pytest.approx(0.9735, abs=2e-4)
    assert found.values["foreground_iou_image"] == pytest.approx(0.97211, abs=2e-4)
