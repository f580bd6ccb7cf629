"""Classification: the loss, the read-out and the scores, against hand-made cases and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from bitfront.contracts import Batch, DataInfo, OutputContract, Prediction, Sample
from bitfront.errors import DataError, UsageError
from bitfront.tasks.classification import Classification, read_out, two_sided

ANIMALS = DataInfo("animals", ("cat", "dog", "eel"), tasks=("classification",))
DIGITS = DataInfo("digits", tuple("0123456789"), tasks=("classification",))
TASK = Classification()


def sample(label: int | None, name: str = "a.png") -> Sample:
    return Sample(name, np.zeros((4, 6, 3), np.uint8), label=label)


def scored(info: DataInfo, truth: list[int], guess: list[int], score: str = "", logits: np.ndarray | None = None):
    meter = TASK.meter(info, score)
    for i, (t, g) in enumerate(zip(truth, guess, strict=True)):
        meter.add(Prediction(label=g, scores=None if logits is None else logits[i]), sample(t, f"{i}.png"))
    return meter.result()


# --- scores ----------------------------------------------------------------------------------------------------------
def test_scores_by_hand() -> None:
    """Two of four right: cat 1 of 2 images, 1 of 1 predictions; dog 1 of 2 and 1 of 2; eel 0 of 0 and 0 of 1."""
    m = scored(ANIMALS, [0, 0, 1, 1], [0, 2, 1, 0])
    assert m.score == "accuracy"
    assert m.value == 2 / 4
    assert m.confusion == ((1, 0, 1), (1, 1, 0), (0, 0, 0))
    assert m.per_class["precision"] == {"cat": 1 / 2, "dog": 1.0, "eel": 0.0}
    assert m.per_class["recall"] == {"cat": 1 / 2, "dog": 1 / 2, "eel": None}
    assert m.per_class["f1"] == {"cat": 1 / 2, "dog": pytest.approx(2 / 3), "eel": 0.0}
    assert m.values["macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert m.values["balanced_accuracy"] == 1 / 2
    assert m.per_sample == {"0.png": 1.0, "1.png": 0.0, "2.png": 1.0, "3.png": 0.0}
    assert "top5" not in m.values
    empty = TASK.meter(ANIMALS).result()
    assert (empty.values["accuracy"], empty.interval, empty.n) == (None, None, 0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=60), st.integers(0, 2**32 - 1))
def test_scores_are_scikit_learns(pairs: list[tuple[int, int]], seed: int) -> None:
    truth, guess = (list(column) for column in zip(*pairs, strict=True))
    logits = np.random.default_rng(seed).normal(size=(len(pairs), 10)).astype(np.float32)
    logits[np.arange(len(pairs)), guess] += 9
    m = scored(DIGITS, truth, guess, logits=logits)
    labels = list(range(10))
    there = sorted(set(truth) | set(guess))
    assert m.values["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess))
    assert m.values["macro_f1"] == pytest.approx(
        sk.f1_score(truth, guess, labels=there, average="macro", zero_division=0)
    )
    recalls = sk.recall_score(truth, guess, labels=sorted(set(truth)), average=None, zero_division=0)
    assert m.values["balanced_accuracy"] == pytest.approx(recalls.mean())
    assert m.values["top5"] == pytest.approx(sk.top_k_accuracy_score(truth, logits, k=5, labels=labels))
    assert np.array_equal(m.confusion, sk.confusion_matrix(truth, guess, labels=labels))
    for name, of in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        wanted = of(truth, guess, labels=labels, average=None, zero_division=np.nan)
        ours = [m.per_class[name][c] for c in DIGITS.classes]
        assert [math.nan if v is None else v for v in ours] == pytest.approx(list(wanted), nan_ok=True)


def test_ties_go_to_the_lower_index() -> None:
    equal = np.zeros((1, 10), np.float32)
    assert read_out(equal, OutputContract("argmax"))[0] == 0
    assert scored(DIGITS, [4], [0], logits=equal).values["top5"] == 1
    assert scored(DIGITS, [5], [0], logits=equal).values["top5"] == 0


def test_the_interval_is_that_of_a_share(rng: np.random.Generator) -> None:
    """Of 400 images 0.9 right, the normal approximation is close."""
    truth = [0] * 400
    guess = [0] * 360 + [1] * 40
    m = scored(ANIMALS, truth, guess)
    wanted = 0.9 - 1.96 * math.sqrt(0.9 * 0.1 / 400)
    assert m.interval[0] == pytest.approx(wanted, abs=0.008)
    assert m.interval == scored(ANIMALS, truth, guess).interval
    f1 = scored(ANIMALS, truth, guess, "macro_f1")
    assert f1.interval[0] < f1.value < f1.interval[1]


def test_unknown_scores_and_wrong_labels() -> None:
    with pytest.raises(UsageError, match="unknown score 'acuracy'") as error:
        TASK.meter(ANIMALS, "acuracy")
    assert "accuracy" in error.value.hint
    with pytest.raises(UsageError, match="more than 5 classes"):
        TASK.meter(ANIMALS, "top5")
    with pytest.raises(DataError, match=r"a\.png: no class"):
        TASK.meter(ANIMALS).add(Prediction(label=0), sample(None))
    with pytest.raises(DataError, match=r"a\.png: class 3, but there are 3"):
        TASK.meter(ANIMALS).add(Prediction(label=0), sample(3))
    with pytest.raises(DataError, match="the network answers 7"):
        TASK.meter(ANIMALS).add(Prediction(label=7), sample(0))


@pytest.mark.parametrize("score", ["accuracy", "top5", "macro_f1", "balanced_accuracy"])
def test_the_scorer_says_what_the_meter_says(rng: np.random.Generator, score: str) -> None:
    samples = [sample(int(c), f"{i}") for i, c in enumerate(rng.integers(0, 10, 40))]
    outputs = rng.normal(size=(40, 10)).astype(np.float32)
    contract = TASK.output(10, DIGITS)
    scorer = TASK.scorer(samples, contract, DIGITS, score)
    counts = [*scorer.count(range(7), outputs[:7]), *scorer.count(range(7, 40), outputs[7:])]
    meter = TASK.meter(DIGITS, score)
    for prediction, s in zip(TASK.predict(outputs, contract, [(4, 6)] * 40), samples, strict=True):
        meter.add(prediction, s)
    assert scorer.score(counts) == meter.result().value
    assert scorer.score(counts[:9]) != scorer.score(counts)
    with pytest.raises(DataError, match="no class"):
        TASK.scorer([sample(None)], contract, DIGITS)


# --- read-out and loss -----------------------------------------------------------------------------------------------
def test_one_logit_is_a_threshold() -> None:
    two = DataInfo("two", ("no", "yes"), tasks=("classification",))
    contract = TASK.output(1, two)
    assert contract.readout == "threshold"
    outputs = np.array([[-1.0], [0.0], [2.0]], np.float32)
    assert read_out(outputs, contract).tolist() == [0, 0, 1]
    assert two_sided(outputs, contract).tolist() == [[0, -1], [0, 0], [0, 2]]
    assert read_out(np.array([[3], [1]]), OutputContract("labels")).tolist() == [3, 1]
    with pytest.raises(UsageError, match="2 output channels does not fit the 3 classes"):
        TASK.output(2, ANIMALS)
    with pytest.raises(UsageError, match="read-out"):
        read_out(outputs, OutputContract("guess"))


def test_the_loss_by_hand(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(3, 3))
    label = np.array([0, 2, 1])
    batch = Batch(np.zeros((3, 3, 4, 4), np.float32), label=label)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    own = -log_p[np.arange(3), label]
    outputs = torch.from_numpy(logits).float()
    assert float(TASK.loss(outputs, batch, ANIMALS)) == pytest.approx(own.mean(), rel=1e-5)
    assert float(TASK.loss(outputs[:, :, None, None], batch, ANIMALS)) == pytest.approx(own.mean(), rel=1e-5)
    smoothed = Classification(label_smoothing=0.1).loss(outputs, batch, ANIMALS)
    assert float(smoothed) == pytest.approx((0.9 * own - 0.1 * log_p.mean(1)).mean(), rel=1e-5)
    weighted = Classification(class_weights=(1.0, 2.0, 0.0)).loss(outputs, batch, ANIMALS)
    assert float(weighted) == pytest.approx((own[0] + 2 * own[2]) / 3, rel=1e-5)


def test_the_loss_of_one_logit_is_that_of_two() -> None:
    two = DataInfo("two", ("no", "yes"), tasks=("classification",))
    batch = Batch(np.zeros((2, 3, 4, 4), np.float32), label=np.array([0, 1]))
    one = torch.tensor([[0.7], [-0.3]])
    both = torch.cat([torch.zeros_like(one), one], dim=1)
    for task in (TASK, Classification(label_smoothing=0.2), Classification(class_weights=(1.0, 3.0))):
        assert float(task.loss(one, batch, two)) == pytest.approx(float(task.loss(both, batch, two)), rel=1e-5)


def test_what_cannot_be_trained_is_refused() -> None:
    batch = Batch(np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(UsageError, match="labels of whole images"):
        TASK.loss(torch.zeros(1, 3), batch, ANIMALS)
    labelled = Batch(np.zeros((1, 3, 4, 4), np.float32), label=np.array([0]))
    with pytest.raises(UsageError, match=r"one logit a class, and this network gives \(1, 3, 8, 8\)"):
        TASK.loss(torch.zeros(1, 3, 8, 8), labelled, ANIMALS)
    with pytest.raises(UsageError, match="2 class weights"):
        Classification(class_weights=(1.0, 1.0)).loss(torch.zeros(1, 3), labelled, ANIMALS)


def test_tiny_pictures_are_enlarged_under_their_strip() -> None:
    image = np.full((8, 8, 3), 200, np.uint8)
    drawn = TASK.draw(image, Prediction(label=1, scores=np.array([0, 2, 0], np.float32)), ANIMALS)
    assert drawn.shape[1] == 160
    assert drawn.shape[0] > 160
    assert (drawn[-160:] == 200).all()
    assert (drawn[:-160] > 150).any(), "nothing is written"
    assert np.array_equal(TASK.draw(image, Prediction(), ANIMALS), image)
