"""The training loop: it learns, it stops when it should, it survives, and it ends with the same weights."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from train_cases import CONTRACT, INFO, run, squares

from bitfront.contracts import Batch, Metrics, Sample
from bitfront.errors import DataError, UsageError
from bitfront.models.tiny import Tiny
from bitfront.tasks.segmentation import Segmentation
from bitfront.train.checkpoints import load_checkpoint, read_header
from bitfront.train.loop import Trained, TrainOptions, train
from bitfront.train.schedules import rate
from bitfront.train.scoring import score_module

ROBUST = [
    TrainOptions(epochs=5, batch_size=4, rate=1e-2),
    TrainOptions(epochs=5, batch_size=4, rate=1e-2, ema=0.9, weight_decay=0.1, warmup_steps=7, validate_every=2),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread, and no test may touch torch's global generator."""
    n, before = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)
    assert torch.equal(before, torch.random.get_rng_state())


def weights(trained: Trained) -> dict[str, np.ndarray]:
    return load_checkpoint(trained.weights)[1]


def same(a: Trained, b: Trained) -> bool:
    """Bit for bit: weights, losses, rates and scores."""
    told = [[(e.index, e.rate, e.loss, e.score) for e in t.epochs] for t in (a, b)]
    x, y = weights(a), weights(b)
    equal = x.keys() == y.keys() and all(x[k].tobytes() == y[k].tobytes() for k in x)
    return equal and told[0] == told[1] and (a.best_epoch, a.best_score) == (b.best_epoch, b.best_score)


# --- it learns -------------------------------------------------------------------------------------------------------
def test_learns_squares_and_leaves_the_best_weights_in_the_module(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Tiny(classes=1).build()
    found = run(tmp_path, TrainOptions(epochs=12, batch_size=4, rate=1e-2), n=24, module=module)
    assert found.stopped == "completed"
    assert len(found.epochs) == 12
    assert found.best_score == max(e.score for e in found.epochs) > 0.75
    assert found.epochs[-1].loss < found.epochs[0].loss / 2
    assert not module.training
    again = score_module(module, Segmentation(), INFO, squares(4, 2), CONTRACT)
    assert again.value == found.best_score
    header = read_header(found.weights)
    assert (header["task"], header["data"], header["score"]) == ("segmentation", "squares", found.best_score)
    assert header["input"]["height"] == 32


def test_rates_follow_the_schedule(tmp_path: Path) -> None:
    options = TrainOptions(epochs=4, batch_size=4, rate=0.01, schedule="polynomial", end_rate=1e-4, rate_per="epoch")
    rates = [e.rate for e in run(tmp_path / "a", options).epochs]
    assert rates == [rate("polynomial", e, 4, start=0.01, end=1e-4, power=0.9) for e in range(4)]
    options = TrainOptions(epochs=2, batch_size=4, rate=0.01, schedule="constant", warmup_steps=4)
    assert [e.rate for e in run(tmp_path / "b", options).epochs] == pytest.approx([0.0075, 0.01])  # 3 steps an epoch


def test_same_seed_same_weights(tmp_path: Path) -> None:
    a, b, c = (run(tmp_path / str(i), seed=s) for i, s in enumerate((0, 0, 1)))
    assert same(a, b)
    assert not same(a, c)


def test_every_epoch_has_an_order_of_its_own(tmp_path: Path) -> None:
    class Watching(Scripted):
        def __init__(self) -> None:
            super().__init__(0.1, 0.2)
            self._orders: list[str] = []
            self.loss = self.watch

        def watch(self, outputs: torch.Tensor, batch: Batch, info: object, output: object) -> torch.Tensor:
            self._orders += batch.ids
            return Segmentation().loss(outputs, batch, info)

    task = Watching()
    run(tmp_path, TrainOptions(epochs=2, batch_size=4), task=task)
    first, second = task._orders[:12], task._orders[12:]
    assert sorted(first) == sorted(second)
    assert first != second


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Tiny(classes=1).build()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    run(tmp_path, TrainOptions(epochs=1, batch_size=4, freeze=("stem.*", "down.*")), module=module)
    changed = {k.split(".")[0] for k, v in module.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"bottleneck", "deep", "join", "logits"}
    for freeze, text in ((("backbone.*",), "no parameter matches"), (("*",), "left to train")):
        with pytest.raises(UsageError, match=text):
            run(tmp_path / "x", TrainOptions(freeze=freeze))


# --- it stops --------------------------------------------------------------------------------------------------------
class Scripted:
    """Segmentation whose validation scores are given."""

    name = "segmentation"

    def __init__(self, *scores: float) -> None:
        self.scores = iter(scores)
        self.loss, self.predict, self.output = Segmentation().loss, Segmentation().predict, Segmentation().output

    def meter(self, info: object, score: str = "") -> SimpleNamespace:
        return SimpleNamespace(add=lambda *_: None, result=lambda: Metrics("miou", {"miou": next(self.scores)}, {}))


def test_patience_and_the_first_of_equal_scores(tmp_path: Path) -> None:
    found = run(tmp_path, TrainOptions(epochs=9, batch_size=4, patience=3), task=Scripted(0.1, 0.5, 0.4, 0.5, 0.2, 0.9))
    assert (found.stopped, found.best_epoch, found.best_score, len(found.epochs)) == ("patience", 1, 0.5, 5)


def test_a_reason_stops(tmp_path: Path) -> None:
    found = run(tmp_path, on_epoch=lambda e: "hopeless" if e.index == 1 else None)
    assert (found.stopped, len(found.epochs)) == ("hopeless", 2)


def test_validation_every_third_epoch_and_the_last(tmp_path: Path) -> None:
    options = TrainOptions(epochs=5, batch_size=4, validate_every=3)
    assert [e.score is None for e in run(tmp_path / "a", options).epochs] == [True, True, False, True, False]
    early = run(tmp_path / "b", options, on_epoch=lambda e: "enough")
    assert early.best_epoch == 0  # scored at the end, because nothing had been
    assert early.weights.is_file()


def test_the_chosen_score_decides(tmp_path: Path) -> None:
    found = run(tmp_path / "a", TrainOptions(epochs=1, batch_size=4, score="pixel_accuracy"))
    assert found.best_score > 0.5 > run(tmp_path / "c", TrainOptions(epochs=1, batch_size=4)).best_score
    with pytest.raises(UsageError, match="unknown score 'iou'"):
        run(tmp_path / "b", TrainOptions(epochs=1, batch_size=4, score="iou"))


def test_time_runs_out_cleanly(tmp_path: Path) -> None:
    found = run(tmp_path, TrainOptions(epochs=50, batch_size=4, time_limit_seconds=0.0, validate_every=9))
    assert found.stopped == "time"
    assert len(found.epochs) == 1
    assert found.epochs[0].score == found.best_score
    assert load_checkpoint(tmp_path / "last.safetensors")[0]["n_steps"] == 1


# --- it survives -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", ROBUST, ids=["plain", "everything"])
@pytest.mark.parametrize("after", [0, 2, 4])
def test_interrupted_and_resumed_is_uninterrupted(tmp_path: Path, options: TrainOptions, after: int) -> None:
    def interrupt(epoch: object) -> None:
        if epoch.index == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", options, on_epoch=interrupt)
    seen = []
    resumed = run(tmp_path / "cut", options, on_epoch=lambda e: seen.append(e.index))
    assert seen == list(range(after, 5))
    assert same(resumed, run(tmp_path / "whole", options))


def test_interrupted_within_an_epoch(tmp_path: Path) -> None:
    class Cut(list):
        """A part whose image cannot be read at the ninth look."""

        looks = 0

        def __getitem__(self, index: int) -> Sample:
            Cut.looks += 1
            if Cut.looks == 9:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    def go(folder: Path, part: list[Sample]) -> Trained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = Tiny(classes=1).build()
        return train(module, Segmentation(bootstrap=0), INFO, part, squares(4, 2), CONTRACT, ROBUST[0], folder, 0)

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", Cut(squares(12, 1)))
    assert same(go(tmp_path / "cut", squares(12, 1)), run(tmp_path / "whole", ROBUST[0]))


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = run(tmp_path)
    seen = []
    second = run(tmp_path, on_epoch=lambda e: seen.append(e.index))
    assert seen == [3]
    assert same(first, second)
    assert first.seconds == second.seconds


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_state_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", on_epoch=lambda e: "later" if e.index == 2 else None)
    last = tmp_path / "cut" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-100]) if damage == "cut" else last.unlink()
    seen = []
    assert same(run(tmp_path / "cut", on_epoch=lambda e: seen.append(e.index)), whole)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("change", ["rate", "seed", "images"])
def test_another_training_in_the_folder_starts_anew(tmp_path: Path, change: str) -> None:
    run(tmp_path)
    seen = []
    options = TrainOptions(epochs=2, batch_size=4, rate=2e-2 if change == "rate" else 1e-2)
    run(tmp_path, options, seed=change == "seed", n=8 if change == "images" else 12, on_epoch=lambda e: seen.append(0))
    assert len(seen) == 2


CHILD = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from train_cases import run
from bitfront.train.loop import TrainOptions
run(Path(sys.argv[1]), TrainOptions(epochs=30, batch_size=4, rate=1e-2, ema=0.9))
"""


def kill_once(folder: Path, wait: float) -> int:
    """Start the training in a process of its own, kill it ``wait`` seconds after its first state; exit code."""
    here = str(Path(__file__).parent)
    with subprocess.Popen([sys.executable, "-c", CHILD, str(folder), here]) as child:
        deadline = time.monotonic() + 60
        while not (folder / "last.safetensors").is_file() and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.01)
        time.sleep(wait)
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGKILL)
        return child.wait(60)


def test_killed_and_resumed_is_uninterrupted(tmp_path: Path, rng: np.random.Generator) -> None:
    options = TrainOptions(epochs=30, batch_size=4, rate=1e-2, ema=0.9)
    assert kill_once(tmp_path / "cut", rng.uniform(0.1, 1.0)) in (-signal.SIGKILL, 0)
    assert same(run(tmp_path / "cut", options), run(tmp_path / "whole", options))


@pytest.mark.slow
def test_killed_many_times(tmp_path: Path, rng: np.random.Generator) -> None:
    options = TrainOptions(epochs=30, batch_size=4, rate=1e-2, ema=0.9)
    for _ in range(20):
        kill_once(tmp_path / "cut", rng.uniform(0.0, 0.3))
    assert same(run(tmp_path / "cut", options), run(tmp_path / "whole", options))


# --- losses that are not finite --------------------------------------------------------------------------------------
class Faulty:
    """Segmentation whose loss is ``value`` at the given calls."""

    name = "segmentation"

    def __init__(self, calls: set[int], value: float) -> None:
        self._calls, self._value, self._n = calls, value, 0
        self._own = Segmentation(bootstrap=0)
        self.predict, self.output, self.meter = self._own.predict, self._own.output, self._own.meter

    def loss(self, outputs: torch.Tensor, batch: object, info: object, output: object) -> torch.Tensor:
        self._n += 1
        loss = self._own.loss(outputs, batch, info)
        return loss * self._value if self._n in self._calls else loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_goes_back_and_halves_the_rate(tmp_path: Path, value: float) -> None:
    """Three steps an epoch: call 5 is the second step of the second epoch, call 7 the first of its second try."""
    options = TrainOptions(epochs=3, batch_size=4, rate=1e-2, schedule="constant")
    found = run(tmp_path, options, task=Faulty({5, 7}, value))
    assert [e.rate for e in found.epochs] == [1e-2, 2.5e-3, 2.5e-3]
    assert all(np.isfinite(e.loss) for e in found.epochs)
    assert all(np.isfinite(w).all() for w in weights(found).values())


def test_weights_that_blow_up_are_never_saved(tmp_path: Path) -> None:
    """The loss is finite, the step is not."""

    class Explodes(Faulty):
        def loss(self, outputs: torch.Tensor, batch: object, info: object, output: object) -> torch.Tensor:
            loss = super().loss(outputs, batch, info, output)
            if self._n == 6:
                outputs.register_hook(lambda gradient: gradient * float("nan"))
            return loss

    found = run(tmp_path, TrainOptions(epochs=3, batch_size=4, rate=1e-2), task=Explodes(set(), 1.0))
    assert found.epochs[1].rate < found.epochs[0].rate / 1.9
    for name in ("last", "previous", "best"):
        _, state = load_checkpoint(tmp_path / f"{name}.safetensors")
        assert all(np.isfinite(w).all() for w in state.values())


def test_divergence_ends_in_one_clear_line(tmp_path: Path) -> None:
    task = Faulty(set(range(4, 100)), float("nan"))
    with pytest.raises(UsageError, match=r"diverges: no finite loss in epoch 2, also after halving the rate 3 times"):
        run(tmp_path, TrainOptions(epochs=3, batch_size=4), task=task)
    assert task._n == 3 + 4  # one epoch, the fault, three tries
    header, state = load_checkpoint(tmp_path / "last.safetensors")
    assert len(header["epochs"]) == 1
    assert all(np.isfinite(w).all() for w in state.values())


# --- bad input -------------------------------------------------------------------------------------------------------
def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="training part of 'squares' holds no images"):
        run(tmp_path, n=0)
    with pytest.raises(UsageError, match="unknown augmentation 'lite'") as caught:
        run(tmp_path, TrainOptions(augment="lite"))
    assert "light" in caught.value.hint


def test_start_weights_must_be_finite(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        module = Tiny(classes=1).build()
    torch.nn.init.constant_(module.logits.bias, float("nan"))
    with pytest.raises(DataError, match="weights to start from are not finite"):
        run(tmp_path, module=module)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("schedule", "cosin"),
        ("precision", "fp8"),
        ("device", "tpu"),
        ("rate_per", "day"),
        ("epochs", 0),
        ("batch_size", 0),
        ("rate", 0.0),
        ("rate", float("nan")),
        ("end_rate", -1.0),
        ("ema", 1.0),
        ("patience", -1),
        ("validate_every", 0),
    ],
)
def test_options_without_sense_are_refused(option: str, value: object) -> None:
    with pytest.raises(UsageError, match=option):
        TrainOptions(**{option: value})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no CUDA device"):
        run(tmp_path, TrainOptions(device="cuda"))


def test_bf16_trains_and_keeps_float32_weights(tmp_path: Path) -> None:
    found = run(tmp_path, TrainOptions(epochs=2, batch_size=4, rate=1e-2, precision="bf16"))
    assert found.epochs[1].loss < found.epochs[0].loss
    assert {w.dtype for w in weights(found).values()} == {np.dtype(np.float32), np.dtype(np.int64)}


@pytest.mark.gpu
def test_trains_on_a_gpu(tmp_path: Path) -> None:
    found = run(tmp_path, TrainOptions(epochs=12, batch_size=4, rate=1e-2, device="cuda"), n=24)
    assert found.best_score > 0.7
